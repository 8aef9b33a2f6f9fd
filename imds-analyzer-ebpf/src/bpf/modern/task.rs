//! Facts about the current task, its ancestors and its argv, read while the task exists.

use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_task, bpf_ktime_get_boot_ns};
use imds_analyzer_ebpf::abi::{
    ANCESTORS_MAX, ARGV_MAX, ARGV_SHORT, Ancestor, Executable, Header, Loss, OwnerRecord, PATHS_MAX, RecordKind, Task,
};
use zerocopy::FromBytes;

use super::{constants::offset, paths, transport};
use crate::bpf::common::{counters, read};

/// Identifies one run of one program.
#[derive(Clone, Copy)]
pub(super) struct Identity {
    pub(super) tgid: u32,
    pub(super) tid: u32,
    pub(super) start: u64,
    /// How many programs the process has executed (`self_exec_id`). The count never repeats; the address of a memory
    /// map does.
    pub(super) exec: u64,
    /// Address of the process's memory map, 0 for a kernel thread.
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

/// Reads fields, and counts those that it cannot read.
struct Fields {
    failed: u64,
}

impl Fields {
    #[inline(always)]
    const fn new() -> Self {
        Self { failed: 0 }
    }

    /// The field at `address`; zeroes on failure.
    #[inline(always)]
    fn read<T: FromBytes>(&mut self, address: u64) -> T {
        let (value, failed) = read::kernel_or_zero(address);
        self.failed += failed;
        value
    }

    /// A user or group id; -1 on failure, which no user or group has.
    #[inline(always)]
    fn read_id(&mut self, address: u64) -> u32 {
        let (value, failed) = read::kernel_or_zero::<u32>(address);
        self.failed += failed;
        value | (failed as u32).wrapping_neg()
    }

    #[inline(always)]
    fn count_failures(self) {
        if self.failed > 0 {
            counters::add(Loss::TaskRead, self.failed);
        }
    }
}

/// True if the current task is a kernel thread, which sends on behalf of another task: io_uring's workers were kernel
/// threads until 5.12 (commit 3bfe6106693b).
#[inline(always)]
pub(super) fn is_kernel_thread() -> bool {
    /// include/linux/sched.h
    const PF_KTHREAD: u32 = 0x0020_0000;
    let mut fields = Fields::new();
    let flags: u32 = fields.read(current_task() + offset!(task_flags));
    fields.count_failures();
    flags & PF_KTHREAD != 0
}

/// Id of the current task's cgroup. On older kernels `cgroup_skb` programs cannot call this helper.
#[inline(always)]
pub(super) fn current_cgroup() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The identity of the current task, and its group leader's address. Read from the task's struct, because on older
/// kernels `cgroup_skb` programs can call neither `bpf_get_current_pid_tgid` (since 6.10) nor
/// `bpf_get_current_uid_gid`.
#[inline(always)]
pub(super) fn identity() -> (Identity, u64) {
    let task = current_task();
    let mut fields = Fields::new();
    let leader = fields.read(task + offset!(task_group_leader));
    let mm = fields.read(task + offset!(task_mm));
    let identity = Identity {
        tgid: fields.read(task + offset!(task_tgid)),
        tid: fields.read(task + offset!(task_pid)),
        start: fields.read(leader + offset!(task_start_boottime)),
        exec: if offset!(task_self_exec_id) == 0 {
            mm
        } else {
            // 64 bits since 5.7 (commit d1e7fd6462ca); the low half is enough.
            fields.read::<u32>(task + offset!(task_self_exec_id)) as u64
        },
        mm,
    };
    fields.count_failures();
    (identity, leader)
}

/// Writes the facts about the current task to `to`: they are too large to pass around on the stack. `hook` is an
/// [`OwnerHook`](imds_analyzer_ebpf::abi::OwnerHook).
#[inline(always)]
pub(super) fn facts_into(to: &mut Task, identity: &Identity, leader: u64, cgroup: u64, hook: u8) {
    let task = current_task();
    let mut fields = Fields::new();
    let cred: u64 = fields.read(task + offset!(task_cred));
    to.start = identity.start;
    to.exec = identity.exec;
    to.cgroup = cgroup;
    to.tgid = identity.tgid;
    to.tid = identity.tid;
    to.uid = fields.read_id(cred + offset!(cred_uid));
    to.gid = fields.read_id(cred + offset!(cred_gid));
    // The innermost of the task's pid numbers belongs to the pid namespace it runs in.
    let pid: u64 = fields.read(task + offset!(task_thread_pid));
    let level: u32 = fields.read(pid + offset!(pid_level));
    let number = pid + offset!(pid_numbers) + level as u64 * offset!(upid_size);
    let namespace: u64 = fields.read(number + offset!(upid_ns));
    to.pid_ns = fields.read(namespace + offset!(pid_namespace_inum));
    to.hook = hook;
    read::kernel_into(&mut to.comm, leader + offset!(task_comm));
    read::kernel_into(&mut to.thread_comm, task + offset!(task_comm));
    fields.count_failures();
}

/// True if the socket at `sock` is a subflow of an MPTCP connection and the current process holds its lock, so that
/// nobody else sends. Timers and softirqs that find the lock taken leave the work to its holder (`tcp_write_timer`,
/// `tcp_tsq_handler`, net/ipv4).
#[inline(always)]
pub(super) fn is_mptcp_sender(sock: u64) -> bool {
    if read::kernel::<[u8; 1]>(sock + offset!(tcp_sock_is_mptcp)).is_none_or(|[is]| is == 0) {
        return false;
    }
    let mut fields = Fields::new();
    let owned: u32 = fields.read(sock + offset!(sock_lock_owned));
    fields.count_failures();
    owned != 0
}

/// Inode number of the network namespace of the socket at `sock`.
#[inline(always)]
pub(super) fn net_namespace(sock: u64) -> u32 {
    let mut fields = Fields::new();
    let net: u64 = fields.read(sock + offset!(sock_net));
    let inum = fields.read(net + offset!(net_inum));
    fields.count_failures();
    inum
}

/// Announces the current task, which acts on the socket at `sock`. `cgroup` is the id of the task's cgroup, 0 if the
/// hook cannot read it. `hook` is an [`OwnerHook`](imds_analyzer_ebpf::abi::OwnerHook).
// VERIFIER: a global function is verified once (5.6, commit 51c39bb1d5d1), not once for every call path.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_announce(sock: u64, cookie: u64, cgroup: u64, hook: u32) -> u32 {
    announce::<false>(sock, cookie, cgroup, hook as u8);
    0
}

