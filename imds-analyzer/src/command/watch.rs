//! `watch`: prints calls as they are made, and a summary at the end.

mod traced;

use std::{future::pending, io, process::ExitStatus, time::Duration};

use anyhow::Context;
use imds_analyzer_ebpf::abi::Loss;

use self::traced::Traced;
use super::signals::Signals;
use crate::{
    cli::WatchArgs,
    console::{self, say},
    exit_code::ExitCode,
    session::{End, Finished, Options, Session},
    settings::{FailOn, WatchSettings},
};

pub(super) fn run(args: WatchArgs) -> anyhow::Result<ExitCode> {
    let settings = match WatchSettings::try_from(args) {
        Ok(settings) => settings,
        Err(error) => {
            say(format_args!("error: {error}"));
            return Ok(ExitCode::Usage);
        }
    };
    console::runtime()?.block_on(watch(settings))
}

async fn watch(settings: WatchSettings) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut filter = settings.filter;
    if settings.command.is_some() {
        traced::adopt_orphans()?;
        filter = filter.below(std::process::id());
    }
    let attaching = console::doing(console::ATTACHING, !settings.quiet);
    let mut session = Session::start(Options {
        wanted: settings.wanted,
        args: settings.args,
        name_service: settings.name_service,
        remedies: console::remedies(),
        filter,
        fail_on: settings.fail_on.clone(),
        count: settings.count,
        quiet: settings.quiet,
        sink: console::stdout_sink(settings.format, settings.color, settings.verbose),
    })?;
    drop(attaching);
    say(format_args!("ready: {}", session.describe()));

    let mut traced = settings.command.as_ref().map(Traced::start).transpose()?;
    // `Some` with the command's status if the command ended.
    let stop = async {
        tokio::select! {
            status = ended(&mut traced) => status.map(Some),
            () = elapsed(settings.duration) => Ok(None),
            () = signals.received() => Ok(None),
        }
    };
    let end = session.run(stop, &mut ()).await.context("cannot write the output")?;
    let mut command_failed = false;
    if let End::Stopped(status) = end
        && let Some(status) = status.context("cannot wait for the command")?
        && !status.success()
    {
        command_failed = true;
        say(format_args!("the command failed: {status}"));
    }
    let finished = session.finish().context("cannot write the output")?;
    console::summarise(&finished, settings.format, settings.color);
    explain_no_match(&finished, &settings.fail_on);
    Ok(exit_code(finished.failed, command_failed))
}

async fn ended(traced: &mut Option<Traced>) -> io::Result<ExitStatus> {
    match traced {
        Some(traced) => traced.ended().await,
        None => pending().await,
    }
}

async fn elapsed(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => pending().await,
    }
}

/// Says which v1 calls `--fail-on` did not match, if there were any.
fn explain_no_match<S>(finished: &Finished<S>, fail_on: &FailOn) {
    if finished.failed {
        return;
    }
    let local = finished.summary.total(true).v1;
    if local > 0 && fail_on.leaves_local_v1_out() {
        say(format_args!(
            "--fail-on v1 did not match: the {local} v1 calls went to an address of this host; v1-local matches those."
        ));
    }
    let over_budget = finished.loss.of(Loss::BudgetV1);
    if over_budget > 0 && fail_on.has_v1() {
        say(format_args!(
            "--fail-on did not match, but {over_budget} v1 calls over the budget were only counted: run again with --kernel-rate 0."
        ));
    }
}

/// A match of `--fail-on` takes precedence over the command's failure.
fn exit_code(fail_on_matched: bool, command_failed: bool) -> ExitCode {
    match (fail_on_matched, command_failed) {
        (true, _) => ExitCode::FailOn,
        (false, true) => ExitCode::Failed,
        (false, false) => ExitCode::Ok,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_it_ends() {
        for (fail_on_matched, command_failed, expected) in [
            (false, false, ExitCode::Ok),
            (false, true, ExitCode::Failed),
            (true, false, ExitCode::FailOn),
            (true, true, ExitCode::FailOn),
        ] {
            assert_eq!(exit_code(fail_on_matched, command_failed), expected);
        }
    }
}
