//! Executes a [`Plan`]: loads an object into the kernel and attaches its programs to their hooks.

mod legacy;
mod modern;

use std::{
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use anyhow::anyhow;
use aya::{
    Ebpf,
    maps::{HashMap, MapData, PerCpuArray, ProgramArray},
    programs::Program,
};
use imds_analyzer_ebpf::abi::{Loss, OwnerHook};

pub use self::modern::is_sender;
use super::{
    cgroup,
    plan::{Object, Plan, TapPlan},
    stream::Buffers,
    tracefs::Tracefs,
};
use crate::{
    event::Tap,
    host::proc::{Directory, FILE_MAX},
    loss::{Kind, Ledger},
};

/// The programs in the kernel. They are detached when this is dropped, or when the process dies.
pub struct Loaded {
    _kprobes: Vec<legacy::Attached>,
    tracefs: Option<Tracefs>,
    /// Kprobe misses before the tap started.
    misses_before: u64,
    ebpf: Ebpf,
    /// Keeps the map open: the kernel empties its slots when its last holder closes it.
    _stages: Option<ProgramArray<MapData>>,
    loss: PerCpuArray<MapData, u64>,
    buffers: Option<Buffers>,
    pub object: Object,
    pub tap: Tap,
    /// True if a program is attached without a link: it stays unless it is detached, which needs CAP_NET_ADMIN.
    pub must_detach: bool,
    /// The errors of taps that were tried before and that failed.
    pub refused: Vec<String>,
    /// Messages about what loading found.
    pub findings: Vec<String>,
    /// True if records report forks and execs, because tasks cannot be read.
    pub follows_processes: bool,
    pub hooks: Vec<Hook>,
    /// The sender hook in use, `Connect` if there is none.
    pub owner: OwnerHook,
    /// True if answers are seen.
    pub answers: bool,
    /// In a rehearsal: the keys that choose callers, and their values.
    pub choice: Option<Choices>,
    _cgroup: Option<cgroup::Root>,
}

/// The map of a rehearsal: [`imds_analyzer_ebpf::abi::rehearsal::Choice`]s as words, and their values.
pub type Choices = HashMap<MapData, [u64; 3], u64>;

/// A program, and whether and how it was loaded.
#[derive(Clone, Debug)]
pub struct Hook {
    pub program: &'static str,
    /// Why the program is not in use.
    pub error: Option<String>,
    /// Instructions that the verifier processed, from 5.16 on.
    pub verified_instructions: Option<u32>,
    /// Time the load took.
    pub load: Duration,
}

impl Hook {
    fn new(program: &'static str) -> Self {
        Self {
            program,
            error: None,
            verified_instructions: None,
            load: Duration::ZERO,
        }
    }

    /// Records what the kernel reports about a loaded program.
    fn set_info(&mut self, program: &Program) {
        self.verified_instructions = program.info().ok().and_then(|info| info.verified_instruction_count());
    }
}

/// Loads and attaches the first tap of the plan that the kernel accepts. The tap must succeed; every other program is
/// optional.
pub fn load(plan: &Plan) -> anyhow::Result<Loaded> {
    let mut refused = Vec::new();
    for tap in &plan.taps {
        let loaded = match tap {
            TapPlan::Modern {
                offsets,
                budget,
                answers,
                owners,
                rehearsal,
            } => modern::load(offsets, budget, *answers, owners, rehearsal.as_ref()),
            TapPlan::Legacy {
                settings,
                packets,
                answers,
            } => legacy::load(settings.as_ref(), *packets, *answers),
        };
        match loaded {
            Ok(mut loaded) => {
                loaded.refused = refused;
                release_memory();
                return Ok(loaded);
            }
            Err(error) => refused.push(format!("{error:#}")),
        }
    }
    let not_wire = plan.not_wire.iter().map(ToString::to_string);
    Err(anyhow!("{}", not_wire.chain(refused).collect::<Vec<_>>().join("; ")))
}

/// An error with its causes, on one line. A verifier log, which only a developer can use, is cut to its first and last
/// line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    // aya writes this even if the verifier logged nothing.
    let text = text.replace(". Verifier output: ", ": ");
    let lines: Vec<_> = text
        .lines()
        .map(|line| line.trim().trim_end_matches(':'))
        .filter(|line| !line.is_empty())
        .collect();
    match lines.as_slice() {
        [first, .., last] => format!("{first} ... {last}"),
        [line] => (*line).to_owned(),
        [] => text,
    }
}

/// Returns the memory used for BTF to the system: glibc keeps freed memory.
fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

impl Loaded {
    /// The buffers that records come from.
    pub fn take_buffers(&mut self) -> anyhow::Result<Buffers> {
        self.buffers
            .take()
            .ok_or_else(|| anyhow!("the buffers are already in use"))
    }

    /// Losses of the kernel side, and of the kernel itself, since load.
    pub fn loss(&self) -> Ledger {
        let mut ledger: Ledger = Loss::ALL.into_iter().map(|kind| (kind, self.count(kind))).collect();
        ledger.add(Kind::RecursionMisses, self.recursion_misses());
        ledger.add(Kind::KprobeMisses, self.kprobe_misses());
        ledger
    }

    /// How much of one kind the kernel side lost.
    pub fn count(&self, kind: Loss) -> u64 {
        let values = self.loss.get(&(kind as u32), 0);
        values.map_or(0, |values| values.iter().sum())
    }

    /// True if [`Self::loss`] can read the counters: this process may no longer be allowed to call bpf(2).
    pub fn counters_readable(&self) -> bool {
        self.loss.get(&0, 0).is_ok()
    }

    /// Runs that the kernel skipped because the program was already running on that CPU (`recursion_misses`: 5.12,
    /// commit 9ed9e9ba2337); 0 on a kernel that does not count them.
    fn recursion_misses(&self) -> u64 {
        let Ok(own) = Directory::own() else { return 0 };
        self.ebpf
            .programs()
            .filter_map(|(_, program)| {
                let fd = program.fd().ok()?.as_fd().as_raw_fd();
                let info = own.text(&format!("fdinfo/{fd}"), FILE_MAX).ok()?;
                info.lines()
                    .find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse::<u64>().ok())
            })
            .sum()
    }

    /// Runs of the legacy object's kprobes that the kernel skipped. Return probes beyond the kernel's limit do not
    /// count here: they show as gaps. Kernels before about 5.14 also count reads of a page that was not present
    /// (`kprobe_fault_handler`).
    fn kprobe_misses(&self) -> u64 {
        let misses = self.tracefs.as_ref().map_or(Ok(0), Tracefs::misses);
        match misses {
            Ok(misses) => misses.saturating_sub(self.misses_before),
            Err(error) => {
                tracing::debug!("kprobe_profile: {error}");
                0
            }
        }
    }

    /// The object, for the reader of its log.
    pub(super) fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}
