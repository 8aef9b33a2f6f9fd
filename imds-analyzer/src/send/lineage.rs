//! Who started whom, where tasks cannot be read: what /proc showed at first, and what the kernel has told since.
//!
//! A pid names another process once it is used again, so every process gets a number of ours. Of the oldest that nobody
//! asked for something is forgotten: there /proc stands in.

use std::{collections::HashMap, num::NonZeroUsize};

use imds_analyzer_ebpf::abi::{Ancestor, COMM_LEN, Owner, Task, send};
use lru::LruCache;
use procfs::process::Process;

use crate::process::in_first_pid_namespace;

/// Processes remembered.
const NODES_MAX: NonZeroUsize = NonZeroUsize::new(32_768).unwrap();

/// All processes of the host, and what was the parent of each.
#[derive(Debug)]
pub struct Lineage {
    nodes: LruCache<u64, Node>,
    /// The process that has a pid now, or had it last.
    current: HashMap<u32, u64>,
    next: u64,
    tick: u64,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    pid: u32,
    uid: u32,
    /// Of its parent; 0 where that is not known, or nobody.
    parent: u64,
    /// ns since boot; to the tick, once `exact`.
    start: u64,
    exact: bool,
    /// Changes when it executes another program.
    exec: u64,
    comm: [u8; COMM_LEN],
}

impl Lineage {
    /// With the processes that /proc shows. To be called again when records were lost: what is known may be wrong then.
    pub fn of_this_host() -> Self {
        let mut lineage = Self::empty();
        // Elsewhere it has other numbers than the kernel's records.
        if in_first_pid_namespace() {
            lineage.read_proc();
        }
        lineage
    }

    pub(super) fn empty() -> Self {
        Self {
            nodes: LruCache::new(NODES_MAX),
            current: HashMap::new(),
            next: 1,
            tick: 1_000_000_000 / procfs::ticks_per_second().max(1),
        }
    }

    fn read_proc(&mut self) {
        let processes = match procfs::process::all_processes() {
            Ok(processes) => processes,
            Err(error) => {
                tracing::warn!("/proc cannot be read, ancestors are those that start from now on: {error}");
                return;
            }
        };
        // One that is gone by now has no children that it could be looked up for.
        let stats: Vec<_> = processes
            .filter_map(|process| {
                let process = process.ok()?;
                Some((process.uid().ok()?, process.stat().ok()?))
            })
            .collect();
        for (uid, stat) in &stats {
            self.put(Node {
                pid: stat.pid.unsigned_abs(),
                uid: *uid,
                parent: 0,
                start: stat.starttime.saturating_mul(self.tick),
                exact: true,
                exec: 0,
                comm: padded(stat.comm.as_bytes()),
            });
        }
        for (_, stat) in &stats {
            let parent = self.current.get(&stat.ppid.unsigned_abs()).copied();
            if let (Some(parent), Some(node)) = (parent, self.of_pid(stat.pid.unsigned_abs())) {
                node.parent = parent;
            }
        }
    }

    /// Takes one record of the legacy object; `time` in ns since boot.
    pub(super) fn take(&mut self, record: &send::Lineage, time: u64) {
        if record.child == 0 {
            if let Some(node) = self.of_pid(record.tgid) {
                node.uid = record.uid;
                node.exec = time;
                node.comm = record.comm;
            }
            return;
        }
        let parent = self.current.get(&record.tgid).copied().unwrap_or(0);
        // Whoever starts processes is not forgotten before them.
        self.nodes.promote(&parent);
        self.put(Node {
            pid: record.child,
            uid: record.uid,
            parent,
            start: time,
            exact: false,
            exec: 0,
            comm: record.comm,
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

    /// Fills in what tells the task's process from others.
    pub(super) fn identify(&mut self, task: &mut Task) {
        let tick = self.tick;
        let Some(node) = self.of_pid(task.tgid) else { return };
        node.make_exact(tick);
        task.start = node.start;
        // Never 0, which stands for a program that is not known.
        task.exec = node.exec | 1;
        if task.comm == [0; COMM_LEN] {
            task.comm = node.comm;
        }
    }

    /// Fills in the ancestors, as far as they are known.
    pub(super) fn ancestors_into(&mut self, owner: &mut Owner) {
        let tick = self.tick;
        let mut next = self.of_pid(owner.task.tgid).map_or(0, |node| node.parent);
        let mut len = 0;
        for to in &mut owner.ancestors {
            let Some(node) = self.nodes.get_mut(&next) else { break };
            node.make_exact(tick);
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
    /// A process is started some moments before the kernel tells of it: /proc knows the tick, while it is there.
    fn make_exact(&mut self, tick: u64) {
        if self.exact {
            return;
        }
        let found = i32::try_from(self.pid).ok().and_then(|pid| Process::new(pid).ok());
        let start = found.and_then(|process| Some(process.stat().ok()?.starttime.saturating_mul(tick)));
        // Another process of this number is younger than that.
        if let Some(start) = start.filter(|start| self.start.abs_diff(*start) <= 2 * tick) {
            self.start = start;
        }
        // Once and for all: it is part of what tells it from others.
        self.exact = true;
    }
}

/// The name as the kernel has it.
fn padded(name: &[u8]) -> [u8; COMM_LEN] {
    let mut comm = [0; COMM_LEN];
    comm.iter_mut()
        .take(COMM_LEN - 1)
        .zip(name)
        .for_each(|(to, from)| *to = *from);
    comm
}

#[cfg(test)]
mod tests {
    use imds_analyzer_ebpf::abi::{Header, RecordKind};
    use zerocopy::FromZeros as _;

    use super::*;

    /// No process has numbers from here on (`PID_MAX_LIMIT`, 4 Mi).
    const FIRST: u32 = 1 << 30;

    fn record(tgid: u32, child: u32, name: &str) -> send::Lineage {
        send::Lineage {
            header: Header {
                kind: RecordKind::Lineage as u16,
                ..Header::default()
            },
            tgid: FIRST + tgid,
            child: if child == 0 { 0 } else { FIRST + child },
            uid: tgid,
            reserved: 0,
            comm: padded(name.as_bytes()),
        }
    }

    /// A script of `(process, child or 0, name)`, one a second.
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
            // The first 2 is gone.
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
        // 2 was forgotten: the rest of the chain is for /proc to say.
        assert_eq!(ancestors(&mut lineage, 20), named(&[(3, "worker")]));
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
