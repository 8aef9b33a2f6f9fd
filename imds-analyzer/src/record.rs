//! The JSON records, as the contract in `docs/events.md` has them: ECS names where ECS has one.
//!
//! The structs borrow from what they describe and are made anew for each record, so that writing one allocates nothing.
//! Their JSON Schema is derived from them ([`super::schema`]), doc comments included.

use std::{fmt, time::SystemTime};

use schemars::{JsonSchema, Schema};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

mod noise;
pub(super) mod notice;
mod process;
pub(super) mod request;

/// The version of `imds.*`: raised when a field changes its meaning or goes away.
const SCHEMA: u32 = 1;

/// One line of output.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[expect(
    clippy::large_enum_variant,
    reason = "written as soon as it is made; a box would cost each request an allocation"
)]
pub(super) enum Record<'a> {
    Request(request::RequestRecord<'a>),
    Start(notice::StartRecord<'a>),
    Loss(notice::LossRecord<'a>),
    FirstSeen(noise::FirstSeenRecord<'a>),
    RateLimited(noise::RateLimitedRecord<'a>),
    Summary(notice::SummaryRecord<'a>),
}

/// What every record begins with.
#[derive(Serialize, JsonSchema)]
pub(super) struct Envelope {
    /// RFC 3339, UTC, microseconds.
    #[serde(rename = "@timestamp")]
    timestamp: Micros,
    log: Log,
    ecs: Ecs,
    event: EventFields,
    agent: Agent,
}

impl Envelope {
    fn new(time: SystemTime, level: Level, event: EventFields) -> Self {
        Self {
            timestamp: Micros(time),
            log: Log { level },
            ecs: Ecs { version: "8.11" },
            event,
            agent: Agent {
                r#type: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
            },
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Log {
    level: Level,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Level {
    Info,
    Warn,
    Error,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Ecs {
    version: &'static str,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct EventFields {
    kind: Kind,
    category: [Category; 1],
    r#type: [Type; 1],
    /// The kind of record.
    action: Action,
    dataset: Dataset,
    outcome: Outcome,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Event,
    Metric,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Category {
    Network,
    Process,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Type {
    Access,
    Start,
    Info,
}

#[derive(Serialize, JsonSchema)]
enum Action {
    #[serde(rename = "imds-request")]
    Request,
    #[serde(rename = "imds-analyzer-start")]
    Start,
    #[serde(rename = "imds-analyzer-loss")]
    Loss,
    #[serde(rename = "imds-analyzer-first-seen")]
    FirstSeen,
    #[serde(rename = "imds-analyzer-rate-limited")]
    RateLimited,
    #[serde(rename = "imds-analyzer-summary")]
    Summary,
}

/// Makes the schema of a record demand its own `event.action`.
fn action_is(action: &'static str) -> impl FnMut(&mut Schema) {
    move |schema| {
        if let Some(Value::Object(event)) = schema.pointer_mut("/properties/event") {
            event.insert("properties".to_owned(), json!({ "action": { "const": action } }));
        }
    }
}

#[derive(Serialize, JsonSchema)]
enum Dataset {
    /// Requests.
    #[serde(rename = "imds.request")]
    Request,
    /// What the analyzer says about itself.
    #[serde(rename = "imds.analyzer")]
    Analyzer,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Success,
    Unknown,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Agent {
    r#type: &'static str,
    version: &'static str,
}

/// ECS `host`.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Host<'a> {
    name: &'a str,
}

/// ECS `user` and `group`; ids are strings there.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct User<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

impl<'a> User<'a> {
    /// `None` where nothing is known.
    fn new(id: Option<u32>, name: Option<&'a str>) -> Option<Self> {
        (id.is_some() || name.is_some()).then(|| Self { id: id.map(Id), name })
    }
}

/// A numeric id, written as a string.
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Id(#[schemars(with = "String", regex(pattern = "^[0-9]+$"))] u32);

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A time with microseconds.
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Micros(#[schemars(with = "String", extend("format" = "date-time"))] SystemTime);

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_micros(writable(self.0)))
    }
}

/// A time without fraction.
#[derive(JsonSchema)]
#[schemars(transparent)]
struct Seconds(#[schemars(with = "String", extend("format" = "date-time"))] SystemTime);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(writable(self.0)))
    }
}

/// `time`, or the epoch for one that RFC 3339 cannot write: a wrong clock must not end the output.
pub(super) fn writable(time: SystemTime) -> SystemTime {
    const YEAR_9999: u64 = 253_370_764_800;
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since.as_secs() < YEAR_9999 => time,
        _ => SystemTime::UNIX_EPOCH,
    }
}

/// Arguments as one text.
pub(super) struct Joined<'a>(pub(super) &'a [String]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, arg) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(arg)?;
        }
        Ok(())
    }
}
