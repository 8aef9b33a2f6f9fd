//! State kept from the beginning of a send to its end, and from one send on a socket to the next.

use aya_ebpf::{EbpfContext, macros::map, maps::LruHashMap, programs::ProbeContext};
use imds_analyzer_ebpf::abi::{
    Loss,
    legacy::{Phase, Settings, send_flags, stage},
};

use super::{
    current::thread,
    peer::{self, Peer},
    settings::settings,
    transport,
};
use crate::bpf::common::{counters, read};

/// Where a send's bytes are.
pub(super) mod source {
    /// In pages, which programs cannot read.
    pub(crate) const NONE: u32 = 0;
    /// In segments of the process's memory.
    pub(crate) const USER: u32 = 1;
    /// In segments of the kernel's memory.
    pub(crate) const KERNEL: u32 = 2;
    /// In one piece of the process's memory.
    pub(crate) const BUFFER: u32 = 3;
}

/// A send in progress, or another event. The map's key is the thread.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Call {
    pub(super) sock: u64,
    /// Address of the array of segments, or of the bytes themselves for [`source::BUFFER`].
    pub(super) segments: u64,
    pub(super) segment_count: u64,
    /// Bytes of the first segment that are not part of the send.
    pub(super) skip: u64,
    /// Index of the next segment, and the offset in it.
    pub(super) segment: u64,
    pub(super) within: u64,
    pub(super) number: u32,
    /// A [`Phase`].
    pub(super) phase: u32,
    /// One of [`source`].
    pub(super) source: u32,
    /// Bytes of the send that count in this phase, and how many of them were passed on.
    pub(super) limit: u32,
    pub(super) offset: u32,
    pub(super) result: i32,
    /// Bits of [`send_flags`].
    pub(super) flags: u32,
    /// VERIFIER: every byte of a map's value must be written.
    reserved: u32,
}

#[map]
static CALLS: LruHashMap<u64, Call> = LruHashMap::with_max_entries(4096, 0);

/// The sends on one socket.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Sends {
    /// The process announced last.
    pub(super) announced_start: u64,
    pub(super) announced_exec: u64,
    pub(super) announced_tgid: u32,
    /// Sends so far.
    pub(super) count: u32,
    /// 1 if nothing was received since the last send.
    pub(super) awaits: u32,
    /// VERIFIER: no byte of a map's value may be left unwritten.
    reserved: u32,
}

#[map]
static SENDS: LruHashMap<u64, Sends> = LruHashMap::with_max_entries(8192, 0);

#[inline(always)]
pub(super) fn call<'a>() -> Option<&'a mut Call> {
    let call = CALLS.get_ptr_mut(thread())?;
    // SAFETY: a map's value that belongs to the current thread.
    Some(unsafe { &mut *call })
}

#[inline(always)]
pub(super) fn forget_call() {
    // A missing entry was evicted as the oldest of too many. User space never sees the end of its send, and notices
    // that.
    let _ = CALLS.remove(thread());
}

#[inline(always)]
pub(super) fn sends<'a>(sock: u64) -> Option<&'a mut Sends> {
    let sends = SENDS.get_ptr_mut(sock)?;
    // SAFETY: a map's value; programs that write it hold the socket's lock.
    Some(unsafe { &mut *sends })
}

/// Starts a new count of sends for the socket at `sock`.
#[inline(always)]
fn start_count(sock: u64, count: u32) {
    let sends = Sends {
        announced_start: 0,
        announced_exec: 0,
        announced_tgid: 0,
        count,
        awaits: 1,
        reserved: 0,
    };
    if SENDS.insert(sock, sends, 0).is_err() {
        counters::add(Loss::SendState, 1);
    }
}

/// The number of the next send of the socket at `sock`.
#[inline(always)]
fn next_number(sock: u64) -> u32 {
    if let Some(sends) = sends(sock) {
        sends.count = sends.count.wrapping_add(1);
        sends.awaits = 1;
        return sends.count;
    }
    start_count(sock, 1);
    1
}

/// Handles the beginning of tcp_sendmsg_locked.
#[inline(always)]
pub(super) fn begin(ctx: &ProbeContext, sock: u64, message: u64, size: u64) {
    let Some(settings) = settings() else { return };
    match peer::of(sock, settings) {
        Peer::Target => {}
        Peer::None if opens_to_target(message, settings) => {}
        _ => return,
    }
    let (source, place) = source_of(message, settings);
    let skip: u64 = read::kernel(message + settings.iter_offset as u64).unwrap_or(0);
    let flags: u32 = read::kernel(message + settings.msg_flags as u64).unwrap_or(0);
    let call = Call {
        sock,
        segments: read::kernel(message + place as u64).unwrap_or(0),
        segment_count: read::kernel(message + settings.iter_segment_count as u64).unwrap_or(0),
        skip,
        segment: 0,
        within: skip,
        number: next_number(sock),
        phase: Phase::Begin as u32,
        source,
        limit: bytes(size),
        offset: 0,
        result: 0,
        flags: settings.send_flags | kept(flags),
        reserved: 0,
    };
    start(ctx, &call);
}

