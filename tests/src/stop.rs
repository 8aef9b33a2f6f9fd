//! The end of what goes on beside a test.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets the flag at the end, by a panic too: a scope waits for its threads, and a test that fails must not wait for ever.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
