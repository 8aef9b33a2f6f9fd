//! Logs on disk, good and bad, against what a plain loop over their records adds up to.

use std::{fs, io::Write as _, os::unix::fs::symlink, path::Path, time::Duration};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    identity::Identity,
    record::{Brief, Record},
    report::{
        Report,
        build::{Question, build},
        cloudwatch::Metrics,
    },
    sink::{json, tests::samples},
};

/// `count` lines of requests of the host `name`, each at another time.
fn lines(name: &str, count: u64) -> Vec<String> {
    let host = Identity::named(name);
    let events = samples().into_iter().cycle().zip(0..count);
    events
        .map(|(mut event, number)| {
            event.time += Duration::from_secs(number * 60);
            let line = json::line(&Record::of_request(&event, &host)).expect("no I/O");
            String::from_utf8(line).expect("UTF-8")
        })
        .collect()
}

/// As many records of calls that were counted together, by the callers of `requests`.
fn rate_limited(requests: &[String]) -> Vec<String> {
    let folded = |line: &String| {
        let mut record: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let all = record.as_object_mut().expect("an object");
        for name in ["process", "container", "http", "url"] {
            all.remove(name);
        }
        record["event"]["action"] = "imds-analyzer-rate-limited".into();
        record["imds"]["calls"] = serde_json::json!({ "v1": 2, "v2": 1, "other": 0, "unknown": 0 });
        record.to_string() + "\n"
    };
    requests.iter().map(folded).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).expect("a buffer takes all");
    encoder.finish().expect("a buffer takes all")
}

fn zstd(text: &str) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest)
}

fn report_of(fold: Fold, input: Input) -> Report {
    let question = Question {
        filter: Filter::default(),
        window: Duration::from_secs(60),
    };
    build(fold, input, &Metrics::default(), &question)
}

fn read_all(paths: &[&Path]) -> (Report, Input) {
    let sources: Vec<Source> = paths.iter().map(|path| Source::Path(path.to_path_buf())).collect();
    let (fold, input) = read(&sources, &Filter::default(), 3, &Progress::default());
    (report_of(fold, input.clone()), input)
}

/// Everything of a report but its input, as JSON.
fn facts(report: Report) -> String {
    let report = Report {
        input: Input::default(),
        ..report
    };
    serde_json::to_string(&report).expect("JSON")
}

/// What a plain loop over `lines` adds up to.
fn expected<'a>(lines: impl IntoIterator<Item = &'a String>) -> String {
    let mut fold = Fold::default();
    for line in lines {
        fold.add(&Brief::read(line.trim_end()).expect("a record"), &Filter::default());
    }
    facts(report_of(fold, Input::default()))
}

fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, data) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("created");
        fs::write(path, data).expect("written");
    }
    directory
}

#[test]
fn all_forms_of_a_log_are_read() {
    let all = lines("one", 60);
    let part = |from: usize, until: usize| all[from..until].concat();
    // Two members, two frames, and a frame that is to be skipped.
    let gz = [gzip(&part(10, 20)), gzip(&part(20, 25))].concat();
    let skipped = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
    let zst = [skipped, zstd(&part(25, 35)), zstd(&part(35, 40))].concat();
    let directory = directory(&[
        ("a/events.jsonl.000001", part(0, 10).as_bytes()),
        ("a/renamed", &gz),
        ("b/deep/er/log", &zst),
        // Long enough to be read in parts.
        ("events.jsonl", part(40, 60).as_bytes()),
        ("wtmp", &[0, 1, 2, 0]),
        (
            "other.log",
            b"Nov 22 09:10:11 host kernel: imds-\n{\"message\":\"hello\"}\n",
        ),
        ("events.jsonl.000001.gz.tmp", b"\x1f\x8bgarbage"),
    ]);
    let (report, input) = read_all(&[directory.path()]);
    assert_eq!(facts(report), expected(&all));
    assert_eq!((input.records, input.foreign, input.unreadable), (60, 2, 0));
    assert_eq!(
        (input.skipped_files, input.failed_files, input.problems),
        (1, 0, Vec::new())
    );
}

#[test]
fn what_is_there_twice_counts_once() {
    let all = lines("one", 40);
    let text = all.concat();
    let earlier = all[..17].concat();
    let directory = directory(&[
        ("events.jsonl", text.as_bytes()),
        ("copy.gz", &gzip(&text)),
        ("earlier.jsonl", earlier.as_bytes()),
        // A copy that was taken while a line was written.
        ("torn.jsonl", &text.as_bytes()[..text.len() - 30]),
    ]);
    symlink(directory.path().join("events.jsonl"), directory.path().join("link")).expect("a link");
    fs::hard_link(directory.path().join("copy.gz"), directory.path().join("hard")).expect("a link");
    let (report, input) = read_all(&[directory.path(), &directory.path().join("events.jsonl")]);
    assert_eq!(facts(report), expected(&all));
    assert_eq!((input.records, input.unreadable), (40, 0), "{input:?}");
    assert!(input.duplicate_files >= 4, "{input:?}");
}

