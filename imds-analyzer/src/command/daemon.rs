//! The service: the same path of a request as `watch`, to the sinks that the configuration names, for months.
//!
//! ```text
//! session (next record -> decode -> join -> resolve) -> pipeline (count -> noise control) -> fan-out -> queue -> sink
//! ```

use std::{
    future::pending,
    path::PathBuf,
    sync::{Arc, mpsc::sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
    time,
};

mod http;
mod lock;
mod notify;
mod pipeline;
mod sandbox;
mod textfile;

use self::{
    http::{Scrape, Server},
    lock::Lock,
    pipeline::Pipeline,
};
use crate::{
    cli::DaemonArgs,
    config::Config,
    console::{self, say},
    exit_code::ExitCode,
    kernel::plan::Wanted,
    place::Trust,
    session::{Flow, Options, Session},
    settings::{Budget, FailOn, Filter},
    sink::{
        Sink as _,
        fanout::Fanout,
        metrics::{Reader, Scrapes, Snapshot},
    },
};

/// Scrapes that wait for the loop.
const SCRAPES: usize = 8;
/// How long a reload waits for a look at the directories it names: a file system may hang.
const LOOK: Duration = Duration::from_millis(200);
/// How often a port that is taken is tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(60);

/// Runs until SIGTERM.
pub(super) fn run(args: &DaemonArgs) -> anyhow::Result<ExitCode> {
    let config = match Config::load(args) {
        Ok(config) => config,
        Err(error) => {
            say(format_args!("error: {error}"));
            return Ok(ExitCode::Usage);
        }
    };
    if let Err(error) = config.check_places(Trust::of_this_process()) {
        say(format_args!("error: {error}"));
        return Ok(ExitCode::Usage);
    }
    let runtime = console::runtime()?;
    let result = runtime.block_on(async {
        let mut daemon = Daemon::start(args, config)?;
        daemon.serve().await?;
        daemon.stop()
    });
    // A textfile's file system may hang: its thread is left behind.
    runtime.shutdown_background();
    result
}

struct Daemon<'a> {
    args: &'a DaemonArgs,
    config: Config,
    session: Session<Pipeline>,
    hangup: Signal,
    end: [Signal; 2],
    server: Option<Server>,
    scrapes: (mpsc::Sender<Scrape>, mpsc::Receiver<Scrape>),
    /// When to look for losses and to renew the status line: a window after something happened.
    review: Option<Instant>,
    scrape_counts: Arc<Scrapes>,
    textfile: Option<time::Interval>,
    textfile_job: Option<JoinHandle<()>>,
    /// Which textfile was written last.
    textfile_path: Option<PathBuf>,
    /// That the last one is still being written was said.
    textfile_hangs: bool,
    watchdog: Option<time::Interval>,
    listen_again: Option<Instant>,
    _lock: Lock,
}

impl<'a> Daemon<'a> {
    /// Everything that takes rights comes first, then they are dropped, and only then there are threads.
    fn start(args: &'a DaemonArgs, config: Config) -> anyhow::Result<Self> {
        let lock = Lock::take(&config.runtime_dir)?;
        let hangup = signal(SignalKind::hangup())?;
        let end = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
        let group = sandbox::join_log_group();
        let fanout = Fanout::new(console::host_name(), group);
        let session = Session::start(Options {
            wanted: Wanted {
                object: None,
                owner: config.owner.into(),
            },
            args: config.args,
            name_service: config.name_service,
            filter: Filter::default(),
            fail_on: FailOn::default(),
            count: None,
            quiet: false,
            budget: Budget {
                rate: config.limits.kernel_rate,
                burst: config.limits.kernel_burst,
            },
            sink: Pipeline::new(&config, fanout)?,
        })?;
        let mut daemon = Self {
            args,
            session,
            hangup,
            end,
            server: None,
            scrapes: mpsc::channel(SCRAPES),
            review: None,
            scrape_counts: Arc::default(),
            textfile: None,
            textfile_job: None,
            textfile_path: None,
            textfile_hangs: false,
            watchdog: notify::watchdog().map(interval),
            listen_again: None,
            _lock: lock,
            config,
        };
        daemon.listen();
        let kept = sandbox::enter(&sandbox::Needs {
            writes: &daemon.writes(),
            counters_readable: &|| daemon.session.counters_readable(),
        })
        .context("cannot drop privileges")?;
        tracing::debug!("capabilities kept: {kept:?}");
        daemon.session.rights_dropped();
        daemon.apply();
        warn_of_rules(&daemon.config);
        let status = daemon.status();
        say(format_args!("ready: {}", daemon.session.describe()));
        notify::ready(&status);
        Ok(daemon)
    }

