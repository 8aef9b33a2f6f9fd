//! A bounded queue of records for one sink, and the thread that empties it.
//!
//! Filling the queue never waits. Records that do not fit are counted. A failing sink keeps its queue and retries, so a
//! full disk or a restarting journal loses nothing while the queue has room.

use std::{
    collections::VecDeque,
    io, mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Maximum size of the queue, in bytes.
const BYTES_MAX: usize = 2 << 20;
/// At this size the thread is woken at once, because more may be queued before [`Worker::wake`].
const BYTES_MANY: usize = BYTES_MAX / 4;
/// Maximum number of lines per batch.
const BATCH: usize = 256;
/// Pause after a failure, doubled each time up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// One record, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub bytes: Vec<u8>,
    /// Number of requests that the record stands for.
    pub requests: u64,
}

/// Destination of a queue.
pub trait LineWriter: Send {
    /// Writes `lines` in order, each completely or not at all. Returns the number written, and the error that stopped
    /// it. Without lines it only opens its destination.
    fn write(&mut self, lines: &[Line]) -> (usize, io::Result<()>);

    /// Number of incomplete lines cut off since the last call.
    fn take_torn(&mut self) -> u64 {
        0
    }
}

/// Statistics of a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records.
    pub written: u64,
    pub lost: u64,
    /// Number of requests in `lost`.
    pub lost_requests: u64,
    /// Number of records in `lost` that stand for no request.
    pub lost_notices: u64,
    /// Lines left incomplete by a crash.
    pub torn: u64,
    pub failing: bool,
}

/// A queue and its thread.
pub struct Worker {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Line>,
    /// Size of all lines that are queued or being written.
    bytes: usize,
    /// The writer to switch to.
    writer: Option<Box<dyn LineWriter>>,
    /// Deadline for writing the queue after it was closed.
    close: Option<Instant>,
    finished: bool,
    stats: Stats,
}

/// Next task of the thread.
struct Job {
    lines: Vec<Line>,
    writer: Option<Box<dyn LineWriter>>,
}

impl Worker {
    /// Starts the thread that writes to `writer`.
    ///
    /// # Errors
    ///
    /// If the thread cannot start.
    pub fn start(name: &'static str, writer: Box<dyn LineWriter>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let worker = Arc::clone(&shared);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || worker.run(name, writer))?;
        Ok(Self { shared })
    }

    /// Queues `line`, or counts it as lost if it does not fit. Call [`Self::wake`] to have it written soon.
    pub fn push(&self, line: Line) {
        let mut state = self.shared.lock();
        if state.close.is_some() || state.bytes + line.bytes.len() > BYTES_MAX {
            state.lose(&line);
            return;
        }
        state.bytes += line.bytes.len();
        state.lines.push_back(line);
        if state.bytes >= BYTES_MANY {
            self.shared.changed.notify_all();
        }
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        if !self.shared.lock().lines.is_empty() {
            self.shared.changed.notify_all();
        }
    }

    /// Switches to `writer`, and keeps the queue.
    pub fn replace(&self, writer: Box<dyn LineWriter>) {
        self.shared.lock().writer = Some(writer);
        self.shared.changed.notify_all();
    }

    /// Closes the queue. The thread writes queued lines for up to `time`; the rest is counted as lost.
    pub fn close(&self, time: Duration) {
        self.shared.lock().close = Some(Instant::now() + time);
        self.shared.changed.notify_all();
    }

    /// Waits for the thread to end after [`Self::close`]. Abandons a thread that hangs in a system call.
    pub fn join(&self) {
        let mut state = self.shared.lock();
        while let (false, Some(deadline)) = (state.finished, state.close) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.lose_rest();
                return;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    pub fn is_finished(&self) -> bool {
        self.shared.lock().finished
    }

    pub fn stats(&self) -> Stats {
        self.shared.lock().stats
    }
}

impl State {
    fn lose(&mut self, line: &Line) {
        self.stats.lost += 1;
        self.stats.lost_requests += line.requests;
        self.stats.lost_notices += u64::from(line.requests == 0);
    }

