//! Facts about a process that the kernel side could not read, from /proc. The process still exists: it is in a send, or
//! has just returned from one.

use std::hash::{DefaultHasher, Hash, Hasher};

use imds_analyzer_ebpf::abi::{COMM_LEN, Owner, Task};

use crate::host::{
    clock,
    proc::{Directory, Proc},
};

/// Fills in start, name and program if the kernel side did not know their offsets.
pub(super) fn complete(task: &mut Task) {
    if task.start != 0 || task.tgid == 0 {
        return;
    }
    // A process that has exited keeps the few facts it has.
    let Ok(process) = Proc::open(task.tgid) else {
        return;
    };
    task.start = clock::from_ticks(process.stat.start);
    if task.comm == [0; COMM_LEN] {
        task.comm = process.stat.comm;
    }
    if task.exec == 0 {
        task.exec = program(process.directory());
    }
}

/// A hash of executable and arguments, which changes when the process executes another program.
fn program(process: &Directory) -> u64 {
    let file = process.metadata("exe").map_or(0, |file| file.stx_ino);
    let arguments = process.cmdline().unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    (file, arguments).hash(&mut hasher);
    hasher.finish()
}

/// True for a kernel thread. Cheap check first: a kernel thread is a child of kthreadd, like few programs (coredump
/// handlers among them). Its flags decide.
pub(super) fn is_kernel_thread(owner: &Owner) -> bool {
    /// Pid of kthreadd.
    const PARENT: u32 = 2;
    /// include/linux/sched.h.
    const PF_KTHREAD: u32 = 0x0020_0000;
    if owner.ancestors_len > 1 || owner.ancestors_len == 1 && owner.ancestors[0].tgid != PARENT {
        return false;
    }
    Proc::open(owner.task.tgid).is_ok_and(|process| process.stat.flags & PF_KTHREAD != 0)
}

/// Fills in the missing users of ancestors.
pub(super) fn complete_users(owner: &mut Owner) {
    let len = owner.ancestors_len as usize;
    for ancestor in owner
        .ancestors
        .iter_mut()
        .take(len)
        .filter(|ancestor| ancestor.uid == u32::MAX)
    {
        if let Ok(user) = Directory::open(ancestor.tgid).and_then(|process| process.owner()) {
            ancestor.uid = user;
        }
    }
}
