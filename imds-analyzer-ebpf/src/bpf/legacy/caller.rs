//! Facts about the sender, on kernels where programs can read less: facts that cannot be read are 0, and user space
//! looks for them in /proc.

use core::mem::offset_of;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_current_comm, bpf_get_current_task, bpf_get_current_uid_gid},
    macros::map,
    maps::PerCpuArray,
};
use imds_analyzer_ebpf::abi::{
    ANCESTORS_MAX, ARGV_MAX, Ancestor, COMM_LEN, Header, Loss, OwnerHook, OwnerRecord, PATHS_MAX, RecordKind, Task,
    legacy::{Settings, stage},
};
use zerocopy::FromBytes;

use super::{
    current::{now, thread},
    peer, sends,
    settings::settings,
    transport,
};
use crate::bpf::common::{counters, read};

/// Buffer for the announcement in progress.
#[map]
static OWNER: PerCpuArray<OwnerRecord<ARGV_MAX>> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn current_task() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_task() }
}

/// The field at `offset`; `None` if the offset is not known (0) or the field cannot be read.
#[inline(always)]
fn field<T: FromBytes>(address: u64, offset: u32) -> Option<T> {
    if offset == 0 || address == 0 {
        return None;
    }
    let value = read::kernel(address + offset as u64);
    if value.is_none() {
        counters::add(Loss::TaskRead, 1);
    }
    value
}

/// Writes the facts about the current task.
#[inline(always)]
pub(super) fn task_into(to: &mut Task, settings: &Settings) {
    let known = &settings.offsets;
    let task = current_task();
    let leader: u64 = field(task, known.task_group_leader).unwrap_or(0);
    let thread = thread();
    // SAFETY: a helper without arguments.
    let ids = unsafe { bpf_get_current_uid_gid() };
    to.start = field(leader, known.task_start_boottime).unwrap_or(0);
    to.exec = exec(task, settings);
    to.cgroup = 0;
    to.tgid = (thread >> 32) as u32;
    to.tid = thread as u32;
    to.uid = ids as u32;
    to.gid = (ids >> 32) as u32;
    to.pid_ns = 0;
    to.hook = OwnerHook::Kprobe as u8;
    to.reserved = [0; 3];
    // SAFETY: the helper writes as many bytes as it is told.
    let named = unsafe { bpf_get_current_comm(to.thread_comm.as_mut_ptr().cast(), COMM_LEN as u32) };
    if named != 0 {
        counters::add(Loss::TaskRead, 1);
    }
    to.comm = [0; COMM_LEN];
    if leader != 0 && known.task_comm != 0 {
        read::kernel_into(&mut to.comm, leader + known.task_comm as u64);
    } else if to.tgid == to.tid {
        to.comm = to.thread_comm;
    }
}

/// A number that changes when the process of `task` executes another program.
#[inline(always)]
fn exec(task: u64, settings: &Settings) -> u64 {
    let known = &settings.offsets;
    if known.task_self_exec_id != 0 {
        // 64 bits since 5.7 (commit d1e7fd6462ca); the low half comes first.
        return field::<u32>(task, known.task_self_exec_id).unwrap_or(0) as u64;
    }
    // The kernel reuses the address of a memory map at the second exec. The arguments are at another address then,
    // because the stack begins at a random address.
    let mm: u64 = field(task, known.task_mm).unwrap_or(0);
    let start: u64 = field(mm, known.mm_arg_start).unwrap_or(0);
    let end: u64 = field(mm, known.mm_arg_end).unwrap_or(0);
    mm ^ start << 24 ^ end << 44
}

/// Announces the process of the call in progress, unless it was the last one announced for this socket, and continues
/// with the copy.
#[inline(always)]
pub(super) fn announce(ctx: &impl EbpfContext) {
    let (Some(settings), Some(call)) = (settings(), sends::call()) else {
        return;
    };
    let sock = call.sock;
    if let Some(owner) = OWNER.get_ptr_mut(0) {
        // SAFETY: this CPU's own value of the map.
        let record = unsafe { &mut *owner };
        task_into(&mut record.owner.task, settings);
        if is_new(sock, &record.owner.task) {
            fill(record, sock, settings);
            let len = record.owner.header.data_len as u32;
            // VERIFIER: the length is bounded and never 0.
            let len =
                offset_of!(OwnerRecord<ARGV_MAX>, argv) as u64 + (read::bounded(len) & (ARGV_MAX as u32 - 1)) as u64;
            transport::output(ctx, record, len);
        }
    }
    transport::go_on(ctx, stage::COPY);
    counters::add(Loss::SendState, 1);
}

