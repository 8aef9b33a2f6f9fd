//! `watch` reports a limited number of calls of one user, and counts exactly those beyond. The send tap has no budgets.
//!
//! guests: quickest
//! not-legacy: what_is_over_the_budget_of_a_user_is_counted a_condition_that_may_have_matched_is_said

use imds_analyzer_tests::Stage;
use serde_json::Value;

const CALLS: usize = 300;

/// Makes that many v1 calls, on one connection.
const FLOOD: &str = r#"
connection = connect()
for number in range(300):
    connection.sendall(f"GET {path}/{number} HTTP/1.1\r\nHost: imds\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(4096)
    length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    body = answer.split(b"\r\n\r\n", 1)[1]
    while len(body) < length:
        body += connection.recv(4096)
"#;

fn counted_only(summary: &Value) -> u64 {
    summary["imds"]["loss"]["budget_v1"].as_u64().unwrap_or(0)
}

#[test]
fn what_is_over_the_budget_of_a_user_is_counted() {
    // A burst may have five times as many calls as a second.
    for (rate, at_least, at_most) in [
        ("0", CALLS, CALLS),
        ("2000", CALLS, CALLS),
        // Two fewer, because of the calls of the self-test.
        ("10", 48, CALLS - 1),
        ("1", 3, CALLS - 1),
    ] {
        let stage = Stage::watch(&["--kernel-rate", rate]);
        stage.python(FLOOD);
        let ended = stage.end();
        let summary = ended.of_kind("imds-analyzer-summary").pop().expect("a summary");
        let written = ended.requests().len();
        assert!((at_least..=at_most).contains(&written), "{rate}: {written}");
        // Others may call on this machine, too.
        assert!(
            counted_only(&summary) >= (CALLS - written) as u64,
            "{rate}: {written}, {summary:#?}"
        );
        assert_eq!(
            ended.stderr.contains("counted but not reported"),
            counted_only(&summary) > 0,
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn a_condition_that_may_have_matched_is_said() {
    let stage = Stage::watch(&["--kernel-rate", "1", "--comm", "nobody", "--fail-on", "v1-local"]);
    stage.python(FLOOD);
    let ended = stage.end();
    assert!(ended.stderr.contains("--kernel-rate 0"), "{}", ended.stderr);
}
