//! Who a task is: program, arguments, user, ancestors, unit, container.
//!
//! The kernel side announces a process when it connects or sends, with what it can read there. [`Resolver::observe`]
//! looks at /proc at once, before the process can be gone, and joins the two; [`Resolver::resolve`] then finds the
//! result when the request arrives. The kernel's facts win, /proc adds to them. A process is known by its pid and start
//! time, so that a pid used again never lends its facts to the process that had it before.

mod ancestry;
mod args;
mod caller;
pub mod cgroup;
mod containers;
mod executable;
mod helper;
mod name_service;
mod network_helper;
mod paths;
pub mod sockets;
#[cfg(test)]
mod tests;
mod users;

use std::{
    hash::{BuildHasher as _, RandomState},
    io,
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use imds_analyzer_ebpf::abi;
use lru::LruCache;

use self::{
    ancestry::Ancestry,
    args::Argv,
    cgroup::{Hierarchies, Placement},
    containers::Containers,
    name_service::NameService,
    paths::KernelPaths,
    users::Users,
};
use crate::{
    event::{Login, Process, Source},
    host::{
        clock::{self, Now},
        namespace,
        proc::{self, Directory, Proc},
    },
    sanitize,
    secrets::{self, ArgsMode},
};

const PASSWD: &str = "/etc/passwd";
/// Bytes of a path that are kept at most.
const PATH_SHOWN: usize = 1024;

/// A path as it may be shown: whoever names a file may name it as they like, with a token too.
fn path_shown(path: &[u8]) -> String {
    sanitize::bounded(secrets::mask_path(&String::from_utf8_lossy(path)), PATH_SHOWN)
}

/// What a [`Resolver`] may show and keep.
#[derive(Clone, Copy, Debug)]
pub struct ResolverSettings {
    pub args: ArgsMode,
    /// Ask the name service for users that `/etc/passwd` does not have.
    pub name_service: bool,
    /// Processes remembered at most, and as many ancestors; the least recently used one goes first.
    pub capacity: usize,
}

/// What went wrong so far; nothing here is ever reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// A file under /proc could not be read although its process was there, or /etc/passwd.
    pub failures: u64,
    /// A process was gone, or its pid another's, before /proc could be read: the kernel's facts stand alone.
    pub gone: u64,
    /// A request's process had never been announced.
    pub unannounced: u64,
    /// Names of containers that their runtime's files did not give in time.
    pub container_names_overdue: u64,
    /// Names of users that the name service did not give in time.
    pub user_names_overdue: u64,
}

impl Counters {
    /// The value, or `None` and a count for an error that says more than that the process is gone.
    fn note<T>(&mut self, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                if !proc::is_gone(&error) {
                    self.failures += 1;
                    tracing::trace!(%error, "reading facts on a process");
                }
                None
            }
        }
    }
}

/// Finds out who a task is, and remembers it.
#[derive(Debug)]
pub struct Resolver {
    args: ArgsMode,
    processes: LruCache<Key, Entry>,
    ancestry: Ancestry,
    containers: Containers,
    hierarchies: Hierarchies,
    users: Users,
    /// By the wall clock.
    boot: SystemTime,
    /// Inode number of the host's network namespace, if it can be read.
    host_net_ns: Option<u32>,
    /// Where the host's programs run.
    host: Option<executable::Host>,
    /// There are cgroup hierarchies of v1, of which the kernel side reads one only.
    has_cgroup_v1: bool,
    counters: Counters,
    hashing: RandomState,
}

/// What the kernel side announced of a process.
#[derive(Clone, Debug, Default)]
struct Announced<'a> {
    argv: Argv<'a>,
    ancestors: &'a [abi::Ancestor],
    paths: KernelPaths,
    executable: abi::Executable,
    login: Option<(u32, u32)>,
}

/// One program in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    pid: u32,
    start: u64,
    exec: u64,
}

#[derive(Debug)]
struct Entry {
    process: Arc<Process>,
    /// The name as the kernel has it.
    comm: [u8; abi::COMM_LEN],
    /// Nothing that a later announcement of the same could add.
    complete: bool,
    announced: Print,
    /// As they were announced: who sends is announced without.
    paths: KernelPaths,
}

/// An announcement in short: a process can change its arguments, its directory and its cgroup between two calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Print {
    /// `None` where there were none.
    argv: Option<u64>,
    paths: Option<u64>,
}

