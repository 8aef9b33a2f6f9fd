//! The records of noise control: a caller seen for the first time, and requests that were counted only.

use std::time::SystemTime;

use imds_analyzer_ebpf::classify::Verdict;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Action, Envelope, Host, Level, Micros, SCHEMA, User, action_is,
    notice::{CountFields, envelope},
};
use crate::{
    event::{Event, Process},
    sink::notice::{First, Folded},
};

/// A caller that was not seen before makes its first v1 call, or its first for credentials.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, transform = action_is("imds-analyzer-first-seen"))]
pub(in crate::sink) struct FirstSeenRecord<'a> {
    #[serde(flatten)]
    envelope: Envelope,
    imds: FirstSeen<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<Program<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    systemd: Option<Unit<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<ContainerId<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<Path<'a>>,
    host: Host<'a>,
}

impl<'a> FirstSeenRecord<'a> {
    pub(super) fn new(time: SystemTime, event: &'a Event, first: First, host: &'a str) -> Self {
        let process = event.process.as_deref();
        let level = if event.verdict == Verdict::V1 {
            Level::Warn
        } else {
            Level::Info
        };
        Self {
            envelope: envelope(time, level, Action::FirstSeen),
            imds: FirstSeen {
                schema: SCHEMA,
                caller: event.caller(),
                first: [(first.v1, What::V1), (first.credential, What::Credential)]
                    .into_iter()
                    .filter_map(|(is, what)| is.then_some(what))
                    .collect(),
                local: event.local,
            },
            process: process.map(Program::new),
            user: process.and_then(|process| User::new(process.user.id, process.user.name.as_deref())),
            systemd: Unit::new(process.and_then(|process| process.unit.as_deref())),
            container: ContainerId::new(process.and_then(|process| Some(process.container.as_ref()?.id.as_str()))),
            url: event.http.path.as_deref().map(|path| Path { path }),
            host: Host { name: host },
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct FirstSeen<'a> {
    schema: u32,
    /// What callers are told apart by.
    caller: &'a str,
    /// What it did for the first time.
    first: Vec<What>,
    local: bool,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum What {
    V1,
    Credential,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Program<'a> {
    pid: u32,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<&'a str>,
}

impl<'a> Program<'a> {
    fn new(process: &'a Process) -> Self {
        Self {
            pid: process.pid,
            name: &process.name,
            executable: process.executable.as_deref(),
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Unit<'a> {
    unit: &'a str,
}

impl<'a> Unit<'a> {
    fn new(unit: Option<&'a str>) -> Option<Self> {
        unit.map(|unit| Self { unit })
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ContainerId<'a> {
    id: &'a str,
}

impl<'a> ContainerId<'a> {
    fn new(id: Option<&'a str>) -> Option<Self> {
        id.map(|id| Self { id })
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Path<'a> {
    path: &'a str,
}

/// Requests of one caller that were counted in place of being written, since its last record of this kind.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, transform = action_is("imds-analyzer-rate-limited"))]
pub(in crate::sink) struct RateLimitedRecord<'a> {
    #[serde(flatten)]
    envelope: Envelope,
    imds: RateLimited<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    systemd: Option<Unit<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<ContainerId<'a>>,
    host: Host<'a>,
}

impl<'a> RateLimitedRecord<'a> {
    pub(super) fn new(time: SystemTime, folded: &'a Folded, host: &'a str) -> Self {
        let level = if folded.counts.v1 > 0 { Level::Warn } else { Level::Info };
        Self {
            envelope: envelope(time, level, Action::RateLimited),
            imds: RateLimited {
                schema: SCHEMA,
                caller: folded.caller.as_deref(),
                calls: CountFields::new(folded.counts),
                credential_calls: folded.credential,
                since: Micros(folded.since),
                until: Micros(folded.until),
            },
            user: User::new(folded.user.id, folded.user.name.as_deref()),
            systemd: Unit::new(folded.unit.as_deref()),
            container: ContainerId::new(folded.container.as_deref()),
            host: Host { name: host },
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct RateLimited<'a> {
    schema: u32,
    /// What callers are told apart by; absent for callers for whom there was no room.
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
    /// The calls that were not written.
    calls: CountFields,
    /// How many of all versions were for credentials.
    credential_calls: u64,
    /// When the first of them was made.
    since: Micros,
    /// When the last of them was made.
    until: Micros,
}
