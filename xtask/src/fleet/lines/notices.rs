//! The records of the analyzer about itself, and those that stand for many requests.

use serde_json::json;

use super::{
    super::{
        callers::{Spec, class},
        clock,
        host::Host,
        template::{PID, PORT},
        truth::{Answers, Counts},
    },
    Kind, end, envelope, process, quoted,
};

/// The kind of a record about counts.
fn metric(action: &'static str, level: &'static str) -> Kind {
    Kind {
        level,
        kind: "metric",
        category: "network",
        r#type: "info",
        action,
        dataset: "imds.analyzer",
        outcome: "success",
        has_duration: false,
    }
}

/// Heads a file; `attached` and `uptime` (seconds) are those of the run, `boot` is the number of the boot.
pub(in super::super) fn start(host: &Host, attached: u64, uptime: u64, boot: u64) -> String {
    let kind = Kind {
        kind: "event",
        category: "process",
        r#type: "start",
        ..metric("imds-analyzer-start", "info")
    };
    let mut text = envelope(host, &kind);
    text += &format!(
        r#""imds":{{"schema":1,"hooks":[{{"name":"imds_egress","attached":true,"reason":"reads requests off the wire"}},{{"name":"imds_ingress","attached":true,"reason":"reads answers off the wire"}},{{"name":"imds_tp_btf","attached":true,"reason":"knows the sender"}},{{"name":"imds_fentry","attached":false,"reason":"imds_tp_btf is in use"}}],"attached":"{}"}},"#,
        clock::text(attached)
    );
    let image = if host.instance.is_some() {
        format!(r#","image":{{"id":"{}"}}"#, host.image)
    } else {
        String::new()
    };
    text + &format!(
        r#""host":{{"name":"{}"{image},"os":{{"kernel":"{}"}},"boot":{{"id":"6f1d2c3b-0000-4000-8000-{boot:012x}"}},"uptime":{uptime}}}}}"#,
        host.name, host.kernel
    )
}

pub(in super::super) fn watching(host: &Host, calls: Counts, ignored: Counts) -> String {
    let text = envelope(host, &metric("imds-analyzer-watching", "info"));
    let (calls, ignored) = (calls.json(), ignored.json());
    text + &format!(r#""imds":{{"schema":1,"calls":{calls},"ignored":{ignored}}},"#) + &end(host)
}

pub(in super::super) fn loss(host: &Host, kind: &str, count: u64) -> String {
    let level = if kind == "spare_state" { "info" } else { "warn" };
    let text = envelope(host, &metric("imds-analyzer-loss", level));
    text + &format!(r#""imds":{{"schema":1,"loss":{{"{kind}":{count}}}}},"#) + &end(host)
}

pub(in super::super) fn summary(host: &Host, total: Counts, local: Counts, lost: u64) -> String {
    let text = envelope(host, &metric("imds-analyzer-summary", "info"));
    let loss = if lost > 0 {
        json!({"request_ring_full": lost})
    } else {
        json!({})
    };
    let (total, local) = (total.json(), local.json());
    let answers = Answers::default().json();
    text + &format!(
        r#""imds":{{"schema":1,"summary":{{"total":{total},"v1_answers":{answers},"local_total":{local},"local_v1_answers":{answers},"callers":[],"attempts":0}},"loss":{loss}}},"#
    ) + &end(host)
}

/// Precedes the first v1 request of a caller.
pub(in super::super) fn first_seen(host: &Host, spec: &Spec, path: &str) -> String {
    let kind = Kind {
        kind: "event",
        ..metric("imds-analyzer-first-seen", "warn")
    };
    let mut text = envelope(host, &kind);
    let first = match class(path) {
        "credential" => r#""v1","credential""#,
        _ => r#""v1""#,
    };
    text += &format!(
        r#""imds":{{"schema":1,"caller":{},"first":[{first}],"local":false}},"process":{{"pid":{PID},"name":"{}","executable":"{}"}},"#,
        quoted(spec.caller),
        spec.name(),
        spec.executable
    );
    text += &process::short_place(host, spec);
    text + &format!(r#""url":{{"path":"{path}"}},"#) + &end(host)
}

/// Counts of requests that were not written. `calls` has the local ones in it.
pub(in super::super) struct Folded {
    pub(in super::super) calls: Counts,
    pub(in super::super) local: Counts,
    /// `None`: as the first versions wrote it.
    pub(in super::super) answers: Option<Answers>,
    pub(in super::super) credential: u64,
    pub(in super::super) since: u64,
    pub(in super::super) until: u64,
}

/// `spec`: `None` for callers that had no room in the analyzer's table.
pub(in super::super) fn rate_limited(host: &Host, spec: Option<&Spec>, folded: &Folded) -> String {
    let level = if folded.calls.v1 > 0 { "warn" } else { "info" };
    let mut text = envelope(host, &metric("imds-analyzer-rate-limited", level));
    text += r#""imds":{"schema":1,"#;
    if let Some(spec) = spec {
        text += &format!(r#""caller":{},"#, quoted(spec.caller));
    }
    text += &format!(r#""calls":{},"#, folded.calls.json());
    let Counts { v1, v2, other, unknown } = folded.local;
    if v1 + v2 + other + unknown > 0 {
        text += &format!(r#""local_calls":{},"#, folded.local.json());
    }
    if let Some(answers) = folded.answers {
        text += &format!(r#""v1_answers":{},"#, answers.json());
    }
    text += &format!(
        r#""credential_calls":{},"since":"{}","until":"{}"}},"#,
        folded.credential,
        clock::text(folded.since),
        clock::text(folded.until)
    );
    if let Some(spec) = spec {
        text += &process::short_place(host, spec);
    }
    text + &end(host)
}

/// A connection without a request.
pub(in super::super) fn attempt(host: &Host, spec: &Spec) -> String {
    let kind = Kind {
        level: "info",
        kind: "event",
        category: "network",
        r#type: "access",
        action: "imds-attempt",
        dataset: "imds.attempt",
        outcome: "failure",
        has_duration: true,
    };
    let mut text = envelope(host, &kind);
    text += &format!(
        r#""imds":{{"schema":1,"caller":{},"attempt":"closed","endpoint":"ipv4","owner":"connect","netns":"host","local":false}},"#,
        quoted(spec.caller)
    );
    text += &process::process(host, spec);
    text += &process::place(spec);
    text += &format!(
        r#""source":{{"ip":"{}","port":{PORT}}},"destination":{{"ip":"169.254.169.254","port":80}},"#,
        host.address
    );
    text + &end(host)
}