impl Print {
    fn of(owner: &abi::Owner, names: &[u8], argv: &[u8], hashing: &RandomState) -> Self {
        let abi::Paths {
            executable_end,
            working_directory_end,
            cgroup_end,
            flags,
        } = owner.paths;
        let names = names.get(..usize::from(cgroup_end)).unwrap_or(names);
        let ends = (executable_end, working_directory_end, flags);
        Self {
            argv: (!argv.is_empty()).then(|| hashing.hash_one((owner.argv_len, argv))),
            paths: (flags != 0).then(|| hashing.hash_one((ends, names))),
        }
    }

    /// Nothing in `later` is news.
    fn covers(self, later: Self) -> bool {
        later.argv.is_none_or(|argv| self.argv == Some(argv))
            && later.paths.is_none_or(|paths| self.paths == Some(paths))
    }

    /// What was announced last of each.
    fn or(self, former: Self) -> Self {
        Self {
            argv: self.argv.or(former.argv),
            paths: self.paths.or(former.paths),
        }
    }
}

impl Resolver {
    /// Reads the clocks, the host's network namespace (that of pid 1, else our own) and which cgroups there are; what
    /// can't be read is counted and left out.
    pub fn new(settings: ResolverSettings) -> Self {
        let capacity = NonZeroUsize::new(settings.capacity).unwrap_or(NonZeroUsize::MIN);
        let mut counters = Counters::default();
        let host_net_ns = counters.note(namespace::of_host("net"));
        let own_cgroups = counters.note(Directory::own().and_then(|own| own.cgroup()));
        Self {
            args: settings.args,
            processes: LruCache::new(capacity),
            ancestry: Ancestry::new(capacity, settings.args),
            containers: Containers::new(),
            hierarchies: counters.note(Hierarchies::of_this_host()).unwrap_or_default(),
            users: Users::new(PathBuf::from(PASSWD), settings.name_service.then(NameService::new)),
            host: counters.note(executable::Host::read()),
            boot: Now::read().wall_at(0),
            host_net_ns,
            has_cgroup_v1: own_cgroups.is_none_or(|text| text.lines().any(|line| !line.starts_with("0::"))),
            counters,
            hashing: RandomState::new(),
        }
    }

    /// Takes down what is known of an announced process now; to be called as soon as the announcement is read. `names`
    /// and `argv` are what follows it.
    pub fn observe(&mut self, owner: &abi::Owner, names: &[u8], argv: &[u8]) {
        let task = &owner.task;
        let key = Key::of(task);
        let print = Print::of(owner, names, argv, &self.hashing);
        let former = self.processes.get(&key);
        if task.tgid == 0 || former.is_some_and(|entry| entry.complete && entry.announced.covers(print)) {
            return;
        }
        // Where execs are not counted another program may go by the same key: its name is another then.
        let (announced_before, paths_before) = former
            .filter(|former| former.comm == task.comm)
            .map(|former| (former.announced, former.paths.clone()))
            .unwrap_or_default();
        let ancestors = usize::try_from(owner.ancestors_len).unwrap_or(usize::MAX);
        let whole = usize::try_from(owner.argv_len).unwrap_or(usize::MAX);
        let announced = Announced {
            argv: Argv {
                bytes: argv,
                cut: whole > argv.len(),
            },
            ancestors: owner.ancestors.get(..ancestors).unwrap_or(&owner.ancestors),
            paths: KernelPaths::of(owner.paths, names).or(paths_before),
            executable: owner.executable,
            login: (owner.paths_room != 0).then_some((owner.login_uid, owner.login_session)),
        };
        let needs_proc = self.has_cgroup_v1
            || !announced.paths.is_complete()
            || !executable::is_known(&announced.executable)
            || announced.argv.cut
            || argv.is_empty()
            || ancestors == 0;
        let found = needs_proc.then(|| self.find(task)).flatten();
        let paths = announced.paths.clone();
        let process = self.describe(task, found.as_ref(), announced, Source::Kernel);
        let complete = !process.args.is_empty();
        self.processes.put(
            key,
            Entry {
                process: Arc::new(process),
                comm: task.comm,
                complete,
                announced: print.or(announced_before),
                paths,
            },
        );
    }

    /// The process of a request's task: as it was announced, else as /proc shows it, else as little as the task itself
    /// says. `None` only where nobody is known (`tgid` 0).
    pub fn resolve(&mut self, task: &abi::Task) -> Option<Arc<Process>> {
        if task.tgid == 0 {
            return None;
        }
        let key = Key::of(task);
        if let Some(entry) = self.processes.get_mut(&key) {
            entry.update(task, &mut self.users);
            return Some(Arc::clone(&entry.process));
        }
        self.counters.unannounced += 1;
        let found = self.find(task);
        let process = Arc::new(self.describe(task, found.as_ref(), Announced::default(), Source::Proc));
        self.processes.put(
            key,
            Entry {
                process: Arc::clone(&process),
                comm: task.comm,
                complete: false,
                announced: Print::default(),
                paths: KernelPaths::default(),
            },
        );
        Some(process)
    }

