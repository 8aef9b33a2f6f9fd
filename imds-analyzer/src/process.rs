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
mod helper;
mod name_service;
mod paths;
mod proc;
pub mod sockets;
#[cfg(test)]
mod tests;
mod users;

use std::{
    io,
    num::NonZeroUsize,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use imds_analyzer_ebpf::abi;
use lru::LruCache;
use procfs::{Current as _, Uptime};

use self::{
    ancestry::Ancestry,
    args::Argv,
    cgroup::Placement,
    containers::Containers,
    name_service::NameService,
    paths::KernelPaths,
    proc::{Proc, Ticks},
    users::Users,
};
use crate::{
    event::{Login, Process, Source},
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
    users: Users,
    ticks: Ticks,
    boot: SystemTime,
    /// Inode number of the host's network namespace, if it can be read.
    host_net_ns: Option<u32>,
    /// There are cgroup hierarchies of v1, of which the kernel side reads one only.
    has_cgroup_v1: bool,
    counters: Counters,
}

/// What the kernel side announced of a process.
#[derive(Clone, Debug, Default)]
struct Announced<'a> {
    argv: Argv<'a>,
    ancestors: &'a [abi::Ancestor],
    paths: KernelPaths,
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
    /// Nothing that a later announcement could add.
    complete: bool,
}

impl Resolver {
    /// Reads the boot time, the host's network namespace (that of pid 1, else our own) and which cgroups there are; what
    /// can't be read is counted and left out.
    pub fn new(settings: ResolverSettings) -> Self {
        let capacity = NonZeroUsize::new(settings.capacity).unwrap_or(NonZeroUsize::MIN);
        let mut counters = Counters::default();
        let uptime = counters.note(Uptime::current().map_err(proc::io_error));
        let since_boot = uptime.map(|uptime| uptime.uptime_duration()).unwrap_or_default();
        let ticks = Ticks::of_this_host();
        let host_net_ns = counters.note(namespace_inode("/proc/1/ns/net").or_else(|_denied| {
            // Without ptrace rights over pid 1; where we run is then the best guess.
            namespace_inode("/proc/self/ns/net")
        }));
        let own_cgroups = counters.note(std::fs::read_to_string("/proc/self/cgroup"));
        let name_service = settings.name_service.then(NameService::start);
        Self {
            args: settings.args,
            processes: LruCache::new(capacity),
            ancestry: Ancestry::new(capacity, ticks, settings.args),
            containers: Containers::new(),
            users: Users::new(
                PathBuf::from(PASSWD),
                name_service.and_then(|service| counters.note(service)),
            ),
            ticks,
            boot: SystemTime::now() - since_boot,
            host_net_ns,
            has_cgroup_v1: own_cgroups.is_none_or(|text| text.lines().any(|line| !line.starts_with("0::"))),
            counters,
        }
    }

    /// Takes down what is known of an announced process now; to be called as soon as the announcement is read. `names`
    /// and `argv` are what follows it.
    pub fn observe(&mut self, owner: &abi::Owner, names: &[u8], argv: &[u8]) {
        let task = &owner.task;
        let key = Key::of(task);
        if task.tgid == 0 || self.processes.get(&key).is_some_and(|entry| entry.complete) {
            return;
        }
        let ancestors = usize::try_from(owner.ancestors_len).unwrap_or(usize::MAX);
        let whole = usize::try_from(owner.argv_len).unwrap_or(usize::MAX);
        let announced = Announced {
            argv: Argv {
                bytes: argv,
                cut: whole > argv.len(),
            },
            ancestors: owner.ancestors.get(..ancestors).unwrap_or(&owner.ancestors),
            paths: KernelPaths::of(owner.paths, names),
            login: (owner.paths_room != 0).then_some((owner.login_uid, owner.login_session)),
        };
        let needs_proc = self.has_cgroup_v1
            || !announced.paths.is_complete()
            || announced.argv.cut
            || argv.is_empty()
            || ancestors == 0;
        let found = needs_proc.then(|| self.find(task)).flatten();
        let process = self.describe(task, found.as_ref(), announced, Source::Kernel);
        let complete = !process.args.is_empty();
        self.processes.put(
            key,
            Entry {
                process: Arc::new(process),
                comm: task.comm,
                complete,
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
            },
        );
        Some(process)
    }

