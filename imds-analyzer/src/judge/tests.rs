#![allow(clippy::unwrap_used, reason = "a failed assertion is the point of a test")]

use std::{sync::Arc, time::Duration};

use imds_analyzer_ebpf::classify::PathClass;

use super::*;
use crate::{
    event::{Ancestor, Answer, Process, Reply, Risk},
    sink::tests::full_event,
};

const SECOND: u64 = 1_000_000_000;

/// A call by process `pid` of the caller `/opt/app/run.py`.
fn call(pid: u32, verdict: Verdict, answer: Answer) -> (Event, Task) {
    let mut event = full_event();
    let mut process = event.process.as_deref().cloned().unwrap();
    process.pid = pid;
    event.process = Some(Arc::new(process));
    (event.verdict, event.answer, event.forwarded) = (verdict, answer, false);
    event.path_class = PathClass::Plain;
    event.judgement = Default::default();
    let task = Task {
        tgid: pid,
        start: 7,
        ..Task::default()
    };
    (event, task)
}

const fn replied(status: u16) -> Answer {
    Answer::Answered(Reply {
        status,
        duration: Duration::from_millis(1),
        hop_limit: Some(63),
    })
}

/// Judges calls one after the other, each at its own second.
struct Script(Judge);

impl Script {
    fn new() -> Self {
        Self(Judge::new(Remedies::built_in()))
    }

    fn judged(&mut self, second: u64, (mut event, task): (Event, Task)) -> Event {
        let noted = self.0.sent(&event, &task, 0, second * SECOND);
        self.0.judge(&mut event, noted, second * SECOND);
        event
    }

    /// The cause of a v1 call by `pid`.
    fn v1(&mut self, second: u64, pid: u32) -> Option<Cause> {
        self.judged(second, call(pid, Verdict::V1, replied(200)))
            .judgement
            .cause
    }

    fn token(&mut self, second: u64, pid: u32, answer: Answer) {
        self.judged(second, call(pid, Verdict::V2TokenRequest, answer));
    }
}

#[test]
fn what_came_of_the_last_token_request_is_the_cause() {
    for (answer, expected) in [
        (replied(200), Some(Cause::TokenUnused)),
        (replied(403), Some(Cause::TokenRefused)),
        (replied(503), Some(Cause::TokenRefused)),
        (Answer::None, Some(Cause::TokenUnanswered)),
        (Answer::Unseen, None),
    ] {
        let mut script = Script::new();
        assert_eq!(script.v1(0, 1), Some(Cause::NoTokenRequest));
        script.token(1, 1, answer);
        assert_eq!(script.v1(2, 1), expected, "{answer:?}");
        // A process is remembered, however much time passes.
        assert_eq!(script.v1(100_000, 1), expected, "{answer:?}");
    }
}

#[test]
fn a_caller_that_does_not_wait_for_its_token_got_no_answer() {
    let mut script = Script::new();
    let (put, task) = call(1, Verdict::V2TokenRequest, Answer::Unseen);
    let noted = script.0.sent(&put, &task, 0, 0);
    let event = script.judged(1, call(1, Verdict::V1, replied(200)));
    assert_eq!(event.judgement.cause, Some(Cause::TokenUnanswered));
    assert_eq!(&*event.judgement.remedy.unwrap().id, "hop-limit");
    // The answer comes after all.
    let mut put = put;
    put.answer = replied(200);
    script.0.judge(&mut put, noted, 2 * SECOND);
    assert_eq!(script.v1(3, 1), Some(Cause::TokenUnused));
}

#[test]
fn a_script_that_asked_with_one_tool_calls_with_another() {
    // The caller, and the names and pids of the tool's ancestors.
    type Tool<'a> = (&'a str, &'a [(&'a str, u32)]);
    let by = |(caller, above): Tool<'_>, (mut event, task): (Event, Task)| {
        let mut process = event.process.as_deref().cloned().unwrap();
        process.caller = caller.to_owned();
        let ancestor = |&(name, pid): &(&str, u32)| Ancestor {
            name: name.to_owned(),
            pid,
            ..Ancestor::default()
        };
        process.ancestors = above.iter().map(ancestor).collect();
        event.process = Some(Arc::new(process));
        (event, task)
    };
    const CALLER: &str = "/opt/backup.sh > /usr/bin/curl";
    let asks: Tool<'_> = (CALLER, &[("backup.sh", 41), ("backup.sh", 40), ("cron", 9)]);
    for (second, calls, expected) in [
        // The token came through a command substitution, which is a subshell.
        (599, (CALLER, &[("backup.sh", 40), ("cron", 9)][..]), Cause::TokenUnused),
        (601, (CALLER, &[("backup.sh", 40), ("cron", 9)]), Cause::NoTokenRequest),
        // Another run of the script; another tool; a program that is its own caller.
        (1, (CALLER, &[("backup.sh", 50), ("cron", 9)]), Cause::NoTokenRequest),
        (
            1,
            ("/opt/backup.sh > /usr/bin/wget", &[("backup.sh", 40), ("cron", 9)]),
            Cause::NoTokenRequest,
        ),
        (
            1,
            ("/opt/backup.sh", &[("backup.sh", 40), ("cron", 9)]),
            Cause::NoTokenRequest,
        ),
    ] {
        let mut script = Script::new();
        script.judged(0, by(asks, call(1, Verdict::V2TokenRequest, replied(200))));
        let judged = script.judged(second, by(calls, call(2, Verdict::V1, replied(200))));
        assert_eq!(judged.judgement.cause, Some(expected), "{second} {calls:?}");
    }
}

