//! The sink of a rehearsal: shows the calls that were refused, and follows their callers.

use std::{io, time::SystemTime};

use super::follow::Follow;
use crate::{
    event::{Event, Process},
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
}

impl<S> Watch<S> {
    pub fn new(sink: S) -> Self {
        Self {
            sink,
            follow: Follow::default(),
            own_pid: std::process::id(),
        }
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
