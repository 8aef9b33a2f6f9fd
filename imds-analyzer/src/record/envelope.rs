//! What every record begins with: when, how grave, and which kind of record it is.

use std::time::SystemTime;

use imds_analyzer_ebpf::classify::Version;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Text, Word,
    value::{Id, Micros},
    word::Single,
};
use crate::{event::Event, notice::Notice, vocabulary::vocabulary};

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
}

impl Envelope<'_> {
    pub(super) fn of_request(event: &Event) -> Self {
        let outcome = match event.verdict.version() {
            Version::Unknown => Outcome::Unknown,
            Version::V1 | Version::V2 | Version::Other => Outcome::Success,
        };
        let fields = EventFields {
            kind: Kind::Event.into(),
            category: Single(Category::Network.into()),
            r#type: Single(Type::Access.into()),
            action: Action::Request.into(),
            dataset: Dataset::Request.into(),
            outcome: outcome.into(),
        };
        Self::new(event.time, Level::of_request(event), fields)
    }

    pub(super) fn of_notice(time: SystemTime, notice: &Notice<'_>) -> Self {
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
        };
        Self::new(time, Level::of_notice(notice), fields)
    }
}

impl<'a> Envelope<'a> {
    fn new(time: SystemTime, level: Level, event: EventFields<'a>) -> Self {
        Self {
            timestamp: Micros::new(time),
            log: Log { level: level.into() },
            ecs: Ecs { version: "8.11".into() },
            event,
            agent: Agent {
                r#type: env!("CARGO_PKG_NAME").into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
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
    /// How grave a record is: `log.level`, and the priority of what is said in the journal.
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
            Notice::Start { .. } | Notice::Summary { .. } => false,
            Notice::Loss(loss) => loss.has_loss(),
            Notice::FirstSeen { event, .. } => event.verdict.version() == Version::V1,
            Notice::RateLimited(folded) => folded.counts.v1 > 0,
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
        Start = "imds-analyzer-start",
        Loss = "imds-analyzer-loss",
        FirstSeen = "imds-analyzer-first-seen",
        RateLimited = "imds-analyzer-rate-limited",
        Summary = "imds-analyzer-summary",
    }
}

impl Action {
    pub fn of_notice(notice: &Notice<'_>) -> Self {
        match notice {
            Notice::Start { .. } => Self::Start,
            Notice::Loss(_) => Self::Loss,
            Notice::FirstSeen { .. } => Self::FirstSeen,
            Notice::RateLimited(_) => Self::RateLimited,
            Notice::Summary { .. } => Self::Summary,
        }
    }
}

vocabulary! {
    pub enum Dataset in "Dataset" {
        /// Requests.
        Request = "imds.request",
        /// What the analyzer says about itself.
        Analyzer = "imds.analyzer",
    }
}

vocabulary! {
    pub enum Outcome in "Outcome" {
        Success = "success",
        Unknown = "unknown",
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
}

impl<'a> Host<'a> {
    pub(super) fn new(name: &'a str) -> Self {
        Self { name: name.into() }
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
    /// `None` where nothing is known.
    pub(super) fn new(id: Option<u32>, name: Option<&'a str>) -> Option<Self> {
        (id.is_some() || name.is_some()).then(|| Self {
            id: id.map(Id),
            name: name.map(Text::from),
        })
    }
}
