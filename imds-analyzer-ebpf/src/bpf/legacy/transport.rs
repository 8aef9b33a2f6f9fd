//! Sends records of any length through one perf buffer per CPU, and tail-calls the next program.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_F_CURRENT_CPU,
    helpers::generated::bpf_perf_event_output,
    macros::map,
    maps::{PerfEventByteArray, ProgramArray},
};
use imds_analyzer_ebpf::abi::Loss;

use crate::bpf::common::{counters, skb::Skb};

#[map]
static RECORDS: PerfEventByteArray = PerfEventByteArray::new(0);

#[map]
static STAGES: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// Sends the first `len` bytes of `record`.
#[inline(always)]
pub(super) fn output<T>(ctx: &impl EbpfContext, record: &T, len: u64) {
    pass_on(ctx.as_ptr(), BPF_F_CURRENT_CPU, record, len);
}

/// Sends `record` and the first `len` bytes of the packet, which must have as many.
#[inline(always)]
pub(super) fn output_packet<T>(skb: Skb, record: &T, len: u32) {
    /// Shift of the packet length in the flags, `BPF_F_CTXLEN_MASK` of include/uapi/linux/bpf.h.
    const LEN: u32 = 32;
    let flags = BPF_F_CURRENT_CPU | (len as u64) << LEN;
    pass_on(skb.0.cast(), flags, record, size_of::<T>() as u64);
}

#[inline(always)]
fn pass_on<T>(ctx: *mut c_void, flags: u64, record: &T, len: u64) {
    const NO_SPACE: i64 = -28;
    let map = ptr::from_ref(&RECORDS).cast_mut().cast::<c_void>();
    let data = ptr::from_ref(record).cast_mut().cast::<c_void>();
    // SAFETY: `len` is at most the record's size, which the verifier checks.
    let result = unsafe { bpf_perf_event_output(ctx, map, flags, data, len) };
    // The kernel itself counts records that a full buffer loses, in the buffer.
    if result < 0 && result as i64 != NO_SPACE {
        counters::add(Loss::SendState, 1);
    }
}

/// Continues in another program. Returns only if the kernel refuses the tail call.
#[inline(always)]
pub(super) fn go_on(ctx: &impl EbpfContext, stage: u32) {
    // SAFETY: nothing here waits to be dropped.
    unsafe { STAGES.tail_call(ctx, stage) }
}
