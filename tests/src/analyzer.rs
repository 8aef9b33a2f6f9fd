//! The analyzer as a process.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long anything may take before a test fails.
const DEADLINE: Duration = Duration::from_secs(20);

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

/// The right to send to IMDS without being seen by another test's analyzer. Held by every [`Analyzer`]; taken on its
/// own by tests that send before they start theirs.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

impl Turn {
    pub fn take() -> Self {
        // A test that failed is no reason for the next one to.
        Self(TURN.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A running `imds-analyzer watch --format json`.
pub struct Analyzer {
    _turn: Option<Turn>,
    child: Option<Child>,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    seen: Vec<String>,
}

/// What an analyzer left behind.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// Every line of stdout.
    pub stdout: Vec<String>,
    pub stderr: String,
}

impl Analyzer {
    /// Starts `watch --format json` with further arguments and without budgets, and waits until it is ready.
    pub fn watch(args: &[&str]) -> Self {
        Self::watch_in(Turn::take(), args)
    }

    /// As [`Self::watch`], by a test whose turn it is already.
    pub fn watch_in(turn: Turn, args: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command
            .args(["watch", "--format", "json", "--kernel-rate", "0"])
            .args(args);
        Self::start_in(turn, command)
    }

    /// Starts any command that writes a line beginning with `ready` to stderr, and waits for that.
    pub fn start(command: Command) -> Self {
        Self::start_in(Turn::take(), command)
    }

    /// As [`Self::start`], by a test whose turn it is already.
    pub fn start_in(turn: Turn, command: Command) -> Self {
        Self::spawn(command, Some(turn))
    }

    /// Starts one more in the turn of a test that has one already.
    pub fn start_another(command: Command) -> Self {
        Self::spawn(command, None)
    }

    fn spawn(mut command: Command, turn: Option<Turn>) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (send_line, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if send_line.send(line).is_err() {
                    break;
                }
            }
        });
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (send_ready, ready) = channel();
        let stderr = thread::spawn(move || {
            let mut all = String::new();
            loop {
                let mut line = String::new();
                match stderr.read_line(&mut line) {
                    Ok(n) if n > 0 => {
                        if line.starts_with("ready") {
                            let _ = send_ready.send(());
                        }
                        all.push_str(&line);
                    }
                    _ => return all,
                }
            }
        });
        if ready.recv_timeout(DEADLINE).is_err() {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not get ready:\n{}", stderr.join().unwrap_or_default());
        }
        Self {
            _turn: turn,
            child: Some(child),
            lines,
            stderr: Some(stderr),
            seen: Vec::new(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// Waits until `enough` of the request records so far, and returns them.
    pub fn wait_for(&mut self, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let (records, good) = self.wait_until(DEADLINE, enough);
        assert!(good, "not seen in time; there are {}: {records:#?}", records.len());
        records
    }

    /// As [`Self::wait_for`], for tests that say better what is missing.
    pub fn wait_or_go_on(&mut self, enough: impl Fn(&[Value]) -> bool) {
        self.wait_until(Duration::from_secs(5), enough);
    }

    fn wait_until(&mut self, time: Duration, enough: impl Fn(&[Value]) -> bool) -> (Vec<Value>, bool) {
        let deadline = Instant::now() + time;
        let mut records = requests(&self.seen);
        loop {
            // All there is before the next look, which may be long.
            while let Ok(line) = self.lines.try_recv() {
                records.extend(requests(std::slice::from_ref(&line)));
                self.seen.push(line);
            }
            if enough(&records) {
                return (records, true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    records.extend(requests(std::slice::from_ref(&line)));
                    self.seen.push(line);
                }
                Err(RecvTimeoutError::Timeout) => return (records, false),
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.finish();
                    panic!("the analyzer ended early: {ended:#?}");
                }
            }
        }
    }

    /// Waits for `count` request records; more come to light in [`Self::stop`].
    pub fn wait_for_count(&mut self, count: usize) -> Vec<Value> {
        self.wait_for(|records| records.len() >= count)
    }

    /// The lines of stdout so far.
    pub fn so_far(&mut self) -> &[String] {
        self.seen.extend(self.lines.try_iter());
        &self.seen
    }

    /// Waits for the next line of stdout, of whatever kind.
    pub fn next_line(&mut self) -> String {
        let line = self.lines.recv_timeout(DEADLINE).expect("a line in time");
        self.seen.push(line.clone());
        line
    }

    /// Ends it as Ctrl-C does, and collects what it wrote: all that was sent before is in there.
    pub fn stop(self) -> Ended {
        self.stop_by(libc::SIGINT)
    }

    /// Ends it by a signal, and collects what it wrote.
    pub fn stop_by(mut self, signal: i32) -> Ended {
        // SAFETY: our own child, which has not been waited for.
        unsafe { libc::kill(self.pid() as i32, signal) };
        self.finish()
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> Ended {
        self.finish()
    }

    fn finish(&mut self) -> Ended {
        let mut child = self.child.take().expect("running");
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            match child.try_wait().expect("our own child") {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    let _ = child.kill();
                    panic!("the analyzer does not end");
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            self.seen.push(line);
        }
        let stderr = self
            .stderr
            .take()
            .map(|thread| thread.join().expect("reader"))
            .unwrap_or_default();
        Ended {
            code: status.code(),
            stdout: std::mem::take(&mut self.seen),
            stderr,
        }
    }
}

impl Drop for Analyzer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Ended {
    /// The records of requests.
    pub fn requests(&self) -> Vec<Value> {
        requests(&self.stdout)
    }

    /// The records of another kind, such as `imds-analyzer-summary`.
    pub fn notices(&self, action: &str) -> Vec<Value> {
        records(&self.stdout)
            .filter(|record| record["event"]["action"] == action)
            .collect()
    }

    /// What the summary says was lost on a request's way from the wire to the output. What could not be looked up in
    /// /proc, where processes come and go, is no such loss; nor is a sender that was not noted because its hook was preempted
    /// on that CPU, which slow CPUs see: who connected is the owner then. The wire tap knows no such misses.
    pub fn lost(&self) -> Vec<String> {
        const LOOK_UPS: [&str; 7] = [
            "spare_state",
            "recursion_misses",
            "socket_search_failures",
            "process_read_failures",
            "processes_unannounced",
            "container_names_overdue",
            "user_names_overdue",
        ];
        let summary = self.notices("imds-analyzer-summary").pop().expect("a summary");
        let loss = summary["imds"]["loss"].as_object().cloned().unwrap_or_default();
        loss.iter()
            .filter(|(kind, _)| !LOOK_UPS.contains(&kind.as_str()))
            .map(|(kind, count)| format!("{kind}: {count}"))
            .collect()
    }

    /// All it wrote, for looking for what must not be there.
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

fn requests(lines: &[String]) -> Vec<Value> {
    records(lines)
        .filter(|record| record["event"]["action"] == "imds-request")
        .collect()
}
