//! The sink of a rehearsal: shows the calls that were refused, and follows their callers.

use std::{io, time::SystemTime};

use imds_analyzer_ebpf::classify::Version;

use super::{Selectors, follow::Follow};
use crate::{
    event::{Event, Process, Rehearsal},
    host::proc::Directory,
    loss::Ledger,
    notice::Notice,
    sink::Sink,
};

/// Passes refused calls on to another sink.
pub struct Watch<S> {
    pub(super) sink: S,
    pub follow: Follow,
    own_pid: u32,
    selectors: Selectors,
    began: Option<SystemTime>,
    ended: Option<SystemTime>,
    /// v1 calls of chosen callers that should have been refused, and passed.
    not_in_time: u64,
}

impl<S> Watch<S> {
    pub fn new(sink: S, selectors: Selectors) -> Self {
        Self {
            sink,
            follow: Follow::default(),
            own_pid: std::process::id(),
            selectors,
            began: None,
            ended: None,
            not_in_time: 0,
        }
    }

    /// Calls are refused from now on.
    pub fn begin(&mut self, now: SystemTime) {
        self.began = Some(now);
    }

    /// No call is refused any more.
    pub fn end(&mut self, now: SystemTime) {
        self.ended = Some(now);
    }

    /// v1 calls of chosen callers that passed because the kernel side did not know of them, or waited for this process.
    pub fn not_in_time(&self) -> u64 {
        self.not_in_time
    }

    fn is_not_in_time(&self, event: &Event) -> bool {
        event.rehearsal == Rehearsal::Nothing
            && event.verdict.version() == Version::V1
            && !event.local
            && !event.malformed
            && self.began.is_some_and(|began| began <= event.time)
            && self.ended.is_none_or(|ended| event.time < ended)
            && event
                .process
                .as_ref()
                .is_some_and(|process| self.selectors.choose(process))
    }

    /// Looks which refused processes have exited.
    pub fn look(&mut self, now: SystemTime) {
        self.follow.look(now, has_exited);
    }
}

fn has_exited(process: &Process) -> bool {
    /// Of include/linux/sched.h: it ends, or its parent has not asked how it ended.
    const PF_EXITING: u32 = 4;
    Directory::open(process.pid)
        .and_then(|it| it.stat())
        .map_or(true, |stat| stat.flags & PF_EXITING != 0)
}

impl<S: Sink> Sink for Watch<S> {
    fn write(&mut self, event: &Event) -> io::Result<()> {
        // This process calls only to try itself.
        if event
            .process
            .as_ref()
            .is_some_and(|process| process.pid == self.own_pid)
        {
            return Ok(());
        }
        if self.is_not_in_time(event) {
            self.not_in_time += 1;
        }
        if self.follow.observe(event) {
            self.sink.write(event)
        } else {
            Ok(())
        }
    }

    /// A rehearsal is about refused calls alone: who reads its records must not take it for a record of all calls.
    fn notice(&mut self, time: SystemTime, notice: &Notice<'_>) -> io::Result<()> {
        match notice {
            Notice::Loss(_) | Notice::Rehearsal(_) => self.sink.notice(time, notice),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }

    fn loss(&self) -> Ledger {
        self.sink.loss()
    }
}
