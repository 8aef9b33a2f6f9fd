//! Callers that are not simply one program with one socket: records stay honest and bounded, and never show another
//! process's facts.
//!
//! guests: full
//! not-legacy: with_the_connecting_process_as_owner_nothing_of_a_later_program_is_shown

#![expect(clippy::panic, reason = "a test fails by it")]

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{self, Stdio},
};

use imds_analyzer::lab::{Lab, NetNs};
use imds_analyzer_tests::{PYTHON, Stage, cable, ip, is_legacy, lack, needs, wait};
use serde_json::{Value, json};

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a text: {value:#}"))
}

fn pids(record: &Value) -> Vec<u64> {
    let ancestors = record["process"]["ancestors"].as_array().expect("ancestors");
    ancestors.iter().filter_map(|it| it["pid"].as_u64()).collect()
}

#[test]
fn an_orphan_of_an_orphan() {
    let stage = Stage::shared();
    let script = r#"
ends, start = os.pipe()
if os.fork() == 0:
    if os.fork() != 0: os._exit(0)
    # Only an orphan once the parent is gone.
    while os.getppid() == int(os.environ["PARENT"]): time.sleep(0.001)
    get(connect())
    os.write(start, str(os.getppid()).encode())
    os._exit(0)
os.close(start)
os.wait()
print(os.read(ends, 100).decode())
"#;
    // The pid of the middle process is not known beforehand, so the script passes it on.
    let script = script.replace(
        "    if os.fork() != 0: os._exit(0)\n",
        "    os.environ['PARENT'] = str(os.getpid())\n    if os.fork() != 0: os._exit(0)\n",
    );
    stage.python(&script);
    let record = stage.record();
    let pids = pids(&record);
    assert_eq!(pids.last(), Some(&1), "{record:#}");
    assert!(
        !pids.contains(&u64::from(process::id())),
        "its parents are gone: {record:#}"
    );
    assert!(text(&record["process"]["name"]).starts_with("python3"), "{record:#}");
}

/// Connects, then executes a program that sends on the socket it inherited.
const EXEC: &str = r#"
connection = connect()
connection.setblocking(True)
os.set_inheritable(connection.fileno(), True)
request = f"printf 'GET {path} HTTP/1.1\\r\\n\\r\\n' >&{connection.fileno()}; read answer <&{connection.fileno()}"
os.execv("/bin/sh", ["sender", "-c", request, "argument"])
"#;

#[test]
fn a_program_executed_after_connecting_is_the_sender() {
    let stage = Stage::of_senders();
    let pid = stage.python(EXEC);
    let record = stage.record();
    let process = &record["process"];
    assert_eq!(process["pid"], pid);
    assert_eq!(process["name"], "sh");
    assert_eq!(process["args"][0], "sender");
    assert_eq!(process["args"][3], "argument");
    // Absent if the process was gone before the analyzer looked at it.
    let executable = json!(fs::canonicalize("/bin/sh").expect("a shell"));
    assert!(
        process["executable"].is_null() || process["executable"] == executable,
        "{record:#}"
    );
}

#[test]
fn with_the_connecting_process_as_owner_nothing_of_a_later_program_is_shown() {
    let stage = Stage::watch(&["--owner", "connect"]);
    let pid = stage.python(EXEC);
    let record = stage.record();
    let process = &record["process"];
    assert_eq!(record["imds"]["owner"], "connect");
    assert_eq!(process["pid"], pid);
    assert!(text(&process["name"]).starts_with("python3"), "{record:#}");
    assert_eq!(process["args"][0], PYTHON);
    assert_ne!(
        process["executable"],
        json!(fs::canonicalize("/bin/sh").expect("a shell"))
    );
}

#[test]
fn a_child_that_uses_its_parents_socket() {
    let stage = Stage::of_senders();
    let parent = stage.python(
        r#"
connection = connect()
if os.fork() == 0:
    ctypes.CDLL(None).prctl(15, b"the-child", 0, 0, 0)
    get(connection)
    os._exit(0)
os.wait()
"#,
    );
    let record = stage.record();
    assert_ne!(record["process"]["pid"], parent);
    assert_eq!(record["process"]["name"], "the-child");
    assert_eq!(record["process"]["parent"]["pid"], parent);
    assert_eq!(pids(&record)[..2], [u64::from(parent), u64::from(process::id())]);
}

