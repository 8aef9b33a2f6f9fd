//! The wire tap: every packet a socket sends, judged by the socket's peer, followed by sequence number.

use aya_ebpf::{bindings::__sk_buff, programs::SkBuffContext};
use aya_log_ebpf::debug;
use imds_analyzer_ebpf::{
    abi::{Loss, OwnerHook, RecordKind, request_flags},
    classify::{Reason, Step},
    target,
};

use super::{
    counters,
    pages::{imds_again, imds_pages},
    report,
    sender::imds_note_sender,
    settings_global::setting,
    skb::Skb,
    socket::{self, Ends, Socket, noted},
    task::{self, imds_announce},
};

/// Bytes looked at by one call of [`imds_scan`].
// VERIFIER: it follows every way through the classifier for each of them, about 6,000 instructions a byte.
const CHUNK: usize = 2;
/// Calls of [`imds_scan`] by one of [`imds_span`], of that by one of [`imds_payload`], and of that for one packet: 64 KiB
/// in chunks, and a quarter more for pipelined heads, each of which ends a call early.
// VERIFIER: three loops of few rounds, because it follows each round of each.
const STEPS: u32 = 32;
const SPANS: u32 = 32;
const PAYLOADS: u32 = 40;
/// In the result of [`imds_scan`]: a head is to be reported. The bits below are the bytes taken.
const HEAD: u32 = 1 << 31;

const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const URG: u8 = 0x20;

/// Entry of the tap.
#[inline(always)]
pub(super) fn observe(ctx: *mut __sk_buff) {
    let skb = Skb(ctx);
    if skb.is_imds() {
        imds_packet(ctx);
    }
}

/// What is of interest in the packet's headers.
struct Segment {
    /// The port it goes to.
    port: u16,
    /// Where the payload starts, and its length.
    payload: u32,
    len: u32,
    /// Sequence number of the payload's first byte.
    seq: u32,
    flags: u8,
    /// Sequence number behind the urgent byte, where [`URG`] is set.
    urgent: u32,
}

impl Segment {
    /// Reads the headers; `None` if this is not a TCP packet.
    #[inline(always)]
    fn read(skb: Skb) -> Option<Self> {
        let [first] = skb.load::<1>(0)?;
        let v6 = first >> 4 == 6;
        let tcp = if v6 {
            tcp_after_v6(skb)?
        } else {
            const IPPROTO_TCP: u8 = 6;
            let [protocol] = skb.load::<1>(9)?;
            if protocol != IPPROTO_TCP {
                return None;
            }
            (first & 0x0f) as u32 * 4
        };
        let port = u16::from_be_bytes(skb.load::<2>(tcp + 2)?);
        let seq = u32::from_be_bytes(skb.load::<4>(tcp + 4)?);
        let [offset, flags] = skb.load::<2>(tcp + 12)?;
        let urgent = u16::from_be_bytes(skb.load::<2>(tcp + 18)?) as u32;
        let urgent = seq.wrapping_add(urgent);
        let payload = tcp + (offset >> 4) as u32 * 4;
        // A SYN takes one number before the data that may come with it (TCP Fast Open, RFC 7413).
        let seq = if flags & SYN != 0 { seq.wrapping_add(1) } else { seq };
        Some(Self {
            port,
            payload,
            len: skb.len().saturating_sub(payload),
            seq,
            flags,
            urgent,
        })
    }
}

/// Offset of the TCP header behind IPv6 extension headers, which any process may add (IPV6_RTHDR).
#[inline(always)]
fn tcp_after_v6(skb: Skb) -> Option<u32> {
    const IPPROTO_TCP: u8 = 6;
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    let [mut next] = skb.load::<1>(6)?;
    let mut offset = 40_u32;
    // VERIFIER: a constant bound. The kernel itself sends at most four of these.
    for _ in 0..5 {
        match next {
            IPPROTO_TCP => return Some(offset),
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let [following, len] = skb.load::<2>(offset)?;
                next = following;
                offset += (len as u32 + 1) * 8;
            }
            _ => return None,
        }
    }
    None
}

