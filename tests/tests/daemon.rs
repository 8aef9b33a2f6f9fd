//! The daemon as a service: how it starts, reloads, ends, what rights it keeps, and what it costs.
//!
//! guests: full

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by it; figures and reasons are for whoever reads the log"
)]

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::{
        fs::{PermissionsExt as _, chown, symlink},
        net::UnixDatagram,
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{
    IMDS_V4, PYTHON, Service, StopAtEnd, at_load, cgroup2, connect, curl, free_port, get, imds_analyzer,
    lab_with_imds as lab, of_path, programs_in_the_kernel, quiet_wake_ups, run_to_end, sample, send, tap,
    thread_statuses, until,
};

#[test]
fn a_call_is_in_the_log_with_all_that_is_said_about_it() {
    let (lab, _server) = lab();
    let mut service = Service::start("");
    let path = "/latest/meta-data/iam/security-credentials/daemon-test";
    let pid = curl(&lab, path);
    service.wait_for("the call", |records| of_path(records, path) == 1);
    service.stop();
    let records = service.records();
    let actions: Vec<_> = records
        .iter()
        .map(|record| record["event"]["action"].as_str().expect("an action"))
        .collect();
    assert_eq!(actions[0], "imds-analyzer-start", "{actions:?}");
    assert_eq!(actions.last(), Some(&"imds-analyzer-summary"), "{actions:?}");
    let request = records
        .iter()
        .find(|record| record["url"]["path"] == path)
        .expect("seen");
    // The record that announces a caller comes before the call.
    assert_eq!(request["event"]["action"], "imds-analyzer-first-seen", "{request:#}");
    assert_eq!(request["imds"]["first"], serde_json::json!(["v1", "credential"]));
    assert_eq!(request["process"]["pid"], pid);
    // The daemon can still read /proc without most of its rights.
    assert!(
        request["process"]["executable"]
            .as_str()
            .is_some_and(|path| path.ends_with("/curl")),
        "{request:#}"
    );
}

#[test]
fn reloading_misses_nothing() {
    const CALLS: usize = 3000;
    let (lab, _server) = lab();
    let dir = tempfile::tempdir().expect("a directory");
    let told = UnixDatagram::bind(dir.path().join("notify")).expect("a socket");
    told.set_nonblocking(true).expect("a socket");
    let limits = "[limits]\ncaller = 100000\nplace = 100000\nuser = 100000\nuser_daily = 1000000\n";
    let mut service = Service::start_with(limits, |command| {
        command.env("NOTIFY_SOCKET", dir.path().join("notify"));
    });
    let path = "/latest/meta-data/reload-test";
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&lab, path, CALLS));
        let (mut round, mut reloads) = (0, 0);
        until("there were reloads and all calls", || {
            service.configure(&format!("[log]\nmax_size = \"{}KiB\"\n{limits}", 64 + round % 3));
            service.signal(libc::SIGHUP);
            round += 1;
            std::thread::sleep(Duration::from_millis(10));
            let mut message = [0; 4096];
            while let Ok(length) = told.recv(&mut message) {
                reloads += usize::from(message[..length].starts_with(b"RELOADING=1"));
            }
            sender.is_finished() && reloads > 4
        });
    });
    let ended = service.stop();
    assert_eq!(of_path(&service.records(), path), CALLS, "{}", ended.stderr);
}

#[test]
fn a_wrong_configuration_changes_nothing() {
    let (lab, _server) = lab();
    let port = free_port();
    let config = format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
    let mut service = Service::start(&config);
    let good = || {
        sample(
            &service.scrape(port),
            "imds_analyzer_config_last_reload_successful",
            &[],
        )
    };
    assert_eq!(good(), 1);
    service.configure("[metrics]\nlistenn = \"127.0.0.1:1\"\n");
    service.signal(libc::SIGHUP);
    until("the reload is refused", || good() == 0);
    let path = "/latest/meta-data/after-a-wrong-configuration";
    curl(&lab, path);
    service.wait_for("the call", |records| of_path(records, path) == 1);
    service.configure(&config);
    service.signal(libc::SIGHUP);
    until("the reload is good", || good() == 1);
    let said = service.stop().stderr;
    assert!(said.contains("did you mean `listen`?"), "{said}");
}

