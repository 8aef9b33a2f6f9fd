//! The command that is watched: its start, its end, and the ends of its orphans.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal as Kill, WaitOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::settings;

/// Makes orphans of the command our children instead of pid 1's, so that all it starts stays below us.
pub(super) fn adopt_orphans() -> anyhow::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("cannot become the subreaper of the command")
}

/// A command that runs; it is killed when this is dropped.
pub(super) struct Traced {
    pid: Pid,
    running: bool,
    ends: Signal,
}

impl Traced {
    /// What the command prints goes to stderr, records alone go to stdout.
    pub(super) fn start(command: &settings::Command) -> anyhow::Result<Self> {
        // First, so that no end is missed.
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

    /// Waits for the command's end. Its orphans are our children, and would stay as zombies if nobody took note of their
    /// ends. Cancel safe.
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
            // It may have ended just now: until somebody takes note of that, the pid is no other process's.
            let _ = rustix::process::kill_process(self.pid, Kill::KILL);
        }
    }
}
