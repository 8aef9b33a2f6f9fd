//! Packet headers, and the position of payload in its stream.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failed assertion is the point of a test"
)]

use imds_analyzer_ebpf::follow::{self, Headers, NotTcp, Place, is_before, place};
use proptest::prelude::{ProptestConfig, any, proptest};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PUSH_ACK: u8 = 0x18;
const URG: u8 = 0x20;

const SEQ: u32 = u32::MAX;

/// A TCP header with an option: port 4660 to 80.
fn tcp(flags: u8, urgent: u16) -> [u8; 24] {
    let mut tcp = [0; 24];
    tcp[..4].copy_from_slice(&[0x12, 0x34, 0, 80]);
    tcp[4..8].copy_from_slice(&SEQ.to_be_bytes());
    tcp[12..14].copy_from_slice(&[0x60, flags]);
    tcp[18..20].copy_from_slice(&urgent.to_be_bytes());
    tcp
}

/// 10.0.0.5 to 169.254.169.254, with an IP option.
fn ipv4(flags: u8, urgent: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![
        0x46, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 5, 169, 254, 169, 254, 1, 1, 1, 1,
    ];
    packet.extend(tcp(flags, urgent));
    packet.extend(payload);
    packet
}

/// fd..fd to ee..ee, with extension headers: pairs of a type and its length in units of eight bytes, less one.
fn ipv6(extensions: &[(u8, u8)], last: u8) -> Vec<u8> {
    let types = extensions.iter().map(|(kind, _)| *kind).chain([last]);
    let mut types = types.collect::<Vec<_>>().into_iter();
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, types.next().unwrap(), 64];
    packet.extend([0xfd; 16]);
    packet.extend([0xee; 16]);
    for (next, (_, units)) in types.zip(extensions) {
        let mut header = vec![0; (usize::from(*units) + 1) * 8];
        header[..2].copy_from_slice(&[next, *units]);
        packet.extend(header);
    }
    packet.extend(tcp(PUSH_ACK, 0));
    packet.extend(b"PUT");
    packet
}

fn read(packet: &[u8]) -> Headers {
    Headers::read(packet).unwrap()
}

