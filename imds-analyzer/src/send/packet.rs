//! A packet's headers: IPv4 (RFC 791) or IPv6 (RFC 8200), then TCP (RFC 9293).

const IPPROTO_TCP: u8 = 6;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const URG: u8 = 0x20;

/// What is of interest in a packet of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    /// 4 or 6; an IPv4 address is in the first four bytes.
    pub(super) family: u8,
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    /// Sequence number of the payload's first byte.
    pub(super) seq: u32,
    pub(super) syn: bool,
    /// It ends the stream.
    pub(super) last: bool,
    /// Sequence number of the urgent byte, as nearly every system has it: the pointer is to the byte behind.
    pub(super) urgent: Option<u32>,
    pub(super) payload: &'a [u8],
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    Tcp(Segment<'a>),
    /// Of another protocol.
    Other,
    /// It ends before its headers do.
    Misshapen,
}

/// Reads the headers of a packet, or of its beginning.
pub(super) fn read(packet: &[u8]) -> Packet<'_> {
    match headers(packet) {
        Some(read) => read,
        None => Packet::Misshapen,
    }
}

fn headers(packet: &[u8]) -> Option<Packet<'_>> {
    let first = packet.first()?;
    let (family, protocol, addresses, tcp) = match first >> 4 {
        4 => (4, *packet.get(9)?, 12, usize::from(first & 0x0f) * 4),
        6 => {
            let (protocol, tcp) = behind_extensions(packet)?;
            (6, protocol, 8, tcp)
        }
        _ => return None,
    };
    if protocol != IPPROTO_TCP {
        return Some(Packet::Other);
    }
    let size = if family == 4 { 4 } else { 16 };
    let address = |at: usize| {
        let mut bytes = [0; 16];
        bytes.get_mut(..size)?.copy_from_slice(packet.get(at..at + size)?);
        Some(bytes)
    };
    let tcp = packet.get(tcp..)?;
    let (ports, rest) = tcp.split_first_chunk::<4>()?;
    let (seq, _) = rest.split_first_chunk::<4>()?;
    let (offset, flags) = (tcp.get(12)?, tcp.get(13)?);
    let [s0, s1, d0, d1] = *ports;
    let seq = u32::from_be_bytes(*seq);
    let syn = flags & SYN != 0;
    let urgent = if flags & URG != 0 {
        let pointer = u16::from_be_bytes([*tcp.get(18)?, *tcp.get(19)?]);
        Some(seq.wrapping_add(u32::from(pointer.saturating_sub(1))))
    } else {
        None
    };
    Some(Packet::Tcp(Segment {
        family,
        source: address(addresses)?,
        destination: address(addresses + size)?,
        source_port: u16::from_be_bytes([s0, s1]),
        destination_port: u16::from_be_bytes([d0, d1]),
        // A SYN takes one number before the data that may come with it (TCP Fast Open, RFC 7413).
        seq: seq.wrapping_add(syn.into()),
        syn,
        last: flags & (FIN | RST) != 0,
        urgent,
        payload: tcp.get(usize::from(offset >> 4) * 4..)?,
    }))
}

/// The protocol, and where its header is.
fn behind_extensions(packet: &[u8]) -> Option<(u8, usize)> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const DESTINATION: u8 = 60;
    let (mut next, mut at) = (*packet.get(6)?, 40);
    while let HOP_BY_HOP | ROUTING | DESTINATION = next {
        let len = packet.get(at + 1)?;
        next = *packet.get(at)?;
        at += (usize::from(*len) + 1) * 8;
    }
    Some((next, at))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::indexing_slicing,
        clippy::panic,
        reason = "a failed assertion is the point of a test"
    )]

    use proptest::prelude::{any, proptest};

    use super::*;

    /// 10.0.0.5:4660 to 169.254.169.254:80, with an IP option and a TCP one.
    fn ipv4(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![
            0x46, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 5, 169, 254, 169, 254, 1, 1, 1, 1,
        ];
        packet.extend(tcp(flags));
        packet.extend(payload);
        packet
    }

    fn tcp(flags: u8) -> [u8; 24] {
        let mut tcp = [0; 24];
        tcp[..14].copy_from_slice(&[0x12, 0x34, 0, 80, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0x60, flags]);
        tcp
    }

    fn segment(packet: &[u8]) -> Segment<'_> {
        match read(packet) {
            Packet::Tcp(segment) => segment,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ipv4_with_options() {
        let packet = ipv4(0x18, b"GET");
        let read = segment(&packet);
        assert_eq!((read.family, read.source[..4].to_vec()), (4, vec![10, 0, 0, 5]));
        assert_eq!(read.destination[..5], [169, 254, 169, 254, 0]);
        assert_eq!((read.source_port, read.destination_port), (0x1234, 80));
        assert_eq!(
            (read.seq, read.syn, read.last, read.payload),
            (u32::MAX, false, false, &b"GET"[..])
        );
    }

    #[test]
    fn a_syn_takes_a_number_and_a_fin_ends() {
        let packet = ipv4(SYN, b"");
        assert_eq!((segment(&packet).seq, segment(&packet).syn), (0, true));
        for flags in [FIN, RST] {
            assert!(segment(&ipv4(flags, b"")).last);
        }
    }

    #[test]
    fn the_urgent_byte_is_before_the_pointer() {
        for (pointer, offset) in [(1, 0), (3, 2), (0xffff, 0xfffe), (0, 0)] {
            let mut packet = ipv4(0x18 | URG, b"GET");
            packet[42..44].copy_from_slice(&u16::to_be_bytes(pointer));
            assert_eq!(
                segment(&packet).urgent,
                Some(u32::MAX.wrapping_add(offset)),
                "{pointer}"
            );
        }
        assert_eq!(segment(&ipv4(0x18, b"GET")).urgent, None);
    }

    #[test]
    fn ipv6_behind_extension_headers() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 43, 64];
        packet.extend([0xfd; 16]);
        packet.extend([0xee; 16]);
        packet.extend([60, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([6, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(tcp(0x18));
        packet.extend(b"PUT");
        let read = segment(&packet);
        assert_eq!(
            (read.family, read.source, read.destination),
            (6, [0xfd; 16], [0xee; 16])
        );
        assert_eq!((read.source_port, read.payload), (0x1234, &b"PUT"[..]));
    }

    #[test]
    fn what_is_no_tcp_is_said_to_be_none() {
        let mut packet = ipv4(0, b"");
        packet[9] = 17;
        assert_eq!(read(&packet), Packet::Other);
        for len in 0..ipv4(0, b"").len() {
            assert_eq!(read(&ipv4(0, b"")[..len]), Packet::Misshapen, "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