/// Like [`imds_announce`], with the paths of the task.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_announce_paths(sock: u64, cookie: u64, cgroup: u64, hook: u32) -> u32 {
    announce::<true>(sock, cookie, cgroup, hook as u8);
    0
}

#[inline(always)]
fn announce<const PATHS: bool>(sock: u64, cookie: u64, cgroup: u64, hook: u8) {
    let (who, leader) = identity();
    let mut fields = Fields::new();
    let start: u64 = fields.read(who.mm + offset!(mm_arg_start));
    let end: u64 = fields.read(who.mm + offset!(mm_arg_end));
    fields.count_failures();
    let argv = Argv {
        address: start,
        len: end.saturating_sub(start),
    };
    if argv.len <= ARGV_SHORT as u64 {
        fill::<PATHS, ARGV_SHORT>(&who, leader, cgroup, hook, sock, cookie, argv);
    } else {
        fill::<PATHS, ARGV_MAX>(&who, leader, cgroup, hook, sock, cookie, argv);
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
    hook: u8,
    sock: u64,
    cookie: u64,
    argv: Argv,
) {
    let mm = who.mm;
    let Some(mut entry) = transport::reserve::<OwnerRecord<N>>() else {
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
    record.owner.login_uid = login(leader, offset!(task_loginuid));
    record.owner.login_session = login(leader, offset!(task_sessionid));
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

/// Writes which file a task executes and the namespaces it runs in.
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
    if offset!(task_nsproxy) == 0 {
        return;
    }
    let mut fields = Fields::new();
    let nsproxy: u64 = fields.read(task + offset!(task_nsproxy));
    let mount_ns: u64 = fields.read(nsproxy + offset!(nsproxy_mnt_ns));
    to.mount_ns = fields.read(mount_ns + offset!(mnt_namespace_inum));
    let cred: u64 = fields.read(task + offset!(task_cred));
    let user_ns: u64 = fields.read(cred + offset!(cred_user_ns));
    to.user_ns = fields.read(user_ns + offset!(user_namespace_inum));
    let file: u64 = fields.read(mm + offset!(mm_exe_file));
    let inode: u64 = fields.read(file + offset!(file_inode));
    to.inode = fields.read(inode + offset!(inode_number));
    to.uid = fields.read_id(inode + offset!(inode_uid));
    to.mode = fields.read::<u16>(inode + offset!(inode_mode)) as u32;
    let super_block: u64 = fields.read(inode + offset!(inode_super_block));
    to.device = fields.read(super_block + offset!(super_block_device));
    fields.count_failures();
}

/// A field that audit keeps in the task; `u32::MAX` if the kernel was built without audit.
#[inline(always)]
fn login(leader: u64, offset: u64) -> u32 {
    if offset == 0 {
        return u32::MAX;
    }
    let mut fields = Fields::new();
    let id = fields.read_id(leader + offset);
    fields.count_failures();
    id
}

/// Walks `real_parent` up to pid 1, for at most [`ANCESTORS_MAX`] ancestors. Returns how many it found.
#[inline(always)]
fn ancestors(leader: u64, to: &mut [Ancestor; ANCESTORS_MAX]) -> u32 {
    let mut task = leader;
    let mut len = 0;
    // VERIFIER: a constant bound; the verifier walks every iteration.
    for slot in to.iter_mut() {
        // The parent may be any thread of its process; the facts are read from the group leader.
        let (parent, _) = read::kernel_or_zero::<u64>(task + offset!(task_real_parent));
        let (parent, _) = read::kernel_or_zero::<u64>(parent + offset!(task_group_leader));
        let (tgid, _) = read::kernel_or_zero::<u32>(parent + offset!(task_tgid));
        // The parent of pid 1 is the idle task, whose tgid is 0; a failed read gives 0, too.
        if tgid == 0 {
            break;
        }
        let mut fields = Fields::new();
        slot.tgid = tgid;
        slot.start = fields.read(parent + offset!(task_start_boottime));
        let cred: u64 = fields.read(parent + offset!(task_cred));
        slot.uid = fields.read_id(cred + offset!(cred_uid));
        read::kernel_into(&mut slot.comm, parent + offset!(task_comm));
        task = parent;
        len += 1;
    }
    len
}
