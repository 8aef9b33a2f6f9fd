//! The analyzer that the tests of one program share, one after the other: a start costs as much as most tests, and
//! several times as much in an emulated guest.
//!
//! It sees the whole machine. Each test takes its own records among those that came in its time. At the end all records
//! are counted again, which finds those that came late.

use std::{
    io::Write as _,
    panic, process,
    sync::{Mutex, Once, PoisonError},
};

use imds_analyzer::lab::{Lab, Server};
use serde_json::Value;

use super::{requests, running::Running, watch};
use crate::{IMDS_V4, connect, fits_schema, get, lab_with_imds, patience, read_response, schema};

/// Returns true if a request's record is the test's own.
pub(super) type Own = Box<dyn Fn(&Value) -> bool + Send>;

/// The shared analyzer while it waits for the next test.
static WAITING: Mutex<Option<Shared>> = Mutex::new(None);

/// An analyzer that several tests use, one after the other.
pub(super) struct Shared {
    pub(super) running: Running,
    /// The lab of the calls that mark how far the analyzer has read.
    lab: Lab,
    _server: Server,
    marks: usize,
    /// For each test so far: which records were its own, and how many.
    taken: Vec<(Own, usize)>,
}

impl Shared {
    /// The waiting analyzer, or a new one.
    pub(super) fn take() -> Self {
        static AT_EXIT: Once = Once::new();
        AT_EXIT.call_once(|| {
            // SAFETY: a function that does not unwind.
            assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
        });
        waiting().take().unwrap_or_else(|| {
            // Without answers, the analyzer writes a request at once, and not when IMDS has answered.
            let running = Running::start(watch(&["--no-answers"]));
            let (lab, server) = lab_with_imds();
            Self {
                running,
                lab,
                _server: server,
                marks: 0,
                taken: Vec::new(),
            }
        })
    }

    /// Returns all request records from line `from` on that are the test's `own`, and frees the analyzer for the next
    /// test.
    pub(super) fn give_back(mut self, from: usize, own: Own) -> Vec<Value> {
        self.catch_up();
        let records: Vec<Value> = requests(&self.running.seen[from..])
            .into_iter()
            .filter(|record| own(record))
            .collect();
        self.taken.push((own, records.len()));
        *waiting() = Some(self);
        records
    }

    /// Waits until everything sent so far is written: makes two more calls, whose records come last. The second one
    /// cannot overtake a record that another CPU held when the first was read. Some requests are held back longer
    /// (unfinished heads, and bytes in pages of the sender): a test waits for these itself.
    fn catch_up(&mut self) {
        for _ in 0..2 {
            self.marks += 1;
            let path = format!("/latest/meta-data/mark-{}-{}", process::id(), self.marks);
            let from = self.running.seen.len();
            let mut stream = connect(&self.lab.client, IMDS_V4);
            stream.write_all(get(&path).as_bytes()).expect("write");
            read_response(&mut stream);
            let is_mark = |record: &Value| record["url"]["path"] == path;
            let (_, seen) = self
                .running
                .wait_until(from, patience(), is_mark, |marks| !marks.is_empty());
            assert!(seen, "the analyzer has not seen {path}");
        }
    }

    /// Ends the analyzer, and fails unless it worked and no record of a test came after that test.
    fn end(mut self) {
        self.running.signal(libc::SIGINT);
        let ended = self.running.finish();
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        if schema::is_in_use() {
            ended.notices().iter().for_each(fits_schema);
        }
        let records = ended.requests();
        let of_any: Vec<_> = records
            .iter()
            .filter(|record| self.taken.iter().any(|(own, _)| own(record)))
            .collect();
        let taken: usize = self.taken.iter().map(|(_, count)| count).sum();
        assert_eq!(of_any.len(), taken, "records that came late: {of_any:#?}");
    }
}

/// True if a record is of a call by [`Shared::catch_up`].
pub(super) fn is_mark(record: &Value) -> bool {
    let path = record["url"]["path"].as_str();
    path.is_some_and(|path| path.starts_with("/latest/meta-data/mark-"))
}

/// Ends the waiting analyzer, if there is one: the next test needs the machine for itself.
pub(super) fn end() {
    let shared = waiting().take();
    if let Some(shared) = shared {
        shared.end();
    }
}

fn waiting() -> std::sync::MutexGuard<'static, Option<Shared>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs after the last test. If [`end`] panics, the test program fails.
extern "C" fn at_exit() {
    if panic::catch_unwind(end).is_err() {
        // As libtest says it, so that it is counted and named.
        println!(
            "\nfailures:\n    the analyzer that tests share\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored"
        );
        // SAFETY: ends at once.
        unsafe { libc::_exit(101) };
    }
}