#[test]
fn a_process_that_was_passed_the_socket() {
    let stage = Stage::of_senders();
    let parent = stage.python(
        r#"
near, far = socket.socketpair(socket.AF_UNIX)
if os.fork() == 0:
    near.close()
    ctypes.CDLL(None).prctl(15, b"the-receiver", 0, 0, 0)
    _, descriptors, _, _ = socket.recv_fds(far, 1, 1)
    received = socket.socket(fileno=descriptors[0])
    received.settimeout(10)
    get(received)
    os._exit(0)
connection = connect()
socket.send_fds(near, [b"x"], [connection.fileno()])
os.wait()
"#,
    );
    let record = stage.record();
    assert_eq!(record["process"]["name"], "the-receiver");
    assert_eq!(record["process"]["parent"]["pid"], parent);
}

#[test]
fn a_process_in_a_pid_namespace_of_its_own() {
    let stage = Stage::shared();
    let unshare = stage.run("unshare", &["-pf", "curl", "-sm10", &stage.url()]);
    let record = stage.record();
    let process = &record["process"];
    assert_eq!(process["name"], "curl");
    assert_eq!(process["args"][0], "curl");
    assert_ne!(process["pid"], 1, "its pid as the host has it: {record:#}");
    assert_eq!(process["parent"]["pid"], unshare);
    assert_eq!(pids(&record).last(), Some(&1));
}

#[test]
fn a_thread() {
    let stage = Stage::shared();
    let pid = stage.python(
        r#"
def work():
    ctypes.CDLL(None).prctl(15, b"worker-7", 0, 0, 0)
    get(connect())
thread = threading.Thread(target=work)
thread.start()
thread.join()
"#,
    );
    let record = stage.record();
    let process = &record["process"];
    assert_eq!(process["pid"], pid);
    assert!(text(&process["name"]).starts_with("python3"), "{record:#}");
    assert_eq!(process["thread"]["name"], "worker-7");
    assert_ne!(process["thread"]["id"], pid);
}

/// Each record has the user at the time of its call, not the user at the first call.
#[test]
fn a_process_that_drops_its_privileges_between_calls() {
    let stage = Stage::shared();
    stage.python(
        r#"
get(connect())
os.setgid(65534)
os.setuid(65534)
ctypes.CDLL(None).prctl(15, b"dropped", 0, 0, 0)
get(connect())
"#,
    );
    let records = stage.records();
    let users: Vec<_> = records.iter().map(|it| text(&it["user"]["id"])).collect();
    assert_eq!(users, ["0", "65534"]);
    let groups: Vec<_> = records.iter().map(|it| text(&it["group"]["id"])).collect();
    assert_eq!(groups, ["0", "65534"]);
    assert_eq!(records[1]["process"]["name"], "dropped");
}

