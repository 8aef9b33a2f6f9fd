//! The modern object, which contains the wire tap.

use std::{thread, time::Instant};

use anyhow::{Context, anyhow};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{HashMap, PerCpuArray, RingBuf},
    programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError},
};
use imds_analyzer_ebpf::abi::{Budget, Offsets, OwnerHook, constant, map, program, rehearsal::Rehearsal};
use zerocopy::IntoBytes;

use super::{
    super::{
        cgroup,
        plan::{self, Object},
        selftest::{Failure, Place},
        stream::Buffers,
    },
    Hook, Loaded, chain,
};
use crate::event::Tap;

/// Aligned the way an ELF parser needs it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("IMDS_MODERN_OBJECT"));

/// The programs whose names differ in a rehearsal.
struct Names {
    egress: &'static str,
    ingress: &'static str,
    release: &'static str,
}

const WATCH: Names = Names {
    egress: program::EGRESS,
    ingress: program::INGRESS,
    release: program::RELEASE,
};
const REHEARSE: Names = Names {
    egress: program::REHEARSE_EGRESS,
    ingress: program::REHEARSE_INGRESS,
    release: program::REHEARSE_RELEASE,
};

/// Loads and attaches the programs. The tap must succeed; every other program is optional, except in a rehearsal.
pub(super) fn load(
    offsets: &Offsets,
    budget: &Budget,
    answers: bool,
    owners: &[OwnerHook],
    rehearsal: Option<&Rehearsal>,
) -> anyhow::Result<Loaded> {
    let names = if rehearsal.is_some() { REHEARSE } else { WATCH };
    let digest_key = digest_key()?;
    let cgroup = cgroup::Root::open().context("cannot open cgroup2")?;
    let mut loader = EbpfLoader::new();
    if rehearsal.is_none() {
        // Nothing is chosen, so the map needs no room.
        loader.map_max_entries(map::CHOICE, 1);
    }
    let mut ebpf = loader
        // The object has no CO-RE relocations: the kernel's BTF is not needed to load it.
        .btf(None)
        .override_global(constant::OFFSETS, offsets.as_bytes(), true)
        .override_global(constant::BUDGET, budget.as_bytes(), true)
        .override_global(constant::ANSWERS, &u32::from(answers), true)
        .override_global(constant::DIGEST_KEY, &digest_key, true)
        .override_global(constant::REHEARSAL, rehearsal.copied().unwrap_or_default().as_bytes(), true)
        .load(OBJECT)
        .map_err(|error| anyhow!("the kernel rejected the eBPF object: {}", chain(&error)))?;
    let mut loader = Loader {
        ebpf: &mut ebpf,
        cgroup: &cgroup,
        btf: None,
    };
    // Prepare the self-test in parallel: both spend most of their time waiting for the kernel.
    let (hooks, place) = thread::scope(|scope| {
        let place = thread::Builder::new()
            .name("selftest".to_owned())
            .spawn_scoped(scope, Place::new);
        // Owner hooks attach before the tap, so that the tap sees no sender whose connect was missed. The ingress
        // program attaches before the owner hooks, so that no connection is followed whose answers are invisible.
        let mut owners = owners.iter().copied();
        let ingress = answers.then_some(names.ingress);
        let mut hooks: Vec<_> = ingress
            .into_iter()
            .chain([program::CONNECT4, program::CONNECT6, names.release])
            .map(|name| loader.attach(name))
            .collect();
        let owner = loader.attach_owner(&mut owners, &mut hooks);
        let tap = loader.attach(names.egress);
        let place = place.map(|place| place.join());
        ((hooks, owner, owners, tap), place)
    });
    let (mut hooks, mut owner, mut owners, tap) = hooks;
    if let Some(error) = &tap.error {
        return Err(anyhow!("cannot attach the wire tap: {error}"));
    }
    hooks.push(tap);
    let place = place
        .context("cannot start the self-test")?
        .map_err(|_panicked| anyhow!("the self-test ended early"))?
        .context("cannot use the wire tap")?;
    let mut records = RingBuf::try_from(
        loader
            .ebpf
            .take_map(map::RECORDS)
            .context("the object has no ring buffer")?,
    )?;
    let mut early = Vec::new();
    let (owner, elapsed) = loop {
        let Some(tried) = owner else {
            let why = hooks
                .iter()
                .rev()
                .find_map(|hook| hook.error.as_deref())
                .unwrap_or("unknown");
            return Err(anyhow!("the requested owner hook is not available: {why}"));
        };
        match place.prove(&mut records, tried, has_answers(&hooks, &names), &mut early) {
            Ok(elapsed) => break (tried, elapsed),
            Err(error @ Failure::Answers(_)) => loader.give_up(names.ingress, &mut hooks, &error),
            Err(error @ Failure::Owner(_)) => {
                loader.give_up(sender_program(tried).unwrap_or(program::CONNECT4), &mut hooks, &error);
                owner = loader.attach_owner(&mut owners, &mut hooks);
            }
            Err(error) => return Err(anyhow!(error).context("cannot use the wire tap")),
        }
    };
    drop(loader);
    let mut findings = vec![format!(
        "self-test passed in {:.1} ms: the wire tap saw its own v1 and v2 requests, their sender{}",
        elapsed.as_secs_f64() * 1e3,
        if has_answers(&hooks, &names) {
            " and their answers"
        } else {
            "; answers are not seen"
        }
    )];
    if cgroup.is_of_namespace() {
        let partial = "running in a cgroup namespace: calls from cgroups outside it are not seen";
        tracing::warn!("{partial}; run on the host, or in the host's cgroup namespace");
        findings.push(partial.to_owned());
    }
    let choice = match rehearsal {
        Some(_) => {
            // Without answers, nobody knows where an answer of ours would belong in the stream.
            if let Some(hook) = hooks
                .iter()
                .find(|hook| !is_sender(hook.program) && hook.error.is_some())
            {
                let error = hook.error.as_deref().unwrap_or_default();
                return Err(anyhow!("cannot rehearse without {}: {error}", hook.program));
            }
            let map = ebpf.take_map(map::CHOICE).context("the object has no map of choices")?;
            Some(HashMap::try_from(map)?)
        }
        None => None,
    };
    let loss = PerCpuArray::try_from(ebpf.take_map(map::LOSS).context("the object has no loss counters")?)?;
    Ok(Loaded {
        _kprobes: Vec::new(),
        tracefs: None,
        misses_before: 0,
        ebpf,
        _stages: None,
        loss,
        buffers: Some(Buffers::Ring(records, early)),
        object: Object::Modern,
        tap: Tap::Wire,
        must_detach: false,
        refused: Vec::new(),
        findings,
        follows_processes: false,
        answers: has_answers(&hooks, &names),
        choice,
        hooks,
        owner,
        _cgroup: Some(cgroup),
    })
}

