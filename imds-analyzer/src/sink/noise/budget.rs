//! A budget: a number of uses per window.

use std::time::{Duration, Instant};

/// Uses in the current window, which begins with the first use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    begin: Instant,
    used: u32,
}

impl Budget {
    pub(super) const fn new(now: Instant) -> Self {
        Self { begin: now, used: 0 }
    }

    /// True if the budget is not used up. Starts a new window if the current one is over.
    pub(super) fn left(&mut self, limit: u32, window: Duration, now: Instant) -> bool {
        if now.saturating_duration_since(self.begin) >= window {
            *self = Self::new(now);
        }
        self.used < limit
    }

    /// Uses one, even if the budget is used up.
    pub(super) fn charge(&mut self) {
        self.used = self.used.saturating_add(1);
    }
}