    /// The process that has `pid` now, as /proc shows it; `None` when there is none. Not remembered.
    pub fn from_pid(&mut self, pid: u32) -> Option<Arc<Process>> {
        let found = self.counters.note(Proc::open(pid))?;
        let (uid, gid) = self.counters.note(found.ids())?;
        let task = abi::Task {
            start: self.ticks.to_nanoseconds(found.stat.start),
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
        self.counters
    }

    /// For telling whether a socket is in a network namespace of its own.
    pub fn host_net_ns(&self) -> Option<u32> {
        self.host_net_ns
    }

    /// The task's process in /proc, if it is still the same one.
    fn find(&mut self, task: &abi::Task) -> Option<Proc> {
        let found = proc::find(task.tgid, task.start, self.ticks, &mut self.counters);
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
            login,
        } = announced;
        let cmdline = found
            .and_then(|found| counters.note(found.cmdline()))
            .unwrap_or_default();
        // Since the announcement the process may have executed another program, whose name is not the caller's.
        let same_program = found.is_some_and(|found| found.stat.comm == task.comm || argv.agrees_with(&cmdline));
        let current = found.filter(|_| same_program);
        let mut path = |known: Option<Vec<u8>>, look: fn(&Proc) -> io::Result<Option<Vec<u8>>>| {
            let path = known.or_else(|| current.and_then(|found| counters.note(look(found)).flatten()));
            path.map(|path| path_shown(&path))
        };
        let executable = path(paths.executable, Proc::exe);
        let working_directory = path(paths.working_directory, Proc::cwd);
        // One that has exited cannot be asked; what it repeats proves itself, by the request that was seen before.
        let holds_tun = |counters: &mut Counters| counters.note(helper::holds_tun(task.tgid));
        let network_helper = executable.as_deref().is_some_and(helper::is_named_so)
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
        let login = login.or_else(|| counters.note(found?.login()));
        Process {
            pid: task.tgid,
            caller: caller::key(&program.text, &placement),
            program: program.text,
            run_by: program.run_by,
            network_helper,
            source,
            name,
            executable,
            args,
            args_truncated,
            start: (task.start != 0).then(|| self.boot + Duration::from_nanos(task.start)),
            working_directory,
            ancestors,
            user: self.users.user(task.uid),
            group_id: Some(task.gid),
            login: login.and_then(|(uid, session)| self.login(uid, session)),
            unit: placement.unit,
            slice: placement.slice,
            user_unit: placement.user_unit,
            user_slice: placement.user_slice,
            session: placement.session,
            container: placement.container,
            orchestrator: placement.orchestrator,
        }
    }

    /// By what /proc says, which has all hierarchies; by the kernel's path where the process is gone, or where there is
    /// one hierarchy only. Of a process that waits to be waited for, /proc shows less than was known before.
    fn place(&mut self, task: &abi::Task, found: Option<&Proc>, path: Option<String>) -> Placement {
        let text = found.and_then(|found| self.counters.note(found.cgroup()));
        let of_kernel = path.map(|path| cgroup::parse_path(&path));
        let mut placement = match (text, of_kernel) {
            (Some(text), of_kernel) if cgroup::may_be_of_exited(&text) => {
                let before = of_kernel.or_else(|| self.placed_before(task)).unwrap_or_default();
                cgroup::parse(&text).or(before)
            }
            (Some(text), _) => cgroup::parse(&text),
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
        let process = &entry.process;
        Some(Placement {
            unit: process.unit.clone(),
            slice: process.slice.clone(),
            user_unit: process.user_unit.clone(),
            user_slice: process.user_slice.clone(),
            session: process.session.clone(),
            container: process.container.clone(),
            orchestrator: process.orchestrator.clone(),
        })
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
        self.process = Arc::new(Process {
            name: sanitize::comm(&task.comm),
            user: users.user(task.uid),
            group_id: Some(task.gid),
            ..Process::clone(process)
        });
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

/// Whether /proc has the numbers that the kernel side has.
pub fn in_first_pid_namespace() -> bool {
    /// `PROC_PID_INIT_INO`, include/linux/proc_ns.h.
    const FIRST: u32 = 0xeffffffc;
    namespace_inode("/proc/self/ns/pid").is_ok_and(|inode| inode == FIRST)
}

/// Inode number of the namespace that a link under `/proc/<pid>/ns` leads to.
fn namespace_inode(path: &str) -> io::Result<u32> {
    u32::try_from(std::fs::metadata(path)?.ino()).map_err(io::Error::other)
}
