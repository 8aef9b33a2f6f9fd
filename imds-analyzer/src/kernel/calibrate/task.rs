//! Tasks: fields are found by their values. Fields that are searched for together have had the same order in every
//! kernel since 4.14.

use std::{io, ops::Range};

use anyhow::{Context, Result, ensure};
use imds_analyzer_ebpf::abi::{COMM_LEN, Offsets};

use super::Dump;
use crate::host::{
    clock,
    proc::{self, Directory},
};

/// Facts from /proc about the calibrating thread.
#[derive(Clone, Debug)]
pub(super) struct TaskFacts {
    tid: u32,
    tgid: u32,
    parent: u32,
    comm: [u8; COMM_LEN],
    /// Start of the thread in clock ticks since boot, and the length of a tick in ns.
    start: u64,
    tick: u64,
    arguments: (u64, u64),
    ids: [u32; 8],
}

impl TaskFacts {
    pub(super) fn of_this_thread(name: &str) -> io::Result<Self> {
        let thread = Directory::own_thread()?;
        let (stat, status) = (thread.stat()?, thread.status()?);
        let [uid, effective_uid, saved_uid, fs_uid] = status.uids;
        let [gid, effective_gid, saved_gid, fs_gid] = status.gids;
        Ok(Self {
            tid: stat.pid,
            tgid: status.tgid,
            parent: stat.parent,
            comm: proc::comm(name.as_bytes()),
            start: stat.start,
            tick: clock::tick(),
            arguments: stat.arguments,
            // In the order of the kernel's struct cred.
            ids: [
                uid,
                gid,
                saved_uid,
                saved_gid,
                effective_uid,
                effective_gid,
                fs_uid,
                fs_gid,
            ],
        })
    }

    /// Compares up to the first NUL: until 5.17, the rest of a longer, earlier name may follow it.
    fn is_named(&self, comm: &[u8; COMM_LEN]) -> bool {
        let is_end = |byte: &u8| *byte == 0;
        comm.split(is_end).next() == self.comm.split(is_end).next()
    }

    /// Sets the ids that the kernel uses. In a pid namespace they differ from those in /proc, and the parent's id is
    /// unknown.
    pub(super) fn set_numbers(&mut self, pid_tgid: u64) {
        let (tgid, tid) = ((pid_tgid >> 32) as u32, pid_tgid as u32);
        if self.tgid != tgid {
            self.parent = 0;
        }
        (self.tid, self.tgid) = (tid, tgid);
    }
}

/// Offsets of the fields of a task, and the values of those that point to other structs.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) pid: u32,
    comm: u32,
    real_parent: u32,
    group_leader: u32,
    start: u32,
    cred_at: u32,
    pub(super) leader: u64,
    pub(super) parent: u64,
    pub(super) cred: u64,
    /// Offset and value of each kernel pointer that occurs twice in a row.
    pub(super) doubles: Vec<(u32, u64)>,
}

impl Task {
    /// Finds the fields; the error names the first that is missing.
    pub(super) fn find(dump: Dump<'_>, facts: &TaskFacts) -> Result<Self> {
        let pid = dump
            .only(4, |at| {
                dump.u32(at) == Some(facts.tid) && dump.u32(at + 4) == Some(facts.tgid)
            })
            .context("cannot find the thread id")?;
        // The dump may extend into the next task, which may belong to this process too.
        let comm = dump
            .places(8)
            .find(|&at| at > pid && dump.array::<COMM_LEN>(at).is_some_and(|comm| facts.is_named(&comm)))
            .context("cannot find the thread name")?;
        // The fields behind the ids, and behind a stack canary if the kernel is built with one: real_parent, parent,
        // the lists of children and siblings, group_leader.
        let real_parent = [8, 16]
            .map(|behind| (pid + behind).next_multiple_of(8))
            .into_iter()
            .find(|&at| dump.u64(at).is_some_and(is_pointer) && dump.u64(at) == dump.u64(at + 8))
            .context("cannot find the parent")?;
        let group_leader = real_parent + 48;
        let pointer = |at| dump.u64(at).filter(|&pointer| is_pointer(pointer));
        let doubles: Vec<_> = dump
            .places(8)
            .filter(|&at| dump.u64(at) == dump.u64(at + 8))
            .filter_map(|at| Some((at, pointer(at)?)))
            .collect();
        // real_cred and cred come directly before the name, or have one more field between them and the name.
        let cred_at = [8, 16].map(|before| comm.wrapping_sub(before)).into_iter().find(|&at| {
            let before = at.wrapping_sub(8);
            doubles.iter().any(|(double, _)| *double == before)
        });
        let cred_at = cred_at.context("cannot find the credentials")?;
        Ok(Self {
            pid,
            comm,
            real_parent,
            group_leader,
            start: find_start(dump, facts, pid..comm).context("cannot find the start time")?,
            cred_at,
            leader: pointer(group_leader).context("cannot find the group leader")?,
            parent: pointer(real_parent).context("cannot find the parent")?,
            cred: pointer(cred_at).context("cannot find the credentials")?,
            doubles,
        })
    }

