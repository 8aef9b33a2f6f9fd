//! What the analyzer says about itself.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use crate::{
    event::{Attempt, Event, User},
    host::clock::Now,
    loss::Ledger,
    summary::{Answers, Counts, Summary},
};

mod rehearsal;

pub use self::rehearsal::{CallerOutcome, RehearsalOutcome};

/// A record that is not a request.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// Heads the output.
    Start {
        /// Release of the running kernel.
        kernel: &'a str,
        hooks: &'a [Hook<'a>],
        run: &'a Run,
    },
    /// The analyzer is still attached. Without it, a log could not tell an hour without calls from an hour without
    /// analyzer.
    Watching(&'a Watching),
    /// What was lost since the last notice of this kind.
    Loss(&'a Ledger),
    /// A caller that was not seen before, just before the record of its request.
    FirstSeen { event: &'a Event, first: First },
    /// A connection that ended without a request.
    Attempt(&'a Attempt),
    /// Requests of one caller that were not written in full.
    RateLimited(&'a Folded),
    /// What a rehearsal broke.
    Rehearsal(&'a RehearsalOutcome),
    /// Ends the output; `loss` is all that was lost.
    Summary { summary: &'a Summary, loss: &'a Ledger },
}

/// One run of the analyzer, from attaching to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// When it attached; tells runs apart.
    pub attached: Option<SystemTime>,
    /// The kernel's id of this boot.
    pub boot_id: Option<String>,
    /// How long the host had been up by then.
    pub uptime: Duration,
}

impl Run {
    /// The run that begins now.
    pub fn begin() -> Self {
        let now = Now::read();
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        Self {
            attached: Some(now.wall),
            boot_id: boot_id.map(|id| id.trim().to_owned()),
            uptime: Duration::from_nanos(now.since_boot),
        }
    }
}

/// Calls since the last notice of this kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watching {
    /// All calls to the metadata service.
    pub calls: Counts,
    /// Those among them that the configuration's ignore list kept out of the log.
    pub ignored: Counts,
}

/// A hook in the kernel that was considered.
#[derive(Clone, Copy, Debug)]
pub struct Hook<'a> {
    pub name: &'a str,
    pub attached: bool,
    /// Why it is used, or why not.
    pub reason: &'a str,
}

/// What a caller did for the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct First {
    pub v1: bool,
    pub credential: bool,
}

/// Requests that were counted in place of being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    /// [`Event::caller`]; `None` for callers for whom there was no room.
    pub caller: Option<String>,
    pub user: User,
    pub unit: Option<String>,
    pub container: Option<String>,
    pub counts: Counts,
    /// Those among them whose peer was an address of the host itself.
    pub local: Counts,
    /// The answers to the v1 calls that were not local.
    pub answers: Answers,
    /// Of all versions, those for credentials.
    pub credential: u64,
    /// The times of the first and the last of them.
    pub since: SystemTime,
    pub until: SystemTime,
}