#[test]
fn a_reload_says_what_takes_a_restart() {
    let (mut service, port) = (Service::start(""), free_port());
    service.configure(&format!(
        "name_service = true\n[log]\n[limits]\nkernel_rate = 1000\n[metrics]\nlisten = \"127.0.0.1:{port}\"\n"
    ));
    service.signal(libc::SIGHUP);
    until("it is reloaded", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    // A directory that others can write: the configuration stays what it was.
    let open = service.dir.path().join("open");
    fs::create_dir(&open).expect("made");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("ours");
    let config = service.dir.path().join("config.toml");
    let text = fs::read_to_string(&config).expect("read");
    fs::write(&config, text.replace("/log/events.jsonl", "/open/events.jsonl")).expect("written");
    service.signal(libc::SIGHUP);
    until("it is refused", || {
        sample(
            &service.scrape(port),
            "imds_analyzer_config_last_reload_successful",
            &[],
        ) == 0
    });
    assert!(!open.join("events.jsonl").exists());
    let said = service.stop().stderr;
    assert!(
        said.contains("restart the service to apply: name_service, limits.kernel_rate"),
        "{said}"
    );
    assert!(said.contains("log.path: ") && said.contains("everyone"), "{said}");
}

#[test]
fn a_second_one_explains_itself() {
    let service = Service::start("");
    let second = service.second();
    assert_eq!(second.code, Some(1), "{second:#?}");
    assert!(
        second.stderr.contains(&format!("process {}", service.pid())),
        "{second:#?}"
    );
    assert!(second.stderr.contains("watch"), "{second:#?}");
}

#[test]
fn systemd_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("time-out");
    let wait_for = |wanted: &str| {
        let mut message = [0; 4096];
        loop {
            let length = socket
                .recv(&mut message)
                .unwrap_or_else(|error| panic!("{wanted}: {error}"));
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            if text.contains(wanted) {
                return text;
            }
        }
    };
    let mut service = Service::start_with("", |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "500000");
    });
    let ready = wait_for("READY=1");
    assert!(ready.contains(&format!("STATUS={} tap attached", tap())), "{ready}");
    wait_for("WATCHDOG=1");
    service.signal(libc::SIGHUP);
    let reloading = wait_for("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    wait_for("READY=1");
    service.stop();
    wait_for("STOPPING=1");
}

fn capability_exists(number: u32) -> bool {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("/proc");
    last.trim().parse::<u32>().expect("a number") >= number
}

