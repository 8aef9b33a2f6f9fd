//! An event's path in the daemon: metrics count it, noise control decides, and then it goes to the sinks.

use std::{
    io, mem,
    time::{Instant, SystemTime},
};

use imds_analyzer_ebpf::classify::Version;

use crate::{
    config::Config,
    event::Event,
    identity::Identity,
    loss::{Kind, Ledger},
    notice::{Notice, Watching},
    sink::{
        Sink,
        fanout::Fanout,
        metrics::{Metrics, Unwritten},
        noise::{Decision, Noise},
    },
    summary::Answers,
};

pub(super) struct Pipeline {
    pub(super) metrics: Metrics,
    noise: Noise,
    pub(super) fanout: Fanout,
    /// Requests so far, for the status line. Those of v1, and what came back of them, leave out calls to an address of this
    /// host and calls of a relay.
    pub(super) requests: u64,
    pub(super) v1: u64,
    pub(super) v1_answers: Answers,
    /// Calls since the last [`Self::report_watching`].
    watching: Watching,
    /// Calls that could not be judged.
    unknown: u64,
}

impl Pipeline {
    pub(super) fn new(config: &Config, host: &Identity, fanout: Fanout) -> anyhow::Result<Self> {
        Ok(Self {
            metrics: Metrics::new(config.metrics.max_callers, host)?,
            noise: Noise::new(config),
            fanout,
            requests: 0,
            v1: 0,
            v1_answers: Answers::default(),
            watching: Watching::default(),
            unknown: 0,
        })
    }

    /// # Errors
    ///
    /// If a sink cannot be opened. All other settings of `config` are applied nevertheless.
    pub(super) fn configure(&mut self, config: &Config) -> io::Result<()> {
        self.noise.configure(config);
        self.metrics.set_callers_max(config.metrics.max_callers);
        self.fanout.configure(config)
    }

    /// When [`Self::report_folded`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.noise.next_due()
    }

    /// Writes how many requests were not written, for each window that is over.
    pub(super) fn report_folded(&mut self) -> io::Result<()> {
        while let Some(folded) = self.noise.due(Instant::now()) {
            self.fanout.notice(SystemTime::now(), &Notice::RateLimited(&folded))?;
        }
        self.fanout.flush()
    }
}

impl Pipeline {
    /// The number of calls that keep this host from being ready.
    pub(super) fn against(&self) -> u64 {
        self.v1 + self.unknown
    }

    /// Writes that the analyzer is still attached.
    pub(super) fn report_watching(&mut self) -> io::Result<()> {
        let watching = mem::take(&mut self.watching);
        self.fanout.notice(SystemTime::now(), &Notice::Watching(&watching))?;
        self.fanout.flush()
    }
}

impl Sink for Pipeline {
    fn write(&mut self, event: &Event) -> io::Result<()> {
        self.metrics.count(event);
        self.requests += 1;
        let version = event.verdict.version();
        let counts = !event.local && !event.relay;
        if counts {
            self.watching.calls.add(version);
            self.unknown += u64::from(version == Version::Unknown);
        }
        if counts && version == Version::V1 {
            self.v1 += 1;
            self.v1_answers.add(event.answer.word(), event.answer.status());
        }
        let (decision, first) = self.noise.judge(event, Instant::now());
        if first.v1 || first.credential {
            self.metrics.count_first_seen(first);
            self.fanout.notice(event.time, &Notice::FirstSeen { event, first })?;
        }
        match decision {
            Decision::Write => self.fanout.write(event),
            Decision::Fold => {
                self.metrics.count_unwritten(Unwritten::RateLimited);
                Ok(())
            }
            Decision::Ignore => {
                if counts {
                    self.watching.ignored.add(version);
                }
                self.metrics.count_unwritten(Unwritten::Ignored);
                Ok(())
            }
        }
    }

    fn notice(&mut self, time: SystemTime, notice: &Notice<'_>) -> io::Result<()> {
        if let Notice::Summary { .. } = notice {
            // The session is over, so no later request can join an open window.
            while let Some(folded) = self.noise.take_folded() {
                self.fanout.notice(time, &Notice::RateLimited(&folded))?;
            }
            self.report_watching()?;
        }
        if let Notice::Attempt(attempt) = notice {
            self.metrics.count_attempt(attempt);
            if !self.noise.allows_attempt(attempt, Instant::now()) {
                return Ok(());
            }
        }
        self.fanout.notice(time, notice)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.fanout.flush()
    }

    fn loss(&self) -> Ledger {
        let mut loss = self.fanout.loss();
        loss.add(Kind::FirstSeenUnannounced, self.noise.unannounced());
        loss
    }
}
