//! Reads memory outside the program: the kernel's, a process's, and the program's context.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
use zerocopy::FromBytes;

/// The value at a kernel address; `None` if it cannot be read.
#[inline(always)]
pub(crate) fn kernel<T: FromBytes>(address: u64) -> Option<T> {
    let (value, failed) = kernel_or_zero(address);
    (failed == 0).then_some(value)
}

/// The value at a kernel address and 0, or zeroes and 1 if it cannot be read.
// VERIFIER: no branch, because kernels up to 6.1 walk both sides of each branch to the end of the program.
#[inline(always)]
pub(crate) fn kernel_or_zero<T: FromBytes>(address: u64) -> (T, u64) {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes `size_of::<T>()` bytes to `value` and checks the address it reads from.
    let result = unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const c_void,
        )
    };
    // SAFETY: the helper wrote all of `value`, zeroes on failure (kernel/trace/bpf_trace.c), and any bytes are a valid
    // `T`.
    (unsafe { value.assume_init() }, result as u64 >> 63)
}

/// Fills `to` from a kernel address; zeroes on failure.
#[inline(always)]
pub(crate) fn kernel_into<const N: usize>(to: &mut [u8; N], address: u64) -> bool {
    // SAFETY: `to` has N bytes; the helper checks the address it reads from.
    unsafe { bpf_probe_read_kernel(to.as_mut_ptr().cast(), N as u32, address as *const c_void) == 0 }
}

/// Copies `len` bytes, at most N and N a power of two, from the current process's memory. Never faults a page in.
#[inline(always)]
pub(crate) fn user_into<const N: usize>(to: &mut [u8; N], address: u64, len: u32) -> bool {
    const { assert!(N.is_power_of_two()) };
    if len == 0 {
        return false;
    }
    // VERIFIER: the verifier must be able to bound the size from both sides, 1..=N. The volatile read keeps LLVM from
    // removing the mask as redundant.
    let len = bounded(len - 1) & (N as u32 - 1);
    // SAFETY: at most N bytes are written to `to`; the helper checks the address it reads from.
    unsafe { bpf_probe_read_user(to.as_mut_ptr().cast(), len + 1, address as *const c_void) == 0 }
}

/// Returns `value` as a number that the compiler knows nothing about.
#[inline(always)]
pub(crate) fn bounded(value: u32) -> u32 {
    // SAFETY: a reference to a local is valid to read.
    unsafe { core::ptr::read_volatile(&value) }
}

/// Reads a field of a program's context through the pointer to the context.
macro_rules! context_field {
    ($context:expr, $($path:tt)+) => {{
        // SAFETY: the context is valid while the program runs.
        let field = unsafe { &raw const (*$context).$($path)+ };
        // VERIFIER: volatile, so that each field is one load of its own size at a constant offset.
        // SAFETY: as above.
        unsafe { core::ptr::read_volatile(field) }
    }};
}
pub(crate) use context_field;
