use super::*;

fn program_of(executable: &str, command: &str) -> String {
    let args: Vec<String> = command.split(' ').map(str::to_owned).collect();
    let facts = Facts {
        name: "name",
        executable: Some(executable).filter(|path| !path.is_empty()),
        args: &args,
        working_directory: Some("/srv/app"),
    };
    program(&facts, &[]).text
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
        // The command line that the kernel makes for a script with `#!/usr/bin/python3 -Es`.
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
        ("/bin/busybox", "sh -c x", "/bin/busybox sh"),
        ("/bin/busybox", "-sh", "/bin/busybox sh"),
        (
            "/bin/busybox",
            "/bin/sh /etc/periodic/hourly/tag",
            "/etc/periodic/hourly/tag",
        ),
        ("/bin/busybox", "busybox ash ./tag.sh x", "/srv/app/tag.sh"),
        // A process can write its own arguments; the executable shows that this is not Python.
        ("/opt/agent", "python3 /opt/app/run.py", "/opt/agent"),
        // Without a known executable only the process's own claim is left, in brackets.
        ("", "python3 /opt/app/run.py", "[/opt/app/run.py]"),
        ("", "/opt/agent -x", "[name]"),
        ("", "sh /usr/bin/curl", "[/usr/bin/curl]"),
        ("", "python3 -m pkg", "[python -m pkg]"),
        ("", "busybox wget", "[name]"),
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
    assert_eq!(program(&facts, &[]).text, "run.py");
    let only_the_program = Facts {
        args: &args[..1],
        ..facts
    };
    assert_eq!(program(&only_the_program, &[]).text, "/usr/bin/python3");
}

