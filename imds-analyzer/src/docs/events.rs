//! The tables of `docs/events.md`: the names are those that the code writes, and a new one has no text until it gets one.

use imds_analyzer_ebpf::{
    abi::OwnerHook,
    classify::{PathClass, Reason, Verdict},
};

use serde_json::Value;

use super::{Block, code, table};
use crate::{
    command::explain,
    event::{Cause, Risk},
    record::schema,
    vocabulary::Vocabulary as _,
};

pub(super) fn blocks() -> Vec<Block> {
    vec![
        ("records", records()),
        ("verdicts", verdicts()),
        ("reasons", reasons()),
        ("path classes", path_classes()),
        ("owners", owners()),
        ("causes", causes()),
        ("risks", risks()),
    ]
}

/// From the JSON Schema, which is derived from the records that are written.
fn records() -> String {
    let mut text = Vec::new();
    schema::write(&mut text).expect("no I/O");
    let schema: Value = serde_json::from_slice(&text).expect("JSON");
    let records = schema["anyOf"].as_array().expect("kinds of record");
    let rows = records.iter().map(|record| {
        let place = record["$ref"].as_str().expect("a reference").trim_start_matches('#');
        let record = schema.pointer(place).expect("a record");
        let action = &record["properties"]["event"]["properties"]["action"]["const"];
        [
            code(action.as_str().expect("an action")),
            record["description"].as_str().expect("a description").to_owned(),
        ]
    });
    table(["`event.action`", "record"], rows)
}

fn verdicts() -> String {
    let rows = Verdict::ALL.map(|verdict| {
        let when = explain::verdict(verdict);
        [
            code(verdict.as_str()),
            code(verdict.version().as_str()),
            when.to_owned(),
        ]
    });
    table(["`imds.verdict`", "`imds.version`", "when"], rows)
}

fn reasons() -> String {
    let rows = Reason::ALL.map(|reason| {
        let when = match reason {
            Reason::NotHttp => "the stream does not begin like an HTTP/1 request",
            Reason::Malformed => "the head breaks the grammar, and at least one reading of it has a token or TTL header",
            Reason::TooLong => "the head is over 16 KiB",
            Reason::Framing => "the head is at a place where another reading of the framing has a body",
            Reason::Gap => "bytes of the stream were missed",
            Reason::Midstream => "the connection is older than the tool, which started in the middle of a head",
            Reason::Closed => "the connection ended in the middle of the head",
            Reason::Timeout => "the head was incomplete for 30 seconds",
            Reason::Changed => {
                "the sender changed the bytes while they were sent (send tap) or between two transmissions (wire tap). A record \
                 without method and path is about a request that was already written"
            }
            Reason::Unfinished => {
                "the head was incomplete when the tool stopped, or when there were too many incomplete heads"
            }
            Reason::Unreadable => "the bytes are not in the sender's memory: sendfile, splice (send tap)",
            Reason::Urgent => {
                "an urgent byte (`MSG_OOB`) was sent inside the head, or it is not clear in which head"
            }
            Reason::NoState => "there was no room for the state of the connection",
        };
        [code(reason.as_str()), when.to_owned()]
    });
    table(["`imds.reason`", "when"], rows)
}

fn path_classes() -> String {
    let rows = PathClass::ALL.map(|class| {
        let paths = match class {
            PathClass::Credential => {
                "`meta-data/iam/security-credentials/` and `meta-data/identity-credentials/ec2/security-credentials/`: keys of \
                 the instance's role, or the role's name"
            }
            PathClass::UserData => "`user-data`, which often holds secrets",
            PathClass::Identity => "`dynamic/instance-identity/`: the instance's signed identity",
            PathClass::Account => {
                "`meta-data/iam/info` and `meta-data/identity-credentials/ec2/info`: ids of the account and the role"
            }
            PathClass::Keys => "`meta-data/public-keys/` and `meta-data/managed-ssh-keys/`",
            PathClass::Tags => "`meta-data/tags/`: the instance's tags",
            PathClass::Lifecycle => "`meta-data/spot/`, `meta-data/events/` and `meta-data/autoscaling/`",
            PathClass::Network => {
                "`meta-data/network/`, and `local-ipv4`, `public-ipv4`, `ipv6` and `mac` beside it"
            }
            PathClass::Token => "`api/token`: a session token",
            PathClass::Root => "`/`: the list of versions",
            PathClass::Plain => "everything else that IMDS serves",
            PathClass::NotImds => "a path that no IMDS serves",
        };
        [code(class.as_str()), paths.to_owned()]
    });
    table(["`imds.path_class`", "paths"], rows)
}

fn owners() -> String {
    let rows = OwnerHook::ALL.map(|owner| {
        let process = match owner {
            OwnerHook::Connect => "the process that connected",
            OwnerHook::TpBtf => "the sender, seen by the tp_btf hook",
            OwnerHook::Fentry => "the sender, seen by the fentry hook",
            OwnerHook::Kprobe => "the sender, seen by the kprobe",
            OwnerHook::SockDiag => {
                "the process that holds the socket, found by a search: the socket is older than the tool"
            }
            OwnerHook::Egress => "the process that was running when the SYN left: a last resort",
        };
        [code(owner.as_str()), process.to_owned()]
    });
    table(["`imds.owner`", "`process` is"], rows)
}

fn causes() -> String {
    let rows = Cause::ALL
        .iter()
        .map(|cause| [code(cause.as_str()), cause.meaning().to_owned()]);
    table(["`imds.cause`", "meaning"], rows)
}

fn risks() -> String {
    let rows = Risk::ALL.iter().map(|risk| {
        let (meaning, limits) = risk.meaning();
        [code(risk.as_str()), meaning.to_owned(), limits.to_owned()]
    });
    table(["`imds.risk`", "what it means", "what it does not say"], rows)
}