    /// Directories and files to be written.
    fn writes(&self) -> Vec<PathBuf> {
        let log = Some(&self.config.log).filter(|log| log.enabled).map(|log| &log.path);
        let paths = [log, self.config.metrics.textfile.as_ref()];
        paths
            .into_iter()
            .flatten()
            .filter_map(|path| path.parent().map(PathBuf::from))
            .collect()
    }

    /// Makes everything but the server what the configuration says.
    fn apply(&mut self) {
        if let Err(error) = self.session.sink().configure(&self.config) {
            tracing::warn!("cannot open a sink: {error}");
        }
        let metrics = &self.config.metrics;
        self.textfile = metrics.textfile.is_some().then(|| interval(metrics.textfile_interval));
    }

    /// A port that cannot be had costs the metrics, not the service.
    fn listen(&mut self) {
        let listen = self.config.metrics.listen;
        if self.server.as_ref().map(|server| server.address) == listen && listen.is_some() {
            return;
        }
        self.server = None;
        self.listen_again = None;
        let Some(address) = listen else { return };
        match Server::start(address, self.scrapes.0.clone(), Arc::clone(&self.scrape_counts)) {
            Ok(server) => {
                if !server.address.ip().is_loopback() {
                    tracing::warn!("metrics on {} are reachable from other hosts", server.address);
                }
                self.server = Some(server);
            }
            Err(error) => {
                tracing::warn!("cannot serve metrics on {address}, will retry: {error}");
                self.listen_again = Some(Instant::now() + LISTEN_AGAIN);
            }
        }
    }

