//! Turns a judged head into a record.

use core::cell::Cell;

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use imds_analyzer_ebpf::{
    abi::{
        CAPTURE_MAX, CAPTURE_SHORT, Header, Loss, OwnerHook, RecordKind, Request, RequestRecord, Task, request_flags,
    },
    classify::{Head, Method, PathClass, Reason, Verdict},
    follow,
};

use super::{
    budget::{self, Class, imds_allows},
    endpoints,
    exchange::{self, Exchange},
    memory,
    socket::{self, Endpoints, NOTES, Socket},
    task, transport,
};
use crate::bpf::common::{counters, read, skb::Skb};

/// Sends a record of `kind` about the head the socket's classifier reported last or is reading.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_report(ctx: *mut __sk_buff, kind: u32) -> u32 {
    let skb = Skb(ctx);
    if let Some(socket) = socket::of_packet(skb) {
        if kind == RecordKind::Request as u32 {
            send(socket, exchange::of_packet(skb), RecordKind::Request);
        } else {
            send(socket, None, RecordKind::Pending);
        }
    }
    0
}

/// Reports `len` bytes of the stream from `seq` on, which cannot be judged. `kind` is a [`RecordKind`], `reason` a
/// [`Reason`].
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
    let skb = Skb(ctx);
    if let Some(exchange) = exchange::of_packet(skb) {
        exchange.set_uncertain();
    }
    if let Some(socket) = socket::of_packet(skb) {
        unjudged(socket, kind, seq, len, reason);
    }
    0
}

/// Like [`imds_unjudged`], for a connection without state.
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
    stateless(skb, sk, seq, len, reason);
    0
}

/// Sends a record about the head that the socket's classifier reported last or is reading, if its user's budget allows.
/// A complete head is counted in `exchange`.
#[inline(always)]
pub(super) fn send(socket: &Socket, exchange: Option<&Exchange>, kind: RecordKind) {
    let head = socket.classifier.head();
    let index = match exchange {
        Some(exchange) => exchange.count_request(&head),
        None => None,
    };
    let note = note(socket, socket.next_seq.get().wrapping_sub(head.len));
    if !admits(sender_uid(socket, note), &head, kind) {
        return;
    }
    let capture_len = socket.classifier.capture_len();
    let sent = if capture_len <= CAPTURE_SHORT {
        fill::<CAPTURE_SHORT>(socket, kind, note, capture_len, index)
    } else {
        fill::<CAPTURE_MAX>(socket, kind, note, capture_len, index)
    };
    if sent
        && let Some(exchange) = exchange
        && let Some(index) = index
    {
        exchange.set_reported(index);
    }
}

/// True if the user's budget allows the record; counts a record over the budget.
#[inline(always)]
fn admits(uid: u32, head: &Head, kind: RecordKind) -> bool {
    let is_notice = kind as u16 == RecordKind::Pending as u16;
    let class = if is_notice {
        Class::Pending
    } else if head.path_class as u8 == PathClass::Credential as u8 {
        Class::Credential
    } else {
        Class::Request
    };
    if imds_allows(uid, class as u32) != 0 {
        return true;
    }
    let loss = if is_notice {
        Loss::BudgetNotice
    } else if head.verdict as u8 == Verdict::V1 as u8 {
        Loss::BudgetV1
    } else {
        Loss::BudgetOther
    };
    counters::add(loss, 1);
    false
}

/// Sends a record of kind `kind` about `len` bytes of the stream from `seq` on, which cannot be judged for `reason`.
#[inline(always)]
fn unjudged(socket: &Socket, kind: RecordKind, seq: u32, len: u32, reason: Reason) {
    let note = note(socket, seq);
    let head = unknown(len, reason);
    if !admits(sender_uid(socket, note), &head, kind) {
        return;
    }
    let Some(mut entry) = transport::reserve::<RequestRecord<CAPTURE_SHORT>>() else {
        counters::add(Loss::RequestRing, 1);
        return;
    };
    // SAFETY: reserved memory of this type; all of it that is read is written before it is submitted.
    let request = unsafe { &mut (*entry.as_mut_ptr()).request };
    let old = if socket.old.get() != 0 {
        request_flags::OLD_SOCKET
    } else {
        0
    };
    request_into(request, &socket.endpoints, socket.sock(), &head, kind, seq, old, 0);
    owner_into(&mut request.task, socket, note);
    entry.submit(0);
}