#[test]
fn a_line_that_was_delivered_again_counts_once() {
    let all = lines("one", 30);
    let again: String = all.iter().chain(&all[20..25]).map(String::as_str).collect();
    // Not in parts.
    let directory = directory(&[("log", &gzip(&again))]);
    let (report, input) = read_all(&[directory.path()]);
    assert_eq!((input.records, input.duplicate_lines), (30, 5));
    assert_eq!(facts(report), expected(&all));
}

#[test]
fn what_cannot_be_read_is_named() {
    let all = lines("one", 6);
    let torn = &all[1][..all[1].len() / 2];
    let other_schema = all[2].replace("\"schema\":1", "\"schema\":7");
    let text = [
        &*all[0],
        torn,
        "\n",
        &other_schema,
        &all[3],
        "{\"@timestamp\":\"x\"}\n",
        "\n",
    ]
    .concat();
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(b"\xff\xfe \"action\":\"imds-request\"\n");
    // The last line has no end yet.
    bytes.extend_from_slice(&all[4].as_bytes()[..all[4].len() - 9]);
    let mut damaged = gzip(&all[5]);
    damaged.truncate(damaged.len() - 12);
    let directory = directory(&[("log", &bytes), ("damaged.gz", &damaged), ("zip", b"\x28\xb5\x2f\xfd")]);
    let (report, input) = read_all(&[directory.path(), Path::new("/nonexistent/log")]);
    assert_eq!((input.records, input.unreadable, input.foreign), (2, 3, 1), "{input:?}");
    assert_eq!(input.failed_files, 3);
    let places: Vec<(String, Option<u64>)> = input
        .problems
        .iter()
        .map(|problem| {
            (
                problem.file.rsplit('/').next().unwrap_or_default().to_owned(),
                problem.line,
            )
        })
        .collect();
    assert!(
        places.contains(&("log".to_owned(), Some(2))) && places.contains(&("log".to_owned(), Some(3))),
        "{places:?}"
    );
    assert!(places.contains(&("damaged.gz".to_owned(), None)), "{places:?}");
    assert_eq!(report.verdict.as_str(), "not-ready");
    assert!(
        report
            .reasons
            .iter()
            .any(|finding| finding.reason.as_str() == "unreadable"),
        "{:?}",
        report.reasons
    );
}

#[test]
fn an_empty_input_proves_nothing() {
    let directory = directory(&[("empty", b"")]);
    let (report, _) = read_all(&[directory.path()]);
    assert_eq!((report.verdict.as_str(), report.observed.hosts), ("unproven", 0));
    assert_eq!(report.reasons[0].reason.as_str(), "no-records");
}

#[test]
fn a_line_without_end_takes_no_memory() {
    let all = lines("one", 2);
    let mut text = all[0].clone().into_bytes();
    text.extend(std::iter::repeat_n(b'x', 40 << 20));
    text.push(b'\n');
    text.extend_from_slice(all[1].as_bytes());
    // Not in parts.
    let text = String::from_utf8(text).expect("UTF-8");
    let (fold, input) = read_bytes(&gzip(&text));
    assert_eq!((fold.records, input.unreadable, input.lines), (2, 1, 3));
}

fn read_bytes(bytes: &[u8]) -> (Fold, Input) {
    let directory = directory(&[("log", bytes)]);
    let sources = [Source::Path(directory.path().to_owned())];
    read(&sources, &Filter::default(), 1, &Progress::default())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// In whatever order, and in whatever parts.
    #[test]
    fn the_order_of_lines_makes_no_difference(
        order in Just((0..60_usize).collect::<Vec<_>>()).prop_shuffle(),
        cut in 0..60_usize,
    ) {
        let requests = [lines("one", 20), lines("two", 20)].concat();
        let all = [rate_limited(&requests[..20]), requests].concat();
        let mut parts = [Fold::default(), Fold::default()];
        for (place, number) in order.into_iter().enumerate() {
            let brief = Brief::read(all[number].trim_end()).expect("a record");
            parts[usize::from(place >= cut)].add(&brief, &Filter::default());
        }
        let [mut first, second] = parts;
        first.merge(second);
        prop_assert_eq!(facts(report_of(first, Input::default())), expected(&all));
    }

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..2000), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        // Pieces of records among other bytes.
        let all = lines("one", 3).concat().into_bytes();
        let mut mixed = bytes;
        for cut in cuts {
            let at = cut.index(all.len());
            mixed.extend_from_slice(&all[at..(at + 700).min(all.len())]);
        }
        let (_, input) = read_bytes(&mixed);
        prop_assert!(input.records + input.foreign + input.unreadable + input.duplicate_lines <= input.lines);
    }
}
