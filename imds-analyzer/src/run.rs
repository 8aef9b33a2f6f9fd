//! The commands, and how they end.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    mem,
    process::Stdio,
};

use anyhow::Context;
use imds_analyzer_ebpf::abi::{Loss, OwnerHook};
use tokio::{
    process::Child,
    signal::unix::{Signal, SignalKind, signal},
};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    check,
    cli::{self, Cli, Command, ConfigCommand, ExitCode, LabArgs, WatchArgs},
    config::{self, Config},
    daemon,
    kernel::plan::{Object, Wanted},
    lab_command,
    place::Trust,
    session::{Finished, Flow, Options, Session, StartError},
    settings::{self, ColorChoice, Format, ObjectChoice, OwnerChoice, WatchSettings},
    sink::{self, Output, Sink, Style, json::JsonSink, loss, text::TextSink},
};

/// Runs what was typed.
pub fn run(cli: Cli) -> ExitCode {
    let verbose = match &cli.command {
        Command::Watch(args) => args.verbose,
        Command::Daemon(args) => args.verbose,
        Command::Lab(args) => args.verbose,
        _ => false,
    };
    diagnostics(verbose);
    let result = match cli.command {
        Command::Watch(args) => watch(args),
        Command::Lab(args) => lab(&args),
        Command::Daemon(args) => daemon::run(&args),
        Command::Config(command) => config_command(command),
        Command::Check(args) => check::run(args.format, wanted(args.object, args.owner)),
        Command::Schema => sink::schema::write(&mut io::stdout())
            .map(|()| ExitCode::Ok)
            .map_err(Into::into),
        Command::Completions(args) => cli::completions(args.shell, &mut io::stdout())
            .map(|()| ExitCode::Ok)
            .map_err(Into::into),
        Command::Man(args) => cli::man(args.dir.as_deref(), &mut io::stdout())
            .map(|()| ExitCode::Ok)
            .map_err(Into::into),
    };
    result.unwrap_or_else(|error: anyhow::Error| {
        let closed = error.downcast_ref::<io::Error>().is_some_and(sink::is_closed)
            || matches!(error.downcast_ref(), Some(StartError::Output(error)) if sink::is_closed(error));
        if closed {
            return ExitCode::Ok;
        }
        say(format_args!("imds-analyzer: {error:#}"));
        match error.downcast_ref::<StartError>() {
            Some(StartError::Impossible(_) | StartError::Refused(_)) => {
                say(format_args!(
                    "`imds-analyzer check` says what this host has and what is missing."
                ));
                ExitCode::CannotRun
            }
            _ => ExitCode::Failed,
        }
    })
}

/// One line on stderr. If nobody reads it there is nobody to tell.
pub fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Diagnostics go to stderr, never between the records: warnings, and with `--verbose` what this program and its kernel
/// side have to say, but not what their libraries have.
fn diagnostics(verbose: bool) {
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

/// One thread is enough: the work is a few microseconds a request.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no event loop")
}

/// Where records go: stdout, in the format asked for.
pub fn stdout_sink(format: Format, color: ColorChoice, verbose: bool) -> Box<dyn Sink> {
    let output = Output::stdout();
    match format {
        Format::Text => Box::new(TextSink::new(output, Style::of(io::stdout(), color, verbose))),
        Format::Json => Box::new(JsonSink::new(output, host_name())),
    }
}

pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn wanted(object: ObjectChoice, owner: OwnerChoice) -> Wanted {
    Wanted {
        object: match object {
            ObjectChoice::Auto => None,
            ObjectChoice::Modern => Some(Object::Modern),
            ObjectChoice::Legacy => Some(Object::Legacy),
            ObjectChoice::LegacyWire => Some(Object::LegacyWire),
        },
        owner: owner.into(),
    }
}

impl From<OwnerChoice> for Option<OwnerHook> {
    fn from(choice: OwnerChoice) -> Self {
        match choice {
            OwnerChoice::Auto => None,
            OwnerChoice::Connect => Some(OwnerHook::Connect),
            OwnerChoice::Fentry => Some(OwnerHook::Fentry),
            OwnerChoice::TpBtf => Some(OwnerHook::TpBtf),
            OwnerChoice::Kprobe => Some(OwnerHook::Kprobe),
        }
    }
}

/// What ends a session from outside.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for any of them.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// What the user is told at the end, on stderr; JSON has it among its records.
pub fn summarise<S>(finished: &Finished<S>, format: Format, color: ColorChoice) {
    let style = Style::of(io::stderr(), color, false);
    match format {
        Format::Text => say(format_args!(
            "\n{}",
            finished
                .summary
                .render(style.columns(), style.color, &finished.loss)
                .trim_end()
        )),
        Format::Json if !finished.loss.is_empty() => say(format_args!("{}", loss::describe(&finished.loss))),
        Format::Json => {}
    }
}

