//! One step of the checks: a heading, a command whose output passes through, and what it came to.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// What a step came to.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) tests: Tests,
    pub(crate) elapsed: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    /// Not run, and why.
    Skipped(&'static str),
}

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tests {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Tests {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// libtest's last line: "test result: ok. 6 passed; 0 failed; 1 ignored; 0 measured; ...".
    pub(crate) fn from_result_line(line: &str) -> Option<Self> {
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
        })
    }
}

impl Row {
    pub(crate) fn skipped(name: &'static str, why: &'static str) -> Self {
        println!("\n== {name}: skipped, {why}");
        Self {
            name,
            outcome: Outcome::Skipped(why),
            tests: Tests::default(),
            elapsed: Duration::ZERO,
        }
    }

    /// What this row adds to the total: a step that fails without naming a failed test (it does not compile, a test
    /// binary died) is one failure, so that the last line never looks better than the run was.
    pub(crate) fn total(&self) -> Tests {
        let mut tests = self.tests;
        if self.outcome == Outcome::Failed && tests.failed == 0 {
            tests.failed = 1;
        }
        tests
    }
}

/// Runs `command`, passes its output through and reads libtest's results from it. Lines that `keep` takes are not shown.
pub(crate) fn run(name: &'static str, mut command: Command, mut keep: impl FnMut(&str) -> bool) -> Result<Row> {
    println!("\n== {name}: {}", line(&command));
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let mut tests = Tests::default();
    let mut output = BufReader::new(child.stdout.take().context("stdout is piped")?);
    let mut bytes = Vec::new();
    // Tests print what they like; it need not be UTF-8.
    while output.read_until(b'\n', &mut bytes)? > 0 {
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches('\n');
        tests.add(Tests::from_result_line(text).unwrap_or_default());
        if !keep(text) {
            println!("{text}");
        }
        bytes.clear();
    }
    let status = child.wait()?;
    let outcome = if status.success() && tests.failed == 0 {
        Outcome::Passed
    } else {
        Outcome::Failed
    };
    Ok(Row {
        name,
        outcome,
        tests,
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
                ignored: 1
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
    fn step_that_dies_counts_as_one_failure() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; exit 101"]);
        let row = run("sample", command, |_| true).expect("sh runs");
        assert_eq!(row.outcome, Outcome::Failed);
        assert_eq!((row.total().passed, row.total().failed), (2, 1));
    }
}
