//! `rehearse`: refuses the v1 calls of chosen callers for a limited time, and says what broke.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use imds_analyzer_ebpf::abi::rehearsal::{self as abi, Passed};

use super::{
    lock::{Holder, Lock},
    signals::Signals,
};
use crate::{
    choice::{ColorChoice, Format, ObjectChoice, OwnerChoice},
    cli::RehearseArgs,
    console::{self, say},
    event::Process,
    exit_code::ExitCode,
    host::{
        clock::{self, nanoseconds},
        proc::Directory,
        syslog,
    },
    kernel::{budget::KernelBudget, plan::Wanted, selftest::Place},
    notice::{Notice, RehearsalOutcome},
    rehearse::{self, Rehearsal, Selectors, Watch},
    sanitize::escape,
    secrets::ArgsMode,
    session::{End, Options, Session, StartError, Tick as _},
    settings::{FailOn, Filter},
    sink::Sink,
};

/// Maximum time until a rehearsal begins, of which a slow host needs most to load the programs. Its own time is counted
/// from then on.
const START: Duration = Duration::from_secs(60);
/// Number of chosen processes that are listed.
const LISTED: usize = 20;

type Watching = Session<Watch<Box<dyn Sink>>>;

pub(super) fn run(args: RehearseArgs) -> anyhow::Result<ExitCode> {
    let selectors = Selectors {
        units: args.unit.clone(),
        containers: args.container.clone(),
        uids: args.uid.clone(),
        comms: args.comm.clone(),
        callers: args.caller.clone(),
        all: args.all,
        even: args.even.clone(),
    };
    if let Err(error) = selectors.check() {
        say(format_args!("error: {error}"));
        return Ok(ExitCode::Usage);
    }
    console::runtime()?.block_on(run_with(&args, selectors))
}

async fn run_with(args: &RehearseArgs, selectors: Selectors) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let latest = clock::since_boot().saturating_add(nanoseconds(args.duration.saturating_add(START)));
    let sink = console::stdout_sink(args.format, args.color, args.verbose);
    let kernel = rehearse::kernel_settings(latest, args.percent, args.all, args.dry_run);
    // First, because it says which rights are missing. It refuses nothing yet.
    let mut session = start(kernel, sink, selectors.clone())?;
    let _lock = Lock::take(&rehearse::lock_directory(), Holder::Rehearsal)?;
    let choices = session.take_choices().context("the programs choose nobody")?;
    let mut rehearsal = Rehearsal::new(choices, selectors.clone());
    // Held to the end: see `prove`.
    let _place = if args.dry_run {
        rehearsal.begin(&session)?;
        None
    } else {
        let (elapsed, place) = prove(&mut rehearsal, &mut session).await?;
        say(format_args!(
            "A call of this process's own was refused as a test: the answer took {:.1} ms.",
            elapsed.as_secs_f64() * 1e3
        ));
        Some(place)
    };
    let end = clock::since_boot().saturating_add(nanoseconds(args.duration));
    let chosen = rehearsal.choose(&mut session, end)?;
    announce(args, &selectors, &chosen);
    let log = Log::new(args, &selectors);
    log.write("begins");
    say(format_args!("ready: {}", session.describe()));

    let ended = rehearsal.ended();
    let stop = async {
        tokio::select! {
            () = until(end) => {}
            () = signals.received() => {}
            () = ended.notified() => {}
        }
    };
    let ran = session.run(stop, &mut rehearsal).await;
    // Whatever happened: nothing is refused from here on.
    let undone = rehearsal.end();
    session.sink().end(SystemTime::now());
    log.write(match rehearsal.ended_early() {
        Some(_) => "ended early",
        None => "ended",
    });
    ran.context("cannot write the output")?;
    undone?;
    aftermath(&mut session, &mut rehearsal, &mut signals, args.dry_run).await?;
    finish(session, &rehearsal, args)
}

/// Tries on this process alone whether this host can rehearse. Returns how long the answer took.
pub(super) fn try_here() -> anyhow::Result<Duration> {
    console::runtime()?.block_on(async {
        let end = clock::since_boot().saturating_add(nanoseconds(START));
        let sink = console::stdout_sink(Format::Text, ColorChoice::Never, false);
        let mut session = start(
            rehearse::kernel_settings(end, 100, false, false),
            sink,
            Selectors::default(),
        )?;
        let choices = session.take_choices().context("the programs choose nobody")?;
        let mut rehearsal = Rehearsal::new(choices, Selectors::default());
        let (elapsed, _place) = prove(&mut rehearsal, &mut session).await?;
        rehearsal.end()?;
        Ok(elapsed)
    })
}

async fn prove(rehearsal: &mut Rehearsal, session: &mut Watching) -> Result<(Duration, Place), StartError> {
    let proof = rehearsal.prove(session).await;
    proof.map_err(|error| StartError::Refused(error.context("this host cannot answer in place of IMDS")))
}

/// Loads the programs of a rehearsal. They refuse nothing until callers are chosen.
fn start(kernel: abi::Rehearsal, sink: Box<dyn Sink>, selectors: Selectors) -> Result<Watching, StartError> {
    let wanted = Wanted {
        rehearsal: Some(kernel),
        ..ObjectChoice::Modern.wanted(OwnerChoice::Auto, true, KernelBudget::of_rate(0))
    };
    Session::start(Options {
        wanted,
        args: ArgsMode::default(),
        name_service: false,
        remedies: console::remedies(),
        filter: Filter::default(),
        fail_on: FailOn::default(),
        count: None,
        quiet: false,
        sink: Watch::new(sink, selectors),
    })
}

