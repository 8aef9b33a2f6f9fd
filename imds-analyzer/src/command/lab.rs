//! `lab`: the analyzer against an IMDS of its own. The clients run in the lab's namespace, the hooks are the real ones
//! at the root cgroup.

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
    session::{Flow, Options, Session, StartError},
    settings::{Budget, FailOn, Filter},
};

pub(super) fn run(args: &LabArgs) -> anyhow::Result<ExitCode> {
    console::runtime()?.block_on(tour(args))
}

/// Builds the lab, tours it, and with `--keep` leaves it to the user until interrupted.
async fn tour(args: &LabArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let lab = Arc::new(Lab::local().map_err(StartError::Refused)?);
    let _server = Server::start(&lab.server, lab::Options { tokens: args.tokens })?;
    let mut session = Session::start(Options {
        wanted: Wanted::default(),
        args: ArgsMode::default(),
        name_service: false,
        filter: Filter::default(),
        fail_on: FailOn::default(),
        count: None,
        quiet: false,
        budget: Budget::default(),
        sink: console::stdout_sink(args.format, args.color, args.verbose),
    })?;
    say(format_args!("ready: {}", session.describe()));
    say(format_args!(
        "The lab's IMDS runs in a private network namespace on this host, so every call is marked `local`."
    ));

    let mut flow = Flow::On;
    for step in Tour::default().steps() {
        if flow != Flow::On {
            break;
        }
        say(format_args!("\n# {}: {}", step.title, step.expect));
        let running = {
            let (lab, step) = (Arc::clone(&lab), *step);
            tokio::task::spawn_blocking(move || step.run(&lab))
        };
        tokio::pin!(running);
        let outcome = loop {
            tokio::select! {
                next = session.next() => {
                    flow = next.context("cannot write the output")?;
                    if flow != Flow::On { break None }
                }
                outcome = &mut running => break Some(outcome.context("a client thread ended early")?),
                () = signals.received() => { flow = Flow::Enough; break None }
            }
        };
        if flow == Flow::On {
            flow = session.drain().context("cannot write the output")?;
        }
        match outcome {
            Some(StepOutcome::Failed(why)) => say(format_args!("  the client failed: {why}")),
            Some(StepOutcome::Skipped(why)) => say(format_args!("  skipped: {why}")),
            Some(StepOutcome::Refused) => say(format_args!("  IMDS refused it: tokens are required")),
            Some(StepOutcome::Done) | None => {}
        }
    }

    if args.keep && flow == Flow::On {
        say(format_args!("\n{}", lab::keep_message(&lab)));
        while flow == Flow::On {
            tokio::select! {
                next = session.next() => flow = next.context("cannot write the output")?,
                () = signals.received() => break,
            }
        }
    }
    let finished = session.finish().context("cannot write the output")?;
    console::summarise(&finished, args.format, args.color);
    Ok(ExitCode::Ok)
}