/// With everything switched on, and every helper at work.
#[test]
fn rights_are_dropped() {
    let (lab, _server) = lab();
    let port = free_port();
    let config = format!(
        "name_service = true\n[log]\nmax_size = \"64KiB\"\nmax_total = \"1GiB\"\ncompress = true\n\
         [journald]\nenabled = true\nsocket = \"{{dir}}/journal\"\n[stdout]\nformat = \"json\"\n\
         [metrics]\nlisten = \"127.0.0.1:{port}\"\ntextfile = \"{{dir}}/imds.prom\"\ntextfile_interval = \"1s\"\n\
         [limits]\ncaller = 100000\nplace = 100000\nuser = 100000\nuser_daily = 1000000\n"
    );
    let mut journal = None;
    let service = Service::start_with(&config, |command| {
        let config = Path::new(command.get_args().last().expect("a path"));
        journal = Some(UnixDatagram::bind(config.with_file_name("journal")).expect("a socket"));
    });
    let pid = service.pid();
    // A user that is in no file, in something that looks like a container, so that the daemon looks up names.
    let in_container = call_from_a_container_of_nobody(&lab);
    let mut seen = BTreeSet::new();
    let mut looks = 0;
    let wanted = [
        "log",
        "journald",
        "stdout",
        "log-tidy",
        "name-service",
        "names-docker",
        "tokio-r",
    ];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&done);
        // The log is set aside again and again, which starts the thread that compresses it; the textfile has a timer.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                send(&lab, "/latest/meta-data/rights", 200);
            }
        });
        let started = Instant::now();
        let missing = loop {
            service.scrape(port);
            for _ in 0..50 {
                for (tid, status) in thread_statuses(pid) {
                    check_rights(tid, &status);
                    seen.insert(status.name);
                }
                looks += 1;
            }
            let missing: Vec<_> = wanted
                .iter()
                .filter(|name| in_container || **name != "names-docker")
                .filter(|name| !seen.iter().any(|it| it.starts_with(**name)))
                .collect();
            if missing.is_empty() || started.elapsed() > Duration::from_secs(60) {
                break missing;
            }
        };
        assert!(missing.is_empty(), "not seen: {missing:?}, but {seen:?}");
    });
    println!("{looks} looks at {seen:?}");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("a process");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .expect("a limit");
    assert!(
        core.split_whitespace().filter(|word| *word == "0").count() == 2,
        "{core}"
    );
    // The process is not dumpable: its files under /proc belong to root, whatever its user is, and reading them needs
    // CAP_SYS_PTRACE.
    let as_nobody = |file: &str| {
        run_to_end(
            Command::new("setpriv")
                .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"])
                .arg(file),
        )
    };
    assert_ne!(as_nobody(&format!("/proc/{pid}/environ")).code, Some(0));
    for file in fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").flatten() {
        println!("{}", fs::read_link(file.path()).unwrap_or_default().display());
    }
}

fn check_rights(tid: i32, status: &procfs::process::Status) {
    // CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE, and the capability that old kernels require to read counters: CAP_BPF, or
    // CAP_SYS_ADMIN before CAP_BPF existed (5.8).
    let bpf = if capability_exists(39) { 39 } else { 21 };
    let allowed = 1 << 2 | 1 << 19 | 1 << bpf;
    let bounding = status.capbnd.expect("a mask");
    let held = status.capprm | status.capeff | bounding;
    let name = &status.name;
    assert_eq!(held & !allowed, 0, "{held:#x}, thread {tid} ({name})");
    assert_eq!(status.capinh | status.capamb.expect("a mask"), 0, "{name}");
    assert_eq!(status.nonewprivs, Some(1), "{name}");
    assert_eq!(status.seccomp, Some(2), "{name}");
}

/// Makes a call as a user without a name, in a cgroup with a name like those of Docker's containers. True if this host
/// has such cgroups.
fn call_from_a_container_of_nobody(lab: &Lab) -> bool {
    const ID: &str = "a1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4a1b2c3d4";
    let root = cgroup2();
    let enter = root.map_or_else(String::new, |root| {
        format!("mkdir -p {root}/docker/{ID} && echo $$ >{root}/docker/{ID}/cgroup.procs && ")
    });
    let script = format!(
        "{enter} exec setpriv --reuid=3999999999 --regid=65534 --clear-groups curl -sm10 -o /dev/null \
         http://169.254.169.254/latest/meta-data/rights"
    );
    let output = run_to_end(lab.client.command("sh").args(["-c", &script]));
    assert_eq!(output.code, Some(0), "{output:#?}");
    if let Some(root) = root {
        until("the cgroup is empty", || {
            fs::remove_dir(format!("{root}/docker/{ID}")).is_ok()
        });
        // This fails if others have cgroups in it.
        let _ = fs::remove_dir(format!("{root}/docker"));
    }
    root.is_some()
}

