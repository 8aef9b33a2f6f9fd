//! What was seen of a caller before: its last request for a token, and whether it has called at all.
//!
//! A process is remembered for as long as there is room for it, since a client may fall back to calls without a token once
//! and for all. Across processes the same caller is, for [`SPAN`]: a script runs one curl for the token and another one for
//! the call.

use std::{
    hash::{BuildHasher as _, RandomState},
    num::NonZeroUsize,
    time::Duration,
};

use imds_analyzer_ebpf::{abi::Task, classify::PathClass, classify::Verdict};
use lru::LruCache;

use crate::{
    event::{Answer, Event},
    host::clock::nanoseconds,
};

/// Processes and callers remembered; the least recently seen goes first.
const PROCESSES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
const CALLERS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// For how long a request for a token counts for other processes of the same caller.
pub(super) const SPAN: Duration = Duration::from_secs(10 * 60);

/// A process and its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Who {
    /// Its pid and start time.
    pub(super) process: (u32, u64),
    /// Digest of its caller's key and user.
    pub(super) caller: u64,
}

/// A request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    ticket: u64,
    /// Nanoseconds since boot.
    at: u64,
    /// `None` while it waits for its answer.
    pub(super) answer: Option<Answer>,
}

#[derive(Debug, Default)]
struct Caller {
    asked: Option<Asked>,
    /// It has made a v1 call, or one for credentials.
    is_known: bool,
}

#[derive(Debug)]
pub(super) struct History {
    processes: LruCache<(u32, u64), Asked>,
    callers: LruCache<u64, Caller>,
    tickets: u64,
    token_hop_limit: Option<u8>,
    hashing: RandomState,
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            processes: LruCache::new(PROCESSES),
            callers: LruCache::new(CALLERS),
            tickets: 0,
            token_hop_limit: None,
            hashing: RandomState::new(),
        }
    }

    /// Who sent a call; `None` where nobody is known.
    pub(super) fn who(&self, event: &Event, task: &Task) -> Option<Who> {
        let process = event.process.as_deref()?;
        Some(Who {
            process: (process.pid, if task.tgid == process.pid { task.start } else { 0 }),
            caller: self.hashing.hash_one((&process.caller, process.user.id)),
        })
    }

    /// Notes a request for a token. Returns its ticket.
    pub(super) fn asked(&mut self, who: Who, now: u64) -> u64 {
        self.tickets += 1;
        let asked = Asked {
            ticket: self.tickets,
            at: now,
            answer: None,
        };
        self.processes.put(who.process, asked);
        self.caller(who).asked = Some(asked);
        self.tickets
    }

    /// Notes what came back of it.
    pub(super) fn answered(&mut self, who: Who, ticket: u64, answer: Answer) {
        if let Some(reply) = answer.reply() {
            self.token_hop_limit = Some(reply.hop_limit);
        }
        let process = self.processes.peek_mut(&who.process);
        let caller = self
            .callers
            .peek_mut(&who.caller)
            .and_then(|caller| caller.asked.as_mut());
        for asked in [process, caller].into_iter().flatten() {
            if asked.ticket == ticket {
                asked.answer = Some(answer);
            }
        }
    }

    /// The last request for a token by the process, else one by the same caller that is not long ago.
    pub(super) fn last_asked(&mut self, who: Who, now: u64) -> Option<Asked> {
        if let Some(asked) = self.processes.get(&who.process) {
            return Some(*asked);
        }
        let asked = self.callers.get(&who.caller)?.asked?;
        (now.saturating_sub(asked.at) <= nanoseconds(SPAN)).then_some(asked)
    }

    /// TTL of the last answer to anybody's request for a token.
    pub(super) const fn token_hop_limit(&self) -> Option<u8> {
        self.token_hop_limit
    }

    /// True for the first v1 call or call for credentials of a caller.
    pub(super) fn is_new(&mut self, who: Who, event: &Event) -> bool {
        if event.verdict != Verdict::V1 && event.path_class != PathClass::Credential {
            return false;
        }
        !std::mem::replace(&mut self.caller(who).is_known, true)
    }

    fn caller(&mut self, who: Who) -> &mut Caller {
        self.callers.get_or_insert_mut(who.caller, Caller::default)
    }
}
