use super::*;

fn program_of(executable: &str, command: &str) -> String {
    let args: Vec<String> = command.split(' ').map(str::to_owned).collect();
    program(&Facts {
        name: "name",
        executable: Some(executable).filter(|path| !path.is_empty()),
        args: &args,
        working_directory: Some("/srv/app"),
    })
}

#[test]
fn interpreters_are_what_they_run() {
    for (executable, command, expected) in [
        ("/usr/bin/python3.8", "python3 /opt/app/run.py", "/opt/app/run.py"),
        ("/usr/bin/python3.8", "python3 run.py --port 80", "/srv/app/run.py"),
        (
            "/usr/bin/python3",
            "python3 -u -W ignore -Xdev ./../run.py x.py",
            "/srv/run.py",
        ),
        (
            "/usr/bin/python3",
            "python3 -u -m pkg.main run.py",
            "python -m pkg.main",
        ),
        ("/usr/bin/python3", "python3 -um pkg", "python -m pkg"),
        ("/usr/bin/python2.7", "python -c code /opt/x.py", "/usr/bin/python2.7"),
        ("/usr/bin/python3", "python3 -Ic code", "/usr/bin/python3"),
        ("/usr/bin/python3", "python3 -", "/usr/bin/python3"),
        ("/usr/bin/python3", "python3", "/usr/bin/python3"),
        // As the kernel starts a script with `#!/usr/bin/python3 -Es`.
        (
            "/usr/bin/python3.9",
            "/usr/bin/python3 -Es /usr/bin/cloud-init init",
            "/usr/bin/cloud-init",
        ),
        (
            "/usr/lib/venv/bin/python3",
            "/srv/venv/bin/python /srv/venv/bin/gunicorn -w 4 app",
            "/srv/venv/bin/gunicorn",
        ),
        ("/usr/bin/dash", "sh /etc/cron.hourly/tag", "/etc/cron.hourly/tag"),
        ("/usr/bin/bash", "bash -euxo pipefail backup.sh x", "/srv/app/backup.sh"),
        (
            "/usr/bin/bash",
            "/bin/bash --rcfile /etc/rc +o posix -- job",
            "/srv/app/job",
        ),
        (
            "/usr/bin/bash",
            "bash -c exec 3<>/dev/tcp/169.254.169.254/80",
            "/usr/bin/bash",
        ),
        ("/usr/bin/bash", "bash -lc x", "/usr/bin/bash"),
        ("/usr/bin/bash", "bash -s /opt/x.sh", "/usr/bin/bash"),
        ("/usr/bin/bash", "-bash", "/usr/bin/bash"),
        ("/usr/bin/bash", "bash /dev/fd/63", "/usr/bin/bash"),
        (
            "/usr/bin/node",
            "node --max-old-space-size=4096 -r dotenv/config dist/server.js",
            "/srv/app/dist/server.js",
        ),
        (
            "/usr/bin/node",
            "node --import ./telemetry.mjs /app/index.js",
            "/app/index.js",
        ),
        ("/usr/bin/node", "node -e code x", "/usr/bin/node"),
        ("/usr/bin/node", "node --eval=code x", "/usr/bin/node"),
        (
            "/usr/lib/jvm/java-17/bin/java",
            "java -Xmx1g -Da=b -jar /opt/app.jar --x",
            "/opt/app.jar",
        ),
        (
            "/usr/bin/java",
            "java -cp a.jar:b.jar -Dx=y com.example.Main arg",
            "java com.example.Main",
        ),
        (
            "/usr/bin/java",
            "java -p mods -m app/com.example.Main",
            "java -m app/com.example.Main",
        ),
        ("/usr/bin/java", "java @args Main.java", "/srv/app/Main.java"),
        ("/usr/bin/java", "java -version", "/usr/bin/java"),
        (
            "/usr/bin/ruby2.7",
            "ruby -I lib -rjson bin/app.rb",
            "/srv/app/bin/app.rb",
        ),
        ("/usr/bin/ruby", "ruby -W0 -e code x", "/usr/bin/ruby"),
        ("/usr/bin/perl", "perl -w -MJSON::PP -I lib get.pl", "/srv/app/get.pl"),
        ("/usr/bin/perl", "perl -ne code x", "/usr/bin/perl"),
        (
            "/usr/bin/php8.1",
            "php -d memory_limit=1G -f cron.php",
            "/srv/app/cron.php",
        ),
        ("/usr/bin/php", "php artisan queue:work", "/srv/app/artisan"),
        ("/usr/bin/php", "php -r code", "/usr/bin/php"),
        (
            "/usr/share/dotnet/dotnet",
            "dotnet exec --depsfile x.json /app/My.dll",
            "/app/My.dll",
        ),
        ("/usr/bin/dotnet", "dotnet run", "/usr/bin/dotnet"),
    ] {
        assert_eq!(program_of(executable, command), expected, "{executable}: {command}");
    }
}

