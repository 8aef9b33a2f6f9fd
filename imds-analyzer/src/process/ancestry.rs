//! Chains of ancestors, from the parent to pid 1.

use std::{
    hash::{BuildHasher as _, RandomState},
    num::NonZeroUsize,
};

use imds_analyzer_ebpf::abi::{self, COMM_LEN};
use lru::LruCache;

use super::{Counters, args::Argv, path_shown};
use crate::{
    event::Ancestor,
    host::{
        clock,
        proc::{Directory, Proc},
    },
    sanitize,
    secrets::ArgsMode,
};

/// Maximum length of a chain. A longer chain is cut before pid 1.
const CHAIN_MAX: usize = 256;
/// Maximum length of an ancestor's arguments, in bytes.
const ARGS_SHOWN: usize = 1024;

/// Remembers ancestors, so that a thousand children of one shell describe it once, and the parents of processes.
#[derive(Debug)]
pub(super) struct Ancestry {
    known: LruCache<Key, Known>,
    /// The first parent seen of each process, by pid and start. After the parent's exit the kernel reports pid 1 or
    /// another reaper.
    parents: LruCache<(u32, u64), abi::Ancestor>,
    args: ArgsMode,
    hashing: RandomState,
}

/// An ancestor, with its arguments and executable at the time of its description. A shell that executes a shell keeps
/// its pid, start and name.
#[derive(Debug)]
struct Known {
    ancestor: Ancestor,
    print: Option<u64>,
}

/// The name is part of the key, because it changes when the process executes another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    pid: u32,
    /// Ticks since boot.
    start: u64,
    comm: [u8; COMM_LEN],
}

impl Ancestry {
    pub(super) fn new(capacity: NonZeroUsize, args: ArgsMode) -> Self {
        Self {
            known: LruCache::new(capacity),
            parents: LruCache::new(capacity),
            args,
            hashing: RandomState::new(),
        }
    }

    /// The ancestors that the kernel saw, then those that /proc shows above them; all from /proc if the kernel saw
    /// none. `process` is the child, if it still exists.
    pub(super) fn of(
        &mut self,
        task: &abi::Task,
        process: Option<&Proc>,
        seen: &[abi::Ancestor],
        counters: &mut Counters,
    ) -> Vec<Ancestor> {
        let seen: Vec<_> = seen.iter().copied().take_while(|ancestor| ancestor.tgid != 0).collect();
        let seen = self.before_orphaned((task.tgid, task.start), seen);
        let mut chain: Vec<Ancestor> = seen.iter().map(|ancestor| self.seen(ancestor, counters)).collect();
        let mut next = match seen.last() {
            Some(last) if last.tgid == 1 => None,
            Some(last) => {
                let last = counters.note(Proc::find(last.tgid, last.start));
                last.and_then(|last| parent(&last, counters))
            }
            None => process.and_then(|process| parent(process, counters)),
        };
        while let Some(found) = next.take_if(|_| chain.len() < CHAIN_MAX) {
            next = parent(&found, counters);
            chain.push(self.found(&found, counters));
        }
        chain
    }

    /// Replaces reapers in the chain by the original parents, as far as they were seen, and remembers the chain.
    fn before_orphaned(&mut self, mut child: (u32, u64), seen: Vec<abi::Ancestor>) -> Vec<abi::Ancestor> {
        for (index, parent) in seen.iter().enumerate() {
            // A start that could not be read identifies nobody.
            if child.1 == 0 {
                break;
            }
            let first = *self.parents.get_or_insert(child, || *parent);
            if (first.tgid, first.start) != (parent.tgid, parent.start)
                && let Some(former) = self.former(first)
            {
                return [seen.get(..index).unwrap_or_default(), &former].concat();
            }
            child = (parent.tgid, parent.start);
        }
        seen
    }

    /// A parent that was seen before, and its ancestors; `None` unless they lead to pid 1.
    fn former(&mut self, first: abi::Ancestor) -> Option<Vec<abi::Ancestor>> {
        let mut chain = vec![first];
        let mut last = first;
        while last.tgid != 1 {
            last = *self.parents.get(&(last.tgid, last.start))?;
            chain.push(last);
            if chain.len() > CHAIN_MAX {
                return None;
            }
        }
        Some(chain)
    }

