//! What becomes of the callers that were refused: tries again, turns to v2, gives up, exits.
//!
//! Pure: events and exits go in, with their times.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use imds_analyzer_ebpf::classify::Version;

use crate::{
    event::{Answer, Event, Process, Rehearsal},
    notice::CallerOutcome,
};

/// How long after its last refused call a process is watched for its end.
pub const AFTERMATH: Duration = Duration::from_secs(10);
/// Maximum number of processes that are told apart.
const PROCESSES_MAX: usize = 10_000;

/// A process; the start tells it from a later one with the same id.
type Key = (u32, Option<SystemTime>);

#[derive(Clone, Debug)]
struct Refused {
    process: Arc<Process>,
    refused: u64,
    last: SystemTime,
    /// v1 calls that passed after the first refused one: `--percent`, or calls that cannot be refused.
    passed: u64,
    /// True if its last v2 call came after a refused one, and was not rejected.
    fell_back: bool,
    /// How long after its last refused call it ended.
    exited: Option<Duration>,
}

/// The processes that were refused.
#[derive(Debug, Default)]
pub struct Follow {
    processes: BTreeMap<Key, Refused>,
    /// Refused calls of unknown processes, or of those for which there was no room.
    others: u64,
    /// Refused calls that got no answer.
    unanswered: u64,
    /// Source addresses of the unanswered calls since the last [`Self::take_unanswered`].
    new_unanswered: Vec<SocketAddr>,
}

impl Follow {
    /// Takes a call of any process. Returns true if it was refused, or in a dry run would have been.
    pub fn observe(&mut self, event: &Event) -> bool {
        let key = event.process.as_ref().map(|process| (process.pid, process.start));
        if event.is_rehearsed() || event.rehearsal == Rehearsal::Would {
            self.refuse(key, event);
            return true;
        }
        // Any status but 401 is from IMDS: the call was let go.
        if event.rehearsal == Rehearsal::KeptBack && event.answer.status().is_none() {
            self.unanswered += 1;
            // If the caller reset the connection, the answer is unseen, not missing.
            if event.answer == Answer::None {
                self.new_unanswered.push(event.source);
            }
        }
        if let Some(refused) = key.and_then(|key| self.processes.get_mut(&key)) {
            match event.verdict.version() {
                Version::V1 => refused.passed += 1,
                Version::V2 if event.answer.status().is_none_or(|status| status < 400) => refused.fell_back = true,
                _ => {}
            }
        }
        false
    }

    fn refuse(&mut self, key: Option<Key>, event: &Event) {
        let room = self.processes.len() < PROCESSES_MAX;
        let (Some(key), Some(process)) = (key, &event.process) else {
            self.others += 1;
            return;
        };
        if !room && !self.processes.contains_key(&key) {
            self.others += 1;
            return;
        }
        let refused = self.processes.entry(key).or_insert_with(|| Refused {
            process: Arc::clone(process),
            refused: 0,
            last: event.time,
            passed: 0,
            fell_back: false,
            exited: None,
        });
        refused.refused += 1;
        refused.last = refused.last.max(event.time);
        refused.fell_back = false;
    }

    /// Refused calls whose callers got no answer within the time that an answer has, or did not wait for it.
    pub fn unanswered(&self) -> u64 {
        self.unanswered
    }

    /// Source addresses of the unanswered calls since the last time.
    pub fn take_unanswered(&mut self) -> Vec<SocketAddr> {
        std::mem::take(&mut self.new_unanswered)
    }

    /// Notes which of the processes that may still end have done so by `now`, as `has_exited` says.
    pub fn look(&mut self, now: SystemTime, has_exited: impl Fn(&Process) -> bool) {
        for refused in self.processes.values_mut() {
            let since = now.duration_since(refused.last).unwrap_or_default();
            // A little more than the time itself, for the look that comes just after it.
            if refused.exited.is_none() && since <= AFTERMATH + AFTERMATH / 10 && has_exited(&refused.process) {
                refused.exited = Some(since);
            }
        }
    }

    /// How long processes must still be watched for their end.
    pub fn left(&self, now: SystemTime) -> Duration {
        let open = self.processes.values().filter(|refused| refused.exited.is_none());
        let since = open.map(|refused| now.duration_since(refused.last).unwrap_or_default());
        since
            .map(|since| AFTERMATH.saturating_sub(since))
            .max()
            .unwrap_or_default()
    }

