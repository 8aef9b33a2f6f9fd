#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failed assertion is the point of a test"
)]

use imds_analyzer_ebpf::{
    abi::{
        Loss, RecordKind, Request, Task,
        legacy::{Packet, Phase, Send, send_flags},
        request_flags,
    },
    classify::{Reason, Verdict},
};
use proptest::prelude::{any, proptest};
use zerocopy::FromZeros as _;

use super::{super::STREAMS_MAX, Packets};
use crate::loss::{Kind, Ledger};

const SOCK: u64 = 0xffff_8880_0000_1000;
const COOKIE: u64 = 5;
/// Wraps around within the first request.
const ISN: u32 = u32::MAX - 10;
const IMDS: [u8; 4] = [169, 254, 169, 254];
const V1: &[u8] = b"GET /latest/user-data HTTP/1.1\r\nHost: imds\r\n\r\n";
const V2: &[u8] = b"GET / HTTP/1.1\r\nX-aws-ec2-metadata-token: secret\r\n\r\n";

const PUSH: u8 = 0x18;
const SYN: u8 = 0x02;
const FIN: u8 = 0x11;
const RST: u8 = 0x04;
const URG: u8 = 0x20;

/// The wire, and the records that result.
struct Script {
    cookie: u64,
    wire: Packets,
    counters: Ledger,
    records: Vec<(RecordKind, Request, Vec<u8>)>,
}

impl Script {
    fn new() -> Self {
        Self {
            cookie: COOKIE,
            wire: Packets::new(),
            counters: Ledger::default(),
            records: Vec::new(),
        }
    }

    fn connected() -> Self {
        let mut script = Self::new();
        script.packet(SYN, ISN, b"");
        script
    }

    /// The process `tgid` is in `phase` of a send at `seq`, on a socket whose cookie is known by then.
    fn sent(&mut self, tgid: u32, phase: Phase, seq: u32, change: impl FnOnce(&mut Send)) {
        let mut send = Send::new_zeroed();
        send.sock = SOCK;
        send.cookie = self.cookie;
        send.seq = seq;
        send.family = 4;
        send.source_port = 40_000_u16.to_be();
        send.destination[..4].copy_from_slice(&IMDS);
        send.net_ns = 99;
        send.task = Task {
            tgid,
            ..Task::default()
        };
        change(&mut send);
        let records = &mut self.records;
        self.wire.sent(
            &send,
            phase,
            &mut self.counters,
            &mut |kind, request: &Request, capture: &[u8]| {
                records.push((kind, *request, capture.to_vec()));
            },
        );
    }

    fn begins(&mut self, tgid: u32, seq: u32) {
        self.sent(tgid, Phase::Begin, seq, |_| {});
    }

    fn packet(&mut self, flags: u8, seq: u32, payload: &[u8]) {
        self.cut_packet(flags, seq, payload, 0);
    }

    /// A packet of which the kernel side left out the last `cut` bytes.
    fn cut_packet(&mut self, flags: u8, seq: u32, payload: &[u8], cut: usize) {
        self.any_packet(flags, seq, payload, cut, 0);
    }

    /// A packet whose urgent pointer is `pointer`: the byte before it is urgent.
    fn urgent_packet(&mut self, seq: u32, payload: &[u8], pointer: u16) {
        self.any_packet(PUSH | URG, seq, payload, 0, pointer);
    }

    fn any_packet(&mut self, flags: u8, seq: u32, payload: &[u8], cut: usize, pointer: u16) {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 5];
        bytes.extend(IMDS);
        bytes.extend(40_000_u16.to_be_bytes());
        bytes.extend(80_u16.to_be_bytes());
        bytes.extend(seq.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0]);
        bytes.extend(pointer.to_be_bytes());
        bytes.extend(payload);
        let mut packet = Packet::new_zeroed();
        packet.cookie = self.cookie;
        packet.len = bytes.len() as u32;
        packet.ifindex = 2;
        let records = &mut self.records;
        let data = &bytes[..bytes.len() - cut];
        self.wire.take(
            &packet,
            data,
            7,
            &mut self.counters,
            &mut |kind, request: &Request, capture: &[u8]| {
                records.push((kind, *request, capture.to_vec()));
            },
        );
    }

    fn requests(&self) -> Vec<&Request> {
        let requests = self.records.iter().filter(|(kind, ..)| *kind == RecordKind::Request);
        requests.map(|(_, request, _)| request).collect()
    }

    /// Verdict and process of each request.
    fn judged(&self) -> Vec<(Verdict, u32)> {
        let judged = self
            .requests()
            .into_iter()
            .map(|it| (it.verdict().unwrap(), it.task.tgid));
        judged.collect()
    }
}

