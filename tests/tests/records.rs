//! Records of plain calls by real clients: every field of the contract.
//!
//! guests: every-kernel packets

#![expect(clippy::panic, reason = "a test fails by it")]

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    process::{self, Stdio},
    time::{Duration, SystemTime},
};

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{PYTHON, Stage, at_load, is_legacy, lack, needs, parent, tap};
use serde_json::{Value, json};

/// All fields of an object and of those in it, dotted; elements of arrays are left out.
fn fields(value: &Value, prefix: &str) -> Vec<String> {
    let Value::Object(fields_here) = value else {
        return vec![prefix.to_owned()];
    };
    fields_here
        .iter()
        .flat_map(|(name, value)| {
            let name = if prefix.is_empty() {
                name.clone()
            } else {
                format!("{prefix}.{name}")
            };
            fields(value, &name)
        })
        .collect()
}

/// The expected value of `ancestors`: from `pid` to pid 1.
fn chain(mut pid: u32) -> Vec<Value> {
    let mut chain = Vec::new();
    while pid != 0 {
        let proc = |name: &str| fs::read(format!("/proc/{pid}/{name}")).expect("a process");
        let name = String::from_utf8(proc("comm")).expect("UTF-8");
        let uid = fs::metadata(format!("/proc/{pid}")).expect("a process").uid();
        let args = String::from_utf8(proc("cmdline")).expect("UTF-8");
        let mut ancestor = json!({
            "pid": pid,
            "name": name.trim_end(),
            "command_line": args.trim_end_matches('\0').replace('\0', " "),
            "user": { "id": uid.to_string() },
        });
        // Not everybody may read this of pid 1.
        if let Ok(executable) = fs::read_link(format!("/proc/{pid}/exe")) {
            ancestor["executable"] = json!(executable);
        }
        chain.push(ancestor);
        pid = parent(pid);
    }
    chain
}

/// Cuts long command lines to the part that is shown of every process.
fn cut(ancestors: &[Value]) -> Vec<Value> {
    const SHOWN: usize = 900;
    let mut ancestors = ancestors.to_vec();
    for ancestor in &mut ancestors {
        let text = ancestor["command_line"].as_str().unwrap_or_default();
        ancestor["command_line"] = json!(text.chars().take(SHOWN).collect::<String>());
    }
    ancestors
}

fn time(text: &Value) -> SystemTime {
    humantime::parse_rfc3339(text.as_str().expect("a time")).expect("RFC 3339")
}

