//! The service's work beside the records: losses and status after activity, a reload, requests for metrics, and the
//! watchdog's sign of life.

use std::{
    future::pending,
    io,
    time::{Duration, Instant},
};

use tokio::{signal::unix::Signal, time};

use super::{
    every,
    exposition::{self, Exposition},
    notify,
    pipeline::Pipeline,
    reload,
    verdict::OwnVerdict,
};
use crate::{
    cli::DaemonArgs,
    config::Config,
    console::say,
    report::verdict::Verdict,
    session::{Session, Tick},
    sink::metrics::{Reader, Snapshot},
    summary::Answers,
};

pub(super) struct Service<'a> {
    args: &'a DaemonArgs,
    config: Config,
    hangup: Signal,
    exposition: Exposition,
    /// When to check for losses and to renew the status line: one window after the first activity.
    review: Option<Instant>,
    /// When to write the counts of requests that were not written.
    folded: Option<Instant>,
    watchdog: Option<time::Interval>,
    watching: time::Interval,
    verdict: OwnVerdict,
}

/// How often the log says that the analyzer is still attached.
const WATCHING: Duration = Duration::from_secs(60 * 60);

pub(super) enum Due {
    Time,
    Metrics(exposition::Wanted),
    Watchdog,
    Watching,
    Verdict(Option<Verdict>),
    Reload,
}

impl<'a> Service<'a> {
    pub(super) fn new(args: &'a DaemonArgs, config: Config, hangup: Signal, exposition: Exposition) -> Self {
        Self {
            args,
            config,
            hangup,
            exposition,
            review: None,
            folded: None,
            watchdog: notify::watchdog().map(every),
            watching: time::interval_at(time::Instant::now() + WATCHING, WATCHING),
            verdict: OwnVerdict::new(),
        }
    }

    /// Opens the sinks and reports that the service is ready.
    pub(super) fn begin(&mut self, session: &mut Session<Pipeline>) {
        self.apply(session);
        let status = status(session);
        say(format_args!("ready: {}", session.describe()));
        notify::ready(&status);
    }

    /// Applies the configuration to everything but the metrics server.
    fn apply(&mut self, session: &mut Session<Pipeline>) {
        if let Err(error) = session.sink().configure(&self.config) {
            tracing::warn!("cannot open a sink: {error}");
        }
        self.exposition.configure(&self.config.metrics);
        for warning in self.config.warnings() {
            tracing::warn!("{warning}");
        }
    }

    fn on_time(&mut self, session: &mut Session<Pipeline>) -> io::Result<()> {
        session.sink().report_folded()?;
        let now = Instant::now();
        if self.review.is_some_and(|review| review <= now) {
            self.review = None;
            session.report_loss()?;
            notify::status(&status(session));
        }
        if self.verdict.due().is_some_and(|due| due <= now) {
            self.verdict.renew(&self.config);
        }
        if self.exposition.listen_again().is_some_and(|again| again <= now) {
            self.exposition.listen(self.config.metrics.listen);
        }
        Ok(())
    }

    /// Reads the configuration again. An invalid one changes nothing.
    fn reload(&mut self, session: &mut Session<Pipeline>) {
        notify::reloading();
        match reload::read(self.args) {
            Ok(config) => {
                let keys = self.config.needs_restart(&config);
                if !keys.is_empty() {
                    tracing::warn!("restart the service to apply: {}", keys.join(", "));
                }
                self.config = config;
                self.apply(session);
                self.exposition.listen(self.config.metrics.listen);
                session.sink().metrics.set_reload_good(true);
                notify::ready(&status(session));
                say(format_args!("reloaded"));
            }
            Err(error) => {
                session.sink().metrics.set_reload_good(false);
                tracing::warn!("reload failed, keeping the old configuration: {error}");
                notify::ready(&format!("Configuration rejected, see the log; {}", status(session)));
            }
        }
    }

    fn expose(&mut self, wanted: exposition::Wanted, session: &mut Session<Pipeline>) {
        match wanted {
            exposition::Wanted::Scrape(reply) => {
                // The client may have gone away.
                let _ = reply.send(self.metrics(session, Reader::Prometheus));
            }
            exposition::Wanted::Textfile(path) => {
                if !self.exposition.is_writing(&path) {
                    let text = self.metrics(session, Reader::NodeExporter);
                    self.exposition.write(path, text);
                }
            }
        }
    }

    /// Empty if the text cannot be rendered, which the log then says.
    fn metrics(&self, session: &mut Session<Pipeline>, reader: Reader) -> Vec<u8> {
        let loss = session.loss();
        let hooks = session.hooks();
        let (tap, owner) = (session.tap(), session.owner());
        let pipeline = session.sink();
        let sinks = pipeline.fanout.stats();
        let snapshot = Snapshot {
            loss: &loss,
            sinks: &sinks,
            hooks: &hooks,
            tap,
            owner,
            scrapes: self.exposition.counts(),
        };
        pipeline.metrics.render(snapshot, reader).unwrap_or_else(|error| {
            tracing::warn!("cannot serve metrics: {error}");
            Vec::new()
        })
    }
}

impl Tick<Session<Pipeline>> for Service<'_> {
    type Due = Due;

    fn handled(&mut self, session: &mut Session<Pipeline>) {
        if self.review.is_none() {
            self.review = Some(Instant::now() + self.config.limits.window);
        }
        let pipeline = session.sink();
        self.folded = pipeline.next_due();
        self.verdict.noted(pipeline.against());
    }

    async fn due(&mut self) -> Due {
        let times = [
            self.folded,
            self.review,
            self.exposition.listen_again(),
            self.verdict.due(),
        ];
        let watchdog = async {
            match &mut self.watchdog {
                Some(interval) => interval.tick().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = until(times.into_iter().flatten().min()) => Due::Time,
            wanted = self.exposition.wanted() => Due::Metrics(wanted),
            _ = watchdog => Due::Watchdog,
            _ = self.watching.tick() => Due::Watching,
            verdict = self.verdict.renewed() => Due::Verdict(verdict),
            _ = self.hangup.recv() => Due::Reload,
        }
    }

    fn tick(&mut self, due: Due, session: &mut Session<Pipeline>) -> io::Result<()> {
        match due {
            Due::Time => self.on_time(session)?,
            Due::Metrics(wanted) => self.expose(wanted, session),
            Due::Watchdog => notify::alive(),
            Due::Watching => session.sink().report_watching()?,
            Due::Verdict(verdict) => {
                let verdict = verdict.map(|verdict| (verdict.as_str(), verdict == Verdict::Ready));
                session.sink().metrics.set_verdict(verdict);
            }
            Due::Reload => self.reload(session),
        }
        self.folded = session.sink().next_due();
        Ok(())
    }
}

/// The status line for the service manager, shown by `systemctl status`.
fn status(session: &mut Session<Pipeline>) -> String {
    let describe = session.describe();
    let pipeline = session.sink();
    let (requests, v1) = (pipeline.requests, pipeline.v1);
    let Answers {
        succeeded, rejected, ..
    } = pipeline.v1_answers;
    let failing: Vec<_> = pipeline
        .fanout
        .stats()
        .into_iter()
        .filter_map(|(sink, stats)| stats.failing.then_some(sink))
        .collect();
    let mut status =
        format!("{describe}; {requests} requests, {v1} of them v1 ({succeeded} succeeded, {rejected} rejected)");
    if !failing.is_empty() {
        status = format!("{status}; failing: {}", failing.join(", "));
    }
    status
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
