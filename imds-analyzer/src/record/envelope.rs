//! The beginning of every record: time, severity, and kind of record.

use std::{borrow::Cow, collections::BTreeMap, time::SystemTime};

use imds_analyzer_ebpf::classify::Version;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Text, Word,
    value::{Id, Micros},
    word::Single,
};
use crate::{
    event::{Answer, Attempt, Event},
    host::clock::nanoseconds,
    identity::{self, Identity},
    notice::Notice,
    vocabulary::vocabulary,
};

/// The fields of all records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct Envelope<'a> {
    /// RFC 3339, UTC, microseconds.
    #[serde(rename = "@timestamp")]
    pub timestamp: Micros,
    pub log: Log<'a>,
    pub ecs: Ecs<'a>,
    pub event: EventFields<'a>,
    pub agent: Agent<'a>,
    /// The instance, as far as files of the host name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud: Option<Cloud<'a>>,
    /// As configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels<'a>>,
}

impl<'a> Envelope<'a> {
    pub(super) fn of_request(event: &Event, host: &'a Identity) -> Self {
        let reply = event.answer.reply();
        let fields = EventFields {
            kind: Kind::Event.into(),
            category: Single(Category::Network.into()),
            r#type: Single(Type::Access.into()),
            action: Action::Request.into(),
            dataset: Dataset::Request.into(),
            outcome: Outcome::of(event.answer).into(),
            duration: reply.map(|reply| nanoseconds(reply.duration)),
        };
        Self::new(event.time, Level::of_request(event), fields, host)
    }

    pub(super) fn of_attempt(attempt: &Attempt, host: &'a Identity) -> Self {
        let fields = EventFields {
            kind: Kind::Event.into(),
            category: Single(Category::Network.into()),
            r#type: Single(Type::Access.into()),
            action: Action::Attempt.into(),
            dataset: Dataset::Attempt.into(),
            outcome: Outcome::Failure.into(),
            duration: Some(nanoseconds(attempt.duration)),
        };
        Self::new(attempt.time, Level::Info, fields, host)
    }

    pub(super) fn of_notice(time: SystemTime, notice: &Notice<'_>, host: &'a Identity) -> Self {
        let action = Action::of_notice(notice);
        let (kind, category, r#type) = match action {
            Action::FirstSeen => (Kind::Event, Category::Network, Type::Info),
            Action::Start => (Kind::Event, Category::Process, Type::Start),
            _ => (Kind::Metric, Category::Network, Type::Info),
        };
        let fields = EventFields {
            kind: kind.into(),
            category: Single(category.into()),
            r#type: Single(r#type.into()),
            action: action.into(),
            dataset: Dataset::Analyzer.into(),
            outcome: Outcome::Success.into(),
            duration: None,
        };
        Self::new(time, Level::of_notice(notice), fields, host)
    }

