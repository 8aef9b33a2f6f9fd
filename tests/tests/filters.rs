//! Which calls are written, counted and judged: filters, `--count`, `--duration`, `--quiet`, `--args`, `--owner`.
//!
//! guests: full
//! not-legacy: the_owner_that_was_asked_for

use std::time::Instant;

use imds_analyzer_tests::{Ended, PYTHON, Stage, sender_hook};
use serde_json::{Value, json};

fn pids(ended: &Ended) -> Vec<u64> {
    ended
        .requests()
        .iter()
        .filter_map(|it| it["process"]["pid"].as_u64())
        .collect()
}

fn total(ended: &Ended) -> Value {
    let [summary] = ended.of_kind("imds-analyzer-summary").try_into().expect("one summary");
    let summary: Value = summary;
    // Calls in these labs are local to this host.
    summary["imds"]["summary"]["local_total"].clone()
}

const TOKEN: [&str; 2] = ["-H", "X-aws-ec2-metadata-token: none"];

#[test]
fn only_v1() {
    let stage = Stage::watch(&["--v1"]);
    stage.curl(&TOKEN);
    let v1 = stage.curl(&[]);
    let ended = stage.end();
    assert_eq!(pids(&ended), [u64::from(v1)]);
    assert_eq!(total(&ended), json!({ "v1": 1, "v2": 0, "other": 0, "unknown": 0 }));
}

#[test]
fn only_some_processes() {
    let stage = Stage::watch(&["--comm", "wget", "--comm", "a-name-of-over-15-bytes"]);
    stage.curl(&[]);
    let long = "cp /usr/bin/curl $0/a-name-of-over-15-bytes && exec $0/a-name-of-over-15-bytes -sm10 $1";
    let dir = tempfile::tempdir().expect("a directory");
    let pid = stage.run("bash", &["-c", long, dir.path().to_str().expect("UTF-8"), &stage.url()]);
    let ended = stage.end();
    assert_eq!(pids(&ended), [u64::from(pid)]);
    assert_eq!(ended.requests()[0]["process"]["name"], "a-name-of-over-");
}

#[test]
fn only_some_pids() {
    // A shell becomes the client, so that its pid is known before its call.
    let stage = Stage::shared();
    let mut shell = stage.command("sh", &["-c", "read line; exec curl -sm10 \"$0\"", &stage.url()]);
    let mut shell = shell.stdin(std::process::Stdio::piped()).spawn().expect("a shell");
    let mut command = std::process::Command::new(imds_analyzer_tests::binary());
    let both = format!("{},1", shell.id());
    command.args(["watch", "--format", "json", "--pid", &both]);
    let only = imds_analyzer_tests::Analyzer::start_another(command);
    stage.curl(&[]);
    drop(shell.stdin.take());
    assert!(imds_analyzer_tests::wait(&mut shell).success());
    assert_eq!(pids(&only.stop()), [u64::from(shell.id())]);
    assert_eq!(stage.records().len(), 2);
}

#[test]
fn only_some_users() {
    let stage = Stage::watch(&["--uid", "65534,65533"]);
    stage.curl(&[]);
    let drop = ["--reuid=65534", "--clear-groups", "curl", "-sm10", &stage.url()];
    let pid = stage.run("setpriv", &drop);
    assert_eq!(pids(&stage.end()), [u64::from(pid)]);
}

#[test]
fn only_some_paths() {
    // The stage itself filters by its own path.
    let stage = Stage::watch(&[]);
    let elsewhere = "http://169.254.169.254/latest/meta-data/instance-id";
    stage.run("curl", &["-sm10", elsewhere, &format!("{elsewhere}?{}", stage.path)]);
    let pid = stage.run("curl", &["-sm10", &format!("{}/below", stage.url())]);
    assert_eq!(pids(&stage.end()), [u64::from(pid)], "the query is no part of the path");
}

