//! Ranges of TCP streams, with sequence numbers that wrap.

use std::num::NonZeroUsize;

use lru::LruCache;

use super::HeadKey;

/// Maximum number of sockets whose changed ranges are remembered. Forgetting one costs a second record of the same
/// change.
const SOCKETS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Maximum number of ranges per socket.
const PARTS: usize = 8;

/// At least one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) seq: u32,
    pub(super) len: u32,
}

impl Range {
    /// A range longer than half of the sequence space has no end.
    pub(super) const MAX: u32 = i32::MAX as u32;

    pub(super) fn new(seq: u32, len: u32) -> Self {
        Self {
            seq,
            len: len.clamp(1, Self::MAX),
        }
    }

    /// Distance from the start of this range to `seq`, negative if `seq` is before it, like TCP compares numbers.
    pub(super) fn offset_of(self, seq: u32) -> i64 {
        i64::from(seq.wrapping_sub(self.seq).cast_signed())
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        let begin = self.offset_of(other.seq);
        begin < i64::from(self.len) && begin + i64::from(other.len) > 0
    }

    pub(super) fn contains(self, other: Self) -> bool {
        let begin = self.offset_of(other.seq);
        begin >= 0 && begin + i64::from(other.len) <= i64::from(self.len)
    }

    /// The union, if there is no gap between the two.
    fn joined(self, other: Self) -> Option<Self> {
        let begin = self.offset_of(other.seq);
        let end = begin + i64::from(other.len);
        if begin > i64::from(self.len) || end < 0 {
            return None;
        }
        let seq = if begin < 0 { other.seq } else { self.seq };
        let len = end.max(i64::from(self.len)) - begin.min(0);
        Some(Self::new(seq, u32::try_from(len).unwrap_or(Self::MAX)))
    }
}

/// Ranges of streams whose change was already reported.
#[derive(Debug)]
pub(super) struct Told {
    sockets: LruCache<(u64, u64), Vec<Range>>,
}

impl Told {
    pub(super) fn new() -> Self {
        Self {
            sockets: LruCache::new(SOCKETS),
        }
    }

    fn parts(&self, key: HeadKey) -> &[Range] {
        if self.sockets.is_empty() {
            return &[];
        }
        self.sockets.peek(&(key.cookie, key.sock)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn contains(&self, key: HeadKey, range: Range) -> bool {
        self.parts(key).iter().any(|part| part.contains(range))
    }

    pub(super) fn overlaps(&self, key: HeadKey, range: Range) -> bool {
        self.parts(key).iter().any(|part| part.overlaps(range))
    }

    pub(super) fn add(&mut self, key: HeadKey, mut range: Range) {
        let parts = self.sockets.get_or_insert_mut((key.cookie, key.sock), Vec::new);
        parts.retain(|part| match part.joined(range) {
            Some(joined) => {
                range = joined;
                false
            }
            None => true,
        });
        if parts.len() >= PARTS {
            parts.remove(0);
        }
        parts.push(range);
    }

    /// Forgets a socket that has a new connection.
    pub(super) fn forget(&mut self, key: HeadKey) {
        self.sockets.pop(&(key.cookie, key.sock));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HeadKey = HeadKey {
        cookie: 1,
        sock: 2,
        seq: 0,
    };

    #[test]
    fn numbers_wrap() {
        let range = Range::new(u32::MAX - 9, 20);
        for (seq, len, overlaps, contains) in [
            (u32::MAX - 9, 20, true, true),
            (5, 5, true, true),
            (9, 1, true, true),
            (9, 2, true, false),
            (10, 1, false, false),
            (u32::MAX - 19, 10, false, false),
            (u32::MAX - 19, 11, true, false),
            (u32::MAX - 19, 100, true, false),
            (0x8000_0000, 1, false, false),
            (0, 0, true, true),
        ] {
            let other = Range::new(seq, len);
            assert_eq!(range.overlaps(other), overlaps, "{other:?}");
            assert_eq!(other.overlaps(range), overlaps, "{other:?}");
            assert_eq!(range.contains(other), contains, "{other:?}");
        }
    }

    #[test]
    fn neighbours_become_one_part() {
        let mut told = Told::new();
        for (seq, len) in [(100, 10), (130, 10), (110, 20)] {
            told.add(KEY, Range::new(seq, len));
        }
        assert!(told.contains(KEY, Range::new(100, 40)));
        assert!(!told.overlaps(KEY, Range::new(140, 10)));
        assert!(!told.overlaps(HeadKey { sock: 3, ..KEY }, Range::new(100, 40)));
        told.forget(KEY);
        assert!(!told.overlaps(KEY, Range::new(100, 40)));
    }

    #[test]
    fn parts_are_bounded() {
        let mut told = Told::new();
        for number in 0..100 {
            told.add(KEY, Range::new(number * 100, 10));
        }
        assert_eq!(told.parts(KEY).len(), PARTS);
        assert!(told.contains(KEY, Range::new(9_900, 10)));
        for cookie in 0..5_000 {
            told.add(HeadKey { cookie, ..KEY }, Range::new(0, 1));
        }
        assert_eq!(told.sockets.len(), SOCKETS.get());
    }
}
