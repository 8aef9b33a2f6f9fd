//! The packets of an answer in place of IMDS: one segment with the answer and a FIN, and a reset for either side.
//!
//! Pure: addresses and sequence numbers in, bytes from the IP header on out.

use std::net::{IpAddr, SocketAddr};

/// What IMDS sends where tokens are required: no body, and the connection closes.
pub const UNAUTHORIZED: &[u8] = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// `IPPROTO_TCP`.
const TCP: u8 = 6;
const TCP_HEADER: usize = 20;
const IPV4_HEADER: usize = 20;
/// TTL, or hop limit: the packet does not leave this host, or goes where the caller's own packets go.
const HOPS: u8 = 64;
/// Receive window of the segments. The caller sends nothing more.
const WINDOW: u16 = u16::MAX;

// Flags of a segment (RFC 9293).
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// A connection on which a call was kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub caller: SocketAddr,
    pub server: SocketAddr,
    /// Sequence number that the answer begins with: what the caller expects next.
    pub answer_seq: u32,
    /// Sequence number of the first byte that the caller could not send.
    pub unsent: u32,
}

impl Connection {
    /// The answer and the end of the stream, from the server to the caller. It acknowledges only what has left: TCP
    /// ignores a segment that acknowledges more.
    pub fn answer(&self) -> Vec<u8> {
        let head = Segment {
            seq: self.answer_seq,
            acknowledge: self.unsent,
            flags: FIN | PSH | ACK,
        };
        packet(self.server, self.caller, &head, UNAUTHORIZED)
    }

    /// Ends the caller's side, `answered` or not: otherwise it would try to send the call for a long time.
    pub fn reset_caller(&self, answered: bool) -> Vec<u8> {
        // The FIN takes one number.
        let sent = if answered { UNAUTHORIZED.len() as u32 + 1 } else { 0 };
        let head = Segment {
            seq: self.answer_seq.wrapping_add(sent),
            acknowledge: self.unsent,
            flags: RST | ACK,
        };
        packet(self.server, self.caller, &head, &[])
    }

    /// Ends the server's side, which has seen neither the call nor its answer.
    pub fn reset_server(&self) -> Vec<u8> {
        let head = Segment {
            seq: self.unsent,
            acknowledge: self.answer_seq,
            flags: RST | ACK,
        };
        packet(self.caller, self.server, &head, &[])
    }
}

struct Segment {
    seq: u32,
    acknowledge: u32,
    flags: u8,
}

/// A TCP packet in IPv4 (RFC 791) or IPv6 (RFC 8200). Both addresses are of the same family.
fn packet(from: SocketAddr, to: SocketAddr, head: &Segment, payload: &[u8]) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(TCP_HEADER + payload.len());
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(head.seq.to_be_bytes());
    tcp.extend(head.acknowledge.to_be_bytes());
    tcp.extend([((TCP_HEADER / 4) << 4) as u8, head.flags]);
    tcp.extend(WINDOW.to_be_bytes());
    // Checksum and urgent pointer.
    tcp.extend([0; 4]);
    tcp.extend(payload);
    let len = tcp.len() as u16;
    let (source, destination) = (octets(from.ip()), octets(to.ip()));
    let mut sum = Sum::default();
    sum.add(&source);
    sum.add(&destination);
    sum.add(&[0, TCP]);
    sum.add(&len.to_be_bytes());
    sum.add(&tcp);
    if let Some(checksum) = tcp.get_mut(16..18) {
        checksum.copy_from_slice(&sum.checksum());
    }
    let mut packet = if source.len() == 4 {
        ipv4_header(&source, &destination, len)
    } else {
        ipv6_header(&source, &destination, len)
    };
    packet.extend(tcp);
    packet
}

fn ipv4_header(source: &[u8], destination: &[u8], payload: u16) -> Vec<u8> {
    const VERSION_AND_WORDS: u8 = 0x45;
    const DO_NOT_FRAGMENT: u16 = 0x4000;
    let mut header = vec![VERSION_AND_WORDS, 0];
    header.extend((IPV4_HEADER as u16 + payload).to_be_bytes());
    header.extend([0; 2]);
    header.extend(DO_NOT_FRAGMENT.to_be_bytes());
    header.extend([HOPS, TCP, 0, 0]);
    header.extend(source);
    header.extend(destination);
    let mut sum = Sum::default();
    sum.add(&header);
    if let Some(checksum) = header.get_mut(10..12) {
        checksum.copy_from_slice(&sum.checksum());
    }
    header
}

fn ipv6_header(source: &[u8], destination: &[u8], payload: u16) -> Vec<u8> {
    const VERSION: u8 = 0x60;
    let mut header = vec![VERSION, 0, 0, 0];
    header.extend(payload.to_be_bytes());
    header.extend([TCP, HOPS]);
    header.extend(source);
    header.extend(destination);
    header
}

