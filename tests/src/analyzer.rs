//! The analyzer as a process.

use std::{
    env,
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::patience;

use self::{
    running::Running,
    shared::{Own, Shared},
};

mod running;
mod shared;

/// The release binary: `IMDS_ANALYZER`, or the one built beside these tests.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("IMDS_ANALYZER") {
        return path.into();
    }
    let test = env::current_exe().expect("this test's own path");
    // <target>/<profile>/deps/<test>
    let target = test.ancestors().nth(3).expect("a test below a target folder");
    let binary = target.join("release/imds-analyzer");
    assert!(
        binary.exists(),
        "{} is missing: cargo build --release -p imds-analyzer",
        binary.display()
    );
    binary
}

/// Every analyzer sees the whole machine: tests of one binary take turns.
static TURN: Mutex<()> = Mutex::new(());

/// The right to send to IMDS without being seen by another test's analyzer. Held by every [`Analyzer`]; tests that send
/// before they start an analyzer take it themselves.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

impl Turn {
    /// Takes the turn and ends the shared analyzer, so that no other one runs.
    pub fn take() -> Self {
        let turn = Self::beside_shared();
        shared::end();
        turn
    }

    fn beside_shared() -> Self {
        // A failed test must not make the next one fail.
        Self(TURN.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A running analyzer: the test's own, or the one that tests share.
pub struct Analyzer {
    _turn: Option<Turn>,
    source: Source,
}

enum Source {
    Own(Running),
    /// The shared analyzer, its first line for this test, and which records are the test's own. `None` once it was
    /// given back.
    Shared(Option<(Shared, usize, Own)>),
}

/// The exit code and the output of an analyzer that ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// Every line of stdout.
    pub stdout: Vec<String>,
    pub stderr: String,
}

/// `watch --format json` with further arguments and without budgets.
fn watch(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(["watch", "--format", "json", "--kernel-rate", "0"])
        .args(args);
    command
}

impl Analyzer {
    /// Starts `watch --format json` with further arguments and without budgets, and waits until it is ready.
    pub fn watch(args: &[&str]) -> Self {
        Self::watch_in(Turn::take(), args)
    }

    /// Like [`Self::watch`], for a test that already has the turn.
    pub fn watch_in(turn: Turn, args: &[&str]) -> Self {
        Self::start_in(turn, watch(args))
    }

    /// Starts any command that writes a line beginning with `ready` to stderr, and waits for that line.
    pub fn start(command: Command) -> Self {
        Self::start_in(Turn::take(), command)
    }

    /// Like [`Self::start`], for a test that already has the turn.
    pub fn start_in(turn: Turn, command: Command) -> Self {
        Self {
            _turn: Some(turn),
            source: Source::Own(Running::start(command)),
        }
    }

    /// Starts another analyzer, for a test that already has the turn.
    pub fn start_another(command: Command) -> Self {
        Self {
            _turn: None,
            source: Source::Own(Running::start(command)),
        }
    }

    /// The analyzer that tests share; this test takes the records of requests that `own` accepts.
    pub fn shared(own: impl Fn(&Value) -> bool + Send + 'static) -> Self {
        let turn = Turn::beside_shared();
        let mut shared = Shared::take();
        let from = shared.running.so_far().len();
        let own: Own = Box::new(move |record| !shared::is_mark(record) && own(record));
        Self {
            _turn: Some(turn),
            source: Source::Shared(Some((shared, from, own))),
        }
    }

    fn own(&mut self) -> &mut Running {
        match &mut self.source {
            Source::Own(running) => running,
            Source::Shared(_) => panic!("this analyzer is not the test's own"),
        }
    }

    pub fn is_shared(&self) -> bool {
        matches!(self.source, Source::Shared(_))
    }

    pub fn pid(&self) -> u32 {
        match &self.source {
            Source::Own(running) => running.pid(),
            Source::Shared(_) => panic!("this analyzer is not the test's own"),
        }
    }

    /// Waits until `enough` accepts the request records so far, and returns them.
    pub fn wait_for(&mut self, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let (records, good) = self.wait_until(patience(), enough);
        assert!(good, "not seen in time; there are {}: {records:#?}", records.len());
        records
    }

    /// Like [`Self::wait_for`], but goes on when time is up: for tests that report better what is missing.
    pub fn wait_or_go_on(&mut self, enough: impl Fn(&[Value]) -> bool) {
        self.wait_until(Duration::from_secs(5), enough);
    }

    fn wait_until(&mut self, time: Duration, enough: impl Fn(&[Value]) -> bool) -> (Vec<Value>, bool) {
        match &mut self.source {
            Source::Own(running) => running.wait_until(0, time, |_| true, enough),
            Source::Shared(part) => {
                let (shared, from, own) = part.as_mut().expect("not given back");
                shared.running.wait_until(*from, time, &*own, enough)
            }
        }
    }

    /// Waits for `count` request records. [`Self::stop`] shows whether there are more.
    pub fn wait_for_count(&mut self, count: usize) -> Vec<Value> {
        self.wait_for(|records| records.len() >= count)
    }

    /// The text of stderr so far.
    pub fn said(&mut self) -> String {
        self.own().said()
    }

    /// The lines of stdout so far.
    pub fn so_far(&mut self) -> &[String] {
        self.own().so_far()
    }

    /// Waits for the next line of stdout, of any kind.
    pub fn next_line(&mut self) -> String {
        self.own().next_line()
    }

    /// The records of all requests sent so far, for a test that sends no more.
    pub fn records(mut self) -> Vec<Value> {
        match &mut self.source {
            Source::Own(_) => self.stop().requests(),
            Source::Shared(part) => {
                let (shared, from, own) = part.take().expect("not given back");
                shared.give_back(from, own)
            }
        }
    }

    /// Ends the analyzer like Ctrl-C, and collects its output, which has everything that was sent before.
    pub fn stop(self) -> Ended {
        self.stop_by(libc::SIGINT)
    }

    /// Sends a signal that may not end it.
    pub fn signal(&mut self, signal: i32) {
        self.own().signal(signal);
    }

    /// Ends the analyzer with `signal`, and collects its output.
    pub fn stop_by(mut self, signal: i32) -> Ended {
        let running = self.own();
        running.signal(signal);
        running.finish()
    }

    /// Waits until the analyzer ends by itself, and collects its output.
    pub fn wait(mut self) -> Ended {
        self.own().finish()
    }
}

impl Drop for Analyzer {
    fn drop(&mut self) {
        // A failed test may have left it in any state: the next test then starts a new one.
        if let Source::Shared(part) = &mut self.source
            && let Some((shared, from, own)) = part.take()
            && !thread::panicking()
        {
            shared.give_back(from, own);
        }
    }
}

impl Ended {
    /// The records of requests.
    pub fn requests(&self) -> Vec<Value> {
        requests(&self.stdout)
    }

    /// The records of all other kinds.
    pub fn notices(&self) -> Vec<Value> {
        records(&self.stdout).filter(|record| !is_request(record)).collect()
    }

    /// The records of one other kind, such as `imds-analyzer-summary`.
    pub fn of_kind(&self, action: &str) -> Vec<Value> {
        let mut notices = self.notices();
        notices.retain(|record| record["event"]["action"] == action);
        notices
    }

    /// The losses in the summary that concern a request on its way from the wire to the output; losses of answers do
    /// not count. Failed look-ups in /proc do not count either, because processes come and go. Nor does a sender that
    /// was not noted because its hook was preempted on that CPU, which happens on slow CPUs: the owner is then the
    /// process that connected. The wire tap has no such misses.
    pub fn lost(&self) -> Vec<String> {
        const LOOK_UPS: [&str; 11] = [
            "answer_state",
            "answer_streams",
            "answers_evicted",
            "late_answers",
            "spare_state",
            "recursion_misses",
            "socket_search_failures",
            "process_read_failures",
            "processes_unannounced",
            "container_names_overdue",
            "user_names_overdue",
        ];
        let summary = self.of_kind("imds-analyzer-summary").pop().expect("a summary");
        let loss = summary["imds"]["loss"].as_object().cloned().unwrap_or_default();
        loss.iter()
            .filter(|(kind, _)| !LOOK_UPS.contains(&kind.as_str()))
            .map(|(kind, count)| format!("{kind}: {count}"))
            .collect()
    }

    /// Everything it wrote, to search for what must not be there.
    pub fn everything(&self) -> String {
        let mut all = self.stdout.join("\n");
        all.push_str(&self.stderr);
        all
    }
}

fn records(lines: &[String]) -> impl Iterator<Item = Value> {
    lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
}

fn is_request(record: &Value) -> bool {
    record["event"]["action"] == "imds-request"
}

fn requests(lines: &[String]) -> Vec<Value> {
    records(lines).filter(is_request).collect()
}
