//! Counts calls by caller, from live events or from the records of a log.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
};

use imds_analyzer_ebpf::classify::Version;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::{AnswerWord, Event, Process, User};

/// Maximum number of callers. Calls of further callers are only counted.
pub(crate) const CALLERS_MAX: usize = 1000;
/// Maximum length of a path or name, in bytes.
const TEXT_MAX: usize = 256;

/// Counts calls by caller. Calls to an address of this host are separate: a proxy or a mock is not IMDS.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    callers: HashMap<String, Caller>,
    real: Tally,
    local: Tally,
    /// Calls that repeat other calls, which are counted.
    relayed: Counts,
    /// Connections without a call.
    attempts: u64,
    /// Buffer for the key of a caller, reused.
    key: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    total: Counts,
    answers: Answers,
    /// Calls of callers for whom there was no room.
    others: Counts,
}

/// Calls by version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Counts {
    pub v1: u64,
    pub v2: u64,
    pub other: u64,
    pub unknown: u64,
}

impl Counts {
    pub fn sum(self) -> u64 {
        let Self { v1, v2, other, unknown } = self;
        v1.saturating_add(v2).saturating_add(other).saturating_add(unknown)
    }

    pub fn is_empty(&self) -> bool {
        self.sum() == 0
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: Self) {
        self.v1 = self.v1.saturating_add(other.v1);
        self.v2 = self.v2.saturating_add(other.v2);
        self.other = self.other.saturating_add(other.other);
        self.unknown = self.unknown.saturating_add(other.unknown);
    }

    /// The counts without those of `part`.
    pub fn less(self, part: Self) -> Self {
        Self {
            v1: self.v1.saturating_sub(part.v1),
            v2: self.v2.saturating_sub(part.v2),
            other: self.other.saturating_sub(part.other),
            unknown: self.unknown.saturating_sub(part.unknown),
        }
    }

    pub fn add(&mut self, version: Version) {
        *match version {
            Version::V1 => &mut self.v1,
            Version::V2 => &mut self.v2,
            Version::Other => &mut self.other,
            Version::Unknown => &mut self.unknown,
        } += 1;
    }
}

/// What came back of v1 calls. The metrics of CloudWatch count answers, not calls: `MetadataNoToken` those that succeeded,
/// `MetadataNoTokenRejected` those that were rejected where tokens are required (Amazon EC2 User Guide, "Instance metrics").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Answers {
    /// Status 200.
    pub succeeded: u64,
    /// Status 401.
    pub rejected: u64,
    /// Any other status.
    pub failed: u64,
    /// Nothing came.
    pub none: u64,
    /// It cannot be told.
    pub unseen: u64,
}

impl Answers {
    pub fn sum(self) -> u64 {
        self.words().map(|(count, _)| count).fold(0, u64::saturating_add)
    }

    /// The kinds of answers that came, as people read them.
    pub fn words(self) -> impl Iterator<Item = (u64, &'static str)> {
        let Self {
            succeeded,
            rejected,
            failed,
            none,
            unseen,
        } = self;
        let all = [
            (succeeded, "succeeded"),
            (rejected, "rejected (401)"),
            (failed, "failed"),
            (none, "not answered"),
            (unseen, "with an answer that was not seen"),
        ];
        all.into_iter().filter(|(count, _)| *count > 0)
    }

    /// `7 succeeded, 1 failed`; empty without an answer.
    pub fn in_words(self) -> String {
        let words: Vec<String> = self.words().map(|(count, what)| format!("{count} {what}")).collect();
        words.join(", ")
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: Self) {
        self.succeeded = self.succeeded.saturating_add(other.succeeded);
        self.rejected = self.rejected.saturating_add(other.rejected);
        self.failed = self.failed.saturating_add(other.failed);
        self.none = self.none.saturating_add(other.none);
        self.unseen = self.unseen.saturating_add(other.unseen);
    }

    /// `status`: present with [`AnswerWord::Answered`].
    pub fn add(&mut self, answer: AnswerWord, status: Option<u16>) {
        *match (answer, status) {
            (AnswerWord::Answered, Some(200)) => &mut self.succeeded,
            (AnswerWord::Answered, Some(401)) => &mut self.rejected,
            (AnswerWord::Answered, _) => &mut self.failed,
            (AnswerWord::None, _) => &mut self.none,
            (AnswerWord::Unseen, _) => &mut self.unseen,
        } += 1;
    }
}

/// The facts of one call that a summary needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    pub version: Version,
    /// True if the peer is an address of the host.
    pub local: bool,
    /// True if this repeats another call that is counted.
    pub relay: bool,
    pub answer: AnswerWord,
    /// Present with [`AnswerWord::Answered`].
    pub status: Option<u16>,
    /// The advice: an id and a text.
    pub remedy: Option<(&'a str, &'a str)>,
    /// `None` if the caller is unknown.
    pub who: Option<Who<'a>>,
    pub path: Option<&'a str>,
}