/// The sequence number of the stream's byte `offset`.
fn at(offset: usize) -> u32 {
    ISN.wrapping_add(1).wrapping_add(offset as u32)
}

#[test]
fn packets_say_what_and_sends_say_who() {
    let mut script = Script::connected();
    script.begins(7, at(0));
    script.packet(PUSH, at(0), V2);
    assert_eq!(script.judged(), [(Verdict::V2, 7)]);
    let (_, request, capture) = &script.records[0];
    assert_eq!((request.flags, request.sock, request.cookie), (0, SOCK, COOKIE));
    assert_eq!(
        (request.seq, request.head_len, request.net_ns),
        (at(0), V2.len() as u32, 99)
    );
    assert_eq!((request.source_port, request.header.time), (40_000, 7));
    assert_eq!((&request.packet_destination[..4], request.packet_port), (&IMDS[..], 80));
    assert!(!String::from_utf8_lossy(capture).contains("secret"));
    assert!(script.counters.is_empty());
}

/// Two processes write in turn, and their bytes leave later, in different packets.
#[test]
fn the_owner_is_who_wrote_the_first_byte() {
    let mut script = Script::connected();
    let (one, two) = (V1.len() - 10, V1.len());
    script.begins(7, at(0));
    script.begins(8, at(one));
    // Process 9 wrote nothing: EAGAIN.
    script.begins(9, at(two));
    script.begins(8, at(two));
    script.packet(PUSH, at(0), &[V1, V2].concat());
    assert_eq!(script.judged(), [(Verdict::V1, 7), (Verdict::V2, 8)]);
}

#[test]
fn what_is_sent_again_is_no_second_request() {
    let mut script = Script::connected();
    script.begins(7, at(0));
    script.packet(SYN, ISN, b"");
    script.packet(PUSH, at(0), &V1[..20]);
    script.packet(PUSH, at(0), V1);
    script.packet(PUSH, at(5), &V1[5..]);
    script.packet(FIN, at(V1.len()), b"");
    assert_eq!(script.judged(), [(Verdict::V1, 7)]);
    assert!(script.counters.is_empty());
}

#[test]
fn what_never_came_is_counted_and_cuts_a_head() {
    let mut script = Script::connected();
    script.packet(PUSH, at(0), &V1[..20]);
    script.packet(PUSH, at(25), &V1[25..]);
    let requests = script.requests();
    assert_eq!(requests[0].verdict(), Some(Verdict::Unknown));
    assert_eq!(requests[0].reason(), Some(Reason::Gap));
    assert_eq!(script.counters.of(Loss::GapBytes), 5);
}

#[test]
fn the_rest_of_a_packet_is_counted() {
    let mut script = Script::connected();
    script.cut_packet(PUSH, at(0), &[V1, V2].concat(), 10);
    assert_eq!(script.judged().len(), 2);
    assert_eq!(script.requests()[1].reason(), Some(Reason::Gap));
    assert_eq!(
        (
            script.counters.of(Loss::PacketBound),
            script.counters.of(Loss::GapBytes)
        ),
        (1, 10)
    );
    // Sent again, it adds nothing new.
    script.cut_packet(PUSH, at(0), &[V1, V2].concat(), 10);
    assert_eq!((script.judged().len(), script.counters.of(Loss::PacketBound)), (2, 1));
}

/// MSG_FASTOPEN: the send begins before there is a connection, and its bytes are in the SYN.
#[test]
fn a_request_in_the_syn() {
    let mut script = Script::new();
    script.sent(7, Phase::Begin, 12345, |send| {
        (send.cookie, send.source_port, send.destination) = (0, 0, [0; 16]);
    });
    script.packet(SYN, ISN, V1);
    script.sent(7, Phase::End, at(V1.len()), |_| {});
    script.begins(8, at(V1.len()));
    script.packet(PUSH, at(V1.len()), V2);
    assert_eq!(script.judged(), [(Verdict::V1, 7), (Verdict::V2, 8)]);
}

/// Two sockets may have sent it: the record names neither sender.
#[test]
fn two_that_open_at_once_are_not_mixed_up() {
    let mut script = Script::new();
    for (tgid, sock) in [(7, SOCK), (8, SOCK + 8)] {
        script.sent(tgid, Phase::Begin, 0, |send| {
            (send.sock, send.cookie, send.source_port) = (sock, 0, 0);
        });
    }
    script.packet(SYN, ISN, V1);
    assert_eq!(script.judged(), [(Verdict::V1, 0)]);
}