/// Says who is chosen.
fn announce(args: &RehearseArgs, selectors: &Selectors, chosen: &[Arc<Process>]) {
    let duration = humantime::format_duration(args.duration);
    let verb = if args.dry_run { "Would refuse" } else { "REFUSING" };
    let part = if args.percent < 100 {
        format!("{} % of the", args.percent)
    } else {
        "the".to_owned()
    };
    say(format_args!(
        "{verb} {part} v1 calls of {} for {duration}. Spared: {}.",
        escape(&selectors.to_string()),
        selectors.spared()
    ));
    if selectors.all {
        return;
    }
    say(format_args!("Processes chosen now: {}", chosen.len()));
    for process in chosen.iter().take(LISTED) {
        say(format_args!("  {:>7}  {}", process.pid, escape(&process.caller)));
    }
    if chosen.len() > LISTED {
        say(format_args!("  and {} more", chosen.len() - LISTED));
    }
}

/// Waits a little for what refused processes do, while nothing is refused any more.
async fn aftermath(
    session: &mut Watching,
    rehearsal: &mut Rehearsal,
    signals: &mut Signals,
    dry_run: bool,
) -> anyhow::Result<()> {
    session.drain().context("cannot write the output")?;
    rehearsal.handled(session);
    let now = SystemTime::now();
    session.sink().look(now);
    let left = session.sink().follow.left(now);
    if dry_run || left.is_zero() {
        return Ok(());
    }
    say(format_args!(
        "Calls pass again. Watching the refused processes for {} s more; Ctrl-C ends it.",
        left.as_secs() + 1
    ));
    let deadline = SystemTime::now() + left;
    loop {
        let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
        let pause = left.min(Duration::from_millis(500));
        let stop = async {
            tokio::select! {
                () = tokio::time::sleep(pause) => false,
                () = signals.received() => true,
            }
        };
        let ran = session.run(stop, rehearsal).await.context("cannot write the output")?;
        let now = SystemTime::now();
        session.sink().look(now);
        let is_over = now >= deadline || session.sink().follow.left(now).is_zero();
        if is_over || !matches!(ran, End::Stopped(false)) {
            return Ok(());
        }
    }
}

/// Detaches the programs and says what broke.
fn finish(session: Watching, rehearsal: &Rehearsal, args: &RehearseArgs) -> anyhow::Result<ExitCode> {
    let mut finished = session.finish().context("cannot write the output")?;
    finished.sink.look(SystemTime::now());
    let callers = finished.sink.follow.callers();
    let mut let_through = rehearsal.let_through();
    if finished.sink.not_in_time() > 0 {
        let_through.insert(Passed::NotInTime.as_str().to_owned(), finished.sink.not_in_time());
    }
    let outcome = RehearsalOutcome {
        dry_run: args.dry_run,
        refused: callers.iter().map(|caller| caller.refused).sum(),
        unanswered: finished.sink.follow.unanswered(),
        let_through,
        callers,
        ended_early: rehearsal.ended_early().map(str::to_owned),
    };
    if args.format == Format::Text {
        say(format_args!("\n{}", rehearse::text(&outcome).trim_end()));
    }
    let written = finished
        .sink
        .notice(SystemTime::now(), &Notice::Rehearsal(&outcome))
        .and_then(|()| finished.sink.flush());
    written.context("cannot write the output")?;
    if !finished.loss.is_empty() {
        say(format_args!("{}", finished.loss));
    }
    Ok(if outcome.ended_early.is_some() {
        ExitCode::Failed
    } else {
        ExitCode::Ok
    })
}

async fn until(end: u64) {
    let left = end.saturating_sub(clock::since_boot());
    tokio::time::sleep(Duration::from_nanos(left)).await;
}

/// Tells the system log of the beginning and the end.
struct Log {
    kind: &'static str,
    what: String,
}

impl Log {
    fn new(args: &RehearseArgs, selectors: &Selectors) -> Self {
        let kind = if args.dry_run {
            "rehearsal (dry run)"
        } else {
            "rehearsal"
        };
        let reason = args.reason.as_deref().unwrap_or("none given");
        Self {
            kind,
            what: format!(
                "{} % of the IMDSv1 calls of {selectors} for {}; spared: {}; by {}; reason: {reason}",
                args.percent,
                humantime::format_duration(args.duration),
                selectors.spared(),
                user()
            ),
        }
    }

    fn write(&self, what: &str) {
        if let Err(error) = syslog::write(&format!("{} {what}: {}", self.kind, self.what)) {
            tracing::warn!("cannot write to the system log: {error}");
        }
    }
}

/// The user who runs this, and the one who logged in.
fn user() -> String {
    let uid = rustix::process::getuid().as_raw();
    match Directory::own().and_then(|own| own.login()) {
        Ok((login, _)) if login != u32::MAX => format!("uid {uid}, logged in as uid {login}"),
        _ => format!("uid {uid}"),
    }
}
