//! The parents of all processes, for kernels whose tasks cannot be read: from /proc at the start, and from the kernel's
//! records of fork and exec since then.
//!
//! The kernel reuses pids, so every process gets a number of our own. Processes that were not used for longest are
//! forgotten: /proc has to replace them.

use std::{collections::HashMap, num::NonZeroUsize};

use imds_analyzer_ebpf::abi::{ANCESTORS_MAX, Ancestor, COMM_LEN, Owner, Task, legacy::ForkOrExec};
use lru::LruCache;

use crate::host::{
    clock,
    namespace::in_first_pid_namespace,
    proc::{self, Proc},
};

/// Maximum number of processes remembered.
const NODES_MAX: NonZeroUsize = NonZeroUsize::new(32_768).unwrap();

/// All processes of the host, and the parent of each.
#[derive(Debug)]
pub struct Lineage {
    nodes: LruCache<u64, Node>,
    /// Number of the process that has a pid now, or had it last.
    current: HashMap<u32, u64>,
    next: u64,
    /// How often records were lost, and when last, in ns since boot.
    losses: u64,
    lost_at: u64,
    /// True if /proc has the same pids as the kernel's records.
    has_proc: bool,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    pid: u32,
    uid: u32,
    /// Number of its parent; 0 if unknown or none.
    parent: u64,
    /// In ns since boot; precise to the tick once `exact`.
    start: u64,
    exact: bool,
    /// Changes when the process executes another program.
    exec: u64,
    comm: [u8; COMM_LEN],
    /// [`Lineage::losses`] when these facts were last certain.
    seen: u64,
}

/// A process as /proc shows it.
struct Found {
    parent: u32,
    uid: u32,
    start: u64,
    comm: [u8; COMM_LEN],
}

impl Lineage {
    /// A lineage with the processes that /proc shows.
    pub fn of_this_host() -> Self {
        let mut lineage = Self::empty();
        lineage.has_proc = in_first_pid_namespace();
        if lineage.has_proc {
            lineage.read_proc();
        }
        lineage
    }

    /// Notes that records were lost until `time`, in ns since boot. Known facts may be wrong, and are looked up again
    /// on use: reading all of /proc would take long, and lose more records.
    pub(super) fn doubt(&mut self, time: u64) {
        self.losses += 1;
        self.lost_at = time;
    }

    pub(super) fn empty() -> Self {
        Self {
            nodes: LruCache::new(NODES_MAX),
            current: HashMap::new(),
            next: 1,
            losses: 0,
            lost_at: 0,
            has_proc: false,
        }
    }

    fn read_proc(&mut self) {
        let pids = match proc::pids() {
            Ok(pids) => pids,
            Err(error) => {
                tracing::warn!(
                    "cannot read /proc, so ancestors include only processes that start from now on: {error}"
                );
                return;
            }
        };
        // A process that has exited by now has no children to be looked up for.
        let found: Vec<_> = pids.flatten().filter_map(|pid| Some((pid, Found::of(pid)?))).collect();
        for (pid, found) in &found {
            self.put(Node {
                pid: *pid,
                uid: found.uid,
                parent: 0,
                start: found.start,
                exact: true,
                exec: 0,
                comm: found.comm,
                seen: 0,
            });
        }
        for (pid, found) in &found {
            let parent = self.current.get(&found.parent).copied();
            if let (Some(parent), Some(node)) = (parent, self.of_pid(*pid)) {
                node.parent = parent;
            }
        }
    }

    /// Takes one record of the legacy object; `time` in ns since boot.
    pub(super) fn take(&mut self, record: &ForkOrExec, time: u64) {
        let seen = self.losses;
        if record.child == 0 {
            if let Some(node) = self.of_pid(record.tgid) {
                node.uid = record.uid;
                node.exec = time;
                node.comm = record.comm;
                node.seen = seen;
            }
            return;
        }
        let parent = self.current.get(&record.tgid).copied().unwrap_or(0);
        // A process that starts others is not forgotten before them.
        self.nodes.promote(&parent);
        self.put(Node {
            pid: record.child,
            uid: record.uid,
            parent,
            start: time,
            exact: false,
            exec: 0,
            comm: record.comm,
            seen,
        });
    }

