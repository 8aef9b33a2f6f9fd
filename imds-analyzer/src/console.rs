//! What people see of a command: its lines on stderr, and its records on stdout.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IsTerminal, Write},
};

use anyhow::Context;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    choice::{ColorChoice, Format},
    identity::{Facts, Identity},
    judge::Remedies,
    session::Finished,
    sink::{
        Output, Sink, Style,
        json::JsonSink,
        layout::{columns, width_of, wrap_lines},
        text::{TextSink, table},
    },
};

/// Sentences on stderr, wrapped on a terminal. If nobody reads them there is nobody to tell.
pub fn say(text: fmt::Arguments<'_>) {
    match width_of(io::stderr()) {
        Some(width) => show(&wrap_lines(&text.to_string(), width)),
        None => show(&text.to_string()),
    }
}

/// Lines on stderr that fit already.
pub fn show(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Diagnostics go to stderr, never between the records: warnings, and with `--verbose` what this program and its kernel
/// side have to say, but not what their libraries have.
pub fn diagnostics(verbose: bool) {
    let mut levels = Targets::new().with_default(LevelFilter::WARN);
    if verbose {
        levels = levels
            .with_target("imds_analyzer", LevelFilter::DEBUG)
            .with_target("modern", LevelFilter::DEBUG);
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time();
    // A second subscriber is refused, which is as good.
    let _ = tracing_subscriber::registry().with(levels).with(lines).try_init();
}

/// Text on stdout, wrapped on a terminal.
///
/// # Errors
///
/// If stdout cannot be written.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match width_of(&out) {
        Some(width) => out.write_all(wrap_lines(text, width).as_bytes()),
        None => out.write_all(text.as_bytes()),
    }
}

/// Says on a terminal what this program is doing, until it is dropped. Holds the columns that this takes.
pub struct Doing(usize);

/// For what may take longer than a second. `is_wanted`: false with `--quiet`.
pub fn doing(what: &str, is_wanted: bool) -> Doing {
    let is_said = is_wanted && io::stderr().is_terminal();
    if !is_said {
        return Doing(0);
    }
    let text = format!("{what} ...");
    // What is said next begins in the first column. If nobody reads it there is nobody to tell.
    let _ = write!(io::stderr(), "{text}\r");
    Doing(columns(&text))
}

impl Drop for Doing {
    fn drop(&mut self) {
        if self.0 > 0 {
            let _ = write!(io::stderr(), "{:1$}\r", "", self.0);
        }
    }
}

/// Before the programs are attached.
pub const ATTACHING: &str = "attaching to the kernel";

/// One thread is enough: the work is a few microseconds a request.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the event loop")
}

/// Where records go: stdout, in the format asked for.
pub fn stdout_sink(format: Format, color: ColorChoice, verbose: bool) -> Box<dyn Sink> {
    let output = Output::stdout();
    match format {
        Format::Text => {
            let style = Style::of(io::stdout(), color, verbose);
            Box::new(TextSink::new(output, move || style.resized(io::stdout())))
        }
        Format::Json => Box::new(JsonSink::new(output, this_host())),
    }
}

/// What to tell callers to change. A wrong file of this host's is no reason not to watch.
pub fn remedies() -> Remedies {
    Remedies::of_this_host().unwrap_or_else(|error| {
        tracing::warn!("{error}; using the built-in remedies alone");
        Remedies::built_in()
    })
}

/// This host, as its files name it.
pub fn this_host() -> Identity {
    Identity::of_this_host(Facts::default(), BTreeMap::new())
}

/// What the user is told at the end, on stderr; JSON has it among its records.
pub fn summarise<S>(finished: &Finished<S>, format: Format, color: ColorChoice) {
    let style = Style::of(io::stderr(), color, false);
    match format {
        Format::Text => {
            let table = table::render(&finished.summary, style.columns(), style.color, &finished.loss);
            show(&format!("\n{}", table.trim_end()));
        }
        Format::Json if !finished.loss.is_empty() => say(format_args!("{}", finished.loss)),
        Format::Json => {}
    }
}
