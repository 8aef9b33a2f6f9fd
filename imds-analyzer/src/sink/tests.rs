//! Sample events, and comparison with golden files.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use imds_analyzer_ebpf::{
    abi::{Loss, OwnerHook, exchange::Outcome},
    classify::{PathClass, Reason, Verdict},
};

use super::*;
use crate::{
    event::{
        Advice, Ancestor, Answer, Attempt, Cause, Client, ClientSource, Container, FileState, HttpRequest, HttpVersion,
        Judgement, Login, NetNs, Orchestrator, Package, Platform, Process, Program, Qos, Rehearsal, Reply, Risk,
        Runtime, Source, Tap, Thread, User,
    },
    identity::{Facts, Identity},
    notice::{self, Hook, Run, Watching},
    summary::Summary,
};

/// Compares with `testdata/<name>`; `UPDATE_GOLDEN=1 cargo test` writes it instead.
pub(crate) fn golden(name: &str, actual: &str) {
    crate::golden::golden(&format!("sink/testdata/{name}"), actual);
}

/// The text that `write` writes to an output.
pub(super) fn text_of(write: impl FnOnce(Output<&mut Vec<u8>>)) -> String {
    let mut bytes = Vec::new();
    write(Output::new(&mut bytes, false));
    String::from_utf8(bytes).expect("UTF-8")
}

fn time(millis: u64) -> SystemTime {
    // 2026-11-22T09:10:11Z
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_338_611) + Duration::from_millis(millis)
}

