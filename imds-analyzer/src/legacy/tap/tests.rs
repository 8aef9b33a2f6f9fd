#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed assertion is the point of a test"
)]

use imds_analyzer_ebpf::{
    abi::{
        RecordKind, Request, Task,
        exchange::News,
        legacy::{Phase, Send, send_flags},
        request_flags,
    },
    classify::{Reason, Verdict},
};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};
use zerocopy::FromZeros as _;

use super::LegacyTap;
use crate::loss::{Kind, Ledger};

const SOCK: u64 = 0xffff_8880_0000_1000;
const V1: &[u8] = b"GET /latest/user-data HTTP/1.1\r\nHost: imds\r\n\r\n";
const V2: &[u8] = b"GET / HTTP/1.1\r\nX-aws-ec2-metadata-token: secret\r\n\r\n";

/// A tap, and its verdicts.
struct Script {
    tap: LegacyTap,
    number: u32,
    records: Vec<(RecordKind, Request, Vec<u8>)>,
}

impl Script {
    fn new() -> Self {
        Self {
            tap: LegacyTap::new(None, false, true),
            number: 0,
            records: Vec::new(),
        }
    }

    fn connected() -> Self {
        let mut script = Self::new();
        script.take(Phase::Connect, |_| {}, b"");
        script
    }

