//! Processes that are gone before the analyzer could look at them: each has its record, and every record has its own
//! process, with arguments, executable, working directory and the whole chain.
//!
//! guests: oldest whole-load
//! not-legacy: two_thousand_short_lived_processes_by_their_connects

#![expect(clippy::print_stdout, reason = "figures and reasons are for whoever reads the log")]

use std::{
    collections::BTreeMap,
    env,
    ffi::{CStr, c_char, c_int},
    fs,
    os::fd::AsFd as _,
    process::{self, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{Analyzer, Stage, StopAtEnd, at_load, get, is_legacy, owner, parent, process, resident};
use serde_json::Value;

/// The number of clients that run at a time.
const WIDTH: usize = 4;
const CLIENT: &CStr = c"short-lived-client";

/// Runs before `main`, and with that before the test harness, which would live longer than the client: connect, send,
/// read, exit.
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "system calls of which each needs the one before"
)]
extern "C" fn client(count: c_int, args: *const *const c_char, _environment: *const *const c_char) {
    if count != 3 {
        return;
    }
    // SAFETY: the C library passes what the program was started with: three strings.
    let [kind, path] = [1, 2].map(|index| unsafe { CStr::from_ptr(*args.add(index)) });
    if kind != CLIENT {
        return;
    }
    let request = get(&path.to_string_lossy());
    // SAFETY: plain data.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as u16;
    address.sin_port = 80_u16.to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes([169, 254, 169, 254]);
    let mut byte = 0_u8;
    // SAFETY: the parent made descriptor 0 a network namespace; buffers live for the calls, with their sizes.
    let done = unsafe {
        let entered = libc::setns(0, libc::CLONE_NEWNET);
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        let size = size_of_val(&address) as u32;
        entered == 0
            && libc::connect(socket, (&raw const address).cast(), size) == 0
            && libc::send(socket, request.as_ptr().cast(), request.len(), 0) == request.len() as isize
            && libc::recv(socket, (&raw mut byte).cast(), 1, 0) == 1
    };
    // SAFETY: ends at once.
    unsafe { libc::_exit(if done { 0 } else { 1 }) };
}

#[used]
// SAFETY: functions here are called with argc, argv and envp, by glibc.
#[unsafe(link_section = ".init_array")]
static CLIENT_FIRST: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = client;

/// Keeps a CPU busy: the kernel must move this thread aside for every other one.
fn busy(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

fn chain() -> Vec<u64> {
    let mut chain = vec![process::id()];
    while *chain.last().expect("not empty") != 1 {
        chain.push(parent(chain[chain.len() - 1]));
    }
    chain.into_iter().map(u64::from).collect()
}

fn processes() -> usize {
    at_load(2_000, 100)
}

/// Starts `count` clients, one after the other in each of [`WIDTH`] threads. Returns their pids and paths.
fn start(lab: &Lab, count: usize) -> Vec<(u32, String)> {
    let program = env::current_exe().expect("this program");
    thread::scope(|scope| {
        let threads: Vec<_> = (0..WIDTH)
            .map(|worker| {
                let program = &program;
                scope.spawn(move || {
                    let namespace = fs::File::open(lab.client.path()).expect("namespace");
                    let started = (worker..count).step_by(WIDTH).map(|index| {
                        let path = format!("/latest/short-lived-{}-{index}", process::id());
                        let stdin = namespace.as_fd().try_clone_to_owned().expect("a descriptor");
                        let mut child = Command::new(program)
                            .args([CLIENT.to_str().expect("ASCII"), &path])
                            .current_dir("/usr")
                            .stdin(Stdio::from(stdin))
                            .spawn()
                            .expect("a client");
                        let pid = child.id();
                        assert!(child.wait().expect("our own child").success());
                        (pid, path)
                    });
                    started.collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("a worker"))
            .collect()
    })
}

fn short_lived(hook: &str, load: usize) {
    let count = processes();
    let stage = Stage::local().beside(Analyzer::watch(&["--owner", hook]));
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let started = thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for _ in 0..load {
            scope.spawn(|| busy(&stop));
        }
        start(&stage.lab, count)
    });
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    let memory = resident(stage.analyzer.pid());
    let ended = stage.analyzer.stop();

    let mut by_path: BTreeMap<String, Value> = BTreeMap::new();
    for record in ended.requests() {
        let path = record["url"]["path"].as_str().unwrap_or_default().to_owned();
        assert!(by_path.insert(path, record).is_none(), "a request is doubled");
    }
    let program = env::current_exe().expect("this program");
    let program = program.to_str().expect("UTF-8");
    let chain = chain();
    let counts = |good: &dyn Fn(u32, &str, &Value) -> bool| {
        let good = |(pid, path): &&(u32, String)| by_path.get(path).is_some_and(|record| good(*pid, path, record));
        started.iter().filter(good).count()
    };
    let records = counts(&|_, _, _| true);
    let pids = counts(&|pid, _, record| record["process"]["pid"] == pid);
    let args = counts(&|_, path, record| record["process"]["args"][2] == path);
    let chains = counts(&|_, _, record| {
        let ancestors = record["process"]["ancestors"].as_array();
        let pids = ancestors.into_iter().flatten().map(|it| it["pid"].as_u64());
        pids.eq(chain.iter().map(|pid| Some(*pid)))
    });
    let files = counts(&|_, _, record| {
        record["process"]["executable"] == program && record["process"]["working_directory"] == "/usr"
    });
    let callers = counts(&|_, _, record| {
        record["imds"]["caller"]
            .as_str()
            // The hash of the build is folded; guests do not have it.
            .is_some_and(|caller| caller.starts_with(program.trim_end_matches(|c: char| c.is_ascii_hexdigit())))
    });
    println!(
        "{hook}, {load} busy threads: {count} processes at {rate:.0} a second: {records} records, {pids} with the pid, \
         {args} with the arguments, {chains} with the chain, {files} with executable and directory, {callers} with the \
         caller; {memory} KiB resident"
    );
    assert_eq!([records, pids, args, chains], [count; 4]);
    assert!(memory <= 32 << 10, "{memory} KiB");
    // The legacy object finds no paths, and /proc does only with luck.
    if !is_legacy() {
        assert_eq!([files, callers], [count; 2]);
    }
    assert_eq!(ended.lost(), [""; 0]);
}

#[test]
fn two_thousand_short_lived_processes_by_their_sends() {
    short_lived(&owner(), 0);
}

#[test]
fn two_thousand_short_lived_processes_by_their_connects() {
    short_lived("connect", 0);
}

#[test]
fn two_thousand_short_lived_processes_on_a_busy_machine() {
    short_lived(&owner(), 2 * thread::available_parallelism().map_or(1, usize::from));
}

/// Nanoseconds that a process's first thread, which does the work, was on a CPU.
fn cpu_time(pid: u32) -> u64 {
    process(pid).schedstat().expect("a process").sum_exec_runtime
}

#[test]
fn processes_that_never_call_cost_nothing() {
    let stage = Stage::local().of_all().watch(&[]);
    let (pid, count) = (stage.analyzer.pid(), processes());
    let before = cpu_time(pid);
    for _ in 0..count {
        let status = Command::new("/bin/true").status().expect("a process");
        assert!(status.success());
    }
    let spent = Duration::from_nanos(cpu_time(pid) - before);
    let ended = stage.analyzer.stop();
    println!(
        "{count} processes that never call: {spent:?} of CPU time, {} records",
        ended.requests().len()
    );
    // Calls by others on this machine take time that these processes do not cause.
    assert!(
        spent < Duration::from_millis(20) || !ended.requests().is_empty(),
        "{spent:?}"
    );
}