fn strings(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn ancestor(pid: u32, name: &str, command: &str) -> Ancestor {
    Ancestor {
        pid,
        name: name.to_owned(),
        executable: Some(format!("/usr/bin/{name}")),
        args: strings(command),
        user_id: Some(0),
    }
}

fn target(event: &mut Event, class: PathClass, path: &str) {
    event.path_class = class;
    event.http.target = Some(path.to_owned());
    event.http.path = Some(path.to_owned());
}

/// An event with every field.
pub(crate) fn full_event() -> Event {
    let path = "/latest/meta-data/iam/security-credentials/app";
    let process = Process {
        pid: 1234,
        name: "python3".to_owned(),
        caller: "/opt/app/run.py (docker.io/library/app:1.2)".to_owned(),
        program: "/opt/app/run.py".to_owned(),
        run_by: None,
        network_helper: false,
        source: Source::Kernel,
        executable: Some("/usr/bin/python3.8".to_owned()),
        executable_trusted: true,
        executable_claimed: true,
        args: strings("python3 run.py"),
        args_truncated: true,
        start: Some(time(0) - Duration::from_secs(4211)),
        working_directory: Some("/opt/app".to_owned()),
        ancestors: vec![
            ancestor(1200, "supervisord", "/usr/bin/supervisord -n"),
            ancestor(1, "systemd", "/sbin/init"),
        ],
        user: User {
            id: Some(1000),
            name: Some("app".to_owned()),
        },
        group_id: Some(1000),
        login: Some(Login {
            user: User {
                id: Some(1001),
                name: Some("alice".to_owned()),
            },
            session: Some(7),
        }),
        unit: Some("user@1001.service".to_owned()),
        system_unit: Some("user@1001.service".to_owned()),
        slice: Some("user-1001.slice".to_owned()),
        user_unit: Some("app.service".to_owned()),
        user_slice: Some("app.slice".to_owned()),
        session: Some("c3".to_owned()),
        container: Some(Container {
            id: "0123456789abcdef".repeat(4),
            runtime: Some(Runtime::Containerd),
            name: Some("app".to_owned()),
            image: Some("docker.io/library/app:1.2".to_owned()),
        }),
        orchestrator: Some(Orchestrator {
            qos: Some(Qos::Burstable),
            name: Some("app-0".to_owned()),
            namespace: Some("prod".to_owned()),
            cluster: Some("blue".to_owned()),
            ..Orchestrator::new(Platform::Kubernetes, "1b4e28ba-2fa1-11d2-883f-0016d3cca427".to_owned())
        }),
        user_container: Some(Container {
            id: "abcd".repeat(16),
            runtime: Some(Runtime::Podman),
            ..Container::default()
        }),
    };
    Event {
        time: time(0) + Duration::from_micros(123_456),
        verdict: Verdict::V1,
        reason: None,
        path_class: PathClass::Credential,
        tap: Tap::Wire,
        owner: Some(OwnerHook::TpBtf),
        net_ns: NetNs::Other,
        local: false,
        forwarded: true,
        malformed: true,
        sender_pages: true,
        rehearsal: Rehearsal::Nothing,
        relay: false,
        http: HttpRequest {
            method: Some("GET".to_owned()),
            target: Some(format!("{path}?x=1")),
            path: Some(path.to_owned()),
            version: Some(HttpVersion::Http11),
            user_agent: Some("Boto3/1.9.0 Python/3.8 \"quoted\"".to_owned()),
        },
        answer: Answer::Answered(Reply {
            status: 200,
            duration: Duration::from_micros(1834),
            hop_limit: Some(1),
        }),
        judgement: Judgement {
            cause: Some(Cause::TokenUnanswered),
            token_status: Some(403),
            token_hop_limit: Some(1),
            client: Some(Client {
                name: "botocore",
                version: Some("1.12.253".to_owned()),
                source: ClientSource::DistInfo,
                path: Some("/opt/app/venv/lib/botocore-1.12.253.dist-info".to_owned()),
            }),
            program: Some(Arc::new(Program {
                path: "/opt/app/bin/app".to_owned(),
                package: Some(Package {
                    name: "app".to_owned(),
                    version: Some("1.2-3".to_owned()),
                }),
                states: vec![FileState::WritableByOthers],
            })),
            remedy: Some(Advice {
                id: "botocore-upgrade".into(),
                text: "Upgrade botocore to 1.13.25 or later.".into(),
            }),
            risks: vec![Risk::CredentialV1, Risk::Forwarded],
        },
        source: "10.0.0.5:43210".parse().expect("an address"),
        destination: "[::ffff:169.254.169.254]:80".parse().expect("an address"),
        packet_destination: Some("127.0.0.1:8080".parse().expect("an address")),
        process: Some(Arc::new(process)),
        thread: Some(Thread {
            id: 1240,
            name: "worker".to_owned(),
        }),
    }
}

/// An event without optional fields.
pub(crate) fn minimal_event() -> Event {
    Event {
        time: time(0),
        verdict: Verdict::V2,
        reason: None,
        path_class: PathClass::NotImds,
        tap: Tap::Wire,
        owner: None,
        net_ns: NetNs::Host,
        local: false,
        forwarded: false,
        malformed: false,
        sender_pages: false,
        rehearsal: Rehearsal::Nothing,
        relay: false,
        http: HttpRequest::default(),
        answer: Answer::Unseen,
        judgement: Judgement::default(),
        source: "[fd00::5]:43210".parse().expect("an address"),
        destination: "[fd00:ec2::254]:80".parse().expect("an address"),
        packet_destination: None,
        process: None,
        thread: None,
    }
}

/// An event that could not be judged, from a process of which little is known.
pub(crate) fn unknown_event() -> Event {
    let process = Process {
        pid: 77,
        name: "nc".to_owned(),
        caller: "[nc]".to_owned(),
        program: "[nc]".to_owned(),
        source: Source::Proc,
        ..Process::default()
    };
    Event {
        time: time(4),
        verdict: Verdict::Unknown,
        reason: Some(Reason::Closed),
        answer: Answer::None,
        owner: Some(OwnerHook::Connect),
        process: Some(Arc::new(process)),
        ..minimal_event()
    }
}

/// A host with every field.
pub(crate) fn full_host() -> Identity {
    let text = |text: &str| Some(text.to_owned());
    Identity {
        name: "ip-10-0-0-1".to_owned(),
        cloud: Facts {
            name: None,
            provider: text("aws"),
            account_id: text("123456789012"),
            region: text("eu-west-1"),
            availability_zone: text("eu-west-1a"),
            instance_id: text("i-0123456789abcdef0"),
            machine_type: text("c6a.2xlarge"),
            image_id: text("ami-0123456789abcdef0"),
        },
        labels: [("team".to_owned(), "payments".to_owned())].into(),
    }
}

pub(crate) fn attempt() -> Attempt {
    let event = full_event();
    Attempt {
        time: time(1),
        outcome: Outcome::Timeout,
        duration: Duration::from_millis(1_001),
        owner: Some(OwnerHook::Connect),
        net_ns: NetNs::Other,
        local: false,
        source: Some(event.source),
        destination: event.destination,
        process: event.process,
        thread: event.thread,
    }
}

/// Events of many kinds.
pub(crate) fn samples() -> Vec<Event> {
    let mut events = vec![full_event(), minimal_event(), unknown_event()];

    let mut shell = full_event();
    shell.time = time(1250);
    (shell.net_ns, shell.thread) = (NetNs::Host, None);
    target(
        &mut shell,
        PathClass::Plain,
        "/latest/meta-data/placement/availability-zone",
    );
    let mut process = shell.process.as_deref().cloned().unwrap_or_default();
    (process.pid, process.name, process.container) = (2212, "curl".to_owned(), None);
    (process.user_unit, process.user_slice, process.session) = (None, None, None);
    (process.login, process.orchestrator) = (None, None);
    process.slice = Some("system.slice".to_owned());
    process.executable = Some("/usr/bin/curl".to_owned());
    process.program = "/usr/bin/curl".to_owned();
    process.caller = "/usr/bin/curl (cron.service)".to_owned();
    process.user = User {
        id: Some(0),
        name: Some("root".to_owned()),
    };
    process.unit = Some("cron.service".to_owned());
    process.ancestors = vec![
        ancestor(2210, "sh", "sh -c x"),
        ancestor(412, "cron", "cron -f"),
        ancestor(1, "systemd", "init"),
    ];
    shell.process = Some(Arc::new(process.clone()));
    events.push(shell.clone());

    let mut token = shell.clone();
    token.verdict = Verdict::V2TokenRequest;
    token.http.method = Some("PUT".to_owned());
    target(&mut token, PathClass::Token, "/latest/api/token");
    (process.pid, process.name, process.unit) = (
        900,
        "amazon-ssm-agen".to_owned(),
        Some("amazon-ssm-agent.service".to_owned()),
    );
    process.executable = Some("/snap/amazon-ssm-agent/7993/amazon-ssm-agent".to_owned());
    process.program = "/snap/amazon-ssm-agent/*/amazon-ssm-agent".to_owned();
    process.caller = format!("{} (amazon-ssm-agent.service)", process.program);
    process.ancestors = vec![ancestor(1, "systemd", "init")];
    token.process = Some(Arc::new(process.clone()));
    events.push(token.clone());

    let mut v2 = token.clone();
    (v2.verdict, v2.http.method) = (Verdict::V2, Some("GET".to_owned()));
    target(
        &mut v2,
        PathClass::Identity,
        "/latest/dynamic/instance-identity/document",
    );
    events.push(v2.clone());
    (v2.verdict, v2.local) = (Verdict::V2EmptyToken, true);
    events.push(v2.clone());
    v2.verdict = Verdict::InvalidTokenRequest;
    v2.answer = Answer::Answered(Reply {
        status: 400,
        duration: Duration::from_millis(2),
        hop_limit: Some(64),
    });
    events.push(v2);

    let mut other = shell;
    other.verdict = Verdict::OtherCloud;
    target(&mut other, PathClass::NotImds, "/computeMetadata/v1/instance/");
    (process.pid, process.name) = (3001, "MainThread".to_owned());
    process.user.name = None;
    process.ancestors = (1..=7).rev().map(|pid| ancestor(pid * 100, "bash", "bash")).collect();
    other.process = Some(Arc::new(process));
    events.push(other);
    events
}

/// Notices of every kind.
pub(crate) fn notices(mut take: impl FnMut(SystemTime, &Notice<'_>)) {
    let hooks = [
        Hook {
            name: "imds_egress",
            attached: true,
            reason: "reads requests off the wire",
        },
        Hook {
            name: "imds_tp_btf",
            attached: false,
            reason: "this kernel has no BTF",
        },
    ];
    let loss = [(Loss::RequestRing, 3)].into_iter().collect();
    let mut summary = Summary::new();
    samples().iter().for_each(|event| summary.add(event));
    summary.add_attempt(false, None);
    let kernel = "6.8.0-1021-aws";
    let run = Run {
        attached: Some(time(0)),
        boot_id: Some("5f1b3c62-0f0e-4c1d-9f0a-2b4d6e8f0a1c".to_owned()),
        uptime: Duration::from_secs(42),
    };
    take(
        time(0),
        &Notice::Start {
            kernel,
            hooks: &hooks,
            run: &run,
        },
    );
    let mut watching = Watching {
        calls: summary.total(false),
        ..Watching::default()
    };
    watching.ignored.v2 = 1;
    take(time(1), &Notice::Watching(&watching));
    take(time(1), &Notice::Loss(&loss));
    let event = &full_event();
    let first = notice::First {
        v1: true,
        credential: true,
    };
    take(time(1), &Notice::FirstSeen { event, first });
    let folded = notice::Folded {
        caller: Some("/opt/app/run.py".to_owned()),
        user: User {
            id: Some(1000),
            name: Some("app".to_owned()),
        },
        unit: Some("app.service".to_owned()),
        container: None,
        counts: summary.total(false),
        local: summary.total(true),
        answers: summary.answers(false),
        credential: 1,
        since: time(0),
        until: time(1),
    };
    take(time(1), &Notice::RateLimited(&folded));
    take(time(1), &Notice::Attempt(&attempt()));
    let summary = &summary;
    let rehearsal = notice::RehearsalOutcome {
        dry_run: false,
        refused: 3,
        unanswered: 1,
        let_through: [("device".to_owned(), 1)].into(),
        callers: vec![notice::CallerOutcome {
            caller: "/opt/app/run.py app.service".to_owned(),
            refused: 3,
            processes: 2,
            tried_again: 1,
            fell_back: 1,
            exited: 0,
            gave_up: 1,
        }],
        ended_early: None,
    };
    take(time(2), &Notice::Rehearsal(&rehearsal));
    take(time(2), &Notice::Summary { summary, loss: &loss });
}

/// Accepts nothing, like a pipe whose reader is gone.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_output_is_told_apart() {
    let mut sink = json::JsonSink::new(Output::new(Closed, true), Identity::named("host"));
    assert!(sink.write(&full_event()).is_err_and(|error| is_closed(&error)));
    let mut sink = json::JsonSink::new(Output::new(Closed, false), Identity::named("host"));
    assert!(sink.write(&full_event()).is_ok());
    assert!(sink.flush().is_err_and(|error| is_closed(&error)));
    assert!(!is_closed(&io::ErrorKind::StorageFull.into()));
}

#[test]
fn lines_are_seen_at_once_or_with_flush() {
    for flush_lines in [true, false] {
        let mut bytes = Vec::new();
        let mut output = Output::new(&mut bytes, flush_lines);
        output.write_line(b"a\n").expect("a buffer takes all");
        assert_eq!(output.writer.buffer().is_empty(), flush_lines);
        output.flush().expect("a buffer takes all");
        assert!(output.writer.buffer().is_empty());
    }
}