#[inline(always)]
fn is_new(sock: u64, task: &Task) -> bool {
    let Some(sends) = sends::sends(sock) else {
        return true;
    };
    let known =
        sends.announced_tgid == task.tgid && sends.announced_start == task.start && sends.announced_exec == task.exec;
    sends.announced_tgid = task.tgid;
    sends.announced_start = task.start;
    sends.announced_exec = task.exec;
    !known
}

#[inline(always)]
fn fill(record: &mut OwnerRecord<ARGV_MAX>, sock: u64, settings: &Settings) {
    let owner = &mut record.owner;
    let task = current_task();
    let mm: u64 = field(task, settings.offsets.task_mm).unwrap_or(0);
    let start: u64 = field(mm, settings.offsets.mm_arg_start).unwrap_or(0);
    let end: u64 = field(mm, settings.offsets.mm_arg_end).unwrap_or(0);
    let argv_len = end.saturating_sub(start);
    // One byte less than the room: a mask bounds the length.
    let room = ARGV_MAX as u32 - 1;
    let wanted = if argv_len > room as u64 { room } else { argv_len as u32 };
    let mut data_len = wanted;
    if wanted > 0 && !read::user_into(&mut record.argv, start, wanted) {
        counters::add(Loss::ArgvRead, 1);
        data_len = 0;
    }
    owner.header = Header {
        time: now(),
        kind: RecordKind::Owner as u16,
        data_len: data_len as u16,
        reserved: 0,
    };
    owner.sock = sock;
    owner.cookie = 0;
    owner.net_ns = peer::net_namespace(sock, settings);
    owner.argv_len = if argv_len > u32::MAX as u64 {
        u32::MAX
    } else {
        argv_len as u32
    };
    // The paths stay empty: reading them takes loops, and /proc has them.
    owner.paths_room = PATHS_MAX as u32;
    owner.paths.executable_end = 0;
    owner.paths.working_directory_end = 0;
    owner.paths.cgroup_end = 0;
    owner.paths.flags = 0;
    owner.login_uid = field(task, settings.offsets.task_loginuid).unwrap_or(u32::MAX);
    owner.login_session = field(task, settings.offsets.task_sessionid).unwrap_or(u32::MAX);
    owner.ancestors_len = ancestors(&mut owner.ancestors, settings);
}

/// Walks `real_parent` up to pid 1, for at most [`ANCESTORS_MAX`] ancestors. Returns how many it found.
#[inline(always)]
fn ancestors(to: &mut [Ancestor; ANCESTORS_MAX], settings: &Settings) -> u32 {
    let known = &settings.offsets;
    if known.task_real_parent == 0 || known.task_group_leader == 0 || known.task_tgid == 0 {
        return 0;
    }
    let Some(mut task) = read::kernel::<u64>(current_task() + known.task_group_leader as u64) else {
        return 0;
    };
    // VERIFIER: kernels before 5.3 allow no loops, so the steps are written out: each returns or continues with the
    // next.
    macro_rules! steps {
        ($($i:literal)*) => {$(
            let Some(parent) = leader_of_parent(task, settings) else { return $i };
            let Some(tgid) = read::kernel::<u32>(parent + known.task_tgid as u64) else { return $i };
            // The parent of pid 1 is the idle task.
            if tgid == 0 {
                return $i;
            }
            ancestor_into(&mut to[$i], parent, tgid, settings);
            task = parent;
        )*};
    }
    steps!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23);
    let _ = task;
    ANCESTORS_MAX as u32
}

/// The group leader of the parent of `task`: the parent may be any thread of its process, and the facts are the
/// leader's.
#[inline(always)]
fn leader_of_parent(task: u64, settings: &Settings) -> Option<u64> {
    let parent: u64 = read::kernel(task + settings.offsets.task_real_parent as u64)?;
    read::kernel(parent + settings.offsets.task_group_leader as u64)
}

#[inline(always)]
fn ancestor_into(to: &mut Ancestor, task: u64, tgid: u32, settings: &Settings) {
    let known = &settings.offsets;
    to.tgid = tgid;
    to.start = read::kernel(task + known.task_start_boottime as u64).unwrap_or(0);
    let cred: u64 = read::kernel(task + known.task_cred as u64).unwrap_or(0);
    to.uid = read::kernel(cred + known.cred_uid as u64).unwrap_or(u32::MAX);
    read::kernel_into(&mut to.comm, task + known.task_comm as u64);
}
