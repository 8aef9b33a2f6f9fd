//! The result of a rehearsal.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of the refused processes of one caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "RefusedCaller")]
pub struct CallerOutcome {
    pub caller: String,
    /// Calls that were refused, or in a dry run would have been.
    pub refused: u64,
    pub processes: u64,
    /// Those of the calls that followed an earlier one that was refused, by the same process.
    pub tried_again: u64,
    /// Processes that called with a token afterwards.
    pub fell_back: u64,
    /// Processes that exited within 10 seconds of a refused call, and had not called with a token.
    pub exited: u64,
    /// All other processes: they live on without another way.
    pub gave_up: u64,
}

/// What was refused, by caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Rehearsal")]
pub struct RehearsalOutcome {
    /// True if nothing was refused: it says what would have been.
    pub dry_run: bool,
    pub refused: u64,
    /// Refused calls whose callers closed the connection before the answer came, or did not get it. `refused` does not
    /// count them.
    #[serde(default)]
    pub unanswered: u64,
    /// v1 calls of chosen callers that were let through, by reason: `shared-packet`, `fast-open`, `namespace`, `device`,
    /// `multipath`, `rewritten`, `uncounted` could not be answered; `not-in-time` came before the rehearsal knew of their
    /// processes, or while it was stopped.
    pub let_through: BTreeMap<String, u64>,
    /// The callers with the most refused calls first.
    pub callers: Vec<CallerOutcome>,
    /// Why it ended before its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_early: Option<String>,
}
