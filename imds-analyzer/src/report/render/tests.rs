//! Tests of the writers.

use std::time::{Duration, SystemTime};

use super::{ReportFormat, Style, write};
use crate::{
    event::Cause,
    golden::golden,
    loss::{Kind, Ledger},
    record::value::Micros,
    report::{
        Account, Caller, Client, Example, Head, Host, HostCaller, Input, Observed, Point, Problem, Remedy, Report,
        SCHEMA, Verdicts,
        verdict::{Finding, Outlook, Reason, Verdict},
    },
    summary::{Answers, Counts},
};

mod hostile;
mod page;

fn rendered(report: &Report, format: ReportFormat) -> String {
    let style = Style {
        color: false,
        width: Some(80),
        verbose: false,
    };
    let mut out = Vec::new();
    write(report, format, style, &mut out).expect("a Vec takes it");
    String::from_utf8(out).expect("UTF-8")
}

/// Minutes after 2026-11-22 00:00 UTC.
fn at(minutes: u64) -> Micros {
    Micros::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_305_600 + 60 * minutes))
}

fn counts(v1: u64, v2: u64, unknown: u64) -> Counts {
    Counts {
        v1,
        v2,
        unknown,
        other: 0,
    }
}

fn answers(succeeded: u64, rejected: u64) -> Answers {
    Answers {
        succeeded,
        rejected,
        ..Answers::default()
    }
}