    fn put(&mut self, node: Node) {
        let number = self.next;
        self.next += 1;
        self.current.insert(node.pid, number);
        if let Some((forgotten, node)) = self.nodes.push(number, node)
            && self.current.get(&node.pid) == Some(&forgotten)
        {
            self.current.remove(&node.pid);
        }
    }

    fn of_pid(&mut self, pid: u32) -> Option<&mut Node> {
        self.nodes.get_mut(self.current.get(&pid)?)
    }

    /// Looks up the process `pid` in /proc if the known facts may be wrong, and its ancestors as far as they are
    /// unknown.
    fn look_again(&mut self, pid: u32) {
        let (mut pid, mut child) = (pid, None);
        for _ in 0..=ANCESTORS_MAX {
            let Some((number, parent)) = self.look_once(pid) else {
                break;
            };
            if let Some(child) = child.and_then(|child| self.nodes.get_mut(&child)) {
                child.parent = number;
            }
            match parent {
                Some(parent) => (pid, child) = (parent, Some(number)),
                None => break,
            }
        }
    }

    /// The number of the process `pid`, and the pid of its parent if the parent has no number yet.
    fn look_once(&mut self, pid: u32) -> Option<(u64, Option<u32>)> {
        let (losses, lost_at) = (self.losses, self.lost_at);
        let known = self.current.get(&pid).copied();
        let node = known.and_then(|number| self.nodes.get_mut(&number));
        if node.as_ref().is_some_and(|node| node.seen == losses) || losses == 0 || !self.has_proc {
            return known.map(|number| (number, None));
        }
        let found = Found::of(pid);
        if let (Some(number), Some(node)) = (known, node) {
            let same = found.as_ref().filter(|found| started_together(node.start, found.start));
            if let Some(same) = same {
                (node.uid, node.comm) = (same.uid, same.comm);
            }
            if same.is_some() || found.is_none() {
                // The process may have executed another program since.
                node.exec = lost_at;
                node.seen = losses;
                let unknown = same.filter(|_| node.parent == 0);
                return Some((number, unknown.map(|same| same.parent).filter(|parent| *parent != 0)));
            }
        }
        let found = found?;
        let parent = self.current.get(&found.parent).copied().unwrap_or(0);
        let number = self.next;
        self.put(Node {
            pid,
            uid: found.uid,
            parent,
            start: found.start,
            exact: true,
            exec: lost_at,
            comm: found.comm,
            seen: losses,
        });
        Some((number, (parent == 0 && found.parent != 0).then_some(found.parent)))
    }

    /// Fills in start, program and name, which distinguish the task's process from others.
    pub(super) fn identify(&mut self, task: &mut Task) {
        self.look_again(task.tgid);
        let Some(node) = self.of_pid(task.tgid) else { return };
        node.make_exact();
        task.start = node.start;
        // Never 0, which means an unknown program.
        task.exec = node.exec | 1;
        if task.comm == [0; COMM_LEN] {
            task.comm = node.comm;
        }
    }

    /// Fills in the ancestors, as far as they are known.
    pub(super) fn ancestors_into(&mut self, owner: &mut Owner) {
        self.look_again(owner.task.tgid);
        let mut next = self.of_pid(owner.task.tgid).map_or(0, |node| node.parent);
        let mut len = 0;
        for to in &mut owner.ancestors {
            // If another process has this pid now, the remembered facts stay.
            if let Some(pid) = self.nodes.peek(&next).map(|node| node.pid)
                && self.current.get(&pid) == Some(&next)
            {
                self.look_again(pid);
            }
            let Some(node) = self.nodes.get_mut(&next) else { break };
            node.make_exact();
            *to = Ancestor {
                start: node.start,
                tgid: node.pid,
                uid: node.uid,
                comm: node.comm,
            };
            next = node.parent;
            len += 1;
        }
        owner.ancestors_len = len;
    }
}

