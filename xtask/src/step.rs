//! One step of the checks: a heading, a command whose output passes through, and its result.

use std::{
    collections::BTreeSet,
    io::{self, BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// The result of a step.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) tests: Tests,
    /// Names of failed tests.
    pub(crate) failed: Vec<String>,
    pub(crate) elapsed: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    /// Failed at first, and passed when it was run once more.
    Flaky,
    /// Not run, and why.
    Skipped(&'static str),
}

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tests {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// Tests that skipped themselves because this machine lacks a feature.
    pub(crate) skipped: u64,
}

impl Tests {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.skipped += other.skipped;
    }

    /// libtest's last line: "test result: ok. 6 passed; 0 failed; 1 ignored; 0 measured; ...".
    fn from_result_line(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |what: &str| {
            counts
                .split("; ")
                .find_map(|part| part.strip_suffix(what)?.trim_end().parse().ok())
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            ignored: count("ignored").unwrap_or_default(),
            skipped: 0,
        })
    }
}

/// Counts what test programs print, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    pub(crate) tests: Tests,
    /// Why tests were skipped, with the proof; each once.
    pub(crate) skips: BTreeSet<String>,
    /// Names of failed tests.
    pub(crate) failed: Vec<String>,
    /// Skips of the running program, which libtest counts as passed.
    open: u64,
    /// True while the lines are libtest's list of failed tests.
    in_failures: bool,
}

impl Counter {
    pub(crate) fn line(&mut self, line: &str) {
        // libtest says "failures:" twice: before what each failed test printed ("---- NAME stdout ----"), and before
        // their names.
        if line == "failures:" {
            self.in_failures = true;
        } else if self.in_failures && !line.is_empty() {
            match line.strip_prefix("    ") {
                Some(name) => self.failed.push(name.to_owned()),
                None => self.in_failures = false,
            }
        }
        // A line from `skipped` of the end-to-end tests: the test, the feature that is missing, and the proof.
        if let Some(skip) = line.strip_prefix("@skipped\t") {
            self.open += 1;
            self.skips
                .insert(skip.replacen('\t', ": no ", 1).replacen('\t', ": ", 1));
        }
        if let Some(mut program) = Tests::from_result_line(line) {
            program.skipped = self.open.min(program.passed);
            program.passed -= program.skipped;
            self.open = 0;
            self.tests.add(program);
        }
    }
}

impl Row {
    pub(crate) fn skipped(name: &'static str, why: &'static str) -> Self {
        println!("\n== {name}: skipped, {why}");
        Self {
            name,
            outcome: Outcome::Skipped(why),
            tests: Tests::default(),
            failed: Vec::new(),
            elapsed: Duration::ZERO,
        }
    }

    /// The counts that this row adds to the total. A step that fails without naming a failed test (it does not compile,
    /// a test binary died) counts as one failure, so that the last line never looks better than the run was.
    pub(crate) fn total(&self) -> Tests {
        let mut tests = self.tests;
        if self.outcome == Outcome::Failed && tests.failed == 0 {
            tests.failed = 1;
        }
        tests
    }
}

/// Runs `command`, passes its output through and reads libtest's results from it. Lines for which `keep` returns true
/// are not shown.
pub(crate) fn run(name: &'static str, mut command: Command, keep: impl FnMut(&str) -> bool) -> Result<Row> {
    println!("\n== {name}: {}", line(&command));
    command.stdout(Stdio::piped());
    let started = Instant::now();
    let mut child = start(&mut command)?;
    let output = child.stdout.take().context("stdout is piped")?;
    read(name, child, output, started, keep, |line| println!("{line}"))
}

/// A step that runs beside others.
pub(crate) struct Beside {
    row: Row,
    heading: String,
    output: String,
}

impl Beside {
    /// Like [`run`], but keeps all output.
    pub(crate) fn run(name: &'static str, mut command: Command, keep: impl FnMut(&str) -> bool) -> Result<Self> {
        let heading = format!("\n== {name}: {}", line(&command));
        let (reader, writer) = io::pipe()?;
        command.stdout(writer.try_clone()?).stderr(writer);
        let started = Instant::now();
        let child = start(&mut command)?;
        // Closes the ends of the pipe that the command holds.
        drop(command);
        let mut output = String::new();
        let row = read(name, child, reader, started, keep, |line| {
            output.push_str(line);
            output.push('\n');
        })?;
        Ok(Self { row, heading, output })
    }