    fn take(&mut self, phase: Phase, change: impl FnOnce(&mut Send), data: &[u8]) {
        let mut send = Send::new_zeroed();
        send.sock = SOCK;
        send.phase = phase as u8;
        send.number = self.number;
        send.destination = [169, 254, 169, 254, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        send.family = 4;
        send.source_port = 40_000_u16.to_be();
        // Started before any process that /proc can show now.
        send.task = Task {
            tgid: 7,
            start: 1,
            ..Task::default()
        };
        change(&mut send);
        let records = &mut self.records;
        self.tap
            .take(&mut send, data, &mut |kind, request: &Request, capture: &[u8]| {
                records.push((kind, *request, capture.to_vec()));
            });
    }

    fn begin(&mut self, data: &[u8]) {
        self.number += 1;
        self.take(Phase::Begin, |_| {}, data);
    }

    fn end(&mut self, data: &[u8], result: i32) {
        self.take(Phase::End, |send| send.result = result, data);
    }

    /// A normal send.
    fn send(&mut self, data: &[u8]) {
        self.begin(data);
        self.end(data, data.len() as i32);
    }

    fn close(&mut self) {
        self.take(Phase::Close, |_| {}, b"");
    }

    fn requests(&self) -> Vec<&Request> {
        let requests = self.records.iter().filter(|(kind, ..)| *kind == RecordKind::Request);
        requests.map(|(_, request, _)| request).collect()
    }

    /// Verdict and reason of each request.
    fn verdicts(&self) -> Vec<(Verdict, Option<Reason>)> {
        self.requests()
            .iter()
            .map(|request| (request.verdict().unwrap(), request.reason()))
            .collect()
    }

    fn counters(&self) -> &Ledger {
        self.tap.loss()
    }
}

fn unknown(reason: Reason) -> (Verdict, Option<Reason>) {
    (Verdict::Unknown, Some(reason))
}

const JUDGED_V1: (Verdict, Option<Reason>) = (Verdict::V1, None);
const JUDGED_V2: (Verdict, Option<Reason>) = (Verdict::V2, None);

#[test]
fn a_request_is_judged_and_its_token_stays_here() {
    let mut script = Script::connected();
    script.send(V2);
    script.send(V1);
    assert_eq!(script.verdicts(), [JUDGED_V2, JUDGED_V1]);
    let (_, request, capture) = &script.records[0];
    assert_eq!(request.flags, request_flags::SEND_TAP | request_flags::NUMBERED);
    assert_eq!(
        (request.task.tgid, request.seq, request.head_len),
        (7, 0, V2.len() as u32)
    );
    assert!(!String::from_utf8_lossy(capture).contains("secret"));
    assert!(script.counters().is_empty());
}

#[test]
fn only_bytes_that_the_socket_took_count() {
    let mut script = Script::connected();
    script.begin(V1);
    script.end(&V1[..10], 10);
    script.begin(&V1[10..]);
    script.end(b"", -11);
    assert_eq!(script.verdicts(), []);
    script.send(&V1[10..]);
    assert_eq!(script.verdicts(), [JUDGED_V1]);
}

#[test]
fn what_changed_or_cannot_be_read_is_unknown() {
    let mut script = Script::connected();
    script.begin(V2);
    script.end(V1.get(..V2.len()).unwrap_or(V1), V1.len() as i32);
    script.begin(b"");
    script.take(
        Phase::End,
        |send| {
            send.result = 60;
            send.missing = 60;
        },
        b"",
    );
    assert_eq!(
        script.verdicts(),
        [unknown(Reason::Changed), unknown(Reason::Unreadable)]
    );
    script.send(V1);
    assert_eq!(script.verdicts().last(), Some(&JUDGED_V1));
    assert_eq!(
        (
            script.counters().of(Kind::SendsChanged),
            script.counters().of(Kind::SendsUnreadable)
        ),
        (1, 1)
    );
}

#[test]
fn what_is_in_a_body_that_cannot_be_read_is_reported_once() {
    let mut script = Script::connected();
    script.send(b"POST / HTTP/1.1\r\nContent-Length: 60\r\n\r\n");
    script.begin(b"");
    script.take(
        Phase::End,
        |send| {
            send.result = 60;
            send.missing = 60;
        },
        b"",
    );
    script.send(V1);
    let unreadable = (Verdict::Unknown, Some(Reason::Unreadable));
    assert_eq!(script.verdicts(), [JUDGED_V1, unreadable, JUDGED_V1]);
}

#[test]
fn pieces_are_put_together_and_their_ends_are_missed() {
    let mut script = Script::connected();
    script.begin(&V1[..20]);
    script.take(Phase::Begin, |send| send.offset = 20, &V1[20..]);
    script.end(&V1[..20], V1.len() as i32);
    assert_eq!(script.verdicts(), []);
    script.take(
        Phase::End,
        |send| {
            send.offset = 20;
            send.result = V1.len() as i32;
        },
        &V1[20..],
    );
    assert_eq!(script.verdicts(), [JUDGED_V1]);
    // More bytes than the kernel side copies of one send.
    script.begin(&V2[..20]);
    script.end(&V2[..20], V2.len() as i32);
    script.take(
        Phase::End,
        |send| {
            send.offset = 20;
            send.missing = V2.len() as u32 - 20;
            send.result = V2.len() as i32;
        },
        b"",
    );
    assert_eq!(script.verdicts(), [JUDGED_V1, unknown(Reason::Gap)]);
}

#[test]
fn lost_records_are_gaps_and_never_a_verdict() {
    // Lost: the begin, the end, or the end and another send. The lost bytes are part of the token header.
    for lost in 0..3 {
        let mut script = Script::connected();
        script.send(&V2[..20]);
        script.number += 1;
        if lost != 0 {
            script.take(Phase::Begin, |_| {}, &V2[20..40]);
        }
        if lost == 0 {
            script.end(&V2[20..40], 20);
            script.send(&V2[40..]);
            assert_eq!(script.verdicts(), [JUDGED_V2], "a begin is there to compare with");
            continue;
        }
        if lost == 2 {
            script.number += 1;
        }
        script.send(b"\r\n\r\n");
        script.send(V1);
        let reason = if lost == 1 { Reason::NoState } else { Reason::Gap };
        assert_eq!(script.verdicts(), [unknown(reason), JUDGED_V1], "{lost}");
        assert!(script.counters().of(Kind::SendGaps) > 0);
    }
}

/// Event, index and status of each news since the last call.
fn news(script: &mut Script) -> Vec<(News, u32, u16)> {
    let news = script.tap.take_news().into_iter();
    news.map(|news| (News::from_raw(news.news).unwrap(), news.index, news.status))
        .collect()
}

#[test]
fn what_is_received_first_is_the_answer() {
    let mut script = Script::connected();
    script.send(V2);
    script.take(Phase::Received, |receive| receive.result = 200, b"");
    assert_eq!(news(&mut script), [(News::Answer, 0, 200)]);
    // Received before the send has returned.
    script.begin(V1);
    script.take(Phase::Received, |receive| receive.result = 401, b"");
    script.end(V1, V1.len() as i32);
    assert_eq!(news(&mut script), [(News::Answer, 1, 401)]);
    let requests: Vec<_> = script.requests().iter().map(|it| (it.sock, it.index)).collect();
    assert_eq!(requests, [(SOCK, 0), (SOCK, 1)]);
    // No answer at all.
    script.send(V1);
    script.close();
    assert_eq!(news(&mut script), [(News::End, 2, 0)]);
}

#[test]
fn answers_that_may_be_anothers_are_lost() {
    // Two requests at once, the rest of another answer, a gap among the requests, a loss of records.
    let mut script = Script::connected();
    script.send(&[V1, V2].concat());
    script.take(Phase::Received, |receive| receive.result = 200, b"");
    assert_eq!(news(&mut script), [(News::Lost, 0, 0)]);

    let mut script = Script::connected();
    script.send(V1);
    script.take(Phase::Received, |_| {}, b"");
    assert_eq!(news(&mut script), [(News::Lost, 0, 0)]);

    let mut script = Script::connected();
    script.number = 3;
    script.send(V1);
    script.take(Phase::Received, |receive| receive.result = 200, b"");
    assert_eq!(news(&mut script), []);
    assert!(
        script
            .requests()
            .iter()
            .all(|it| it.flags & request_flags::NUMBERED == 0)
    );

    let mut script = Script::connected();
    script.send(V1);
    let Script { tap, records, .. } = &mut script;
    tap.lost(0, &mut |kind, request: &Request, capture: &[u8]| {
        records.push((kind, *request, capture.to_vec()));
    });
    assert_eq!(news(&mut script), [(News::Lost, 0, 0)]);
}

#[test]
fn the_end_of_a_connection_ends_a_head() {
    let mut script = Script::connected();
    script.send(&V1[..30]);
    script.take(Phase::Shutdown, |_| {}, b"");
    script.close();
    assert_eq!(script.verdicts(), [unknown(Reason::Closed)]);
    // Another connection with the same sock address.
    script.number = 0;
    script.take(Phase::Connect, |_| {}, b"");
    script.send(V1);
    assert_eq!(script.verdicts(), [unknown(Reason::Closed), JUDGED_V1]);
    let requests = script.requests();
    assert_ne!(requests[0].cookie, requests[1].cookie);
}

#[test]
fn a_reset_takes_the_port_from_the_socket_and_not_from_the_record() {
    let mut script = Script::connected();
    script.send(&V1[..30]);
    script.number += 1;
    let reset = |send: &mut Send| {
        send.source_port = 0;
        send.result = -104;
    };
    script.take(Phase::Begin, reset, b"a");
    script.take(Phase::End, reset, b"");
    script.take(Phase::Close, reset, b"");
    assert_eq!(script.verdicts(), [unknown(Reason::Closed)]);
    assert_eq!(script.requests()[0].source_port, 40_000);
}

#[test]
fn a_connection_that_is_older_is_joined_in_its_middle() {
    let mut script = Script::new();
    script.send(b"x-token: 1\r\n\r\n");
    script.send(V1);
    assert_eq!(script.verdicts(), [unknown(Reason::Midstream), JUDGED_V1]);
    assert_ne!(script.requests()[1].flags & request_flags::OLD_SOCKET, 0);
}

#[test]
fn fast_open_connects_in_its_first_send() {
    let mut script = Script::new();
    script.number = 1;
    script.take(Phase::Begin, |send| send.destination = [0; 16], V1);
    script.end(V1, V1.len() as i32);
    assert_eq!(script.verdicts(), [JUDGED_V1]);
    assert_eq!(script.requests()[0].flags & request_flags::OLD_SOCKET, 0);
}

#[test]
fn the_sender_of_the_first_byte_owns_a_head() {
    let mut script = Script::connected();
    for (tgid, data) in [(1, &V1[..10]), (2, &V1[10..]), (3, V1)] {
        script.number += 1;
        let by = |send: &mut Send| {
            send.task.tgid = tgid;
            send.result = data.len() as i32;
        };
        script.take(Phase::Begin, by, data);
        script.take(Phase::End, by, data);
    }
    let owners: Vec<_> = script.requests().iter().map(|request| request.task.tgid).collect();
    assert_eq!(owners, [1, 3]);
}

#[test]
fn the_kernel_s_own_threads_send_for_who_sent_or_connected_before() {
    let mut script = Script::connected();
    script.tap.kernel_threads.put((9, 1), ());
    for tgid in [9, 8, 9] {
        script.number += 1;
        let by = |send: &mut Send| {
            send.task.tgid = tgid;
            send.result = V1.len() as i32;
        };
        script.take(Phase::Begin, by, V1);
        script.take(Phase::End, by, V1);
    }
    let owners: Vec<_> = script.requests().iter().map(|request| request.task.tgid).collect();
    // Process 7 connected.
    assert_eq!(owners, [7, 8, 8]);
}

#[test]
fn an_unfinished_head_is_noted_once_at_first_and_once_with_its_line() {
    let mut script = Script::connected();
    for piece in [&V1[..5], &V1[5..8], &V1[8..36], &V1[36..40]] {
        script.send(piece);
    }
    assert_eq!(script.records.len(), 2);
    assert!(script.records.iter().all(|(kind, ..)| *kind == RecordKind::Pending));
}

/// Sends a stream of heads in parts, each with its flags.
fn with_flags(parts: &[(&[u8], u32)]) -> Script {
    let mut script = Script::connected();
    for (part, flags) in parts {
        script.number += 1;
        script.take(Phase::Begin, |send| send.flags = *flags, part);
        let end = |send: &mut Send| (send.flags, send.result) = (*flags, part.len() as i32);
        script.take(Phase::End, end, part);
    }
    script
}

const URGENT: u32 = send_flags::URGENT;
const JUDGED_URGENT: (Verdict, Option<Reason>) = (Verdict::Unknown, Some(Reason::Urgent));

/// The urgent byte is in the token's name, the method, the path, the version, and at the ends of the head.
#[test]
fn a_head_with_an_urgent_byte_is_unknown_and_its_neighbours_are_judged() {
    let stream = [V1, V2, V1, V2].concat();
    for place in [0, 1, 2, 7, 13, 30, V2.len() - 6] {
        let at = V1.len() + place;
        let script = with_flags(&[(&stream[..at], 0), (&stream[at..=at], URGENT), (&stream[at + 1..], 0)]);
        assert_eq!(
            script.verdicts(),
            [JUDGED_V1, JUDGED_URGENT, JUDGED_V1, JUDGED_V2],
            "{place}"
        );
        assert_eq!(script.requests()[1].task.tgid, 7);
    }
    // The last byte of a head: with `tcp_stdurg` the urgent byte is the first byte of the next head.
    let at = V1.len() + V2.len() - 1;
    let script = with_flags(&[(&stream[..=at], URGENT), (&stream[at + 1..], 0)]);
    assert_eq!(script.verdicts(), [JUDGED_V1, JUDGED_URGENT, JUDGED_URGENT, JUDGED_V2]);
}

/// The first part is the urgent byte alone; in the others the last byte is urgent.
#[test]
fn several_urgent_bytes() {
    let token = V2.windows(6).position(|bytes| bytes == b"-token").unwrap();
    let script = with_flags(&[
        (&V2[..token], 0),
        (&V2[token..=token], URGENT),
        (&V2[token + 1..token + 4], URGENT),
        (&V2[token + 4..], 0),
        (V1, 0),
    ]);
    // It is unknown which of them a receiver left out, and so where a head begins.
    assert_eq!(script.verdicts(), [JUDGED_URGENT, JUDGED_URGENT]);
    // One at a time, they count like a single one.
    let mut parts: Vec<(&[u8], u32)> = Vec::new();
    for _ in 0..3 {
        parts.extend([
            (&V2[..token], 0),
            (&V2[token..=token], URGENT),
            (&V2[token + 1..], 0),
            (V1, 0),
        ]);
    }
    assert_eq!(with_flags(&parts).verdicts(), [JUDGED_URGENT, JUDGED_V1].repeat(3));
}

/// Without the urgent byte the head has a length, or its body is one byte longer: the rest is read in two ways until
/// both agree, and heads that only one of them sees are reported.
#[test]
fn an_urgent_byte_that_moves_what_follows() {
    let hidden = b"PUT /x HTTP/1.1\r\n?Content-Length: 44\r\n\r\n";
    let at = hidden.iter().position(|byte| *byte == b'?').unwrap();
    let script = with_flags(&[
        (&hidden[..at], 0),
        (&hidden[at..=at], URGENT),
        (&hidden[at + 1..], 0),
        (V2, 0),
        (V1, 0),
    ]);
    // The body ends in the middle of the second head; requests are certain again after that head.
    assert_eq!(script.verdicts(), [JUDGED_URGENT, JUDGED_URGENT, JUDGED_V1]);
    // A reading with a shorter body has a head that the unchanged stream does not.
    let body = b"PUT /x HTTP/1.1\r\nContent-Length: 40\r\n\r\nGET /latest/user-data?a HTTP/1.1\r\nA: b\r\n\r\n";
    let at = body.windows(4).position(|bytes| bytes == b"40\r\n").unwrap();
    let script = with_flags(&[
        (&body[..at], 0),
        (&body[at..=at], URGENT),
        (&body[at + 1..], 0),
        (V1, 0),
    ]);
    assert_eq!(script.verdicts()[..2], [JUDGED_URGENT, JUDGED_URGENT]);
    assert_eq!(script.verdicts().last(), Some(&JUDGED_V1));
    let body = b"PUT /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
    let at = body.len() - 1;
    let script = with_flags(&[(&body[..at], 0), (&body[at..], URGENT), (V1, 0), (V1, 0)]);
    assert_eq!(script.verdicts(), [JUDGED_V1, JUDGED_URGENT, JUDGED_V1]);
}

/// A send that waits leaves in parts, each with an urgent byte of its own. If many bytes wait before the urgent byte,
/// TCP announces it with pointers that do not reach it.
#[test]
fn an_urgent_byte_that_may_be_anywhere() {
    let pipelined = [V2, V2].concat();
    let script = with_flags(&[(V1, 0), (&pipelined, URGENT), (V1, 0)]);
    assert_eq!(script.verdicts(), [JUDGED_V1, JUDGED_V2, JUDGED_URGENT, JUDGED_URGENT]);
    let script = with_flags(&[(V1, 0), (&pipelined, URGENT | send_flags::WAITED), (V1, 0)]);
    assert_eq!(
        script.verdicts(),
        [JUDGED_V1, JUDGED_URGENT, JUDGED_URGENT, JUDGED_URGENT]
    );

    let script = with_flags(&[
        (b"PUT / HTTP/1.1\r\nContent-Length: 65536\r\n\r\n", 0),
        (&[b' '; 65536], 0),
        (V2, 0),
        (b"x", URGENT),
    ]);
    let (_, revoked, _) = script
        .records
        .iter()
        .find(|(kind, ..)| *kind == RecordKind::Changed)
        .unwrap();
    assert!(
        script
            .requests()
            .iter()
            .all(|head| head.seq < revoked.seq + revoked.head_len)
    );
    assert_eq!((revoked.reason(), revoked.task.tgid), (Some(Reason::Urgent), 7));
}

#[test]
fn pages_that_stay_the_sender_s_are_marked_where_they_are() {
    let pages = send_flags::SENDER_PAGES;
    let script = with_flags(&[(V1, 0), (&V2[..20], 0), (&V2[20..], pages), (V1, 0), (V2, pages)]);
    assert_eq!(script.verdicts(), [JUDGED_V1, JUDGED_V2, JUDGED_V1, JUDGED_V2]);
    let marked = |request: &&Request| request.flags & request_flags::SENDER_PAGES != 0;
    let marks: Vec<_> = script.requests().iter().map(marked).collect();
    assert_eq!(marks, [false, true, false, true]);
}

/// User and name are those of the send, even if the process has changed them since its last send.
#[test]
fn each_send_has_its_own_user_and_name() {
    let mut script = Script::connected();
    for (uid, comm) in [(0, b'a'), (65534, b'a'), (65534, b'b')] {
        script.number += 1;
        let by = |send: &mut Send| {
            send.task.uid = uid;
            send.task.comm[0] = comm;
            send.result = V1.len() as i32;
        };
        script.take(Phase::Begin, by, V1);
        script.take(Phase::End, by, V1);
    }
    let seen: Vec<_> = script
        .requests()
        .iter()
        .map(|it| (it.task.uid, it.task.comm[0]))
        .collect();
    assert_eq!(seen, [(0, b'a'), (65534, b'a'), (65534, b'b')]);
}

/// TCP_FASTOPEN_CONNECT: the socket has its peer before the SYN leaves with the bytes of another process.
#[test]
fn with_fast_open_connect_the_sender_is_who_sends() {
    let mut script = Script::connected();
    script.number = 1;
    for phase in [Phase::Begin, Phase::End] {
        let by = |send: &mut Send| (send.task.tgid, send.result) = (8, V1.len() as i32);
        script.take(phase, by, V1);
    }
    assert_eq!(script.verdicts(), [JUDGED_V1]);
    assert_eq!(script.requests()[0].task.tgid, 8);
}

/// The kernel side counts a socket's sends from 1 on again when it had no room for the count.
#[test]
fn a_count_that_begins_again() {
    let mut script = Script::connected();
    script.send(V1);
    script.send(V1);
    script.number = 0;
    script.send(V2);
    assert_eq!(script.verdicts(), [JUDGED_V1, JUDGED_V1, JUDGED_V2]);
    // Inside a head this cannot be recognized.
    script.send(&V2[..20]);
    script.number = 0;
    script.send(&V2[20..]);
    script.send(V1);
    let verdicts = script.verdicts();
    assert_eq!(verdicts[3..], [unknown(Reason::NoState), JUDGED_V1]);
    assert_eq!(script.requests()[3].task.tgid, 7);
}

/// Every loss gives a record that names the sender, even if no head has begun.
#[test]
fn sends_that_are_lost_between_heads_are_reported() {
    let mut script = Script::connected();
    script.send(V1);
    script.number += 3;
    script.send(V1);
    assert_eq!(script.verdicts(), [JUDGED_V1, unknown(Reason::Gap), JUDGED_V1]);
    assert_eq!(script.requests()[1].task.tgid, 7);
    // A send without its end, and one that was lost completely.
    script.begin(V1);
    script.close();
    assert_eq!(script.verdicts()[3..], [unknown(Reason::NoState)]);
    script.number = 0;
    script.take(Phase::Connect, |_| {}, b"");
    script.send(V1);
    script.number += 1;
    script.close();
    assert_eq!(script.verdicts()[4..], [JUDGED_V1, unknown(Reason::Gap)]);
}

/// Lost records give one record for each affected connection, and none for others.
#[test]
fn what_a_full_buffer_lost_is_told_once() {
    let lose = |script: &mut Script| {
        let records = &mut script.records;
        script.tap.lost(0, &mut |kind, request: &Request, capture: &[u8]| {
            records.push((kind, *request, capture.to_vec()));
        });
    };
    let mut script = Script::connected();
    script.send(V1);
    lose(&mut script);
    script.send(V1);
    assert_eq!(script.verdicts(), [JUDGED_V1, JUDGED_V1]);
    lose(&mut script);
    script.number += 1;
    script.send(V1);
    assert_eq!(script.verdicts()[2..], [unknown(Reason::Gap), JUDGED_V1]);
    script.send(&V2[..20]);
    lose(&mut script);
    script.number += 1;
    script.send(V1);
    script.send(V1);
    // Requests are certain again after an empty line.
    assert_eq!(
        script.verdicts()[4..],
        [unknown(Reason::Gap), unknown(Reason::Gap), JUDGED_V1]
    );
}

/// More connections than fit: an unfinished request of a dropped connection gives a record with its sender.
#[test]
fn connections_that_are_given_up_are_reported() {
    let mut script = Script::connected();
    script.send(&V1[..20]);
    let (first, number) = (SOCK, script.number);
    for other in 1..=super::STREAMS_MAX.get() as u64 {
        script.take(
            Phase::Connect,
            |send| (send.sock, send.number) = (SOCK + other * 8, 0),
            b"",
        );
    }
    assert_eq!(script.counters().of(Kind::ConnectionsGivenUp), 1);
    assert_eq!(script.verdicts(), [unknown(Reason::NoState)]);
    assert_eq!(script.requests()[0].task.tgid, 7);
    // The connection continues with the end of its head, and then with a head that can be judged.
    script.number = number;
    for data in [&V1[20..], V1] {
        script.number += 1;
        let send = |send: &mut Send| (send.sock, send.result) = (first, data.len() as i32);
        script.take(Phase::Begin, send, data);
        script.take(Phase::End, send, data);
    }
    assert_eq!(script.verdicts()[1..], [unknown(Reason::NoState), JUDGED_V1]);
    assert_eq!(script.requests()[1].flags & request_flags::OLD_SOCKET, 0);
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        Just(Phase::Connect),
        Just(Phase::Begin),
        Just(Phase::End),
        Just(Phase::Shutdown),
        Just(Phase::Close)
    ]
}

