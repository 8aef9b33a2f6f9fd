//! What is on the screen, as JSON.

use std::{collections::BTreeMap, time::SystemTime};

use serde::Serialize;

use super::{
    rows::Row,
    state::State,
    trail::{Entry, What},
};
use crate::{
    loss::Ledger,
    record::{self, Record, value::Micros},
    summary::{Answers, Counts},
};

/// The version of this JSON. It rises when a field changes its meaning or is removed.
pub const SCHEMA: u32 = 1;

/// The state of the screen. Callers have the names and fields that a report has, as far as both know them.
#[derive(Serialize)]
struct Screen<'a> {
    top: Head<'a>,
    /// Calls of all callers to the metadata service, and what came back of its v1 calls.
    calls: Counts,
    v1_answers: Answers,
    local_calls: Counts,
    /// Connections without a call.
    attempts: u64,
    /// Calls of callers for whom there was no room.
    other_callers: Counts,
    unreadable: u64,
    loss: Ledger,
    callers: Vec<Caller<'a>>,
}

#[derive(Serialize)]
struct Head<'a> {
    schema: u32,
    version: &'static str,
    time: Micros,
    source: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    filter: &'a str,
    sort: &'static str,
}

#[derive(Serialize)]
struct Caller<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<&'a str>,
    local: bool,
    calls: Counts,
    v1_answers: Answers,
    v1_statuses: &'a BTreeMap<u16, u64>,
    causes: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<Remedy<'a>>,
    attempts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Micros>,
    /// Newest first.
    last_calls: Vec<Call<'a>>,
    /// The record of its last v1 call or, without one, of its last call.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<Record<'a>>,
}

#[derive(Serialize)]
struct Remedy<'a> {
    id: &'a str,
    text: &'a str,
}

#[derive(Serialize)]
struct Call<'a> {
    time: Micros,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    /// Of a connection without a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
}

/// The callers that are shown and the sums, at `time`, as one JSON document with a line end.
///
/// # Errors
///
/// None that is known: all of it can be written.
pub fn document(state: &State, time: SystemTime) -> serde_json::Result<Vec<u8>> {
    let seen = state.seen();
    let summary = &seen.summary;
    let mut other_callers = Counts::default();
    for local in [false, true] {
        other_callers.merge(summary.other_callers(local).unwrap_or_default());
    }
    let screen = Screen {
        top: Head {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            time: Micros::new(time),
            source: &state.source,
            filter: &state.filter,
            sort: state.sort.as_str(),
        },
        calls: summary.total(false),
        v1_answers: summary.answers(false),
        local_calls: summary.total(true),
        attempts: summary.attempts(),
        other_callers,
        unreadable: seen.unreadable,
        loss: seen.loss(),
        callers: state.rows().iter().map(caller).collect(),
    };
    let mut text = serde_json::to_vec_pretty(&screen)?;
    text.push(b'\n');
    Ok(text)
}

fn caller<'a>(row: &Row<'a>) -> Caller<'a> {
    let (caller, trail) = (row.caller, row.trail);
    Caller {
        caller: caller.key.as_deref(),
        program: caller.program.as_deref(),
        user: row.user(),
        place: caller.place.as_deref(),
        local: caller.local,
        calls: caller.counts,
        v1_answers: caller.answers,
        v1_statuses: &trail.statuses,
        causes: trail
            .causes
            .iter()
            .map(|(cause, count)| (cause.as_str(), count))
            .collect(),
        remedy: caller.remedy.as_ref().map(|(id, text)| Remedy { id, text }),
        attempts: caller.attempts,
        last: trail.last.map(Micros::new),
        last_calls: trail.calls.iter().rev().map(call).collect(),
        record: record::read(&trail.record).ok(),
    }
}

fn call(entry: &Entry) -> Call<'_> {
    let empty = Call {
        time: Micros::new(entry.time),
        verdict: None,
        answer: None,
        status: None,
        method: None,
        path: None,
        attempt: None,
        pid: entry.pid,
    };
    match &entry.what {
        What::Call {
            verdict,
            answer,
            status,
            method,
            path,
        } => Call {
            verdict: Some(verdict.as_str()),
            answer: Some(answer.as_str()),
            status: *status,
            method: Some(method.as_ref()).filter(|text| !text.is_empty()),
            path: Some(path.as_ref()).filter(|text| !text.is_empty()),
            ..empty
        },
        What::Attempt(outcome) => Call {
            attempt: Some(outcome.map_or("unknown", |outcome| outcome.as_str())),
            ..empty
        },
    }
}
