use std::sync::Arc;

use imds_analyzer_ebpf::abi::Loss;

use super::*;
use crate::{
    event::{Process, User},
    sink::tests::{full_event, minimal_event, samples},
};

fn event(uid: u32, caller: &str) -> Event {
    let mut event = full_event();
    event.process = Some(Arc::new(Process {
        caller: caller.to_owned(),
        user: User {
            id: Some(uid),
            name: None,
        },
        ..Process::default()
    }));
    event
}

fn text(metrics: &Metrics) -> String {
    text_for(metrics, Reader::Prometheus, "wire")
}

fn text_for(metrics: &Metrics, reader: Reader, tap: &str) -> String {
    let scrapes = Scrapes::default();
    Scrapes::count(&scrapes.timed_out);
    Scrapes::count(&scrapes.delayed);
    let sinks = BTreeMap::from([("log", Stats::default())]);
    let snapshot = Snapshot {
        loss: &[(Loss::RequestRing, 3)].into_iter().collect(),
        sinks: &sinks,
        hooks: &[("imds_egress", true), ("imds_fentry", false)],
        tap,
        owner: "tp_btf",
        scrapes: &scrapes,
    };
    metrics.render(snapshot, reader).expect("text");
    // A second rendering must not add counts from elsewhere again.
    String::from_utf8(metrics.render(snapshot, reader).expect("text")).expect("UTF-8")
}

#[test]
fn says_what_was_counted() {
    let mut metrics = Metrics::new(100, &Identity::default()).expect("metrics");
    samples().iter().for_each(|event| metrics.count(event));
    metrics.count(&minimal_event());
    metrics.count_first_seen(First {
        v1: true,
        credential: false,
    });
    metrics.count_unwritten(Unwritten::Ignored);
    let text = text(&metrics);
    for line in [
        "imds_analyzer_lost_total{kind=\"request_ring_full\"} 3",
        "imds_analyzer_hook_attached{program=\"imds_egress\"} 1",
        "imds_analyzer_hook_attached{program=\"imds_fentry\"} 0",
        "imds_analyzer_capture_info{owner=\"tp_btf\",tap=\"wire\"} 1",
        "imds_analyzer_first_seen_total{kind=\"v1\"} 1",
        "imds_analyzer_requests_unwritten_total{reason=\"ignore-list\"} 1",
        "imds_analyzer_config_last_reload_successful 1",
        "imds_analyzer_scrapes_total{outcome=\"timed-out\"} 1",
        "imds_analyzer_scrapes_total{outcome=\"answered\"} 0",
        "imds_analyzer_scrapes_delayed_total 1",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is not in {text}");
    }
    assert!(text.contains("verdict=\"v1\",version=\"v1\"}"), "{text}");
    assert!(text.contains("process_resident_memory_bytes ") && text.contains("process_cpu_seconds_total "));
    assert!(
        !text.contains("python3 run.py"),
        "arguments are nobody's business: {text}"
    );
}

#[test]
fn the_tap_is_the_one_in_use() {
    let metrics = Metrics::new(10, &Identity::default()).expect("metrics");
    for tap in ["wire", "send"] {
        let text = text_for(&metrics, Reader::Prometheus, tap);
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("imds_analyzer_capture_info{"))
            .collect();
        assert_eq!(
            lines,
            [format!(
                "imds_analyzer_capture_info{{owner=\"tp_btf\",tap=\"{tap}\"}} 1"
            )]
        );
    }
}

#[test]
fn node_exporter_gets_names_of_ours_alone() {
    let metrics = Metrics::new(10, &Identity::default()).expect("metrics");
    let text = text_for(&metrics, Reader::NodeExporter, "wire");
    assert!(text.contains("imds_analyzer_build_info"));
    for line in text.lines() {
        let name = line.trim_start_matches("# HELP ").trim_start_matches("# TYPE ");
        assert!(name.starts_with("imds_analyzer_"), "{line}");
    }
}

#[test]
fn one_user_does_not_take_all_the_room() {
    let mut metrics = Metrics::new(10, &Identity::default()).expect("metrics");
    for caller in 0..1000 {
        metrics.count(&event(1000, &format!("/tmp/{caller}\"\n")));
    }
    metrics.count(&event(0, "/usr/bin/agent"));
    let text = text(&metrics);
    let callers = text
        .lines()
        .filter(|line| line.starts_with("imds_analyzer_caller_requests_total{"));
    assert_eq!(callers.count(), 5 + 1 + 1, "{text}");
    assert!(text.contains("{caller=\"/usr/bin/agent\",local=\"false\",uid=\"0\",version=\"v1\"} 1"));
    assert!(text.contains("{caller=\"other\",local=\"false\",uid=\"other\",version=\"v1\"} 995"));
}

#[test]
fn callers_are_escaped_as_text_is() {
    let mut metrics = Metrics::new(100, &Identity::default()).expect("metrics");
    for caller in [
        "/usr/bin/curl (esc\u{1b}[2Jx.service)",
        "/usr/bin/curl (rtl\u{202e}.service)",
        "a\u{9b}31m\u{85}\u{7f}\u{200b}\u{2066}\u{feff}\u{ad}\u{e0041}\u{34f}",
        "\u{301}\\\"\nb",
    ] {
        metrics.count(&event(1000, caller));
    }
    let text = text(&metrics);
    assert!(text.contains("esc\\\\x1b[2Jx.service"), "{text}");
    assert!(text.contains("rtl\\\\u{202e}.service"), "{text}");
    let odd = text.chars().find(|character| !matches!(character, ' '..='~' | '\n'));
    assert_eq!(odd, None, "{text}");
}
