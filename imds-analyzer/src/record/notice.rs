//! The records of the analyzer about itself: its hooks, its losses, and the summary.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    List, SCHEMA, Text,
    envelope::{Host, Image, User},
    value::Micros,
};
use crate::{
    identity::Identity,
    loss::Ledger,
    notice::{self, Run},
    summary::{self, Answers, Counts},
};

/// The analyzer has attached. Heads each file, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Start<'a> {
    pub imds: StartFields<'a>,
    pub host: StartHost<'a>,
}

impl<'a> Start<'a> {
    pub(super) fn new(kernel: &'a str, hooks: &'a [notice::Hook<'a>], run: &'a Run, host: &'a Identity) -> Self {
        Self {
            imds: StartFields {
                schema: SCHEMA,
                hooks: List::Live(hooks),
                attached: run.attached.map(Micros::new),
            },
            host: StartHost {
                name: (&host.name).into(),
                image: Image::new(host),
                os: Os { kernel: kernel.into() },
                boot: run.boot_id.as_ref().map(|id| Boot { id: id.into() }),
                uptime: run.attached.map(|_| run.uptime.as_secs()),
            },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields, rename = "Start")]
pub struct StartFields<'a> {
    pub schema: u32,
    pub hooks: List<'a, notice::Hook<'a>, Hook<'a>>,
    /// When this run of the analyzer attached.
    // Absent in the first lines of this schema, like `host.boot` and `host.uptime`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attached: Option<Micros>,
}

/// One of the kernel's hooks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Hook<'a> {
    pub name: Text<'a>,
    pub attached: bool,
    /// Why it is used, or why not.
    pub reason: Text<'a>,
}

impl<'a> From<&'a notice::Hook<'a>> for Hook<'a> {
    fn from(hook: &'a notice::Hook<'a>) -> Self {
        Self {
            name: hook.name.into(),
            attached: hook.attached,
            reason: hook.reason.into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct StartHost<'a> {
    pub name: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Image<'a>>,
    pub os: Os<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot<'a>>,
    /// Seconds that the host had been up when the analyzer attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Boot<'a> {
    /// The kernel's id of the boot: /proc/sys/kernel/random/boot_id.
    pub id: Text<'a>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Os<'a> {
    /// Release of the running kernel.
    pub kernel: Text<'a>,
}

/// The analyzer is attached, which an hour without calls would not show.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Watching<'a> {
    pub imds: WatchingFields,
    pub host: Host<'a>,
}

impl<'a> Watching<'a> {
    pub(super) fn new(watching: notice::Watching, host: &'a Identity) -> Self {
        Self {
            imds: WatchingFields {
                schema: SCHEMA,
                calls: watching.calls,
                ignored: watching.ignored,
            },
            host: Host::new(host),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Watching")]
pub struct WatchingFields {
    pub schema: u32,
    /// Calls to the metadata service since the last record of this kind.
    pub calls: Counts,
    /// Those among them that the ignore list of the configuration kept out of the log.
    pub ignored: Counts,
}

/// Something was lost since the last record of this kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Loss<'a> {
    pub imds: LossFields<'a>,
    pub host: Host<'a>,
}

impl<'a> Loss<'a> {
    pub(super) fn new(loss: &'a Ledger, host: &'a Identity) -> Self {
        Self {
            imds: LossFields {
                schema: SCHEMA,
                loss: Cow::Borrowed(loss),
            },
            host: Host::new(host),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields, rename = "Loss")]
pub struct LossFields<'a> {
    pub schema: u32,
    pub loss: Cow<'a, Ledger>,
}

/// A rehearsal has ended: what it broke.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Rehearsal<'a> {
    pub imds: RehearsalFields<'a>,
    pub host: Host<'a>,
}

impl<'a> Rehearsal<'a> {
    pub(super) fn new(outcome: &'a notice::RehearsalOutcome, host: &'a Identity) -> Self {
        Self {
            imds: RehearsalFields {
                schema: SCHEMA,
                rehearsal: Cow::Borrowed(outcome),
            },
            host: Host::new(host),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields, rename = "RehearsalImds")]
pub struct RehearsalFields<'a> {
    pub schema: u32,
    pub rehearsal: Cow<'a, notice::RehearsalOutcome>,
}

/// All that was seen, by caller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Summary<'a> {
    pub imds: SummaryFields<'a>,
    pub host: Host<'a>,
}

impl<'a> Summary<'a> {
    pub(super) fn new(summary: &'a summary::Summary, loss: &'a Ledger, host: &'a Identity) -> Self {
        Self {
            imds: SummaryFields {
                schema: SCHEMA,
                summary: Calls::new(summary),
                loss: Cow::Borrowed(loss),
            },
            host: Host::new(host),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields, rename = "SummaryImds")]
pub struct SummaryFields<'a> {
    pub schema: u32,
    pub summary: Calls<'a>,
    pub loss: Cow<'a, Ledger>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields, rename = "Summary")]
pub struct Calls<'a> {
    /// Calls to the metadata service.
    pub total: Counts,
    /// What came back of the v1 calls among them.
    #[serde(default)]
    pub v1_answers: Answers,
    /// Calls whose peer was an address of the host itself.
    pub local_total: Counts,
    #[serde(default)]
    pub local_v1_answers: Answers,
    /// Those with the most v1 calls first.
    pub callers: Vec<Caller<'a>>,
    /// Calls by callers for whom there was no room in `callers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_callers: Option<Counts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_other_callers: Option<Counts>,
    /// Calls of rootless network helpers that repeat one of the calls above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relayed_total: Option<Counts>,
    /// Connections without a call.
    #[serde(default)]
    pub attempts: u64,
}

impl<'a> Calls<'a> {
    fn new(summary: &'a summary::Summary) -> Self {
        let callers = [false, true].into_iter().flat_map(|local| summary.callers(local));
        Self {
            total: summary.total(false),
            v1_answers: summary.answers(false),
            local_total: summary.total(true),
            local_v1_answers: summary.answers(true),
            callers: callers.map(Caller::new).collect(),
            other_callers: summary.other_callers(false),
            local_other_callers: summary.other_callers(true),
            relayed_total: summary.relayed(),
            attempts: summary.attempts(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Caller<'a> {
    /// As `imds.caller` of its requests; absent where nobody is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Text<'a>>,
    /// The part of it that is the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<User<'a>>,
    /// Unit, or image of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Text<'a>>,
    pub local: bool,
    pub calls: Counts,
    /// What came back of its v1 calls.
    #[serde(default)]
    pub v1_answers: Answers,
    /// Path of its last v1 call, or of its last call if it made none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_path: Option<Text<'a>>,
}

impl<'a> Caller<'a> {
    fn new(caller: &'a summary::Caller) -> Self {
        let text = |text: &'a Option<String>| text.as_ref().map(Text::from);
        Self {
            caller: text(&caller.key),
            program: text(&caller.program),
            user: User::new(caller.user.id, caller.user.name.as_deref()),
            place: text(&caller.place),
            local: caller.local,
            calls: caller.counts,
            v1_answers: caller.answers,
            last_path: text(&caller.last_path),
        }
    }
}
