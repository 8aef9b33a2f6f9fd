//! Earlier calls of a caller: its last request for a token, and if it has called before.
//!
//! A process is remembered as long as there is room, because a client may fall back to calls without a token once and
//! for all. If the caller is a tool that a script runs, a request for a token also counts for other tools that the same
//! process runs, for [`SPAN`]: the script runs one curl for the token and another one for the call. Programs that are
//! their own callers ask for their own tokens.

use std::{
    hash::{BuildHasher as _, RandomState},
    num::NonZeroUsize,
    time::Duration,
};

use imds_analyzer_ebpf::{abi::Task, classify::PathClass, classify::Verdict};
use lru::LruCache;

use crate::{
    event::{Answer, Event, Process},
    host::clock::nanoseconds,
};

/// Maximum number of processes and callers remembered. The least recently seen is dropped first.
const PROCESSES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
const CALLERS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// How long a request for a token counts for other processes of the same script.
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
    /// If the caller is a tool that a script runs: hash of the caller and of the script's process.
    script: Option<u64>,
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

#[derive(Debug)]
pub(super) struct History {
    processes: LruCache<(u32, u64), Asked>,
    scripts: LruCache<u64, Asked>,
    /// Callers that made a v1 call or a call for credentials.
    callers: LruCache<u64, ()>,
    tickets: u64,
    token_hop_limit: Option<u8>,
    hashing: RandomState,
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            processes: LruCache::new(PROCESSES),
            scripts: LruCache::new(PROCESSES),
            callers: LruCache::new(CALLERS),
            tickets: 0,
            token_hop_limit: None,
            hashing: RandomState::new(),
        }
    }

    /// The sender of a call; `None` if no process is known.
    pub(super) fn who(&self, event: &Event, task: &Task) -> Option<Who> {
        let process = event.process.as_deref()?;
        let caller = self.hashing.hash_one((&process.caller, process.user.id));
        let script = process.caller.contains(TOOL).then(|| script(process)).flatten();
        Some(Who {
            process: (process.pid, if task.tgid == process.pid { task.start } else { 0 }),
            caller,
            script: script.map(|pid| self.hashing.hash_one((caller, pid))),
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
        if let Some(script) = who.script {
            self.scripts.put(script, asked);
        }
        self.tickets
    }

    /// Stores the outcome of the request for a token with this ticket.
    pub(super) fn answered(&mut self, who: Who, ticket: u64, answer: Answer) {
        if let Some(reply) = answer.reply() {
            self.token_hop_limit = reply.hop_limit.or(self.token_hop_limit);
        }
        let process = self.processes.peek_mut(&who.process);
        let script = who.script.and_then(|script| self.scripts.peek_mut(&script));
        for asked in [process, script].into_iter().flatten() {
            if asked.ticket == ticket {
                asked.answer = Some(answer);
            }
        }
    }

    /// The process's last request for a token. If it is a tool and made none, one for the same script within [`SPAN`].
    pub(super) fn last_asked(&mut self, who: Who, now: u64) -> Option<Asked> {
        if let Some(asked) = self.processes.get(&who.process) {
            return Some(*asked);
        }
        let asked = *self.scripts.get(&who.script?)?;
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
        self.callers.put(who.caller, ()).is_none()
    }
}

/// The process of the script that runs a tool: the tool's parent or, if that is a subshell, the shell that forked it.
fn script(process: &Process) -> Option<u32> {
    let mut ancestors = process.ancestors.iter().peekable();
    while let Some(ancestor) = ancestors.next() {
        if ancestors.peek().is_none_or(|above| above.name != ancestor.name) {
            return Some(ancestor.pid);
        }
    }
    None
}