#[test]
fn a_connection_that_is_older_is_joined() {
    let mut script = Script::new();
    // The socket had no cookie before its first packet.
    script.sent(7, Phase::Begin, at(0), |send| send.cookie = 0);
    script.packet(PUSH, at(0), V1);
    script.sent(7, Phase::End, at(V1.len()), |_| {});
    assert_eq!(script.judged(), [(Verdict::V1, 7)]);
    assert_eq!(script.requests()[0].flags, request_flags::OLD_SOCKET);
}

#[test]
fn a_socket_that_connects_again_starts_anew() {
    let mut script = Script::connected();
    script.begins(7, at(0));
    script.packet(PUSH, at(0), &V1[..20]);
    script.packet(RST, at(20), b"");
    script.packet(SYN, 1000, b"");
    script.begins(8, 1001);
    script.packet(PUSH, 1001, V2);
    assert_eq!(script.judged(), [(Verdict::Unknown, 7), (Verdict::V2, 8)]);
}

#[test]
fn a_head_that_is_not_finished_is_noted_and_then_given_up() {
    let mut script = Script::connected();
    script.begins(7, at(0));
    script.packet(PUSH, at(0), &V1[..40]);
    assert_eq!(script.records[0].0, RecordKind::Pending);
    script.packet(FIN, at(40), b"");
    assert_eq!(script.judged(), [(Verdict::Unknown, 7)]);
}

/// No hook sees the packet of a reset; but bytes written before may still leave when the socket is closed.
#[test]
fn a_head_ends_with_the_socket_once_all_has_left() {
    let mut script = Script::connected();
    script.begins(7, at(0));
    script.packet(PUSH, at(0), &V1[..30]);
    script.sent(7, Phase::Close, at(40), |_| {});
    assert_eq!(script.judged(), []);
    script.packet(PUSH, at(30), &V1[30..40]);
    script.sent(7, Phase::Close, at(40), |_| {});
    assert_eq!(script.requests()[0].reason(), Some(Reason::Closed));
}

/// Bytes that a kernel thread sends belong to the process that sent before, or else to the one that connected.
#[test]
fn who_connected_is_remembered() {
    let mut script = Script::connected();
    let asked = Send {
        sock: SOCK,
        cookie: COOKIE,
        ..Send::new_zeroed()
    };
    let last = |script: &Script| script.wire.last_sender(&asked).map(|task| task.tgid);
    assert_eq!(last(&script), None);
    script.sent(6, Phase::Connect, 0, |_| {});
    assert_eq!(last(&script), Some(6));
    script.begins(7, at(0));
    assert_eq!(last(&script), Some(7));
}

#[test]
fn bytes_that_nobody_was_seen_to_send_are_nobody_s() {
    let mut script = Script::connected();
    script.begins(7, at(V1.len()));
    script.packet(PUSH, at(0), &[V1, V1].concat());
    assert_eq!(script.judged(), [(Verdict::V1, 0), (Verdict::V1, 7)]);
}

#[test]
fn senders_that_are_forgotten_are_counted() {
    let mut script = Script::connected();
    for sender in 0..70 {
        script.begins(sender + 1, at(sender as usize));
    }
    assert_eq!(script.counters.of(Loss::SenderQueue), 6);
}

fn reasons(script: &Script) -> Vec<Option<Reason>> {
    script.requests().iter().map(|request| request.reason()).collect()
}

const URGENT: Option<Reason> = Some(Reason::Urgent);

/// The pointer is in the packet with the urgent byte, in earlier packets, and again in packets sent again.
#[test]
fn a_head_with_an_urgent_byte_is_unknown_and_its_neighbours_are_judged() {
    let stream = [V1, V2, V1].concat();
    for place in [0, 1, 2, 20, 40, V2.len() - 6] {
        let mut script = Script::connected();
        let urgent = V1.len() + place;
        script.packet(PUSH, at(0), &stream[..10]);
        script.urgent_packet(at(10), &stream[10..urgent], (urgent - 10 + 1) as u16);
        script.urgent_packet(at(urgent), &stream[urgent..=urgent], 1);
        script.urgent_packet(at(10), &stream[10..=urgent], (urgent - 10 + 1) as u16);
        script.packet(PUSH, at(urgent + 1), &stream[urgent + 1..]);
        assert_eq!(reasons(&script), [None, URGENT, None], "{place}");
        assert_eq!(
            script
                .records
                .iter()
                .filter(|(kind, ..)| *kind == RecordKind::Changed)
                .count(),
            0
        );
    }
    let mut script = Script::connected();
    script.urgent_packet(at(0), &stream, V1.len() as u16);
    assert_eq!(reasons(&script), [URGENT, URGENT, None]);
}

