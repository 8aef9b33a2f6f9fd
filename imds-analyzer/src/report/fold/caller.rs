//! What the records of one caller add up to.

use std::{cmp::Ordering, collections::BTreeMap};

use imds_analyzer_ebpf::{
    abi::exchange::Outcome,
    classify::{PathClass, Reason, Verdict, Version},
};

use super::{Kept, Last, Words, cut};
use crate::{
    event::{AnswerWord, Cause, NetNs, Risk},
    record::{Brief, Word},
    report::watched::Time,
    summary::{Answers, Call, Counts, Who},
};

/// Statuses and clients that are told apart.
const KINDS_MAX: usize = 16;

/// One call, as an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Example<T = Box<str>> {
    pub path: Option<T>,
    pub executable: Option<T>,
    pub command_line: Option<T>,
}

/// What the records of one caller on one host add up to: the same program in the same place as the same user.
#[derive(Debug, Default)]
pub struct Caller {
    /// `None` if nobody is known.
    pub key: Option<Box<str>>,
    pub program: Option<Box<str>>,
    pub place: Option<Box<str>>,
    pub user_id: Option<u32>,
    pub user_name: Last<Box<str>>,
    pub local: bool,
    pub counts: Counts,
    /// What came back of v1 calls.
    pub answers: Answers,
    /// Statuses of v1 calls. Those beyond the bound are counted as 0.
    pub statuses: BTreeMap<u16, u64>,
    /// Paths of v1 calls, and of all.
    pub v1_classes: Words<PathClass>,
    pub classes: Words<PathClass>,
    /// Requests for a token, by what came back; and those of them that were refused.
    pub tokens: Words<AnswerWord>,
    pub tokens_refused: u64,
    pub causes: Words<Cause>,
    pub reasons: Words<Reason>,
    pub risks: Words<Risk>,
    pub clients: BTreeMap<(Box<str>, Box<str>), u64>,
    pub attempts: Words<Outcome>,
    /// Calls that were counted together in place of being written.
    pub rate_limited: u64,
    /// Calls from another network namespace than the host's.
    pub other_netns: u64,
    /// Lowest TTL of an answer to a request for a token.
    pub hop_limit: Option<u8>,
    pub span: Option<(Time, Time)>,
    pub v1_span: Option<(Time, Time)>,
    pub first_rejected: Option<Time>,
    pub last_v2: Option<Time>,
    pub remedy: Last<(Box<str>, Box<str>)>,
    pub last_v1: Last<Example>,
    pub last: Last<Example>,
}

impl Caller {
    /// Takes from `who` where the program runs. Counts of many requests do not tell it apart from the place.
    pub(super) fn placed(&mut self, who: Who<'_>) {
        let program = cut(who.program);
        if self.program.as_ref().is_none_or(|known| program.len() < known.len()) {
            self.program = Some(program.into());
        }
        let place = who.place.map(cut);
        if place > self.place.as_deref() {
            self.place = place.map(Box::from);
        }
    }

    pub(super) fn request(&mut self, brief: &Brief<'_>, call: Call<'_>, time: Time) {
        let imds = &brief.imds;
        self.counts.add(call.version);
        widen(&mut self.span, time);
        let class = imds.path_class.as_ref().and_then(Word::known);
        if let Some(class) = class {
            self.classes.add(class, 1);
        }
        if imds.netns.as_ref().and_then(Word::known) == Some(NetNs::Other) {
            self.other_netns += 1;
        }
        if let Some(cause) = imds.cause.as_ref().and_then(Word::known) {
            self.causes.add(cause, 1);
        }
        imds.risk
            .iter()
            .filter_map(Word::known)
            .for_each(|risk| self.risks.add(risk, 1));
        if let Some(client) = &imds.client {
            let version = client.version.as_deref().unwrap_or_default();
            add_client(&mut self.clients, cut(&client.name), cut(version));
        }
        if let Some(name) = brief.user.as_ref().and_then(|user| user.name.as_deref()) {
            self.user_name.at(time, cut(name));
        }
        if let Some((id, text)) = call.remedy {
            self.remedy.at(time, (cut(id), cut(text)));
        }
        self.last.at(time, Example::of(brief));
        match call.version {
            Version::V1 => {
                self.answers.add(call.answer, call.status);
                if let Some(status) = call.status {
                    add_bounded(&mut self.statuses, [(status, 1)]);
                }
                class.into_iter().for_each(|class| self.v1_classes.add(class, 1));
                widen(&mut self.v1_span, time);
                self.last_v1.at(time, Example::of(brief));
                if call.status == Some(401) {
                    self.first_rejected = Some(self.first_rejected.map_or(time, |first| first.min(time)));
                }
            }
            Version::V2 => {
                let verdict = imds.verdict.as_ref().and_then(Word::known);
                if verdict == Some(Verdict::V2TokenRequest) {
                    self.tokens.add(call.answer, 1);
                    self.tokens_refused += u64::from(call.status.is_some_and(|status| status / 100 != 2));
                    self.hop_limit = self.hop_limit.into_iter().chain(imds.hop_limit).min();
                } else if verdict == Some(Verdict::V2) && call.status.is_some_and(|status| status != 401) {
                    self.last_v2 = self.last_v2.max(Some(time));
                }
            }
            Version::Unknown => {
                let reason = imds.reason.as_ref().and_then(Word::known);
                reason.into_iter().for_each(|reason| self.reasons.add(reason, 1));
            }
            Version::Other => {}
        }
    }