/// True if the program that sees answers is attached.
fn has_answers(hooks: &[Hook], names: &Names) -> bool {
    hooks
        .iter()
        .any(|hook| hook.program == names.ingress && hook.error.is_none())
}

/// The point at which digests of payload are evaluated. Random, because no sender may know it.
fn digest_key() -> anyhow::Result<u32> {
    const PRIME: u32 = (1 << 31) - 1;
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("cannot read random numbers")?;
    // Neither 0 nor 1, because at these points all digests are similar.
    Ok(u32::from_ne_bytes(bytes) % (PRIME - 2) + 2)
}

/// The program of a sender hook; `None` for hooks without a program of their own. `Connect` uses the connect programs,
/// which are attached anyway.
fn sender_program(hook: OwnerHook) -> Option<&'static str> {
    match hook {
        OwnerHook::Fentry => Some(program::FENTRY),
        OwnerHook::TpBtf => Some(program::TP_BTF),
        OwnerHook::Kprobe => Some(program::KPROBE),
        OwnerHook::Connect | OwnerHook::SockDiag | OwnerHook::Egress => None,
    }
}

/// True if a program is one of the sender hooks, of which one is enough.
pub fn is_sender(name: &str) -> bool {
    plan::SENDERS
        .iter()
        .any(|(hook, _)| sender_program(*hook) == Some(name))
}

