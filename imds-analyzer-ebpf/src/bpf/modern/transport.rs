//! Sends records through a ring buffer: they are reserved, filled in place and submitted.

use core::ptr;

use aya_ebpf::{
    bindings::BPF_RB_AVAIL_DATA, btf_maps::RingBuf, helpers::generated::bpf_ringbuf_query, macros::btf_map,
    maps::ring_buf::RingBufEntry,
};
use imds_analyzer_ebpf::abi::{CAPTURE_MAX, RequestRecord};

/// Room for about 4,600 short requests, or 1,600 long ones, or 1,300 announced processes, that user space has not read
/// yet. User space maps the ring buffer, and twice this size counts as its resident memory.
const RING_SIZE: usize = 2 * 1024 * 1024;

#[btf_map]
static RECORDS: RingBuf<RequestRecord<CAPTURE_MAX>, RING_SIZE> = RingBuf::new();

/// True if records that user space has not read yet take more than half of the ring buffer.
#[inline(always)]
pub(super) fn is_half_full() -> bool {
    let map = ptr::from_ref(&RECORDS).cast_mut().cast();
    // SAFETY: a ring buffer of this object.
    let unread = unsafe { bpf_ringbuf_query(map, BPF_RB_AVAIL_DATA.into()) };
    unread > RING_SIZE as u64 / 2
}

/// Reserves room for a `T`; `None` if user space is too far behind.
#[inline(always)]
pub(super) fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    RECORDS.reserve_untyped::<T>(0)
}
