//! Written records are read back, and lines that are not records give the right error.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use imds_analyzer_ebpf::{
    abi::{Loss, OwnerHook},
    classify::{PathClass, Verdict, Version},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    event::{Endpoint, HttpVersion, NetNs, Platform, Qos, Runtime, Source, Tap, User, Workload},
    identity::Identity,
    loss::{Kind, Ledger},
    notice::{CallerOutcome, First, Folded, Hook, RehearsalOutcome, Run, Watching},
    sink::{
        json,
        tests::{full_event, minimal_event, samples},
    },
    summary::{Call, Summary},
    vocabulary::Vocabulary,
};

mod events;

use self::events::{any_event, any_text, any_time};

static HOST: LazyLock<Identity> = LazyLock::new(|| Identity::named("ip-10-0-0-1"));

/// Lines of this schema from these days. They must not change, because logs keep such lines.
const FIRST_LINES: &str = include_str!("fixtures/2026-11-22.jsonl");
const LINES: &str = include_str!("fixtures/2026-11-29.jsonl");

/// The line of `record`.
fn line(record: &Record<'_>) -> Vec<u8> {
    json::line(record).expect("no I/O")
}

#[track_caller]
fn is_read_back(record: &Record<'_>) {
    let written = line(record);
    let read = read(&written).expect("a record");
    assert_eq!(read, *record);
    assert_eq!(line(&read), written);
}

#[track_caller]
fn request<'a>(record: &'a Record<'a>) -> &'a request::Request<'a> {
    let Body::Request(request) = &record.body else {
        unreachable!("a request: {record:?}");
    };
    request
}

#[track_caller]
fn brief(line: &[u8]) -> Brief<'_> {
    Brief::read(std::str::from_utf8(line).expect("UTF-8")).expect("a record")
}

/// Fails unless a [`Reader`] reads `lines`, one after another, as [`Brief::read`] reads each of them.
#[track_caller]
fn is_read_alike<L: AsRef<[u8]>>(lines: impl IntoIterator<Item = L>) {
    let mut memory = Memory::default();
    let mut reader = Reader::new(&mut memory);
    for line in lines {
        let Ok(text) = std::str::from_utf8(line.as_ref()) else {
            continue;
        };
        let text = text.trim_end_matches('\n');
        let alone = Brief::read(text).map(|brief| format!("{brief:?}"));
        assert_eq!(reader.read(text).map(|brief| format!("{brief:?}")), alone, "{text}");
    }
}

fn as_json(event: &Event) -> Value {
    serde_json::from_slice(&line(&Record::of_request(event, &HOST))).expect("JSON")
}

