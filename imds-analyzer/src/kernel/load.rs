//! Executes a [`Plan`]: the object into the kernel, its programs onto their hooks.

use std::{
    fmt, fs,
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{MapData, PerCpuArray, RingBuf},
    programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError},
};
use imds_analyzer_ebpf::abi::{Loss, OwnerHook, map, program};
use zerocopy::IntoBytes;

use super::{cgroup, plan::Plan};

/// Aligned as an ELF file wants to be read.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("IMDS_MODERN_OBJECT"));

/// Programs in the kernel; they are detached when this is dropped, or when the process dies.
pub struct Loaded {
    ebpf: Ebpf,
    loss: PerCpuArray<MapData, u64>,
    pub hooks: Vec<Hook>,
    /// The sender hook in use, `Connect` if there is none.
    pub owner: OwnerHook,
    _cgroup: cgroup::Root,
}

/// A program and what became of it.
#[derive(Clone, Debug)]
pub struct Hook {
    pub program: &'static str,
    /// Why it is not in use.
    pub error: Option<String>,
    /// Instructions the verifier went through, from 5.16 on.
    pub verified_instructions: Option<u32>,
    /// Time the load took.
    pub load: Duration,
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            None => write!(f, "{}: attached", self.program)?,
            Some(error) => write!(f, "{}: not in use ({error})", self.program)?,
        }
        if let Some(count) = self.verified_instructions {
            write!(
                f,
                ", {count} instructions verified in {:.1} ms",
                self.load.as_secs_f64() * 1e3
            )?;
        }
        Ok(())
    }
}

/// Loads and attaches. The wire tap must succeed, everything else is used as far as it does.
pub fn load(plan: &Plan) -> anyhow::Result<Loaded> {
    let cgroup = cgroup::Root::open().context("cgroup2 cannot be opened")?;
    let mut ebpf = EbpfLoader::new()
        // The object has no CO-RE relocations: the kernel's BTF is not needed to load it.
        .btf(None)
        .override_global(map::SETTINGS, plan.offsets.as_bytes(), true)
        .load(OBJECT)
        .map_err(|error| anyhow!("the kernel refused the eBPF object: {}", chain(&error)))?;
    let mut hooks = Vec::new();
    let mut owner = OwnerHook::Connect;
    // Owners first, so that nobody is seen sending whose connecting could have been seen.
    for name in [program::CONNECT4, program::CONNECT6, program::RELEASE] {
        hooks.push(attach(&mut ebpf, name, &cgroup));
    }
    for hook in &plan.owners {
        if *hook == OwnerHook::TpBtf {
            let attached = attach(&mut ebpf, program::TP_BTF, &cgroup);
            let works = attached.error.is_none();
            hooks.push(attached);
            if works {
                owner = OwnerHook::TpBtf;
                break;
            }
        }
    }
    let tap = attach(&mut ebpf, program::EGRESS, &cgroup);
    if let Some(error) = &tap.error {
        return Err(anyhow!("the wire tap cannot be attached: {error}"));
    }
    hooks.push(tap);
    if !plan.owners.contains(&owner) {
        let why = hooks.iter().find_map(|hook| hook.error.as_deref()).unwrap_or("unknown");
        return Err(anyhow!("the owner hook that was asked for cannot be had: {why}"));
    }
    let loss = PerCpuArray::try_from(ebpf.take_map(map::LOSS).context("the object has no loss counters")?)?;
    release_memory();
    Ok(Loaded {
        ebpf,
        loss,
        hooks,
        owner,
        _cgroup: cgroup,
    })
}

fn attach(ebpf: &mut Ebpf, name: &'static str, cgroup: &cgroup::Root) -> Hook {
    let started = Instant::now();
    let mut hook = Hook {
        program: name,
        error: None,
        verified_instructions: None,
        load: Duration::ZERO,
    };
    let Some(program) = ebpf.program_mut(name) else {
        hook.error = Some("the object has no such program".to_owned());
        return hook;
    };
    let loaded = load_program(program);
    hook.load = started.elapsed();
    hook.verified_instructions = program.info().ok().and_then(|info| info.verified_instruction_count());
    if let Err(error) = loaded.and_then(|()| attach_program(program, cgroup)) {
        hook.error = Some(chain(&error));
    }
    hook
}

fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        // 15 ms and 20 MB while it lives, and needed for the id of the tracepoint alone.
        Program::BtfTracePoint(program) => program.load("tcp_sendmsg_locked", &Btf::from_sys_fs()?),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn attach_program(program: &mut Program, cgroup: &cgroup::Root) -> Result<(), ProgramError> {
    // A link (5.7) stands beside other programs in any mode; `AllowMultiple` is refused for links.
    let mode = CgroupAttachMode::Single;
    match program {
        Program::CgroupSkb(program) => program.attach(cgroup, CgroupSkbAttachType::Egress, mode).map(drop),
        Program::CgroupSockAddr(program) => program.attach(cgroup, mode).map(drop),
        Program::CgroupSock(program) => program.attach(cgroup, mode).map(drop),
        Program::BtfTracePoint(program) => program.attach().map(drop),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// An error with its causes, on one line. A verifier's log is for a developer: its last lines.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [first, .., last] => format!("{first} ... {last}"),
        _ => text,
    }
}

/// Gives what the BTF took back to the system: glibc keeps freed memory.
fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

impl Loaded {
    /// The ring buffer that records come from; there is one.
    pub fn take_records(&mut self) -> anyhow::Result<RingBuf<MapData>> {
        Ok(RingBuf::try_from(
            self.ebpf.take_map(map::RECORDS).context("the ring buffer is taken")?,
        )?)
    }

    /// What the kernel side lost since load, by kind.
    pub fn loss(&self) -> Vec<(Loss, u64)> {
        Loss::ALL
            .into_iter()
            .map(|kind| {
                let values = self.loss.get(&(kind as u32), 0);
                (kind, values.map_or(0, |values| values.iter().sum()))
            })
            .collect()
    }

    /// Runs the kernel left out because the program was running on that CPU already (`recursion_misses`: 5.12, commit
    /// 9ed9e9ba2337); a kernel that does not count them has none to report.
    pub fn recursion_misses(&self) -> u64 {
        self.ebpf
            .programs()
            .filter_map(|(_, program)| {
                let fd = program.fd().ok()?.as_fd().as_raw_fd();
                let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
                info.lines()
                    .find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse::<u64>().ok())
            })
            .sum()
    }

    /// The object, for what reads its logs.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}
