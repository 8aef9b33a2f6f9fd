//! The end of the pipeline: filters, counts and writes.

use std::io;

use super::Options;
use crate::{
    event::{Attempt, Event},
    notice::Notice,
    settings::{FailOn, Filter},
    sink::{self, Sink},
    summary::{Summary, Who},
};

/// Tells the loop to go on or why to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Continue,
    /// The count of `--count` is reached.
    Enough,
    /// The reader has closed the output.
    Closed,
}

/// Filters, counts and writes events.
pub(super) struct Outlet<S> {
    filter: Filter,
    fail_on: FailOn,
    left: Option<u64>,
    quiet: bool,
    closed: bool,
    pub(super) sink: S,
    pub(super) summary: Summary,
    /// True if `--fail-on` matched.
    pub(super) failed: bool,
}

impl<S: Sink> Outlet<S> {
    pub(super) fn new(options: Options<S>) -> Self {
        Self {
            filter: options.filter,
            fail_on: options.fail_on,
            left: options.count.map(u64::from),
            quiet: options.quiet,
            closed: false,
            sink: options.sink,
            summary: Summary::new(),
            failed: false,
        }
    }

    /// Drops the event if the count is reached or the output is closed.
    pub(super) fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.flow() != Flow::Continue || !self.filter.matches(event) {
            return Ok(());
        }
        self.summary.add(event);
        self.failed |= self.fail_on.matches(event);
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        if self.quiet {
            return Ok(());
        }
        let written = self.sink.write(event);
        self.unless_closed(written)
    }

    /// Like [`Self::event`], but attempts do not count for `--count`.
    pub(super) fn attempt(&mut self, attempt: &Attempt) -> io::Result<()> {
        if self.flow() != Flow::Continue || !self.filter.matches_attempt(attempt) {
            return Ok(());
        }
        let who = attempt.process.as_deref().map(Who::from);
        self.summary.add_attempt(attempt.local, who);
        if self.quiet {
            return Ok(());
        }
        let written = self.sink.notice(attempt.time, &Notice::Attempt(attempt));
        self.unless_closed(written)
    }

    pub(super) fn flush(&mut self) -> io::Result<Flow> {
        let flushed = self.sink.flush();
        self.unless_closed(flushed)?;
        Ok(self.flow())
    }

    pub(super) fn flow(&self) -> Flow {
        match self.left {
            _ if self.closed => Flow::Closed,
            Some(0) => Flow::Enough,
            _ => Flow::Continue,
        }
    }

    /// Turns the error of a closed output into a normal end.
    fn unless_closed(&mut self, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(error) if sink::is_closed(&error) => {
                self.closed = true;
                Ok(())
            }
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU64, time::SystemTime};

    use super::*;
    use crate::{
        judge::Remedies,
        kernel::plan::Wanted,
        notice::Notice,
        secrets::ArgsMode,
        sink::tests::{full_event, minimal_event},
    };

    /// Counts writes. If `failure` is set, every flush fails with it.
    #[derive(Default)]
    struct Counter {
        written: u64,
        failure: Option<io::ErrorKind>,
    }

    impl Sink for Counter {
        fn write(&mut self, _event: &Event) -> io::Result<()> {
            self.written += 1;
            Ok(())
        }

        fn notice(&mut self, _time: SystemTime, _notice: &Notice<'_>) -> io::Result<()> {
            Ok(())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.failure.map_or(Ok(()), |kind| Err(kind.into()))
        }
    }

    fn outlet(count: Option<u64>, quiet: bool) -> Outlet<Counter> {
        Outlet::new(Options {
            wanted: Wanted::default(),
            args: ArgsMode::default(),
            name_service: false,
            remedies: Remedies::default(),
            filter: Filter::default(),
            fail_on: FailOn::default(),
            count: count.and_then(NonZeroU64::new),
            quiet,
            sink: Counter::default(),
        })
    }

    #[test]
    fn the_count_ends_it_and_what_comes_later_is_dropped() -> io::Result<()> {
        for quiet in [false, true] {
            let mut outlet = outlet(Some(2), quiet);
            outlet.event(&full_event())?;
            assert_eq!(outlet.flush()?, Flow::Continue);
            outlet.event(&minimal_event())?;
            assert_eq!(outlet.flow(), Flow::Enough);
            outlet.event(&full_event())?;
            assert_eq!(outlet.flush()?, Flow::Enough);
            assert_eq!(outlet.sink.written, if quiet { 0 } else { 2 });
            assert_eq!(outlet.summary.total(false).v1, 1);
        }
        Ok(())
    }

    #[test]
    fn a_closed_output_ends_it_and_any_other_failure_is_an_error() -> io::Result<()> {
        let mut outlet = outlet(None, false);
        outlet.sink.failure = Some(io::ErrorKind::StorageFull);
        assert!(outlet.flush().is_err());
        assert_eq!(outlet.flow(), Flow::Continue);
        outlet.sink.failure = Some(io::ErrorKind::BrokenPipe);
        assert_eq!(outlet.flush()?, Flow::Closed);
        outlet.event(&full_event())?;
        assert_eq!((outlet.sink.written, outlet.flow()), (0, Flow::Closed));
        Ok(())
    }
}
