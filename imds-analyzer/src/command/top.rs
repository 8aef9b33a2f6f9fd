//! `top`: a live table of callers, of the calls as they are made or of a log.

use std::{
    env,
    io::{self, IsTerminal as _},
    rc::Rc,
};

use tokio::sync::Notify;

use self::{
    live::Live,
    log::{Following, Replay},
    screen::Screen,
};
use super::signals::Signals;
use crate::{
    cli::TopArgs,
    console::{self, say},
    exit_code::ExitCode,
    report::verdict::plural,
    session::{self, Options, Session, Turns},
    settings::FailOn,
    sink::Style,
    top::State,
};

mod live;
mod log;
mod screen;

/// Where records come from: the kernel, or a log.
trait Source: Turns {
    /// The current state.
    fn state(&mut self) -> &mut State;
}

pub(super) fn run(args: TopArgs) -> anyhow::Result<ExitCode> {
    if let Some(problem) = no_screen() {
        say(format_args!(
            "error: top needs a terminal: {problem}\n\
             For other programs, use `imds-analyzer watch --format json`, or `imds-analyzer report` for logs."
        ));
        return Ok(ExitCode::Usage);
    }
    console::runtime()?.block_on(top(args))
}

/// Why nothing can be drawn here, if so.
fn no_screen() -> Option<&'static str> {
    if !io::stdin().is_terminal() {
        Some("standard input is not one")
    } else if !io::stdout().is_terminal() {
        Some("standard output is not one")
    } else if env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb") {
        Some("TERM does not name one that can be drawn on")
    } else {
        None
    }
}

async fn top(args: TopArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let color = Style::of(io::stdout(), args.color, false).color;
    if let Some(path) = &args.follow {
        let mut source = Following::open(path, color)?;
        show(&mut source, &mut signals).await?;
        end(source.state(), &args);
    } else if let Some(path) = &args.replay {
        let mut source = Replay::open(path, args.speed, color)?;
        show(&mut source, &mut signals).await?;
        end(source.state(), &args);
    } else {
        let attaching = console::doing(console::ATTACHING, true);
        let mut session = Session::start(Options {
            wanted: args.tap.wanted(),
            args: args.tap.args,
            name_service: args.tap.name_service,
            remedies: console::remedies(),
            filter: args.filter.clone().into(),
            fail_on: FailOn::default(),
            count: None,
            quiet: false,
            sink: Live::new(color),
        })?;
        drop(attaching);
        session.sink().state.source = session.describe();
        show(&mut session, &mut signals).await?;
        let finished = session.finish()?;
        console::say_summary(&finished.summary, &finished.loss, args.color);
    }
    Ok(ExitCode::Ok)
}

/// Draws what `source` has until the user leaves or a signal ends it.
async fn show<S: Source>(source: &mut S, signals: &mut Signals) -> anyhow::Result<()> {
    let leave = Rc::new(Notify::new());
    let mut screen = Screen::open(Rc::clone(&leave))?;
    screen.draw(source)?;
    let stop = async {
        tokio::select! {
            () = signals.received() => {}
            () = leave.notified() => {}
        }
    };
    session::run(source, stop, &mut screen).await?;
    Ok(())
}

fn end(state: &State, args: &TopArgs) {
    let seen = state.all();
    console::say_summary(&seen.summary, &seen.loss(), args.color);
    if seen.unreadable > 0 {
        let lines = plural(seen.unreadable, "line", "lines");
        say(format_args!("{lines} could not be read, so calls may be missing here."));
    }
}
