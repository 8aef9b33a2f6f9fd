//! What people see of a command: its lines on stderr, and its records on stdout.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, IsTerminal, Write},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
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
    loss::Ledger,
    session::Finished,
    sink::{
        Output, Sink, Style,
        json::JsonSink,
        layout::{width_of, wrap_lines},
        text::{TextSink, table},
    },
    summary::Summary,
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

/// Diagnostics that wait until the terminal is free again; `None` while it is. Bounded: the first are kept.
static HELD: Mutex<Option<Vec<String>>> = Mutex::new(None);
const HELD_MAX: usize = 100;

/// From now on, diagnostics wait: they would spoil what is drawn on the terminal.
pub fn hold() {
    held().get_or_insert_default();
}

/// The last diagnostic that waits.
pub fn last_held() -> Option<String> {
    held().as_ref()?.last().cloned()
}

/// Writes the diagnostics that waited, and from now on all others at once.
pub fn release() {
    for line in held().take().into_iter().flatten() {
        say(format_args!("{line}"));
    }
}

fn held() -> MutexGuard<'static, Option<Vec<String>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stderr, unless diagnostics have to wait.
struct Diagnostics;

impl Write for Diagnostics {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *held() {
            Some(lines) if lines.len() < HELD_MAX => {
                lines.push(String::from_utf8_lossy(line).trim_end().to_owned());
                Ok(line.len())
            }
            Some(_) => Ok(line.len()),
            None => io::stderr().write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Diagnostics go to stderr, never between the records: warnings, and with `--verbose` what this program and its kernel
/// side have to say, but not what their libraries have. `color`: may have colour.
pub fn diagnostics(verbose: bool, color: bool) {
    let mut levels = Targets::new().with_default(LevelFilter::WARN);
    if verbose {
        levels = levels
            .with_target("imds_analyzer", LevelFilter::DEBUG)
            .with_target("modern", LevelFilter::DEBUG);
    }
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(|| Diagnostics)
        .with_ansi(color && io::stderr().is_terminal())
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

/// Until it is dropped, this program does something that may take a while.
pub struct Doing(Option<(Sender<()>, JoinHandle<()>)>);

/// Says on a terminal what this program is doing, if it takes longer than a second. `is_wanted`: false with `--quiet`.
pub fn doing(what: &'static str, is_wanted: bool) -> Doing {
    const PATIENCE: Duration = Duration::from_secs(1);
    if !is_wanted || !io::stderr().is_terminal() {
        return Doing(None);
    }
    let (done, until_done) = mpsc::channel::<()>();
    let thread = thread::Builder::new().name("patience".to_owned()).spawn(move || {
        if until_done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            say(format_args!("{what} ..."));
        }
    });
    // Without the thread nothing is said, which is as good.
    Doing(thread.ok().map(|thread| (done, thread)))
}

/// Ends the thread: some of what follows must be without others.
impl Drop for Doing {
    fn drop(&mut self) {
        if let Some((done, thread)) = self.0.take() {
            drop(done);
            let _ = thread.join();
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

/// A summary and the losses for people, on stderr.
pub fn say_summary(summary: &Summary, loss: &Ledger, color: ColorChoice) {
    let style = Style::of(io::stderr(), color, false);
    let table = table::render(summary, style.columns(), style.color, loss);
    show(table.trim_end());
}

/// What the user is told at the end, on stderr; JSON has it among its records.
pub fn summarise<S>(finished: &Finished<S>, format: Format, color: ColorChoice) {
    match format {
        Format::Text => {
            show("");
            say_summary(&finished.summary, &finished.loss, color);
        }
        Format::Json if !finished.loss.is_empty() => say(format_args!("{}", finished.loss)),
        Format::Json => {}
    }
}