/// Like [`unjudged`], for a socket without state. Names the sender of the latest note, or else the task that is sending
/// the packet.
#[inline(always)]
fn stateless(skb: Skb, sk: *mut bpf_sock, seq: u32, len: u32, reason: Reason) {
    let head = unknown(len, reason);
    let Some(mut entry) = transport::reserve::<RequestRecord<CAPTURE_SHORT>>() else {
        counters::add(Loss::RequestRing, 1);
        return;
    };
    // SAFETY: as in `unjudged`.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    let request = &mut record.request;
    let sock = memory::number(sk, Cell::from_mut(&mut request.sock));
    const {
        assert!(size_of::<Endpoints>() <= CAPTURE_SHORT);
        assert!(align_of::<RequestRecord<CAPTURE_SHORT>>() >= align_of::<Endpoints>());
        assert!(core::mem::offset_of!(RequestRecord<CAPTURE_SHORT>, capture).is_multiple_of(align_of::<Endpoints>()));
    }
    // VERIFIER: the stack is too small for the endpoints, and this record has no capture, so they use its room.
    let endpoints = record.capture.as_mut_ptr().cast::<Endpoints>();
    // SAFETY: the room is large enough and aligned, as just checked. `Endpoints` has only integers, for which any bytes
    // are valid.
    let endpoints = unsafe { &*endpoints };
    endpoints::write(endpoints, skb, sock);
    let cookie = endpoints.cookie.get();
    request_into(request, endpoints, sock, &head, RecordKind::Request, seq, 0, 0);
    if let Some(senders) = socket::senders(sock, cookie)
        && senders.count > 0
    {
        request.task = senders.notes[senders.count.wrapping_sub(1) as usize & (NOTES - 1)].task;
    } else {
        request.task.reserved = [0; 3];
        let (identity, leader) = task::identity();
        task::facts_into(&mut request.task, &identity, leader, 0, OwnerHook::Egress as u8);
        if identity.mm == 0 {
            // A kernel thread.
            request.task.tgid = 0;
        }
    }
    if !admits(request.task.uid, &head, RecordKind::Request) {
        entry.discard(0);
        return;
    }
    entry.submit(0);
}

/// A head of `len` bytes that cannot be judged.
#[inline(always)]
fn unknown(len: u32, reason: Reason) -> Head {
    Head {
        verdict: Verdict::Unknown,
        reason: Some(reason),
        method: Method::Unknown,
        path_class: PathClass::NotImds,
        facts: 0,
        len,
    }
}

/// Sends the record that [`send`] describes. Returns false if the ring buffer has no room.
#[inline(always)]
fn fill<const N: usize>(socket: &Socket, kind: RecordKind, note: u32, capture_len: usize, index: Option<u32>) -> bool {
    let Some(mut entry) = transport::reserve::<RequestRecord<N>>() else {
        let loss = if kind as u16 == RecordKind::Request as u16 {
            Loss::RequestRing
        } else {
            Loss::PendingRing
        };
        counters::add(loss, 1);
        return false;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: reserved memory of this type; all of it is written before it is submitted.
    let record = unsafe { &mut *record };
    let head = socket.classifier.head();
    let seq = socket.next_seq.get().wrapping_sub(head.len);
    let request = &mut record.request;
    let old = if socket.old.get() != 0 {
        request_flags::OLD_SOCKET
    } else {
        0
    };
    let pages = if socket.pages.get() != 0 && follow::is_before(seq, socket.pages_end.get()) {
        request_flags::SENDER_PAGES
    } else {
        0
    };
    request_into(
        request,
        &socket.endpoints,
        socket.sock(),
        &head,
        kind,
        seq,
        old | pages,
        capture_len as u16,
    );
    if let Some(index) = index {
        request.index = index;
        request.flags |= request_flags::NUMBERED;
    }
    owner_into(&mut request.task, socket, note);
    const { assert!(core::mem::offset_of!(RequestRecord<N>, capture).is_multiple_of(8)) };
    // SAFETY: the ring buffer's records are aligned to eight bytes, and so is the field.
    unsafe { socket.classifier.copy_capture(&mut record.capture) };
    entry.submit(0);
    true
}

#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "one for each part of a record; a struct of them would be on the stack"
)]
pub(super) fn request_into(
    request: &mut Request,
    endpoints: &Endpoints,
    sock: u64,
    head: &Head,
    kind: RecordKind,
    seq: u32,
    flags: u16,
    capture_len: u16,
) {
    request.header = Header {
        time: task::now(),
        kind: kind as u16,
        data_len: capture_len,
        reserved: 0,
    };
    request.sock = sock;
    request.cookie = endpoints.cookie.get();
    request.seq = seq;
    request.head_len = head.len;
    request.verdict = head.verdict as u8;
    request.reason = match head.reason {
        Some(reason) => reason as u8,
        None => 0,
    };
    request.method = head.method as u8;
    request.path_class = head.path_class as u8;
    request.facts = head.facts;
    request.flags = endpoints.flags.get() | flags;
    request.net_ns = endpoints.net_ns.get();
    request.family = endpoints.family.get();
    request.reserved = [0; 3];
    request.source = endpoints.source.get();
    request.destination = endpoints.destination.get();
    request.packet_destination = endpoints.packet_destination.get();
    request.source_port = endpoints.source_port.get();
    request.destination_port = endpoints.destination_port.get();
    request.packet_port = endpoints.packet_port.get();
    request.reserved2 = 0;
    request.index = 0;
    request.reserved3 = 0;
}

