//! When a host was watched, from the times in its log, in whatever order lines are read.

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Microseconds since the epoch.
pub type Time = u64;

pub const SECOND: Time = 1_000_000;
pub const HOUR: Time = 3600 * SECOND;
/// The daemon writes to its log at least once an hour. So a clock hour may be empty between two that are not, but never two.
const EMPTY_HOURS_MAX: u64 = 1;
/// A restart of the analyzer that takes no longer is no gap: that of an update takes seconds.
const RESTART: Time = 5 * 60 * SECOND;
/// The analyzer was there when the host started if it attached no later than this after the boot.
const BOOT: Time = 5 * 60 * SECOND;
/// Hours, and runs of the analyzer, that are remembered for a host. A log with more has a wrong clock, or is made up.
const HOURS_MAX: usize = 24 * 366 * 3;
const RUNS_MAX: usize = 10_000;

/// The times in a host's log.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    span: Option<(Time, Time)>,
    hours: BTreeSet<u32>,
    /// When runs of the analyzer attached, with the host's uptime by then and its boot.
    runs: BTreeMap<Time, (Time, Option<Box<str>>)>,
    /// When runs ended as they should: the times of summaries.
    ends: BTreeSet<Time>,
    /// More times than are remembered.
    overflow: bool,
}

/// What the times of a host say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// The times of the first and the last record.
    pub span: Option<(Time, Time)>,
    /// Clock hours with a record.
    pub hours: u64,
    /// Time without an analyzer, while the host was up.
    pub gaps: Vec<(Time, Time)>,
    /// Number of different boots.
    pub boots: u64,
    /// True if the analyzer was attached when the host had just started; `None` if the log does not say.
    pub saw_boot: Option<bool>,
    /// The times are not plausible.
    pub odd_clock: bool,
}

impl Watched {
    /// Something was written at `time`.
    pub fn at(&mut self, time: Time) {
        let (first, last) = self.span.get_or_insert((time, time));
        *first = time.min(*first);
        *last = time.max(*last);
        let hour = u32::try_from(time / HOUR).unwrap_or(u32::MAX);
        if self.hours.len() < HOURS_MAX {
            self.hours.insert(hour);
        } else {
            self.overflow |= !self.hours.contains(&hour);
        }
    }

    /// A run attached at `time`, when the host had been up for `uptime`.
    pub fn began(&mut self, time: Time, uptime: Time, boot: Option<&str>) {
        if self.runs.len() < RUNS_MAX {
            self.runs.entry(time).or_insert_with(|| (uptime, boot.map(Box::from)));
        } else {
            self.overflow |= !self.runs.contains_key(&time);
        }
    }

    /// A run ended as it should.
    pub fn ended(&mut self, time: Time) {
        if self.ends.len() < RUNS_MAX {
            self.ends.insert(time);
        } else {
            self.overflow |= !self.ends.contains(&time);
        }
    }

    pub fn merge(&mut self, other: Self) {
        for time in other.span.into_iter().flat_map(|(first, last)| [first, last]) {
            self.at(time);
        }
        self.hours.extend(other.hours);
        self.runs.extend(other.runs);
        self.ends.extend(other.ends);
        self.overflow |= other.overflow;
    }

    pub fn observation(&self) -> Observation {
        let boots: HashSet<_> = self.runs.values().filter_map(|(_, boot)| boot.as_deref()).collect();
        let saw_boot = self.runs.values().any(|(uptime, _)| *uptime <= BOOT);
        Observation {
            span: self.span,
            hours: self.hours.len() as u64,
            gaps: merged(self.silences().chain(self.restarts()).collect()),
            boots: boots.len() as u64,
            saw_boot: (!self.runs.is_empty()).then_some(saw_boot),
            odd_clock: self.overflow,
        }
    }

    /// Hours without a record in which the analyzer may not have been there.
    fn silences(&self) -> impl Iterator<Item = (Time, Time)> {
        let hours = self.hours.iter().zip(self.hours.iter().skip(1));
        hours
            .map(|(&before, &after)| (u64::from(before), u64::from(after)))
            .filter(|(before, after)| after - before > EMPTY_HOURS_MAX + 1)
            .map(|(before, after)| ((before + 1) * HOUR, after * HOUR))
            .filter(|&(from, until)| !self.was_off(from, until))
    }

    /// True if the host was off from before `from` until after `until`: the run before ended as it should, and the next
    /// one is in another boot.
    fn was_off(&self, from: Time, until: Time) -> bool {
        let Some((&next, (uptime, _))) = self.runs.range(from..).next() else {
            return false;
        };
        let last = self.runs.range(..from).next_back().map_or(0, |(&began, _)| began);
        let ended = self.ends.range(last..from + HOUR).next_back();
        ended.is_some_and(|&ended| next >= until && next.saturating_sub(*uptime) >= ended)
    }