#[test]
fn other_programs_are_their_executable() {
    for (executable, command, expected) in [
        ("/usr/bin/curl", "curl http://169.254.169.254/", "/usr/bin/curl"),
        ("/usr/bin/curl (deleted)", "curl", "/usr/bin/curl"),
        ("/usr/sbin/php-fpm8.1", "php-fpm: pool www", "/usr/sbin/php-fpm8.1"),
        ("/bin/busybox", "wget -qO- http://169.254.169.254/", "/bin/busybox wget"),
        ("/bin/busybox", "busybox wget -q", "/bin/busybox wget"),
        ("/bin/busybox", "busybox", "/bin/busybox"),
        // Arguments are the process's own to write: the executable says that this is no python.
        ("/opt/agent", "python3 /opt/app/run.py", "/opt/agent"),
        // Where it is not known, arguments are all there is to go by.
        ("", "python3 /opt/app/run.py", "/opt/app/run.py"),
        ("", "/opt/agent -x", "name"),
    ] {
        assert_eq!(program_of(executable, command), expected, "{executable}: {command}");
    }
}

#[test]
fn without_a_working_directory_a_script_is_as_it_was_written() {
    let args = ["python3", "run.py"].map(str::to_owned);
    let facts = Facts {
        name: "python3",
        executable: Some("/usr/bin/python3"),
        args: &args,
        working_directory: None,
    };
    assert_eq!(program(&facts), "run.py");
    let only_the_program = Facts {
        args: &args[..1],
        ..facts
    };
    assert_eq!(program(&only_the_program), "/usr/bin/python3");
}

#[test]
fn places_that_last_are_part_of_the_key() {
    let container = |image: Option<&str>, name: Option<&str>| Placement {
        unit: Some("containerd.service".to_owned()),
        container: Some(Container {
            id: "0123456789abcdef".repeat(4),
            runtime: Some("containerd".to_owned()),
            image: image.map(str::to_owned),
            name: name.map(str::to_owned),
        }),
        ..Placement::default()
    };
    let unit = |unit: &str| Placement {
        unit: Some(unit.to_owned()),
        ..Placement::default()
    };
    let user_unit = Placement {
        user_unit: Some("sync.service".to_owned()),
        ..unit("user@1000.service")
    };
    for (placement, expected) in [
        (container(Some("web:1.2"), Some("front")), "/app (web:1.2)"),
        (container(None, Some("front")), "/app (front)"),
        (container(None, None), "/app (containerd container)"),
        (unit("app.service"), "/app (app.service)"),
        (unit("run-report.service"), "/app (run-report.service)"),
        (unit("run-u12.service"), "/app"),
        (unit("run-r0123456789abcdef0123456789abcdef.service"), "/app"),
        (unit("run-p1234-i5678.service"), "/app"),
        (unit("session-3.scope"), "/app"),
        (user_unit, "/app (user@1000.service/sync.service)"),
        (Placement::default(), "/app"),
    ] {
        assert_eq!(key("/app", &placement), expected);
    }
}

#[test]
fn keys_are_bounded() {
    let long = "x".repeat(5000);
    let facts = Facts {
        name: "n",
        executable: Some(&long),
        args: &[],
        working_directory: None,
    };
    let program = program(&facts);
    assert_eq!(program.len(), CALLER_MAX);
    let placement = Placement {
        unit: Some("a.service".to_owned()),
        ..Placement::default()
    };
    assert_eq!(key(&program, &placement).len(), CALLER_MAX);
}