    /// The process that has `pid` now, as /proc shows it; `None` when there is none. Not remembered.
    pub fn from_pid(&mut self, pid: u32) -> Option<Arc<Process>> {
        self.from_pid_at(pid, u64::MAX)
    }

    /// The process that had `pid` at `time` (ns since boot) and has it still.
    pub fn from_pid_at(&mut self, pid: u32, time: u64) -> Option<Arc<Process>> {
        let found = self.counters.note(Proc::open(pid))?;
        if found.stat.start > clock::to_ticks(time) {
            return None;
        }
        let (uid, gid) = self.counters.note(found.ids())?;
        let task = abi::Task {
            start: clock::from_ticks(found.stat.start),
            tgid: pid,
            uid,
            gid,
            comm: found.stat.comm,
            ..abi::Task::default()
        };
        Some(Arc::new(self.describe(
            &task,
            Some(&found),
            Announced::default(),
            Source::Proc,
        )))
    }

    pub fn counters(&self) -> Counters {
        Counters {
            container_names_overdue: self.containers.overdue(),
            user_names_overdue: self.users.overdue(),
            ..self.counters
        }
    }

    /// For telling whether a socket is in a network namespace of its own.
    pub fn host_net_ns(&self) -> Option<u32> {
        self.host_net_ns
    }

    /// The task's process in /proc, if it is still the same one.
    fn find(&mut self, task: &abi::Task) -> Option<Proc> {
        let found = self.counters.note(Proc::find(task.tgid, task.start));
        if found.is_none() {
            self.counters.gone += 1;
        }
        found
    }

    /// Joins the kernel's facts with those of `found`.
    fn describe(
        &mut self,
        task: &abi::Task,
        found: Option<&Proc>,
        announced: Announced<'_>,
        source: Source,
    ) -> Process {
        if let Err(error) = self.users.refresh() {
            self.counters.failures += 1;
            tracing::debug!(%error, "reading {PASSWD}");
        }
        let counters = &mut self.counters;
        let Announced {
            argv,
            ancestors,
            paths,
            executable,
            login,
        } = announced;
        let cmdline = found
            .and_then(|found| counters.note(found.directory().cmdline()))
            .unwrap_or_default();
        // Since the announcement the process may have executed another program, whose name is not the caller's.
        // A name and arguments prove little, the file does where the kernel side knows it.
        let same_program = found.is_some_and(|found| {
            (found.stat.comm == task.comm || argv.agrees_with(&cmdline)) && found.executes(&executable)
        });
        let current = found.filter(|_| same_program);
        let standing = self
            .host
            .map(|host| executable::standing(host, &executable, paths.executable.as_deref(), current, counters));
        let standing = standing.unwrap_or_default();
        let mut path = |known: Option<Vec<u8>>, look: fn(&Directory) -> io::Result<Option<Vec<u8>>>| {
            let path = known.or_else(|| current.and_then(|found| counters.note(look(found.directory())).flatten()));
            path.map(|path| path_shown(&path))
        };
        let unproven = paths.executable.is_none();
        let path_found = path(paths.executable, Directory::exe);
        // Looked at again: an exec between the two looks shows in the second.
        let proven = !unproven || current.is_some_and(|found| found.executes(&executable));
        let executable = path_found.filter(|_| proven);
        let working_directory = path(paths.working_directory, Directory::cwd);
        // One that has exited cannot be asked; what it repeats proves itself, by the request that was seen before.
        let holds_tun = |counters: &mut Counters| counters.note(network_helper::holds_tun(task.tgid, task.start));
        let network_helper = executable.as_deref().is_some_and(network_helper::is_named_so)
            && holds_tun(counters).is_some_and(|holds| holds.unwrap_or(true));
        let placement = self.place(task, found, paths.cgroup);
        let argv = if same_program { argv.or_longer(&cmdline) } else { argv };
        let (args, args_truncated) = argv.shown(self.args, args::SHOWN);
        let name = sanitize::comm(&task.comm);
        let counters = &mut self.counters;
        let ancestors = self.ancestry.of(task, found, ancestors, counters);
        let facts = caller::Facts {
            name: &name,
            executable: executable.as_deref(),
            args: &args,
            working_directory: working_directory.as_deref(),
        };
        let program = caller::program(&facts, &ancestors);
        let login = login.or_else(|| counters.note(found?.directory().login()));
        Process {
            pid: task.tgid,
            caller: caller::key(&program.text, &placement),
            program: program.text,
            run_by: program.run_by,
            network_helper,
            source,
            name,
            executable,
            executable_trusted: standing.trusted,
            executable_claimed: standing.claimed,
            args,
            args_truncated,
            start: (task.start != 0).then(|| self.boot + Duration::from_nanos(task.start)),
            working_directory,
            ancestors,
            user: self.users.user(task.uid),
            group_id: Some(task.gid),
            login: login.and_then(|(uid, session)| self.login(uid, session)),
            unit: placement.unit,
            system_unit: placement.system_unit,
            slice: placement.slice,
            user_unit: placement.user_unit,
            user_slice: placement.user_slice,
            session: placement.session,
            container: placement.container,
            orchestrator: placement.orchestrator,
            user_container: placement.user_container,
        }
    }

