//! Who is running: facts of the current task, its ancestors and its argv, read while it is there.

use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_task, bpf_ktime_get_boot_ns};
use imds_analyzer_ebpf::abi::{
    ANCESTORS_MAX, ARGV_MAX, ARGV_SHORT, Ancestor, Executable, Header, Loss, OwnerHook, OwnerRecord, PATHS_MAX,
    RecordKind, Task,
};

use super::{counters, paths, read, settings_global::setting, transport_ring};

/// What tells one run of one program from another.
#[derive(Clone, Copy)]
pub(super) struct Identity {
    pub(super) tgid: u32,
    pub(super) tid: u32,
    pub(super) start: u64,
    /// How often the process executed a program, `self_exec_id`: it never comes back, as the address of a memory map does.
    pub(super) exec: u64,
    /// Address of its memory map, 0 for a kernel thread.
    pub(super) mm: u64,
}

impl Identity {
    /// True if `task` is a thread of the same program in the same process.
    #[inline(always)]
    pub(super) fn is_of(&self, task: &Task) -> bool {
        task.tgid == self.tgid && task.start == self.start && task.exec == self.exec
    }
}

/// ns since boot, the clock of process start times (`bpf_ktime_get_boot_ns`: 5.8, commit 71d19214776e).
#[inline(always)]
pub(super) fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

#[inline(always)]
fn current_task() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_task() }
}