#[test]
fn places_that_last_are_part_of_the_key() {
    let container = |image: Option<&str>, name: Option<&str>| Placement {
        unit: Some("containerd.service".to_owned()),
        container: Some(Container {
            id: "0123456789abcdef".repeat(4),
            runtime: Some(Runtime::Containerd),
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
        (
            unit("sshd@7-10.0.0.5:22-10.0.0.9:51234.service"),
            "/app (sshd@*.service)",
        ),
        (unit("app@blue.service"), "/app (app@blue.service)"),
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
    let program = program(&facts, &[]).text;
    assert_eq!(program.len(), CALLER_MAX);
    let placement = Placement {
        unit: Some("a.service".to_owned()),
        ..Placement::default()
    };
    assert_eq!(key(&program, &placement).len(), CALLER_MAX);
}

#[test]
fn random_parts_of_programs_are_folded() {
    for (executable, command, expected) in [
        (
            "/snap/amazon-ssm-agent/7993/amazon-ssm-agent",
            "x",
            "/snap/amazon-ssm-agent/*/amazon-ssm-agent",
        ),
        ("/tmp/tmpab12cd34/x (deleted)", "x", "/tmp/tmp*/x"),
        (
            "/usr/bin/python3.8",
            "python3 /tmp/tmpab12cd34/run.py",
            "/tmp/tmp*/run.py",
        ),
        (
            "/usr/bin/python3.8",
            "python3 /root/.ansible/tmp/ansible-tmp-1732.5-17-18/AnsiballZ_x.py",
            "/root/.ansible/tmp/ansible-tmp-*/AnsiballZ_x.py",
        ),
        (
            "/usr/bin/java",
            "java -jar /opt/app/releases/20261125010101/app.jar",
            "/opt/app/releases/*/app.jar",
        ),
        ("/tmp/_MEIab12cd/busybox", "wget x", "/tmp/_MEI*/busybox wget"),
        ("", "sh /tmp/tmp.Zk3xQ9aBcD/x.sh", "[/tmp/tmp.*/x.sh]"),
        ("/memfd:a1b2c3d4e5f60718 (deleted)", "x", "/memfd:*"),
        ("/usr/bin/python3.11", "python3", "/usr/bin/python3.11"),
    ] {
        assert_eq!(program_of(executable, command), expected, "{executable}: {command}");
    }
}

/// `name|executable|arguments`, each absent if empty.
fn ancestor(text: &str) -> Ancestor {
    let mut parts = text.split('|');
    let mut part = || parts.next().unwrap_or_default().to_owned();
    let (name, executable, args) = (part(), part(), part());
    Ancestor {
        pid: 100,
        name,
        executable: Some(executable).filter(|path| !path.is_empty()),
        args: args
            .split(' ')
            .filter(|arg| !arg.is_empty())
            .map(str::to_owned)
            .collect(),
        user_id: Some(0),
    }
}

/// The program of `tool` (`executable|arguments`) with these ancestors, the parent first; adds pid 1.
fn run(tool: &str, ancestors: &[&str]) -> String {
    let (executable, args) = tool.split_once('|').unwrap_or((tool, ""));
    let args: Vec<String> = args.split(' ').map(str::to_owned).collect();
    let facts = Facts {
        name: base_name(executable),
        executable: Some(executable).filter(|path| path.starts_with('/')),
        args: &args,
        working_directory: None,
    };
    let mut ancestors: Vec<Ancestor> = ancestors.iter().map(|text| ancestor(text)).collect();
    ancestors.push(Ancestor {
        pid: 1,
        ..ancestor("systemd|/usr/lib/systemd/systemd|/sbin/init")
    });
    let program = program(&facts, &ancestors);
    let prefix = program.run_by.as_ref().map(|run_by| format!("{run_by} > "));
    assert!(
        program.text.starts_with(prefix.as_deref().unwrap_or_default()),
        "{program:?}"
    );
    program.text
}

const CURL: &str = "/usr/bin/curl|curl -s http://169.254.169.254/";
const SSHD: &str = "sshd|/usr/sbin/sshd|sshd: alice@pts/0";
const BASH: &str = "bash|/usr/bin/bash|-bash";

#[test]
fn a_tool_is_what_runs_it() {
    let script = "backup.sh|/usr/bin/dash|/bin/sh /opt/backup.sh";
    for (tool, ancestors, expected) in [
        (CURL, [script].as_slice(), "/opt/backup.sh > /usr/bin/curl"),
        (
            CURL,
            &["deploy.sh|/usr/bin/bash|/bin/bash -e /opt/deploy.sh prod"],
            "/opt/deploy.sh > /usr/bin/curl",
        ),
        // Run by a script of any interpreter, or by a program in its own right.
        (
            CURL,
            &["python3|/usr/bin/python3.8|python3 /opt/tag.py"],
            "/opt/tag.py > /usr/bin/curl",
        ),
        (
            CURL,
            &["sh|/usr/bin/dash|sh -c curl x", "ruby|/usr/bin/ruby|ruby /opt/tag.rb"],
            "/opt/tag.rb > /usr/bin/curl",
        ),
        (
            CURL,
            &["sh|/usr/bin/dash|sh -c curl x", "agent|/opt/agent/agentd|agentd"],
            "/opt/agent/agentd > /usr/bin/curl",
        ),
        (
            CURL,
            &["make|/usr/bin/make|make all", script],
            "/usr/bin/make > /usr/bin/curl",
        ),
        (
            CURL,
            &["java|/usr/bin/java|java com.example.Main"],
            "java com.example.Main > /usr/bin/curl",
        ),
        (
            CURL,
            &["agentd|/opt/agent/releases/20261125010101/agentd|x"],
            "/opt/agent/releases/*/agentd > /usr/bin/curl",
        ),
        // Other tools, and interpreters with text or a heredoc.
        ("/usr/bin/wget|wget x", &[script], "/opt/backup.sh > /usr/bin/wget"),
        (
            "/usr/local/aws-cli/v2/2.15.30/dist/aws|aws s3 ls",
            &[script],
            "/opt/backup.sh > /usr/local/aws-cli/v2/2.15.30/dist/aws",
        ),
        (
            "/usr/bin/python3.8|python3 /usr/bin/aws s3 ls",
            &[script],
            "/opt/backup.sh > /usr/bin/aws",
        ),
        (
            "/usr/bin/python3.8|python3 -m awscli s3 ls",
            &[script],
            "/opt/backup.sh > python -m awscli",
        ),
        (
            "/usr/bin/python3.8|python3 -c code",
            &[script],
            "/opt/backup.sh > /usr/bin/python3.8",
        ),
        (
            "/usr/bin/python3.8|python3 -",
            &[script],
            "/opt/backup.sh > /usr/bin/python3.8",
        ),
        (
            "/usr/bin/bash|bash -c exec 3<>/dev/tcp/x",
            &[script],
            "/opt/backup.sh > /usr/bin/bash",
        ),
        (
            "/usr/bin/perl|perl -e code",
            &[script],
            "/opt/backup.sh > /usr/bin/perl",
        ),
        (
            "/bin/busybox|wget x",
            &["x|/bin/busybox|/bin/sh /opt/backup.sh"],
            "/opt/backup.sh > /bin/busybox wget",
        ),
        (
            "/bin/busybox|nc x",
            &["sh|/bin/busybox|sh -c x", "x|/bin/busybox|ash /opt/backup.sh"],
            "/opt/backup.sh > /bin/busybox nc",
        ),
        (
            "/usr/bin/nc.openbsd|nc x",
            &[script],
            "/opt/backup.sh > /usr/bin/nc.openbsd",
        ),
        ("/usr/bin/socat|socat x", &[script], "/opt/backup.sh > /usr/bin/socat"),
        (
            CURL,
            &["bash|/usr/bin/bash|bash", script],
            "/opt/backup.sh > /usr/bin/curl",
        ),
        // Wrappers in between.
        (
            CURL,
            &["timeout|/usr/bin/timeout|timeout 5 curl x", script],
            "/opt/backup.sh > /usr/bin/curl",
        ),
        (
            CURL,
            &[
                "xargs|/usr/bin/xargs|xargs curl",
                "sudo|/usr/bin/sudo|sudo xargs curl",
                "nohup|/usr/bin/nohup|x",
                script,
            ],
            "/opt/backup.sh > /usr/bin/curl",
        ),
        (
            CURL,
            &[
                "timeout|/bin/busybox|timeout 5 curl x",
                "env|/usr/bin/env|env A=b x",
                "sh|/usr/bin/dash|sh -c x",
                script,
            ],
            "/opt/backup.sh > /usr/bin/curl",
        ),
        (
            CURL,
            &["passt.avx2|/usr/bin/passt.avx2|pasta -- curl x", script],
            "/opt/backup.sh > /usr/bin/curl",
        ),
        // A script that is itself a tool is nearer than its caller.
        (
            CURL,
            &["ec2-metadata|/usr/bin/bash|/bin/bash /usr/bin/ec2-metadata -i", script],
            "/usr/bin/ec2-metadata > /usr/bin/curl",
        ),
        // Under schedules, units and logins: the script, if there is one.
        (
            CURL,
            &[
                script,
                "sh|/usr/bin/dash|/bin/sh -c /opt/backup.sh",
                "cron|/usr/sbin/cron|cron -f",
            ],
            "/opt/backup.sh > /usr/bin/curl",
        ),
        (CURL, &[script, BASH, SSHD, SSHD], "/opt/backup.sh > /usr/bin/curl"),
        // The nearest program is the one to fix.
        (
            CURL,
            &[script, "python3|/usr/bin/python3|python3 /usr/bin/supervisord -n"],
            "/opt/backup.sh > /usr/bin/curl",
        ),
        // The script's process was not described: only its name is known.
        (CURL, &["backup.sh"], "[backup.sh] > /usr/bin/curl"),
        (CURL, &["backup.sh|/usr/bin/dash|"], "[backup.sh] > /usr/bin/curl"),
        (CURL, &["a] > /bin/x"], "[a_ _ /bin/x] > /usr/bin/curl"),
        ("curl|curl x", &[script], "/opt/backup.sh > [curl]"),
        // The shell's working directory is unknown; only the path in the call is known.
        (
            CURL,
            &["sh|/usr/bin/dash|sh ./jobs/backup.sh"],
            "jobs/backup.sh > /usr/bin/curl",
        ),
        (
            CURL,
            &["x|/usr/bin/dash|/bin/sh /tmp/tmp.Zk3xQ9aBcD/backup.sh"],
            "/tmp/tmp.*/backup.sh > /usr/bin/curl",
        ),
    ] {
        assert_eq!(run(tool, ancestors), expected, "{tool}: {ancestors:?}");
    }
}

#[test]
fn a_tool_stands_alone_where_no_script_runs_it() {
    for ancestors in [
        // A person at a terminal, or with text for a shell.
        [BASH, SSHD, SSHD].as_slice(),
        &["bash|/usr/bin/bash|bash --norc", "tmux: server|/usr/bin/tmux|tmux"],
        &["sudo|/usr/bin/sudo|sudo curl x", BASH, "login|/usr/bin/login|login"],
        &[
            "bash|/usr/bin/bash|bash",
            "su|/usr/bin/su|su",
            "sudo|/usr/bin/sudo|sudo su",
            BASH,
            SSHD,
        ],
        &["bash|/usr/bin/bash|bash -c curl x", SSHD],
        &[
            "bash|/usr/bin/bash|bash -l",
            "node|/usr/bin/node|node /home/a/.vscode-server/server-main.js",
        ],
        &["zsh|/usr/bin/zsh|-zsh", "teleport|/usr/local/bin/teleport|teleport"],
        &[
            "sh|/usr/bin/dash|sh",
            "ssm-session-wor|/usr/bin/ssm-session-worker|x",
            "ssm-agent-worke|/usr/bin/ssm-agent-worker|x",
        ],
        // A schedule, a unit, a container.
        &["sh|/usr/bin/dash|/bin/sh -c curl x", "cron|/usr/sbin/cron|cron -f"],
        &["sh|/usr/bin/dash|/bin/sh -c curl x", "crond|/usr/sbin/crond|crond -n"],
        &[],
        &["bash|/usr/bin/bash|bash -c curl x"],
        &["containerd-shim|/usr/bin/containerd-shim-runc-v2|x"],
        &[
            "tini|/sbin/tini|tini -- sh -c x",
            "containerd-shim|/usr/bin/containerd-shim-runc-v2|x",
        ],
        &["systemd|/usr/lib/systemd/systemd|/lib/systemd/systemd --user"],
        // A shell of which only the name is known.
        &["sh"],
        &["sh|/usr/bin/dash|", "backup.sh|/usr/bin/dash|/bin/sh /opt/backup.sh"],
    ] {
        assert_eq!(run(CURL, ancestors), "/usr/bin/curl", "{ancestors:?}");
    }
    // A program in its own right needs no caller.
    let script = "backup.sh|/usr/bin/dash|/bin/sh /opt/backup.sh";
    for (program, expected) in [
        ("/usr/bin/terraform|terraform plan", "/usr/bin/terraform"),
        ("/usr/bin/python3.8|python3 /opt/tag.py", "/opt/tag.py"),
        ("/usr/bin/java|java com.example.Main", "java com.example.Main"),
        ("/opt/curl-agent|x", "/opt/curl-agent"),
    ] {
        assert_eq!(run(program, &[script]), expected);
    }
}

#[test]
fn names_never_look_like_executables() {
    for name in [
        "/usr/bin/curl",
        "curl",
        "x] > /bin/curl",
        "[curl]",
        "/a (b.service)",
        "",
        "\u{1b}[2J",
    ] {
        let facts = Facts {
            name,
            executable: None,
            args: &[],
            working_directory: None,
        };
        let program = program(&facts, &[]);
        assert!(
            program.text.starts_with('[') && program.text.ends_with(']'),
            "{program:?}"
        );
        assert!(
            !program.text.contains('>') && program.text.matches(['[', ']', '(']).count() == 2,
            "{program:?}"
        );
    }
}

#[test]
fn who_runs_a_tool_leaves_room_for_it() {
    let long = format!("x|/usr/bin/dash|/bin/sh /opt/{}.sh", "ä".repeat(300));
    let text = run(CURL, &[&long]);
    assert!(
        text.ends_with("… > /usr/bin/curl") && text.len() <= CALLER_MAX,
        "{text}"
    );
    let wrappers = vec!["timeout|/usr/bin/timeout|timeout 5 x"; 500];
    assert_eq!(run(CURL, &wrappers), "/usr/bin/curl");
}