proptest! {
    #[test]
    fn requests_are_read_back(event in any_event(), host in any_text()) {
        is_read_back(&Record::of_request(&event, &Identity::named(&host)));
    }

    #[test]
    fn lines_after_others_are_read_like_the_first(events in prop::collection::vec(any_event(), 1..6)) {
        let lines: Vec<_> = events.iter().map(|event| line(&Record::of_request(event, &HOST))).collect();
        is_read_alike(lines.iter().chain(&lines).chain(lines.iter().rev()));
    }

    #[test]
    fn a_call_is_the_same_seen_and_read(event in any_event()) {
        let record = Record::of_request(&event, &HOST);
        let line = line(&record);
        let (brief, read) = (brief(&line), read(&line).expect("a record"));
        prop_assert_eq!(Call::from(&brief), Call::from(&event));
        prop_assert_eq!(Call::from(request(&record)), Call::from(&event));
        prop_assert_eq!(Call::from(request(&read)), Call::from(&event));
    }

    #[test]
    fn notices_are_read_back(
        events in prop::collection::vec(any_event(), 1..6),
        names in prop::collection::vec(any_text(), 4),
        counts in prop::collection::vec((prop::sample::select(Kind::ALL), any::<u64>()), 0..6),
        (since, until) in (any_time(), any_time()),
        bits in any::<u8>(),
    ) {
        let bit = |number: u8| bits & 1 << number != 0;
        let hooks: Vec<Hook<'_>> = names
            .iter()
            .enumerate()
            .map(|(index, name)| Hook { name, attached: index % 2 == 0, reason: name })
            .collect();
        let loss: Ledger = counts.into_iter().collect();
        let mut summary = Summary::new();
        events.iter().for_each(|event| summary.add(event));
        let folded = Folded {
            caller: Some(names[0].clone()).filter(|_| bit(0)),
            user: User { id: Some(7).filter(|_| bit(1)), name: Some(names[1].clone()).filter(|_| bit(2)) },
            unit: Some(names[2].clone()).filter(|_| bit(3)),
            container: Some(names[3].clone()).filter(|_| bit(4)),
            counts: summary.total(false),
            local: summary.total(true),
            answers: summary.answers(false),
            credential: u64::from(bits),
            since,
            until,
        };
        let run = Run {
            attached: Some(until).filter(|_| bit(5)),
            boot_id: Some(names[2].clone()).filter(|_| bit(6)),
            uptime: Duration::from_secs(u64::from(bits)),
        };
        let rehearsal = RehearsalOutcome {
            dry_run: bit(0),
            refused: u64::from(bits),
            unanswered: 1,
            let_through: names.iter().map(|name| (name.clone(), 1)).collect(),
            callers: names.iter().map(|name| CallerOutcome { caller: name.clone(), ..CallerOutcome::default() }).collect(),
            ended_early: Some(names[0].clone()).filter(|_| bit(1)),
        };
        let run = if run.attached.is_some() { run } else { Run::default() };
        for notice in [
            Notice::Start { kernel: &names[0], hooks: &hooks, run: &run },
            Notice::Watching(&Watching { calls: summary.total(false), ignored: summary.total(true) }),
            Notice::Loss(&loss),
            Notice::FirstSeen { event: &events[0], first: First { v1: bit(0), credential: bit(1) } },
            Notice::RateLimited(&folded),
            Notice::Rehearsal(&rehearsal),
            Notice::Summary { summary: &summary, loss: &loss },
        ] {
            is_read_back(&Record::of_notice(since, &notice, &Identity::named(&names[1])));
        }
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        prop_assert!(read(&bytes).is_err());
    }

    /// Changes a few bytes of a record's line.
    #[test]
    fn spoilt_lines_are_a_record_or_an_error(
        event in any_event(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let unspoilt = line(&Record::of_request(&event, &HOST));
        let mut line = unspoilt.clone();
        for (at, byte) in changes {
            let at = at.index(line.len());
            line[at] = byte;
        }
        let _ = read(&line);
        is_read_alike([&unspoilt, &line, &unspoilt]);
    }

    /// Replaces a value somewhere in a record by one of another type.
    #[test]
    fn no_value_of_another_type_panics(at in any::<prop::sample::Index>(), kind in 0..6_usize) {
        fn places(value: &Value, at: &str, found: &mut Vec<String>) {
            found.push(at.to_owned());
            match value {
                Value::Object(fields) => fields.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), found)),
                Value::Array(items) => items.iter().enumerate().for_each(|(key, value)| places(value, &format!("{at}/{key}"), found)),
                _ => {}
            }
        }
        let mut record = as_json(&full_event());
        let mut found = Vec::new();
        places(&record, "", &mut found);
        let place = &found[at.index(found.len())];
        let other = [json!(null), json!(true), json!(-1), json!("x"), json!([]), json!({})][kind].clone();
        *record.pointer_mut(place).expect("it is there") = other;
        let line = record.to_string();
        let _ = read(line.as_bytes());
        is_read_alike([as_json(&full_event()).to_string(), line]);
    }
}

