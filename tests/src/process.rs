//! The rights and the costs of a process, from its files in `/proc`.

use std::{collections::HashMap, thread, time::Duration};

use procfs::{
    ProcError, ProcResult,
    process::{Process, Status, Task},
};

/// The process `pid`, which must exist.
pub fn process(pid: u32) -> Process {
    let found = Process::new(pid.try_into().expect("a pid"));
    found.unwrap_or_else(|error| panic!("process {pid}: {error}"))
}

/// The parent's pid.
pub fn parent(pid: u32) -> u32 {
    let stat = process(pid).stat().expect("a process");
    stat.ppid.try_into().expect("a pid")
}

/// VmRSS in KiB.
pub fn resident(pid: u32) -> u64 {
    process(pid).status().expect("a process").vmrss.expect("a size")
}

/// The status of each thread, by tid. Threads that end during the call are left out.
pub fn thread_statuses(pid: u32) -> HashMap<i32, Status> {
    let threads = process(pid).tasks().expect("a process");
    let status = |thread: ProcResult<Task>| thread.and_then(|thread| Ok((thread.tid, thread.status()?)));
    let statuses: HashMap<_, _> = threads
        .filter_map(|thread| match status(thread) {
            Err(ProcError::NotFound(_)) => None,
            status => Some(status.unwrap_or_else(|error| panic!("a thread of {pid}: {error}"))),
        })
        .collect();
    assert!(!statuses.is_empty(), "process {pid} has no threads");
    statuses
}

/// How often the threads of a process woke up in `time`. A thread that ended counts as one wake-up.
pub fn wake_ups(pid: u32, time: Duration) -> u64 {
    let switches = |status: &Status| status.voluntary_ctxt_switches.expect("a count");
    let mut before = thread_statuses(pid);
    // This sleep orders nothing: it is the time over which wake-ups are counted.
    thread::sleep(time);
    let after = thread_statuses(pid);
    let woken: u64 = after
        .iter()
        .map(|(tid, status)| switches(status) - before.remove(tid).as_ref().map_or(0, switches))
        .sum();
    woken + before.len() as u64
}

/// Wake-ups in the first three seconds in which nothing happened. `seen` counts what the analyzer had to do: the time
/// was quiet if that count did not change. A periodic wake-up with any period below three seconds shows, because the
/// first quiet time counts.
pub fn quiet_wake_ups(pid: u32, mut seen: impl FnMut() -> usize) -> u64 {
    const TRIES: usize = 20;
    // Let the work that the start left behind finish.
    let mut count = wake_ups(pid, Duration::from_secs(1));
    for _ in 0..TRIES {
        let before = seen();
        count = wake_ups(pid, Duration::from_secs(3));
        println!("wake-ups in 3 s: {count}");
        if seen() == before {
            return count;
        }
    }
    panic!("this machine was never quiet: {count} wake-ups");
}