    /// The loop.
    async fn serve(&mut self) -> anyhow::Result<()> {
        loop {
            let due = [self.session.sink().next_due(), self.review, self.listen_again]
                .into_iter()
                .flatten()
                .min();
            let [terminate, interrupt] = &mut self.end;
            tokio::select! {
                flow = self.session.next() => {
                    if flow.context("cannot process records")? != Flow::On {
                        return Ok(());
                    }
                    if self.review.is_none() {
                        self.review = Some(Instant::now() + self.config.limits.window);
                    }
                }
                () = until(due) => self.on_time()?,
                Some(reply) = self.scrapes.1.recv() => {
                    // A client that has gone needs no answer.
                    let _ = reply.send(self.metrics(Reader::Prometheus));
                }
                () = tick(&mut self.textfile) => self.write_textfile(),
                () = tick(&mut self.watchdog) => notify::alive(),
                _ = self.hangup.recv() => self.reload(),
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
        }
    }

    fn on_time(&mut self) -> anyhow::Result<()> {
        self.session.sink().report_folded().context("cannot write a record")?;
        let now = Instant::now();
        if self.review.is_some_and(|review| review <= now) {
            self.review = None;
            self.session.report_loss().context("cannot write a record")?;
            notify::status(&self.status());
        }
        if self.listen_again.is_some_and(|again| again <= now) {
            self.listen();
        }
        Ok(())
    }

    /// Reads the configuration again. What is wrong with it changes nothing.
    fn reload(&mut self) {
        notify::reloading();
        let config = Config::load(self.args)
            .map_err(|error| error.to_string())
            .and_then(with_places_of_ours);
        match config {
            Ok(config) => {
                let keys = self.config.needs_restart(&config);
                if !keys.is_empty() {
                    tracing::warn!("restart the service to apply: {}", keys.join(", "));
                }
                self.config = config;
                self.apply();
                warn_of_rules(&self.config);
                self.listen();
                self.session.sink().metrics.set_reload_good(true);
                notify::ready(&self.status());
                say(format_args!("reloaded"));
            }
            Err(error) => {
                self.session.sink().metrics.set_reload_good(false);
                tracing::warn!("reload failed, keeping the old configuration: {error}");
                notify::ready(&format!("Configuration rejected, see the log; {}", self.status()));
            }
        }
    }

    /// Empty where the text cannot be made, which has been said.
    fn metrics(&mut self, reader: Reader) -> Vec<u8> {
        let loss = self.session.loss();
        let hooks = self.session.hooks();
        let (tap, owner) = (self.session.tap(), self.session.owner());
        let pipeline = self.session.sink();
        let sinks = pipeline.fanout.stats();
        let snapshot = Snapshot {
            loss: &loss,
            sinks: &sinks,
            hooks: &hooks,
            tap,
            owner,
            scrapes: &self.scrape_counts,
        };
        pipeline.metrics.render(snapshot, reader).unwrap_or_else(|error| {
            tracing::warn!("cannot serve metrics: {error}");
            Vec::new()
        })
    }

    /// On a thread, as a disk may be slow; none is written while the last one is.
    fn write_textfile(&mut self) {
        let Some(path) = self.config.metrics.textfile.clone() else {
            return;
        };
        if self.textfile_job.as_ref().is_some_and(|job| !job.is_finished()) {
            if !std::mem::replace(&mut self.textfile_hangs, true) {
                tracing::warn!("cannot write {}: its file system does not respond", path.display());
            }
            return;
        }
        self.textfile_hangs = false;
        let first = self.textfile_path.as_ref() != Some(&path);
        self.textfile_path = Some(path.clone());
        let text = self.metrics(Reader::NodeExporter);
        self.textfile_job = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = textfile::write(&path, &text, first) {
                tracing::warn!("cannot write {}: {error}", path.display());
            }
        }));
    }

    fn status(&mut self) -> String {
        let describe = self.session.describe();
        let pipeline = self.session.sink();
        let (requests, v1) = (pipeline.requests, pipeline.v1);
        let failing: Vec<_> = pipeline
            .fanout
            .stats()
            .into_iter()
            .filter_map(|(sink, stats)| stats.failing.then_some(sink))
            .collect();
        let mut status = format!("{describe}; {requests} requests, {v1} of them v1");
        if !failing.is_empty() {
            status = format!("{status}; failing: {}", failing.join(", "));
        }
        status
    }

    /// Handles what is there, sums up, and writes all that is queued.
    fn stop(mut self) -> anyhow::Result<ExitCode> {
        notify::stopping();
        self.session.drain().context("cannot process records")?;
        let mut finished = self.session.finish().context("cannot process records")?;
        finished.sink.fanout.close();
        let lost = finished.sink.loss();
        if !lost.is_empty() {
            say(format_args!("{lost}"));
        }
        Ok(ExitCode::Ok)
    }
}

/// `config`, or why the places it names cannot be written to. Where a look takes long nothing is said against them here: each is
/// looked at again when it is written.
fn with_places_of_ours(config: Config) -> Result<Config, String> {
    let (result, wait) = sync_channel(1);
    let looked_at = config.clone();
    let look = thread::Builder::new().name("look-at-places".to_owned()).spawn(move || {
        // Nobody waits any more.
        let _ = result.send(looked_at.check_places(Trust::of_this_process()));
    });
    if let Err(error) = look {
        tracing::debug!("cannot start a thread: {error}");
    }
    match wait.recv_timeout(LOOK) {
        Ok(Err(error)) => Err(error),
        _ => Ok(config),
    }
}

fn warn_of_rules(config: &Config) {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
}

/// The first tick comes at once, and none that was missed is made up for.
fn interval(period: Duration) -> time::Interval {
    let mut interval = time::interval(period);
    interval.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    interval
}

async fn tick(interval: &mut Option<time::Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