/// The caller of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who<'a> {
    /// Together with the user, identifies the caller.
    pub key: &'a str,
    /// The program in `key`.
    pub program: &'a str,
    pub user_id: Option<u32>,
    pub user_name: Option<&'a str>,
    /// The container. Without one, the unit.
    pub place: Option<&'a str>,
}

impl<'a> From<&'a Event> for Call<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            version: event.verdict.version(),
            local: event.local,
            relay: event.relay,
            answer: event.answer.word(),
            status: event.answer.status(),
            remedy: event
                .judgement
                .remedy
                .as_ref()
                .map(|advice| (advice.id.as_ref(), advice.text.as_ref())),
            who: event.process.as_deref().map(Who::from),
            path: event.http.path.as_deref(),
        }
    }
}

impl<'a> From<&'a Process> for Who<'a> {
    fn from(process: &'a Process) -> Self {
        let container = process.container.as_ref();
        let image = container.map(|container| container.image.as_deref().unwrap_or(container.short_name()));
        Self {
            key: &process.caller,
            program: &process.program,
            user_id: process.user.id,
            user_name: process.user.name.as_deref(),
            place: image.or(process.user_unit.as_deref()).or(process.unit.as_deref()),
        }
    }
}

/// All processes that run the same program as the same user in the same place.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Together with the user, identifies the caller. `None` if the caller is unknown.
    pub key: Option<String>,
    /// The program in `key`.
    pub program: Option<String>,
    pub user: User,
    /// The unit or the container's image of its first process.
    pub place: Option<String>,
    /// True if its calls went to an address of this host.
    pub local: bool,
    pub counts: Counts,
    pub answers: Answers,
    /// Connections without a call.
    pub attempts: u64,
    /// The advice for the last call that needs one: an id and a text.
    pub remedy: Option<(String, String)>,
    /// Path of the last v1 call, or of the last call if there was no v1 call.
    pub last_path: Option<String>,
}

impl Summary {
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a call, from an event or from the record of a request.
    pub fn add<'a>(&mut self, call: impl Into<Call<'a>>) {
        self.count(&call.into());
    }

    /// As [`Self::add`]. Returns the caller with its key; `None` if the call repeats another one or there is no room for its
    /// caller.
    pub fn credit<'a>(&mut self, call: impl Into<Call<'a>>) -> Option<(&str, &Caller)> {
        if self.count(&call.into()) { self.last() } else { None }
    }

    /// Returns false for a call that repeats another one.
    fn count(&mut self, call: &Call<'_>) -> bool {
        if call.relay {
            self.relayed.add(call.version);
            return false;
        }
        let tally = self.tally_mut(call.local);
        tally.total.add(call.version);
        if call.version == Version::V1 {
            tally.answers.add(call.answer, call.status);
        }
        match self.known(call.local, call.who) {
            Some(caller) => caller.add(call),
            None => self.tally_mut(call.local).others.add(call.version),
        }
        true
    }

    /// Counts calls of one caller that have no records of their own. Returns as [`Self::credit`].
    pub fn credit_counts(
        &mut self,
        local: bool,
        who: Option<Who<'_>>,
        counts: Counts,
        answers: Answers,
    ) -> Option<(&str, &Caller)> {
        let tally = self.tally_mut(local);
        tally.total.merge(counts);
        tally.answers.merge(answers);
        match self.known(local, who) {
            Some(caller) => {
                caller.counts.merge(counts);
                caller.answers.merge(answers);
            }
            None => self.tally_mut(local).others.merge(counts),
        }
        self.last()
    }

    /// Counts a connection without a call. Returns as [`Self::credit`].
    pub fn add_attempt(&mut self, local: bool, who: Option<Who<'_>>) -> Option<(&str, &Caller)> {
        self.attempts += 1;
        self.known(local, who)?.attempts += 1;
        self.last()
    }

    /// The caller of the last call of [`Self::known`].
    fn last(&self) -> Option<(&str, &Caller)> {
        Some((self.key.as_str(), self.callers.get(&self.key)?))
    }

    /// The caller, which is new or known; its key is in `self.key`. `None` if there is no room.
    fn known(&mut self, local: bool, who: Option<Who<'_>>) -> Option<&mut Caller> {
        self.key.clear();
        // Writing to a String does not fail.
        let _ = write!(self.key, "{}", key(local, who));
        if !self.callers.contains_key(&self.key) {
            if self.callers.len() >= CALLERS_MAX {
                return None;
            }
            self.callers.insert(self.key.clone(), Caller::new(local, who));
        }
        self.callers.get_mut(&self.key)
    }

    /// The number of connections without a call.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// The answers to v1 calls to IMDS, or to an address of this host if `local`.
    pub fn answers(&self, local: bool) -> Answers {
        self.tally(local).answers
    }

    /// All calls to IMDS, or to an address of this host if `local`.
    pub fn total(&self, local: bool) -> Counts {
        self.tally(local).total
    }

    /// Calls of rootless network helpers that repeat a container's call, if any. The container's call is counted.
    pub fn relayed(&self) -> Option<Counts> {
        Some(self.relayed).filter(|counts| counts.sum() > 0)
    }

    /// Calls by callers beyond those in [`Self::callers`], if any.
    pub fn other_callers(&self, local: bool) -> Option<Counts> {
        Some(self.tally(local).others).filter(|counts| counts.sum() > 0)
    }

    /// Callers of calls, the one with the most v1 calls first.
    pub fn callers(&self, local: bool) -> Vec<&Caller> {
        let callers = self.callers.values();
        let mut callers: Vec<&Caller> = callers
            .filter(|caller| caller.local == local && !caller.counts.is_empty())
            .collect();
        // Ties are broken by caller and user, so that the order is always the same.
        callers.sort_unstable_by(|a, b| b.rank().cmp(&a.rank()).then_with(|| a.name().cmp(&b.name())));
        callers
    }

    /// All callers with their keys, even those that only connected, in no order.
    pub fn all_callers(&self) -> impl Iterator<Item = (&str, &Caller)> {
        self.callers.iter().map(|(key, caller)| (key.as_str(), caller))
    }

    fn tally(&self, local: bool) -> Tally {
        if local { self.local } else { self.real }
    }

    fn tally_mut(&mut self, local: bool) -> &mut Tally {
        if local { &mut self.local } else { &mut self.real }
    }
}

