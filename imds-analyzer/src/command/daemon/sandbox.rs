//! Drops every right that the daemon does not need once its programs are attached.
//!
//! Threads inherit all of this, so `enter` runs before the first thread starts, and checks that no other thread exists.
//! Closing a link needs no right. Detaching a program that has no link (the legacy object's, before 5.7) needs
//! CAP_NET_ADMIN.

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

/// The group that reads logs on Debian and its derivatives.
const LOG_GROUP: &str = "adm";
const GROUP: &str = "/etc/group";

/// The capabilities needed to read other users' `/proc/<pid>`.
const NEEDED: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);

/// The kernel lists a thread for a moment after its end.
const THREADS_END: Duration = Duration::from_secs(1);

/// Reasons to keep more rights than [`NEEDED`].
pub(super) struct Needs<'a> {
    /// Directories or files that the daemon writes. They need not exist yet.
    pub(super) writes: &'a [PathBuf],
    /// True if the kernel side's counters can be read.
    pub(super) counters_readable: &'a dyn Fn() -> bool,
    /// True if a program has to be detached at the end.
    pub(super) detaches: bool,
}

/// The group that may read the log. This process joins it, so that it needs no capability to give files to the group.
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
    // Sets the groups of this thread only. Threads started later inherit them.
    set_thread_groups(&[gid]).ok()?;
    Some(gid)
}

/// Drops capabilities and the ways to get them back, forbids core files, and filters system calls.
///
/// # Errors
///
/// If the kernel rejects any of these steps.
pub(super) fn enter(needs: &Needs<'_>) -> anyhow::Result<CapabilitySet> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).context("cannot set the core file limit")?;
    be_alone()?;
    let kept = drop_capabilities(needs)?;
    // Applies to all threads; there is only one.
    seccompiler::apply_filter_all_threads(&filter(needs.detaches)?).context("cannot install the seccomp filter")?;
    Ok(kept)
}

/// Waits until this is the only thread. Each thread has its own capabilities: a thread started earlier would keep its
/// own.
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

/// Keeps each right beyond [`NEEDED`] only if something fails without it, which this function tries.
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
    // Before 5.19 (commit c8644cd0efe7) the kernel can forbid bpf(2) even to a process that already holds a map open.
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

/// True if files can be created at `path` with the current rights.
fn is_writable(path: &Path) -> bool {
    let Some(there) = path.ancestors().find(|path| path.exists()) else {
        return false;
    };
    let Ok(there) = CString::new(there.as_os_str().as_encoded_bytes()) else {
        return false;
    };
    accessat(CWD, there.as_c_str(), Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

/// A system call that is not allowed fails with ENOSYS: a C library that tries a newer call first falls back to an
/// older one.
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