    /// Compares the ids found in the leader and the parent with the known ones.
    pub(super) fn check(&self, facts: &TaskFacts, leader: Dump<'_>, parent: Dump<'_>) -> Result<()> {
        ensure!(
            leader.u32(0) == Some(facts.tgid) && leader.u32(4) == Some(facts.tgid),
            "the group leader is not where it is expected"
        );
        ensure!(
            facts.parent == 0 || parent.u32(4) == Some(facts.parent),
            "the parent is not where it is expected"
        );
        Ok(())
    }

    /// Writes the offsets. `ids`: offset in the credentials. `arguments`: offsets of the memory map in the task, and of
    /// the argument addresses in the memory map.
    pub(super) fn write_into(&self, settings: &mut Offsets, ids: Option<u32>, arguments: Option<(u32, u32)>) {
        settings.task_pid = self.pid;
        settings.task_tgid = self.pid + 4;
        settings.task_comm = self.comm;
        settings.task_real_parent = self.real_parent;
        settings.task_group_leader = self.group_leader;
        settings.task_start_boottime = self.start;
        if let Some(ids) = ids {
            settings.task_cred = self.cred_at;
            settings.cred_uid = ids;
            settings.cred_gid = ids + 4;
        }
        if let Some((mm, at)) = arguments {
            settings.task_mm = mm;
            settings.mm_arg_start = at;
            settings.mm_arg_end = at + 8;
        }
    }
}

/// Finds the later of the two start times, which are adjacent and `within` this range of the task: the one since boot,
/// which counts time asleep.
fn find_start(dump: Dump<'_>, facts: &TaskFacts, within: Range<u32>) -> Option<u32> {
    let fits = |at: u32| dump.u64(at).is_some_and(|time| time / facts.tick == facts.start);
    let places: Vec<u32> = dump.places(8).filter(|at| within.contains(at) && fits(*at)).collect();
    match places.as_slice() {
        [only] => Some(*only),
        [first, second] if first + 8 == *second => Some(*second),
        _ => None,
    }
}

/// Offset of the user and group ids in credentials.
pub(super) fn find_ids(cred: Dump<'_>, facts: &TaskFacts) -> Option<u32> {
    // Behind the reference count, which has 4 bytes, and 8 since 6.7.
    const PLACES: [u32; 2] = [4, 8];
    let used = cred.u32(0).is_some_and(|count| count > 0 && count < 1 << 24);
    let fits = |at: &u32| (0..8).all(|index| cred.u32(at + index * 4) == facts.ids.get(index as usize).copied());
    PLACES.into_iter().find(fits).filter(|_| used)
}

/// Offset of the argument addresses, if `mm` is the memory map of this process.
pub(super) fn find_arguments(mm: Dump<'_>, facts: &TaskFacts) -> Option<u32> {
    let (start, end) = facts.arguments;
    if start == 0 {
        return None;
    }
    mm.only(8, |at| mm.u64(at) == Some(start) && mm.u64(at + 8) == Some(end))
}

/// True for an address in the kernel's upper half.
fn is_pointer(value: u64) -> bool {
    value >> 48 == 0xffff && value != u64::MAX
}

#[cfg(test)]
mod tests;