    fn new(time: SystemTime, level: Level, event: EventFields<'a>, host: &'a Identity) -> Self {
        Self {
            timestamp: Micros::new(time),
            log: Log { level: level.into() },
            ecs: Ecs { version: "8.11".into() },
            event,
            agent: Agent {
                r#type: env!("CARGO_PKG_NAME").into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            cloud: Cloud::new(&host.cloud),
            labels: Labels::new(&host.labels),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Log<'a> {
    pub level: Word<'a, Level>,
}

vocabulary! {
    /// Severity of a record: `log.level`, and the priority of an entry in the journal.
    pub enum Level in "Level" {
        Info = "info",
        Warn = "warn",
        Error = "error",
    }
}

impl Level {
    pub fn of_request(event: &Event) -> Self {
        match event.verdict.version() {
            Version::V1 => Self::Warn,
            Version::Unknown => Self::Error,
            Version::V2 | Version::Other => Self::Info,
        }
    }

    pub fn of_notice(notice: &Notice<'_>) -> Self {
        let warns = match notice {
            Notice::Start { .. } | Notice::Watching(_) | Notice::Summary { .. } | Notice::Attempt(_) => false,
            Notice::Loss(loss) => loss.has_loss(),
            Notice::FirstSeen { event, .. } => event.verdict.version() == Version::V1,
            Notice::RateLimited(folded) => folded.counts.v1 > 0,
            Notice::Rehearsal(outcome) => outcome.refused > 0,
        };
        if warns { Self::Warn } else { Self::Info }
    }

    /// The level of syslog(3).
    pub const fn syslog(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warn => 4,
            Self::Info => 6,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Ecs<'a> {
    pub version: Text<'a>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct EventFields<'a> {
    pub kind: Word<'a, Kind>,
    pub category: Single<Word<'a, Category>>,
    pub r#type: Single<Word<'a, Type>>,
    /// The kind of record.
    pub action: Word<'a, Action>,
    pub dataset: Word<'a, Dataset>,
    pub outcome: Word<'a, Outcome>,
    /// Nanoseconds: from the last byte of a request to the first one of its answer, or how long an attempt lasted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<u64>,
}

vocabulary! {
    pub enum Kind in "Kind" {
        Event = "event",
        Metric = "metric",
    }
}

vocabulary! {
    pub enum Category in "Category" {
        Network = "network",
        Process = "process",
    }
}

vocabulary! {
    pub enum Type in "Type" {
        Access = "access",
        Start = "start",
        Info = "info",
    }
}

vocabulary! {
    /// The kind of record: `event.action`, and `IMDS_ACTION` in the journal.
    pub enum Action in "Action" {
        Request = "imds-request",
        Attempt = "imds-attempt",
        Start = "imds-analyzer-start",
        Watching = "imds-analyzer-watching",
        Loss = "imds-analyzer-loss",
        FirstSeen = "imds-analyzer-first-seen",
        RateLimited = "imds-analyzer-rate-limited",
        Rehearsal = "imds-analyzer-rehearsal",
        Summary = "imds-analyzer-summary",
    }
}

impl Action {
    pub fn of_notice(notice: &Notice<'_>) -> Self {
        match notice {
            Notice::Start { .. } => Self::Start,
            Notice::Watching(_) => Self::Watching,
            Notice::Loss(_) => Self::Loss,
            Notice::FirstSeen { .. } => Self::FirstSeen,
            Notice::Attempt(_) => Self::Attempt,
            Notice::RateLimited(_) => Self::RateLimited,
            Notice::Rehearsal(_) => Self::Rehearsal,
            Notice::Summary { .. } => Self::Summary,
        }
    }
}

vocabulary! {
    pub enum Dataset in "Dataset" {
        /// Requests.
        Request = "imds.request",
        /// Connections without a request.
        Attempt = "imds.attempt",
        /// Records of the analyzer about itself.
        Analyzer = "imds.analyzer",
    }
}

vocabulary! {
    /// For a request: a status of 2xx; another status or no answer; not seen.
    pub enum Outcome in "Outcome" {
        Success = "success",
        Failure = "failure",
        Unknown = "unknown",
    }
}

impl Outcome {
    fn of(answer: Answer) -> Self {
        match answer {
            Answer::Answered(reply) if reply.is_success() => Self::Success,
            Answer::Answered(_) | Answer::None => Self::Failure,
            Answer::Unseen => Self::Unknown,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Agent<'a> {
    pub r#type: Text<'a>,
    pub version: Text<'a>,
}

/// ECS `host`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Host<'a> {
    pub name: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Image<'a>>,
}

impl<'a> Host<'a> {
    pub(super) fn new(host: &'a Identity) -> Self {
        Self {
            name: (&host.name).into(),
            image: Image::new(host),
        }
    }
}

/// The image that the instance was started from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Image<'a> {
    pub id: Text<'a>,
}

impl<'a> Image<'a> {
    pub(super) fn new(host: &'a Identity) -> Option<Self> {
        host.cloud.image_id.as_ref().map(|id| Self { id: id.into() })
    }
}

/// ECS `cloud`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Cloud<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<CloudId<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<CloudId<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<Machine<'a>>,
}

impl<'a> Cloud<'a> {
    /// `None` if nothing is known.
    fn new(cloud: &'a identity::Facts) -> Option<Self> {
        let text = |value: &'a Option<String>| value.as_ref().map(Text::from);
        let id = |value: &'a Option<String>| value.as_ref().map(|id| CloudId { id: id.into() });
        (!cloud.is_empty()).then(|| Self {
            provider: text(&cloud.provider),
            account: id(&cloud.account_id),
            region: text(&cloud.region),
            availability_zone: text(&cloud.availability_zone),
            instance: id(&cloud.instance_id),
            machine: cloud
                .machine_type
                .as_ref()
                .map(|r#type| Machine { r#type: r#type.into() }),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct CloudId<'a> {
    pub id: Text<'a>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Machine<'a> {
    pub r#type: Text<'a>,
}

/// ECS `labels`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent, bound(deserialize = "'de: 'a"))]
pub struct Labels<'a>(Cow<'a, BTreeMap<String, String>>);

impl<'a> Labels<'a> {
    /// `None` if there are no labels.
    fn new(labels: &'a BTreeMap<String, String>) -> Option<Self> {
        (!labels.is_empty()).then_some(Self(Cow::Borrowed(labels)))
    }
}

/// ECS `user` and `group`; ids are strings there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct User<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
}

impl<'a> User<'a> {
    /// `None` if nothing is known.
    pub(super) fn new(id: Option<u32>, name: Option<&'a str>) -> Option<Self> {
        (id.is_some() || name.is_some()).then(|| Self {
            id: id.map(Id),
            name: name.map(Text::from),
        })
    }
}
