//! The watched command: its start, its end, and the ends of its orphans.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal as Kill, WaitOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::settings;

/// Makes this process the parent of the command's orphans instead of pid 1, so that everything it starts stays below
/// us.
pub(super) fn adopt_orphans() -> anyhow::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("cannot become the subreaper of the command")
}

/// A running command. Dropping it kills the command.
pub(super) struct Traced {
    pid: Pid,
    running: bool,
    ends: Signal,
}

impl Traced {
    /// Sends the command's output to stderr: only records go to stdout.
    pub(super) fn start(command: &settings::Command) -> anyhow::Result<Self> {
        // Before the start, so that no end is missed.
        let ends = signal(SignalKind::child())?;
        let child = Command::new(&command.program)
            .args(&command.args)
            .stdout(Stdio::from(io::stderr()))
            .spawn()
            .with_context(|| format!("cannot start {}", command.program.display()))?;
        Ok(Self {
            pid: Pid::from_child(&child),
            running: true,
            ends,
        })
    }

    /// Waits for the command's end. Also reaps its orphans, which are our children and would stay zombies otherwise.
    /// Cancel safe.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            while let Some((pid, status)) = rustix::process::wait(WaitOptions::NOHANG)? {
                if pid == self.pid {
                    self.running = false;
                    return Ok(ExitStatus::from_raw(status.as_raw()));
                }
            }
            self.ends.recv().await;
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if self.running {
            // The command may have ended just now. Until it is reaped, no other process can get its pid.
            let _ = rustix::process::kill_process(self.pid, Kill::KILL);
        }
    }
}
