//! The records in which the analyzer speaks of itself: what it hooked, what it lost, and the sum of what it saw.

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::{
    Action, Category, Dataset, Envelope, EventFields, Host, Kind, Level, Outcome, SCHEMA, Type, User, action_is,
    noise::{FirstSeenRecord, RateLimitedRecord},
};
use crate::{
    loss::Ledger,
    sink::{
        notice::{Hook, Notice},
        summary::{Caller, Counts, Summary},
    },
};

impl<'a> super::Record<'a> {
    pub(in crate::sink) fn of_notice(time: SystemTime, notice: &Notice<'a>, host: &'a str) -> Self {
        match notice {
            Notice::Start { kernel, hooks } => Self::Start(StartRecord {
                envelope: envelope(time, Level::Info, Action::Start),
                imds: Start {
                    schema: SCHEMA,
                    hooks: Hooks(hooks),
                },
                host: StartHost {
                    name: host,
                    os: Os { kernel },
                },
            }),
            Notice::Loss(loss) => Self::Loss(LossRecord {
                envelope: envelope(time, Level::Warn, Action::Loss),
                imds: Loss { schema: SCHEMA, loss },
                host: Host { name: host },
            }),
            Notice::FirstSeen { event, first } => Self::FirstSeen(FirstSeenRecord::new(time, event, *first, host)),
            Notice::RateLimited(folded) => Self::RateLimited(RateLimitedRecord::new(time, folded, host)),
            Notice::Summary { summary, loss } => Self::Summary(SummaryRecord {
                envelope: envelope(time, Level::Info, Action::Summary),
                imds: SummaryImds {
                    schema: SCHEMA,
                    summary: SummaryFields::new(summary),
                    loss,
                },
                host: Host { name: host },
            }),
        }
    }
}

pub(super) fn envelope(time: SystemTime, level: Level, action: Action) -> Envelope {
    let (kind, category, r#type) = match action {
        Action::FirstSeen => (Kind::Event, Category::Network, Type::Info),
        Action::Start => (Kind::Event, Category::Process, Type::Start),
        _ => (Kind::Metric, Category::Network, Type::Info),
    };
    let fields = EventFields {
        kind,
        category: [category],
        r#type: [r#type],
        action,
        dataset: Dataset::Analyzer,
        outcome: Outcome::Success,
    };
    Envelope::new(time, level, fields)
}

/// The analyzer has attached.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, transform = action_is("imds-analyzer-start"))]
pub(in crate::sink) struct StartRecord<'a> {
    #[serde(flatten)]
    envelope: Envelope,
    imds: Start<'a>,
    host: StartHost<'a>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Start<'a> {
    schema: u32,
    hooks: Hooks<'a>,
}

#[derive(JsonSchema)]
#[schemars(transparent)]
struct Hooks<'a>(#[schemars(with = "Vec<HookFields<'a>>")] &'a [Hook<'a>]);

impl Serialize for Hooks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|hook| HookFields {
            name: hook.name,
            attached: hook.attached,
            reason: hook.reason,
        }))
    }
}

/// One of the kernel's hooks.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Hook")]
struct HookFields<'a> {
    name: &'a str,
    attached: bool,
    /// Why it is used, or why not.
    reason: &'a str,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct StartHost<'a> {
    name: &'a str,
    os: Os<'a>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Os<'a> {
    /// Release of the running kernel.
    kernel: &'a str,
}

/// Something was lost since the last record of this kind.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, transform = action_is("imds-analyzer-loss"))]
pub(in crate::sink) struct LossRecord<'a> {
    #[serde(flatten)]
    envelope: Envelope,
    imds: Loss<'a>,
    host: Host<'a>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Loss<'a> {
    schema: u32,
    loss: &'a Ledger,
}

/// All that was seen, by caller.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, transform = action_is("imds-analyzer-summary"))]
pub(in crate::sink) struct SummaryRecord<'a> {
    #[serde(flatten)]
    envelope: Envelope,
    imds: SummaryImds<'a>,
    host: Host<'a>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct SummaryImds<'a> {
    schema: u32,
    summary: SummaryFields<'a>,
    loss: &'a Ledger,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Summary")]
struct SummaryFields<'a> {
    /// Calls to the metadata service.
    total: CountFields,
    /// Calls whose peer was an address of the host itself.
    local_total: CountFields,
    /// Those with the most v1 calls first.
    callers: Vec<CallerFields<'a>>,
    /// Calls by callers for whom there was no room in `callers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    other_callers: Option<CountFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_other_callers: Option<CountFields>,
    /// Calls of rootless network helpers that repeat one of the calls above.
    #[serde(skip_serializing_if = "Option::is_none")]
    relayed_total: Option<CountFields>,
}

impl<'a> SummaryFields<'a> {
    fn new(summary: &'a Summary) -> Self {
        let callers = [false, true].into_iter().flat_map(|local| summary.callers(local));
        Self {
            total: CountFields::new(summary.total(false)),
            local_total: CountFields::new(summary.total(true)),
            callers: callers.map(CallerFields::new).collect(),
            other_callers: summary.other_callers(false).map(CountFields::new),
            local_other_callers: summary.other_callers(true).map(CountFields::new),
            relayed_total: summary.relayed().map(CountFields::new),
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Counts")]
pub(super) struct CountFields {
    v1: u64,
    v2: u64,
    other: u64,
    unknown: u64,
}

impl CountFields {
    pub(super) fn new(counts: Counts) -> Self {
        let Counts { v1, v2, other, unknown } = counts;
        Self { v1, v2, other, unknown }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Caller")]
struct CallerFields<'a> {
    /// As `imds.caller` of its requests; absent where nobody is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
    /// The part of it that is the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User<'a>>,
    /// Unit, or image of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<&'a str>,
    local: bool,
    calls: CountFields,
    /// Path of its last v1 call, or of its last call if it made none.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_path: Option<&'a str>,
}

impl<'a> CallerFields<'a> {
    fn new(caller: &'a Caller) -> Self {
        Self {
            caller: caller.key.as_deref(),
            program: caller.program.as_deref(),
            user: User::new(caller.user.id, caller.user.name.as_deref()),
            place: caller.place.as_deref(),
            local: caller.local,
            calls: CountFields::new(caller.counts),
            last_path: caller.last_path.as_deref(),
        }
    }
}