impl Node {
    /// Replaces the time of the fork record, which is a moment late, with the start tick from /proc, if the process
    /// still exists.
    fn make_exact(&mut self) {
        if self.exact {
            return;
        }
        if let Ok(found) = Proc::open(self.pid) {
            let start = clock::from_ticks(found.stat.start);
            if started_together(self.start, start) {
                self.start = start;
            }
        }
        // Only once: the start is part of the process's identity.
        self.exact = true;
    }
}

/// True if a process that the kernel reported at `told` may be the one that started at `start` according to /proc.
/// Another process with the same pid would be younger.
fn started_together(told: u64, start: u64) -> bool {
    told.abs_diff(start) <= 2 * clock::tick()
}

impl Found {
    fn of(pid: u32) -> Option<Self> {
        let process = Proc::open(pid).ok()?;
        Some(Self {
            parent: process.stat.parent,
            uid: process.directory().owner().ok()?,
            start: clock::from_ticks(process.stat.start),
            comm: process.stat.comm,
        })
    }
}

#[cfg(test)]
mod tests {
    use imds_analyzer_ebpf::abi::{Header, RecordKind};
    use zerocopy::FromZeros as _;

    use super::*;

    /// No process has a pid this high (`PID_MAX_LIMIT`, 4 Mi).
    const FIRST: u32 = 1 << 30;

    fn record(tgid: u32, child: u32, name: &str) -> ForkOrExec {
        ForkOrExec {
            header: Header {
                kind: RecordKind::ForkOrExec as u16,
                ..Header::default()
            },
            tgid: FIRST + tgid,
            child: if child == 0 { 0 } else { FIRST + child },
            uid: tgid,
            reserved: 0,
            comm: proc::comm(name.as_bytes()),
        }
    }

    /// The lineage after a script of `(process, child or 0, name)`, one record per second.
    fn after(script: &[(u32, u32, &str)]) -> Lineage {
        let mut lineage = Lineage::empty();
        for (second, &(tgid, child, name)) in (1..).zip(script) {
            lineage.take(&record(tgid, child, name), second * 1_000_000_000);
        }
        lineage
    }

    fn ancestors(lineage: &mut Lineage, tgid: u32) -> Vec<(u32, String)> {
        let mut owner = Owner::new_zeroed();
        owner.task.tgid = FIRST + tgid;
        lineage.ancestors_into(&mut owner);
        let known = owner.ancestors.iter().take(owner.ancestors_len as usize);
        known
            .map(|ancestor| (ancestor.tgid - FIRST, crate::sanitize::comm(&ancestor.comm)))
            .collect()
    }

    fn named(expected: &[(u32, &str)]) -> Vec<(u32, String)> {
        expected.iter().map(|&(pid, name)| (pid, name.to_owned())).collect()
    }

    #[test]
    fn who_started_whom() {
        let mut lineage = after(&[
            (1, 2, "init"),
            (2, 0, "cron"),
            (2, 3, "cron"),
            (3, 0, "sh"),
            (3, 4, "sh"),
        ]);
        assert_eq!(ancestors(&mut lineage, 4), named(&[(3, "sh"), (2, "cron")]));
        assert_eq!(ancestors(&mut lineage, 2), []);
        assert_eq!(ancestors(&mut lineage, 9), []);
    }

    #[test]
    fn a_number_that_is_used_again_is_another_process() {
        let mut lineage = after(&[
            (1, 2, "init"),
            (2, 0, "cron"),
            (2, 3, "cron"),
            // The first process 2 has exited.
            (1, 2, "init"),
            (2, 0, "sshd"),
            (2, 4, "sshd"),
        ]);
        assert_eq!(ancestors(&mut lineage, 3), named(&[(2, "cron")]));
        assert_eq!(ancestors(&mut lineage, 4), named(&[(2, "sshd")]));
    }