fn watch(args: WatchArgs) -> anyhow::Result<ExitCode> {
    let settings = match WatchSettings::try_from(args) {
        Ok(settings) => settings,
        Err(error) => {
            say(format_args!("error: {error}"));
            return Ok(ExitCode::Usage);
        }
    };
    runtime()?.block_on(watch_session(settings))
}

async fn watch_session(settings: WatchSettings) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut filter = settings.filter;
    if settings.command.is_some() {
        // Orphans of the command become our children instead of pid 1's, so that all it starts stays below us.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("child subreaper")?;
        filter = filter.below(std::process::id());
    }
    let mut session = Session::start(Options {
        wanted: wanted(settings.object, settings.owner),
        args: settings.args,
        name_service: settings.name_service,
        filter,
        fail_on: settings.fail_on.clone(),
        count: settings.count,
        quiet: settings.quiet,
        budget: settings.budget,
        sink: stdout_sink(settings.format, settings.color, settings.verbose),
    })?;
    say(format_args!("ready: {}", session.describe()));

    let mut ends = signal(SignalKind::child())?;
    let mut child = settings.command.map(|command| spawn(&command)).transpose()?;
    let command_pid = child.as_ref().and_then(Child::id);
    let duration = async {
        match settings.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(duration);
    let mut command_failed = false;
    let mut open = true;
    loop {
        tokio::select! {
            flow = session.next() => match flow.context("the output cannot be written")? {
                Flow::On => {}
                Flow::Enough => break,
                Flow::Closed => { open = false; break }
            },
            status = ended(&mut child) => {
                let status = status.context("the command's end was not seen")?;
                if !status.success() {
                    command_failed = true;
                    say(format_args!("the command failed: {status}"));
                }
                break;
            }
            _ = ends.recv() => reap_orphans(command_pid),
            () = &mut duration => break,
            () = signals.received() => break,
        }
    }
    if open {
        session.drain().context("the output cannot be written")?;
    }
    let finished = session.finish().context("the output cannot be written")?;
    summarise(&finished, settings.format, settings.color);
    let uncounted = finished.summary.total(true).v1;
    if !finished.failed && uncounted > 0 && settings.fail_on.leaves_local_v1_out() {
        say(format_args!(
            "--fail-on v1 did not match: {uncounted} v1 calls went to an address of this host itself (v1-local matches those)."
        ));
    }
    let over_budget = finished.loss_of(Loss::BudgetV1.as_str());
    if !finished.failed && over_budget > 0 && settings.fail_on.has_v1() {
        say(format_args!(
            "--fail-on did not match, but {over_budget} v1 calls were counted only: run it again with --kernel-rate 0."
        ));
    }
    Ok(if finished.failed {
        ExitCode::FailOn
    } else if command_failed {
        ExitCode::Failed
    } else {
        ExitCode::Ok
    })
}

/// Starts the command to be watched; what it prints goes to stderr, records alone go to stdout.
fn spawn(command: &settings::Command) -> anyhow::Result<Child> {
    tokio::process::Command::new(&command.program)
        .args(&command.args)
        .stdout(Stdio::from(io::stderr()))
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{} cannot be started", command.program.display()))
}

/// Takes note of the ends of the command's orphans, which are our children now and would stay as zombies. The command's
/// own end is left to whoever waits for it.
fn reap_orphans(command: Option<u32>) {
    const ANY: libc::id_t = 0;
    let flags = libc::WEXITED | libc::WNOHANG;
    loop {
        // SAFETY: all zeroes is a siginfo_t.
        let mut ended: libc::siginfo_t = unsafe { mem::zeroed() };
        // SAFETY: writes to `ended` only.
        let found = unsafe { libc::waitid(libc::P_ALL, ANY, &raw mut ended, flags | libc::WNOWAIT) };
        // SAFETY: waitid filled it in, or left it zeroed where nobody has ended.
        let pid = unsafe { ended.si_pid() }.unsigned_abs();
        if found != 0 || pid == 0 || Some(pid) == command {
            return;
        }
        // SAFETY: as above.
        unsafe { libc::waitid(libc::P_PID, pid, &raw mut ended, flags) };
    }
}

async fn ended(child: &mut Option<Child>) -> io::Result<std::process::ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

fn config_command(command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Print => io::stdout().write_all(config::DEFAULT.as_bytes())?,
        ConfigCommand::Check { file } => {
            let checked = Config::read(&file)
                .map_err(|error| error.to_string())
                .and_then(|config| {
                    // The service is root, whoever asks.
                    let result = config.check_places(Trust::of_service());
                    result
                        .map(|()| config)
                        .map_err(|error| format!("{}: {error}", file.display()))
                });
            let config = match checked {
                Ok(config) => config,
                Err(error) => {
                    say(format_args!("{error}"));
                    return Ok(ExitCode::Failed);
                }
            };
            for warning in config.warnings() {
                say(format_args!("warning: {warning}"));
            }
            say(format_args!("{}: fine", file.display()));
        }
    }
    Ok(ExitCode::Ok)
}

fn lab(args: &LabArgs) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(lab_command::run(args))
}
