//! Calls over time as stacked columns. Only their shapes are here, in units of the drawing; the template writes them.
//!
//! The drawing is stretched to the width that there is, so it has no letters: the labels of its axes are text beside it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{
    record::value::Micros,
    report::{Point, verdict::span},
    summary::Counts,
};

/// More columns would be too thin on a phone; longer times have several points in a column.
const COLUMNS_MAX: u64 = 120;
/// Fewer would be too thick.
const COLUMNS_MIN: u64 = 12;
/// From one column to the next, and what a column has of it.
const PITCH: u64 = 10;
const WIDTH: u64 = 8;
/// Height of the drawing.
const HEIGHT: u64 = 1000;
/// Height of a part that would be too low to be seen: a single v1 call among many others matters.
const LOW: u64 = 14;
/// Versions from the bottom up, as classes of the style sheet. v1 stands on the axis, where it compares best.
/// A version: its name, and its count.
type Version = (&'static str, fn(&Counts) -> u64);
const PARTS: [Version; 4] = [
    ("v1", |counts| counts.v1),
    ("unknown", |counts| counts.unknown),
    ("other", |counts| counts.other),
    ("v2", |counts| counts.v2),
];

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chart {
    pub(super) columns: Vec<Column>,
    /// Size of the drawing.
    pub(super) width: u64,
    pub(super) height: u64,
    /// Calls at the top of the axis; even.
    pub(super) top: u64,
    /// Times at the left end, in the middle and at the right end.
    pub(super) times: [Micros; 3],
    /// The time that a column stands for, in words.
    pub(super) step: String,
    /// Calls in the highest column.
    pub(super) most: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) time: Micros,
    pub(super) calls: Counts,
    pub(super) parts: Vec<Part>,
}

/// A rectangle.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) class: &'static str,
    pub(super) x: u64,
    pub(super) y: u64,
    pub(super) width: u64,
    pub(super) height: u64,
}

impl Chart {
    /// `None` without points, which are in the order of time.
    pub(super) fn of(points: &[Point]) -> Option<Self> {
        let (first, last) = (points.first()?, points.last()?);
        let seconds = first.seconds.max(1);
        let slots = (seconds_of(last.time).saturating_sub(seconds_of(first.time)) / seconds).saturating_add(1);
        let step = seconds.saturating_mul(slots.div_ceil(COLUMNS_MAX));
        let used = slots.div_ceil(step / seconds);
        // A few columns stand in the middle.
        let before = COLUMNS_MIN.saturating_sub(used) / 2;
        let count = used.max(COLUMNS_MIN);
        let begin = seconds_of(first.time).saturating_sub(before.saturating_mul(step));

        let mut columns: Vec<(u64, Counts)> = Vec::new();
        for point in points {
            let number = seconds_of(point.time).saturating_sub(begin) / step;
            match columns.last_mut() {
                Some((known, counts)) if *known == number => counts.merge(point.calls),
                _ => columns.push((number, point.calls)),
            }
        }
        let most = columns.iter().map(|(_, counts)| counts.sum()).max().unwrap_or_default();
        let top = round(most);
        let time = |number: u64| at(begin.saturating_add(number.saturating_mul(step)));
        Some(Self {
            columns: columns
                .into_iter()
                .map(|(number, calls)| Column {
                    time: time(number),
                    parts: parts(number, calls, top),
                    calls,
                })
                .collect(),
            width: count.saturating_mul(PITCH),
            height: HEIGHT,
            top,
            times: [time(0), time(count / 2), time(count)],
            step: span(step.saturating_mul(1_000_000)),
            most,
        })
    }
}

/// The rectangles of a column, from the bottom up.
fn parts(number: u64, calls: Counts, top: u64) -> Vec<Part> {
    let mut heights = PARTS.map(|(_, of)| match of(&calls) {
        0 => 0,
        count => scaled(count, top).max(LOW),
    });
    // What low parts got too much, the highest one gives.
    let excess = heights.iter().sum::<u64>().saturating_sub(HEIGHT);
    if let Some(highest) = heights.iter_mut().max() {
        *highest = highest.saturating_sub(excess);
    }
    let mut y = HEIGHT;
    let mut parts = Vec::new();
    for ((class, _), height) in PARTS.iter().zip(heights).filter(|(_, height)| *height > 0) {
        y = y.saturating_sub(height);
        parts.push(Part {
            class,
            x: number.saturating_mul(PITCH).saturating_add((PITCH - WIDTH) / 2),
            y,
            width: WIDTH,
            height,
        });
    }
    parts
}

/// `count` of `top`, in the units of a height.
fn scaled(count: u64, top: u64) -> u64 {
    let height = u128::from(count) * u128::from(HEIGHT) / u128::from(top.max(1));
    u64::try_from(height).unwrap_or(HEIGHT).min(HEIGHT)
}

/// An even number with one digit that counts, or 10 of them, that is not below `count`.
fn round(count: u64) -> u64 {
    let mut unit: u64 = 1;
    loop {
        for digit in [2, 4, 6, 10] {
            match unit.checked_mul(digit) {
                Some(top) if top >= count => return top,
                Some(_) => {}
                None => return u64::MAX - 1,
            }
        }
        unit = unit.saturating_mul(10);
    }
}

fn seconds_of(time: Micros) -> u64 {
    time.time()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |duration| duration.as_secs())
}

fn at(seconds: u64) -> Micros {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    Micros::new(time.unwrap_or(UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(hour: u64, v1: u64, v2: u64) -> Point {
        Point {
            time: at(hour * 3600),
            seconds: 3600,
            calls: Counts {
                v1,
                v2,
                ..Counts::default()
            },
        }
    }

    #[test]
    fn an_axis_ends_at_an_even_number() {
        for (count, top) in [
            (0, 2),
            (1, 2),
            (3, 4),
            (5, 6),
            (7, 10),
            (11, 20),
            (59, 60),
            (61, 100),
            (4321, 6000),
        ] {
            assert_eq!(round(count), top, "{count}");
        }
        assert_eq!(round(u64::MAX), u64::MAX - 1);
    }

    #[test]
    fn one_call_among_many_is_seen_and_no_column_is_too_high() {
        let chart = Chart::of(&[point(0, 1, 999_999)]).expect("a chart");
        let [v1, v2] = chart.columns[0].parts.as_slice() else {
            unreachable!("two versions")
        };
        assert_eq!((v1.class, v1.height, v1.y), ("v1", LOW, HEIGHT - LOW));
        assert_eq!((v2.class, v2.height, v2.y), ("v2", HEIGHT - LOW, 0));
    }

    #[test]
    fn times_without_calls_have_room() {
        let chart = Chart::of(&[point(0, 1, 0), point(40, 0, 2)]).expect("a chart");
        assert_eq!(chart.width, 41 * PITCH);
        let x: Vec<u64> = chart.columns.iter().map(|column| column.parts[0].x).collect();
        assert_eq!(x, [1, 401]);
        assert_eq!(chart.step, "1 h");
    }

    #[test]
    fn a_long_time_has_no_more_columns() {
        let points: Vec<Point> = (0..1000).map(|hour| point(hour * 7, 1, 1)).collect();
        let chart = Chart::of(&points).expect("a chart");
        assert!(chart.columns.len() as u64 <= COLUMNS_MAX, "{}", chart.columns.len());
        assert!(chart.width <= COLUMNS_MAX * PITCH);
        let calls: u64 = chart.columns.iter().map(|column| column.calls.sum()).sum();
        assert_eq!(calls, 2000);
        assert_eq!(Chart::of(&[]), None);
    }
}