struct Loader<'a> {
    ebpf: &'a mut Ebpf,
    cgroup: &'a cgroup::Root,
    /// Takes 15 ms to read and 20 MB of memory, and only gives the id of a function or tracepoint: read on first use.
    btf: Option<Btf>,
}

impl Loader<'_> {
    /// Attaches the next of `owners` that the kernel accepts.
    fn attach_owner(
        &mut self,
        owners: &mut impl Iterator<Item = OwnerHook>,
        hooks: &mut Vec<Hook>,
    ) -> Option<OwnerHook> {
        for hook in owners {
            let Some(name) = sender_program(hook) else {
                return Some(hook);
            };
            let attached = self.attach(name);
            let works = attached.error.is_none();
            hooks.push(attached);
            if works {
                return Some(hook);
            }
        }
        None
    }

    /// Detaches a program that failed the self-test.
    fn give_up(&mut self, name: &'static str, hooks: &mut [Hook], why: &Failure) {
        let unloaded = match self.ebpf.program_mut(name) {
            Some(Program::BtfTracePoint(program)) => program.unload(),
            Some(Program::FEntry(program)) => program.unload(),
            Some(Program::KProbe(program)) => program.unload(),
            Some(Program::CgroupSkb(program)) => program.unload(),
            _ => Ok(()),
        };
        if let Err(error) = unloaded {
            tracing::debug!("{name}: {error}");
        }
        for hook in hooks.iter_mut().filter(|hook| hook.program == name) {
            hook.error = Some(why.to_string());
        }
    }

    fn attach(&mut self, name: &'static str) -> Hook {
        let mut hook = Hook::new(name);
        let Some(program) = self.ebpf.program_mut(name) else {
            hook.error = Some("the object has no such program".to_owned());
            return hook;
        };
        let started = Instant::now();
        let loaded = load_program(program, &mut self.btf);
        hook.load = started.elapsed();
        hook.set_info(program);
        hook.error = match loaded.map(|()| attach_program(name, program, self.cgroup)) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(refused_at_hook(program, chain(&error))),
            Err(error) => Some(chain(&error)),
        };
        hook
    }
}

fn load_program(program: &mut Program, btf: &mut Option<Btf>) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::BtfTracePoint(program) => program.load(program::SENDER, kernel_btf(btf)?),
        Program::FEntry(program) => program.load(program::SENDER, kernel_btf(btf)?),
        Program::KProbe(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn kernel_btf(btf: &mut Option<Btf>) -> Result<&Btf, ProgramError> {
    Ok(match btf {
        Some(btf) => btf,
        None => btf.insert(Btf::from_sys_fs()?),
    })
}

fn attach_program(name: &str, program: &mut Program, cgroup: &cgroup::Root) -> Result<(), ProgramError> {
    // A link (5.7) works beside other programs in any mode; the kernel rejects `AllowMultiple` for links.
    let mode = CgroupAttachMode::Single;
    match program {
        Program::CgroupSkb(program) => {
            let direction = match name {
                program::INGRESS | program::REHEARSE_INGRESS => CgroupSkbAttachType::Ingress,
                _ => CgroupSkbAttachType::Egress,
            };
            program.attach(cgroup, direction, mode).map(drop)
        }
        Program::CgroupSockAddr(program) => program.attach(cgroup, mode).map(drop),
        Program::CgroupSock(program) => program.attach(cgroup, mode).map(drop),
        Program::BtfTracePoint(program) => program.attach().map(drop),
        Program::FEntry(program) => program.attach().map(drop),
        Program::KProbe(program) => program.attach(program::SENDER, 0).map(drop),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Explains why a loaded program could not be attached. Only at a cgroup can other programs prevent it.
fn refused_at_hook(program: &Program, error: String) -> String {
    let at_cgroup = matches!(
        program,
        Program::CgroupSkb(_) | Program::CgroupSockAddr(_) | Program::CgroupSock(_)
    );
    // __cgroup_bpf_attach, kernel/bpf/cgroup.c: EPERM if a program was attached without BPF_F_ALLOW_MULTI.
    if at_cgroup && error.contains("os error 1)") {
        format!("{error}: a program attached there does not allow others; `bpftool cgroup tree` shows it")
    } else {
        error
    }
}