/// IPv4 addresses may come mapped into IPv6 ones: what matters is the packet.
fn octets(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The checksum of the internet (RFC 1071): the complement of the sum of all 16-bit words, carries added back.
#[derive(Default)]
struct Sum(u32);

impl Sum {
    /// Only the last part may have an odd number of bytes.
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            let word = match pair {
                [high, low] => u16::from_be_bytes([*high, *low]),
                [high] => u16::from_be_bytes([*high, 0]),
                _ => 0,
            };
            self.0 += u32::from(word);
        }
    }

    fn checksum(&self) -> [u8; 2] {
        let folded = (self.0 & 0xffff) + (self.0 >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        (!(folded as u16)).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use imds_analyzer_ebpf::follow::{self, Headers};
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    /// Sums in another way, a byte at a time in a wide integer: 0 for a packet whose checksum is right.
    fn wrong(parts: &[&[u8]]) -> u64 {
        let bytes: Vec<u8> = parts.concat();
        let sum: u64 = bytes
            .iter()
            .enumerate()
            .map(|(index, byte)| u64::from(*byte) * if index % 2 == 0 { 256 } else { 1 })
            .sum();
        // Every carry is worth one: modulo 2^16 - 1, where all ones is zero.
        sum % 0xffff
    }

    fn check(packet: &[u8], v6: bool, from: SocketAddr, to: SocketAddr, seq: u32) {
        let headers = Headers::read(packet).expect("TCP");
        assert_eq!((headers.v6, headers.seq), (v6, seq));
        assert_eq!(
            (headers.source_port, headers.destination_port),
            (from.port(), to.port())
        );
        let source = follow::source(packet, v6).expect("an address");
        let destination = follow::destination(packet, v6).expect("an address");
        let len = if v6 { 16 } else { 4 };
        assert_eq!(
            (&source[..len], &destination[..len]),
            (&octets(from.ip())[..], &octets(to.ip())[..])
        );
        let header = if v6 { 40 } else { IPV4_HEADER };
        if !v6 {
            assert_eq!(wrong(&[&packet[..IPV4_HEADER]]), 0, "IPv4 header");
            assert_eq!(u16::from_be_bytes([packet[2], packet[3]]) as usize, packet.len());
        } else {
            assert_eq!(
                u16::from_be_bytes([packet[4], packet[5]]) as usize,
                packet.len() - header
            );
        }
        let tcp = &packet[header..];
        let pseudo = [
            &source[..len],
            &destination[..len],
            &[0, TCP],
            &(tcp.len() as u16).to_be_bytes(),
        ]
        .concat();
        assert_eq!(wrong(&[&pseudo, tcp]), 0, "TCP");
    }

    #[test]
    fn the_answer_is_the_one_of_imds() {
        let text = std::str::from_utf8(UNAUTHORIZED).expect("text");
        assert!(text.starts_with("HTTP/1.1 401 Unauthorized\r\n"));
        assert!(text.ends_with("\r\n\r\n"));
        assert!(text.contains("Content-Length: 0\r\n") && text.contains("Connection: close\r\n"));
    }

    #[test]
    fn known_packet() {
        let connection = Connection {
            caller: "10.0.0.5:43210".parse().expect("an address"),
            server: "169.254.169.254:80".parse().expect("an address"),
            answer_seq: 0x0102_0304,
            unsent: 0xa0b0_c0d0,
        };
        // Built with Python's struct module, with a checksum of its own.
        let expected = "45000028000040004006dcce0a000005a9fea9fe\
                        a8ca0050a0b0c0d0010203045014ffff432d0000";
        let hex: String = connection
            .reset_server()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, expected);
    }

    proptest! {
        #[test]
        fn packets_are_what_they_say(
            v6 in any::<bool>(),
            caller in any::<[u8; 16]>(),
            ports in any::<(u16, u16)>(),
            answer_seq in any::<u32>(),
            unsent in any::<u32>(),
        ) {
            let [a, b, c, d, ..] = caller;
            let (caller, server): (IpAddr, IpAddr) = if v6 {
                let [_, rest @ ..] = caller;
                // Not a mapped IPv4 address.
                let mut address = [0xfd; 16];
                address[1..].copy_from_slice(&rest);
                (address.into(), "fd00:ec2::254".parse().expect("an address"))
            } else {
                ([a, b, c, d].into(), "169.254.169.254".parse().expect("an address"))
            };
            let (caller, server) = (SocketAddr::new(caller, ports.0), SocketAddr::new(server, ports.1));
            let connection = Connection { caller, server, answer_seq, unsent };
            let answer = connection.answer();
            check(&answer, v6, server, caller, answer_seq);
            prop_assert!(answer.ends_with(UNAUTHORIZED));
            let behind = answer_seq.wrapping_add(UNAUTHORIZED.len() as u32 + 1);
            let reset = connection.reset_caller(true);
            check(&reset, v6, server, caller, behind);
            prop_assert!(Headers::read(&reset[..]).expect("TCP").is_reset());
            check(&connection.reset_caller(false), v6, server, caller, answer_seq);
            let reset = connection.reset_server();
            check(&reset, v6, caller, server, unsent);
            prop_assert_eq!(reset.len(), if v6 { 60 } else { 40 });
        }
    }
}
