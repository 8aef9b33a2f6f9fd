//! What is true of a host, counted while its records are written.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    clock,
    host::{self, Kind},
};

/// How long a host must be watched to be ready.
const WINDOW: u64 = 7 * clock::DAY;

/// Calls by version.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) v1: u64,
    pub(super) v2: u64,
    pub(super) other: u64,
    pub(super) unknown: u64,
}

impl Counts {
    pub(super) fn add(&mut self, more: Self) {
        self.v1 += more.v1;
        self.v2 += more.v2;
        self.other += more.other;
        self.unknown += more.unknown;
    }

    pub(super) fn json(self) -> Value {
        json!({"v1": self.v1, "v2": self.v2, "other": self.other, "unknown": self.unknown})
    }
}

/// What came back of v1 calls.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answers {
    pub(super) succeeded: u64,
    pub(super) rejected: u64,
    pub(super) failed: u64,
    pub(super) none: u64,
    pub(super) unseen: u64,
}

impl Answers {
    pub(super) fn add(&mut self, more: Self) {
        self.succeeded += more.succeeded;
        self.rejected += more.rejected;
        self.failed += more.failed;
        self.none += more.none;
        self.unseen += more.unseen;
    }

    pub(super) fn json(self) -> Value {
        json!({
            "succeeded": self.succeeded,
            "rejected": self.rejected,
            "failed": self.failed,
            "none": self.none,
            "unseen": self.unseen,
        })
    }
}

/// What callers are told apart by: calls to the host itself, the caller, the user's id.
pub(super) type Key = (bool, Option<&'static str>, Option<u32>);

#[derive(Debug, Default)]
pub(super) struct Caller {
    pub(super) user: Option<&'static str>,
    calls: Counts,
    answers: Answers,
    /// Requests for a token that got no answer.
    unanswered: u64,
    v1_span: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
pub(super) struct Host {
    name: String,
    instance: Option<String>,
    kind: &'static str,
    pub(super) records: u64,
    pub(super) bytes: u64,
    span: Option<(u64, u64)>,
    calls: Counts,
    answers: Answers,
    local_calls: Counts,
    pub(super) attempts: u64,
    pub(super) ignored: u64,
    pub(super) lost: u64,
    has_gap: bool,
    saw_boot: bool,
    callers: BTreeMap<Key, Caller>,
}

impl Host {
    /// `saw_boot`: a run of the analyzer began with the host.
    pub(super) fn new(host: &host::Host, saw_boot: bool) -> Self {
        Self {
            name: host.name.clone(),
            instance: host.instance.clone(),
            kind: host.kind.name(),
            has_gap: host.kind == Kind::Gap,
            saw_boot,
            ..Self::default()
        }
    }

    /// A record was written.
    pub(super) fn record(&mut self, time: u64) {
        self.records += 1;
        widen(&mut self.span, time);
    }

    /// Calls were made, of which `unanswered` were requests for a token without an answer.
    pub(super) fn calls(
        &mut self,
        key: Key,
        user: Option<&'static str>,
        calls: Counts,
        answers: Answers,
        unanswered: u64,
        time: u64,
    ) {
        if key.0 {
            self.local_calls.add(calls);
        } else {
            self.calls.add(calls);
            self.answers.add(answers);
        }
        let caller = self.callers.entry(key).or_default();
        caller.user = caller.user.or(user);
        caller.calls.add(calls);
        caller.answers.add(answers);
        caller.unanswered += unanswered;
        if calls.v1 > 0 {
            widen(&mut caller.v1_span, time);
        }
    }

    /// The reasons of the verdict, in the order of the report.
    fn reasons(&self) -> Vec<&'static str> {
        let unanswered = |((is_local, ..), caller): (&Key, &Caller)| !is_local && caller.unanswered > 0;
        let watched = self.span.map_or(0, |(first, last)| last - first);
        let all = [
            ("rejected", self.answers.rejected > 0),
            ("v1", self.calls.v1 > self.answers.rejected),
            ("token-unanswered", self.callers.iter().any(unanswered)),
            ("unknown", self.calls.unknown > 0),
            ("ignored", self.ignored > 0),
            ("lost", self.lost > 0),
            ("too-short", watched < WINDOW),
            ("no-boot", !self.saw_boot),
            ("gap", self.has_gap),
        ];
        all.into_iter()
            .filter(|(_, holds)| *holds)
            .map(|(reason, _)| reason)
            .collect()
    }

    pub(super) fn json(&self) -> Value {
        let reasons = self.reasons();
        let verdict = match reasons.first() {
            Some(&("rejected" | "v1")) => "not-ready",
            Some(_) => "unproven",
            None => "ready",
        };
        let callers = self.callers.iter().map(|((is_local, key, user_id), caller)| {
            json!({
                "caller": key,
                "user_id": user_id,
                "user": caller.user,
                "local": is_local,
                "calls": caller.calls.json(),
                "v1_answers": caller.answers.json(),
                "tokens_unanswered": caller.unanswered,
                "first_v1": caller.v1_span.map(|(first, _)| clock::text(first)),
                "last_v1": caller.v1_span.map(|(_, last)| clock::text(last)),
            })
        });
        json!({
            "host": self.name,
            "instance": self.instance,
            "kind": self.kind,
            "verdict": verdict,
            "reasons": reasons,
            "since": self.span.map(|(first, _)| clock::text(first)),
            "until": self.span.map(|(_, last)| clock::text(last)),
            "records": self.records,
            "calls": self.calls.json(),
            "v1_answers": self.answers.json(),
            "local_calls": self.local_calls.json(),
            "attempts": self.attempts,
            "lost": self.lost,
            "callers": callers.collect::<Vec<_>>(),
        })
    }
}

fn widen(span: &mut Option<(u64, u64)>, time: u64) {
    let (first, last) = span.get_or_insert((time, time));
    *first = time.min(*first);
    *last = time.max(*last);
}
