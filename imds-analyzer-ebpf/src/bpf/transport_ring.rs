//! Records leave through a ring buffer: reserved, filled in place, submitted.

use aya_ebpf::{btf_maps::RingBuf, macros::btf_map, maps::ring_buf::RingBufEntry};
use imds_analyzer_ebpf::abi::{CAPTURE_MAX, RequestRecord};

/// Room for about 1,600 requests, or 1,300 announced processes, that user space has not read yet.
const RING_SIZE: usize = 2 * 1024 * 1024;

#[btf_map]
static RECORDS: RingBuf<RequestRecord<CAPTURE_MAX>, RING_SIZE> = RingBuf::new();

/// Room for a `T`, or `None` if user space is too far behind.
#[inline(always)]
pub(super) fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    RECORDS.reserve_untyped::<T>(0)
}