#[test]
fn a_library_in_files_that_knows_tokens_and_asked_for_none_made_no_call() {
    let client = |version: &str, source| Client {
        name: "botocore",
        version: Some(version.to_owned()),
        source,
        path: None,
    };
    let mut judge = Judge::new(Remedies::built_in());
    judge.since = Some(5);
    for (version, source, start, expected) in [
        // Old enough not to ask; said by itself; there before anybody watched.
        ("1.12.0", ClientSource::DistInfo, 7, false),
        ("1.43.0", ClientSource::UserAgent, 7, false),
        ("1.43.0", ClientSource::DistInfo, 3, false),
        ("1.43.0", ClientSource::DistInfo, 7, true),
    ] {
        let (event, mut task) = call(1, Verdict::V1, replied(200));
        task.start = start;
        let who = judge.history.who(&event, &task);
        let judgement = Judgement {
            cause: Some(Cause::NoTokenRequest),
            client: Some(client(version, source)),
            ..Judgement::default()
        };
        assert_eq!(
            judge.contradicts(&judgement, who),
            expected,
            "{version} {source:?} {start}"
        );
    }
}

#[test]
fn a_later_answer_does_not_replace_that_of_a_later_request() {
    let mut script = Script::new();
    let (first, task) = call(1, Verdict::V2TokenRequest, Answer::None);
    let noted = script.0.sent(&first, &task, 0, 0);
    script.token(1, 1, replied(200));
    let mut first = first;
    script.0.judge(&mut first, noted, 5 * SECOND);
    assert_eq!(script.v1(6, 1), Some(Cause::TokenUnused));
}

#[test]
fn the_hop_limit_of_token_answers_goes_with_those_that_have_none() {
    let mut script = Script::new();
    script.token(0, 1, replied(200));
    script.token(1, 2, Answer::None);
    let event = script.judged(2, call(2, Verdict::V1, replied(200)));
    assert_eq!(event.judgement.token_hop_limit, Some(63));
    let event = script.judged(2, call(1, Verdict::V1, replied(200)));
    assert_eq!(event.judgement.token_hop_limit, None);
}

#[test]
fn arguments_that_name_the_header_are_an_empty_variable() {
    for (args, expected) in [
        ("curl -H X-aws-ec2-metadata-token:", Cause::EmptyVariable),
        ("curl -Hx-AWS-ec2-metadata-TOKEN:", Cause::EmptyVariable),
        ("curl -H X-aws-ec2-metadata-token-ttl-seconds:60", Cause::NoTokenRequest),
        ("curl http://169.254.169.254/", Cause::NoTokenRequest),
    ] {
        let (mut event, task) = call(1, Verdict::V1, replied(200));
        let mut process = event.process.as_deref().cloned().unwrap();
        process.args = args.split(' ').map(str::to_owned).collect();
        event.process = Some(Arc::new(process));
        let event = Script::new().judged(0, (event, task));
        assert_eq!(event.judgement.cause, Some(expected), "{args}");
    }
}

#[test]
fn rejected_calls_have_a_cause_and_others_have_none() {
    for (verdict, forwarded, answer, expected) in [
        (Verdict::V2, false, replied(401), Some(Cause::TokenRejected)),
        (Verdict::V2EmptyToken, false, replied(401), Some(Cause::TokenRejected)),
        (Verdict::V2, false, replied(200), None),
        (Verdict::V2, false, Answer::None, None),
        (Verdict::InvalidTokenRequest, true, replied(403), Some(Cause::Forwarded)),
        (Verdict::InvalidTokenRequest, false, replied(403), None),
        (Verdict::V2TokenRequest, false, replied(400), Some(Cause::TtlInvalid)),
        (
            Verdict::InvalidTokenRequest,
            false,
            replied(400),
            Some(Cause::TtlInvalid),
        ),
        (Verdict::OtherCloud, false, replied(404), None),
        (Verdict::Unknown, false, replied(400), None),
    ] {
        let (mut event, task) = call(1, verdict, answer);
        event.forwarded = forwarded;
        let event = Script::new().judged(0, (event, task));
        assert_eq!(event.judgement.cause, expected, "{verdict:?} {answer:?}");
    }
    let (mut event, task) = call(1, Verdict::V1, replied(200));
    event.process = None;
    let event = Script::new().judged(0, (event, task));
    assert_eq!(event.judgement.cause, None, "nobody is known");
}