#[test]
fn ipv4_with_options() {
    let packet = ipv4(PUSH_ACK, 0, b"GET");
    let headers = read(&packet);
    assert_eq!((headers.v6, headers.seq), (false, SEQ));
    assert_eq!((headers.source_port, headers.destination_port), (0x1234, 80));
    assert_eq!(&packet[headers.payload as usize..], b"GET");
    assert!(!headers.is_syn() && !headers.is_last());
    let source = follow::source(&packet[..], false).unwrap();
    assert_eq!(source, [10, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let destination = follow::destination(&packet[..], false).unwrap();
    assert_eq!(destination[..5], [169, 254, 169, 254, 0]);
}

#[test]
fn ipv6_behind_extension_headers() {
    let most = [(0, 0), (43, 1), (60, 0), (60, 2)];
    for count in 0..=most.len() {
        let packet = ipv6(&most[..count], 6);
        let headers = read(&packet);
        assert!(headers.v6);
        assert_eq!(&packet[headers.payload as usize..], b"PUT", "{count} headers");
        assert_eq!(follow::source(&packet[..], true), Some([0xfd; 16]));
        assert_eq!(follow::destination(&packet[..], true), Some([0xee; 16]));
    }
}

#[test]
fn a_syn_takes_a_number_and_a_fin_or_rst_ends() {
    let syn = read(&ipv4(SYN, 0, b""));
    assert_eq!((syn.seq, syn.is_syn()), (SEQ.wrapping_add(1), true));
    for flags in [FIN, RST] {
        assert!(read(&ipv4(flags, 0, b"")).is_last());
    }
}

#[test]
fn the_urgent_byte_is_before_the_pointer() {
    for (pointer, byte) in [(1, 0), (3, 2), (0xffff, 0xfffe), (0, 0)] {
        for flags in [PUSH_ACK | URG, SYN | URG] {
            let headers = read(&ipv4(flags, pointer, b"GET"));
            assert_eq!(headers.urgent_byte(), Some(SEQ.wrapping_add(byte)), "{pointer}");
            let behind = SEQ.wrapping_add(u32::from(pointer));
            assert_eq!(headers.behind_urgent(), Some(behind), "{pointer}");
        }
    }
    let headers = read(&ipv4(PUSH_ACK, 7, b"GET"));
    assert_eq!((headers.urgent_byte(), headers.behind_urgent()), (None, None));
}

#[test]
fn other_protocols_and_truncated_packets_are_told_apart() {
    let mut udp = ipv4(0, 0, b"");
    udp[9] = 17;
    assert_eq!(Headers::read(&udp[..]), Err(NotTcp::OtherProtocol));
    assert_eq!(Headers::read(&ipv6(&[(0, 0)], 17)[..]), Err(NotTcp::OtherProtocol));
    let endless = [(60, 0); 9];
    assert_eq!(Headers::read(&ipv6(&endless, 6)[..]), Err(NotTcp::OtherProtocol));
    // The option of the TCP header may be cut off: nobody reads it.
    for packet in [ipv4(0, 0, b""), ipv6(&[(43, 1)], 6)] {
        let needed = read(&packet).payload as usize - 4;
        for len in 0..needed {
            assert_eq!(Headers::read(&packet[..len]), Err(NotTcp::Truncated), "{len} bytes");
        }
        assert!(Headers::read(&packet[..needed]).is_ok());
    }
}

#[test]
fn where_bytes_stand() {
    const NEXT: u32 = 5;
    for (seq, len, expected) in [
        (5, 10, Place::New),
        (5, 0, Place::New),
        (7, 10, Place::Gap(2)),
        (7, 0, Place::New),
        (3, 10, Place::Known(2)),
        (3, 2, Place::Known(2)),
        (3, 1, Place::Known(1)),
        (3, 0, Place::Known(0)),
        // Before the numbers wrapped around.
        (u32::MAX, 10, Place::Known(6)),
        (u32::MAX, 6, Place::Known(6)),
        (NEXT + i32::MAX as u32, 1, Place::Gap(i32::MAX as u32)),
        (NEXT + (1 << 31), 1, Place::Known(1)),
    ] {
        assert_eq!(place(NEXT, seq, len), expected, "{len} bytes from {seq} on");
    }
    assert_eq!(place(u32::MAX, 2, 1), Place::Gap(3));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(headers) = Headers::read(&bytes[..]) {
            // At most 60 bytes of TCP header, after at most five extension headers.
            assert!(headers.payload <= 40 + 5 * 2048 + 60);
        }
    }

    /// If two numbers are less than half of the circle apart, the one that is reached later is not before the other.
    #[test]
    fn one_of_two_is_before_the_other(one in any::<u32>(), distance in 1..i32::MAX as u32) {
        let other = one.wrapping_add(distance);
        assert!(is_before(one, other) && !is_before(other, one) && !is_before(one, one));
    }

    /// A stream is cut anywhere, sent again in part or with parts left out, and its numbers wrap around anywhere: the
    /// new bytes together with the missing ones are the whole stream, once.
    #[test]
    fn every_byte_is_new_or_missing_once(
        start in any::<u32>(),
        packets in proptest::collection::vec((-200_i64..200, 0_u32..300), 0..40),
    ) {
        let (mut next, mut end) = (start, 0_i64);
        for (shift, len) in packets {
            let begin = (end + shift).max(0);
            let seq = start.wrapping_add(begin as u32);
            let stop = begin + i64::from(len);
            match place(next, seq, len) {
                Place::New => assert!(len == 0 || begin == end),
                Place::Known(known) => {
                    assert!(begin < end);
                    assert_eq!(i64::from(known), i64::from(len).min(end - begin));
                }
                Place::Gap(missing) => assert_eq!(i64::from(missing), begin - end),
            }
            if len > 0 {
                end = end.max(stop);
                next = start.wrapping_add(end as u32);
            }
        }
    }
}
