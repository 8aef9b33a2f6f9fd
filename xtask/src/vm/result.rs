//! The result of a guest, and the table of all results.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde_json::Value;

use super::{
    ABSENT, CHECK, LAB, LACKED, REFUSALS,
    kernels::Kernel,
    qemu::{Console, Ended},
};
use crate::step::{Counter, Tests};

/// The exit code on a host that cannot do what is asked.
const CANNOT_RUN: i32 = 4;

/// The result of one guest.
#[derive(Debug)]
pub(crate) struct GuestResult {
    name: &'static str,
    release: String,
    /// The owner hooks with which tests passed.
    owners: Vec<&'static str>,
    tests: Tests,
    /// Failed tests, each after the command that ran it.
    failed: Vec<String>,
    /// Names of commands, and the seconds they took.
    times: Vec<(String, f64)>,
    programs: Vec<Program>,
    /// In words; empty if the guest succeeded.
    problems: Vec<String>,
    elapsed: Duration,
}

/// A program of the eBPF object, as `check` found it.
#[derive(Debug)]
struct Program {
    name: String,
    attached: bool,
    verified: Option<u64>,
    load_ms: f64,
}

impl GuestResult {
    pub(crate) fn not_run(kernel: &Kernel, why: &str, elapsed: Duration) -> Self {
        Self {
            name: kernel.name,
            release: "-".to_owned(),
            owners: Vec::new(),
            tests: Tests::default(),
            failed: Vec::new(),
            times: Vec::new(),
            programs: Vec::new(),
            problems: vec![why.to_owned()],
            elapsed,
        }
    }

    pub(crate) fn new(kernel: &Kernel, release: String, console: &Console, elapsed: Duration) -> Self {
        let mut result = Self {
            release,
            problems: Vec::new(),
            ..Self::not_run(kernel, "", elapsed)
        };
        if console.results.is_empty() {
            result.problems.push("did not boot".to_owned());
        } else if let Some(name) = &console.unfinished {
            result.problems.push(format!("stopped in {name}"));
        } else if !console.done {
            result.problems.push("did not come to the end of its list".to_owned());
        }
        for ended in &console.results {
            result.times.push((ended.name.clone(), ended.seconds));
            if let Err(problem) = result.take(kernel, ended) {
                result.problems.push(format!("{}: {problem}", ended.name));
                // The output shows the reason.
                ended.output.iter().for_each(|line| println!("  {line}"));
            }
        }
        for owner in kernel.owners {
            if !result.owners.contains(owner) {
                result.problems.push(format!("no test passed with {owner}"));
            }
        }
        result
    }

    fn take(&mut self, kernel: &Kernel, ended: &Ended) -> Result<(), String> {
        match ended.name.as_str() {
            LAB => lab(kernel, ended),
            name if name.starts_with(CHECK) => self.check(kernel, ended),
            name if name.starts_with(ABSENT) => ended_with(ended, CANNOT_RUN),
            REFUSALS => ended_with(ended, 0),
            name if name.starts_with(LACKED) => {
                ended_with(ended, 0)?;
                self.tests.skipped += 1;
                Ok(())
            }
            _ => self.tests(kernel, ended),
        }
    }

    fn check(&mut self, kernel: &Kernel, ended: &Ended) -> Result<(), String> {
        let report = json(ended).next().ok_or("no report")?;
        let is_first = self.programs.is_empty();
        for program in report["programs"].as_array().into_iter().flatten() {
            let program = Program {
                name: program["name"].as_str().unwrap_or_default().to_owned(),
                attached: program["attached"] == true,
                verified: program["verified_instructions"].as_u64(),
                load_ms: program["load_ms"].as_f64().unwrap_or_default(),
            };
            // The programs that all owner hooks share are in the report for each of them.
            if !self.programs.iter().any(|known| known.name == program.name) {
                self.programs.push(program);
            }
        }
        ended_with(ended, 0)?;
        let refused: Vec<_> = self
            .programs
            .iter()
            .filter(|program| !program.attached)
            .map(|program| program.name.as_str())
            .collect();
        // `imds_ingress` keeps its counts in socket storage.
        let expected: &[&str] = if kernel.only_no_storage { &["imds_ingress"] } else { &[] };
        if refused != expected {
            return Err(format!("not attached: {}", refused.join(", ")));
        }
        let rehearse = &report["rehearse"];
        if rehearse["usable"] != kernel.can_rehearse() {
            return Err(format!("rehearse: {}", rehearse["detail"]));
        }
        // The tests of `rehearse` are left out.
        self.tests.skipped += u64::from(is_first && !kernel.can_rehearse());
        // All other features must be found, including the fields of every struct.
        for feature in report["features"].as_array().into_iter().flatten() {
            let name = feature["name"].as_str().unwrap_or_default();
            // The obstacle to a hook may show only when the hook is attached.
            let of_absent_hook = kernel.absent.iter().any(|owner| name.starts_with(owner));
            let expected = !kernel.without.contains(&name);
            if (feature["available"] == true) != expected && !of_absent_hook {
                return Err(format!("{name}: {}", feature["detail"]));
            }
        }
        Ok(())
    }

    fn tests(&mut self, kernel: &Kernel, ended: &Ended) -> Result<(), String> {
        let mut counter = Counter::default();
        ended.output.iter().for_each(|line| counter.line(line));
        for skip in &counter.skips {
            println!("  kernel {}, {}: skipped: {skip}", kernel.name, ended.name);
        }
        let tests = counter.tests;
        self.tests.add(tests);
        self.failed
            .extend(counter.failed.iter().map(|test| format!("{}: {test}", ended.name)));
        ended_with(ended, 0)?;
        if tests.failed > 0 || tests.passed == 0 {
            return Err(format!("{} passed, {} failed", tests.passed, tests.failed));
        }
        self.owners = kernel
            .owners
            .iter()
            .copied()
            .filter(|owner| self.owners.contains(owner) || ended.name.ends_with(&format!("/{owner}")))
            .collect();
        Ok(())
    }