    /// An ancestor with the kernel's facts, and those of /proc if it still runs the same program.
    fn seen(&mut self, seen: &abi::Ancestor, counters: &mut Counters) -> Ancestor {
        let key = Key {
            pid: seen.tgid,
            start: clock::to_ticks(seen.start),
            comm: padded(seen.comm),
        };
        let known = match self.known(&key) {
            Some(known) => Some(known),
            None => match counters
                .note(Proc::find(seen.tgid, seen.start))
                .filter(|found| found.stat.comm == key.comm)
            {
                Some(found) => Some(self.describe(&found, counters)),
                // Another program or process has the pid by now.
                None => self.known.peek(&key).map(|known| known.ancestor.clone()),
            },
        };
        Ancestor {
            pid: seen.tgid,
            name: sanitize::comm(&seen.comm),
            user_id: Some(seen.uid),
            ..known.unwrap_or_default()
        }
    }

    fn found(&mut self, found: &Proc, counters: &mut Counters) -> Ancestor {
        match self.known(&Key::of(found)) {
            Some(known) => known,
            None => self.describe(found, counters),
        }
    }

    /// The described ancestor, unless its arguments or executable have changed. An ancestor without either has exited.
    fn known(&mut self, key: &Key) -> Option<Ancestor> {
        let known = self.known.get(key)?;
        let print = cmdline_and_exe(key.pid).map(|shown| self.hashing.hash_one(shown));
        (print.is_none() || print == known.print).then(|| known.ancestor.clone())
    }

    fn describe(&mut self, found: &Proc, counters: &mut Counters) -> Ancestor {
        let key = Key::of(found);
        let cmdline = counters.note(found.directory().cmdline()).unwrap_or_default();
        let exe = counters.note(found.directory().exe()).flatten();
        let print = exe.as_ref().map(|exe| self.hashing.hash_one((&cmdline, exe)));
        let (args, _cut) = Argv::of_cmdline(&cmdline).shown(self.args, ARGS_SHOWN);
        let ancestor = Ancestor {
            pid: key.pid,
            name: sanitize::comm(&key.comm),
            executable: exe.map(|path| path_shown(&path)),
            args,
            user_id: counters.note(found.ids()).map(|(uid, _gid)| uid),
        };
        let known = Known {
            ancestor: ancestor.clone(),
            print,
        };
        self.known.put(key, known);
        ancestor
    }
}

impl Key {
    fn of(found: &Proc) -> Self {
        Self {
            pid: found.pid(),
            start: found.stat.start,
            comm: found.stat.comm,
        }
    }
}

/// `comm` padded with zeroes, because older kernels leave the rest of a longer name there.
fn padded(mut comm: [u8; COMM_LEN]) -> [u8; COMM_LEN] {
    let end = comm.iter().position(|&byte| byte == 0).unwrap_or(COMM_LEN);
    if let Some(rest) = comm.get_mut(end..) {
        rest.fill(0);
    }
    comm
}

/// The current arguments and executable of `pid`, if it has both. The caller has to know which process that is.
fn cmdline_and_exe(pid: u32) -> Option<(Vec<u8>, Vec<u8>)> {
    let directory = Directory::open(pid).ok()?;
    let cmdline = directory.cmdline().ok().filter(|cmdline| !cmdline.is_empty())?;
    Some((cmdline, directory.exe().ok()??))
}

/// The current parent. A process that started after its child has merely the same pid.
fn parent(child: &Proc, counters: &mut Counters) -> Option<Proc> {
    let pid = Some(child.stat.parent).filter(|pid| *pid != 0)?;
    counters
        .note(Proc::open(pid))
        .filter(|parent| parent.stat.start <= child.stat.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_longer_name_left_behind_is_not_part_of_the_name() {
        assert_eq!(
            padded(*b"sh\0-init\0\0\0\0\0\0\0\0"),
            *b"sh\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
        );
        assert_eq!(padded([b'x'; COMM_LEN]), [b'x'; COMM_LEN]);
    }
}