/// A key that identifies a caller.
fn key(local: bool, who: Option<Who<'_>>) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        write!(f, "{local}")?;
        let Some(who) = who else { return Ok(()) };
        // No path or unit name contains NUL.
        write!(f, "\0{}\0{:?}", who.key, who.user_id)
    })
}

impl Caller {
    fn new(local: bool, who: Option<Who<'_>>) -> Self {
        Self {
            key: who.map(|who| who.key.to_owned()),
            program: who.map(|who| who.program.to_owned()),
            user: User {
                id: who.and_then(|who| who.user_id),
                name: who.and_then(|who| who.user_name).map(str::to_owned),
            },
            place: who.and_then(|who| who.place).map(|place| cut(place).to_owned()),
            local,
            counts: Counts::default(),
            answers: Answers::default(),
            attempts: 0,
            remedy: None,
            last_path: None,
        }
    }

    /// What orders callers: the one to look at first has the highest.
    pub fn rank(&self) -> (u64, u64, u64) {
        (self.counts.v1, self.counts.unknown, self.counts.sum())
    }

    /// What orders callers of the same rank.
    pub fn name(&self) -> (Option<&str>, Option<u32>) {
        (self.key.as_deref(), self.user.id)
    }

    fn add(&mut self, call: &Call<'_>) {
        self.counts.add(call.version);
        if call.version == Version::V1 {
            self.answers.add(call.answer, call.status);
        }
        if let Some((id, text)) = call.remedy {
            let (last_id, last_text) = self.remedy.get_or_insert_default();
            if last_id != id || last_text != text {
                (*last_id, *last_text) = (id.to_owned(), text.to_owned());
            }
        }
        if call.version != Version::V1 && self.counts.v1 > 0 {
            return;
        }
        if let Some(path) = call.path {
            let last = self.last_path.get_or_insert_default();
            last.clear();
            last.push_str(cut(path));
        }
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_MAX)]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use imds_analyzer_ebpf::classify::Verdict;

    use super::*;
    use crate::sink::tests::{full_event, minimal_event};

    #[test]
    fn counts_by_caller_and_keeps_local_apart() {
        let mut summary = Summary::new();
        let mut event = full_event();
        summary.add(&event);
        event.verdict = Verdict::V2;
        event.http.path = Some("/latest/later".to_owned());
        summary.add(&event);
        event.local = true;
        summary.add(&event);
        summary.add(&minimal_event());

        let callers = summary.callers(false);
        assert_eq!(callers.len(), 2);
        let counts = Counts {
            v1: 1,
            v2: 1,
            ..Counts::default()
        };
        assert_eq!(callers[0].counts, counts);
        assert_eq!(callers[0].last_path, full_event().http.path);
        assert_eq!(callers[1].key, None);
        assert_eq!(summary.callers(true).len(), 1);
        assert_eq!(summary.total(true).sum(), 1);
        assert_eq!(summary.total(false).sum(), 3);
    }

    #[test]
    fn callers_are_bounded() {
        let mut summary = Summary::new();
        let mut event = full_event();
        for index in 0..CALLERS_MAX + 5 {
            let mut process = event.process.as_deref().cloned().expect("a process");
            process.caller = format!("/bin/{index}");
            event.process = Some(Arc::new(process));
            summary.add(&event);
        }
        assert_eq!(summary.callers(false).len(), CALLERS_MAX);
        assert_eq!(summary.other_callers(false).map(Counts::sum), Some(5));
        assert_eq!(summary.other_callers(true), None);
        assert_eq!(summary.total(false).v1, CALLERS_MAX as u64 + 5);
    }
}
