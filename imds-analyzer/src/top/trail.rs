//! What is kept of one caller beside its counts.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use imds_analyzer_ebpf::{abi::exchange::Outcome, classify::Verdict};

use crate::{
    event::{AnswerWord, Cause},
    report::fold::Words,
};

/// Calls kept of each caller.
pub const CALLS: usize = 50;
/// Longest record kept, in bytes. Only one with extremely long arguments is longer.
pub const RECORD_MAX: usize = 32 << 10;
/// Longest path and method kept of a call, in bytes.
pub(super) const TEXT_MAX: usize = 256;

/// The latest of one caller.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    pub rates: Rates,
    /// Statuses of the answers to its v1 calls.
    pub statuses: BTreeMap<u16, u64>,
    pub causes: Words<Cause>,
    /// Cause of its last call that has one.
    pub cause: Option<Cause>,
    /// Time of its last record.
    pub last: Option<SystemTime>,
    /// Newest last.
    pub calls: VecDeque<Entry>,
    /// Calls that were only counted, by the limits of the daemon's configuration.
    pub only_counted: u64,
    /// The record of its last v1 call or, without one, of its last call, as a line of a log. Empty if that is too long.
    pub record: Arc<[u8]>,
}

/// One call, or a connection without a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub time: SystemTime,
    pub what: What,
    pub pid: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Call {
        verdict: Verdict,
        answer: AnswerWord,
        status: Option<u16>,
        method: Arc<str>,
        path: Arc<str>,
    },
    /// `None`: a word of a later version.
    Attempt(Option<Outcome>),
}

impl Trail {
    pub(super) fn push(&mut self, entry: Entry) {
        if self.calls.len() == CALLS {
            self.calls.pop_front();
        }
        self.last = self.last.max(Some(entry.time));
        self.calls.push_back(entry);
    }

    /// `text`, shared with the newest call that has the same: most callers repeat themselves.
    pub(super) fn shared(&self, text: &str) -> Arc<str> {
        const LOOKED_AT: usize = 4;
        let text = &text[..text.floor_char_boundary(TEXT_MAX)];
        let known = self
            .calls
            .iter()
            .rev()
            .take(LOOKED_AT)
            .find_map(|entry| match &entry.what {
                What::Call { method, path, .. } => [method, path].into_iter().find(|known| known.as_ref() == text),
                What::Attempt(_) => None,
            });
        known.map_or_else(|| text.into(), Arc::clone)
    }
}

/// Calls of the last minutes, in cells of some seconds.
#[derive(Clone, Debug)]
pub struct Rates {
    /// Number of the newest cell since the epoch.
    newest: u64,
    /// The cell with number n is at n modulo the length.
    cells: [u32; Self::CELLS],
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            newest: 0,
            cells: [0; Self::CELLS],
        }
    }
}

impl Rates {
    pub const CELLS: usize = 60;
    pub const CELL: Duration = Duration::from_secs(5);

    /// Counts a call. One that is older than all cells is left out.
    pub fn add(&mut self, time: SystemTime) {
        let cell = number(time);
        if cell > self.newest {
            for passed in self
                .newest
                .saturating_add(1)
                .max(cell.saturating_sub(Self::CELLS as u64 - 1))..=cell
            {
                self.cells[at(passed)] = 0;
            }
            self.newest = cell;
        }
        if self.newest - cell < Self::CELLS as u64 {
            let count = &mut self.cells[at(cell)];
            *count = count.saturating_add(1);
        }
    }

    /// The last `count` cells before `now`, oldest first.
    pub fn cells(&self, now: SystemTime, count: usize) -> impl Iterator<Item = u32> {
        let now = number(now);
        let first = (now + 1).saturating_sub(count.min(Self::CELLS) as u64);
        (first..=now).map(|cell| {
            let is_kept = cell <= self.newest && self.newest - cell < Self::CELLS as u64;
            if is_kept { self.cells[at(cell)] } else { 0 }
        })
    }

    /// The number of calls in those cells.
    pub fn sum(&self, now: SystemTime, count: usize) -> u64 {
        self.cells(now, count).map(u64::from).sum()
    }
}

fn number(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() / Rates::CELL.as_secs()
}

fn at(cell: u64) -> usize {
    (cell % Rates::CELLS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    fn cells(rates: &Rates, seconds: u64, count: usize) -> Vec<u32> {
        rates.cells(time(seconds), count).collect()
    }

    #[test]
    fn cells_pass_by_as_time_does() {
        let mut rates = Rates::default();
        for seconds in [0, 1, 4, 5, 12] {
            rates.add(time(seconds));
        }
        assert_eq!(cells(&rates, 12, 4), [0, 3, 1, 1]);
        assert_eq!(cells(&rates, 17, 4), [3, 1, 1, 0]);
        assert_eq!(rates.sum(time(17), 60), 5);
        assert_eq!(rates.sum(time(12 + 300), 60), 0);
    }

    #[test]
    fn late_records_are_counted_in_their_cell_and_old_ones_not_at_all() {
        let mut rates = Rates::default();
        rates.add(time(290));
        rates.add(time(3));
        assert_eq!(cells(&rates, 294, 60)[..3], [0, 1, 0], "{rates:?}");
        assert_eq!(rates.sum(time(294), 60), 2);
        rates.add(time(299 + 5));
        rates.add(time(3));
        assert_eq!(rates.sum(time(304), 60), 2);
        // A clock that was set back shows nothing of the future.
        assert_eq!(rates.sum(time(0), 60), 0);
    }

    #[test]
    fn a_leap_of_years_empties_all_cells() {
        let mut rates = Rates::default();
        rates.add(SystemTime::UNIX_EPOCH);
        rates.add(time(0));
        rates.add(time(100_000_000));
        assert_eq!(rates.sum(time(100_000_000), 60), 1);
        assert_eq!(cells(&rates, 100_000_000, 3), [0, 0, 1]);
    }

    #[test]
    fn calls_are_bounded_and_texts_are_shared() {
        let mut trail = Trail::default();
        for pid in 0..CALLS as u32 + 7 {
            let path = trail.shared(&"/latest/ä".repeat(100));
            trail.push(Entry {
                time: time(1),
                what: What::Call {
                    verdict: Verdict::V1,
                    answer: AnswerWord::None,
                    status: None,
                    method: trail.shared("GET"),
                    path,
                },
                pid: Some(pid),
            });
        }
        assert_eq!(trail.calls.len(), CALLS);
        assert_eq!(trail.calls.front().and_then(|entry| entry.pid), Some(7));
        let paths: Vec<_> = trail
            .calls
            .iter()
            .map(|entry| match &entry.what {
                What::Call { path, .. } => path,
                What::Attempt(_) => unreachable!("calls alone"),
            })
            .collect();
        assert!(
            paths
                .iter()
                .all(|path| Arc::ptr_eq(path, paths[0]) && path.len() <= TEXT_MAX)
        );
    }
}
