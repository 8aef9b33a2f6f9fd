//! What the kernel side could not say of a process, from /proc: there it waits for its send to end, or has just done so.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::MetadataExt as _,
};

use imds_analyzer_ebpf::abi::{COMM_LEN, Owner, Task};

/// Fills in start, name and program where the kernel side did not know where to find them.
pub(super) fn complete(task: &mut Task) {
    if task.start != 0 || task.tgid == 0 {
        return;
    }
    // A process that is gone stays as it is: its facts are fewer.
    let Ok(process) = procfs::process::Process::new(task.tgid as i32) else {
        return;
    };
    let Ok(stat) = process.stat() else { return };
    task.start = stat
        .starttime
        .saturating_mul(1_000_000_000 / procfs::ticks_per_second().max(1));
    if task.comm == [0; COMM_LEN] {
        for (to, from) in task.comm.iter_mut().take(COMM_LEN - 1).zip(stat.comm.as_bytes()) {
            *to = *from;
        }
    }
    if task.exec == 0 {
        task.exec = program(task.tgid);
    }
}

/// What changes when the process executes another program: its file and its arguments.
fn program(pid: u32) -> u64 {
    let file = fs::metadata(format!("/proc/{pid}/exe")).map_or(0, |file| file.ino());
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    (file, arguments).hash(&mut hasher);
    hasher.finish()
}

/// Whether this is a thread of the kernel's own. It is a child of kthreadd, as few programs are (coredump handlers among
/// them), and says so itself.
pub(super) fn is_kernel_thread(owner: &Owner) -> bool {
    /// Of kthreadd.
    const PARENT: u32 = 2;
    /// include/linux/sched.h.
    const PF_KTHREAD: u32 = 0x0020_0000;
    if owner.ancestors_len > 1 || owner.ancestors_len == 1 && owner.ancestors[0].tgid != PARENT {
        return false;
    }
    let process = procfs::process::Process::new(owner.task.tgid as i32);
    process
        .and_then(|process| process.stat())
        .is_ok_and(|stat| stat.flags & PF_KTHREAD != 0)
}

/// Fills in the users of ancestors.
pub(super) fn complete_users(owner: &mut Owner) {
    let len = owner.ancestors_len as usize;
    for ancestor in owner
        .ancestors
        .iter_mut()
        .take(len)
        .filter(|ancestor| ancestor.uid == u32::MAX)
    {
        if let Ok(directory) = fs::metadata(format!("/proc/{}", ancestor.tgid)) {
            ancestor.uid = directory.uid();
        }
    }
}