#[test]
fn every_field_of_one_call() {
    let stage = Stage::in_lab(Lab::routed().expect("lab")).watch(&[]);
    let path = stage.path.clone();
    let original = format!("{path}?x=1");
    let url = format!("http://169.254.169.254{original}");
    let args = ["-sm10", "-A", "e2e/1.0 (test)", "--local-port", "43210", &url];
    let before = SystemTime::now();
    let pid = stage.run("curl", &args);
    let after = SystemTime::now();
    let record = stage.record();

    assert!((before..=after).contains(&time(&record["@timestamp"])), "{record:#}");
    assert_eq!(
        record["@timestamp"].as_str().map(str::len),
        Some(27),
        "microseconds: {record:#}"
    );
    let start = time(&record["process"]["start"]);
    // Whole seconds, from a count of 10 ms ticks since a boot whose time is known as exactly.
    let second = Duration::from_secs(1);
    assert!((before - 2 * second..=after + second).contains(&start), "{record:#}");

    let own_chain = cut(&chain(process::id()));
    let own_path = env::current_exe().expect("own path");
    let own_args: Vec<_> = env::args().collect();
    let mut args = Vec::from(args.map(str::to_owned));
    args.insert(0, "curl".to_owned());
    let expected = json!({
        "log": { "level": "warn" },
        "ecs": { "version": "8.11" },
        "event": {
            "kind": "event", "category": ["network"], "type": ["access"], "action": "imds-request",
            "dataset": "imds.request", "outcome": if is_legacy() { "unknown" } else { "failure" },
        },
        "agent": { "type": "imds-analyzer", "version": env!("CARGO_PKG_VERSION") },
        "imds": {
            "schema": 1, "caller": record["imds"]["caller"], "version": "v1", "verdict": "v1", "path_class": "plain", "endpoint": "ipv4", "tap": tap(),
            "owner": record["imds"]["owner"], "netns": "other", "local": false, "forwarded": false,
            "answer": if is_legacy() { "unseen" } else { "answered" }, "cause": "no-token-request",
            "remedy": record["imds"]["remedy"], "risk": ["new-caller"],
        },
        "process": {
            "pid": pid, "name": "curl", "source": "kernel", "executable": "/usr/bin/curl", "args": args, "command_line": args.join(" "),
            "start": record["process"]["start"],
            "working_directory": env::current_dir().expect("a directory"),
            "parent": {
                "pid": process::id(), "name": own_chain[0]["name"], "executable": own_path,
                "command_line": own_args.join(" "),
            },
            "ancestors": own_chain,
        },
        "user": { "id": "0", "name": "root" },
        "group": { "id": "0" },
        "http": { "request": { "method": "GET" }, "version": "1.1" },
        "url": { "original": original, "path": path },
        "user_agent": { "original": "e2e/1.0 (test)" },
        "source": { "ip": "10.123.0.1", "port": 43210 },
        "destination": { "ip": "169.254.169.254", "port": 80 },
        "host": { "name": fs::read_to_string("/proc/sys/kernel/hostname").expect("a name").trim_end() },
    });
    let mut rest = record.clone();
    rest.as_object_mut().expect("an object").remove("@timestamp");
    rest["process"]["ancestors"] = json!(cut(record["process"]["ancestors"].as_array().expect("ancestors")));
    // These depend on where the tests run.
    for (part, name) in [("event", "duration"), ("imds", "hop_limit"), ("http", "response")] {
        if let Some(fields) = rest[part].as_object_mut() {
            assert_eq!(fields.remove(name).is_some(), !is_legacy(), "{part}.{name}");
        }
    }
    assert_eq!(record["imds"]["remedy"]["id"], "unknown", "{record:#}");
    // Found in time or not; a guest has no packages.
    if let Some(program) = rest["imds"].as_object_mut().expect("an object").remove("program") {
        assert_eq!(program["path"], "/usr/bin/curl", "{program}");
    }
    for name in ["cloud", "labels"] {
        rest.as_object_mut().expect("an object").remove(name);
    }
    for name in ["systemd", "container", "orchestrator", "kubernetes"] {
        rest.as_object_mut().expect("an object").remove(name);
    }
    rest["user"].as_object_mut().expect("a user").remove("audit");
    let caller = record["imds"]["caller"].as_str().unwrap_or_default();
    assert!(caller.contains(" > /usr/bin/curl"), "run by this test: {caller}");
    assert_eq!(fields(&rest, ""), fields(&expected, ""));
    assert_eq!(rest, expected, "{rest:#}");
    let owners = ["fentry", "tp_btf", "kprobe", "connect"];
    assert!(
        owners.iter().any(|owner| record["imds"]["owner"] == *owner),
        "{record:#}"
    );
}

#[test]
fn a_call_over_ipv6_to_an_address_of_this_host() {
    let stage = Stage::shared();
    needs!(lack("ipv6", stage.lab.has_ipv6(), "the lab has no address of IPv6"));
    stage.run("curl", &["-gsm10", &format!("http://[fd00:ec2::254]{}", stage.path)]);
    let record = stage.record();
    assert_eq!(record["imds"]["endpoint"], "ipv6");
    assert_eq!(record["imds"]["local"], true);
    assert_eq!(record["destination"], json!({ "ip": "fd00:ec2::254", "port": 80 }));
}