    #[test]
    fn a_process_is_told_from_others_by_its_start_and_its_program() {
        let identity = |lineage: &mut Lineage| {
            let mut task = Task {
                tgid: FIRST + 2,
                ..Task::default()
            };
            lineage.identify(&mut task);
            (task.start, task.exec, crate::sanitize::comm(&task.comm))
        };
        let mut lineage = after(&[(1, 2, "init")]);
        let first = identity(&mut lineage);
        assert_eq!((first.0, first.2.as_str()), (1_000_000_000, "init"));
        assert_eq!(identity(&mut lineage), first);
        lineage.take(&record(2, 0, "sh"), 5_000_000_000);
        let second = identity(&mut lineage);
        assert_eq!((second.0, second.2.as_str()), (first.0, "sh"));
        assert_ne!(second.1, first.1);
    }

    #[test]
    fn what_is_kept_is_bounded_and_whoever_is_busy_stays() {
        let mut lineage = after(&[(1, 2, "init"), (2, 3, "worker")]);
        for child in 10..NODES_MAX.get() as u32 + 10 {
            lineage.take(&record(3, child, "worker"), 3_000_000_000);
        }
        assert_eq!(lineage.nodes.len(), NODES_MAX.get());
        assert_eq!(lineage.current.len(), NODES_MAX.get());
        // 2 was forgotten: the rest of the chain has to come from /proc.
        assert_eq!(ancestors(&mut lineage, 20), named(&[(3, "worker")]));
    }

    /// After a loss only requested processes are read again: one whose start was lost, and one whose pid has another
    /// process now.
    #[test]
    fn what_was_lost_is_looked_up_when_it_is_asked_for() {
        let own = std::process::id();
        let mut lineage = Lineage::empty();
        lineage.has_proc = true;
        let mut wrong = record(1, 0, "wrong");
        (wrong.tgid, wrong.child) = (FIRST + 1, own);
        lineage.take(&wrong, 1);
        lineage.take(&record(2, 3, "gone"), 5_000_000_000);
        let chain = |lineage: &mut Lineage, tgid| {
            let mut owner = Owner::new_zeroed();
            owner.task.tgid = tgid;
            lineage.ancestors_into(&mut owner);
            (owner.ancestors_len, owner.ancestors[0].tgid)
        };
        assert_eq!(chain(&mut lineage, own).0, 0);
        lineage.doubt(9_000_000_000);
        assert_eq!(lineage.nodes.len(), 2);
        let (len, parent) = chain(&mut lineage, own);
        assert!(len > 0);
        assert_eq!(parent, std::os::unix::process::parent_id());
        let mut task = Task {
            tgid: own,
            ..Task::default()
        };
        lineage.identify(&mut task);
        assert!(task.start > 1 && task.exec == 9_000_000_001);
        // A process that has exited keeps its reported facts, but counts as another program.
        let mut task = Task {
            tgid: FIRST + 3,
            ..Task::default()
        };
        lineage.identify(&mut task);
        assert_eq!((task.start, task.exec), (5_000_000_000, 9_000_000_001));
        lineage.take(&record(3, 0, "later"), 9_500_000_000);
        lineage.identify(&mut task);
        assert_eq!(task.exec, 9_500_000_001);
    }

    #[test]
    fn this_process_and_its_parents_are_in_proc() {
        let mut lineage = Lineage::of_this_host();
        let mut owner = Owner::new_zeroed();
        owner.task.tgid = std::process::id();
        lineage.ancestors_into(&mut owner);
        assert_eq!(owner.ancestors[0].tgid, std::os::unix::process::parent_id());
        assert!(in_first_pid_namespace());
    }
}