/// Whether the current task is the kernel's own, which sends for somebody else: io_uring's workers were such until 5.12
/// (commit 3bfe6106693b).
#[inline(always)]
pub(super) fn is_kernel_thread() -> bool {
    /// include/linux/sched.h
    const PF_KTHREAD: u32 = 0x0020_0000;
    field::<u32>(current_task() + setting!(task_flags)).is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// A field of a struct at `address`; a failure is counted.
#[inline(always)]
fn field<T: read::Plain>(address: u64) -> Option<T> {
    let value = read::kernel(address);
    if value.is_none() {
        counters::add(Loss::TaskRead, 1);
    }
    value
}

/// Id of the current task's cgroup. `cgroup_skb` has no such helper on older kernels.
#[inline(always)]
pub(super) fn current_cgroup() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The identity of the current task, and its group leader's address. Read and not asked for: `cgroup_skb` has neither
/// `bpf_get_current_pid_tgid` (6.10) nor `bpf_get_current_uid_gid` on older kernels.
#[inline(always)]
pub(super) fn identity() -> (Identity, u64) {
    let task = current_task();
    let leader = field(task + setting!(task_group_leader)).unwrap_or(task);
    let mm = field(task + setting!(task_mm)).unwrap_or(0);
    let identity = Identity {
        tgid: field(task + setting!(task_tgid)).unwrap_or(0),
        tid: field(task + setting!(task_pid)).unwrap_or(0),
        start: field(leader + setting!(task_start_boottime)).unwrap_or(0),
        exec: if setting!(task_self_exec_id) == 0 {
            mm
        } else {
            // 64 bits since 5.7 (commit d1e7fd6462ca), of which the low half is enough.
            field::<u32>(task + setting!(task_self_exec_id)).unwrap_or(0) as u64
        },
        mm,
    };
    (identity, leader)
}

/// Writes the facts of the current task where they are kept: they are too large to pass around on the stack.
#[inline(always)]
pub(super) fn facts_into(to: &mut Task, identity: &Identity, leader: u64, cgroup: u64, hook: OwnerHook) {
    let task = current_task();
    let cred: u64 = field(task + setting!(task_cred)).unwrap_or(0);
    to.start = identity.start;
    to.exec = identity.exec;
    to.cgroup = cgroup;
    to.tgid = identity.tgid;
    to.tid = identity.tid;
    to.uid = field(cred + setting!(cred_uid)).unwrap_or(u32::MAX);
    to.gid = field(cred + setting!(cred_gid)).unwrap_or(u32::MAX);
    to.pid_ns = pid_namespace(task).unwrap_or(0);
    to.hook = hook as u8;
    read::kernel_into(&mut to.comm, leader + setting!(task_comm));
    read::kernel_into(&mut to.thread_comm, task + setting!(task_comm));
}

/// Inode number of the pid namespace the task lives in: the innermost of its numbers.
#[inline(always)]
fn pid_namespace(task: u64) -> Option<u32> {
    let pid: u64 = field(task + setting!(task_thread_pid))?;
    let level: u32 = field(pid + setting!(pid_level))?;
    let number = pid + setting!(pid_numbers) + level as u64 * setting!(upid_size);
    let namespace: u64 = field(number + setting!(upid_ns))?;
    field(namespace + setting!(pid_namespace_inum))
}

/// True if the socket at `sock` is a path of an MPTCP connection and the current process is at work on it: it holds the
/// socket's lock, and then nobody else sends. Timers and softirqs find the lock taken, and leave the work to its holder
/// (`tcp_write_timer`, `tcp_tsq_handler`, net/ipv4).
#[inline(always)]
pub(super) fn is_mptcp_sender(sock: u64) -> bool {
    read::kernel::<[u8; 1]>(sock + setting!(tcp_sock_is_mptcp)).is_some_and(|[is]| is != 0)
        && field::<u32>(sock + setting!(sock_lock_owned)).is_some_and(|owned| owned != 0)
}

/// Inode number of the network namespace of the socket at `sock`.
#[inline(always)]
pub(super) fn net_namespace(sock: u64) -> u32 {
    match field::<u64>(sock + setting!(sock_net)) {
        Some(net) => field(net + setting!(net_inum)).unwrap_or(0),
        None => 0,
    }
}

/// Announces the current task, which is `who`, as it stands; with its paths or without. Those are many
/// instructions for the verifier, which on some kernels (6.1) follows them again for each way that leads here.
#[inline(always)]
pub(super) fn announce<const PATHS: bool>(
    who: &Identity,
    leader: u64,
    cgroup: u64,
    hook: OwnerHook,
    sock: u64,
    cookie: u64,
) {
    let mm = who.mm;
    let start: u64 = field(mm + setting!(mm_arg_start)).unwrap_or(0);
    let end: u64 = field(mm + setting!(mm_arg_end)).unwrap_or(0);
    let argv = Argv {
        address: start,
        len: end.saturating_sub(start),
    };
    if argv.len <= ARGV_SHORT as u64 {
        fill::<PATHS, ARGV_SHORT>(who, leader, cgroup, hook, sock, cookie, argv);
    } else {
        fill::<PATHS, ARGV_MAX>(who, leader, cgroup, hook, sock, cookie, argv);
    }
}

/// Where a process keeps its arguments.
struct Argv {
    address: u64,
    len: u64,
}

#[inline(always)]
fn fill<const PATHS: bool, const N: usize>(
    who: &Identity,
    leader: u64,
    cgroup: u64,
    hook: OwnerHook,
    sock: u64,
    cookie: u64,
    argv: Argv,
) {
    let mm = who.mm;
    let Some(mut entry) = transport_ring::reserve::<OwnerRecord<N>>() else {
        counters::add(Loss::OwnerRing, 1);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: reserved memory of this type; the fields that matter are all written before it is submitted.
    let record = unsafe { &mut *record };
    let wanted = if argv.len > N as u64 { N as u32 } else { argv.len as u32 };
    let mut data_len = wanted;
    if wanted > 0 && !read::user_into(&mut record.argv, argv.address, wanted) {
        counters::add(Loss::ArgvRead, 1);
        data_len = 0;
    }
    record.owner.header = Header {
        time: now(),
        kind: RecordKind::Owner as u16,
        data_len: data_len as u16,
        reserved: 0,
    };
    record.owner.sock = sock;
    record.owner.cookie = cookie;
    record.owner.task.reserved = [0; 3];
    facts_into(&mut record.owner.task, who, leader, cgroup, hook);
    record.owner.net_ns = net_namespace(sock);
    record.owner.argv_len = if argv.len > u32::MAX as u64 {
        u32::MAX
    } else {
        argv.len as u32
    };
    record.owner.login_uid = login(leader, setting!(task_loginuid));
    record.owner.login_session = login(leader, setting!(task_sessionid));
    record.owner.paths_room = PATHS_MAX as u32;
    executable_into(&mut record.owner.executable, current_task(), mm);
    if PATHS {
        paths::read_into(&mut record.owner.paths, &mut record.names, current_task(), mm);
    } else {
        record.owner.paths = paths::NONE;
    }
    record.owner.ancestors_len = ancestors(leader, &mut record.owner.ancestors);
    entry.submit(0);
}

/// The file that a task executes, and the namespaces it does so in.
#[inline(always)]
fn executable_into(to: &mut Executable, task: u64, mm: u64) {
    *to = Executable {
        inode: 0,
        device: 0,
        uid: 0,
        mode: 0,
        mount_ns: 0,
        user_ns: 0,
        reserved: 0,
    };
    if setting!(task_nsproxy) == 0 {
        return;
    }
    let nsproxy: u64 = field(task + setting!(task_nsproxy)).unwrap_or(0);
    let mount_ns: u64 = field(nsproxy + setting!(nsproxy_mnt_ns)).unwrap_or(0);
    to.mount_ns = field(mount_ns + setting!(mnt_namespace_inum)).unwrap_or(0);
    let cred: u64 = field(task + setting!(task_cred)).unwrap_or(0);
    let user_ns: u64 = field(cred + setting!(cred_user_ns)).unwrap_or(0);
    to.user_ns = field(user_ns + setting!(user_namespace_inum)).unwrap_or(0);
    let file: u64 = field(mm + setting!(mm_exe_file)).unwrap_or(0);
    let inode: u64 = field(file + setting!(file_inode)).unwrap_or(0);
    to.inode = field(inode + setting!(inode_number)).unwrap_or(0);
    to.uid = field(inode + setting!(inode_uid)).unwrap_or(u32::MAX);
    to.mode = field::<u16>(inode + setting!(inode_mode)).unwrap_or(0) as u32;
    let super_block: u64 = field(inode + setting!(inode_super_block)).unwrap_or(0);
    to.device = field(super_block + setting!(super_block_device)).unwrap_or(0);
}

/// A field that audit keeps in the task, where the kernel was built with it.
#[inline(always)]
fn login(leader: u64, offset: u64) -> u32 {
    if offset == 0 {
        return u32::MAX;
    }
    field(leader + offset).unwrap_or(u32::MAX)
}

/// Walks `real_parent` up to pid 1 or to the bound.
#[inline(always)]
fn ancestors(leader: u64, to: &mut [Ancestor; ANCESTORS_MAX]) -> u32 {
    let mut task = leader;
    let mut len = 0;
    // VERIFIER: a constant bound; every pass is looked at.
    for slot in to.iter_mut() {
        // The parent may be any thread of its process; facts are its leader's.
        let Some(parent) = read::kernel::<u64>(task + setting!(task_real_parent)) else {
            break;
        };
        let Some(parent) = read::kernel::<u64>(parent + setting!(task_group_leader)) else {
            break;
        };
        let Some(tgid) = read::kernel::<u32>(parent + setting!(task_tgid)) else {
            break;
        };
        // The parent of pid 1 is the idle task.
        if tgid == 0 {
            break;
        }
        slot.tgid = tgid;
        slot.start = read::kernel(parent + setting!(task_start_boottime)).unwrap_or(0);
        slot.uid = match read::kernel::<u64>(parent + setting!(task_cred)) {
            Some(cred) => read::kernel(cred + setting!(cred_uid)).unwrap_or(u32::MAX),
            None => u32::MAX,
        };
        read::kernel_into(&mut slot.comm, parent + setting!(task_comm));
        task = parent;
        len += 1;
    }
    len
}
