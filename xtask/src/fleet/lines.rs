//! The text of records, with the fields in the order in which the analyzer writes them.

mod notices;
mod process;

use serde_json::{Value, json};

pub(super) use self::notices::{Folded, attempt, first_seen, loss, rate_limited, start, summary, watching};
use super::{
    callers::{Place, Spec, Step, Way, class},
    host::Host,
    template::{DURATION, PORT, TIME},
};

const TOKEN_PATH: &str = "/latest/api/token";

/// What the envelope says about a record.
struct Kind {
    level: &'static str,
    kind: &'static str,
    category: &'static str,
    r#type: &'static str,
    action: &'static str,
    dataset: &'static str,
    outcome: &'static str,
    has_duration: bool,
}

/// `value` in JSON.
fn quoted(value: &str) -> String {
    Value::from(value).to_string()
}

/// The beginning of a record, up to and with a comma.
fn envelope(host: &Host, record: &Kind) -> String {
    let Kind {
        level,
        kind,
        category,
        r#type,
        action,
        dataset,
        outcome,
        has_duration,
    } = record;
    let version = env!("CARGO_PKG_VERSION");
    let duration = if *has_duration {
        format!(r#","duration":{DURATION}"#)
    } else {
        String::new()
    };
    let mut text = format!(
        r#"{{"@timestamp":"{TIME}","log":{{"level":"{level}"}},"ecs":{{"version":"8.11"}},"event":{{"kind":"{kind}","category":["{category}"],"type":["{type}"],"action":"{action}","dataset":"{dataset}","outcome":"{outcome}"{duration}}},"agent":{{"type":"imds-analyzer","version":"{version}"}},"#
    );
    if let Some(instance) = &host.instance {
        let Host {
            account,
            region,
            machine,
            ..
        } = host;
        text += &format!(
            r#""cloud":{{"provider":"aws","account":{{"id":"{account}"}},"region":"{region}","availability_zone":"{region}a","instance":{{"id":"{instance}"}},"machine":{{"type":"{machine}"}}}},"#
        );
    }
    text
}

/// `host` of most records, which ends them.
fn end(host: &Host) -> String {
    let image = if host.instance.is_some() {
        format!(r#","image":{{"id":"{}"}}"#, host.image)
    } else {
        String::new()
    };
    format!(r#""host":{{"name":"{}"{image}}}}}"#, host.name)
}

/// What a step looks like on the wire, and how it is judged.
struct Judged {
    method: &'static str,
    path: Option<&'static str>,
    version: &'static str,
    verdict: &'static str,
    class: &'static str,
    answer: &'static str,
    status: Option<u16>,
    reason: Option<&'static str>,
}

impl Judged {
    fn new(step: Step) -> Self {
        let get = |path: &'static str, version, verdict, answer, status| Self {
            method: "GET",
            path: Some(path),
            version,
            verdict,
            class: class(path),
            answer,
            status,
            reason: None,
        };
        let token = |answer, status| Self {
            method: "PUT",
            class: "token",
            ..get(TOKEN_PATH, "v2", "v2-token-request", answer, status)
        };
        match step {
            Step::Token => token("answered", Some(200)),
            Step::TokenUnanswered => token("none", None),
            Step::V2(path) => get(path, "v2", "v2", "answered", Some(200)),
            Step::V1(path) => get(path, "v1", "v1", "answered", Some(200)),
            Step::V1Rejected(path) => get(path, "v1", "v1", "answered", Some(401)),
            Step::V1Failed(path) => get(path, "v1", "v1", "answered", Some(404)),
            Step::V1Unseen(path) => get(path, "v1", "v1", "unseen", None),
            Step::Other(path) => get(path, "other", "other-cloud", "answered", Some(404)),
            Step::Unknown(reason) => Self {
                path: None,
                class: "not-imds",
                reason: Some(reason),
                ..get("", "unknown", "unknown", "unseen", None)
            },
        }
    }
}

/// The record of a request.
pub(super) fn request(host: &Host, spec: &Spec, step: Step) -> String {
    let judged = Judged::new(step);
    let outcome = match (judged.answer, judged.status) {
        ("unseen", _) => "unknown",
        (_, Some(200)) => "success",
        _ => "failure",
    };
    let kind = Kind {
        level: match judged.version {
            "v1" => "warn",
            "unknown" => "error",
            _ => "info",
        },
        kind: "event",
        category: "network",
        r#type: "access",
        action: "imds-request",
        dataset: "imds.request",
        outcome,
        has_duration: judged.status.is_some(),
    };
    let mut text = envelope(host, &kind);
    imds(&mut text, spec, &judged);
    if spec.way != Way::Nobody {
        text += &process::process(host, spec);
        text += &process::place(spec);
    }
    let status = judged.status.map(|status| json!({"status_code": status}));
    if let Some(path) = judged.path {
        text += r#""http":{"request":{"method":""#;
        text += judged.method;
        text += r#""},"version":"1.1""#;
        if let Some(status) = status {
            text += &format!(r#","response":{status}"#);
        }
        text += &format!(r#"}},"url":{{"original":"{path}","path":"{path}"}},"#);
        text += &format!(r#""user_agent":{{"original":{}}},"#, quoted(spec.agent));
    }
    let source = match spec.place {
        Place::Docker(..) | Place::Pod(..) => "172.17.0.5",
        _ => &host.address,
    };
    text +=
        &format!(r#""source":{{"ip":"{source}","port":{PORT}}},"destination":{{"ip":"169.254.169.254","port":80}},"#);
    text + &end(host)
}

/// Appends `imds` of a request.
fn imds(text: &mut String, spec: &Spec, judged: &Judged) {
    let is_contained = matches!(spec.place, Place::Docker(..) | Place::Pod(..));
    *text += r#""imds":{"schema":1,"#;
    if spec.way != Way::Nobody {
        *text += &format!(r#""caller":{},"#, quoted(spec.caller));
    }
    *text += &format!(r#""version":"{}","verdict":"{}","#, judged.version, judged.verdict);
    if let Some(reason) = judged.reason {
        *text += &format!(r#""reason":"{reason}","#);
    }
    *text += &format!(r#""path_class":"{}","endpoint":"ipv4","tap":"wire","#, judged.class);
    if spec.way != Way::Nobody {
        *text += r#""owner":"tp_btf","#;
    }
    let net_ns = if is_contained { "other" } else { "host" };
    *text += &format!(r#""netns":"{net_ns}","local":{},"#, spec.way == Way::Local);
    if spec.way == Way::Relay {
        *text += r#""relay":true,"#;
    }
    *text += &format!(r#""forwarded":false,"answer":"{}""#, judged.answer);
    if judged.status.is_some() {
        *text += r#","hop_limit":1"#;
    }
    let advice = spec.advice.filter(|_| judged.version == "v1");
    if let Some((cause, ..)) = advice {
        *text += &format!(r#","cause":"{cause}""#);
    }
    if let Some((name, version, source)) = spec.client {
        *text += &format!(r#","client":{{"name":"{name}","version":"{version}","source":"{source}"}}"#);
    }
    if judged.version == "v1" {
        *text += &format!(r#","program":{{"path":"{}"}}"#, spec.executable);
    }
    if let Some((_, id, advice)) = advice {
        *text += &format!(r#","remedy":{{"id":"{id}","text":{}}}"#, quoted(advice));
    }
    if judged.version == "v1" && judged.class == "credential" {
        *text += r#","risk":["credential-v1"]"#;
    }
    *text += "},";
}
