//! Callers that see the system differently from the analyzer, and an analyzer that sees nothing of them in /proc.
//!
//! guests: quickest

use std::{
    fs,
    process::{self, Command},
};

use imds_analyzer::lab::{Lab, Options, Server};
use imds_analyzer_tests::{Analyzer, PYTHON, Stage, binary, is_legacy, wait};
use serde_json::{Value, json};

fn names(record: &Value) -> Vec<&str> {
    let ancestors = record["process"]["ancestors"].as_array().expect("ancestors");
    ancestors.iter().filter_map(|it| it["name"].as_str()).collect()
}

#[test]
fn a_user_namespace_changes_no_user() {
    let stage = Stage::shared();
    let url = stage.url();
    let drop = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let inside = ["unshare", "-Ur", "curl", "-sm10", &url];
    stage.run("setpriv", &[drop.as_slice(), &inside].concat());
    let record = stage.record();
    assert_eq!(record["user"]["id"], "65534", "{record:#}");
    assert_eq!(record["group"]["id"], "65534", "{record:#}");
}

#[test]
fn a_file_of_another_mount_namespace() {
    let stage = Stage::shared();
    let directory = tempfile::tempdir().expect("a directory");
    let [from, to] = ["from", "to"].map(|name| directory.path().canonicalize().expect("a directory").join(name));
    fs::create_dir_all(from.join("bin")).expect("a directory");
    fs::create_dir(&to).expect("a directory");
    fs::copy("/usr/bin/curl", from.join("bin/fetcher")).expect("a copy");
    let script = format!(
        "mount --bind '{}' '{to}' && cd '{to}/bin' && exec '{to}/bin/fetcher' -sm10 '{}'",
        from.display(),
        stage.url(),
        to = to.display()
    );
    stage.run("unshare", &["-m", "sh", "-c", &script]);
    let record = stage.record();
    let process = &record["process"];
    assert_eq!(process["executable"], json!(to.join("bin/fetcher")), "{record:#}");
    assert_eq!(process["working_directory"], json!(to.join("bin")), "{record:#}");
}

#[test]
fn an_analyzer_that_does_not_see_its_callers_in_proc() {
    let lab = Lab::local().expect("lab");
    let _server = Server::start(&lab.server, Options::default()).expect("IMDS");
    let path = format!("/latest/meta-data/e2e-unseen-{}", process::id());
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(binary());
    command.args(["watch", "--format", "json", "--count", "1", "--path", &path]);
    let analyzer = Analyzer::start(command);
    let mut child = lab.client.command("curl");
    let child = child.args(["-sm10", &format!("http://169.254.169.254{path}")]);
    let mut child = child.stdout(process::Stdio::null()).spawn().expect("curl");
    let pid = child.id();
    assert!(wait(&mut child).success());
    let ended = analyzer.wait();
    let [record] = ended.requests().try_into().expect("one record");
    let process = &record["process"];
    assert_eq!(process["pid"], pid, "as the host has it: {record:#}");
    assert_eq!(process["name"], "curl");
    assert_eq!(process["source"], "kernel");
    assert_eq!(process["args"][1], "-sm10", "{record:#}");
    assert_eq!(process["parent"]["pid"], process::id());
    assert_eq!(
        process["ancestors"].as_array().and_then(|it| it.last()).expect("pid 1")["pid"],
        1
    );
    if !is_legacy() {
        assert_eq!(process["executable"], "/usr/bin/curl", "{record:#}");
        assert_eq!(
            process["working_directory"],
            json!(std::env::current_dir().expect("a directory"))
        );
    }
}

/// The process goes on without its first thread: /proc knows neither its program nor its directory.
#[test]
fn a_first_thread_that_has_ended() {
    let stage = Stage::shared();
    let script = r#"
def work():
    while open(f"/proc/{os.getpid()}/stat").read().rsplit(")", 1)[1].split()[0] != "Z": time.sleep(0.001)
    get(connect())
    os._exit(0)
threading.Thread(target=work).start()
ctypes.CDLL(None).pthread_exit(None)
"#;
    let pid = stage.python(script);
    let record = stage.record();
    let process = &record["process"];
    assert_eq!(process["pid"], pid);
    assert_eq!(process["args"][0], PYTHON, "{record:#}");
    assert_eq!(process["parent"]["pid"], process::id());
    if !is_legacy() {
        assert_eq!(
            process["executable"],
            json!(fs::canonicalize(PYTHON).expect("Python")),
            "{record:#}"
        );
        assert!(process["working_directory"].is_string(), "{record:#}");
    }
}

/// A process calls before its parent exits, and after: the record of who started it stays the same.
#[test]
fn an_orphan_keeps_the_parent_that_was_seen() {
    let stage = Stage::shared();
    let script = r#"
ends, start = os.pipe()
os.set_inheritable(start, True)
if os.fork() == 0:
    ctypes.CDLL(None).prctl(15, b"first-parent", 0, 0, 0)
    parent = os.getpid()
    ready, go = os.pipe()
    if os.fork() != 0:
        os.read(ready, 1)
        os._exit(0)
    get(connect())
    os.write(go, b"x")
    while os.getppid() == parent: time.sleep(0.001)
    # Another program in the same process.
    call = f"import socket; s = socket.create_connection(('169.254.169.254', 80)); s.sendall(b'GET {path} HTTP/1.1\\r\\n\\r\\n'); s.recv(9)"
    os.execv(sys.executable, [sys.executable, "-c", call])
os.close(start)
# The end of the orphan closes the pipe, and nothing else waits for it.
os.wait()
os.read(ends, 1)
"#;
    stage.python(script);
    let records = stage.records();
    assert_eq!(records.len(), 2, "{records:#?}");
    for record in &records {
        assert_eq!(names(record)[0], "first-parent", "{record:#}");
        assert_eq!(record["process"]["ancestors"][2]["pid"], process::id(), "{record:#}");
    }
}

#[test]
fn scripts_are_told_apart_from_their_interpreter() {
    let stage = Stage::shared();
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path().canonicalize().expect("a directory");
    let script = directory.join("job.py");
    let text = format!(
        "#!{PYTHON} -Es\nimport socket, sys\ns = socket.create_connection(('169.254.169.254', 80), 10)\n\
         s.sendall(f'GET {{sys.argv[1]}} HTTP/1.1\\r\\n\\r\\n'.encode()); s.recv(9)\n"
    );
    fs::write(&script, text).expect("a script");
    let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(&script, mode).expect("a mode");
    let path = stage.path.clone();
    stage.run(script.to_str().expect("UTF-8"), &[&path]);
    let relative = format!("cd '{}' && exec {PYTHON} -u ./job.py {path}", directory.display());
    stage.run("sh", &["-c", &relative]);
    let records = stage.records();
    assert_eq!(records.len(), 2);
    for record in records {
        let caller = record["imds"]["caller"].as_str().expect("a caller");
        // The name of the temporary directory is folded.
        assert!(
            caller.ends_with("/job.py") || caller.contains("/job.py ("),
            "{record:#}"
        );
    }
}
