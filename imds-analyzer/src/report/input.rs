//! Reads logs: files, directories and streams, on all CPUs, in bounded memory.
//!
//! One thread lists files and makes jobs of them: a whole file, or a part of a long one. The others take jobs, add up what
//! they read, and merge it. What is read twice counts once, where that can be told: a file under two names, a copy of a
//! file (as it was at any time), and a line that a collector delivered again.

mod job;
mod list;
mod worker;

use std::{
    io::Read,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use self::{job::Job, worker::Worker};
use super::{Input, Problem, filter::Filter, fold::Fold};

/// The first of the problems are named.
const PROBLEMS_NAMED: usize = 10;
/// Jobs that wait.
const WAITING_MAX: usize = 64;

/// Something to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Path(PathBuf),
    Stdin,
}

/// How far reading has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes, as they are in files.
    pub bytes: AtomicU64,
    pub files: AtomicU64,
    pub is_done: std::sync::atomic::AtomicBool,
}

/// What was read, and what it adds up to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub fold: Fold,
    pub input: Input,
    problems: Vec<job::Located>,
    /// Lines of each part of a file that was read in parts.
    parts: std::collections::HashMap<PathBuf, Vec<(usize, u64)>>,
}

/// Reads `sources` on `threads` threads.
pub fn read(sources: &[Source], filter: &Filter, threads: usize, progress: &Progress) -> (Fold, Input) {
    let outcome = Mutex::new(Outcome::default());
    let (sender, receiver) = mpsc::sync_channel::<Job>(WAITING_MAX);
    let receiver = Mutex::new(receiver);
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut worker = Worker::new(filter, progress);
                while let Some(job) = next(&receiver) {
                    worker.run(job, &outcome);
                }
            });
        }
        list::jobs(sources, &outcome, progress, &|job| {
            // The workers are there until the sender is gone.
            let _ = sender.send(job);
        });
        drop(sender);
    });
    progress.is_done.store(true, Ordering::Relaxed);
    outcome
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .finish()
}

/// Reads `lines` from memory.
pub fn of_lines(lines: &[u8]) -> (Fold, Input) {
    let (filter, progress) = (Filter::default(), Progress::default());
    let outcome = Mutex::new(Outcome::default());
    Worker::new(&filter, &progress).run(Job::Memory(lines.into()), &outcome);
    outcome
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .finish()
}

fn next(receiver: &Mutex<mpsc::Receiver<Job>>) -> Option<Job> {
    receiver
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .recv()
        .ok()
}

fn locked(outcome: &Mutex<Outcome>) -> std::sync::MutexGuard<'_, Outcome> {
    outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Outcome {
    fn problem(&mut self, problem: job::Located) {
        self.problems.push(problem);
        self.problems.sort();
        self.problems.truncate(PROBLEMS_NAMED);
    }

    /// Turns places in parts of files into lines of files.
    fn finish(mut self) -> (Fold, Input) {
        let parts = &self.parts;
        let line = |problem: &job::Located| {
            let parts = parts.get(&problem.path).map_or(&[][..], Vec::as_slice);
            let before: u64 = parts
                .iter()
                .filter(|(part, _)| *part < problem.part)
                .map(|(_, lines)| lines)
                .sum();
            problem.line.map(|line| before + line)
        };
        self.input.problems = self
            .problems
            .iter()
            .map(|problem| Problem {
                file: problem.path.display().to_string(),
                line: line(problem),
                why: problem.why.clone(),
            })
            .collect();
        self.input.records = self.fold.records;
        self.input.unknown_kinds = self.fold.unknown_kinds;
        (self.fold, self.input)
    }
}

/// Counts what is read of a file.
struct Counting<'a, R> {
    reader: R,
    progress: &'a Progress,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.progress.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
