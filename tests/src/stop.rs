//! Stops the threads that run beside a test.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets the flag when dropped, also by a panic: a scope waits for its threads, and a test that fails must not wait
/// forever.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
