//! Memory of records and of maps' values, read and written so that the verifier can follow.

use core::cell::Cell;

/// A pointer as a number. `scratch` is memory of a map's value or a record.
#[inline(always)]
pub(super) fn number<T>(pointer: *mut T, scratch: &Cell<u64>) -> u64 {
    let scratch = scratch.as_ptr();
    // VERIFIER: what is loaded from such memory is a number; the pointer that was stored could not be computed with.
    // SAFETY: a reference is valid to write.
    unsafe { core::ptr::write_volatile(scratch, pointer as u64) };
    // SAFETY: and to read.
    unsafe { core::ptr::read_volatile(scratch) }
}

/// A field of a record or of a map's value, as it is there: the verifier knows nothing of the number.
#[inline(always)]
pub(super) fn load(field: &u16) -> u16 {
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::read_volatile(field) }
}

/// Writes such a field, for [`load`] to read.
#[inline(always)]
pub(super) fn store(field: &mut u16, value: u16) {
    // SAFETY: a reference is valid to write.
    unsafe { core::ptr::write_volatile(field, value) };
}

/// Copies the first N bytes of `from`, eight at a time.
///
/// # Safety
///
/// `to` and `from` begin at multiples of eight.
// VERIFIER: a copy of unknown alignment is compiled to one load and one store a byte, eight times as many to follow.
#[inline(always)]
pub(super) unsafe fn copy_aligned<const N: usize, const M: usize>(to: &mut [u8; N], from: &[u8; M]) {
    const { assert!(N <= M && N.is_multiple_of(8)) };
    let (to, from) = (to.as_mut_ptr().cast::<u64>(), from.as_ptr().cast::<u64>());
    for i in 0..N / 8 {
        // SAFETY: within `from`, as just checked, and aligned as the caller says.
        let word = unsafe { from.wrapping_add(i).read() };
        // SAFETY: within `to`, as just checked, and aligned as the caller says.
        unsafe { to.wrapping_add(i).write(word) };
    }
}
