//! `lab`: the analyzer against its own IMDS. The clients run in the lab's namespace; the hooks are the real ones, at
//! the root cgroup. At the end, the records of the clients' calls are read again, as `report` reads a log.

use std::{io, sync::Arc, time::SystemTime};

use anyhow::Context;

use super::signals::Signals;
use crate::{
    choice::{ColorChoice, Format, ReportFormat},
    cli::LabArgs,
    console::{self, say},
    event::Event,
    exit_code::ExitCode,
    identity::Identity,
    kernel::plan::Wanted,
    lab::{self, Lab, Server, StepOutcome, Tour},
    loss::Ledger,
    notice::Notice,
    record::Record,
    report::{
        build::{Question, build},
        cloudwatch::Metrics,
        input, render,
    },
    secrets::ArgsMode,
    session::{End, Flow, Options, Session, StartError},
    settings::{FailOn, Filter},
    sink::{Sink, Style, json},
};

pub(super) fn run(args: &LabArgs) -> anyhow::Result<ExitCode> {
    console::runtime()?.block_on(tour(args))
}

/// Builds the lab and runs the tour. With `--keep`, leaves the lab to the user until interrupted.
async fn tour(args: &LabArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let attaching = console::doing(console::ATTACHING, true);
    let lab = Arc::new(lab(args.local)?);
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
        sink: Recorder {
            sink: console::stdout_sink(args.format, args.color, args.verbose),
            host: console::this_host(),
            lines: Vec::new(),
        },
    })?;
    drop(attaching);
    say(format_args!("ready: {}", session.describe()));
    say(format_args!("{}", place(&lab)));

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
    if args.format == Format::Text {
        say(format_args!("\nWhat `imds-analyzer report` says of these records:\n"));
        console::show(verdict(&finished.sink.lines, args.color).trim_end());
    }
    Ok(ExitCode::Ok)
}

/// The namespaces: IMDS beyond a link, as on EC2, unless the kernel cannot do that or `local` is wanted.
fn lab(local: bool) -> Result<Lab, StartError> {
    if !local {
        match Lab::routed() {
            Ok(lab) => return Ok(lab),
            Err(error) => say(format_args!("The lab has no link to its IMDS: {error:#}")),
        }
    }
    Lab::local().map_err(StartError::Refused)
}

fn place(lab: &Lab) -> &'static str {
    if lab.is_local() {
        "The lab's IMDS has an address of the clients' own host, so every call is marked `local`: like one to a proxy or a mock."
    } else {
        "The lab's IMDS is in a private network namespace, beyond a link, as it is on EC2."
    }
}

/// The report on `lines`.
fn verdict(lines: &[u8], color: ColorChoice) -> String {
    let (fold, input) = input::of_lines(lines);
    let report = build(fold, input, &Metrics::default(), &Question::default());
    let style = Style::of(io::stderr(), color, false);
    let mut text = Vec::new();
    // Writing to memory does not fail.
    let _ = render::write(&report, ReportFormat::Text, style, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// Keeps each record as the line that a log would have.
struct Recorder<S> {
    sink: S,
    host: Identity,
    lines: Vec<u8>,
}

impl<S: Sink> Sink for Recorder<S> {
    fn write(&mut self, event: &Event) -> io::Result<()> {
        self.lines.extend(json::line(&Record::of_request(event, &self.host))?);
        self.sink.write(event)
    }

    fn notice(&mut self, time: SystemTime, notice: &Notice<'_>) -> io::Result<()> {
        self.lines
            .extend(json::line(&Record::of_notice(time, notice, &self.host))?);
        self.sink.notice(time, notice)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }

    fn loss(&self) -> Ledger {
        self.sink.loss()
    }
}
