//! The records of noise control: a new caller, and requests that were only counted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    SCHEMA, Text, Word,
    envelope::{Host, User},
    value::Micros,
};
use crate::{
    event::{self, Event},
    identity::Identity,
    notice::{First, Folded},
    summary::{Answers, Counts},
    vocabulary::vocabulary,
};

/// A caller that was not seen before makes its first v1 call, or its first for credentials.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct FirstSeen<'a> {
    pub imds: FirstSeenFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Program<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub systemd: Option<Unit<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerId<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Path<'a>>,
    pub host: Host<'a>,
}

impl<'a> FirstSeen<'a> {
    pub(super) fn new(event: &'a Event, first: First, host: &'a Identity) -> Self {
        let process = event.process.as_deref();
        Self {
            imds: FirstSeenFields {
                schema: SCHEMA,
                caller: event.caller().into(),
                first: [(first.v1, What::V1), (first.credential, What::Credential)]
                    .into_iter()
                    .filter_map(|(is, what)| is.then_some(what.into()))
                    .collect(),
                local: event.local,
            },
            process: process.map(Program::new),
            user: process.and_then(|process| User::new(process.user.id, process.user.name.as_deref())),
            systemd: Unit::new(process.and_then(|process| process.unit.as_ref())),
            container: ContainerId::new(process.and_then(|process| Some(&process.container.as_ref()?.id))),
            url: event.http.path.as_ref().map(|path| Path { path: path.into() }),
            host: Host::new(host),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields, rename = "FirstSeen")]
pub struct FirstSeenFields<'a> {
    pub schema: u32,
    /// What callers are told apart by.
    pub caller: Text<'a>,
    /// What it did for the first time.
    pub first: Vec<Word<'a, What>>,
    pub local: bool,
}

vocabulary! {
    /// The first call that a caller made.
    pub enum What in "What" {
        V1 = "v1",
        Credential = "credential",
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Program<'a> {
    pub pid: u32,
    pub name: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<Text<'a>>,
}

impl<'a> Program<'a> {
    fn new(process: &'a event::Process) -> Self {
        Self {
            pid: process.pid,
            name: (&process.name).into(),
            executable: process.executable.as_ref().map(Text::from),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Unit<'a> {
    pub unit: Text<'a>,
}

impl<'a> Unit<'a> {
    fn new(unit: Option<&'a String>) -> Option<Self> {
        unit.map(|unit| Self { unit: unit.into() })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct ContainerId<'a> {
    pub id: Text<'a>,
}

impl<'a> ContainerId<'a> {
    fn new(id: Option<&'a String>) -> Option<Self> {
        id.map(|id| Self { id: id.into() })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Path<'a> {
    pub path: Text<'a>,
}

/// Requests of one caller that were counted in place of being written, since its last record of this kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct RateLimited<'a> {
    pub imds: RateLimitedFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub systemd: Option<Unit<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerId<'a>>,
    pub host: Host<'a>,
}

impl<'a> RateLimited<'a> {
    pub(super) fn new(folded: &'a Folded, host: &'a Identity) -> Self {
        Self {
            imds: RateLimitedFields {
                schema: SCHEMA,
                caller: folded.caller.as_ref().map(Text::from),
                calls: folded.counts,
                local_calls: folded.local,
                v1_answers: folded.answers,
                credential_calls: folded.credential,
                since: Micros::new(folded.since),
                until: Micros::new(folded.until),
            },
            user: User::new(folded.user.id, folded.user.name.as_deref()),
            systemd: Unit::new(folded.unit.as_ref()),
            container: ContainerId::new(folded.container.as_ref()),
            host: Host::new(host),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields, rename = "RateLimited")]
pub struct RateLimitedFields<'a> {
    pub schema: u32,
    /// What callers are told apart by; absent for callers for whom there was no room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Text<'a>>,
    /// The calls that were not written.
    pub calls: Counts,
    /// Those among them whose peer was an address of the host itself.
    #[serde(default, skip_serializing_if = "Counts::is_empty")]
    pub local_calls: Counts,
    /// What came back of the v1 calls that were not local.
    #[serde(default)]
    pub v1_answers: Answers,
    /// How many of all versions were for credentials.
    pub credential_calls: u64,
    /// When the first of them was made.
    pub since: Micros,
    /// When the last of them was made.
    pub until: Micros,
}