#[test]
fn credentials_that_were_not_given_are_no_risk() {
    for (answer, expected) in [
        (replied(200), true),
        (Answer::Unseen, true),
        (replied(401), false),
        (replied(404), false),
        (Answer::None, false),
    ] {
        let (mut event, task) = call(1, Verdict::V1, answer);
        event.path_class = PathClass::Credential;
        let risks = Script::new().judged(0, (event, task)).judgement.risks;
        assert_eq!(risks.contains(&Risk::CredentialV1), expected, "{answer:?}");
    }
}

#[test]
fn risks_of_a_call() {
    let mut script = Script::new();
    let mut risks = |path_class, change: &dyn Fn(&mut Process), facts| {
        let (mut event, task) = call(1, Verdict::V1, replied(200));
        let mut process = event.process.as_deref().cloned().unwrap();
        change(&mut process);
        event.process = Some(Arc::new(process));
        event.path_class = path_class;
        let noted = script.0.sent(&event, &task, facts, 0);
        script.0.judge(&mut event, noted, 0);
        event.judgement.risks
    };
    let nothing: &dyn Fn(&mut Process) = &|_| {};
    assert_eq!(risks(PathClass::Plain, nothing, 0), [Risk::NewCaller]);
    assert_eq!(risks(PathClass::Plain, nothing, 0), []);
    assert_eq!(risks(PathClass::Credential, nothing, 0), [Risk::CredentialV1]);
    assert_eq!(
        risks(PathClass::Plain, nothing, facts::FOREIGN_HEADER),
        [Risk::OtherCloudHeader]
    );
    let below = |name: &'static str| {
        move |process: &mut Process| {
            process.ancestors.insert(
                1,
                Ancestor {
                    name: name.to_owned(),
                    ..Ancestor::default()
                },
            );
        }
    };
    for (name, is) in [
        ("php-fpm8.2", true),
        ("nginx", true),
        ("gunicorn: worke", true),
        ("sshd", false),
    ] {
        assert_eq!(
            risks(PathClass::UserData, &below(name), 0).contains(&Risk::ServerChild),
            is,
            "{name}"
        );
        assert!(!risks(PathClass::Plain, &below(name), 0).contains(&Risk::ServerChild));
    }
}

#[test]
fn clients_by_their_user_agents() {
    for (user_agent, expected) in [
        (
            "Boto3/1.9.0 Python/3.8.10 Linux/5.4 Botocore/1.12.0",
            Some(("botocore", Some("1.12.0"))),
        ),
        ("Botocore/1.13.25 Python/3.8", Some(("botocore", Some("1.13.25")))),
        (
            "aws-cli/1.16.1 Python/3.6 Linux/4.15 botocore/1.12.2",
            Some(("aws-cli", Some("1.16.1"))),
        ),
        (
            "aws-cli/2.15.0 md/awscrt#0.19.19 exec-env/x",
            Some(("aws-cli", Some("2.15.0"))),
        ),
        (
            "aws-sdk-go/1.25.37 (go1.13; linux; amd64)",
            Some(("aws-sdk-go", Some("1.25.37"))),
        ),
        (
            "aws-sdk-go-v2/1.36.1 ua/2.1 os/linux lang/go#1.24.2 ft/ec2-imds",
            Some(("aws-sdk-go-v2", Some("1.36.1"))),
        ),
        (
            "aws-sdk-java/1.11.534 Linux/4.14 OpenJDK",
            Some(("aws-sdk-java", Some("1.11.534"))),
        ),
        (
            "aws-sdk-java/2.10.20 Linux/4.14",
            Some(("aws-sdk-java-v2", Some("2.10.20"))),
        ),
        (
            "aws-sdk-nodejs/2.400.0 linux/v12",
            Some(("aws-sdk-js", Some("2.400.0"))),
        ),
        (
            "aws-sdk-php/3.100.0 GuzzleHttp/6",
            Some(("aws-sdk-php", Some("3.100.0"))),
        ),
        ("aws-sdk-ruby3/3.78.0 ruby/2.6", Some(("aws-sdk-ruby", Some("3.78.0")))),
        (
            "MinIO (linux; amd64) minio-go/v7.0.10",
            Some(("minio-go", Some("7.0.10"))),
        ),
        ("Cloud-Init/19.4", Some(("cloud-init", Some("19.4")))),
        ("curl/8.5.0", Some(("curl", Some("8.5.0")))),
        ("Wget/1.21.4", Some(("wget", Some("1.21.4")))),
        ("Python-urllib/3.11", Some(("python-urllib", Some("3.11")))),
        ("Java/1.8.0_292", Some(("java", Some("1.8.0_292")))),
        ("node", Some(("node", None))),
        ("curl/", Some(("curl", None))),
        ("Mozilla/5.0", None),
        ("", None),
    ] {
        let client = client::of_user_agent(user_agent);
        let found = client.as_ref().map(|client| (client.name, client.version.as_deref()));
        assert_eq!(found, expected, "{user_agent}");
    }
    let long = format!("curl/{}", "1".repeat(1000));
    assert!(client::of_user_agent(&long).unwrap().version.unwrap().len() <= 32);
}
