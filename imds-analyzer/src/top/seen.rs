//! What the records add up to, by caller. Callers are those of a [`Summary`].

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use imds_analyzer_ebpf::classify::{Verdict, Version};

use super::trail::{Entry, RECORD_MAX, Trail, What};
use crate::{
    loss::Ledger,
    record::{Body, Record, Word, attempt::Attempt, noise::RateLimited, request::Request},
    report::fold::add_bounded,
    sink::json,
    summary::{Answers, Call, Caller, Summary},
};

/// The facts. Bounded by the callers of a [`Summary`], each with a [`Trail`].
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub summary: Summary,
    trails: HashMap<String, Trail>,
    /// Losses as reported meanwhile, and at the end of runs.
    loss: Ledger,
    loss_at_end: Ledger,
    /// Lines that may be records and could not be read.
    pub unreadable: u64,
    /// Lines of other programs.
    pub foreign: u64,
    /// Records of a later version.
    pub unknown_kinds: u64,
    /// Time of the last call.
    pub last: Option<SystemTime>,
}

impl Seen {
    pub(super) fn apply(&mut self, record: &Record<'_>) {
        let time = record.envelope.timestamp.time();
        match &record.body {
            Body::Request(request) => self.request(time, request, record),
            Body::Attempt(attempt) => self.attempt(time, attempt, record),
            Body::RateLimited(counted) => self.rate_limited(time, counted),
            Body::Loss(loss) => self.loss.merge(&loss.imds.loss),
            Body::Summary(summary) => self.loss_at_end.merge(&summary.imds.loss),
            // Calls have records of their own.
            Body::FirstSeen(_) | Body::Start(_) | Body::Watching(_) | Body::Rehearsal(_) => {}
            Body::Other(_) => self.unknown_kinds += 1,
        }
    }

    /// Replaces all losses.
    pub(super) fn set_loss(&mut self, loss: Ledger) {
        self.loss = loss;
    }

    pub fn loss(&self) -> Ledger {
        self.loss.most(&self.loss_at_end)
    }

    /// The callers with what is kept of them, in no order.
    pub fn callers(&self) -> impl Iterator<Item = (&str, &Caller, &Trail)> {
        let all = self.summary.all_callers();
        all.filter_map(|(key, caller)| Some((key, caller, self.trails.get(key)?)))
    }

    fn request(&mut self, time: SystemTime, request: &Request<'_>, record: &Record<'_>) {
        self.last = self.last.max(Some(time));
        let call = Call::from(request);
        let Some((key, caller)) = self.summary.credit(call) else {
            return;
        };
        let trail = trail(&mut self.trails, key);
        trail.rates.add(time);
        if let Some(cause) = request.imds.cause.as_ref().and_then(Word::known) {
            trail.causes.add(cause, 1);
            trail.cause = Some(cause);
        }
        if call.version == Version::V1 {
            call.status
                .into_iter()
                .for_each(|status| add_bounded(&mut trail.statuses, [(status, 1)]));
        }
        let method = request.http.as_ref().and_then(|http| http.request.as_ref());
        let what = What::Call {
            // Like a version that is not known.
            verdict: request.imds.verdict.known().unwrap_or(Verdict::Unknown),
            answer: call.answer,
            status: call.status,
            method: trail.shared(method.map_or("", |it| &it.method)),
            path: trail.shared(call.path.unwrap_or_default()),
        };
        trail.push(Entry {
            time,
            what,
            pid: request.process.as_ref().map(|process| process.pid),
        });
        // The same rule as for the last path of a summary.
        if call.version == Version::V1 || caller.counts.v1 == 0 {
            trail.keep(record);
        }
    }

    fn attempt(&mut self, time: SystemTime, attempt: &Attempt<'_>, record: &Record<'_>) {
        let Some((key, caller)) = self.summary.add_attempt(attempt.imds.local, attempt.who()) else {
            return;
        };
        let trail = trail(&mut self.trails, key);
        trail.push(Entry {
            time,
            what: What::Attempt(attempt.imds.attempt.known()),
            pid: attempt.process.as_ref().map(|process| process.pid),
        });
        if caller.counts.is_empty() {
            trail.keep(record);
        }
    }

    fn rate_limited(&mut self, time: SystemTime, counted: &RateLimited<'_>) {
        self.last = self.last.max(Some(time));
        let imds = &counted.imds;
        let (mut answers, real) = (imds.v1_answers, imds.calls.less(imds.local_calls));
        // The first records of this kind do not say what came back.
        answers.unseen += real.v1.saturating_sub(answers.sum());
        for (local, counts, answers) in [(false, real, answers), (true, imds.local_calls, Answers::default())] {
            if counts.is_empty() {
                continue;
            }
            let Some((key, _)) = self.summary.credit_counts(local, counted.who(), counts, answers) else {
                continue;
            };
            let trail = trail(&mut self.trails, key);
            trail.only_counted += counts.sum();
            trail.last = trail.last.max(Some(time));
        }
    }
}

fn trail<'a>(trails: &'a mut HashMap<String, Trail>, key: &str) -> &'a mut Trail {
    trails.entry(key.to_owned()).or_default()
}

impl Trail {
    fn keep(&mut self, record: &Record<'_>) {
        // Nothing is written, so it does not fail.
        let line = json::line(record).unwrap_or_default();
        self.record = if line.len() <= RECORD_MAX {
            line.into()
        } else {
            Arc::default()
        };
    }
}
