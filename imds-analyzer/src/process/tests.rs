#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use imds_analyzer_ebpf::abi::{self, ANCESTORS_MAX, Ancestor, COMM_LEN, Owner, Paths, Task, path_flags};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use zerocopy::FromZeros as _;

use super::{Resolver, ResolverSettings, cgroup::Hierarchies};
use crate::{
    event::Source,
    host::{
        clock,
        proc::{Directory, Proc},
    },
    secrets::ArgsMode,
};

/// A process group that is killed at the end of the test.
struct Running(Child);

impl Running {
    /// Runs `script` in a shell, and waits until it has printed a line: the pid it wants to show.
    fn shell(script: &str) -> (Self, u32) {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let running = Self(child);
        (running, line.trim().parse().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The group belongs to a child that was not waited for yet; it may have ended.
        let _ended = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        self.0.wait().unwrap();
    }
}

/// Waits until the shell's child runs its program: it is the shell at first, and exec changes its name some time before
/// its arguments.
fn until_it_runs(pid: u32, cmdline: &[u8]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Directory::open(pid).unwrap().cmdline().unwrap() != cmdline {
        assert!(Instant::now() < deadline, "{pid} should have become {cmdline:?}");
        std::thread::yield_now();
    }
}

fn resolver() -> Resolver {
    let mut resolver = Resolver::new(ResolverSettings {
        args: ArgsMode::Redacted,
        name_service: false,
        capacity: 100,
    });
    // Cgroups invented in these tests have no directories.
    resolver.hierarchies = Hierarchies::default();
    resolver
}

fn comm(name: &str) -> [u8; COMM_LEN] {
    let mut comm = [0; COMM_LEN];
    comm.get_mut(..name.len()).unwrap().copy_from_slice(name.as_bytes());
    comm
}

/// The task that the kernel side would announce for `pid`: its start time is finer than /proc's.
fn task(pid: u32) -> Task {
    let stat = Proc::open(pid).unwrap().stat;
    Task {
        start: clock::from_ticks(stat.start) + 4321,
        exec: 1,
        tgid: pid,
        tid: pid,
        comm: stat.comm,
        ..Task::default()
    }
}

fn owner(task: Task, argv: &[u8], ancestors: &[Ancestor]) -> Owner {
    let mut owner = Owner::new_zeroed();
    owner.task = task;
    owner.argv_len = argv.len().try_into().unwrap();
    owner.ancestors_len = ancestors.len().try_into().unwrap();
    owner
        .ancestors
        .get_mut(..ancestors.len())
        .unwrap()
        .copy_from_slice(ancestors);
    owner
}

fn pid_of_this_test() -> u32 {
    std::process::id()
}

#[test]
fn a_running_process_is_described_with_its_ancestors_to_pid_1() {
    let (shell, pid) = Running::shell("sleep 60 & echo $!; wait");
    until_it_runs(pid, b"sleep\x0060\0");
    let mut resolver = resolver();
    let task = task(pid);
    resolver.observe(&owner(task, b"", &[]), &[], b"");
    let process = resolver.resolve(&task).unwrap();

    assert_eq!(process.name, "sleep");
    assert!(process.executable.as_deref().unwrap().starts_with("/"), "{process:?}");
    assert_eq!(process.args, ["sleep", "60"]);
    assert!(!process.args_truncated);
    assert_eq!(process.user.id, Some(0));
    assert_eq!(process.user.name.as_deref(), Some("root"));
    assert_eq!(process.group_id, Some(0));
    assert_eq!(
        process.working_directory.as_deref(),
        std::env::current_dir().unwrap().to_str()
    );
    let age = SystemTime::now().duration_since(process.start.unwrap()).unwrap();
    assert!(age < Duration::from_secs(60), "started {age:?} ago");
    let parents: Vec<u32> = process.ancestors.iter().map(|ancestor| ancestor.pid).collect();
    assert!(parents.starts_with(&[shell.0.id(), pid_of_this_test()]), "{parents:?}");
    assert_eq!(parents.last(), Some(&1));
    let parent = process.ancestors.first().unwrap();
    assert_eq!(parent.name, "sh");
    assert_eq!(parent.args, ["sh", "-c", "sleep 60 & echo $!; wait"]);
    assert_eq!(parent.user_id, Some(0));
    assert!(parent.executable.is_some());
    let counters = resolver.counters();
    assert_eq!((counters.gone, counters.unannounced), (0, 0));
}

#[test]
fn the_kernel_s_facts_outlive_the_process() {
    let mut resolver = resolver();
    let gone = Task {
        start: 4321,
        exec: 1,
        tgid: 4_194_304,
        uid: 0,
        gid: 7,
        comm: comm("curl"),
        ..Task::default()
    };
    let this = task(pid_of_this_test());
    let parents = [
        Ancestor {
            start: 1234,
            tgid: 4_194_303,
            uid: 5,
            comm: comm("gone-parent"),
        },
        Ancestor {
            start: this.start,
            tgid: this.tgid,
            uid: 0,
            comm: this.comm,
        },
    ];
    let argv = b"curl\0-H\0X-aws-ec2-metadata-token: AQtoken\0http://169.254.169.254/\0";
    resolver.observe(&owner(gone, argv, &parents), &[], argv);
    let process = resolver.resolve(&gone).unwrap();

    assert_eq!(process.name, "curl");
    assert_eq!(
        process.args,
        ["curl", "-H", "X-aws-ec2-metadata-token: ***", "http://169.254.169.254/"]
    );
    assert_eq!(
        (process.executable.as_deref(), process.working_directory.as_deref()),
        (None, None)
    );
    assert_eq!(process.group_id, Some(7));
    let [gone_parent, this_test, .., last] = process.ancestors.as_slice() else {
        unreachable!("{process:?}")
    };
    assert_eq!(
        (gone_parent.pid, gone_parent.name.as_str(), gone_parent.user_id),
        (4_194_303, "gone-parent", Some(5))
    );
    assert!(gone_parent.args.is_empty());
    assert!(this_test.executable.is_some() && !this_test.args.is_empty());
    assert_eq!(last.pid, 1);
    assert_eq!(resolver.counters().gone, 1);
}

#[test]
fn what_the_kernel_read_of_files_outlives_the_process() {
    let mut resolver = resolver();
    let gone = Task {
        start: 4321,
        exec: 1,
        tgid: 4_194_304,
        comm: comm("python3"),
        ..Task::default()
    };
    let names = b"python3.11\0bin\0usr\0app\0opt\0app.service\0system.slice\0and what was there before";
    let argv = b"python3\0run.py\0";
    let mut announced = owner(gone, argv, &[]);
    announced.paths_room = names.len().try_into().unwrap();
    announced.paths = Paths {
        executable_end: 19,
        working_directory_end: 27,
        cgroup_end: 52,
        flags: path_flags::EXECUTABLE | path_flags::WORKING_DIRECTORY | path_flags::CGROUP,
    };
    (announced.login_uid, announced.login_session) = (0, 7);
    resolver.observe(&announced, names, argv);
    let process = resolver.resolve(&gone).unwrap();
    assert_eq!(process.source, Source::Kernel);
    assert_eq!(process.executable.as_deref(), Some("/usr/bin/python3.11"));
    assert_eq!(process.working_directory.as_deref(), Some("/opt/app"));
    assert_eq!(process.unit.as_deref(), Some("app.service"));
    assert_eq!(process.slice.as_deref(), Some("system.slice"));
    assert_eq!(process.caller, "/opt/app/run.py (app.service)");
    let login = process.login.clone().unwrap();
    assert_eq!((login.user.name.as_deref(), login.session), (Some("root"), Some(7)));

    // Nobody logged in, and no paths were read.
    let mut other = announced;
    other.task.exec = 2;
    (other.login_uid, other.paths.flags) = (u32::MAX, 0);
    resolver.observe(&other, names, argv);
    let process = resolver.resolve(&other.task).unwrap();
    assert_eq!((process.executable.clone(), process.login.clone()), (None, None));
    assert_eq!(
        process.caller, "[run.py] (app.service)",
        "the working directory is not known, its place was"
    );
}

/// Facts about the executable that the kernel side read along with its path.
#[test]
fn the_kernel_s_facts_on_a_file_decide_whether_it_is_trusted() {
    let mut resolver = resolver();
    let host = resolver.host.unwrap();
    let names = b"agent\0bin\0usr\0";
    let mut announced = owner(
        Task {
            start: 4321,
            tgid: 4_194_304,
            comm: comm("agent"),
            ..Task::default()
        },
        b"agent\0",
        &[],
    );
    announced.paths = Paths {
        executable_end: 14,
        flags: path_flags::EXECUTABLE,
        ..Paths::default()
    };
    let real = abi::Executable {
        inode: 77,
        uid: 0,
        mode: libc::S_IFREG | 0o755,
        mount_ns: host.mount_ns,
        user_ns: host.user_ns,
        ..abi::Executable::default()
    };
    let mut described = |executable: abi::Executable, flags: u16| {
        announced.executable = executable;
        announced.paths.flags = flags;
        announced.task.exec += 1;
        resolver.observe(&announced, names, b"agent\0");
        let process = resolver.resolve(&announced.task).unwrap();
        (process.executable_trusted, process.executable_claimed)
    };
    assert_eq!(described(real, path_flags::EXECUTABLE), (true, false));
    // Without a path nothing is trusted, nor without facts from the kernel side.
    assert_eq!(described(real, 0), (false, false));
    assert_eq!(
        described(abi::Executable::default(), path_flags::EXECUTABLE),
        (false, false)
    );
    let mine = abi::Executable { uid: 1000, ..real };
    assert_eq!(described(mine, path_flags::EXECUTABLE), (false, false));
    let bound = abi::Executable {
        mount_ns: host.mount_ns + 1,
        ..real
    };
    assert_eq!(described(bound, path_flags::EXECUTABLE), (false, false));
    let forged = abi::Executable {
        user_ns: host.user_ns - 1,
        ..real
    };
    assert_eq!(described(forged, path_flags::EXECUTABLE), (false, true));
}

/// Without the kernel's facts, /proc provides them as long as the process runs the same program.
#[test]
fn proc_vouches_for_a_running_program_of_roots() {
    let (shell, _) = Running::shell("echo 0; exec sleep 60.5");
    let pid = shell.0.id();
    until_it_runs(pid, b"sleep\x0060.5\0");
    let mut resolver = resolver();
    let process = resolver.from_pid(pid).unwrap();
    assert!(process.executable_trusted && !process.executable_claimed, "{process:?}");

    // The kernel side saw another path or another file: this program is not the one that called.
    let mut announced = owner(task(pid), b"sleep\x0060.5\0", &[]);
    announced.paths = Paths {
        executable_end: 14,
        flags: path_flags::EXECUTABLE,
        ..Paths::default()
    };
    resolver.observe(&announced, b"agent\0bin\0usr\0", b"sleep\x0060.5\0");
    let process = resolver.resolve(&announced.task).unwrap();
    assert_eq!(
        (process.executable.as_deref(), process.executable_trusted),
        (Some("/usr/bin/agent"), false)
    );
    announced.task.exec += 1;
    announced.paths.flags = 0;
    announced.executable = abi::Executable {
        inode: 1,
        mount_ns: 1,
        user_ns: 1,
        ..abi::Executable::default()
    };
    resolver.observe(&announced, b"", b"sleep\x0060.5\0");
    assert!(!resolver.resolve(&announced.task).unwrap().executable_trusted);
}

#[test]
fn an_orphan_keeps_its_parent_as_long_as_that_leads_to_pid_1() {
    let mut resolver = resolver();
    let ancestor = |tgid, name: &str| Ancestor {
        start: u64::from(tgid),
        tgid,
        uid: 0,
        comm: comm(name),
    };
    let [init, cron, shell] = [ancestor(1, "init"), ancestor(40, "cron"), ancestor(50, "sh")];
    let mut task = Task {
        start: 4321,
        tgid: 4_194_304,
        comm: comm("worker"),
        ..Task::default()
    };
    let mut chain = |exec: u64, seen: &[Ancestor]| {
        task.exec = exec;
        resolver.observe(&owner(task, b"worker\0", seen), &[], b"worker\0");
        let process = resolver.resolve(&task).unwrap();
        process.ancestors.iter().map(|it| it.pid).collect::<Vec<_>>()
    };
    assert_eq!(chain(1, &[shell, cron, init]), [50, 40, 1]);
    assert_eq!(chain(2, &[init]), [50, 40, 1], "the shell has exited");
    // A reused pid is another process.
    let other = Ancestor { start: 51, ..shell };
    assert_eq!(
        chain(3, &[other, init]),
        [50, 40, 1],
        "whoever adopted it did not start it"
    );
}

#[test]
fn a_pid_used_again_lends_nothing() {
    let mut resolver = resolver();
    let now = task(pid_of_this_test());
    let before = Task {
        start: now.start - 1_000_000_000,
        comm: comm("earlier"),
        ..now
    };
    let parent = Ancestor {
        start: before.start,
        tgid: before.tgid,
        uid: 0,
        comm: comm("earlier"),
    };
    resolver.observe(&owner(before, b"", &[parent]), &[], b"");
    let earlier = resolver.resolve(&before).unwrap();
    let this = resolver.resolve(&now).unwrap();

    assert_eq!(earlier.name, "earlier");
    assert_eq!(
        (earlier.executable.as_deref(), earlier.args.as_slice()),
        (None, [].as_slice())
    );
    let [parent] = earlier.ancestors.as_slice() else {
        unreachable!("{earlier:?}")
    };
    assert_eq!(
        (parent.executable.as_deref(), parent.args.as_slice()),
        (None, [].as_slice())
    );
    assert!(this.executable.is_some() && !this.args.is_empty());
    // A start time that could not be read proves nothing.
    assert_eq!(resolver.resolve(&Task { start: 0, ..now }).unwrap().executable, None);
}

#[test]
fn another_program_in_the_same_process_is_not_the_caller() {
    let mut resolver = resolver();
    let before = Task {
        comm: comm("wget"),
        ..task(pid_of_this_test())
    };
    let argv = b"wget\0http://169.254.169.254/\0";
    resolver.observe(&owner(before, argv, &[]), &[], argv);
    let process = resolver.resolve(&before).unwrap();
    assert_eq!((process.name.as_str(), process.executable.as_deref()), ("wget", None));
    assert_eq!(process.args, ["wget", "http://169.254.169.254/"]);

    let after = Task {
        exec: 2,
        ..task(pid_of_this_test())
    };
    assert!(resolver.resolve(&after).unwrap().executable.is_some());
}

#[test]
fn a_lost_announcement_is_made_up_for_and_a_late_one_completes() {
    let mut resolver = resolver();
    let task = task(pid_of_this_test());
    let process = resolver.resolve(&task).unwrap();
    assert!(!process.args.is_empty());
    assert_eq!(process.ancestors.last().unwrap().pid, 1);
    assert_eq!(resolver.counters().unannounced, 1);
    assert!(Arc::ptr_eq(&process, &resolver.resolve(&task).unwrap()), "cached");

    let gone = Task {
        start: 4321,
        tgid: 4_194_304,
        comm: comm("short"),
        ..Task::default()
    };
    assert_eq!(resolver.resolve(&gone).unwrap().name, "short");
    resolver.observe(&owner(gone, b"short\0-v\0", &[]), &[], b"short\0-v\0");
    assert_eq!(resolver.resolve(&gone).unwrap().args, ["short", "-v"]);
    assert_eq!(resolver.resolve(&Task::default()), None);
}

#[test]
fn argv_that_the_kernel_cut_is_completed_from_proc_or_marked() {
    let (shell, _) = Running::shell("echo 0; exec sleep 60.000");
    let pid = shell.0.id();
    until_it_runs(pid, b"sleep\x0060.000\0");
    let mut resolver = resolver();
    let running = task(pid);
    let mut announced = owner(running, b"sleep\0", &[]);
    announced.argv_len = 13;
    resolver.observe(&announced, &[], b"sleep\0");
    let process = resolver.resolve(&running).unwrap();
    assert_eq!(
        (process.args.join(" ").as_str(), process.args_truncated),
        ("sleep 60.000", false)
    );

    let mut gone = announced;
    gone.task.tgid = 4_194_304;
    resolver.observe(&gone, &[], b"sleep\0AQAEAAAAAAAAAAAAAAAAAAAAAAA");
    let process = resolver.resolve(&gone.task).unwrap();
    assert_eq!(
        (process.args.join(" ").as_str(), process.args_truncated),
        ("sleep AQAEAAAAAAAAAAAAAAAAAAAAAAA", false)
    );

    gone.task.tgid -= 1;
    gone.argv_len = 5000;
    resolver.observe(&gone, &[], b"sleep\0AQAEAAAAAAAAAAAAAAAAAAAAAAA");
    let process = resolver.resolve(&gone.task).unwrap();
    assert_eq!(
        (process.args.join(" ").as_str(), process.args_truncated),
        ("sleep ***…", true)
    );
}

#[test]
fn a_chain_deeper_than_the_kernel_s_bound_is_continued() {
    let mut script = "sleep 60 & echo $!; wait".to_owned();
    for _ in 0..5 {
        script = format!("sh -c '{}'; :", script.replace('\'', "'\\''"));
    }
    let (_shell, pid) = Running::shell(&script);
    let mut resolver = resolver();
    let from_proc = resolver.from_pid(pid).unwrap();
    assert_eq!(from_proc.ancestors.last().unwrap().pid, 1);
    assert!(from_proc.ancestors.len() > 7, "{:?}", from_proc.ancestors);

    let seen: Vec<Ancestor> = from_proc.ancestors[..3]
        .iter()
        .map(|ancestor| {
            let task = task(ancestor.pid);
            Ancestor {
                start: task.start,
                tgid: task.tgid,
                uid: 0,
                comm: task.comm,
            }
        })
        .collect();
    let task = task(pid);
    resolver.observe(&owner(task, b"", &seen), &[], b"");
    assert_eq!(resolver.resolve(&task).unwrap().ancestors, from_proc.ancestors);
    assert!(seen.len() < ANCESTORS_MAX);
}

#[test]
fn output_is_bounded_and_memory_too() {
    let mut resolver = Resolver::new(ResolverSettings {
        args: ArgsMode::Full,
        name_service: false,
        capacity: 2,
    });
    let argv = [b"\xff".repeat(4000), vec![0; 40], b"x\0".to_vec()].concat();
    for pid in 0..10 {
        let gone = Task {
            start: 4321,
            tgid: 4_194_304 - pid,
            comm: comm("x"),
            ..Task::default()
        };
        resolver.observe(&owner(gone, &argv, &[]), &[], &argv);
        let process = resolver.resolve(&gone).unwrap();
        assert!(process.args.concat().len() <= 4096);
        assert!(process.args_truncated);
    }
    assert_eq!(resolver.processes.len(), 2);
}

#[test]
fn a_rewritten_title_has_no_empty_arguments() {
    let mut resolver = resolver();
    for (argv, expected) in [
        (b"nginx: worker\0\0\0\0\0\0".as_slice(), vec!["nginx: worker"]),
        (b"app\0\0", vec!["app", ""]),
        (b"app\0", vec!["app"]),
        (b"app\0-x", vec!["app", "-x"]),
    ] {
        let exec = argv.len().try_into().unwrap();
        let gone = Task {
            start: 4321,
            exec,
            tgid: 4_194_304,
            ..Task::default()
        };
        resolver.observe(&owner(gone, argv, &[]), &[], argv);
        assert_eq!(resolver.resolve(&gone).unwrap().args, expected);
    }
}

#[test]
fn the_host_s_network_is_that_in_which_tests_run() {
    assert_eq!(
        resolver().host_net_ns(),
        Some(Directory::own().unwrap().namespace("ns/net").unwrap())
    );
}

#[test]
fn nobody_has_a_pid_beyond_the_limit() {
    assert_eq!(resolver().from_pid(4_194_304), None);
    assert_eq!(resolver().from_pid(u32::MAX), None);
    assert_eq!(resolver().from_pid(pid_of_this_test()).unwrap().pid, pid_of_this_test());
}

/// A process that has exited, announced with the paths of `names`.
fn announced_with_paths(task: Task, argv: &[u8], names: &[u8], ends: [u16; 3]) -> Owner {
    let mut announced = owner(task, argv, &[]);
    announced.paths_room = names.len().try_into().unwrap();
    let [executable_end, working_directory_end, cgroup_end] = ends;
    announced.paths = Paths {
        executable_end,
        working_directory_end,
        cgroup_end,
        flags: path_flags::EXECUTABLE | path_flags::WORKING_DIRECTORY | path_flags::CGROUP,
    };
    announced
}

#[test]
fn what_is_announced_later_is_as_of_the_later_call() {
    let mut resolver = resolver();
    let gone = Task {
        start: 4321,
        exec: 1,
        tgid: 4_194_304,
        comm: comm("worker"),
        ..Task::default()
    };
    let names = b"worker\0bin\0app\0opt\0a.service\0system.slice\0";
    let moved = b"worker\0bin\0app\0opt\0b.service\0system.slice\0";
    let ends = [11, 19, 42];
    let mut step = |argv: &[u8], names: Option<&[u8]>| {
        match names {
            Some(names) => resolver.observe(&announced_with_paths(gone, argv, names, ends), names, argv),
            None => resolver.observe(&owner(gone, argv, &[]), &[], argv),
        }
        resolver.resolve(&gone).unwrap()
    };
    let first = step(b"worker\0idle\0", Some(names));
    assert_eq!(first.args, ["worker", "idle"]);
    assert_eq!(first.unit.as_deref(), Some("a.service"));
    assert!(
        Arc::ptr_eq(&first, &step(b"worker\0idle\0", Some(names))),
        "nothing new"
    );
    assert!(
        Arc::ptr_eq(&first, &step(b"worker\0idle\0", None)),
        "who sends comes without paths"
    );
    assert!(
        Arc::ptr_eq(&first, &step(b"", None)),
        "argv that could not be read is none"
    );

    // setproctitle(3), announced as a sender.
    let retitled = step(b"worker: job 7\0", None);
    assert_eq!(retitled.args, ["worker: job 7"]);
    assert_eq!(retitled.executable, first.executable, "a title changes no path");
    assert_eq!(retitled.unit, first.unit);
    assert!(Arc::ptr_eq(&retitled, &step(b"worker: job 7\0", Some(names))));
    // The process has moved to another cgroup.
    let moved = step(b"worker: job 7\0", Some(moved));
    assert_eq!(
        (moved.args.clone(), moved.unit.as_deref()),
        (retitled.args.clone(), Some("b.service"))
    );
    // Then back to the first one.
    assert_eq!(step(b"worker\0idle\0", Some(names)).args, ["worker", "idle"]);
    assert_eq!(first.args, ["worker", "idle"], "what was written stays");
}

#[test]
fn a_longer_argv_that_begins_alike_is_another() {
    let mut resolver = resolver();
    let gone = Task {
        start: 4321,
        exec: 1,
        tgid: 4_194_304,
        ..Task::default()
    };
    let mut args = |argv: &[u8], whole: u32| {
        let mut announced = owner(gone, argv, &[]);
        announced.argv_len = whole;
        resolver.observe(&announced, &[], argv);
        let process = resolver.resolve(&gone).unwrap();
        (process.args.join(" "), process.args_truncated)
    };
    assert_eq!(args(b"a\0b\0", 4), ("a b".to_owned(), false));
    assert_eq!(args(b"a\0b\0c\0", 6), ("a b c".to_owned(), false));
    assert!(args(b"a\0b\0c\0", 5000).1, "cut");
    assert_eq!(args(b"a\0", 2), ("a".to_owned(), false));
}

#[test]
fn an_exec_that_is_counted_is_another_program_whatever_it_shows() {
    let mut resolver = resolver();
    let program = |exec, name| Task {
        start: 4321,
        exec,
        tgid: 4_194_304,
        comm: comm(name),
        ..Task::default()
    };
    for (exec, name, argv) in [
        (1, "python3", &b"python3\0a.py\0"[..]),
        (2, "sleep", b"sleep\x001\0"),
        (3, "python3", b"python3\0b.py\0"),
    ] {
        resolver.observe(&owner(program(exec, name), argv, &[]), &[], argv);
    }
    let args = [1, 2, 3].map(|exec| resolver.resolve(&program(exec, "python3")).unwrap().args.join(" "));
    assert_eq!(args, ["python3 a.py", "sleep 1", "python3 b.py"]);
}

#[test]
fn user_group_and_name_are_those_of_the_request() {
    let mut resolver = resolver();
    let gone = Task {
        start: 4321,
        exec: 1,
        tgid: 4_194_304,
        uid: 0,
        gid: 0,
        comm: comm("before"),
        ..Task::default()
    };
    resolver.observe(&owner(gone, b"tool\0-v\0", &[]), &[], b"tool\0-v\0");
    assert_eq!(resolver.resolve(&gone).unwrap().caller, "[before]");
    for (uid, gid, name) in [(0, 0, "after"), (65_534, 65_534, "after"), (0, 7, "before")] {
        let now = Task {
            uid,
            gid,
            comm: comm(name),
            ..gone
        };
        let process = resolver.resolve(&now).unwrap();
        assert_eq!((process.user.id, process.group_id), (Some(uid), Some(gid)));
        assert_eq!(
            (process.name.as_str(), process.caller.clone()),
            (name, format!("[{name}]"))
        );
        assert_eq!(process.args, ["tool", "-v"]);
        let user = if uid == 0 { "root" } else { "nobody" };
        assert_eq!(process.user.name.as_deref(), Some(user));
    }
    // A known executable keeps its name, and its place.
    let names = b"worker\0bin\0app\0opt\0a.service\0system.slice\0";
    let known = Task { exec: 2, ..gone };
    resolver.observe(
        &announced_with_paths(known, b"worker\0", names, [11, 19, 42]),
        names,
        b"worker\0",
    );
    let renamed = Task {
        comm: comm("other"),
        ..known
    };
    let process = resolver.resolve(&renamed).unwrap();
    assert_eq!(
        (process.name.as_str(), process.caller.as_str()),
        ("other", "/bin/worker (a.service)")
    );
}

#[test]
fn a_path_from_proc_is_that_of_the_announced_file_or_none() {
    use std::os::unix::fs::MetadataExt as _;

    let mut resolver = resolver();
    let file = std::fs::metadata("/proc/self/exe").unwrap();
    let right = (file.ino(), libc::major(file.dev()) << 20 | libc::minor(file.dev()));
    let mut process = |exec, (inode, device): (u64, u32)| {
        let task = Task {
            exec,
            ..task(pid_of_this_test())
        };
        let mut announced = owner(task, b"kernel\0", &[]);
        (announced.executable.inode, announced.executable.device) = (inode, device);
        resolver.observe(&announced, &[], b"kernel\0");
        resolver.resolve(&task).unwrap()
    };
    assert!(process(1, right).executable.is_some());
    assert!(process(2, (0, 0)).executable.is_some(), "the kernel side knows of none");
    for (exec, wrong) in [(3, (right.0 + 1, right.1)), (4, (right.0, right.1 ^ 8 << 20))] {
        let process = process(exec, wrong);
        assert_eq!(
            (process.executable.as_deref(), process.working_directory.as_deref()),
            (None, None)
        );
        assert_eq!(process.args, ["kernel"]);
    }
}

#[test]
fn a_shell_that_executes_a_shell_is_another_ancestor() {
    let (shell, child) = Running::shell("trap 'exec sh -c \"sleep 60; :\" second' USR1; sleep 60 & echo $!; wait");
    let pid = shell.0.id();
    let mut resolver = resolver();
    let parent_as_seen = task(pid);
    let seen = Ancestor {
        start: parent_as_seen.start,
        tgid: pid,
        uid: 0,
        comm: parent_as_seen.comm,
    };
    let parent = |resolver: &mut Resolver, exec| {
        let child = Task {
            start: 4321,
            exec,
            tgid: 4_194_304,
            comm: comm("child"),
            ..Task::default()
        };
        resolver.observe(&owner(child, b"child\0", &[seen]), &[], b"child\0");
        let process = resolver.resolve(&child).unwrap();
        process.ancestors.first().unwrap().args.join(" ")
    };
    assert!(parent(&mut resolver, 1).contains("trap"));
    assert!(parent(&mut resolver, 2).contains("trap"));
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::USR1).unwrap();
    until_it_runs(pid, b"sh\0-c\0sleep 60; :\0second\0");
    assert_eq!(task(pid).comm, parent_as_seen.comm);
    assert_eq!(parent(&mut resolver, 3), "sh -c sleep 60; : second");
    // The same from /proc alone, above the sleeping child.
    let from_proc = resolver.from_pid(child).unwrap();
    assert_eq!(
        from_proc.ancestors.first().unwrap().args.join(" "),
        "sh -c sleep 60; : second"
    );
    drop(shell);
    assert_eq!(
        parent(&mut resolver, 4),
        "sh -c sleep 60; : second",
        "as it was when it was there"
    );
}

