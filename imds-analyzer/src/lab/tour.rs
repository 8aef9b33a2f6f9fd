//! A tour of real clients that call IMDS in typical ways, one after the other.

mod steps;

use std::{
    env, io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    thread::{self, JoinHandle},
};

use super::topology::Lab;

/// One client, and the expected result.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub title: &'static str,
    /// What the user should see.
    pub expect: &'static str,
    /// The program and its arguments.
    pub command: &'static [&'static str],
    /// Programs that the step needs; it is skipped without them.
    needs: &'static [&'static str],
    needs_ipv6: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// The client got its answer.
    Done,
    /// IMDS answered with an error, for example because it requires tokens.
    Refused,
    /// There was no answer, with the reason.
    Failed(String),
    /// The step cannot run here, with the reason.
    Skipped(String),
}

/// The steps, in order.
#[derive(Clone, Debug)]
pub struct Tour {
    steps: Vec<Step>,
}

impl Default for Tour {
    fn default() -> Self {
        Self {
            steps: steps::ALL.to_vec(),
        }
    }
}

impl Tour {
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Runs every step, and calls `on_step` after each. Blocks; use [`Tour::spawn`] in async code.
    pub fn run(&self, lab: &Lab, mut on_step: impl FnMut(&Step, StepOutcome)) {
        for step in &self.steps {
            on_step(step, step.run(lab));
        }
    }

    /// [`Tour::run`] on a thread of its own. `on_step` is dropped at the end, which closes a channel whose sender it
    /// owns.
    pub fn spawn(
        self,
        lab: Arc<Lab>,
        on_step: impl FnMut(&Step, StepOutcome) + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        thread::Builder::new()
            .name("lab-tour".into())
            .spawn(move || self.run(&lab, on_step))
    }
}

impl Step {
    /// Runs the client to its end. Discards its output, which contains tokens and credentials.
    pub fn run(&self, lab: &Lab) -> StepOutcome {
        if let Some(missing) = self.needs.iter().find(|program| !is_installed(program)) {
            return StepOutcome::Skipped(format!("{missing} is not installed"));
        }
        if self.needs_ipv6 && !lab.has_ipv6() {
            return StepOutcome::Skipped("this host has no IPv6".to_owned());
        }
        match self.wait(lab) {
            Ok(status) => outcome(self.command[0], status),
            Err(error) => StepOutcome::Failed(format!("cannot run {}: {error}", self.command[0])),
        }
    }

    /// The clients have their own time limits, so every step ends soon.
    fn wait(&self, lab: &Lab) -> io::Result<ExitStatus> {
        let mut command = lab.client.command(self.command[0]);
        let mut child = command
            .args(&self.command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        // The pipe ends with the last process that inherited it, so this also waits for a grandchild that outlives its
        // parent.
        if let Some(mut output) = child.stdout.take() {
            io::copy(&mut output, &mut io::sink())?;
        }
        child.wait()
    }
}

fn outcome(program: &str, status: ExitStatus) -> StepOutcome {
    match (program, status.code()) {
        (_, Some(0)) => StepOutcome::Done,
        (_, Some(steps::REFUSED)) | ("wget", Some(6 | 8)) => StepOutcome::Refused,
        (_, Some(7)) | ("wget", Some(4)) => StepOutcome::Failed("the embedded IMDS could not be reached".to_owned()),
        (_, Some(28)) => StepOutcome::Failed("no answer in time".to_owned()),
        _ => StepOutcome::Failed(format!("the client ended with {status}")),
    }
}

fn is_installed(program: &str) -> bool {
    let is_executable = |path: &Path| {
        path.metadata()
            .is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    };
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| is_executable(&folder.join(program))))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::lab::{Answered, Options, Server, Tokens};

    fn tour(tokens: Tokens) -> anyhow::Result<(Vec<(Step, StepOutcome)>, Answered)> {
        let lab = Arc::new(Lab::local()?);
        let server = Server::start(&lab.server, Options { tokens })?;
        let (sender, outcomes) = mpsc::channel();
        let tour = Tour::default().spawn(Arc::clone(&lab), move |step, outcome| {
            // The test receives outcomes until the channel closes.
            let _ = sender.send((*step, outcome));
        })?;
        let outcomes = outcomes.iter().collect();
        assert!(tour.join().is_ok());
        Ok((outcomes, server.answered()))
    }

    #[test]
    fn every_client_gets_its_answer() -> anyhow::Result<()> {
        let (outcomes, answered) = tour(Tokens::Optional)?;
        for (step, outcome) in &outcomes {
            assert_eq!(outcome, &StepOutcome::Done, "{}", step.title);
        }
        // curl and Python each send a PUT and a request with the token; every other step sends one request without.
        let expected = Answered {
            token_requests: 2,
            with_token: 2,
            without_token: 8,
            malformed: 0,
        };
        assert_eq!(answered, expected);
        Ok(())
    }

    #[test]
    fn where_tokens_are_required_calls_without_one_are_refused() -> anyhow::Result<()> {
        let (outcomes, _) = tour(Tokens::Required)?;
        for (step, outcome) in outcomes {
            // Nobody sees how the orphan ends, and the probe takes every error as a no.
            let is_done = ["with a token", "parent is gone", "another cloud"]
                .iter()
                .any(|it| step.title.contains(it));
            let expected = if is_done {
                StepOutcome::Done
            } else {
                StepOutcome::Refused
            };
            assert_eq!(outcome, expected, "{}", step.title);
        }
        Ok(())
    }

    #[test]
    fn a_missing_program_skips_the_step_and_an_ending_by_error_is_told() -> anyhow::Result<()> {
        let lab = Lab::local()?;
        let missing = Step {
            needs: &["no-such-program"],
            ..steps::ALL[0]
        };
        assert_eq!(
            missing.run(&lab),
            StepOutcome::Skipped("no-such-program is not installed".to_owned())
        );
        let failing = Step {
            command: &["sh", "-c", "exit 3"],
            ..steps::ALL[0]
        };
        assert_eq!(
            failing.run(&lab),
            StepOutcome::Failed("the client ended with exit status: 3".to_owned())
        );
        Ok(())
    }
}
