//! The service: requests take the same path as in `watch`, but to the configured sinks, and for months.
//!
//! ```text
//! session (next record -> decode -> join -> resolve) -> pipeline (count -> noise control) -> fan-out -> queue -> sink
//! beside it: service (loss, status, reload, watchdog) -> exposition (metrics)
//! ```

mod exposition;
mod http;
mod notify;
mod pipeline;
mod reload;
mod sandbox;
mod service;
mod textfile;
mod verdict;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    time,
};

use self::{exposition::Exposition, pipeline::Pipeline, service::Service};
use super::lock::{Holder, Lock};
use crate::{
    cli::DaemonArgs,
    config::Config,
    console::{self, say},
    exit_code::ExitCode,
    kernel::budget::KernelBudget,
    place::Trust,
    session::{Options, Session},
    settings::{FailOn, Filter},
    sink::{Sink as _, fanout::Fanout},
};

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
    let result = runtime.block_on(serve(args, config));
    // Does not wait for the thread that writes the textfile: its file system may hang.
    runtime.shutdown_background();
    result
}

async fn serve(args: &DaemonArgs, config: Config) -> anyhow::Result<ExitCode> {
    let _lock = Lock::take(&config.runtime_dir, Holder::Daemon)?;
    let hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (mut session, exposition) = start(&config)?;
    let mut service = Service::new(args, config, hangup, exposition);
    service.begin(&mut session);

    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let end = session.run(stop, &mut service).await;
    end.context("cannot process records")?;
    finish(session)
}

/// Does everything that needs rights first, then drops the rights, and only then starts threads.
fn start(config: &Config) -> anyhow::Result<(Session<Pipeline>, Exposition)> {
    let group = sandbox::join_log_group();
    let host = config.identity();
    let fanout = Fanout::new(host.clone(), group);
    let attaching = console::doing(console::ATTACHING, true);
    let mut session = Session::start(Options {
        wanted: config.object.wanted(
            config.owner,
            config.answers,
            KernelBudget {
                rate: config.limits.kernel_rate,
                burst: config.limits.kernel_burst,
            },
        ),
        args: config.args,
        name_service: config.name_service,
        remedies: console::remedies(),
        filter: Filter::default(),
        fail_on: FailOn::default(),
        count: None,
        quiet: false,
        sink: Pipeline::new(config, &host, fanout)?,
    })?;
    drop(attaching);
    let mut exposition = Exposition::new();
    exposition.listen(config.metrics.listen);
    let kept = sandbox::enter(&sandbox::Needs {
        writes: &writes(config),
        counters_readable: &|| session.counters_readable(),
        detaches: session.must_detach(),
    })
    .context("cannot drop privileges")?;
    tracing::debug!("capabilities kept: {kept:?}");
    session.rights_dropped();
    Ok((session, exposition))
}

/// The directories that the daemon writes to.
fn writes(config: &Config) -> Vec<PathBuf> {
    let log = Some(&config.log).filter(|log| log.enabled).map(|log| &log.path);
    let verdict = verdict::path(config);
    let paths = [log, config.metrics.textfile.as_ref(), Some(&verdict)];
    paths
        .into_iter()
        .flatten()
        .filter_map(|path| path.parent().map(PathBuf::from))
        .collect()
}

/// Handles the pending records, writes the summary, and writes all queued records.
fn finish(session: Session<Pipeline>) -> anyhow::Result<ExitCode> {
    notify::stopping();
    let mut finished = session.finish().context("cannot process records")?;
    finished.sink.fanout.close();
    let lost = finished.sink.loss();
    if !lost.is_empty() {
        say(format_args!("{lost}"));
    }
    Ok(ExitCode::Ok)
}

/// The first tick fires at once. Missed ticks are not made up for.
fn every(period: Duration) -> time::Interval {
    let mut interval = time::interval(period);
    interval.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    interval
}