#[test]
fn a_name_with_control_characters() {
    let stage = Stage::shared();
    stage.python(r#"ctypes.CDLL(None).prctl(15, b"\x1b[2J\nv1 x\xff\x07", 0, 0, 0); get(connect())"#);
    let record = stage.record();
    assert_eq!(record["process"]["name"], "\u{1b}[2J\nv1 x\u{fffd}\u{7}");
}

#[test]
fn arguments_of_100_kib() {
    let stage = Stage::shared();
    let long = "x y ".repeat(25 << 10);
    let script = "import socket, sys; s = socket.create_connection(('169.254.169.254', 80), 10); \
                  s.sendall(f'GET {sys.argv[1]} HTTP/1.1\\r\\n\\r\\n'.encode()); s.recv(100)";
    let path = stage.path.clone();
    stage.run(PYTHON, &["-c", script, &path, &long, "last"]);
    let record = stage.record();
    let args = record["process"]["args"].as_array().expect("arguments");
    assert_eq!(args[..4], [PYTHON, "-c", script, &path].map(|it| json!(it)));
    assert_eq!(args.len(), 5, "{record:#}");
    let cut = text(&args[4]);
    assert!(
        cut.starts_with("x y x y") && cut.ends_with('…'),
        "what was cut says so: {record:#}"
    );
    let shown: usize = args.iter().map(|it| text(it).len()).sum();
    assert!((1024..=4096).contains(&shown), "{shown}");
}

#[test]
fn overwritten_arguments() {
    let stage = Stage::shared();
    stage.python(
        r#"
start, end = map(int, open("/proc/self/stat").read().rsplit(")", 1)[1].split()[45:47])
title = b"worker: idle\n\x1b[31m"
ctypes.memset(start, 0, end - start)
ctypes.memmove(start, title, len(title))
get(connect())
"#,
    );
    let record = stage.record();
    assert_eq!(
        record["process"]["args"],
        json!(["worker: idle\n\u{1b}[31m"]),
        "{record:#}"
    );
}

#[test]
fn a_deleted_executable() {
    let stage = Stage::shared();
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("fetcher");
    fs::copy("/usr/bin/curl", &program).expect("a copy");
    let mut command = stage.command(program.to_str().expect("UTF-8"), &["-s", "--config", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("a client");
    fs::remove_file(&program).expect("gone");
    // Another program in the same place is not the one that runs.
    fs::copy("/bin/true", &program).expect("a copy");
    let config = format!("url = \"{}\"\nmax-time = 10\n", stage.url());
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(config.as_bytes())
        .expect("config");
    assert!(wait(&mut child).success());
    let record = stage.record();
    assert_eq!(record["process"]["name"], "fetcher");
    let executable = &record["process"]["executable"];
    // The send tap reads it from /proc, while the process exists.
    if !is_legacy() || !executable.is_null() {
        assert_eq!(text(executable), format!("{} (deleted)", program.display()));
    }
}

#[test]
fn tokens_and_passwords_in_command_lines_stay_there() {
    let token = "AQAEALsecretTokenOfThisTestAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==";
    for mode in ["full", "redacted", "executable"] {
        for text in [false, true] {
            let stage = if text {
                Stage::local().text().watch(&["--args", mode, "--verbose"])
            } else {
                Stage::watch(&["--args", mode])
            };
            let script = format!(
                "curl -sm10 -H 'X-aws-ec2-metadata-token: {token}' -u app:hunter2 --pass hunter3 '{0}?token={token}'; \
                 curl -sm10 -H 'X-aws-ec2-metadata-token: {token}' '{0}?token={token}'; true",
                stage.url()
            );
            stage.run("sh", &["-c", &script]);
            let ended = stage.end();
            let all = ended.everything();
            assert!(!all.contains(&token[..20]), "{mode}: {all}");
            assert!(all.contains("e2e-"), "{all}");
            if mode != "full" {
                assert!(!all.contains("hunter"), "{mode}: {all}");
            }
            if mode == "executable" && !text {
                for record in ended.requests() {
                    assert_eq!(record["process"]["args"], json!(["curl"]), "{record:#}");
                }
            }
        }
    }
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).expect("a script");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
}

fn caller(record: &Value) -> String {
    let caller = text(&record["imds"]["caller"]);
    // Tests may run in a unit, which then follows in parentheses.
    caller.split(" (").next().unwrap_or(caller).to_owned()
}

#[test]
fn two_scripts_with_one_tool_are_two_callers() {
    let mut stage = Stage::shared();
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path().canonicalize().expect("a directory");
    let url = stage.url();
    // A command follows curl, so that the shells do not turn into curl.
    let call = format!("curl -sm10 {url}");
    // Keeps every process in the chain until its call has been described.
    let stay = "read -r _ || true";
    let mut count = 0;
    for (name, text) in [
        ("backup.sh", format!("#!/bin/sh\n{call}\n{stay}\n")),
        (
            "deploy.sh",
            format!("#!/bin/bash\ntimeout 9 env A=b sh -c '{call}; {stay}'\n{stay}\n"),
        ),
        (
            "tag.py",
            format!("#!{PYTHON}\nimport os, sys; os.system('{call}; {stay}'); sys.stdin.read()\n"),
        ),
        (
            "rotate.sh",
            format!("#!/bin/bash\nexec 3<&0\nbash <<EOF\n{call}\nread -r _ <&3 || true\nEOF\n{stay}\n"),
        ),
    ] {
        let path = directory.join(name);
        script(&path, &text);
        for _ in 0..2 {
            let mut script = stage.command(path.to_str().expect("UTF-8"), &[]);
            let mut script = script.stdin(Stdio::piped()).spawn().expect("a script");
            count += 1;
            stage.analyzer.wait_for(|records| records.len() >= count);
            drop(script.stdin.take());
            assert!(wait(&mut script).success());
        }
    }
    let records = stage.records();
    assert_eq!(records.len(), 8, "{records:#?}");
    let callers: BTreeSet<String> = records.iter().map(caller).collect();
    assert_eq!(callers.len(), 4, "{callers:?}");
    for (name, caller) in ["backup.sh", "deploy.sh", "rotate.sh", "tag.py"].iter().zip(&callers) {
        assert!(
            caller.contains(name) && caller.ends_with(" > /usr/bin/curl"),
            "{callers:?}"
        );
    }
}

#[test]
fn the_same_program_in_another_temporary_directory_is_the_same_caller() {
    let stage = Stage::shared();
    for suffix in ["ab12cd34", "0x9q_1zz", "qwertzui"] {
        let directory = format!("/tmp/tmp{suffix}{}", process::id());
        fs::create_dir(&directory).expect("a directory");
        let program = format!("{directory}/fetcher");
        fs::copy("/usr/bin/curl", &program).expect("a copy");
        stage.run(&program, &["-sm10", &stage.url()]);
        fs::remove_dir_all(&directory).expect("gone");
    }
    let records = stage.records();
    assert_eq!(records.len(), 3);
    let callers: BTreeSet<String> = records.iter().map(caller).collect();
    assert!(callers.len() == 1 || is_legacy(), "{callers:?}");
}

/// The executable of a sender is unknown if the sender is gone before the analyzer looks at it.
#[test]
fn a_name_is_no_executable() {
    let stage = Stage::of_senders();
    stage.python(
        r#"
for name in [b"/usr/bin/curl", b"curl", b"x > /bin/curl"] * 5:
    connection = connect()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, name, 0, 0, 0)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: imds\r\n\r\n".encode())
        os._exit(0)
    connection.recv(4096)
    os.wait()
"#,
    );
    let records = stage.records();
    assert_eq!(records.len(), 15);
    for record in &records {
        let caller = caller(record);
        let executable = &record["process"]["executable"];
        match executable.as_str() {
            Some(executable) => assert!(caller.ends_with(executable), "{record:#}"),
            None => assert!(caller.ends_with(']') && !caller.ends_with("curl"), "{record:#}"),
        }
    }
}

/// A namespace of its own, with a cable to the metadata service.
fn cabled(lab: &Lab) -> NetNs {
    let namespace = NetNs::new().expect("a namespace");
    cable([
        (&lab.server, "h1", "10.124.0.2/24"),
        (&namespace, "h0", "10.124.0.1/24"),
    ]);
    ip(&namespace, "route add 169.254.169.254 via 10.124.0.2");
    namespace
}

#[test]
fn what_a_network_helper_repeats_is_told_apart() {
    let stage = Stage::in_lab(Lab::routed().expect("lab")).watch(&[]);
    let outside = cabled(&stage.lab);
    let directory = tempfile::tempdir().expect("a directory");
    let helper = directory.path().join("slirp4netns");
    fs::copy(fs::canonicalize(PYTHON).expect("python"), &helper).expect("a copy");
    let helper = helper.to_str().expect("UTF-8");
    const CALL: &str = "import os, socket, sys\n\
        if sys.argv[2] == 'tun': held = os.open('/dev/net/tun', os.O_RDWR)\n\
        s = socket.create_connection(('169.254.169.254', 80), 10)\n\
        s.sendall(f'GET {sys.argv[1]} HTTP/1.1\\r\\n\\r\\n'.encode()); s.recv(9)\n";
    let call = |namespace: &NetNs, program: &str, kind: &str| {
        let mut command = namespace.command(program);
        let status = command
            .env("PYTHONHOME", "/usr")
            .args(["-c", CALL, &stage.path, kind])
            .status();
        assert!(status.expect("a program").success(), "{program} {kind}");
    };
    let tun = fs::File::open("/dev/net/tun").err();
    needs!(tun.and_then(|error| lack("tun", false, format!("/dev/net/tun: {error}"))));
    call(&stage.lab.client, PYTHON, "container");
    call(&outside, helper, "none");
    call(&outside, PYTHON, "tun");
    call(&outside, helper, "tun");
    // No call is left that the helper could repeat.
    call(&outside, helper, "tun");
    let ended = stage.end();
    let relays: Vec<bool> = ended.requests().iter().map(|it| it["imds"]["relay"] == true).collect();
    assert_eq!(relays, [false, false, false, true, false], "{:#?}", ended.requests());
    let summary = &ended.of_kind("imds-analyzer-summary")[0]["imds"]["summary"];
    assert_eq!(summary["total"]["v1"], 4, "{summary:#}");
    assert_eq!(summary["relayed_total"]["v1"], 1, "{summary:#}");
}