    /// Prints the output that was kept.
    pub(crate) fn show(self) -> Row {
        println!("{}\n{}", self.heading, self.output.trim_end());
        self.row
    }
}

/// The same command, which takes only the CPU time that the others leave.
pub(crate) fn patient(command: &Command) -> Command {
    let mut patient = Command::new("nice");
    patient
        .args(["-n", "19"])
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        patient.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => patient.env(name, value),
            None => patient.env_remove(name),
        };
    }
    patient
}

fn start(command: &mut Command) -> Result<Child> {
    let child = command.stdin(Stdio::null()).spawn();
    child.with_context(|| format!("cannot run {}", command.get_program().display()))
}

fn read(
    name: &'static str,
    mut child: Child,
    output: impl io::Read,
    started: Instant,
    mut keep: impl FnMut(&str) -> bool,
    mut show: impl FnMut(&str),
) -> Result<Row> {
    let mut counter = Counter::default();
    let mut output = BufReader::new(output);
    let mut bytes = Vec::new();
    // Tests print what they like; it need not be UTF-8.
    while output.read_until(b'\n', &mut bytes)? > 0 {
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches('\n');
        counter.line(text);
        if !keep(text) {
            show(text);
        }
        bytes.clear();
    }
    let status = child.wait()?;
    for skip in &counter.skips {
        show(&format!("skipped: {skip}"));
    }
    let tests = counter.tests;
    let outcome = if status.success() && tests.failed == 0 {
        Outcome::Passed
    } else {
        Outcome::Failed
    };
    Ok(Row {
        name,
        outcome,
        tests,
        failed: counter.failed,
        elapsed: started.elapsed(),
    })
}

/// The command as one would type it, the program without its directory.
fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_read_and_others_are_not() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(
            Tests::from_result_line(line),
            Some(Tests {
                passed: 12,
                failed: 3,
                ignored: 1,
                skipped: 0
            })
        );
        for other in [
            "",
            "running 6 tests",
            "test result: unknown",
            "see test result: ok. 1 passed; 0 failed;",
        ] {
            assert_eq!(Tests::from_result_line(other), None, "{other}");
        }
    }

    #[test]
    fn skips_are_no_successes() {
        let mut counter = Counter::default();
        for line in [
            "test a ... ",
            "@skipped\tprogram::a\tIPv6\tno /proc/net/if_inet6",
            "ok",
            "test result: ok. 3 passed; 0 failed; 0 ignored",
            "test result: ok. 1 passed; 1 failed; 0 ignored",
        ] {
            counter.line(line);
        }
        let tests = counter.tests;
        assert_eq!((tests.passed, tests.failed, tests.skipped), (3, 1, 1));
        assert!(counter.skips.contains("program::a: no IPv6: no /proc/net/if_inet6"));
    }

    #[test]
    fn failed_tests_are_named() {
        let mut counter = Counter::default();
        let output = "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\n    no name\n\n\nfailures:\n    a\n    b::c\n\n\
                      test result: FAILED. 3 passed; 2 failed; 0 ignored\n    no name";
        output.lines().for_each(|line| counter.line(line));
        assert_eq!(counter.failed, ["a", "b::c"]);
    }

    #[test]
    fn failed_test_fails_the_step_and_other_output_is_passed_over() {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "echo hello; printf 'test result: ok. 2 passed; 1 failed; 0 ignored\\n'",
        ]);
        let row = run("sample", command, |_| true).expect("sh runs");
        assert_eq!(row.outcome, Outcome::Failed);
        assert_eq!((row.tests.passed, row.tests.failed), (2, 1));
        assert_eq!(row.total().failed, 1);
    }

    #[test]
    fn a_step_beside_others_keeps_what_is_said() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo one; echo $TWO >&2; exit 3"])
            .env("TWO", "two");
        let step = Beside::run("sample", patient(&command), |_| false).expect("sh runs");
        assert_eq!(step.output, "one\ntwo\n");
        assert_eq!(step.row.outcome, Outcome::Failed);
    }

    #[test]
    fn step_that_dies_counts_as_one_failure() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; exit 101"]);
        let row = run("sample", command, |_| true).expect("sh runs");
        assert_eq!(row.outcome, Outcome::Failed);
        assert_eq!((row.total().passed, row.total().failed), (2, 1));
    }
}
