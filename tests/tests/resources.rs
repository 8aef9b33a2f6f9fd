//! The cost of the analyzer: figures are printed (`--nocapture`), and compared with the budgets where that is robust.
//!
//! guests: full

#![expect(clippy::print_stdout, reason = "figures and reasons are for whoever reads the log")]

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use imds_analyzer_tests::{Analyzer, Stage, at_load, binary, imds_analyzer, process, quiet_wake_ups};
use serde_json::Value;

const MIB: u64 = 1 << 20;

fn watch() -> Command {
    let mut command = Command::new(binary());
    command.args(["watch", "--format", "json"]);
    command
}

#[test]
fn memory_after_start() {
    let stage = Stage::watch(&[]);
    let pid = stage.analyzer.pid();
    let status = process(pid).status().expect("a process");
    let (now, peak) = (status.vmrss.expect("a size"), status.vmhwm.expect("a size"));
    let anonymous = status.rssanon.expect("a size");
    println!("VmRSS after start: {now} KiB (anonymous {anonymous} KiB, peak {peak} KiB)");
    assert!(now * 1024 <= 16 * MIB, "{now} KiB");
    for _ in 0..5 {
        stage.curl(&[]);
    }
    let status = process(pid).status().expect("a process");
    let (now, anonymous) = (status.vmrss.expect("a size"), status.rssanon.expect("a size"));
    println!("VmRSS after calls: {now} KiB (anonymous {anonymous} KiB)");
    // Newer kernels may have mapped the program in pages of 2 MiB, which count as a whole.
    assert!(now * 1024 <= 32 * MIB, "{now} KiB");
    assert!(anonymous * 1024 <= 8 * MIB, "{anonymous} KiB");
    assert_eq!(stage.records().len(), 5);
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
    // In a guest the CPU is emulated, and another guest runs beside it: the test can only tell that the analyzer is
    // ready in time to be of use.
    let limit = Duration::from_secs(at_load(2, 10) as u64);
    assert!(times[times.len() / 2] < limit, "{times:?}");
}

#[test]
fn size_of_the_binary() {
    let size = fs::metadata(binary()).expect("the binary").len();
    println!("binary: {} KiB", size / 1024);
    assert!(size <= 10 * MIB, "{size}");
}

#[test]
fn instructions_and_load_times() {
    let report: Value = serde_json::from_str(&imds_analyzer(&["check", "--format", "json"]).stdout).expect("JSON");
    for program in report["programs"].as_array().expect("programs") {
        println!(
            "{}: {} instructions verified, loaded in {} ms",
            program["name"], program["verified_instructions"], program["load_ms"]
        );
        // The verifier gives up at a million, and each start takes the time for all of them.
        let count = program["verified_instructions"].as_u64().unwrap_or(0);
        assert!(count < 150_000, "{program}");
    }
}

#[test]
fn asleep_when_there_is_nothing_to_do() {
    // Calls by others on this machine wake the analyzer: a second analyzer reports them.
    let stage = Stage::watch(&[]);
    let mut witness = Analyzer::start_another(watch());
    let quiet = quiet_wake_ups(stage.analyzer.pid(), || witness.so_far().len());
    assert!(quiet <= 1, "{quiet} wake-ups in 3 s for nothing");
}