    fn lose_rest(&mut self) {
        for line in mem::take(&mut self.lines) {
            self.bytes -= line.bytes.len();
            self.lose(&line);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, name: &str, mut writer: Box<dyn LineWriter>) {
        // Opens the destination, so that errors show before the first record.
        let mut lines = Vec::new();
        let mut retry = RETRY_MIN;
        loop {
            let (count, result) = writer.write(&lines);
            let failed = result.is_err();
            self.done(name, lines, count, &result, writer.take_torn());
            let pause = failed.then_some(retry);
            retry = if failed { (2 * retry).min(RETRY_MAX) } else { RETRY_MIN };
            match self.next(pause) {
                Some(job) => {
                    lines = job.lines;
                    if let Some(next) = job.writer {
                        writer = next;
                        retry = RETRY_MIN;
                    }
                }
                None => return,
            }
        }
    }

    /// Accounts for `lines`: the first `count` are written, the others are queued again.
    fn done(&self, name: &str, lines: Vec<Line>, count: usize, result: &io::Result<()>, torn: u64) {
        let mut state = self.lock();
        state.stats.written += count as u64;
        state.stats.torn += torn;
        let mut lines = lines.into_iter();
        for line in lines.by_ref().take(count) {
            state.bytes -= line.bytes.len();
        }
        for line in lines.rev() {
            state.lines.push_front(line);
        }
        let failing = mem::replace(&mut state.stats.failing, result.is_err());
        drop(state);
        match result {
            Err(error) if !failing => tracing::warn!("cannot write to {name}, will retry: {error}"),
            Ok(()) if failing => tracing::warn!("writing to {name} again"),
            _ => {}
        }
    }

    /// Waits for lines or a new writer; after a failure, for `pause` or a new writer. `None` at the end.
    fn next(&self, pause: Option<Duration>) -> Option<Job> {
        let mut state = self.lock();
        let begin = Instant::now();
        loop {
            let paused = pause.map(|pause| pause.saturating_sub(begin.elapsed()));
            let ready = paused.is_none_or(|left| left.is_zero()) && !state.lines.is_empty();
            if state.writer.is_some() || ready {
                let count = state.lines.len().min(BATCH);
                return Some(Job {
                    lines: state.lines.drain(..count).collect(),
                    writer: state.writer.take(),
                });
            }
            let left = state
                .close
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero() || state.lines.is_empty()) {
                state.lose_rest();
                state.finished = true;
                self.changed.notify_all();
                return None;
            }
            // Without lines there is nothing to retry, so it does not wake up.
            let pause = paused.filter(|left| !left.is_zero() && !state.lines.is_empty());
            let wait = [pause, left].into_iter().flatten().min();
            state = match wait {
                Some(wait) => {
                    self.changed
                        .wait_timeout(state, wait)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Writes a given part of each batch, and fails if that is not all of it.
    struct Scripted {
        room: Receiver<usize>,
        out: Sender<Vec<u8>>,
    }

    impl LineWriter for Scripted {
        fn write(&mut self, lines: &[Line]) -> (usize, io::Result<()>) {
            if lines.is_empty() {
                return (0, Ok(()));
            }
            let count = self.room.recv().unwrap_or(0).min(lines.len());
            for line in &lines[..count] {
                self.out.send(line.bytes.clone()).expect("the test listens");
            }
            let result = if count == lines.len() {
                Ok(())
            } else {
                Err(io::ErrorKind::StorageFull.into())
            };
            (count, result)
        }
    }

    fn scripted() -> (Worker, Sender<usize>, Receiver<Vec<u8>>) {
        let (room, of_room) = channel();
        let (out, of_out) = channel();
        let worker = Worker::start("test", Box::new(Scripted { room: of_room, out })).expect("a thread");
        (worker, room, of_out)
    }

    fn line(number: usize, size: usize) -> Line {
        Line {
            bytes: number.to_string().repeat(size).into_bytes(),
            requests: 2,
        }
    }

    #[test]
    fn a_failure_keeps_the_order_and_loses_nothing() {
        let (worker, room, out) = scripted();
        (0..10).for_each(|number| worker.push(line(number, 1)));
        for count in [3, 0, usize::MAX] {
            room.send(count).expect("a worker");
        }
        worker.wake();
        let written: Vec<_> = (0..10)
            .map(|_| out.recv_timeout(Duration::from_secs(10)).expect("a line"))
            .collect();
        assert_eq!(written.concat(), b"0123456789");
        worker.close(Duration::from_secs(10));
        worker.join();
        let stats = worker.stats();
        assert_eq!((stats.written, stats.lost, stats.failing), (10, 0, false));
        assert!(worker.is_finished());
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let (worker, room, out) = scripted();
        let size = BYTES_MAX / 4;
        (0..6).for_each(|number| worker.push(line(number, size)));
        assert_eq!(worker.stats().lost, 2);
        assert_eq!(worker.stats().lost_requests, 4);
        // The thread may have taken only the first lines.
        (0..4).for_each(|_| room.send(usize::MAX).expect("a worker"));
        worker.wake();
        (0..4).for_each(|_| assert_eq!(out.recv_timeout(Duration::from_secs(10)).expect("a line").len(), size));
        drop(room);
        worker.close(Duration::from_millis(300));
        worker.push(line(7, 1));
        worker.join();
        assert_eq!(worker.stats().lost, 3);
    }

    #[test]
    fn the_end_does_not_wait_for_ever() {
        let (worker, room, _out) = scripted();
        worker.push(line(1, 1));
        room.send(0).expect("a worker");
        drop(room);
        worker.wake();
        worker.close(Duration::from_millis(200));
        worker.join();
        assert_eq!((worker.stats().written, worker.stats().lost), (0, 1));
    }

    #[test]
    fn another_writer_takes_over_what_is_queued() {
        let (worker, room, _out) = scripted();
        worker.push(line(1, 1));
        room.send(0).expect("a worker");
        worker.wake();
        let (room, of_room) = channel();
        let (out, of_out) = channel();
        room.send(usize::MAX).expect("a worker");
        worker.replace(Box::new(Scripted { room: of_room, out }));
        assert_eq!(of_out.recv_timeout(Duration::from_secs(10)).expect("a line"), b"1");
    }
}