    /// Failed tests, each after the guest and the command that ran it.
    pub(crate) fn failed(&self) -> impl Iterator<Item = String> {
        self.failed.iter().map(|test| format!("kernel {}, {test}", self.name))
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Prints the result when the guest is off.
    pub(crate) fn print(&self, logs: &[PathBuf]) {
        println!("\n== kernel {} ({})", self.name, self.release);
        for problem in &self.problems {
            println!("  FAILED: {problem}");
        }
        for log in logs.iter().filter(|_| !self.problems.is_empty()) {
            println!("  console: {}", log.display());
        }
        println!(
            "  {} passed, {} failed, {} skipped in {:.1} s",
            self.tests.passed,
            self.tests.failed,
            self.tests.skipped,
            self.elapsed.as_secs_f64()
        );
    }
}

/// Fails unless every client got its answer and every request was understood, with what came back.
fn lab(kernel: &Kernel, ended: &Ended) -> Result<(), String> {
    ended_with(ended, 0)?;
    if let Some(line) = ended
        .output
        .iter()
        .find(|line| line.contains("the client failed") || line.contains("left out"))
    {
        return Err(line.trim().to_owned());
    }
    let mut requests = 0;
    for record in json(ended).filter(|record| record["event"]["action"] == "imds-request") {
        requests += 1;
        if record["imds"]["verdict"] == "unknown" || record["process"]["name"].is_null() {
            return Err(format!("a request not understood: {record}"));
        }
        if kernel.sees_answers() && record["http"]["response"]["status_code"].is_null() {
            return Err(format!("an answer not seen: {record}"));
        }
    }
    if requests == 0 {
        return Err("no request was seen".to_owned());
    }
    Ok(())
}

fn ended_with(ended: &Ended, code: i32) -> Result<(), String> {
    if ended.code == code {
        Ok(())
    } else {
        Err(format!("ended with {}, not {code}", ended.code))
    }
}

/// The JSON objects among the lines.
fn json(ended: &Ended) -> impl Iterator<Item = Value> {
    ended
        .output
        .iter()
        .filter(|line| line.starts_with('{'))
        .filter_map(|line| serde_json::from_str(line).ok())
}

/// Prints the results of all guests. Returns the sum of their tests, and whether all is well.
pub(crate) fn table(results: &[GuestResult]) -> (Tests, bool) {
    println!(
        "\n{:<11} {:<28} {:<30} {:<7} {:>6} {:>6} {:>7} {:>8} {:>8}",
        "kernel", "release", "owner hooks", "result", "passed", "failed", "skipped", "load ms", "seconds"
    );
    let mut total = Tests::default();
    let mut failed = results.is_empty();
    for result in results {
        let ok = result.problems.is_empty();
        failed |= !ok;
        let mut tests = result.tests;
        // A guest that fails without a failed test counts as one failure.
        if !ok && tests.failed == 0 {
            tests.failed = 1;
        }
        total.add(tests);
        println!(
            "{:<11} {:<28} {:<30} {:<7} {:>6} {:>6} {:>7} {:>8.1} {:>8.1}",
            result.name,
            result.release,
            result.owners.join(" "),
            if ok { "ok" } else { "FAILED" },
            tests.passed,
            tests.failed,
            tests.skipped,
            result.programs.iter().map(|program| program.load_ms).sum::<f64>(),
            result.elapsed.as_secs_f64(),
        );
    }
    instructions(results);
    times(results);
    (total, !failed)
}

/// Prints how many seconds each test program took in each guest, with all hooks together; the longest first.
fn times(results: &[GuestResult]) {
    let mut programs: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (column, result) in results.iter().enumerate() {
        for (name, seconds) in &result.times {
            let program = name.split('/').next().unwrap_or(name);
            programs.entry(program).or_insert_with(|| vec![0.0; results.len()])[column] += seconds;
        }
    }
    let mut programs: Vec<(f64, &str, Vec<f64>)> = programs
        .into_iter()
        .map(|(name, seconds)| (seconds.iter().sum(), name, seconds))
        .collect();
    programs.sort_by(|a, b| b.0.total_cmp(&a.0));
    print!("\n{:<24}", "seconds in guests");
    for result in results {
        print!(" {:>9}", result.name);
    }
    println!(" {:>9}", "all");
    for (all, name, seconds) in programs {
        print!("{name:<24}");
        for seconds in seconds {
            print!(" {seconds:>9.1}");
        }
        println!(" {all:>9.1}");
    }
}

/// Prints the verified instructions of each program on each kernel (reported since 5.16), or whether it is attached.
fn instructions(results: &[GuestResult]) {
    let mut names: Vec<&str> = Vec::new();
    for program in results.iter().flat_map(|result| &result.programs) {
        if !names.contains(&program.name.as_str()) {
            names.push(&program.name);
        }
    }
    print!("\n{:<24}", "instructions verified");
    for result in results {
        print!(" {:>9}", result.name);
    }
    println!();
    for name in names {
        print!("{name:<24}");
        for result in results {
            let program = result.programs.iter().find(|program| program.name == name);
            let cell = match program {
                None => "-".to_owned(),
                Some(Program { attached: false, .. }) => "refused".to_owned(),
                Some(Program {
                    verified: Some(count), ..
                }) => count.to_string(),
                Some(_) => "attached".to_owned(),
            };
            print!(" {cell:>9}");
        }
        println!();
    }
}