/// A packet of a socket whose peer is IMDS.
// VERIFIER: a global function is verified once, on its own (5.6, commit 51c39bb1d5d1), not once for every way that
// leads to it.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_packet(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb(ctx);
    let sk = skb.tcp_sock();
    if sk.is_null() {
        return 0;
    }
    let Some(segment) = Segment::read(skb) else {
        counters::add(Loss::PacketShape, 1);
        debug!(
            SkBuffContext::new(ctx),
            "a packet to IMDS that is not TCP as it is known: {} bytes",
            skb.len()
        );
        imds_stateless(ctx, 0, 0, Reason::Unreadable as u32);
        return 0;
    };
    let Some(socket) = socket::of(sk, ctx.cast()) else {
        if segment.len > 0 {
            imds_stateless(ctx, segment.seq, segment.len, Reason::NoState as u32);
        }
        return 0;
    };
    let syn = segment.flags & SYN != 0;
    let repeated = syn && socket.synced != 0 && socket.initial_seq == segment.seq;
    if syn && !repeated || socket.synced == 0 && segment.len > 0 {
        socket.synced = 1;
        socket.old = !syn as u8;
        socket.initial_seq = segment.seq;
        socket.next_seq = segment.seq;
        socket.noted = noted::NO;
        socket.pages = 0;
        socket.urgent = 0;
        socket.local = 0;
        socket.set_sock(sk);
        imds_open(ctx);
    }
    if segment.len > 0 {
        stream(skb, socket, &segment);
    }
    if segment.flags & (FIN | RST) != 0 && socket.classifier.close() == Step::Head {
        imds_report(ctx, RecordKind::Request as u32);
    } else if socket.classifier.is_unfinished() {
        note_unfinished(ctx, socket);
    }
    0
}

/// The first packet of a connection, or the first one seen: what stays the same for all that follow.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_open(ctx: *mut __sk_buff) -> u32 {
    let skb = Skb(ctx);
    let Some(socket) = socket::of_packet(skb) else { return 0 };
    let sock = socket.sock();
    ends_into(&mut socket.ends, skb, sock);
    if socket.old != 0 {
        socket.classifier.join_midstream(Reason::Midstream);
        return 0;
    }
    socket.classifier.restart();
    // No hook saw who connected (MPTCP on some kernels). A first SYN leaves in the context of its connect(2), so the current
    // task is it, unless it is a kernel thread.
    if socket.connector.tgid == 0 {
        let (identity, leader) = task::identity();
        if identity.mm != 0 && identity.tgid != 0 {
            task::facts_into(&mut socket.connector, &identity, leader, 0, OwnerHook::Egress as u8);
            imds_announce(sock, skb.cookie(), 0, OwnerHook::Egress as u32);
        }
    }
    0
}

/// The two ends of the connection that a packet belongs to.
#[inline(always)]
pub(super) fn ends_into(ends: &mut Ends, skb: Skb, sock: u64) {
    let v6 = skb.load::<1>(0).is_some_and(|[first]| first >> 4 == 6);
    let (source, source_port) = skb.local(v6);
    ends.cookie = skb.cookie();
    ends.net_ns = task::net_namespace(sock);
    ends.flags = if skb.is_local() { request_flags::LOCAL } else { 0 };
    ends.family = if v6 { 6 } else { 4 };
    ends.reserved = 0;
    ends.source = source;
    ends.source_port = source_port;
    ends.destination = skb.peer(v6);
    ends.destination_port = target::PORT;
    ends.packet_destination = if v6 {
        skb.load::<16>(24).unwrap_or([0; 16])
    } else {
        super::skb::mapped(skb.load::<4>(16).map_or(0, u32::from_ne_bytes))
    };
    ends.packet_port = Segment::read(skb).map_or(0, |segment| segment.port);
    ends.reserved2 = 0;
}

