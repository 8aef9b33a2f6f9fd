//! How `watch` begins and ends: the ready line, signals, an output that is closed or full.
//!
//! guests: full

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use imds_analyzer_tests::{Analyzer, Stage, at_load, binary, imds_analyzer, run_to_end as run, wait};

#[test]
fn ready_is_said_once_on_stderr_and_what_follows_is_caught() {
    for round in 0..at_load(20, 5) {
        let stage = Stage::watch(&[]);
        // The analyzer has just said that it is ready.
        let pid = stage.curl(&[]);
        let ended = stage.end();
        let requests = ended.requests();
        assert_eq!(requests.len(), 1, "round {round}: {ended:#?}");
        assert_eq!(requests[0]["process"]["pid"], pid);
        assert_eq!(requests[0]["process"]["name"], "curl");
        let ready = ended.stderr.lines().filter(|line| line.starts_with("ready"));
        assert_eq!(ready.count(), 1, "{}", ended.stderr);
        assert!(!ended.stdout.iter().any(|line| line.contains("ready")), "{ended:#?}");
    }
}

/// False for root without CAP_SYS_PTRACE: then the analyzer cannot find out everything, and says so.
fn pid_1_can_be_read() -> bool {
    fs::metadata("/proc/1/ns/net").is_ok()
}

/// If nothing is wrong, the analyzer only says that it is ready.
#[test]
fn stderr_holds_nothing_but_what_was_promised() {
    let stage = Stage::watch(&[]);
    stage.curl(&[]);
    let ended = stage.end();
    let mut lines: Vec<_> = ended.stderr.lines().collect();
    if !pid_1_can_be_read() {
        lines.retain(|line| !line.starts_with("Nothing lost. Note: "));
    }
    assert!(
        matches!(lines.as_slice(), [ready] if ready.starts_with("ready")),
        "{lines:#?}"
    );
}

#[test]
fn signals_end_it_with_the_summary() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let mut stage = Stage::local().text().watch(&[]);
        stage.curl(&[]);
        let line = stage.analyzer.next_line();
        assert!(line.contains(&stage.path), "{line}");
        let ended = stage.analyzer.stop_by(signal);
        assert_eq!(ended.code, Some(0), "signal {signal}: {ended:#?}");
        assert_eq!(ended.stdout.len(), 1, "{ended:#?}");
        assert!(ended.stderr.contains("Calls to this host itself"), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("Nothing lost.") || !pid_1_can_be_read(),
            "{}",
            ended.stderr
        );

        let stage = Stage::watch(&[]);
        stage.curl(&[]);
        let ended = stage.analyzer.stop_by(signal);
        assert_eq!(ended.code, Some(0), "signal {signal}: {ended:#?}");
        assert_eq!(ended.requests().len(), 1);
        let [summary] = ended.of_kind("imds-analyzer-summary").try_into().expect("one summary");
        assert_eq!(summary["imds"]["summary"]["local_total"]["v1"], 1);
        assert!(
            ended
                .stdout
                .last()
                .is_some_and(|line| line.contains("imds-analyzer-summary"))
        );
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    for format in ["text", "json"] {
        let stage = Stage::watch(&[]);
        let mut child = Command::new(binary())
            .args(["watch", "--format", format, "--path", &stage.path])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the analyzer");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut ready = String::new();
        while !ready.contains("ready") {
            assert_ne!(stderr.read_line(&mut ready).expect("UTF-8"), 0, "{ready}");
        }
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stage.curl(&[]);
        let mut first = String::new();
        stdout.read_line(&mut first).expect("UTF-8");
        assert!(!first.is_empty());
        drop(stdout);
        stage.curl(&[]);
        assert_eq!(wait(&mut child).code(), Some(0), "{format}");
        let rest: Vec<_> = stderr.lines().map_while(Result::ok).collect();
        let rest = rest.join("\n").to_lowercase();
        assert!(
            !rest.contains("broken pipe") && !rest.contains("panic"),
            "{format}: {rest}"
        );
    }
}

