//! The current thread and the time, from helpers that every kernel has.

use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};

/// Process id in the upper half, thread id in the lower.
#[inline(always)]
pub(super) fn thread() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_pid_tgid() }
}

/// ns since boot, without the time asleep: kernels before 5.8 give programs no other clock.
#[inline(always)]
pub(super) fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