#[test]
fn wget_and_python() {
    let stage = Stage::shared();
    let url = stage.url();
    // wget ends with 8, because the server has nothing at this path.
    let wget = imds_analyzer_tests::wait(&mut stage.start("wget", &["-qO-", "-T10", "-t1", &url]));
    assert_eq!(wget.code(), Some(8));
    let script = format!(
        "import urllib.request as u, urllib.error\n\
         r = u.Request('{url}', headers={{'X-aws-ec2-metadata-token': 'none'}})\n\
         try: u.urlopen(r, timeout=10)\n\
         except urllib.error.HTTPError: pass\n"
    );
    let python = stage.run(PYTHON, &["-c", &script]);
    let records = stage.records();
    let [wget, by_python] = records.as_slice() else {
        panic!("{records:#?}")
    };
    assert_eq!(wget["imds"]["verdict"], "v1");
    assert_eq!(wget["process"]["name"], "wget");
    assert_eq!(wget["process"]["args"], json!(["wget", "-qO-", "-T10", "-t1", url]));
    assert_eq!(by_python["imds"]["verdict"], "v2");
    assert_eq!(by_python["log"]["level"], "info");
    assert_eq!(by_python["process"]["pid"], python);
    let executable = fs::canonicalize(PYTHON).expect("Python");
    assert_eq!(by_python["process"]["executable"], json!(executable));
    assert_eq!(
        by_python["user_agent"]["original"].as_str().map(|it| &it[..14]),
        Some("Python-urllib/")
    );
}

#[test]
fn a_user_that_privileges_were_dropped_to() {
    let stage = Stage::shared();
    let url = stage.url();
    let drop = [
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "curl",
        "-sm10",
        &url,
    ];
    let pid = stage.run("setpriv", &drop);
    let record = stage.record();
    assert_eq!(record["process"]["pid"], pid);
    assert_eq!(record["user"]["id"], "65534");
    assert_eq!(record["user"]["name"], "nobody");
    assert_eq!(record["group"]["id"], "65534");
    assert_eq!(record["process"]["ancestors"][0]["user"]["id"], "0");
}

#[test]
fn a_shell_that_starts_curl() {
    let mut stage = Stage::shared();
    let script = format!("curl -sm10 {}; read -r _ || true", stage.url());
    let mut command = stage.command("sh", &["-c", &script]);
    command.current_dir("/usr").stdin(Stdio::piped());
    let mut shell = command.spawn().expect("a shell");
    // The command line of a parent is read from /proc, so it stays until the call has been described.
    stage.analyzer.wait_for(|records| !records.is_empty());
    drop(shell.stdin.take());
    assert!(imds_analyzer_tests::wait(&mut shell).success());
    let record = stage.record();
    let process = &record["process"];
    assert_eq!(process["name"], "curl");
    assert_eq!(process["working_directory"], "/usr");
    assert_eq!(process["parent"]["pid"], shell.id());
    assert_eq!(process["parent"]["name"], "sh");
    assert_eq!(process["parent"]["command_line"], format!("sh -c {script}"));
    let executable = fs::canonicalize("/bin/sh").expect("a shell");
    assert_eq!(process["parent"]["executable"], json!(executable));
    let ancestors = process["ancestors"].as_array().expect("ancestors");
    assert_eq!(ancestors[0]["pid"], shell.id());
    assert_eq!(cut(&ancestors[1..]), cut(&chain(process::id())));
}

/// Each of many callers that live for milliseconds has its own arguments, and the shell between it and the test.
#[test]
fn many_short_lived_callers_are_not_mixed_up() {
    let stage = Stage::shared();
    let count = at_load(60, 20);
    let script = format!(
        "i=0; while [ $i -lt {count} ]; do i=$((i+1)); sh -c \"curl -sm10 -A agent-$i {}/$i; true\" & done; wait",
        stage.url()
    );
    stage.run("sh", &["-c", &script]);
    let path = stage.path.clone();
    let mut seen = Vec::new();
    for record in stage.records() {
        let own = record["url"]["path"].as_str().and_then(|it| it.rsplit('/').next());
        let own = own.expect("a path").to_owned();
        let agent = format!("agent-{own}");
        let url = format!("http://169.254.169.254{path}/{own}");
        assert_eq!(record["user_agent"]["original"], json!(agent));
        assert_eq!(
            record["process"]["args"],
            json!(["curl", "-sm10", "-A", agent, url]),
            "{record:#}"
        );
        assert_eq!(record["process"]["parent"]["name"], "sh", "{record:#}");
        let ancestors = record["process"]["ancestors"].as_array().expect("ancestors");
        assert_eq!(cut(&ancestors[2..]), cut(&chain(process::id())));
        seen.push(own);
    }
    seen.sort_by_key(|own| own.parse::<u32>().ok());
    let expected: Vec<_> = (1..=count).map(|own| own.to_string()).collect();
    assert_eq!(seen, expected);
}
