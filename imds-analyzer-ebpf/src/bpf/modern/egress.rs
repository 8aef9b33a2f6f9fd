//! The wire tap: sees every packet that a socket sends, selects packets by the socket's peer, and follows the stream by
//! sequence number.

use aya_ebpf::{bindings::__sk_buff, programs::SkBuffContext};
use aya_log_ebpf::debug;
use imds_analyzer_ebpf::{
    abi::{Loss, OwnerHook, RecordKind, request_flags},
    classify::{Reason, Step},
    follow::{self, Headers, Place},
};

use super::{
    DROP, PASS,
    constants::offset,
    endpoints, exchange,
    pages::{imds_again, imds_remember},
    rehearse::{imds_held, imds_prepare},
    report::{imds_report, imds_stateless, imds_unjudged},
    scan,
    sender::imds_note_sender,
    socket::{self, Socket, noted},
    task::{self, imds_announce},
};
use crate::bpf::common::{counters, read, skb::Skb};

/// Entry of the tap.
#[inline(always)]
pub(super) fn observe(ctx: *mut __sk_buff) {
    let skb = Skb(ctx);
    if skb.is_imds() {
        imds_stream(ctx);
    }
}

/// Entry of the tap in a rehearsal: the verdict on a packet.
#[inline(always)]
pub(super) fn judge(ctx: *mut __sk_buff) -> i32 {
    if !Skb(ctx).is_imds() {
        return PASS;
    }
    // Bytes that may not leave are not judged: they are not part of the stream unless they leave later.
    if imds_held(ctx) != 0 {
        return DROP;
    }
    imds_stream_rehearse(ctx);
    // VERIFIER: the verifier knows nothing about a function's result, and must see that this one is 0 or 1.
    PASS ^ (read::bounded(imds_held(ctx)) & 1) as i32
}

/// The body of [`imds_stream`] and [`imds_stream_rehearse`].
// A macro, so that the function compiles to the same instructions whether or not a rehearsal shares its code.
macro_rules! stream {
    ($ctx:ident, $rehearse:literal) => {{
        let skb = Skb($ctx);
        let sk = skb.tcp_sock();
        if sk.is_null() {
            return 0;
        }
        let Ok(headers) = Headers::read(&skb) else {
            counters::add(Loss::PacketShape, 1);
            debug!(
                SkBuffContext::new($ctx),
                "a packet to IMDS that is not TCP as it is known: {} bytes",
                skb.len()
            );
            imds_stateless($ctx, 0, 0, Reason::Unreadable as u32);
            return 0;
        };
        let len = skb.len().saturating_sub(headers.payload);
        let Some(socket) = socket::of(sk, $ctx.cast()) else {
            if len > 0 {
                imds_stateless($ctx, headers.seq, len, Reason::NoState as u32);
            }
            return 0;
        };
        let syn = headers.is_syn();
        let repeated = syn && socket.synced.get() != 0 && socket.initial_seq.get() == headers.seq;
        if syn && !repeated || socket.synced.get() == 0 && len > 0 {
            socket.synced.set(1);
            socket.old.set(!syn as u8);
            socket.initial_seq.set(headers.seq);
            socket.next_seq.set(headers.seq);
            socket.noted.set(noted::NO);
            socket.pages.set(0);
            socket.urgent.set(0);
            socket.local.set(0);
            socket.set_sock(sk);
            imds_open($ctx);
        }
        if len > 0 {
            if $rehearse {
                imds_prepare($ctx, socket.next_seq.get(), syn as u32);
            }
            take::<$rehearse>(skb, socket, &headers, len);
        }
        if headers.is_last() && socket.classifier.close() == Step::Head {
            imds_report($ctx, RecordKind::Request as u32);
        } else if socket.classifier.is_unfinished() {
            note_unfinished($ctx, socket);
        }
        0
    }};
}

/// Processes a packet of a socket whose peer is IMDS.
// VERIFIER: a global function is verified once, on its own (5.6, commit 51c39bb1d5d1), not once for every call path.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_stream(ctx: *mut __sk_buff) -> u32 {
    stream!(ctx, false)
}

/// Like [`imds_stream`], in a rehearsal.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_stream_rehearse(ctx: *mut __sk_buff) -> u32 {
    stream!(ctx, true)
}

/// Processes the first packet of a connection, or the first one seen: records what stays the same for all later
/// packets.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_open(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb(ctx);
    let Some(socket) = socket::of_packet(skb) else { return 0 };
    let sock = socket.sock();
    endpoints::write(&socket.endpoints, skb, sock);
    if socket.old.get() != 0 {
        socket.classifier.join_midstream(Reason::Midstream);
        return 0;
    }
    socket.classifier.restart();
    let sk = skb.full_sock();
    if !sk.is_null() {
        exchange::begin_unless_begun(sk);
    }
    // No hook saw the task that connected (MPTCP on some kernels). A first SYN leaves in the context of its connect(2),
    // so the current task is the one that connects, unless it is a kernel thread.
    if socket.connector().tgid == 0 {
        let (identity, leader) = task::identity();
        if identity.mm != 0 && identity.tgid != 0 {
            socket.set_connector(&identity, leader, 0, OwnerHook::Egress as u8);
            imds_announce(sock, skb.cookie(), 0, OwnerHook::Egress as u32);
        }
    }
    0
}