#[test]
fn a_count_ends_it() {
    let stage = Stage::watch(&["--count", "2"]);
    stage.curl(&["--next", "-sm10", &stage.url(), "--next", "-sm10", &stage.url()]);
    let ended = stage.analyzer.wait();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.requests().len(), 2);
    assert_eq!(total(&ended)["v1"], 2, "what is not written is not summed up");
}

#[test]
fn a_duration_ends_it() {
    let started = Instant::now();
    let stage = Stage::watch(&["--duration", "700ms"]);
    let ready = Instant::now();
    stage.curl(&[]);
    let ended = stage.analyzer.wait();
    assert!(started.elapsed().as_millis() >= 700);
    assert!(ready.elapsed().as_secs() < 10, "{:?}", ready.elapsed());
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.requests().len(), 1);
}

#[test]
fn quiet_writes_the_summary_alone() {
    let stage = Stage::watch(&["--quiet"]);
    stage.curl(&[]);
    let ended = stage.end();
    assert!(ended.requests().is_empty());
    assert_eq!(total(&ended)["v1"], 1);

    let stage = Stage::local().text().watch(&["--quiet"]);
    let path = stage.path.clone();
    stage.curl(&[]);
    let ended = stage.end();
    assert_eq!(ended.stdout, [""; 0]);
    assert!(ended.stderr.contains("Calls to this host itself"), "{}", ended.stderr);
    assert!(ended.stderr.contains("1 v1"), "{}", ended.stderr);
    assert!(
        ended.stderr.contains(path.rsplit('/').next().expect("a name")),
        "{}",
        ended.stderr
    );
}

#[test]
fn fail_on_looks_at_what_passes_the_filters() {
    for (fail_on, call, expected) in [
        ("v1-local", &[][..], 3),
        ("v1", &[], 0),
        ("v1-local", &TOKEN, 0),
        ("v1,v1-local,unknown", &[], 3),
    ] {
        let stage = Stage::watch(&["--fail-on", fail_on]);
        stage.curl(call);
        let ended = stage.analyzer.stop();
        assert_eq!(ended.code, Some(expected), "--fail-on {fail_on}: {ended:#?}");
    }
    let lab = imds_analyzer::lab::Lab::routed().expect("lab");
    let stage = Stage::in_lab(lab).watch(&["--fail-on", "v1"]);
    stage.curl(&[]);
    assert_eq!(stage.analyzer.stop().code, Some(3));

    let stage = Stage::watch(&["--fail-on", "v1-local", "--comm", "wget"]);
    stage.curl(&[]);
    assert_eq!(stage.analyzer.stop().code, Some(0));
}

#[test]
fn the_owner_that_was_asked_for() {
    for owner in ["connect".to_owned(), sender_hook()] {
        let stage = Stage::watch(&["--owner", &owner]);
        let pid = stage.curl(&[]);
        let record = stage.record();
        assert_eq!(record["imds"]["owner"], owner);
        assert_eq!(record["process"]["pid"], pid);
    }
}

#[test]
fn how_much_of_a_command_line_is_shown() {
    for (mode, shown) in [("full", Some(true)), ("redacted", Some(false)), ("executable", None)] {
        let stage = Stage::watch(&["--args", mode]);
        let script = "import sys, urllib.request, urllib.error\n\
                      try: urllib.request.urlopen(sys.argv[1], timeout=10)\n\
                      except urllib.error.HTTPError: pass";
        let url = stage.url();
        stage.run(PYTHON, &["-c", script, &url, "--password", "hunter2"]);
        let record = stage.record();
        let args: Vec<_> = record["process"]["args"].as_array().expect("arguments").clone();
        match shown {
            None => assert_eq!(args, [PYTHON]),
            Some(shown) => {
                assert_eq!(args[..5], [PYTHON, "-c", script, &url, "--password"]);
                assert_eq!(args[5] == "hunter2", shown, "{mode}: {args:?}");
            }
        }
    }
}