/// The pointer arrives after its byte was judged.
#[test]
fn an_urgent_byte_that_is_told_of_late() {
    let mut script = Script::connected();
    script.packet(PUSH, at(0), V1);
    script.urgent_packet(at(0), V1, 10);
    let (kind, request, _) = script.records.last().unwrap();
    assert_eq!((*kind, request.reason()), (RecordKind::Changed, URGENT));
    assert_eq!((request.seq, request.head_len), (at(9), 2));
}

/// The ranges that are reported as changed.
fn changed(script: &Script) -> Vec<(u32, u32, u32)> {
    let changed = script.records.iter().filter(|(kind, ..)| *kind == RecordKind::Changed);
    changed
        .inspect(|(_, request, _)| assert_eq!(request.reason(), Some(Reason::Changed)))
        .map(|(_, request, _)| {
            (
                request.seq,
                request.seq.wrapping_add(request.head_len),
                request.task.tgid,
            )
        })
        .collect()
}

#[test]
fn what_is_sent_again_with_other_bytes_is_said() {
    let stream = [V1, V2, V1].concat();
    let name = V1.len() + V2.windows(5).position(|bytes| bytes == b"token").unwrap();
    let mut other = stream.clone();
    other[name..name + 5].copy_from_slice(b"nekot");
    // The whole stream, the second head, and everything from that head on.
    for (from, to) in [
        (0, stream.len()),
        (V1.len(), V1.len() + V2.len()),
        (V1.len(), stream.len()),
    ] {
        let mut script = Script::connected();
        script.begins(7, at(0));
        script.packet(PUSH, at(0), V1);
        script.packet(PUSH, at(V1.len()), V2);
        script.packet(PUSH, at(V1.len() + V2.len()), V1);
        script.packet(PUSH, at(0), &stream);
        assert_eq!(changed(&script), []);
        script.packet(PUSH, at(from), &other[from..to]);
        assert_eq!(changed(&script), [(at(V1.len()), at(V1.len() + V2.len()), 7)]);
        assert_eq!(script.judged().len(), 3);
        assert_eq!(script.counters.of(Kind::SendsChanged), 1);
    }
}

/// A head continues while its first part changes: one record, and its neighbours are judged.
#[test]
fn a_head_that_changes_before_it_ends() {
    let mut script = Script::connected();
    script.packet(PUSH, at(0), V1);
    let from = V1.len();
    script.packet(PUSH, at(from), &V2[..30]);
    let mut other = V2[..30].to_vec();
    other[20] = b'?';
    script.packet(PUSH, at(from), &other);
    script.packet(PUSH, at(from + 30), &[&V2[30..], V1].concat());
    assert_eq!(reasons(&script), [None, Some(Reason::Changed), None]);
    assert_eq!(changed(&script), []);
}

/// Packets end at other places than before: only complete blocks can be compared, which matters for pages of the
/// sender.
#[test]
fn what_cannot_be_compared_is_certain_only_in_pages_of_the_kernel() {
    let middle = V1.len() + 10..V1.len() + 20;
    for pages in [0, send_flags::SENDER_PAGES] {
        let mut script = Script::connected();
        script.sent(7, Phase::Begin, at(0), |send| send.flags = pages);
        script.packet(PUSH, at(0), &[V1, V2].concat());
        script.packet(PUSH, at(middle.start), &V2[10..20]);
        let expected: &[_] = if pages == 0 {
            &[]
        } else {
            &[(at(middle.start), at(middle.end), 7)]
        };
        assert_eq!(changed(&script), expected);
        let marked = |request: &Request| request.flags & request_flags::SENDER_PAGES != 0;
        assert!(script.requests().iter().all(|request| marked(request) == (pages != 0)));
    }
}

/// Bytes from sendfile or with MSG_ZEROCOPY, followed by a normal write.
#[test]
fn pages_that_stay_the_sender_s_are_marked_where_they_are() {
    let mut script = Script::connected();
    for (number, flags) in [0, send_flags::SENDER_PAGES, 0].into_iter().enumerate() {
        script.sent(7, Phase::Begin, at(number * V1.len()), |send| send.flags = flags);
    }
    script.packet(PUSH, at(0), &[V1, V1, V1].concat());
    let marks: Vec<_> = script
        .requests()
        .iter()
        .map(|it| it.flags & request_flags::SENDER_PAGES != 0)
        .collect();
    assert_eq!(marks, [false, true, false]);
}