/// As in `imds-analyzer ... | true`.
#[test]
fn a_reader_that_was_never_there() {
    for args in [
        &["watch", "--format", "json", "--duration", "100ms"][..],
        &["watch", "--duration", "100ms"],
        &["check"],
        &["check", "--format", "json"],
        &["schema"],
        &["man"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let script = "exec 3>&1; { \"$@\" 2>&3; echo $? >&3; } | exec true";
        let output = run(Command::new("sh").args(["-c", script, "sh"]).arg(binary()).args(args));
        assert!(output.stdout.trim_end().ends_with('0'), "{args:?}: {output:#?}");
        let said = output.stdout.to_lowercase();
        assert!(
            !said.contains("broken pipe") && !said.contains("panic"),
            "{args:?}: {said}"
        );
    }
}

#[test]
fn an_output_that_is_full_is_an_error_and_says_so() {
    let full = || OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    for args in [
        &["watch", "--format", "json", "--duration", "5s"][..],
        &["check"],
        &["schema"],
        &["man"],
        &["completions", "bash"],
    ] {
        let output = full_run(args, full());
        assert_eq!(output.0, Some(1), "{args:?}: {}", output.1);
        assert!(output.1.contains("No space left on device"), "{args:?}: {}", output.1);
        assert!(!output.1.contains("panicked"), "{args:?}: {}", output.1);
    }

    let stage = Stage::watch(&[]);
    let mut child = Command::new(binary())
        .args(["watch", "--path", &stage.path])
        .stdin(Stdio::null())
        .stdout(full())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the analyzer");
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    let mut said = String::new();
    while !said.contains("ready") {
        assert_ne!(stderr.read_line(&mut said).expect("UTF-8"), 0, "{said}");
    }
    stage.curl(&[]);
    assert_eq!(wait(&mut child).code(), Some(1));
    let rest: Vec<_> = stderr.lines().map_while(Result::ok).collect();
    assert!(rest.join("\n").contains("No space left on device"), "{rest:#?}");
}

fn full_run(args: &[&str], stdout: File) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let stderr = dir.path().join("stderr");
    let mut child = Command::new(binary())
        .args(args)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(File::create(&stderr).expect("a file"))
        .spawn()
        .expect("the analyzer");
    let code = wait(&mut child).code();
    (code, fs::read_to_string(stderr).expect("UTF-8"))
}

#[test]
fn wrong_usage() {
    for (args, named) in [
        (&["watch", "--no-such-flag"][..], "--no-such-flag"),
        (&["watch", "--duration", "soon"], "--duration"),
        (&["watch", "--v1", "--fail-on", "unknown"], "--fail-on unknown"),
        (&["no-such-command"], "no-such-command"),
        (&[], "Usage"),
    ] {
        let output = imds_analyzer(args);
        assert_eq!(output.code, Some(2), "{output:#?}");
        assert!(output.stderr.contains(named), "{output:#?}");
        assert_eq!(output.stdout, "");
    }
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let mut stage = Stage::watch(&[]);
    let watch = || {
        let mut command = Command::new(binary());
        command.args(["watch", "--format", "json", "--path", &stage.path]);
        Analyzer::start_another(command)
    };
    let (mut second, third) = (watch(), watch());
    let pid = stage.curl(&[]);
    for record in [&stage.analyzer.wait_for_count(1), &second.wait_for_count(1)] {
        assert_eq!(record[0]["process"]["pid"], pid);
        assert_eq!(record[0]["imds"]["verdict"], "v1");
    }
    // One analyzer is killed, one ends well: neither takes anything from the one that is left.
    // SAFETY: our own child, which has not been waited for.
    unsafe { libc::kill(second.pid() as i32, libc::SIGKILL) };
    assert_eq!(second.wait().code, None);
    stage.curl(&[]);
    assert_eq!(third.stop().requests().len(), 2);
    let last = stage.curl(&[]);
    let records = stage.records();
    assert_eq!(records.len(), 3);
    assert_eq!(records[2]["process"]["pid"], last);
}
