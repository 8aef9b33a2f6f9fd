//! Copies the bytes of a send, one piece per run, when the send begins and again when it ends.

use core::{ffi::c_void, mem::offset_of};

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user},
    macros::map,
    maps::PerCpuArray,
};
use imds_analyzer_ebpf::abi::{
    Header, RecordKind,
    legacy::{PIECE_MAX, Phase, SendRecord, stage},
};

use super::{
    caller,
    current::now,
    peer,
    sends::{self, Call, source},
    settings::settings,
    transport,
};
use crate::bpf::common::read;

/// Buffer for the record in progress: a program on a kprobe is not interrupted by another one of its kind.
#[map]
static SCRATCH: PerCpuArray<SendRecord> = PerCpuArray::with_max_entries(1, 0);

/// A contiguous part of a send.
struct Slice {
    address: u64,
    len: u64,
}

/// Sends the next piece to user space, and continues with the one after it.
#[inline(always)]
pub(super) fn next(ctx: &impl EbpfContext) {
    let (Some(settings), Some(call)) = (settings(), sends::call()) else {
        return;
    };
    let Some(record) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own value of the map.
    let record = unsafe { &mut *record };
    let send = &mut record.send;
    send.sock = call.sock;
    send.cookie = peer::cookie(call.sock, settings);
    send.seq = peer::next_seq(call.sock, settings);
    send.number = call.number;
    send.offset = call.offset;
    send.result = call.result;
    send.phase = call.phase as u8;
    send.flags = call.flags;
    caller::task_into(&mut send.task, settings);
    peer::ends_into(send, call.sock, settings);

    let left = call.limit.wrapping_sub(call.offset);
    let mut copied = 0;
    let mut missing = 0;
    if left > 0 {
        match slice(call) {
            Some(slice) if slice.len > 0 => {
                let mut len = PIECE_MAX as u32;
                if slice.len < len as u64 {
                    len = slice.len as u32;
                }
                if left < len {
                    len = left;
                }
                if copy(&mut record.data, &slice, len, call.source == source::KERNEL) {
                    copied = len;
                } else {
                    missing = len;
                }
                call.within += len as u64;
                if len as u64 == slice.len {
                    call.segment += 1;
                    call.within = 0;
                }
            }
            // An empty segment.
            Some(_) => {
                call.segment += 1;
                call.within = 0;
            }
            None => missing = left,
        }
    }
    let done = call.offset.wrapping_add(copied).wrapping_add(missing);
    call.offset = done;
    record.send.header = Header {
        time: now(),
        kind: RecordKind::Send as u16,
        data_len: copied as u16,
        reserved: 0,
    };
    record.send.missing = missing;
    if copied | missing != 0 || left == 0 {
        // VERIFIER: the length is bounded and never 0.
        let len = offset_of!(SendRecord, data) as u64 + (read::bounded(copied) & (2 * PIECE_MAX as u32 - 1)) as u64;
        transport::output(ctx, record, len);
        wipe(&mut record.data, copied);
    }
    if done < call.limit {
        transport::go_on(ctx, stage::COPY);
        // The kernel allows no more tail calls: the rest of the send is missing.
        record.send.offset = done;
        record.send.missing = call.limit.wrapping_sub(done);
        record.send.header.data_len = 0;
        transport::output(ctx, record, offset_of!(SendRecord, data) as u64);
    }
    if call.phase != Phase::Begin as u32 {
        sends::forget_call();
    }
}

/// Where the next bytes are; `None` if they cannot be read.
#[inline(always)]
fn slice(call: &Call) -> Option<Slice> {
    if call.source == source::NONE {
        return None;
    }
    if call.source == source::BUFFER {
        return Some(Slice {
            address: call.segments + call.within,
            len: call.limit.wrapping_sub(call.offset) as u64,
        });
    }
    if call.segment >= call.segment_count {
        return None;
    }
    // match-struct iovec: iov_base iov_len
    let segment = call.segments + call.segment * 16;
    let (address, len): (u64, u64) = (read::kernel(segment)?, read::kernel(segment + 8)?);
    Some(Slice {
        address: address + call.within,
        len: len.wrapping_sub(call.within),
    })
}

/// Copies the first `len` bytes of a slice, 1 to [`PIECE_MAX`] of them, from the process's memory or the kernel's.
#[inline(always)]
fn copy(to: &mut [u8; PIECE_MAX], slice: &Slice, len: u32, kernel: bool) -> bool {
    // VERIFIER: as in `read::user_into`.
    let len = (read::bounded(len - 1) & (PIECE_MAX as u32 - 1)) + 1;
    let to = to.as_mut_ptr().cast::<c_void>();
    let from = slice.address as *const c_void;
    let result = if kernel {
        // SAFETY: at most PIECE_MAX bytes are written to `to`; the helper checks the address it reads from.
        unsafe { bpf_probe_read_kernel(to, len, from) }
    } else {
        // SAFETY: as above.
        unsafe { bpf_probe_read_user(to, len, from) }
    };
    result == 0
}

/// Overwrites the first `len` bytes, at most [`PIECE_MAX`]: no token stays in the map.
#[inline(always)]
fn wipe(data: &mut [u8; PIECE_MAX], len: u32) {
    if len == 0 {
        return;
    }
    // VERIFIER: as in `read::user_into`.
    let len = (read::bounded(len - 1) & (PIECE_MAX as u32 - 1)) + 1;
    // The helper writes zeroes where it cannot read (kernel/trace/bpf_trace.c), and there is nothing at address 0.
    // SAFETY: at most PIECE_MAX bytes are written to `data`.
    unsafe { bpf_probe_read_kernel(data.as_mut_ptr().cast::<c_void>(), len, core::ptr::null()) };
}