#[test]
fn odd_json_after_a_line_is_read_as_if_it_came_alone() {
    let line = FIRST_LINES.lines().next().expect("a line");
    let changes = [
        (
            ",\"process\":",
            ",\"process\":{\"pid\":1,\"name\":\"other\"},\"process\":",
        ),
        (",\"process\":", ", \"process\" : "),
        (",\"process\":", ",\"pro\\u0063ess\":"),
        (",\"process\":", ",\"x\":12,\"process\":"),
        (",\"process\":", ",\"x\":1 2,\"process\":"),
        (",\"process\":", ",\"x\":\"a\\\"b\",\"process\":"),
        (",\"process\":", ",\"x\":[{\"a\":[1,2]}],\"process\":"),
        (",\"process\":", ",\"x\":[{\"a\":[1,2}],\"process\":"),
        (",\"process\":", ",,\"process\":"),
        (",\"process\":", "\"process\":"),
        ("{\"@timestamp\":", " {\"@timestamp\":"),
        ("{\"@timestamp\":", "{\"@timestamp\":null,\"@timestamp\":"),
        ("{\"@timestamp\":", "{\"cloud\":null,\"@timestamp\":"),
        ("{\"@timestamp\":", "{\"cloud\":{},\"@timestamp\":"),
        ("{\"@timestamp\":", "[\"@timestamp\":"),
    ];
    for (from, to) in changes {
        let changed = line.replacen(from, to, 1);
        assert_ne!(changed, line);
        is_read_alike([line, &changed, line, &changed]);
    }
    for end in ["}", " ", ",", ",}", "x", "{}"] {
        is_read_alike([line, &format!("{line}{end}"), line]);
    }
    for length in 0..line.len() {
        is_read_alike([line, &line[..length]]);
    }
}

#[test]
fn more_parts_than_there_is_room_for_are_read() {
    let line = FIRST_LINES.lines().next().expect("a line");
    let mut memory = Memory::default();
    let mut reader = Reader::new(&mut memory);
    for part in ["process", "imds", "host"] {
        let lines = (0..2000).map(|number| {
            let changed = line.replacen(&format!("\"{part}\":{{"), &format!("\"{part}\":{{\"x\":{number},"), 1);
            assert_ne!(changed, line);
            changed
        });
        let lines: Vec<_> = lines.collect();
        for line in &lines {
            assert!(reader.read(line).is_ok(), "{line}");
        }
        assert!(reader.is_full());
        is_read_alike(&lines);
    }
}

#[test]
fn times_are_read_in_every_form_of_rfc_3339() {
    let mut record = as_json(&minimal_event());
    for (text, micros) in [
        ("2026-11-22T09:10:11Z", 0),
        ("2026-11-22T09:10:11.5Z", 500_000),
        ("2026-11-22T09:10:11.123456789Z", 123_456),
    ] {
        record["@timestamp"] = json!(text);
        let line = record.to_string();
        let time = read(line.as_bytes()).expect("a record").envelope.timestamp.time();
        let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_338_611) + Duration::from_micros(micros);
        assert_eq!(value::Micros::new(time), value::Micros::new(expected), "{text}");
    }
}

#[test]
fn a_line_cut_anywhere_is_truncated() {
    let mut event = full_event();
    event.http.user_agent = Some("é\u{1b}".to_owned());
    let line = line(&Record::of_request(&event, &HOST));
    let whole = line.len() - 1;
    assert!(read(&line[..whole]).is_ok());
    for end in 1..whole {
        assert_eq!(read(&line[..end]), Err(Unreadable::Truncated), "at {end}");
    }
    for begin in 1..whole {
        let result = read(&line[begin..]);
        assert!(
            matches!(
                result,
                Err(Unreadable::NotJson(_) | Unreadable::Truncated | Unreadable::Foreign)
            ),
            "from {begin}: {result:?}"
        );
    }
}

