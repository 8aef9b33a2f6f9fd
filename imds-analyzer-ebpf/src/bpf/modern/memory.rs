//! Reads and writes the memory of records and map values in a way that the verifier can follow.

use core::cell::Cell;

/// A pointer as a number. `scratch` must be in a map's value or in a record.
#[inline(always)]
pub(super) fn number<T>(pointer: *mut T, scratch: &Cell<u64>) -> u64 {
    let scratch = scratch.as_ptr();
    // VERIFIER: a value loaded from such memory is a plain number. The verifier restricts arithmetic on the pointer
    // that was stored.
    // SAFETY: a reference is valid to write.
    unsafe { core::ptr::write_volatile(scratch, pointer as u64) };
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::read_volatile(scratch) }
}

/// Loads a field of a record or of a map's value: the verifier knows nothing about the number.
#[inline(always)]
pub(super) fn load(field: &u16) -> u16 {
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::read_volatile(field) }
}

/// Writes a field of a record or of a map's value, for [`load`] to read.
#[inline(always)]
pub(super) fn store(field: &mut u16, value: u16) {
    // SAFETY: a reference is valid to write.
    unsafe { core::ptr::write_volatile(field, value) };
}

/// Copies the first N bytes of `from`, eight at a time.
///
/// # Safety
///
/// `to` and `from` must be aligned to eight bytes.
// VERIFIER: the compiler turns a copy of unknown alignment into one load and one store per byte, eight times as many
// instructions to verify.
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