/// Notes the current task as the sender of the bytes from `seq` on, where that is certain though no sender hook sees it: a
/// SYN with data (TCP Fast Open) leaves in the context of its send, and so do the packets of an MPTCP connection while a
/// process holds the lock of its socket.
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
        _ => identity.is_of(&socket.connector),
    };
    if !is_known {
        imds_note_sender(sock, cookie, 0, OwnerHook::Egress as u32, seq);
    }
    0
}

/// Reports `len` bytes of the stream from `seq` on, which cannot be judged for a [`Reason`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_unjudged(ctx: *mut __sk_buff, kind: u32, seq: u32, len: u32, reason: u32) -> u32 {
    let kind = if kind == RecordKind::Changed as u32 {
        RecordKind::Changed
    } else {
        RecordKind::Request
    };
    let reason = match Reason::from_raw(reason as u8) {
        Some(reason) => reason,
        None => Reason::Gap,
    };
    if let Some(socket) = socket::of_packet(Skb(ctx)) {
        report::unjudged(socket, kind, report::note(socket, seq), seq, len, reason);
    }
    0
}

/// The same for a connection without state.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_stateless(ctx: *mut __sk_buff, seq: u32, len: u32, reason: u32) -> u32 {
    let skb = Skb(ctx);
    let sk = skb.full_sock();
    if sk.is_null() {
        return 0;
    }
    let reason = match Reason::from_raw(reason as u8) {
        Some(reason) => reason,
        None => Reason::NoState,
    };
    report::stateless(skb, sk, seq, len, reason);
    0
}

/// Takes the part of the payload that is new, and compares the rest with what was judged.
#[inline(always)]
fn stream(skb: Skb, socket: &mut Socket, segment: &Segment) {
    let ahead = segment.seq.wrapping_sub(socket.next_seq);
    let mut offset = segment.payload;
    let mut left = segment.len;
    if ahead > i32::MAX as u32 {
        // Sent before, at least in part.
        let known = ahead.wrapping_neg();
        let again = if known < left { known } else { left };
        if socket.pages != 0 || socket.local != 0 {
            imds_again(skb.0, segment.seq, offset, again);
        }
        if known >= left {
            return;
        }
        offset += known;
        left -= known;
    } else if ahead > 0 {
        gap(skb, socket, ahead);
    }
    let seq = socket.next_seq;
    // What leaves now decides: the way to IMDS may have been another when the connection was opened.
    if skb.is_local() {
        socket.ends.flags |= request_flags::LOCAL;
        socket.local = 1;
        socket.local_seq = seq.wrapping_add(left);
    } else {
        socket.ends.flags &= !request_flags::LOCAL;
    }
    let syn = (segment.flags & SYN != 0) as u32;
    if syn != 0 || setting!(tcp_sock_is_mptcp) != 0 {
        imds_sender(skb.0, seq, syn);
    }
    if setting!(shared_info_mask) != 0 {
        imds_pages(skb.0, seq, offset, left);
    }
    if segment.flags & URG != 0 {
        socket.urgent = 1;
        socket.urgent_seq = segment.urgent;
    }
    // The byte before the urgent pointer, and the one behind it as RFC 1122 has it (tcp_stdurg).
    let from_urgent = seq.wrapping_sub(socket.urgent_seq);
    let before_urgent = socket.urgent_seq.wrapping_sub(1).wrapping_sub(seq);
    let is_urgent = socket.urgent != 0 && (from_urgent == 0 || before_urgent < left);
    if is_urgent {
        socket.classifier.spoil(Reason::Urgent);
    }
    // VERIFIER: a constant bound.
    for _ in 0..PAYLOADS {
        let taken = imds_payload(skb.0, offset, left);
        if taken == 0 {
            break;
        }
        offset = offset.wrapping_add(taken);
        left = left.saturating_sub(taken);
    }
    if is_urgent {
        socket.classifier.end_spoil();
    }
    if left > 0 {
        counters::add(Loss::PacketBound, 1);
        debug!(
            SkBuffContext::new(skb.0),
            "a packet to IMDS with more heads than are looked at: {} bytes left out", left
        );
        gap(skb, socket, left);
    }
}

