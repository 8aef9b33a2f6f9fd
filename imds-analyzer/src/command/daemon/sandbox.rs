//! What the daemon gives up once its programs are attached: every right it needs no more.
//!
//! Threads inherit all of this, so it is done before there are any: that is made sure of. Links need no right to be closed; a
//! program that is attached without one (the legacy object's, before 5.7) takes CAP_NET_ADMIN to be detached.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use rustix::{
    fs::{Access, AtFlags, CWD, Gid, accessat},
    process::{Resource, Rlimit, setrlimit},
    thread::{CapabilitySet, set_thread_groups},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::host::{
    capabilities,
    proc::{Directory, FILE_MAX},
};

mod syscalls;

/// Who reads logs on Debian and its kin.
const LOG_GROUP: &str = "adm";
const GROUP: &str = "/etc/group";

/// What reading others' `/proc/<pid>` takes.
const NEEDED: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);

/// A thread that has ended is listed for a moment.
const THREADS_END: Duration = Duration::from_secs(1);

/// What further rights are kept for.
pub(super) struct Needs<'a> {
    /// Directories or files to be written, which need not be there yet.
    pub(super) writes: &'a [PathBuf],
    /// Whether the kernel side's counters can be read.
    pub(super) counters_readable: &'a dyn Fn() -> bool,
    /// A program has to be detached at the end.
    pub(super) detaches: bool,
}

/// The group that may read the log. This process joins it, so that it can give files to it without any capability.
pub(super) fn join_log_group() -> Option<Gid> {
    let groups = fs::read_to_string(GROUP).ok()?;
    let gid: u32 = groups.lines().find_map(|line| {
        line.strip_prefix(LOG_GROUP)?
            .strip_prefix(':')?
            .split(':')
            .nth(1)?
            .parse()
            .ok()
    })?;
    let gid = Gid::from_raw(gid);
    // Of this thread alone, from which all others are going to inherit it.
    set_thread_groups(&[gid]).ok()?;
    Some(gid)
}

/// Drops capabilities and the ways to get them back, forbids core files, and filters system calls.
///
/// # Errors
///
/// When the kernel refuses any of it.
pub(super) fn enter(needs: &Needs<'_>) -> anyhow::Result<CapabilitySet> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).context("cannot set the core file limit")?;
    be_alone()?;
    let kept = drop_capabilities(needs)?;
    // Of all threads, and there is one.
    seccompiler::apply_filter_all_threads(&filter(needs.detaches)?).context("cannot install the seccomp filter")?;
    Ok(kept)
}

/// Capabilities are a thread's own: another one that was there before would keep them.
fn be_alone() -> anyhow::Result<()> {
    let own = Directory::own().context("/proc/self")?;
    let deadline = Instant::now() + THREADS_END;
    loop {
        let names: Vec<_> = own
            .numbers("task")
            .context("/proc/self/task")?
            .filter_map(|thread| own.text(&format!("task/{}/comm", thread.ok()?), FILE_MAX).ok())
            .map(|name| name.trim_end().to_owned())
            .collect();
        if names.len() <= 1 {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(anyhow!("other threads are already running: {}", names.join(", ")));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// What is needed is tried: each right beyond [`NEEDED`] is kept only where something fails without it.
fn drop_capabilities(needs: &Needs<'_>) -> anyhow::Result<CapabilitySet> {
    let had = capabilities::permitted().context("capget")?;
    let mut kept = NEEDED & had;
    if needs.detaches {
        kept |= CapabilitySet::NET_ADMIN & had;
    }
    capabilities::set(kept, had).context("capset")?;
    if !needs.writes.iter().all(|path| is_writable(path)) {
        kept |= CapabilitySet::DAC_OVERRIDE & had;
        capabilities::set(kept, had).context("capset")?;
    }
    // Before 5.19 (commit c8644cd0efe7) bpf(2) may be forbidden even to those who hold a map open.
    for capability in [CapabilitySet::BPF, CapabilitySet::SYS_ADMIN] {
        if (needs.counters_readable)() {
            break;
        }
        kept |= capability & had;
        capabilities::set(kept, had).context("capset")?;
    }
    capabilities::keep_only(kept).context("giving up capabilities")?;
    Ok(kept)
}

/// Whether files can be made where `path` is to be, with the rights of now.
fn is_writable(path: &Path) -> bool {
    let Some(there) = path.ancestors().find(|path| path.exists()) else {
        return false;
    };
    let Ok(there) = CString::new(there.as_os_str().as_encoded_bytes()) else {
        return false;
    };
    accessat(CWD, there.as_c_str(), Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// What is not allowed does not exist: a C library that tries a newer call first falls back to an older one.
fn filter(detaches: bool) -> anyhow::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = syscalls::ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let equals = |value: u32| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into())
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    let commands = syscalls::BPF_COMMANDS
        .into_iter()
        .chain(detaches.then_some(syscalls::BPF_PROG_DETACH))
        .map(equals)
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_bpf, commands);
    let thread = libc::CLONE_THREAD as u64;
    let threads = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(thread), thread)
        .and_then(|condition| SeccompRule::new(vec![condition]))?;
    rules.insert(libc::SYS_clone, vec![threads]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::ENOSYS as u32),
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}
