//! So many in so long.

use std::time::{Duration, Instant};

/// What was used in the current window, which begins with its first use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    begin: Instant,
    used: u32,
}

impl Budget {
    pub(super) const fn new(now: Instant) -> Self {
        Self { begin: now, used: 0 }
    }

    /// Whether something is left; begins another window where this one is over.
    pub(super) fn left(&mut self, limit: u32, window: Duration, now: Instant) -> bool {
        if now.saturating_duration_since(self.begin) >= window {
            *self = Self::new(now);
        }
        self.used < limit
    }

    /// Uses one, even if nothing is left.
    pub(super) fn charge(&mut self) {
        self.used = self.used.saturating_add(1);
    }
}