proptest! {
    /// For records lost, doubled or out of order: no panic, and no token in a capture.
    #[test]
    fn any_records_in_any_order(records in proptest::collection::vec(
        (phase(), 0..6_u32, 0..80_u32, any::<u32>(), any::<i32>(), 0..V2.len(), 0..8_u32), 0..60)) {
        let mut script = Script::new();
        for (phase, number, offset, missing, result, len, flags) in records {
            script.number = number;
            script.take(phase, |send| {
                send.offset = offset;
                send.missing = missing;
                send.result = result;
                send.flags = flags;
            }, &V2[..len]);
        }
        for (_, _, capture) in &script.records {
            assert!(!String::from_utf8_lossy(capture).contains("secret"));
        }
    }

    /// For any sends and pieces of a stream, the verdicts are the same.
    #[test]
    fn any_cut_is_the_same(cuts in proptest::collection::vec(1..40_usize, 1..40)) {
        let stream = [V1, V2, b"PUT /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /", V1].concat();
        let mut script = Script::connected();
        let mut rest = stream.as_slice();
        for cut in cuts.iter().cycle() {
            let (piece, behind) = rest.split_at((*cut).min(rest.len()));
            script.send(piece);
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        // At the end of the body, by its length, a request in HTTP/0.9 would be complete.
        let framing = (Verdict::Unknown, Some(Reason::Framing));
        assert_eq!(script.verdicts(), [JUDGED_V1, JUDGED_V2, JUDGED_V1, framing, JUDGED_V1]);
    }
}

proptest! {
    /// For any place of an urgent byte and any cut: its head is unknown, the others are judged, and none is missing.
    #[test]
    fn any_urgent_byte(place in 0..V2.len(), cut in 0..20_usize) {
        let stream = [V1, V2, V1, V2].concat();
        let at = V1.len() + place;
        let begin = at - cut.min(at);
        let script = with_flags(&[(&stream[..begin], 0), (&stream[begin..=at], URGENT), (&stream[at + 1..], 0)]);
        let verdicts = script.verdicts();
        assert_eq!(verdicts[..2], [JUDGED_V1, JUDGED_URGENT]);
        // The end of a head belongs to both heads.
        let merged = place >= V2.len() - 4;
        assert!(merged || verdicts == [JUDGED_V1, JUDGED_URGENT, JUDGED_V1, JUDGED_V2], "{:?}", verdicts);
        assert_eq!(verdicts.last(), Some(&JUDGED_V2));
    }
}