#[test]
fn the_configuration_can_be_printed_and_checked() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("config.toml");
    let print = imds_analyzer(&["config", "print"]);
    assert_eq!(print.code, Some(0));
    fs::write(&config, print.stdout).expect("written");
    let check = |path: &Path| imds_analyzer(&["config", "check", path.to_str().expect("UTF-8")]);
    assert_eq!(check(&config).code, Some(0));
    fs::write(&config, "[log]\nmaxsize = \"1MiB\"").expect("written");
    let wrong = check(&config);
    assert_eq!(wrong.code, Some(1), "{wrong:#?}");
    assert!(
        wrong.stderr.contains("line 2") && wrong.stderr.contains("did you mean `max_size`?"),
        "{wrong:#?}"
    );
    let daemon = imds_analyzer(&["daemon", "--config", config.to_str().expect("UTF-8")]);
    assert_eq!(daemon.code, Some(2), "{daemon:#?}");
    assert_ne!(imds_analyzer(&["config", "check", "/nowhere.toml"]).code, Some(0));
}

/// kill -9 in the middle of a burst: no line is torn, and nothing is left in the kernel.
#[test]
fn killed_in_the_middle_of_a_burst() {
    let programs = || programs_in_the_kernel("imds_").len();
    let (lab, _server) = lab();
    let before = programs();
    let rounds = at_load(50, 5);
    // One file, so that each start record is of a start.
    let limits = "[log]\nmax_size = \"256MiB\"\nmax_total = \"1GiB\"\n[limits]\ncaller = 100000\nplace = 100000\nuser = 100000\nuser_daily = 1000000\n";
    let mut service = Service::start(limits);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                send(&lab, "/latest/meta-data/killed", 50);
            }
        });
        for round in 0..rounds as u64 {
            let size = || fs::metadata(service.log()).map_or(0, |data| data.len());
            let begin = size();
            until("a burst is on its way", || size() > begin + 2000 * (1 + round % 7));
            service.kill();
            service.run(|_| {});
        }
    });
    service.stop();
    // Every line is whole; `records` parses them all.
    let text = service.text();
    assert!(text.ends_with('\n'));
    let records = service.records();
    let starts = records
        .iter()
        .filter(|record| record["event"]["action"] == "imds-analyzer-start")
        .count();
    assert_eq!(starts, rounds + 1);
    let torn: u64 = service
        .of_kind("imds-analyzer-summary")
        .iter()
        .filter_map(|record| record["imds"]["loss"]["log_torn_lines"].as_u64())
        .sum();
    println!("{} lines, {torn} torn before the last start", records.len());
    until("the kernel lets go", || programs() <= before);
}

#[test]
fn nobody_can_drown_another_users_call() {
    let (lab, _server) = lab();
    let mut service = Service::start("");
    let flood = r#"
import socket, sys, time
head = b"GET /latest/meta-data/flood HTTP/1.1\r\nHost: imds\r\n\r\n"
end = time.time() + 3
count = 0
while time.time() < end:
    s = socket.create_connection(("169.254.169.254", 80), timeout=10)
    for _ in range(20):
        s.sendall(head * 50)
        count += 50
        got = 0
        while got < 50:
            data = s.recv(65536)
            assert data
            got += data.count(b"HTTP/1.1 ")
    s.close()
print(count)
"#;
    let mut flooder = lab
        .client
        .command("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", PYTHON, "-c", flood])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a flood");
    until("the flood has begun", || {
        of_path(&service.records(), "/latest/meta-data/flood") > 0
    });
    let path = "/latest/meta-data/quiet";
    curl(&lab, path);
    service.wait_for("the one call", |records| of_path(records, path) == 1);
    let mut sent = String::new();
    std::io::Read::read_to_string(&mut flooder.stdout.take().expect("piped"), &mut sent).expect("a count");
    assert!(flooder.wait().expect("our own child").success());
    let sent: u64 = sent.trim().parse().expect("a count");
    service.stop();
    let records = service.records();
    let written = of_path(&records, "/latest/meta-data/flood") as u64;
    let folded: u64 = records
        .iter()
        .filter(|record| record["event"]["action"] == "imds-analyzer-rate-limited")
        .map(|record| record["imds"]["calls"]["v1"].as_u64().expect("a count"))
        .sum();
    let summary = records.last().expect("a summary");
    let over: u64 = ["budget_v1", "request_ring_full"]
        .iter()
        .filter_map(|kind| summary["imds"]["loss"][kind].as_u64())
        .sum();
    println!("sent {sent} in 3 s: {written} written, {folded} folded, {over} counted by the kernel side only");
    assert_eq!(written + folded + over, sent, "{summary:#}");
    assert!(written < 100);
}

