//! Which callers are shown, and in which order.

use std::{cmp::Reverse, time::SystemTime};

use super::{seen::Seen, trail::Trail};
use crate::{
    event::Cause,
    summary::Caller,
    vocabulary::{Vocabulary, vocabulary},
};

/// One caller.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub key: &'a str,
    pub caller: &'a Caller,
    pub trail: &'a Trail,
}

vocabulary! {
    /// What orders the rows.
    #[derive(Default)]
    pub(super) enum Sort {
        #[default]
        V1 = "v1",
        Rate = "calls in the last minute",
        Unknown = "unknown",
        Last = "last call",
        Caller = "caller",
    }
}

impl Sort {
    pub(super) fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).map_or(0, |at| at + 1);
        Self::ALL.get(at).copied().unwrap_or_default()
    }
}

/// Cells of [`Sort::Rate`].
const MINUTE: usize = 12;

/// The callers that contain `filter`, in the order of `sort`. Equal ones are in the order of a summary. Those whose calls
/// went to an address of the host itself come last.
pub(super) fn rows<'a>(seen: &'a Seen, sort: Sort, filter: &str, now: SystemTime) -> Vec<Row<'a>> {
    let filter = filter.to_lowercase();
    let all = seen.callers().map(|(key, caller, trail)| Row { key, caller, trail });
    let mut rows: Vec<Row<'_>> = all.filter(|row| row.contains(&filter)).collect();
    let first = |row: &Row<'a>| match sort {
        Sort::V1 => row.caller.counts.v1,
        Sort::Rate => row.trail.rates.sum(now, MINUTE),
        Sort::Unknown => row.caller.counts.unknown,
        Sort::Last => row.trail.last.map_or(0, micros),
        Sort::Caller => 0,
    };
    rows.sort_by_cached_key(|row| {
        let rank = if sort == Sort::Caller {
            (0, 0, 0)
        } else {
            row.caller.rank()
        };
        let (name, user) = row.caller.name();
        (row.caller.local, Reverse((first(row), rank)), name, user, row.key)
    });
    rows
}

fn micros(time: SystemTime) -> u64 {
    crate::report::fold::micros(time)
}

impl Row<'_> {
    /// True if any text of the caller contains `filter`, which is in lower case.
    fn contains(&self, filter: &str) -> bool {
        let caller = self.caller;
        let texts = [
            Some(self.name()),
            caller.key.as_deref(),
            caller.user.name.as_deref(),
            caller.place.as_deref(),
            caller.last_path.as_deref(),
            self.trail.cause.map(Cause::as_str),
            caller.remedy.as_ref().map(|(id, _)| id.as_str()),
        ];
        texts
            .into_iter()
            .flatten()
            .any(|text| text.to_lowercase().contains(filter))
    }

    /// The program, as in a summary.
    pub fn name(&self) -> &str {
        self.caller.program.as_deref().unwrap_or("unknown process")
    }

    /// Name of the user or, without one, the id.
    pub fn user(&self) -> Option<String> {
        let user = &self.caller.user;
        user.name.clone().or_else(|| user.id.map(|id| id.to_string()))
    }

    /// Calls by the status that came back, the most frequent first: `200×40 401×2 none×1`.
    pub fn answers(&self) -> String {
        let answers = self.caller.answers;
        let others = self
            .trail
            .statuses
            .iter()
            .filter(|(status, _)| ![200, 401].contains(*status));
        let others = others.map(|(status, count)| (status.to_string(), *count));
        let told: u64 = others.clone().map(|(_, count)| count).sum();
        let sums = [
            ("200", answers.succeeded),
            ("401", answers.rejected),
            ("none", answers.none),
            ("unseen", answers.unseen),
            // Calls that were only counted have no other statuses.
            ("other", answers.failed.saturating_sub(told)),
        ];
        let sums = sums.map(|(what, count)| (what.to_owned(), count));
        let mut all: Vec<(String, u64)> = others.chain(sums).filter(|(_, count)| *count > 0).collect();
        all.sort_by_key(|(_, count)| Reverse(*count));
        let all: Vec<String> = all
            .into_iter()
            .map(|(status, count)| format!("{status}×{}", short(count)))
            .collect();
        all.join(" ")
    }
}

/// `count` in at most five characters.
pub(super) fn short(count: u64) -> String {
    match count {
        0..100_000 => count.to_string(),
        100_000..10_000_000 => format!("{}k", count / 1_000),
        10_000_000..10_000_000_000 => format!("{}M", count / 1_000_000),
        _ => format!("{}G", (count / 1_000_000_000).min(9999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_fit_five_columns() {
        for (count, text) in [
            (0, "0"),
            (99_999, "99999"),
            (100_000, "100k"),
            (9_999_999, "9999k"),
            (10_000_000, "10M"),
            (12_345_678_901, "12G"),
            (u64::MAX, "9999G"),
        ] {
            assert_eq!(short(count), text);
        }
    }

    #[test]
    fn every_order_comes_round() {
        let orders: Vec<Sort> = std::iter::successors(Some(Sort::default()), |sort| Some(sort.next()))
            .take(Sort::ALL.len() + 1)
            .collect();
        assert_eq!(orders.first(), orders.last());
        assert!(Sort::ALL.iter().all(|sort| orders.contains(sort)));
    }
}
