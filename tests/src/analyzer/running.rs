//! A process that writes records to stdout, and a line beginning with `ready` to stderr.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Ended, requests};
use crate::patience;

/// Killed when dropped.
pub(super) struct Running {
    child: Child,
    lines: Receiver<String>,
    /// Ends with the process.
    stderr: Option<JoinHandle<()>>,
    /// The text of stderr so far.
    said: Arc<Mutex<String>>,
    /// The lines of stdout so far.
    pub(super) seen: Vec<String>,
}

impl Running {
    /// Starts `command`, and waits until it is ready.
    pub(super) fn start(mut command: Command) -> Self {
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
        let said = Arc::new(Mutex::new(String::new()));
        let all = Arc::clone(&said);
        let stderr = thread::spawn(move || {
            let mut line = String::new();
            while stderr.read_line(&mut line).is_ok_and(|count| count > 0) {
                locked(&all).push_str(&line);
                if line.starts_with("ready") {
                    let _ = send_ready.send(());
                }
                line.clear();
            }
        });
        if ready.recv_timeout(patience()).is_err() {
            let _ = child.kill();
            let _ = child.wait();
            stderr.join().expect("reader");
            panic!("{command:?} did not get ready:\n{}", locked(&said));
        }
        Self {
            child,
            lines,
            stderr: Some(stderr),
            said,
            seen: Vec::new(),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The text of stderr so far.
    pub(super) fn said(&self) -> String {
        locked(&self.said).clone()
    }

    /// The lines of stdout so far.
    pub(super) fn so_far(&mut self) -> &[String] {
        self.seen.extend(self.lines.try_iter());
        &self.seen
    }

    /// Waits for the next line of stdout, of any kind.
    pub(super) fn next_line(&mut self) -> String {
        let line = self.lines.recv_timeout(patience()).expect("a line in time");
        self.seen.push(line.clone());
        line
    }

    /// Waits until `enough` accepts the request records from line `from` on that `keep` selects. Returns these records,
    /// and whether that was in time.
    pub(super) fn wait_until(
        &mut self,
        from: usize,
        time: Duration,
        keep: impl Fn(&Value) -> bool,
        enough: impl Fn(&[Value]) -> bool,
    ) -> (Vec<Value>, bool) {
        let deadline = Instant::now() + time;
        let mut records = Vec::new();
        let mut read = from;
        loop {
            // Read all lines there are first: the next call of `enough` may take long.
            self.seen.extend(self.lines.try_iter());
            records.extend(requests(&self.seen[read..]).into_iter().filter(&keep));
            read = self.seen.len();
            if enough(&records) {
                return (records, true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => return (records, false),
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.finish();
                    panic!("the analyzer ended early: {ended:#?}");
                }
            }
        }
    }

    pub(super) fn signal(&self, signal: i32) {
        // SAFETY: our own child, which has not been waited for.
        unsafe { libc::kill(self.pid() as i32, signal) };
    }

    /// Waits until the process ends, and collects its output.
    pub(super) fn finish(&mut self) -> Ended {
        let deadline = Instant::now() + patience();
        let status = loop {
            match self.child.try_wait().expect("our own child") {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "the analyzer does not end"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        while let Ok(line) = self.lines.recv_timeout(patience()) {
            self.seen.push(line);
        }
        if let Some(reader) = self.stderr.take() {
            reader.join().expect("reader");
        }
        Ended {
            code: status.code(),
            stdout: std::mem::take(&mut self.seen),
            stderr: self.said(),
        }
    }
}

fn locked(text: &Mutex<String>) -> MutexGuard<'_, String> {
    text.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Running {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
