//! Identifies the process of a task: program, arguments, user, ancestors, unit, container.
//!
//! The kernel side announces a process when it connects or sends, with the facts it can read there.
//! [`Resolver::observe`] reads /proc immediately, before the process can exit, and combines both; [`Resolver::resolve`]
//! returns the result when the request arrives. The kernel's facts win; /proc adds to them. A process is identified by
//! pid and start time, so a reused pid never mixes the facts of two processes.

mod ancestry;
mod args;
mod caller;
pub mod cgroup;
mod containers;
mod executable;
pub(crate) mod helper;
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

pub(crate) use self::caller::program_of;
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
/// Maximum length of a path, in bytes.
const PATH_SHOWN: usize = 1024;

/// Bounds and masks a path. File names are chosen by users and may contain a token.
fn path_shown(path: &[u8]) -> String {
    sanitize::bounded(secrets::mask_path(&String::from_utf8_lossy(path)), PATH_SHOWN)
}

/// Settings of a [`Resolver`].
#[derive(Clone, Copy, Debug)]
pub struct ResolverSettings {
    pub args: ArgsMode,
    /// Look up users missing from `/etc/passwd` in the name service.
    pub name_service: bool,
    /// Maximum number of processes remembered, and of ancestors. The least recently used one is dropped first.
    pub capacity: usize,
}

/// Counts of irregularities, never reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Failed reads of /etc/passwd, and of files under /proc whose process still existed.
    pub failures: u64,
    /// Processes that had exited before /proc could be read, so that only the kernel's facts are known.
    pub gone: u64,
    /// Requests whose process was never announced.
    pub unannounced: u64,
    /// Container names that the runtime's files did not provide in time.
    pub container_names_overdue: u64,
    /// User names that the name service did not provide in time.
    pub user_names_overdue: u64,
}

impl Counters {
    /// Returns the value, or `None`. Counts an error unless it means that the process has exited.
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

/// Identifies the processes of tasks, and remembers them.
#[derive(Debug)]
pub struct Resolver {
    args: ArgsMode,
    processes: LruCache<Key, Entry>,
    ancestry: Ancestry,
    containers: Containers,
    hierarchies: Hierarchies,
    users: Users,
    /// Boot time on the wall clock.
    boot: SystemTime,
    /// Inode number of the host's network namespace, if it can be read.
    host_net_ns: Option<u32>,
    /// The namespaces of the host's programs.
    host: Option<executable::Host>,
    /// True if there are v1 cgroup hierarchies, of which the kernel side reads only one.
    has_cgroup_v1: bool,
    counters: Counters,
    hashing: RandomState,
}

/// Facts about a process that the kernel side announced.
#[derive(Clone, Debug, Default)]
struct Announced<'a> {
    argv: Argv<'a>,
    ancestors: &'a [abi::Ancestor],
    paths: KernelPaths,
    executable: abi::Executable,
    login: Option<(u32, u32)>,
}

/// Key of one program in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    pid: u32,
    start: u64,
    exec: u64,
}

#[derive(Debug)]
struct Entry {
    process: Arc<Process>,
    /// The kernel's name of the task.
    comm: [u8; abi::COMM_LEN],
    /// True if a later announcement of the same process could add nothing.
    complete: bool,
    announced: Print,
    /// Paths as announced. Announcements of senders have none.
    paths: KernelPaths,
}

/// Digest of an announcement. A process can change its arguments, directory and cgroup between two calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Print {
    /// `None` if the announcement had none.
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

    /// True if `later` adds nothing new.
    fn covers(self, later: Self) -> bool {
        later.argv.is_none_or(|argv| self.argv == Some(argv))
            && later.paths.is_none_or(|paths| self.paths == Some(paths))
    }

    /// The most recent digest of each part.
    fn or(self, former: Self) -> Self {
        Self {
            argv: self.argv.or(former.argv),
            paths: self.paths.or(former.paths),
        }
    }
}

impl Resolver {
    /// Reads the boot time, the host's network namespace (that of pid 1, else our own) and the cgroup hierarchies. A
    /// failed read is counted, and its fact stays unknown.
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

    /// Records what is known about an announced process. Call it as soon as the announcement is read. `names` and
    /// `argv` follow the announcement.
    pub fn observe(&mut self, owner: &abi::Owner, names: &[u8], argv: &[u8]) {
        let task = &owner.task;
        let key = Key::of(task);
        let print = Print::of(owner, names, argv, &self.hashing);
        let former = self.processes.get(&key);
        if task.tgid == 0 || former.is_some_and(|entry| entry.complete && entry.announced.covers(print)) {
            return;
        }
        // If execs are not counted, another program may have the same key, but then it has another name.
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

    /// The process of a request's task: as announced, else from /proc, else with only the facts of the task. `None`
    /// only if the task is unknown (`tgid` 0).
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

    /// The process that has `pid` now, from /proc; `None` if there is none. Not remembered.
    pub fn from_pid(&mut self, pid: u32) -> Option<Arc<Process>> {
        self.from_pid_at(pid, u64::MAX)
    }

    /// The process that had `pid` at `time` (nanoseconds since boot) and still has it.
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

    /// The host's network namespace.
    pub fn host_net_ns(&self) -> Option<u32> {
        self.host_net_ns
    }

    /// The task's process in /proc, if it is still the same process.
    fn find(&mut self, task: &abi::Task) -> Option<Proc> {
        let found = self.counters.note(Proc::find(task.tgid, task.start));
        if found.is_none() {
            self.counters.gone += 1;
        }
        found
    }

    /// Combines the kernel's facts with those of `found`.
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
        // The process may have executed another program since the announcement.
        // Name and arguments prove little; the file proves it, if the kernel side knows it.
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
        // Checks again: an exec between the two checks shows in the second one.
        let proven = !unproven || current.is_some_and(|found| found.executes(&executable));
        let executable = path_found.filter(|_| proven);
        let working_directory = path(paths.working_directory, Directory::cwd);
        // A helper that has exited cannot be checked. The repeated request itself is the proof.
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

    /// The placement from /proc, which shows all hierarchies, or from the kernel's path if the process has exited or
    /// there is only one hierarchy. For a zombie, /proc shows less than was known before.
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

    /// The placement in an earlier description of the process, whatever program it ran then.
    fn placed_before(&self, task: &abi::Task) -> Option<Placement> {
        let same = |key: &Key| key.pid == task.tgid && key.start == task.start && task.start != 0;
        let (_key, entry) = self.processes.iter().find(|(key, _)| same(key))?;
        Some(placement(&entry.process))
    }

    /// In audit, `u32::MAX` means no user and no session.
    fn login(&mut self, uid: u32, session: u32) -> Option<Login> {
        (uid != u32::MAX).then(|| Login {
            user: self.users.user(uid),
            session: Some(session).filter(|session| *session != u32::MAX),
        })
    }
}

impl Entry {
    /// A process can change its user and name between two calls, so the request's task is more recent.
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

/// The placement from a description of a process.
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
