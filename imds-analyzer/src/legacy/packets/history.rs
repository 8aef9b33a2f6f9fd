//! Hashes of the last bytes of a stream: bytes that are sent again can be compared with them, but nobody can read them.
//!
//! Each hash is a polynomial of the bytes since a mark, over a prime field, at a random secret point. Marks are at the
//! ends of packets, and at short distances in between.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
};

use imds_analyzer_ebpf::follow::is_before;

/// Maximum number of marks kept. They cover at least the longest head, unless packets are smaller than [`STEP`].
const MARKS_MAX: usize = 256;
const STEP: u32 = 64;

const PRIME: u64 = (1 << 61) - 1;

/// The point at which polynomials are evaluated.
#[derive(Clone, Copy)]
pub(super) struct Point(u64);

impl Point {
    pub(super) fn random() -> Self {
        Self(RandomState::new().hash_one(0) % (PRIME - 2) + 2)
    }

    fn add(self, hash: u64, byte: u8) -> u64 {
        let sum = u128::from(hash) * u128::from(self.0) + u128::from(byte) + 1;
        // 2^61 is the prime plus 1: the bits from there on are added as they are.
        let folded = (sum as u64 & PRIME) + (sum >> 61) as u64;
        if folded < PRIME { folded } else { folded - PRIME }
    }
}

/// The last bytes of one stream.
#[derive(Default)]
pub(super) struct History {
    /// Position of each mark, and the hash of the bytes before it.
    marks: VecDeque<(u32, u64)>,
}

/// The result for bytes that were sent again: the range in which they differ, and the range that cannot be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Compared {
    pub(super) other: Option<(u32, u32)>,
    pub(super) unknown: Option<(u32, u32)>,
}

impl History {
    /// Adds `bytes` at `position`. Starts over if they do not follow the last ones.
    pub(super) fn push(&mut self, position: u32, bytes: &[u8], point: Point) {
        if bytes.is_empty() {
            return;
        }
        if self.marks.back().is_none_or(|(end, _)| *end != position) {
            self.marks.clear();
            self.marks.push_back((position, 0));
        }
        let (mut at, mut hash) = self.marks.back().copied().unwrap_or((position, 0));
        for part in bytes.chunks(STEP as usize) {
            hash = part.iter().fold(hash, |hash, byte| point.add(hash, *byte));
            at = at.wrapping_add(part.len() as u32);
            if self.marks.len() == MARKS_MAX {
                self.marks.pop_front();
            }
            self.marks.push_back((at, hash));
        }
    }

    /// Compares `bytes`, which are sent again from `position` on, with the bytes sent there before.
    pub(super) fn compare(&self, position: u32, bytes: &[u8], point: Point) -> Compared {
        let mut compared = Compared::default();
        let end = position.wrapping_add(bytes.len() as u32);
        let mut from = position;
        let mut hash = None;
        let first = self.marks.partition_point(|(mark, _)| is_before(*mark, position));
        for &(mark, expected) in self.marks.range(first..) {
            if is_before(end, mark) {
                break;
            }
            let part = from.wrapping_sub(position) as usize..mark.wrapping_sub(position) as usize;
            let part = bytes.get(part).unwrap_or_default();
            match hash {
                Some(before) => {
                    let hash = part.iter().fold(before, |hash, byte| point.add(hash, *byte));
                    if hash != expected {
                        widen(&mut compared.other, from, mark);
                    }
                }
                None if !part.is_empty() => widen(&mut compared.unknown, from, mark),
                None => {}
            }
            (from, hash) = (mark, Some(expected));
        }
        if from != end {
            widen(&mut compared.unknown, from, end);
        }
        compared
    }
}

fn widen(range: &mut Option<(u32, u32)>, from: u32, to: u32) {
    *range = Some((range.map_or(from, |(from, _)| from), to));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    const START: u32 = u32::MAX - 40;

    fn after(packets: &[&[u8]], point: Point) -> History {
        let mut history = History::default();
        let mut at = START;
        for packet in packets {
            history.push(at, packet, point);
            at = at.wrapping_add(packet.len() as u32);
        }
        history
    }

    #[test]
    fn the_same_bytes_are_the_same_and_others_are_found_where_they_are() {
        let point = Point::random();
        let stream: Vec<u8> = (0..300_u32).map(|at| at as u8).collect();
        let history = after(&[&stream[..100], &stream[100..]], point);
        assert_eq!(history.compare(START, &stream, point), Compared::default());
        for place in [0, 99, 100, 299] {
            let mut other = stream.clone();
            other[place] ^= 1;
            let found = history.compare(START, &other, point);
            let (from, to) = found.other.expect("a difference");
            let at = START.wrapping_add(place as u32);
            assert!(!is_before(at, from) && is_before(at, to) && to.wrapping_sub(from) <= STEP);
            assert_eq!(found.unknown, None);
        }
    }

    #[test]
    fn what_is_not_kept_is_unknown() {
        let point = Point::random();
        let stream = [7; 100];
        let history = after(&[&stream], point);
        let unknown = |from: u32, len: usize| history.compare(START.wrapping_add(from), &stream[..len], point).unknown;
        let at = |offset: u32| START.wrapping_add(offset);
        assert_eq!(unknown(0, 100), None);
        assert_eq!(unknown(10, 54), Some((at(10), at(64))));
        assert_eq!(unknown(64, 30), Some((at(64), at(94))));
        assert_eq!(
            History::default().compare(START, &stream, point).unknown,
            Some((at(0), at(100)))
        );
        // After a gap, nothing before it is known.
        let mut history = after(&[&stream], point);
        history.push(at(200), &stream, point);
        assert_eq!(history.compare(START, &stream, point).unknown, Some((at(0), at(100))));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let point = Point::random();
        let mut history = History::default();
        for at in 0..2 * MARKS_MAX as u32 {
            history.push(at, b"x", point);
        }
        assert_eq!(history.marks.len(), MARKS_MAX);
    }

    proptest! {
        /// For any packets and any bytes sent again: no false difference, and no missed one.
        #[test]
        fn any_cut(stream in proptest::collection::vec(any::<u8>(), 1..400), cut in any::<usize>(), from in any::<usize>(),
            len in any::<usize>(), change in any::<usize>()) {
            let point = Point::random();
            let (before, behind) = stream.split_at(cut % stream.len());
            let history = after(&[before, behind], point);
            let from = from % stream.len();
            let mut again = stream[from..from + len % (stream.len() - from) + 1].to_vec();
            let position = START.wrapping_add(from as u32);
            assert_eq!(history.compare(position, &again, point).other, None);
            let place = change % again.len();
            again[place] ^= 0x20;
            let compared = history.compare(position, &again, point);
            let at = position.wrapping_add(place as u32);
            let is_in = |range: Option<(u32, u32)>| range.is_some_and(|(from, to)| !is_before(at, from) && is_before(at, to));
            assert!(is_in(compared.other) || is_in(compared.unknown));
        }
    }
}
