//! The first bytes that a reader receives after a send: the status line of an answer, or something else.
//!
//! Only the status leaves the kernel. What is received is looked at where it is, in the reader's memory, once it is there.

use aya_ebpf::{macros::map, maps::LruHashMap, programs::ProbeContext};
use imds_analyzer_ebpf::{
    abi::legacy::Phase,
    answer::{STATUS_LINE_LEN, status_of},
};

use super::{
    current::thread,
    peer::{self, Peer},
    sends::{self, source},
    settings::settings,
};
use crate::bpf::common::read;

/// A receive in progress, by its thread.
#[derive(Clone, Copy)]
#[repr(C)]
struct Receive {
    sock: u64,
    /// Address of its first byte; 0 if that is not the memory of a process, or in pieces that are too small.
    address: u64,
}

#[map]
static RECEIVES: LruHashMap<u64, Receive> = LruHashMap::with_max_entries(4096, 0);

/// Handles the begin of tcp_recvmsg.
#[inline(always)]
pub(super) fn begin(sock: u64, message: u64, size: u64) {
    let Some(settings) = settings() else { return };
    if peer::of(sock, settings) != Peer::Target || sends::sends(sock).is_none_or(|sends| sends.awaits == 0) {
        return;
    }
    let (source, place) = sends::source_of(message, settings);
    let start: u64 = read::kernel(message + place as u64).unwrap_or(0);
    let skip: u64 = read::kernel(message + settings.iter_offset as u64).unwrap_or(0);
    let (base, room): (u64, u64) = if source == source::BUFFER {
        (start, size)
    } else if source == source::USER {
        // match-struct iovec: iov_base iov_len
        let len: u64 = read::kernel(start + 8).unwrap_or(0);
        (read::kernel(start).unwrap_or(0), len.wrapping_sub(skip))
    } else {
        (0, 0)
    };
    let address = if base != 0 && room >= STATUS_LINE_LEN as u64 {
        base + skip
    } else {
        0
    };
    // Without an entry the bytes count as something else.
    let _ = RECEIVES.insert(thread(), Receive { sock, address }, 0);
}

/// Handles `copied` bytes, all those of this receive so far, that the reader has.
#[inline(always)]
pub(super) fn received(ctx: &ProbeContext, sock: u64, copied: i32) {
    let Some(settings) = settings() else { return };
    if copied <= 0 || peer::of(sock, settings) != Peer::Target {
        return;
    }
    let Some(sends) = sends::sends(sock) else { return };
    if sends.awaits == 0 {
        return;
    }
    sends.awaits = 0;
    let number = sends.count;
    sends::event(ctx, sock, number, Phase::Received, 0, status(sock, copied) as i32);
}

#[inline(always)]
fn status(sock: u64, copied: i32) -> u16 {
    let thread = thread();
    let Some(receive) = RECEIVES.get_ptr(thread) else {
        return 0;
    };
    // SAFETY: a map's value, written by this thread alone.
    let receive = unsafe { *receive };
    let _ = RECEIVES.remove(thread);
    if receive.sock != sock || receive.address == 0 || copied < STATUS_LINE_LEN as i32 {
        return 0;
    }
    // A power of two: see `read::user_into`.
    let mut bytes = [0; 16];
    if !read::user_into(&mut bytes, receive.address, STATUS_LINE_LEN as u32) {
        return 0;
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = bytes;
    status_of(&[a, b, c, d, e, f, g, h, i, j, k, l])
}
