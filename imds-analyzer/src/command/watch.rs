//! `watch`: the calls as they are made, and a summary at the end.

use std::{io, mem, process::Stdio};

use anyhow::Context;
use imds_analyzer_ebpf::abi::Loss;
use tokio::{
    process::Child,
    signal::unix::{SignalKind, signal},
};

use super::signals::Signals;
use crate::{
    cli::WatchArgs,
    console::{self, say},
    exit_code::ExitCode,
    kernel::plan::Wanted,
    session::{Flow, Options, Session},
    settings::{self, WatchSettings},
};

pub(super) fn run(args: WatchArgs) -> anyhow::Result<ExitCode> {
    let settings = match WatchSettings::try_from(args) {
        Ok(settings) => settings,
        Err(error) => {
            say(format_args!("error: {error}"));
            return Ok(ExitCode::Usage);
        }
    };
    console::runtime()?.block_on(watch_session(settings))
}

async fn watch_session(settings: WatchSettings) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut filter = settings.filter;
    if settings.command.is_some() {
        // Orphans of the command become our children instead of pid 1's, so that all it starts stays below us.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("cannot become the subreaper of the command")?;
        filter = filter.below(std::process::id());
    }
    let mut session = Session::start(Options {
        wanted: Wanted {
            object: settings.object.into(),
            owner: settings.owner.into(),
        },
        args: settings.args,
        name_service: settings.name_service,
        filter,
        fail_on: settings.fail_on.clone(),
        count: settings.count,
        quiet: settings.quiet,
        budget: settings.budget,
        sink: console::stdout_sink(settings.format, settings.color, settings.verbose),
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
            flow = session.next() => match flow.context("cannot write the output")? {
                Flow::On => {}
                Flow::Enough => break,
                Flow::Closed => { open = false; break }
            },
            status = ended(&mut child) => {
                let status = status.context("cannot wait for the command")?;
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
        session.drain().context("cannot write the output")?;
    }
    let finished = session.finish().context("cannot write the output")?;
    console::summarise(&finished, settings.format, settings.color);
    let uncounted = finished.summary.total(true).v1;
    if !finished.failed && uncounted > 0 && settings.fail_on.leaves_local_v1_out() {
        say(format_args!(
            "--fail-on v1 did not match: the {uncounted} v1 calls went to an address of this host; v1-local matches those."
        ));
    }
    let over_budget = finished.loss.of(Loss::BudgetV1);
    if !finished.failed && over_budget > 0 && settings.fail_on.has_v1() {
        say(format_args!(
            "--fail-on did not match, but {over_budget} v1 calls over the budget were only counted: run again with --kernel-rate 0."
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
        .with_context(|| format!("cannot start {}", command.program.display()))
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
