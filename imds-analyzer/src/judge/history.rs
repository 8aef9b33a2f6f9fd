//! Earlier calls of a caller: its last request for a token, and if it has called before.
//!
//! A process is remembered as long as there is room, because a client may fall back to calls without a token once and
//! for all. If the caller is a tool that a script runs, a request for a token also counts for other processes of the
//! same caller, for [`SPAN`]: the script runs one curl for the token and another one for the call. Programs that are
//! their own callers ask for their own tokens, and two of them may be two versions of one library.

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

/// Maximum number of processes and callers remembered. The least recently seen is dropped first.
const PROCESSES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
const CALLERS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// How long a request for a token counts for other processes of the same caller.
pub(super) const SPAN: Duration = Duration::from_secs(10 * 60);

/// In a caller's key, between what runs a tool and the tool.
const TOOL: &str = " > ";

/// A process and its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Who {
    /// Pid and start time.
    pub(super) process: (u32, u64),
    /// Hash of the caller's key and user.
    pub(super) caller: u64,
    /// True if the caller is a tool and what runs it.
    is_tool: bool,
}

/// A request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    ticket: u64,
    /// Nanoseconds since boot.
    at: u64,
    /// `None` until the answer comes.
    pub(super) answer: Option<Answer>,
}

#[derive(Debug, Default)]
struct Caller {
    asked: Option<Asked>,
    /// True after a v1 call or a call for credentials.
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

    /// The sender of a call; `None` if no process is known.
    pub(super) fn who(&self, event: &Event, task: &Task) -> Option<Who> {
        let process = event.process.as_deref()?;
        Some(Who {
            process: (process.pid, if task.tgid == process.pid { task.start } else { 0 }),
            caller: self.hashing.hash_one((&process.caller, process.user.id)),
            is_tool: process.caller.contains(TOOL),
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

    /// Stores the outcome of the request for a token with this ticket.
    pub(super) fn answered(&mut self, who: Who, ticket: u64, answer: Answer) {
        if let Some(reply) = answer.reply() {
            self.token_hop_limit = reply.hop_limit.or(self.token_hop_limit);
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

    /// The process's last request for a token. If it is a tool and made none, one by the same caller within [`SPAN`].
    pub(super) fn last_asked(&mut self, who: Who, now: u64) -> Option<Asked> {
        if let Some(asked) = self.processes.get(&who.process) {
            return Some(*asked);
        }
        if !who.is_tool {
            return None;
        }
        let asked = self.callers.get(&who.caller)?.asked?;
        (now.saturating_sub(asked.at) <= nanoseconds(SPAN)).then_some(asked)
    }

    /// TTL of the last answer to a token request of any caller.
    pub(super) const fn token_hop_limit(&self) -> Option<u8> {
        self.token_hop_limit
    }

    /// True for a caller's first v1 call or call for credentials.
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