/// Handles the beginning of do_tcp_sendpages.
#[inline(always)]
pub(super) fn begin_pages(ctx: &ProbeContext, sock: u64) {
    let Some(settings) = settings() else { return };
    if peer::of(sock, settings) == Peer::Target {
        event(ctx, sock, next_number(sock), Phase::Begin, send_flags::SENDER_PAGES, 0);
    }
}

/// The [`send_flags`] that tell user space about the flags of a message.
#[inline(always)]
fn kept(message: u32) -> u32 {
    const MSG_OOB: u32 = 1;
    const MSG_ZEROCOPY: u32 = 0x0400_0000;
    /// sendfile(2) and splice(2) use it since 6.4.
    const MSG_SPLICE_PAGES: u32 = 0x0800_0000;
    let mut flags = 0;
    if message & MSG_OOB != 0 {
        flags |= send_flags::URGENT;
    }
    if message & (MSG_ZEROCOPY | MSG_SPLICE_PAGES) != 0 {
        flags |= send_flags::SENDER_PAGES;
    }
    flags
}

/// Notes that the send in progress on the socket at `sock` waits for room.
#[inline(always)]
pub(super) fn waits(sock: u64) {
    if let Some(call) = call()
        && call.sock == sock
    {
        call.flags |= send_flags::WAITED;
    }
}

/// The [`source`] of a message's bytes, and the field of the message that holds their address.
#[inline(always)]
pub(super) fn source_of(message: u64, settings: &Settings) -> (u32, u32) {
    let tag = read::kernel::<[u8; 1]>(message + settings.iter_type as u64).unwrap_or([u8::MAX])[0] as u32;
    let tag = tag & settings.tag_mask;
    let source = if tag == settings.tag_iovec {
        source::USER
    } else if tag == settings.tag_buffer {
        source::BUFFER
    } else if tag == settings.tag_kvec {
        source::KERNEL
    } else {
        source::NONE
    };
    let place = if source == source::BUFFER {
        settings.iter_buffer
    } else {
        settings.iter_segments
    };
    (source, place)
}

/// True if a message on a socket without a peer connects the socket to the target (MSG_FASTOPEN).
#[inline(always)]
fn opens_to_target(message: u64, settings: &Settings) -> bool {
    const MSG_FASTOPEN: u32 = 0x2000_0000;
    let flags: u32 = read::kernel(message + settings.msg_flags as u64).unwrap_or(0);
    let name: u64 = read::kernel(message + settings.msg_name as u64).unwrap_or(0);
    flags & MSG_FASTOPEN != 0 && name != 0 && peer::is_target(name, settings)
}

/// Handles the return of tcp_sendmsg_locked or do_tcp_sendpages.
#[inline(always)]
pub(super) fn end(ctx: &impl EbpfContext, result: i32) {
    let Some(call) = call() else { return };
    call.phase = Phase::End as u32;
    call.result = result;
    call.limit = if result > 0 { result as u32 } else { 0 };
    call.offset = 0;
    call.segment = 0;
    call.within = call.skip;
    transport::go_on(ctx, stage::COPY);
    counters::add(Loss::SendState, 1);
}

/// Handles a connect of the socket at `sock` to the `sockaddr` at `address`.
#[inline(always)]
pub(super) fn connect(ctx: &ProbeContext, sock: u64, address: u64) {
    let Some(settings) = settings() else { return };
    if !peer::is_target(address, settings) {
        return;
    }
    // With MSG_FASTOPEN the socket connects in a send, which is number 1 already.
    if let Some(call) = call()
        && call.sock == sock
    {
        return;
    }
    start_count(sock, 0);
    event(ctx, sock, 0, Phase::Connect, 0, 0);
}

/// Reports that nothing more is sent on the socket at `sock`; `phase` says why.
#[inline(always)]
pub(super) fn end_of_stream(ctx: &ProbeContext, sock: u64, phase: Phase) {
    let Some(settings) = settings() else { return };
    if peer::of(sock, settings) != Peer::Target {
        return;
    }
    // Report only sockets that have been seen.
    let Some(sends) = sends(sock) else { return };
    event(ctx, sock, sends.count, phase, 0, 0);
}

/// Sends a record without bytes.
#[inline(always)]
pub(super) fn event(ctx: &ProbeContext, sock: u64, number: u32, phase: Phase, flags: u32, result: i32) {
    let call = Call {
        sock,
        segments: 0,
        segment_count: 0,
        skip: 0,
        segment: 0,
        within: 0,
        number,
        phase: phase as u32,
        source: source::NONE,
        limit: 0,
        offset: 0,
        result,
        flags,
        reserved: 0,
    };
    start(ctx, &call);
}

#[inline(always)]
fn start(ctx: &ProbeContext, call: &Call) {
    if CALLS.insert(thread(), call, 0).is_err() {
        counters::add(Loss::SendState, 1);
        return;
    }
    transport::go_on(ctx, stage::OWNER);
    counters::add(Loss::SendState, 1);
}

/// `size` as far as it is counted: the kernel takes less than 2 GiB at once (MAX_RW_COUNT).
#[inline(always)]
fn bytes(size: u64) -> u32 {
    if size > i32::MAX as u64 {
        i32::MAX as u32
    } else {
        size as u32
    }
}