/// `missing` bytes of the stream are not to be seen.
#[inline(always)]
fn gap(skb: Skb, socket: &mut Socket, missing: u32) {
    counters::add(Loss::GapBytes, missing as u64);
    if socket.classifier.gap(missing) == Step::Head {
        imds_report(skb.0, RecordKind::Request as u32);
    } else {
        imds_unjudged(
            skb.0,
            RecordKind::Request as u32,
            socket.next_seq,
            missing,
            Reason::Gap as u32,
        );
    }
    socket.next_seq = socket.next_seq.wrapping_add(missing);
}

/// Tells user space, which keeps the time, of a head that is not whole yet: once at first, once with its request line.
#[inline(always)]
fn note_unfinished(ctx: *mut __sk_buff, socket: &mut Socket) {
    let seq = socket.next_seq.wrapping_sub(socket.classifier.head().len);
    let level = if socket.classifier.has_request_line() {
        noted::LINE
    } else {
        noted::YES
    };
    if socket.noted_seq == seq && socket.noted >= level {
        return;
    }
    socket.noted = level;
    socket.noted_seq = seq;
    imds_report(ctx, RecordKind::Pending as u32);
}

/// As [`imds_span`], for more of them.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_payload(ctx: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    let mut taken = 0_u32;
    // VERIFIER: a constant bound.
    for _ in 0..SPANS {
        let result = imds_span(ctx, offset.wrapping_add(taken), len.saturating_sub(taken));
        if result == 0 {
            break;
        }
        taken = taken.wrapping_add(result);
    }
    taken
}

/// Takes `len` payload bytes at `offset`, or as many as one call may look at, and reports the heads in them. Returns how
/// many it took.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_span(ctx: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    let mut taken = 0_u32;
    // VERIFIER: a constant bound.
    for _ in 0..STEPS {
        let result = imds_scan(ctx, offset.wrapping_add(taken), len.saturating_sub(taken));
        if result == 0 {
            break;
        }
        taken = taken.wrapping_add(result & !HEAD);
        if result & HEAD != 0 {
            imds_report(ctx, RecordKind::Request as u32);
        }
    }
    taken
}

/// Pushes up to [`CHUNK`] of `len` payload bytes at `offset` into the socket's classifier. Returns how many it took,
/// with [`HEAD`] set if the last of them completed a head; 0 if the packet could not be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_scan(ctx: *mut __sk_buff, offset: u32, len: u32) -> u32 {
    if len == 0 {
        return 0;
    }
    let skb = Skb(ctx);
    let Some(socket) = socket::of_packet(skb) else { return 0 };
    let wanted = if len > CHUNK as u32 { CHUNK as u32 } else { len };
    let mut chunk = [0; CHUNK];
    if !skb.load_into(offset, &mut chunk, wanted) {
        return 0;
    }
    let mut taken = 0;
    let mut head = 0;
    for byte in chunk {
        if taken >= wanted || head != 0 {
            break;
        }
        taken += 1;
        if socket.classifier.push(byte) == Step::Head {
            head = HEAD;
        }
    }
    socket.next_seq = socket.next_seq.wrapping_add(taken);
    taken | head
}

/// Sends a record of `kind` about the head the socket's classifier reported last or is reading.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_report(ctx: *mut __sk_buff, kind: u32) -> u32 {
    if let Some(socket) = socket::of_packet(Skb(ctx)) {
        let kind = if kind == RecordKind::Request as u32 {
            RecordKind::Request
        } else {
            RecordKind::Pending
        };
        report::send(socket, kind);
    }
    0
}
