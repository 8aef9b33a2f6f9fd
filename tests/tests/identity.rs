//! Records name a process as it was at the time of the call, also if it executes another program or shows other
//! arguments later.
//!
//! guests: quickest
//! not-legacy: a_program_after_two_execs_is_itself

#![expect(clippy::panic, reason = "a test fails by it")]

use std::{io::Write as _, process::Stdio};

use imds_analyzer_tests::{Stage, wait};
use serde_json::Value;

fn command_line(process: &Value) -> &str {
    process["command_line"].as_str().unwrap_or_default()
}

/// True if a record's path ends with `end`.
fn is_call(record: &Value, end: &str) -> bool {
    record["url"]["original"]
        .as_str()
        .is_some_and(|path| path.ends_with(end))
}

/// The record of the call whose path ends with `end`.
fn of_call<'a>(records: &'a [Value], end: &str) -> &'a Value {
    let found = records.iter().find(|record| is_call(record, end));
    found.unwrap_or_else(|| panic!("no call {end} in {records:#?}"))
}

/// Each script makes its first call, executes the program that makes the second, and goes on after each call once its
/// record is there: an ancestor can be read only until it executes another program.
#[test]
fn an_ancestor_that_executes_its_own_kind_is_another_one() {
    for (kind, depth, script) in [
        (
            "a shell",
            0,
            "$CALL/first; read go; exec sh -c '$CALL/second; read go' and-then",
        ),
        (
            "a shell without environment",
            0,
            "$CALL/first; read go; exec env -i sh -c '$CALL/second; read go' and-then",
        ),
        (
            "a shell above a shell",
            1,
            "sh -c '$CALL/first; read go'; exec sh -c 'sh -c \"$CALL/second; read go\"; :' and-then",
        ),
        (
            "three in a row",
            0,
            "$CALL/first; read go; exec sh -c '$CALL/between; exec sh -c \"$CALL/second; read go\" and-then' and",
        ),
    ] {
        let mut stage = Stage::shared();
        let script = script.replace("$CALL", &format!("curl -sm10 {}", stage.url()));
        let mut shell = stage.command("sh", &["-c", &script]);
        let mut shell = shell.stdin(Stdio::piped()).spawn().expect("a shell");
        let mut go_on = shell.stdin.take().expect("a pipe");
        for call in ["/first", "/second"] {
            stage
                .analyzer
                .wait_for(|records| records.iter().any(|record| is_call(record, call)));
            writeln!(go_on, "go").expect("the shell reads");
        }
        assert!(wait(&mut shell).success(), "{kind}");
        let records = stage.records();
        let ancestor = |call| {
            let ancestor = &of_call(&records, call)["process"]["ancestors"][depth];
            assert_eq!(ancestor["pid"], shell.id(), "{kind}: {records:#?}");
            command_line(ancestor)
        };
        assert!(ancestor("/first").contains("exec"), "{kind}: {}", ancestor("/first"));
        let second = ancestor("/second");
        assert!(
            second.ends_with(" and-then") && !second.contains("exec"),
            "{kind}: {second}"
        );
    }
}

/// Changes the arguments that a process shows: like setproctitle(3), it overwrites those that the process was started
/// with.
const TITLE: &str = r#"
fields = open("/proc/self/stat").read().rsplit(")", 1)[1].split()
begin, end = int(fields[45]), int(fields[46])
def title(text):
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, text, len(text))
get(connect())
title(b"worker: job 7")
path += "/job-7"
get(connect())
title(b"worker: idle")
path = path.replace("job-7", "idle")
get(connect())
"#;

#[test]
fn arguments_are_those_of_the_call() {
    let stage = Stage::shared();
    let first = stage.path.clone();
    stage.python(TITLE);
    let records = stage.records();
    let of = |end| command_line(&of_call(&records, end)["process"]);
    assert!(of(&first).contains("python3"), "{records:#?}");
    assert_eq!(of("/job-7"), "worker: job 7");
    assert_eq!(of("/idle"), "worker: idle");
}

/// The third program's memory is at the address of the first one's: an address does not identify a program.
#[test]
fn a_program_after_two_execs_is_itself() {
    for round in 0..5 {
        let stage = Stage::shared();
        let url = format!("{}/last", stage.url());
        let script = format!("get(connect())\nos.execv('/bin/sh', ['sh', '-c', 'exec curl -sm10 {url}'])\n");
        stage.python(&script);
        let records = stage.records();
        let last = &of_call(&records, "/last")["process"];
        assert_eq!(last["name"], "curl", "{round}: {last:#?}");
        assert_eq!(command_line(last), format!("curl -sm10 {url}"), "{round}");
        assert!(
            last["executable"].as_str().is_some_and(|path| path.ends_with("/curl")),
            "{round}: {last:#?}"
        );
    }
}