fn finding(reason: Reason, count: u64, text: &str) -> Finding {
    Finding {
        reason: reason.into(),
        count,
        text: text.to_owned(),
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn host(name: &str, instance: &str, verdict: Verdict, reasons: Vec<Finding>) -> Host {
    Host {
        name: name.to_owned(),
        instance: some(instance),
        account: some("111122223333"),
        region: some("eu-central-1"),
        machine: some("m6i.large"),
        image: some("ami-0123456789abcdef0"),
        verdict: verdict.into(),
        reasons,
        since: Some(at(0)),
        until: Some(at(8 * 24 * 60)),
        hours: 192,
        boots: 1,
        calls: counts(0, 40, 0),
        v1_answers: Answers::default(),
        local_calls: Counts::default(),
        hop_limit: None,
        callers: Vec::new(),
    }
}

/// Calls of version 2 alone.
fn caller(name: &str, user: &str) -> Caller {
    Caller {
        caller: some(name),
        program: some("/usr/bin/program"),
        user: some(user),
        place: some("app.service"),
        local: false,
        outlook: Outlook::V2Only.into(),
        hosts: 1,
        on: vec!["ip-10-0-0-1".to_owned()],
        calls: counts(0, 40, 0),
        v1_answers: Answers::default(),
        v1_statuses: [].into(),
        v1_paths: [].into(),
        paths: [("credential", 40)].into(),
        causes: [].into(),
        unknown_reasons: [].into(),
        risks: [].into(),
        attempts: [].into(),
        token_requests: [("answered", 4)].into(),
        hop_limit: Some(64),
        clients: Vec::new(),
        remedy: None,
        first: Some(at(0)),
        last: Some(at(11_000)),
        first_v1: None,
        last_v1: None,
        example: None,
        rate_limited: 0,
    }
}

/// Calls without a token.
fn blocking(name: &str, user: &str) -> Caller {
    Caller {
        outlook: Outlook::V1Only.into(),
        hosts: 7,
        calls: counts(1234, 0, 2),
        v1_answers: answers(1200, 34),
        v1_statuses: [(200, 1200), (401, 34)].into(),
        v1_paths: [("credential", 1000), ("user-data", 234)].into(),
        paths: [("credential", 1002), ("user-data", 234)].into(),
        causes: [
            (Cause::NoTokenRequest.as_str(), 1200),
            (Cause::EmptyVariable.as_str(), 34),
        ]
        .into(),
        unknown_reasons: [("closed", 2)].into(),
        risks: [("credential-v1", 1000)].into(),
        attempts: [("refused", 3)].into(),
        clients: vec![Client {
            name: "boto3".to_owned(),
            version: some("1.9.0"),
            calls: 1234,
        }],
        remedy: Some(Remedy {
            id: "sdk-upgrade".to_owned(),
            text: "Upgrade boto3 to 1.12.6 or later.".to_owned(),
        }),
        first_v1: Some(at(60)),
        last_v1: Some(at(11_000)),
        example: Some(Example {
            path: some("/latest/meta-data/iam/security-credentials/app"),
            executable: some("/usr/bin/python3.8"),
            command_line: some("python3 run.py --config 'my app.toml'"),
        }),
        rate_limited: 5,
        ..caller(name, user)
    }
}

/// A host of each verdict.
fn sample() -> Report {
    let why = [
        finding(Reason::Rejected, 1, "34 calls rejected (401): broken now"),
        finding(
            Reason::V1,
            1,
            "1200 calls without a token, 1200 of them answered with 200",
        ),
    ];
    let mut busy = host("ip-10-0-0-1", "i-0000000000000000a", Verdict::NotReady, why.to_vec());
    busy.calls = counts(1234, 0, 2);
    busy.v1_answers = answers(1200, 34);
    busy.hop_limit = Some(2);
    busy.callers = vec![HostCaller {
        caller: some("/opt/app/run.py (app.service)"),
        user: some("app"),
        outlook: Outlook::V1Only.into(),
        calls: counts(1234, 0, 2),
        v1_answers: answers(1200, 34),
    }];
    let short = finding(Reason::TooShort, 1, "watched for 2 d of 7 d");
    let verdicts = Verdicts {
        not_ready: 1,
        unproven: 1,
        ready: 1,
    };
    Report {
        report: Head {
            schema: SCHEMA,
            version: "0.0.0",
            window_seconds: 7 * 24 * 3600,
            since: None,
            until: None,
            filtered: false,
        },
        verdict: Verdict::NotReady.into(),
        reasons: [why.as_slice(), std::slice::from_ref(&short)].concat(),
        observed: Observed {
            since: Some(at(0)),
            until: Some(at(8 * 24 * 60)),
            hosts: 3,
            verdicts,
            hours: 576,
            calls: counts(1234, 80, 2),
            v1_answers: answers(1200, 34),
            local_calls: counts(0, 3, 0),
            attempts: 3,
            loss: [(Kind::ALL[0], 3)].into_iter().collect::<Ledger>(),
        },
        hosts: vec![
            busy,
            host("ip-10-0-0-2", "i-0000000000000000b", Verdict::Unproven, vec![short]),
            host("ip-10-0-0-3", "i-0000000000000000c", Verdict::Ready, Vec::new()),
        ],
        callers: vec![
            blocking("/opt/app/run.py (app.service)", "app"),
            caller("/usr/bin/amazon-ssm-agent (amazon-ssm-agent.service)", "root"),
        ],
        accounts: vec![Account {
            id: some("111122223333"),
            verdict: Verdict::NotReady.into(),
            verdicts,
            calls: counts(1234, 80, 2),
            v1_answers: answers(1200, 34),
        }],
        series: [(0, 1000, 40), (1, 234, 20), (7, 0, 20)]
            .map(|(day, v1, v2)| Point {
                time: at(day * 24 * 60),
                seconds: 24 * 3600,
                calls: counts(v1, v2, u64::from(day == 0) * 2),
            })
            .to_vec(),
        input: Input {
            files: 3,
            lines: 2000,
            records: 1990,
            foreign: 9,
            unreadable: 1,
            problems: vec![Problem {
                file: "/var/log/imds-analyzer/imds.jsonl".to_owned(),
                line: Some(17),
                why: "cut off".to_owned(),
            }],
            ..Input::default()
        },
    }
}

#[test]
fn every_format_of_a_report_with_all_verdicts() {
    let report = sample();
    for (format, name) in [
        (ReportFormat::Text, "report.txt"),
        (ReportFormat::Markdown, "report.md"),
        (ReportFormat::Csv, "report.csv"),
        (ReportFormat::Tfvars, "report.tfvars.json"),
        (ReportFormat::Commands, "report.sh"),
        (ReportFormat::Html, "report.html"),
    ] {
        golden(&format!("report/render/testdata/{name}"), &rendered(&report, format));
    }
}