    /// What became of them, by caller.
    pub fn callers(&self) -> Vec<CallerOutcome> {
        let mut callers: BTreeMap<&str, CallerOutcome> = BTreeMap::new();
        for refused in self.processes.values() {
            let caller = callers.entry(&refused.process.caller).or_default();
            caller.refused += refused.refused;
            caller.processes += 1;
            caller.tried_again += refused.refused - 1 + refused.passed;
            let count = if refused.fell_back {
                &mut caller.fell_back
            } else if refused.exited.is_some() {
                &mut caller.exited
            } else {
                &mut caller.gave_up
            };
            *count += 1;
        }
        let mut callers: Vec<_> = callers
            .into_iter()
            .map(|(name, outcome)| CallerOutcome {
                caller: name.to_owned(),
                ..outcome
            })
            .collect();
        if self.others > 0 {
            callers.push(CallerOutcome {
                caller: "unknown".to_owned(),
                refused: self.others,
                ..CallerOutcome::default()
            });
        }
        callers.sort_by_key(|caller| std::cmp::Reverse(caller.refused));
        callers
    }
}

#[cfg(test)]
mod tests {
    use imds_analyzer_ebpf::classify::Verdict;

    use super::*;
    use crate::{event::Reply, sink::tests::minimal_event};

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn event(pid: u32, second: u64, verdict: Verdict, status: u16, rehearsal: Rehearsal) -> Event {
        Event {
            time: at(second),
            verdict,
            rehearsal,
            answer: Answer::Answered(Reply {
                status,
                duration: Duration::from_millis(1),
                hop_limit: Some(64),
            }),
            process: Some(Arc::new(Process {
                pid,
                caller: format!("program {}", pid / 10),
                ..Process::default()
            })),
            ..minimal_event()
        }
    }

    fn refused(pid: u32, second: u64) -> Event {
        event(pid, second, Verdict::V1, 401, Rehearsal::KeptBack)
    }

    #[test]
    fn what_becomes_of_them_is_told_by_caller() {
        let mut follow = Follow::default();
        // 10 tries three times, then uses a token. 11 gives up. 20 exits. 30 tries a token that is rejected.
        for event in [
            event(10, 0, Verdict::V2, 200, Rehearsal::Nothing),
            refused(10, 1),
            refused(10, 2),
            event(10, 3, Verdict::V1, 200, Rehearsal::Nothing),
            event(10, 4, Verdict::V2TokenRequest, 200, Rehearsal::Nothing),
            refused(11, 1),
            refused(20, 1),
            refused(30, 1),
            event(30, 2, Verdict::V2, 401, Rehearsal::Nothing),
        ] {
            assert_eq!(follow.observe(&event), event.rehearsal == Rehearsal::KeptBack);
        }
        follow.look(at(5), |process| process.pid == 20);
        let outcome = |caller: &str, refused, processes, tried_again, fell_back, exited, gave_up| CallerOutcome {
            caller: caller.to_owned(),
            refused,
            processes,
            tried_again,
            fell_back,
            exited,
            gave_up,
        };
        assert_eq!(
            follow.callers(),
            [
                outcome("program 1", 3, 2, 2, 1, 0, 1),
                outcome("program 2", 1, 1, 0, 0, 1, 0),
                outcome("program 3", 1, 1, 0, 0, 0, 1),
            ]
        );
    }

    #[test]
    fn an_exit_counts_for_ten_seconds() {
        let mut follow = Follow::default();
        follow.observe(&refused(10, 1));
        assert_eq!(follow.left(at(4)), Duration::from_secs(7));
        follow.look(at(13), |_| true);
        assert_eq!(follow.callers()[0].gave_up, 1);
        assert_eq!(follow.left(at(13)), Duration::ZERO);
        follow.observe(&refused(10, 13));
        follow.look(at(14), |_| true);
        assert_eq!(follow.callers()[0].exited, 1);
        assert_eq!(follow.left(at(14)), Duration::ZERO);
    }

    #[test]
    fn a_refused_call_without_an_answer_is_noticed() {
        let mut follow = Follow::default();
        let let_go = event(10, 1, Verdict::V1, 200, Rehearsal::KeptBack);
        assert!(!follow.observe(&let_go));
        assert_eq!(follow.unanswered(), 0);
        let unanswered = Event {
            answer: Answer::None,
            ..let_go
        };
        assert!(!follow.observe(&unanswered));
        assert_eq!(follow.unanswered(), 1);
        assert_eq!(follow.take_unanswered().len(), 1);
        let reset = Event {
            answer: Answer::Unseen,
            ..unanswered
        };
        assert!(!follow.observe(&reset));
        assert_eq!((follow.unanswered(), follow.take_unanswered()), (2, Vec::new()));
        assert!(follow.callers().is_empty());
    }

    #[test]
    fn in_a_dry_run_the_answers_are_those_of_imds() {
        let mut follow = Follow::default();
        assert!(follow.observe(&event(10, 1, Verdict::V1, 200, Rehearsal::Would)));
        assert_eq!(follow.callers()[0].refused, 1);
    }
}