#[test]
fn lines_of_others_are_told_apart() {
    for line in [
        "",
        "\n",
        "Nov 22 09:10:11 host sshd[1]: hello",
        "\0\0\0",
        "{]",
        "\u{feff}{}",
        "{} {}",
        "\u{fffd}",
    ] {
        assert!(matches!(read(line.as_bytes()), Err(Unreadable::NotJson(_))), "{line:?}");
    }
    assert!(matches!(read(b"{\"a\":\"\xff\"}"), Err(Unreadable::NotJson(6))));
    for line in [
        "{}",
        "[]",
        "null",
        "1",
        "\"imds-request\"",
        r#"{"event":"x","imds":{"schema":1}}"#,
        r#"{"event":{"action":"imds-request"}}"#,
        r#"{"event":{"action":"imds-request"},"imds":{"schema":"1"}}"#,
        r#"{"event":{"action":"login"},"imds":{"schema":1}}"#,
    ] {
        assert_eq!(read(line.as_bytes()), Err(Unreadable::Foreign), "{line}");
    }
    let mut other = as_json(&minimal_event());
    other["event"]["action"] = json!("user-login");
    assert_eq!(read(other.to_string().as_bytes()), Err(Unreadable::Foreign));
    let deep = "[".repeat(100_000);
    assert!(matches!(read(deep.as_bytes()), Err(Unreadable::NotJson(_))));
}

#[test]
fn other_schemas_are_told_apart() {
    let mut record = as_json(&full_event());
    record["imds"]["schema"] = json!(2);
    assert_eq!(read(record.to_string().as_bytes()), Err(Unreadable::Schema(2)));
    // The schema's version counts, whatever else has changed.
    record["imds"]["local"] = json!("yes");
    record["@timestamp"] = json!(1);
    record["imds"]["schema"] = json!(1_u64 << 40);
    assert_eq!(read(record.to_string().as_bytes()), Err(Unreadable::Schema(1 << 40)));
}