/// Requests come without end, faster than the daemon can handle them.
#[test]
fn it_ends_in_a_flood() {
    let (lab, _server) = lab();
    let mut service = Service::start("[log]\n[limits]\nkernel_rate = 0\n");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for _ in 0..4 {
            scope.spawn(|| {
                // Pipelined: the clients are not slowed down by the server.
                let heads = get("/latest/meta-data/endless").repeat(50);
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = connect(&lab.client, IMDS_V4);
                    let _ = stream.write_all(heads.as_bytes());
                }
            });
        }
        service.wait_for("the flood", |records| of_path(records, "/latest/meta-data/endless") > 0);
        let ended = service.stop();
        println!("{}", ended.stderr);
    });
    let records = service.records();
    let last = records.last().expect("a summary");
    assert_eq!(last["event"]["action"], "imds-analyzer-summary", "{last:#}");
}

/// Everything that could have a timer is switched on.
#[test]
fn asleep_when_there_is_nothing_to_do() {
    let config = "name_service = true\n[log]\ncompress = true\n[stdout]\nformat = \"json\"\n\
                  [journald]\nenabled = true\nsocket = \"{dir}/journal\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n\
                  textfile = \"{dir}/imds.prom\"\ntextfile_interval = \"1h\"\n";
    let mut journal = None;
    let service = Service::start_with(config, |command| {
        let config = Path::new(command.get_args().last().expect("a path"));
        let socket = config.with_file_name("journal");
        journal = Some(UnixDatagram::bind(socket).expect("a socket"));
    });
    let quiet = quiet_wake_ups(service.pid(), || service.text().len());
    assert!(quiet <= 1, "{quiet} wake-ups in 3 s for nothing");
}

/// The service and the check of its configuration report the same.
#[test]
fn directories_that_others_can_write_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let top = dir.path();
    fs::set_permissions(top, fs::Permissions::from_mode(0o755)).expect("ours");
    for (name, mode, owner) in [
        ("theirs", 0o755, 65534),
        ("open", 0o777, 0),
        ("sticky", 0o1777, 0),
        ("group", 0o775, 0),
    ] {
        let path = top.join(name);
        fs::create_dir(&path).expect("made");
        chown(&path, Some(owner), Some(65534)).expect("root");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
    }
    symlink(top.join("theirs"), top.join("link")).expect("linked");
    let config = top.join("config.toml");
    let top = top.display();
    for (text, key, said) in [
        (
            format!("[log]\npath = \"{top}/theirs/e.jsonl\""),
            "log.path",
            "user 65534",
        ),
        (
            format!("[log]\npath = \"{top}/theirs/a/b/e.jsonl\""),
            "log.path",
            "user 65534",
        ),
        (
            format!("[log]\npath = \"{top}/link/e.jsonl\""),
            "log.path",
            "user 65534",
        ),
        (format!("[log]\npath = \"{top}/open/e.jsonl\""), "log.path", "everyone"),
        (
            format!("[log]\npath = \"{top}/open/a/e.jsonl\""),
            "log.path",
            "everyone",
        ),
        (
            format!("[log]\npath = \"{top}/sticky/e.jsonl\""),
            "log.path",
            "everyone",
        ),
        (
            format!("[log]\npath = \"{top}/group/e.jsonl\""),
            "log.path",
            "group 65534",
        ),
        (format!("runtime_dir = \"{top}/theirs\""), "runtime_dir", "user 65534"),
        (format!("runtime_dir = \"{top}/sticky\""), "runtime_dir", "everyone"),
        (
            "[log]\npath = \"/tmp/\"".to_owned(),
            "log.path",
            "a file, not a directory",
        ),
        ("[log]\npath = \"/var/log/a\\u0000b\"".to_owned(), "log.path", "NUL"),
    ] {
        let run_dir = if text.starts_with("runtime_dir") {
            String::new()
        } else {
            format!("runtime_dir = \"{top}/run\"\n")
        };
        fs::write(&config, format!("{run_dir}{text}\n")).expect("written");
        let config = config.to_str().expect("UTF-8");
        let check = imds_analyzer(&["config", "check", config]);
        assert_eq!(check.code, Some(1), "{text}: {check:#?}");
        let daemon = imds_analyzer(&["daemon", "--config", config]);
        assert_eq!(daemon.code, Some(2), "{text}: {daemon:#?}");
        for output in [check, daemon] {
            assert!(
                output.stderr.contains(key) && output.stderr.contains(said),
                "{text}: {output:#?}"
            );
        }
    }
}

