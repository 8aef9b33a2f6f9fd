//! What the analyzer says about itself.

use std::time::SystemTime;

use crate::{
    event::{Attempt, Event, User},
    loss::Ledger,
    summary::{Counts, Summary},
};

/// A record that is not a request.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// Heads the output.
    Start {
        /// Release of the running kernel.
        kernel: &'a str,
        hooks: &'a [Hook<'a>],
    },
    /// What was lost since the last notice of this kind.
    Loss(&'a Ledger),
    /// A caller that was not seen before, just before the record of its request.
    FirstSeen { event: &'a Event, first: First },
    /// A connection that ended without a request.
    Attempt(&'a Attempt),
    /// Requests of one caller that were not written in full.
    RateLimited(&'a Folded),
    /// Ends the output; `loss` is all that was lost.
    Summary { summary: &'a Summary, loss: &'a Ledger },
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
    /// Of all versions, those for credentials.
    pub credential: u64,
    /// The times of the first and the last of them.
    pub since: SystemTime,
    pub until: SystemTime,
}
