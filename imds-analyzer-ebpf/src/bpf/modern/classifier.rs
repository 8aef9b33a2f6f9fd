//! The classifier of one connection, as part of its socket's state.

use core::cell::UnsafeCell;

use imds_analyzer_ebpf::classify::{Classifier, Head, Reason, Step};

use super::memory;

/// A [`Classifier`] that global functions share: no reference to it outlives a method.
#[repr(transparent)]
pub(super) struct ClassifierCell(UnsafeCell<Classifier>);

impl ClassifierCell {
    #[inline(always)]
    fn with<T>(&self, action: impl FnOnce(&mut Classifier) -> T) -> T {
        // SAFETY: the only reference while `action` runs: all actions are in this file and none looks up a socket, and
        // the socket's lock keeps other programs out.
        action(unsafe { &mut *self.0.get() })
    }

    #[inline(always)]
    pub(super) fn restart(&self) {
        self.with(Classifier::restart);
    }

    #[inline(always)]
    pub(super) fn join_midstream(&self, reason: Reason) {
        self.with(|classifier| classifier.join_midstream(reason));
    }

    #[inline(always)]
    pub(super) fn push(&self, byte: u8) -> Step {
        self.with(|classifier| classifier.push(byte))
    }

    #[inline(always)]
    pub(super) fn gap(&self, missing: u32) -> Step {
        self.with(|classifier| classifier.gap(missing))
    }

    #[inline(always)]
    pub(super) fn close(&self) -> Step {
        self.with(Classifier::close)
    }

    #[inline(always)]
    pub(super) fn spoil(&self, reason: Reason) {
        self.with(|classifier| classifier.spoil(reason));
    }

    #[inline(always)]
    pub(super) fn end_spoil(&self) {
        self.with(Classifier::end_spoil);
    }

    #[inline(always)]
    pub(super) fn is_unfinished(&self) -> bool {
        self.with(|classifier| classifier.is_unfinished())
    }

    #[inline(always)]
    pub(super) fn has_request_line(&self) -> bool {
        self.with(|classifier| classifier.has_request_line())
    }

    #[inline(always)]
    pub(super) fn head(&self) -> Head {
        self.with(|classifier| classifier.head())
    }

    /// Length of the head's masked capture, in bytes.
    #[inline(always)]
    pub(super) fn capture_len(&self) -> usize {
        self.with(|classifier| classifier.capture().1)
    }

    /// Copies the first N bytes of the capture's buffer.
    ///
    /// # Safety
    ///
    /// `to` must be aligned to eight bytes.
    #[inline(always)]
    pub(super) unsafe fn copy_capture<const N: usize>(&self, to: &mut [u8; N]) {
        self.with(|classifier| {
            let (capture, _) = classifier.capture();
            // SAFETY: `Capture` is aligned to eight bytes, and `to` is as the caller says.
            unsafe { memory::copy_aligned(to, capture) };
        });
    }
}