/// Writes the sender: the task of the note that was found, or else the task that connected.
#[inline(always)]
fn owner_into(to: &mut Task, socket: &Socket, note: u32) {
    *to = socket.connector();
    match note {
        NO_NOTE => {}
        PUSHED_OUT => counters::add(Loss::SenderNotes, 1),
        TOO_LATE => counters::add(Loss::SenderQueue, 1),
        place => {
            if let Some(senders) = socket::senders(socket.sock(), socket.endpoints.cookie.get()) {
                *to = senders.notes[within_notes(place)].task;
            }
        }
    }
}

/// The user of the task that [`owner_into`] writes.
#[inline(always)]
fn sender_uid(socket: &Socket, note: u32) -> u32 {
    // If no hook saw the task that connected, its facts are all zeroes, but the budget to use is not root's.
    let connector = socket.connector();
    let connector = if connector.tgid == 0 {
        budget::NOBODY
    } else {
        connector.uid
    };
    imds_note_uid(socket.sock(), socket.endpoints.cookie.get(), note, connector)
}

/// The user in the note at `place`, or `otherwise` if there is no note.
// VERIFIER: a global function, like `imds_announce`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_note_uid(sock: u64, cookie: u64, place: u32, otherwise: u32) -> u32 {
    match socket::senders(sock, cookie) {
        Some(senders) if place < NOTES as u32 => senders.notes[within_notes(place)].task.uid,
        _ => otherwise,
    }
}

/// The place of a note as an index.
// VERIFIER: as in `read::user_into`.
#[inline(always)]
pub(super) fn within_notes(place: u32) -> usize {
    read::bounded(place) as usize & (NOTES - 1)
}

// Results of `note` other than the place of a note.
pub(super) const NO_NOTE: u32 = NOTES as u32;
/// There were notes on this socket, until notes on other sockets evicted them.
const PUSHED_OUT: u32 = NO_NOTE + 1;
/// The sender has changed more often since than is remembered.
const TOO_LATE: u32 = NO_NOTE + 2;

/// The place of the note about the sender of the byte at `seq`: the latest note that does not begin after that byte.
#[inline(always)]
pub(super) fn note(socket: &Socket, seq: u32) -> u32 {
    // The connect hook creates the notes of a socket.
    let had_notes = socket.connector().hook == OwnerHook::Connect as u8;
    imds_note(socket.sock(), socket.endpoints.cookie.get(), had_notes as u32, seq)
}

/// Like [`note`], by the address of the socket. `had_notes` is 1 if notes were ever created for it.
// VERIFIER: a global function, like `imds_announce`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_note(sock: u64, cookie: u64, had_notes: u32, seq: u32) -> u32 {
    let Some(senders) = socket::senders(sock, cookie) else {
        return if had_notes != 0 { PUSHED_OUT } else { NO_NOTE };
    };
    // Notes are in the order of the stream: search backwards from the latest one for the first that does not begin
    // after the byte. One slot is reserved for the next note.
    for back in 1..NOTES as u32 {
        if back > senders.count {
            return NO_NOTE;
        }
        let place = senders.count.wrapping_sub(back) & (NOTES as u32 - 1);
        if !follow::is_before(seq, senders.notes[place as usize].seq) {
            return place;
        }
    }
    if senders.count as usize >= NOTES {
        TOO_LATE
    } else {
        NO_NOTE
    }
}