/// Notes the current task as the sender of the bytes from `seq` on, if that is certain although no sender hook sees the
/// send: a SYN with data (TCP Fast Open) leaves in the context of its send, and so do the packets of an MPTCP
/// connection while a process holds the lock of its socket.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_sender(ctx: *mut __sk_buff, seq: u32, syn: u32) -> u32 {
    let skb = Skb(ctx);
    let Some(socket) = socket::of_packet(skb) else { return 0 };
    let sock = socket.sock();
    if syn == 0 && !task::is_mptcp_sender(sock) {
        return 0;
    }
    let (identity, _) = task::identity();
    if identity.mm == 0 || identity.tgid == 0 {
        return 0;
    }
    let cookie = skb.cookie();
    let is_known = match socket::senders(sock, cookie) {
        Some(senders) if senders.count > 0 => senders.is_last(&identity),
        _ => identity.is_of(&socket.connector()),
    };
    if !is_known {
        imds_note_sender(sock, cookie, 0, OwnerHook::Egress as u32, seq);
    }
    0
}

/// Takes the new part of `len` bytes of payload, and compares the rest with the bytes that were judged before.
#[inline(always)]
fn take<const REHEARSE: bool>(skb: Skb, socket: &Socket, headers: &Headers, len: u32) {
    let mut offset = headers.payload;
    let mut left = len;
    match follow::place(socket.next_seq.get(), headers.seq, len) {
        Place::New => {}
        Place::Known(known) => {
            if socket.pages.get() != 0 || socket.local.get() != 0 {
                imds_again(skb.0, headers.seq, offset, known);
            }
            if known >= left {
                return;
            }
            offset += known;
            left -= known;
        }
        Place::Gap(missing) => gap(skb, socket, missing),
    }
    let seq = socket.next_seq.get();
    let flags = socket.endpoints.flags.get();
    // The current packet decides: the route to IMDS may have changed since the connection was opened.
    if skb.is_local() {
        socket.endpoints.flags.set(flags | request_flags::LOCAL);
        socket.local.set(1);
        socket.local_seq.set(seq.wrapping_add(left));
    } else {
        socket.endpoints.flags.set(flags & !request_flags::LOCAL);
    }
    let syn = headers.is_syn() as u32;
    if syn != 0 || offset!(tcp_sock_is_mptcp) != 0 {
        imds_sender(skb.0, seq, syn);
    }
    if offset!(shared_info_mask) != 0 {
        imds_remember(skb.0, seq, offset, left);
    }
    if let Some(behind) = headers.behind_urgent() {
        socket.urgent.set(1);
        socket.urgent_seq.set(behind);
    }
    // The urgent byte is the one before the urgent pointer, or the one after that as RFC 1122 reads the pointer
    // (tcp_stdurg).
    let urgent_seq = socket.urgent_seq.get();
    let from_urgent = seq.wrapping_sub(urgent_seq);
    let before_urgent = urgent_seq.wrapping_sub(1).wrapping_sub(seq);
    let is_urgent = socket.urgent.get() != 0 && (from_urgent == 0 || before_urgent < left);
    if is_urgent {
        socket.classifier.spoil(Reason::Urgent);
    }
    let left_out = scan::payload::<REHEARSE>(skb.0, offset, left);
    // Called even if nothing was spoiled: another branch would turn the loop above into two.
    socket.classifier.end_spoil();
    if left_out > 0 {
        counters::add(Loss::PacketBound, 1);
        debug!(
            SkBuffContext::new(skb.0),
            "a packet to IMDS with more heads than are looked at: {} bytes left out", left_out
        );
        gap(skb, socket, left_out);
    }
}

/// Handles `missing` bytes of the stream that no hook saw.
#[inline(always)]
fn gap(skb: Skb, socket: &Socket, missing: u32) {
    counters::add(Loss::GapBytes, missing as u64);
    let seq = socket.next_seq.get();
    if socket.classifier.gap(missing) == Step::Head {
        imds_report(skb.0, RecordKind::Request as u32);
    } else {
        imds_unjudged(skb.0, RecordKind::Request as u32, seq, missing, Reason::Gap as u32);
    }
    socket.next_seq.set(seq.wrapping_add(missing));
}

/// Tells user space, which applies the time limit, about a head that is not complete yet: once when it begins, and once
/// more with its request line.
#[inline(always)]
fn note_unfinished(ctx: *mut __sk_buff, socket: &Socket) {
    let seq = socket.next_seq.get().wrapping_sub(socket.classifier.head().len);
    let level = if socket.classifier.has_request_line() {
        noted::LINE
    } else {
        noted::YES
    };
    if socket.noted_seq.get() == seq && socket.noted.get() >= level {
        return;
    }
    socket.noted.set(level);
    socket.noted_seq.set(seq);
    imds_report(ctx, RecordKind::Pending as u32);
}
