//! Reading what is not ours: the kernel's memory, a process's memory, a program's arguments.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user},
};

/// Plain values that any bytes make valid.
pub(super) trait Plain: Copy {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl<const N: usize> Plain for [u8; N] {}

/// The value at a kernel address.
#[inline(always)]
pub(super) fn kernel<T: Plain>(address: u64) -> Option<T> {
    let (value, failed) = kernel_or_zero(address);
    (failed == 0).then_some(value)
}

/// The value at a kernel address, and 0; zeroes and 1 where it cannot be read.
// VERIFIER: no branch. Kernels up to 6.1 follow both ways of each one to the end of the program.
#[inline(always)]
pub(super) fn kernel_or_zero<T: Plain>(address: u64) -> (T, u64) {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes `size_of::<T>()` bytes to `value` and checks the address it reads from.
    let result = unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const c_void,
        )
    };
    // SAFETY: all of it was written, zeroes on failure (kernel/trace/bpf_trace.c), and any bytes are a valid `Plain`.
    (unsafe { value.assume_init() }, result as u64 >> 63)
}

/// A pointer as a number. `scratch` is memory of a map's value or a record.
#[inline(always)]
pub(super) fn number<T>(pointer: *mut T, scratch: &mut u64) -> u64 {
    let scratch = &raw mut *scratch;
    // VERIFIER: what is loaded from such memory is a number; the pointer that was stored could not be computed with.
    // SAFETY: a reference is valid to write.
    unsafe { core::ptr::write_volatile(scratch, pointer as u64) };
    // SAFETY: and to read.
    unsafe { core::ptr::read_volatile(scratch) }
}

/// Fills `to` from a kernel address; zeroes on failure.
#[inline(always)]
pub(super) fn kernel_into<const N: usize>(to: &mut [u8; N], address: u64) -> bool {
    // SAFETY: `to` has N bytes; the helper checks the address it reads from.
    unsafe { bpf_probe_read_kernel(to.as_mut_ptr().cast(), N as u32, address as *const c_void) == 0 }
}

/// Copies a NUL-terminated string of at most N bytes, its NUL included, to `to` from `start` on, where there has to be
/// room for N. Returns its length with the NUL.
#[inline(always)]
pub(super) fn kernel_str_into<const N: usize, const ROOM: usize>(
    to: &mut [u8; ROOM],
    start: u16,
    address: u64,
) -> Option<u16> {
    let start = start as usize;
    if start > ROOM - N {
        return None;
    }
    // SAFETY: `start` and N bytes behind it are within `to`, as just checked.
    let at = unsafe { to.as_mut_ptr().add(start) };
    // SAFETY: at most N bytes are written there; the helper checks the address it reads from.
    let len = unsafe { bpf_probe_read_kernel_str(at.cast(), N as u32, address as *const c_void) };
    if len > 0 { Some(len as u16) } else { None }
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

/// Copies `len` bytes, at most N and N a power of two, from the current process's memory. Never faults a page in.
#[inline(always)]
pub(super) fn user_into<const N: usize>(to: &mut [u8; N], address: u64, len: u32) -> bool {
    const { assert!(N.is_power_of_two()) };
    if len == 0 {
        return false;
    }
    // VERIFIER: a size it can bound from both sides, 1..=N. The volatile read keeps LLVM from removing the mask as
    // redundant.
    let len = bounded(len - 1) & (N as u32 - 1);
    // SAFETY: at most N bytes are written to `to`; the helper checks the address it reads from.
    unsafe { bpf_probe_read_user(to.as_mut_ptr().cast(), len + 1, address as *const c_void) == 0 }
}

/// The same number, as one the compiler knows nothing about.
#[inline(always)]
pub(super) fn bounded(value: u32) -> u32 {
    // SAFETY: a reference to a local is valid to read.
    unsafe { core::ptr::read_volatile(&value) }
}

/// Argument 0 of a hook that runs with typed arguments (BTF tracepoint, fentry): a pointer the kernel vouches for.
#[derive(Clone, Copy)]
pub(super) struct Argument(*const *const u8);

impl Argument {
    /// `ctx` is the program's context: an array of arguments, eight bytes each.
    #[inline(always)]
    pub(super) fn first(ctx: &impl EbpfContext) -> Self {
        Self(ctx.as_ptr().cast())
    }

    /// The two bytes at `offset`, without a helper's call: the verifier knows the pointer's type, and the kernel catches
    /// the fault should the memory be gone.
    #[inline(always)]
    pub(super) fn u16(self, offset: u64) -> u16 {
        // SAFETY: the context holds at least one argument.
        let argument = unsafe { core::ptr::read_volatile(self.0) };
        let field = argument.wrapping_add(offset as usize).cast::<u16>();
        // SAFETY: the offset is that of a field of the argument's struct, by the kernel's own BTF.
        unsafe { core::ptr::read_volatile(field) }
    }

    /// The pointer as a number.
    #[inline(always)]
    pub(super) fn address(self) -> u64 {
        // VERIFIER: read as bytes, so that arithmetic on it is not restricted.
        kernel(self.0 as u64).unwrap_or(0)
    }
}

/// A field of a program's context, by the pointer to it.
macro_rules! context_field {
    ($context:expr, $($path:tt)+) => {{
        // SAFETY: the context is valid while the program runs.
        let field = unsafe { &raw const (*$context).$($path)+ };
        // VERIFIER: volatile, so that each field is one load of its own size at a constant offset.
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(field) }
    }};
}
pub(super) use context_field;
