//! The analyzer that tests of one program share, one after the other: a start costs as much as most tests, in an emulated
//! guest several times as much.
//!
//! It sees the whole machine. Each test takes what came in its time and is its own; what comes late is found at the end,
//! when all records are counted again.

use std::{
    io::Write as _,
    panic, process,
    sync::{Mutex, Once, PoisonError},
};

use imds_analyzer::lab::{Lab, Server};
use serde_json::Value;

use super::{DEADLINE, requests, running::Running, watch};
use crate::{IMDS_V4, connect, fits_schema, get, lab_with_imds, read_response, schema};

/// Whether a request's record is the test's own.
pub(super) type Own = Box<dyn Fn(&Value) -> bool + Send>;

/// The one that waits for the next test.
static WAITING: Mutex<Option<Shared>> = Mutex::new(None);

/// An analyzer that no test has for itself alone.
pub(super) struct Shared {
    pub(super) running: Running,
    /// Where calls are made that show how far it is.
    lab: Lab,
    _server: Server,
    marks: usize,
    /// What each test so far took for its own, and how many records that were.
    taken: Vec<(Own, usize)>,
}

impl Shared {
    /// The one that waits, or the first.
    pub(super) fn take() -> Self {
        static AT_EXIT: Once = Once::new();
        AT_EXIT.call_once(|| {
            // SAFETY: a function that does not unwind.
            assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
        });
        waiting().take().unwrap_or_else(|| {
            // What was sent is written at once then, and not when it is answered.
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

    /// All records of requests from line `from` on that are a test's `own`; the next test may come.
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

    /// Waits until all that was sent so far is written: two calls more, whose records come last. The second cannot overtake
    /// what another CPU had when the first was read. A test waits itself for what is held back longer: unfinished heads, and
    /// what is in pages of the sender.
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
                .wait_until(from, DEADLINE, is_mark, |marks| !marks.is_empty());
            assert!(seen, "the analyzer has not seen {path}");
        }
    }

    /// Ends it: it has gone well, and no test's records came after the test.
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

/// Whether a record is one of [`Shared::catch_up`].
pub(super) fn is_mark(record: &Value) -> bool {
    let path = record["url"]["path"].as_str();
    path.is_some_and(|path| path.starts_with("/latest/meta-data/mark-"))
}

/// Ends the one that waits, if there is one: a test comes that is to have this machine for itself.
pub(super) fn end() {
    let shared = waiting().take();
    if let Some(shared) = shared {
        shared.end();
    }
}

fn waiting() -> std::sync::MutexGuard<'static, Option<Shared>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// After the last test; what it finds fails the program.
extern "C" fn at_exit() {
    if panic::catch_unwind(end).is_err() {
        // SAFETY: ends at once.
        unsafe { libc::_exit(101) };
    }
}