    /// By what /proc says, which has all hierarchies; by the kernel's path where the process is gone, or where there is
    /// one hierarchy only. Of a process that waits to be waited for, /proc shows less than was known before.
    fn place(&mut self, task: &abi::Task, found: Option<&Proc>, path: Option<String>) -> Placement {
        let text = found.and_then(|found| self.counters.note(found.directory().cgroup()));
        let of_kernel = path.map(|path| cgroup::parse_path_in(&path, &self.hierarchies));
        let mut placement = match (text, of_kernel) {
            (Some(text), of_kernel) if cgroup::may_be_of_exited(&text) => {
                let before = of_kernel.or_else(|| self.placed_before(task)).unwrap_or_default();
                cgroup::parse_in(&text, &self.hierarchies).or(before)
            }
            (Some(text), _) => cgroup::parse_in(&text, &self.hierarchies),
            (None, Some(of_kernel)) => of_kernel,
            (None, None) => self.placed_before(task).unwrap_or_default(),
        };
        if let Some(container) = &mut placement.container {
            let orchestrator = placement.orchestrator.as_mut();
            self.containers.add_names(container, orchestrator, &mut self.counters);
        }
        placement
    }

    /// The place in an earlier description of the process, of whatever program it ran then.
    fn placed_before(&self, task: &abi::Task) -> Option<Placement> {
        let same = |key: &Key| key.pid == task.tgid && key.start == task.start && task.start != 0;
        let (_key, entry) = self.processes.iter().find(|(key, _)| same(key))?;
        Some(placement(&entry.process))
    }

    /// Audit's `u32::MAX` is nobody, and no session.
    fn login(&mut self, uid: u32, session: u32) -> Option<Login> {
        (uid != u32::MAX).then(|| Login {
            user: self.users.user(uid),
            session: Some(session).filter(|session| *session != u32::MAX),
        })
    }
}

impl Entry {
    /// A process can change its user and its name between two calls: what the request's own task says is newer.
    fn update(&mut self, task: &abi::Task, users: &mut Users) {
        let process = &self.process;
        let same_user = process.user.id == Some(task.uid) && process.group_id == Some(task.gid);
        if same_user && self.comm == task.comm {
            return;
        }
        self.comm = task.comm;
        let name = sanitize::comm(&task.comm);
        let facts = caller::Facts {
            name: &name,
            executable: process.executable.as_deref(),
            args: &process.args,
            working_directory: process.working_directory.as_deref(),
        };
        let program = caller::program(&facts, &process.ancestors);
        let caller = match program.text == process.program {
            true => process.caller.clone(),
            false => caller::key(&program.text, &placement(process)),
        };
        self.process = Arc::new(Process {
            name,
            program: program.text,
            run_by: program.run_by,
            caller,
            user: users.user(task.uid),
            group_id: Some(task.gid),
            ..Process::clone(process)
        });
    }
}

/// Where a process stands, as it was described.
fn placement(process: &Process) -> Placement {
    Placement {
        unit: process.unit.clone(),
        system_unit: process.system_unit.clone(),
        slice: process.slice.clone(),
        user_unit: process.user_unit.clone(),
        user_slice: process.user_slice.clone(),
        session: process.session.clone(),
        container: process.container.clone(),
        orchestrator: process.orchestrator.clone(),
        user_container: process.user_container.clone(),
    }
}

impl Key {
    fn of(task: &abi::Task) -> Self {
        Self {
            pid: task.tgid,
            start: task.start,
            exec: task.exec,
        }
    }
}