/// The log directory gets another owner while the service runs: the service writes nothing there, and loses nothing.
#[test]
fn a_log_directory_that_is_given_away() {
    let (lab, _server) = lab();
    let mut service = Service::start("");
    let directory = service.log().parent().expect("a directory").to_owned();
    curl(&lab, "/latest/before");
    service.wait_for("the first", |records| of_path(records, "/latest/before") == 1);
    let log = service.log();
    let size = || fs::metadata(&log).map_or(0, |found| found.len());
    chown(&directory, Some(65534), None).expect("root");
    // The new owner makes the log another name of a file that belongs to root.
    let victim = service.dir.path().join("victim");
    fs::write(&victim, "precious").expect("written");
    fs::rename(service.log(), directory.join("kept")).expect("renamed");
    fs::hard_link(&victim, service.log()).expect("linked");
    curl(&lab, "/latest/meanwhile");
    service.wait_for_said("belongs to user 65534");
    assert_eq!(fs::read_to_string(&victim).expect("there"), "precious");
    assert_eq!(size(), 8);
    chown(&directory, Some(0), None).expect("root");
    until("the call is written", || {
        fs::read_to_string(service.log()).is_ok_and(|text| text.contains("/latest/meanwhile"))
    });
    assert_eq!(fs::read_to_string(&victim).expect("there"), "precious");
    let said = service.stop().stderr;
    assert!(
        said.contains("cannot write to log") && said.contains("belongs to user 65534"),
        "{said}"
    );
    assert!(said.contains("set it aside"), "{said}");
}

/// Other users could open the lock of an older version, and hold it. A daemon starts nevertheless, and nobody else can
/// hold the daemon's own lock.
#[test]
fn the_lock_is_nobody_elses() {
    let mut service = Service::start_with("", |command| {
        let config = Path::new(command.get_args().last().expect("a path"));
        let run = config.with_file_name("run");
        fs::create_dir(&run).expect("made");
        fs::write(run.join("daemon.lock"), "4294967294\n").expect("written");
        fs::set_permissions(run.join("daemon.lock"), fs::Permissions::from_mode(0o644)).expect("ours");
    });
    let lock = service.dir.path().join("run/daemon.lock");
    let found = fs::metadata(&lock).expect("a lock");
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    fs::set_permissions(service.dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    let mut hold = Command::new("setpriv");
    hold.args(["--reuid=65534", "--regid=65534", "--clear-groups", "flock", "-n"]);
    let held = run_to_end(hold.arg(&lock).args(["echo", "held"]));
    assert!(held.code != Some(0) && !held.stdout.contains("held"), "{held:#?}");
    service.stop();
}