/// TCP_FASTOPEN_CONNECT: one process connects, and the SYN leaves with the bytes of another.
#[test]
fn with_fast_open_connect_the_sender_is_who_sends() {
    let mut script = Script::new();
    script.sent(6, Phase::Connect, 0, |send| send.cookie = 0);
    script.sent(7, Phase::Begin, 12345, |send| send.cookie = 0);
    script.packet(SYN, ISN, V1);
    script.sent(7, Phase::End, at(V1.len()), |_| {});
    assert_eq!(script.judged(), [(Verdict::V1, 7)]);
}

/// A head in the part of a packet that the kernel side left out.
#[test]
fn what_is_cut_off_behind_a_head_is_reported() {
    let mut script = Script::connected();
    script.begins(7, at(0));
    script.cut_packet(PUSH, at(0), &[V1, V2].concat(), V2.len());
    assert_eq!(script.judged(), [(Verdict::V1, 7), (Verdict::Unknown, 7)]);
    script.packet(PUSH, at(V1.len() + V2.len() + 100), V1);
    assert_eq!(reasons(&script)[2..], [Some(Reason::Gap), None]);
}

#[test]
fn connections_that_are_given_up_are_reported() {
    let mut script = Script::connected();
    script.begins(7, at(0));
    script.packet(PUSH, at(0), &V1[..20]);
    for cookie in 1..=STREAMS_MAX.get() as u64 {
        script.cookie = COOKIE + cookie;
        script.packet(SYN, ISN, b"");
    }
    assert_eq!(
        (reasons(&script), script.judged()),
        (vec![Some(Reason::NoState)], vec![(Verdict::Unknown, 7)])
    );
    script.cookie = COOKIE;
    script.begins(8, at(20));
    script.packet(PUSH, at(20), &[&V1[20..], V1].concat());
    assert_eq!(reasons(&script)[1..], [Some(Reason::NoState), None]);
    assert_eq!(script.judged()[1..], [(Verdict::Unknown, 8), (Verdict::V1, 8)]);
}

/// Dropping a connection that has ended loses nothing.
#[test]
fn only_connections_that_are_open_are_given_up() {
    let mut script = Script::new();
    for cookie in 1..=STREAMS_MAX.get() as u64 + 10 {
        script.cookie = cookie;
        script.packet(SYN, ISN, b"");
        if cookie > 3 {
            script.packet(FIN, at(0), b"");
        }
    }
    assert_eq!(script.counters.of(Kind::ConnectionsGivenUp), 3);
}

#[test]
fn what_is_no_tcp_is_counted_or_left_alone() {
    let mut script = Script::new();
    let packet = Packet::new_zeroed();
    let mut udp = [0; 28];
    (udp[0], udp[9]) = (0x45, 17);
    for data in [&udp[..], &udp[..8]] {
        script.wire.take(
            &packet,
            data,
            0,
            &mut script.counters,
            &mut |_, _: &Request, _: &[u8]| {},
        );
    }
    assert_eq!(script.counters.of(Loss::PacketShape), 1);
}

proptest! {
    /// For any packets of a stream, and any of them sent again: the same requests.
    #[test]
    fn any_packets_of_a_stream_give_the_same_requests(cuts in proptest::collection::vec((1_usize..60, any::<bool>()), 1..40)) {
        let stream = [V1, V2, V1, V2].concat();
        let mut script = Script::connected();
        script.begins(7, at(0));
        let mut from = 0;
        for (len, again) in cuts.into_iter().chain([(stream.len(), false)]) {
            let to = (from + len).min(stream.len());
            let start = if again { from / 2 } else { from };
            script.packet(PUSH, at(start), &stream[start..to]);
            from = to;
        }
        let expected = [Verdict::V1, Verdict::V2, Verdict::V1, Verdict::V2].map(|verdict| (verdict, 7));
        assert_eq!(script.judged(), expected);
        assert!(script.counters.is_empty());
    }

    /// For any packets that are sent again, cut, urgent or in the sender's pages: no panic.
    #[test]
    fn any_packets(packets in proptest::collection::vec(
        (any::<u8>(), -80_i32..300, 0..V2.len(), 0..80_usize, any::<u16>(), 0..8_u32), 0..40)) {
        let mut script = Script::new();
        for (flags, place, len, cut, pointer, send_flags) in packets {
            let seq = at(0).wrapping_add_signed(place);
            script.sent(7, Phase::Begin, seq, |send| send.flags = send_flags);
            script.any_packet(flags & !RST, seq, &V2[..len], cut.min(len), pointer % 100);
        }
        assert!(script.records.iter().all(|(_, request, _)| request.verdict().is_some()));
    }
}