    pub(super) fn rate_limited(&mut self, brief: &Brief<'_>, counts: Counts, answers: Answers, time: Time) {
        if let Some(name) = brief.user.as_ref().and_then(|user| user.name.as_deref()) {
            self.user_name.at(time, cut(name));
        }
        self.counts.merge(counts);
        self.answers.merge(answers);
        self.rate_limited += counts.sum();
        widen(&mut self.span, time);
        if counts.v1 > 0 {
            widen(&mut self.v1_span, time);
        }
    }

    /// Adds what another part of a log, or another host, has on the same caller.
    pub fn merge(&mut self, other: Self) {
        self.counts.merge(other.counts);
        self.answers.merge(other.answers);
        self.v1_classes.merge(&other.v1_classes);
        self.classes.merge(&other.classes);
        self.tokens.merge(&other.tokens);
        self.tokens_refused += other.tokens_refused;
        self.causes.merge(&other.causes);
        self.reasons.merge(&other.reasons);
        self.risks.merge(&other.risks);
        self.attempts.merge(&other.attempts);
        self.rate_limited += other.rate_limited;
        self.other_netns += other.other_netns;
        self.hop_limit = self.hop_limit.into_iter().chain(other.hop_limit).min();
        if let Some((first, last)) = other.span {
            widen(&mut self.span, first);
            widen(&mut self.span, last);
        }
        if let Some((first, last)) = other.v1_span {
            widen(&mut self.v1_span, first);
            widen(&mut self.v1_span, last);
        }
        self.first_rejected = self.first_rejected.into_iter().chain(other.first_rejected).min();
        self.last_v2 = self.last_v2.max(other.last_v2);
        add_bounded(&mut self.statuses, other.statuses);
        add_bounded(&mut self.clients, other.clients);
        self.user_name.merge(other.user_name);
        self.remedy.merge(other.remedy);
        self.last_v1.merge(other.last_v1);
        self.last.merge(other.last);
        let programs = [self.program.take(), other.program];
        self.program = programs.into_iter().flatten().min_by_key(|program| program.len());
        self.place = self.place.take().max(other.place);
    }
}

impl<'a> Example<&'a str> {
    pub(super) fn of(brief: &'a Brief<'_>) -> Self {
        let process = brief.process.as_ref();
        Self {
            path: brief.url.as_ref().and_then(|url| url.path.as_deref()).map(cut),
            executable: process.and_then(|process| process.executable.as_deref()).map(cut),
            command_line: process.and_then(|process| process.command_line.as_deref()).map(cut),
        }
    }
}

pub(super) fn widen(span: &mut Option<(Time, Time)>, time: Time) {
    let (first, last) = span.get_or_insert((time, time));
    *first = time.min(*first);
    *last = time.max(*last);
}

impl Kept for Example {
    type Seen<'a> = Example<&'a str>;

    fn compare(&self, seen: &Example<&str>) -> Ordering {
        let kept = Example {
            path: self.path.as_deref(),
            executable: self.executable.as_deref(),
            command_line: self.command_line.as_deref(),
        };
        kept.cmp(seen)
    }

    fn keep(seen: Example<&str>) -> Self {
        Self {
            path: seen.path.map(Box::from),
            executable: seen.executable.map(Box::from),
            command_line: seen.command_line.map(Box::from),
        }
    }
}

fn add_client(counts: &mut BTreeMap<(Box<str>, Box<str>), u64>, name: &str, version: &str) {
    let known = counts
        .iter_mut()
        .find(|((a_name, a_version), _)| **a_name == *name && **a_version == *version);
    match known {
        Some((_, count)) => *count += 1,
        None => add_bounded(counts, [((name.into(), version.into()), 1)]),
    }
}

/// Adds counts, unless there are too many kinds.
pub(crate) fn add_bounded<K: Ord>(counts: &mut BTreeMap<K, u64>, other: impl IntoIterator<Item = (K, u64)>) {
    for (kind, count) in other {
        if let Some(sum) = counts.get_mut(&kind) {
            *sum += count;
        } else if counts.len() < KINDS_MAX {
            counts.insert(kind, count);
        }
    }
}
