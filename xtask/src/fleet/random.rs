//! Random numbers that depend on nothing but a seed: SplitMix64, <https://prng.di.unimi.it/splitmix64.c>.

/// A stream of random numbers.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    /// A stream of its own for each pair of numbers.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed);
        let start = random.next() ^ stream.wrapping_mul(0xd6e8_feb8_6659_fd93);
        Self(start)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number less than `limit`; 0 if that is 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next().checked_rem(limit).unwrap_or(0)
    }

    /// A number in `[from, until)`.
    pub(super) fn between(&mut self, from: u64, until: u64) -> u64 {
        from + self.below(until.saturating_sub(from))
    }

    pub(super) fn pick<T: Copy, const N: usize>(&mut self, list: [T; N]) -> T {
        list[self.below(N as u64) as usize]
    }

    /// True in one of `of` cases.
    pub(super) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}
