//! Who is running, and when: what helpers say on every kernel.

use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};

/// The process in the upper half, its thread in the lower.
#[inline(always)]
pub(super) fn thread() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_pid_tgid() }
}

/// ns since boot without the time asleep: kernels before 5.8 give programs no other clock.
#[inline(always)]
pub(super) fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}