#[test]
fn a_shell_that_becomes_something_else_was_a_shell() {
    let (shell, _) = Running::shell("trap 'exec sleep 60' USR1; sleep 60 & echo $!; wait");
    let pid = shell.0.id();
    let mut resolver = resolver();
    let parent = task(pid);
    let seen = Ancestor {
        start: parent.start,
        tgid: pid,
        uid: 0,
        comm: parent.comm,
    };
    let mut parent_of = |exec| {
        let child = Task {
            start: 4321,
            exec,
            tgid: 4_194_304,
            comm: comm("child"),
            ..Task::default()
        };
        resolver.observe(&owner(child, b"child\0", &[seen]), &[], b"child\0");
        resolver.resolve(&child).unwrap().ancestors.first().unwrap().clone()
    };
    let before = parent_of(1);
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::USR1).unwrap();
    until_it_runs(pid, b"sleep\x0060\0");
    assert_eq!(
        parent_of(2),
        before,
        "the kernel saw the shell, and no other has been seen since"
    );
    assert_eq!(before.name, "sh");
}

#[test]
fn a_pid_is_a_holder_s_only_if_it_was_there() {
    let mut resolver = resolver();
    let this = task(pid_of_this_test());
    assert_eq!(resolver.from_pid_at(this.tgid, this.start - 1_000_000_000), None);
    assert_eq!(resolver.from_pid_at(this.tgid, this.start + 1).unwrap().pid, this.tgid);
}
