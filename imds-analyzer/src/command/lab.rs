//! `lab`: the analyzer against its own IMDS. The clients run in the lab's namespace; the hooks are the real ones, at
//! the root cgroup.

use std::sync::Arc;

use anyhow::Context;

use super::signals::Signals;
use crate::{
    cli::LabArgs,
    console::{self, say},
    exit_code::ExitCode,
    kernel::plan::Wanted,
    lab::{self, Lab, Server, StepOutcome, Tour},
    secrets::ArgsMode,
    session::{End, Flow, Options, Session, StartError},
    settings::{FailOn, Filter},
};

pub(super) fn run(args: &LabArgs) -> anyhow::Result<ExitCode> {
    console::runtime()?.block_on(tour(args))
}

/// Builds the lab and runs the tour. With `--keep`, leaves the lab to the user until interrupted.
async fn tour(args: &LabArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let lab = Arc::new(Lab::local().map_err(StartError::Refused)?);
    let _server = Server::start(&lab.server, lab::Options { tokens: args.tokens })?;
    let mut session = Session::start(Options {
        wanted: Wanted::default(),
        args: ArgsMode::default(),
        name_service: false,
        remedies: console::remedies(),
        filter: Filter::default(),
        fail_on: FailOn::default(),
        count: None,
        quiet: false,
        sink: console::stdout_sink(args.format, args.color, args.verbose),
    })?;
    say(format_args!("ready: {}", session.describe()));
    say(format_args!(
        "The lab's IMDS runs in a private network namespace on this host, so every call is marked `local`."
    ));

    let mut flow = Flow::Continue;
    for step in Tour::default().steps() {
        say(format_args!("\n# {}: {}", step.title, step.expect));
        let running = {
            let (lab, step) = (Arc::clone(&lab), *step);
            tokio::task::spawn_blocking(move || step.run(&lab))
        };
        let stop = async {
            tokio::select! {
                outcome = running => Some(outcome),
                () = signals.received() => None,
            }
        };
        let end = session.run(stop, &mut ()).await.context("cannot write the output")?;
        let End::Stopped(Some(outcome)) = end else {
            flow = Flow::Enough;
            break;
        };
        let outcome = outcome.context("a client thread ended early")?;
        flow = session.drain().context("cannot write the output")?;
        match outcome {
            StepOutcome::Failed(why) => say(format_args!("  the client failed: {why}")),
            StepOutcome::Skipped(why) => say(format_args!("  skipped: {why}")),
            StepOutcome::Refused => say(format_args!("  IMDS refused it: tokens are required")),
            StepOutcome::Done => {}
        }
        if flow != Flow::Continue {
            break;
        }
    }

    if args.keep && flow == Flow::Continue {
        say(format_args!("\n{}", lab::keep_message(&lab)));
        let kept = session.run(signals.received(), &mut ()).await;
        kept.context("cannot write the output")?;
    }
    let finished = session.finish().context("cannot write the output")?;
    console::summarise(&finished, args.format, args.color);
    Ok(ExitCode::Ok)
}