#[test]
fn a_wrong_field_is_told_without_its_value() {
    for (place, value) in [
        ("/@timestamp", json!("yesterday")),
        ("/imds/local", json!("secret")),
        ("/imds/verdict", json!(1)),
        ("/process/pid", json!("secret")),
        ("/process/ancestors/0/pid", json!(-1)),
        ("/user/id", json!("secret")),
        ("/source/ip", json!("secret")),
        ("/source/port", json!(65_536)),
        ("/event/category", json!([])),
    ] {
        let mut record = as_json(&full_event());
        *record.pointer_mut(place).expect("it is there") = value;
        let error = read(record.to_string().as_bytes()).expect_err("a wrong field");
        assert!(matches!(error, Unreadable::Field(1..)), "{place}: {error:?}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let mut record = as_json(&full_event());
    record["imds"].as_object_mut().expect("an object").remove("verdict");
    assert!(matches!(read(record.to_string().as_bytes()), Err(Unreadable::Field(_))));
}

#[test]
fn what_later_versions_write_is_kept_or_passed_over() {
    let mut record = as_json(&full_event());
    record["imds"]["later"] = json!("none");
    record["later"] = json!({ "region": "eu-west-1" });
    record["process"]["ancestors"][0]["start"] = json!("2026-11-22T08:00:00Z");
    record["event"]["category"] = json!(["network", "iam"]);
    let text = record.to_string();
    let read_back = read(text.as_bytes()).expect("a record");
    assert_eq!(read_back, Record::of_request(&full_event(), &HOST));

    for (place, word) in [
        ("/imds/version", "v3"),
        ("/imds/verdict", "v3"),
        ("/imds/path_class", "later"),
        ("/imds/endpoint", "ipv8"),
        ("/imds/tap", "later"),
        ("/imds/owner", "later"),
        ("/imds/netns", "later"),
        ("/process/source", "later"),
        ("/container/runtime", "later"),
        ("/orchestrator/type", "nomad"),
        ("/orchestrator/resource/type", "allocation"),
        ("/kubernetes/qos", "later"),
        ("/http/version", "3"),
        ("/log/level", "fatal"),
        ("/event/kind", "alert"),
        ("/event/outcome", "later"),
        ("/imds/answer", "later"),
    ] {
        *record.pointer_mut(place).expect("it is there") = json!(word);
    }
    let text = record.to_string();
    let record = read(text.as_bytes()).expect("a record");
    let body = request(&record);
    assert_eq!(body.imds.verdict, Word::Other("v3".into()));
    assert_eq!(body.imds.version.known(), None);
    assert_eq!(
        body.container
            .as_ref()
            .and_then(|it| it.runtime.as_ref())
            .map(Word::as_str),
        Some("later")
    );
    assert_eq!(record.envelope.event.outcome.as_str(), "later");
    // It counts as a call that this version cannot judge.
    assert_eq!(brief(text.as_bytes()).version(), Version::Unknown);
    is_read_back(&record);
}

#[test]
fn a_kind_of_record_that_is_not_known_yet_is_kept_as_such() {
    let mut record = as_json(&full_event());
    record["event"]["action"] = json!("imds-later");
    record["imds"] = json!({ "schema": 1, "later": "refused" });
    let text = record.to_string();
    let record = read(text.as_bytes()).expect("a record");
    assert_eq!(record.envelope.event.action, Word::Other("imds-later".into()));
    let Body::Other(other) = &record.body else {
        unreachable!("{record:?}");
    };
    assert_eq!(
        other.host.as_ref().map(|host| host.name.as_str()),
        Some(HOST.name.as_str())
    );
}

#[test]
fn lines_are_bounded_and_the_longest_record_fits() {
    let long = vec![b' '; LINE_MAX + 1];
    assert_eq!(read(&long), Err(Unreadable::TooLong));
    assert!(matches!(read(&long[1..]), Err(Unreadable::NotJson(_))));

    // Each 0x7f takes six bytes in JSON.
    let text = |number: usize| format!("{number:04}{}", "\u{7f}".repeat(252));
    let mut summary = Summary::new();
    for number in 0..1100 {
        let mut event = full_event();
        let mut process = event.process.as_deref().cloned().expect("a process");
        (process.caller, process.program) = (text(number), text(number));
        process.user.name = Some(text(number));
        process.container = None;
        process.user_unit = Some(text(number));
        event.http.path = Some(text(number));
        event.process = Some(Arc::new(process));
        summary.add(&event);
    }
    let notice = Notice::Summary {
        summary: &summary,
        loss: &Ledger::default(),
    };
    let record = Record::of_notice(SystemTime::UNIX_EPOCH, &notice, &HOST);
    let line = line(&record);
    assert!((LINE_MAX / 4..LINE_MAX).contains(&line.len()), "{}", line.len());
    assert!(read(&line) == Ok(record));
}

#[test]
fn text_is_borrowed_from_its_line() {
    let line = line(&Record::of_request(&full_event(), &HOST));
    let within = line.as_ptr_range();
    let record = read(&line).expect("a record");
    let body = request(&record);
    let process = body.process.as_ref().expect("a process");
    for text in [
        process.executable.as_deref(),
        body.user.as_ref().and_then(|user| user.name.as_deref()),
        body.imds.caller.as_deref(),
    ] {
        assert!(text.is_some_and(|text| within.contains(&text.as_ptr())), "{text:?}");
    }
}

#[test]
fn all_of_a_line_can_be_asked_for() {
    let text = LINES.lines().next().expect("a line");
    let record = read(text.as_bytes()).expect("a record");
    let body = request(&record);
    assert_eq!(record.envelope.log.level, Level::Warn.into());
    assert_eq!(body.imds.verdict, Verdict::V1.into());
    assert_eq!(body.imds.owner, Some(OwnerHook::TpBtf.into()));
    assert_eq!(
        (&body.imds.tap, &body.imds.netns),
        (&Tap::Wire.into(), &NetNs::Other.into())
    );
    assert_eq!(
        (&body.imds.endpoint, &body.imds.path_class),
        (&Endpoint::Ipv4.into(), &PathClass::Credential.into())
    );
    let process = body.process.as_ref().expect("a process");
    let args: Vec<_> = process.args.iter().map(|arg| arg.as_str().to_owned()).collect();
    assert_eq!(
        (process.pid, args),
        (1234, vec!["python3".to_owned(), "run.py".to_owned()])
    );
    assert_eq!(process.source, Some(Source::Kernel.into()));
    let ancestors: Vec<_> = process
        .ancestors
        .iter()
        .map(|it| (it.pid, it.name.as_str().to_owned()))
        .collect();
    assert_eq!(ancestors, [(1200, "supervisord".to_owned()), (1, "systemd".to_owned())]);
    let container = body.container.as_ref().expect("a container");
    assert_eq!(container.runtime, Some(Runtime::Containerd.into()));
    let orchestrator = body.orchestrator.as_ref().expect("an orchestrator");
    assert_eq!(orchestrator.r#type, Some(Platform::Kubernetes.into()));
    assert_eq!(orchestrator.resource.r#type, Some(Workload::Pod.into()));
    assert_eq!(
        body.kubernetes.as_ref().map(|it| it.qos.clone()),
        Some(Qos::Burstable.into())
    );
    let http = body.http.as_ref().and_then(|http| http.version.clone());
    assert_eq!(http, Some(HttpVersion::Http11.into()));
    assert_eq!(body.destination.ip.to_string(), "169.254.169.254");
}

#[test]
fn lines_of_all_versions_are_read() {
    let actions = |lines: &str| -> Vec<Action> {
        lines
            .lines()
            .map(|line| {
                let record = read(line.as_bytes()).expect(line);
                is_read_back(&record);
                record.envelope.event.action.known().expect(line)
            })
            .collect()
    };
    let requests = [Action::Request; 3];
    assert_eq!(
        actions(FIRST_LINES),
        [&requests[..], &[Action::Start, Action::Loss, Action::Summary]].concat()
    );
    let notices = [
        Action::Start,
        Action::Loss,
        Action::FirstSeen,
        Action::RateLimited,
        Action::Summary,
    ];
    assert_eq!(actions(LINES), [&requests[..], &notices].concat());
}

/// From the time before `imds.caller`.
#[test]
fn a_call_of_the_first_lines_has_the_executable_for_its_caller() {
    let brief = brief(FIRST_LINES.lines().next().expect("a line").as_bytes());
    let call = Call::from(&brief);
    let who = call.who.expect("somebody");
    assert_eq!(
        (who.key, who.user_id, who.place),
        ("/usr/bin/python3.8", Some(1000), Some("0123456789ab"))
    );
}

#[test]
fn a_summary_of_lines_is_that_of_their_events() {
    let (mut seen, mut read_back) = (Summary::new(), Summary::new());
    for event in samples() {
        seen.add(&event);
        let line = line(&Record::of_request(&event, &HOST));
        read_back.add(&brief(&line));
    }
    let table = |summary: &Summary| crate::sink::text::table::render(summary, 120, false, &Ledger::default());
    assert_eq!(table(&read_back), table(&seen));
}

#[test]
fn severity_goes_by_the_verdict_and_what_was_lost() {
    let level = |verdict| {
        let mut event = minimal_event();
        event.verdict = verdict;
        Level::of_request(&event)
    };
    for &verdict in Verdict::ALL.iter() {
        let expected = match verdict {
            Verdict::V1 => Level::Warn,
            Verdict::Unknown => Level::Error,
            _ => Level::Info,
        };
        assert_eq!(level(verdict), expected, "{verdict:?}");
    }
    let of_loss = |kind: Kind| Level::of_notice(&Notice::Loss(&[(kind, 1)].into_iter().collect()));
    assert_eq!(of_loss(Loss::GapBytes.into()), Level::Warn);
    assert_eq!(of_loss(Kind::ProcessReadFailures), Level::Info);
}
