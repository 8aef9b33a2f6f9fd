//! Settings of `watch`: the typed and checked form of its command line.

use std::{ffi::OsString, num::NonZeroU64, time::Duration};

use imds_analyzer_ebpf::{
    abi::COMM_LEN,
    classify::{Verdict, Version},
};

use crate::{
    choice::{ColorChoice, FailCondition, Format},
    cli::{FilterArgs, TapArgs, WatchArgs},
    event::{Answer, Attempt, Event, Process},
    kernel::{budget::KernelBudget, plan::Wanted},
    secrets::ArgsMode,
};

/// Settings of `watch`.
#[derive(Clone, Debug)]
pub struct WatchSettings {
    pub format: Format,
    pub color: ColorChoice,
    pub verbose: bool,
    /// Write only the summary.
    pub quiet: bool,
    pub filter: Filter,
    pub duration: Option<Duration>,
    /// Stop after this many requests that pass the filter.
    pub count: Option<NonZeroU64>,
    pub fail_on: FailOn,
    pub wanted: Wanted,
    pub args: ArgsMode,
    pub name_service: bool,
    pub command: Option<Command>,
}

/// A program to run and watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub program: OsString,
    pub args: Vec<OsString>,
}

/// Flags that contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("--fail-on {0} never matches with --v1, which filters such calls out: remove --v1 or {0}")]
    NeverFails(FailCondition),
}

impl TryFrom<WatchArgs> for WatchSettings {
    type Error = SettingsError;

    fn try_from(args: WatchArgs) -> Result<Self, SettingsError> {
        if args.filter.v1 && args.fail_on.contains(&FailCondition::Unknown) {
            return Err(SettingsError::NeverFails(FailCondition::Unknown));
        }
        let mut command = args.command.into_iter();
        Ok(Self {
            format: args.format,
            color: args.color,
            verbose: args.verbose,
            quiet: args.quiet,
            filter: args.filter.into(),
            duration: args.duration,
            count: args.count,
            fail_on: FailOn(args.fail_on),
            wanted: args.tap.wanted(),
            args: args.tap.args,
            name_service: args.tap.name_service,
            command: command.next().map(|program| Command {
                program,
                args: command.collect(),
            }),
        })
    }
}

/// Conditions on requests. A request must match one value of every kind of condition given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    only_v1: bool,
    pids: Vec<u32>,
    comms: Vec<String>,
    uids: Vec<u32>,
    paths: Vec<String>,
    root: Option<u32>,
}

impl From<FilterArgs> for Filter {
    fn from(args: FilterArgs) -> Self {
        Self {
            only_v1: args.v1,
            pids: args.pid,
            comms: args.comm,
            uids: args.uid,
            paths: args.path,
            root: None,
        }
    }
}

impl TapArgs {
    /// What a plan is to be made for.
    pub fn wanted(&self) -> Wanted {
        let budget = KernelBudget::of_rate(self.kernel_rate);
        self.object.wanted(self.owner, !self.no_answers, budget)
    }
}

impl Filter {
    /// Restricts the filter to requests by process `pid` and its descendants.
    pub fn below(self, pid: u32) -> Self {
        Self {
            root: Some(pid),
            ..self
        }
    }

    pub fn matches(&self, event: &Event) -> bool {
        (!self.only_v1 || event.verdict.version() == Version::V1)
            && self.matches_path(event)
            && self.matches_process(event.process.as_deref())
    }

    /// As [`Self::matches`]: an attempt has no version and no path.
    pub fn matches_attempt(&self, attempt: &Attempt) -> bool {
        !self.only_v1 && self.paths.is_empty() && self.matches_process(attempt.process.as_deref())
    }

    fn matches_path(&self, event: &Event) -> bool {
        let path = event.http.path.as_deref().unwrap_or_default();
        self.paths.is_empty() || self.paths.iter().any(|part| path.contains(part))
    }

    /// A request by an unknown process matches no condition on processes.
    fn matches_process(&self, process: Option<&Process>) -> bool {
        let any = self.pids.is_empty() && self.comms.is_empty() && self.uids.is_empty() && self.root.is_none();
        any || process.is_some_and(|process| {
            (self.pids.is_empty() || self.pids.contains(&process.pid))
                && (self.comms.is_empty() || self.comms.iter().any(|comm| is_comm(comm, &process.name)))
                && (self.uids.is_empty() || process.user.id.is_some_and(|uid| self.uids.contains(&uid)))
                && self.root.is_none_or(|root| is_below(process, root))
        })
    }
}

/// Compares `typed` with the kernel's `name` of a process, which holds only the first 15 bytes.
fn is_comm(typed: &str, name: &str) -> bool {
    let kept = typed.as_bytes().get(..COMM_LEN - 1).unwrap_or(typed.as_bytes());
    name == typed || name.as_bytes() == kept
}

fn is_below(process: &Process, root: u32) -> bool {
    process.pid == root || process.ancestors.iter().any(|ancestor| ancestor.pid == root)
}

/// `--fail-on`: requests that make the exit code [`crate::exit_code::ExitCode::FailOn`].
#[derive(Clone, Debug, Default)]
pub struct FailOn(Vec<FailCondition>);

impl FailOn {
    /// True if v1 calls match, but local ones do not.
    pub fn leaves_local_v1_out(&self) -> bool {
        self.0.contains(&FailCondition::V1) && !self.0.contains(&FailCondition::V1Local)
    }

    /// True if v1 calls match, local or not.
    pub fn has_v1(&self) -> bool {
        let v1 = [FailCondition::V1, FailCondition::V1Local];
        self.0.iter().any(|condition| v1.contains(condition))
    }

    pub fn matches(&self, event: &Event) -> bool {
        !event.relay
            && self.0.iter().any(|condition| match condition {
                FailCondition::V1 => event.verdict == Verdict::V1 && !event.local,
                FailCondition::V1Local => event.verdict == Verdict::V1 && event.local,
                FailCondition::Rejected => event.answer.status() == Some(401) && !event.local,
                FailCondition::Unanswered => event.answer == Answer::None && !event.local,
                FailCondition::Unknown => event.verdict == Verdict::Unknown && !event.local,
            })
    }
}

#[cfg(test)]
mod tests;
