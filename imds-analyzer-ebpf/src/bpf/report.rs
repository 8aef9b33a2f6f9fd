//! A judged head becomes a record.

use imds_analyzer_ebpf::{
    abi::{CAPTURE_MAX, CAPTURE_SHORT, Header, Loss, RecordKind, RequestRecord, Task, request_flags},
    classify::{PathClass, Verdict},
};

use super::{
    budget::{self, Class},
    counters,
    socket::{self, NOTES, Socket},
    task, transport_ring,
};

/// Sends what the socket's classifier has to say about the head it reported last or is reading.
#[inline(always)]
pub(super) fn send(socket: &Socket, kind: RecordKind) {
    if let Some(loss) = over_budget(socket, kind) {
        counters::add(loss, 1);
        return;
    }
    let (_, capture_len) = socket.classifier.capture();
    if capture_len <= CAPTURE_SHORT {
        fill::<CAPTURE_SHORT>(socket, kind, capture_len);
    } else {
        fill::<CAPTURE_MAX>(socket, kind, capture_len);
    }
}

/// What to count in place of the record, where who connected has used up their budget.
#[inline(always)]
fn over_budget(socket: &Socket, kind: RecordKind) -> Option<Loss> {
    let head = socket.classifier.head();
    let (class, loss) = if kind as u16 == RecordKind::Pending as u16 {
        (Class::Pending, Loss::BudgetNotice)
    } else {
        let class = match head.path_class {
            PathClass::Credential => Class::Credential,
            _ => Class::Request,
        };
        match head.verdict {
            Verdict::V1 => (class, Loss::BudgetV1),
            _ => (class, Loss::BudgetOther),
        }
    };
    if budget::allows(socket.connector.uid, class) {
        None
    } else {
        Some(loss)
    }
}

#[inline(always)]
fn fill<const N: usize>(socket: &Socket, kind: RecordKind, capture_len: usize) {
    let Some(mut entry) = transport_ring::reserve::<RequestRecord<N>>() else {
        let loss = if kind as u16 == RecordKind::Request as u16 {
            Loss::RequestRing
        } else {
            Loss::PendingRing
        };
        counters::add(loss, 1);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: reserved memory of this type; all of it is written before it is submitted.
    let record = unsafe { &mut *record };
    let head = socket.classifier.head();
    let seq = socket.next_seq.wrapping_sub(head.len);
    let ends = &socket.ends;
    let request = &mut record.request;
    request.header = Header {
        time: task::now(),
        kind: kind as u16,
        data_len: capture_len as u16,
        reserved: 0,
    };
    request.sock = socket.sock();
    request.cookie = ends.cookie;
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
    request.flags = ends.flags | if socket.old != 0 { request_flags::OLD_SOCKET } else { 0 };
    request.net_ns = ends.net_ns;
    request.family = ends.family;
    request.reserved = [0; 3];
    request.source = ends.source;
    request.destination = ends.destination;
    request.packet_destination = ends.packet_destination;
    request.source_port = ends.source_port;
    request.destination_port = ends.destination_port;
    request.packet_port = ends.packet_port;
    request.reserved2 = 0;
    owner_into(&mut request.task, socket, seq);
    let (capture, _) = socket.classifier.capture();
    record.capture.copy_from_slice(&capture[..N]);
    entry.submit(0);
}

/// The sender of the byte at `seq`: of the notes taken before it, the latest. Without one, who connected.
#[inline(always)]
fn owner_into(to: &mut Task, socket: &Socket, seq: u32) {
    *to = socket.connector;
    let Some(senders) = socket::senders(socket.sock(), socket.ends.cookie) else {
        return;
    };
    // Notes are taken in the order of the stream: from the latest back, the first that is not behind the byte.
    for back in 1..=NOTES as u32 {
        if back > senders.count {
            return;
        }
        let note = &senders.notes[senders.count.wrapping_sub(back) as usize & (NOTES - 1)];
        // As TCP compares sequence numbers: half of the circle is before.
        if seq.wrapping_sub(note.seq) <= i32::MAX as u32 {
            *to = note.task;
            return;
        }
    }
    if senders.count as usize > NOTES {
        counters::add(Loss::SenderQueue, 1);
    }
}
