//! What it costs to have it: figures are printed (`--nocapture`), and held against the budgets where that is robust.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use imds_analyzer_tests::{Analyzer, Stage, at_load, binary, imds_analyzer};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A line of `/proc/<pid>/status`, as a number.
fn status(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{key} in {text}"))
}

fn watch() -> Command {
    let mut command = Command::new(binary());
    command.args(["watch", "--format", "json"]);
    command
}

#[test]
fn memory_after_start() {
    let scene = Stage::new(&[]);
    let pid = scene.analyzer.pid();
    let (now, peak) = (status(pid, "VmRSS"), status(pid, "VmHWM"));
    println!(
        "VmRSS after start: {now} KiB (anonymous {} KiB, peak {peak} KiB)",
        status(pid, "RssAnon")
    );
    assert!(now * 1024 <= 16 * MIB, "{now} KiB");
    for _ in 0..5 {
        scene.curl(&[]);
    }
    println!("VmRSS after calls: {} KiB", status(pid, "VmRSS"));
    assert!(status(pid, "VmRSS") * 1024 <= 16 * MIB);
    assert_eq!(scene.records().len(), 5);
}

#[test]
fn time_to_ready() {
    let mut times: Vec<_> = (0..at_load(11, 3))
        .map(|_| {
            let started = Instant::now();
            let analyzer = Analyzer::start(watch());
            let time = started.elapsed();
            analyzer.stop();
            time
        })
        .collect();
    times.sort();
    println!(
        "exec to ready: median {:?}, from {:?} to {:?}",
        times[times.len() / 2],
        times[0],
        times[times.len() - 1]
    );
    assert!(times[times.len() / 2] < Duration::from_secs(2), "{times:?}");
}

#[test]
fn size_of_the_binary() {
    let size = fs::metadata(binary()).expect("the binary").len();
    println!("binary: {} KiB", size / 1024);
    assert!(size <= 8 * MIB, "{size}");
}

#[test]
fn instructions_and_load_times() {
    let report: Value = serde_json::from_str(&imds_analyzer(&["check", "--format", "json"]).stdout).expect("JSON");
    for program in report["programs"].as_array().expect("programs") {
        println!(
            "{}: {} instructions verified, loaded in {} ms",
            program["name"], program["verified_instructions"], program["load_ms"]
        );
        // The verifier gives up at a million.
        let count = program["verified_instructions"].as_u64().unwrap_or(0);
        assert!(count < 500_000, "{program}");
    }
}

#[test]
fn asleep_when_there_is_nothing_to_do() {
    // Whoever calls IMDS on this machine meanwhile wakes it: another analyzer tells of that.
    let scene = Stage::new(&[]);
    let mut witness = Analyzer::start_another(watch());
    let pid = scene.analyzer.pid();
    let switches = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process").flatten();
        let tids = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
        tids.map(|tid| status(tid, "voluntary_ctxt_switches")).sum::<u64>()
    };
    for _ in 0..20 {
        let (before, calls_before) = (switches(), witness.so_far().len());
        // Not to be in time, but to let time pass.
        thread::sleep(Duration::from_secs(3));
        let (count, calls) = (switches() - before, witness.so_far().len() - calls_before);
        println!("wake-ups in 3 s: {count}, with {calls} calls to IMDS");
        if count <= 2 {
            return;
        }
        assert_ne!(calls, 0, "it woke up for nothing");
    }
    println!("this machine was never quiet");
}