    /// Times between runs.
    fn restarts(&self) -> impl Iterator<Item = (Time, Time)> {
        let runs = self.runs.iter().zip(self.runs.iter().skip(1));
        runs.filter_map(|((&before, (_, boot_before)), (&began, (uptime, boot)))| {
            if boot.is_some() && boot != boot_before {
                // Up, and not watched yet.
                return (*uptime > BOOT).then(|| (began.saturating_sub(*uptime), began));
            }
            match self.ends.range(before..=began).next_back() {
                Some(&ended) => (began - ended > RESTART).then_some((ended, began)),
                // It died, nobody knows when: it had written something in this hour or the one before.
                None => {
                    let last = self
                        .hours
                        .range(..u32::try_from(began / HOUR).unwrap_or(u32::MAX))
                        .next_back();
                    let from = last.map_or(before, |&hour| before.max(u64::from(hour) * HOUR));
                    Some((from, began))
                }
            }
        })
    }
}

/// `gaps` in order, without overlaps.
fn merged(mut gaps: Vec<(Time, Time)>) -> Vec<(Time, Time)> {
    gaps.sort_unstable();
    let mut merged: Vec<(Time, Time)> = Vec::new();
    for (from, until) in gaps {
        match merged.last_mut() {
            Some((_, last)) if from <= *last => *last = until.max(*last),
            _ => merged.push((from, until)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Time = 24 * HOUR;
    const MINUTE: Time = 60 * SECOND;

    /// A log with a record every hour in `[from, until)`.
    fn hourly(watched: &mut Watched, from: Time, until: Time) {
        (0..)
            .map(|hour| from + hour * HOUR)
            .take_while(|time| *time < until)
            .for_each(|time| watched.at(time));
        watched.at(until);
    }

    fn one_run() -> Watched {
        let mut watched = Watched::default();
        watched.began(DAY, MINUTE, Some("one"));
        hourly(&mut watched, DAY, 3 * DAY);
        watched
    }

    #[test]
    fn a_run_without_calls_has_no_gap() {
        let seen = one_run().observation();
        assert_eq!(
            (seen.span, seen.gaps, seen.saw_boot),
            (Some((DAY, 3 * DAY)), Vec::new(), Some(true))
        );
        assert_eq!(seen.hours, 49);
    }

    #[test]
    fn hours_without_a_record_are_a_gap() {
        let mut watched = one_run();
        watched.at(3 * DAY + 5 * HOUR + 7);
        assert_eq!(watched.observation().gaps, [(3 * DAY + HOUR, 3 * DAY + 5 * HOUR)]);
    }

    #[test]
    fn a_host_that_was_off_was_not_unwatched() {
        let mut watched = one_run();
        watched.ended(3 * DAY);
        watched.began(5 * DAY, MINUTE, Some("two"));
        hourly(&mut watched, 5 * DAY, 6 * DAY);
        let seen = watched.observation();
        assert_eq!((seen.gaps, seen.boots), (Vec::new(), 2));
        // The analyzer came an hour after the boot.
        let mut watched = one_run();
        watched.ended(3 * DAY);
        watched.began(5 * DAY, HOUR, Some("two"));
        hourly(&mut watched, 5 * DAY, 6 * DAY);
        assert_eq!(watched.observation().gaps, [(5 * DAY - HOUR, 5 * DAY)]);
    }

    #[test]
    fn restarts() {
        for (ended, began, gaps) in [
            // An update.
            (Some(3 * DAY), 3 * DAY + 2 * SECOND, vec![]),
            // It was stopped for a while.
            (
                Some(3 * DAY),
                3 * DAY + 30 * MINUTE,
                vec![(3 * DAY, 3 * DAY + 30 * MINUTE)],
            ),
            // It was killed.
            (None, 3 * DAY + 2 * SECOND, vec![(3 * DAY - HOUR, 3 * DAY + 2 * SECOND)]),
        ] {
            let mut watched = one_run();
            ended.into_iter().for_each(|time| watched.ended(time));
            watched.began(began, 2 * DAY, Some("one"));
            hourly(&mut watched, began, 4 * DAY);
            assert_eq!(watched.observation().gaps, gaps);
        }
    }

    #[test]
    fn heads_of_files_are_no_runs() {
        let mut watched = one_run();
        watched.began(DAY, MINUTE, Some("one"));
        assert_eq!(watched.observation(), one_run().observation());
    }

    #[test]
    fn lines_may_come_in_any_order_and_in_parts() {
        let mut first = one_run();
        let mut second = Watched::default();
        second.ended(3 * DAY);
        second.began(3 * DAY + SECOND, 3 * DAY, Some("one"));
        hourly(&mut second, 3 * DAY + SECOND, 4 * DAY);
        let mut other = second.clone();
        other.merge(first.clone());
        first.merge(second);
        assert_eq!(first.observation(), other.observation());
        assert_eq!(first.observation().gaps, []);
    }

    #[test]
    fn made_up_times_are_bounded() {
        let mut watched = Watched::default();
        for hour in 0..100_000 {
            watched.at(hour * 2 * HOUR);
            watched.began(hour, 0, None);
            watched.ended(hour);
        }
        let seen = watched.observation();
        assert!(seen.odd_clock && seen.hours == HOURS_MAX as u64);
    }
}
