//! Follows packets in the order of their TCP stream: finds a packet's payload, and which part of it is new.
//!
//! Pure, like [`crate::classify`]: the modern object follows streams with it in the kernel. User space follows streams
//! with it when the legacy object passes packets on.

/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// IPv6 extension headers that any process may add (`IPV6_HOPOPTS`, `IPV6_RTHDR`, `IPV6_DSTOPTS`): RFC 8200.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;
/// Maximum number of extension headers skipped. Linux sends at most four of these.
// VERIFIER: a constant bound.
const EXTENSIONS_MAX: u32 = 5;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const URG: u8 = 0x20;

/// A packet from its IP header on.
pub trait Bytes {
    /// `N` bytes at `offset`, or `None` beyond the end.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.get(offset as usize..)?.first_chunk().copied()
    }
}

/// Why a packet has no TCP headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTcp {
    /// It carries another protocol.
    OtherProtocol,
    /// It ends before its headers do.
    Truncated,
}

/// The headers of a TCP packet: IPv4 (RFC 791) or IPv6 (RFC 8200), then TCP (RFC 9293).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// True for IPv6, false for IPv4.
    pub v6: bool,
    pub source_port: u16,
    pub destination_port: u16,
    /// Sequence number of the payload's first byte.
    pub seq: u32,
    /// Offset of the payload.
    pub payload: u32,
    flags: u8,
    urgent_pointer: u16,
}

impl Headers {
    /// Reads the headers.
    ///
    /// # Errors
    ///
    /// When the packet is not TCP or too short for its headers.
    #[inline(always)]
    pub fn read(packet: &(impl Bytes + ?Sized)) -> Result<Self, NotTcp> {
        let Some([first]) = packet.load::<1>(0) else {
            return Err(NotTcp::Truncated);
        };
        let v6 = first >> 4 == 6;
        let tcp = if v6 {
            behind_extensions(packet)?
        } else {
            let Some([protocol]) = packet.load::<1>(9) else {
                return Err(NotTcp::Truncated);
            };
            if protocol != TCP {
                return Err(NotTcp::OtherProtocol);
            }
            (first & 0x0f) as u32 * 4
        };
        match Self::read_tcp(packet, v6, tcp) {
            Some(headers) => Ok(headers),
            None => Err(NotTcp::Truncated),
        }
    }

    #[inline(always)]
    fn read_tcp(packet: &(impl Bytes + ?Sized), v6: bool, tcp: u32) -> Option<Self> {
        let [s0, s1, d0, d1] = packet.load::<4>(tcp)?;
        let seq = u32::from_be_bytes(packet.load::<4>(tcp + 4)?);
        let [offset, flags] = packet.load::<2>(tcp + 12)?;
        let urgent_pointer = u16::from_be_bytes(packet.load::<2>(tcp + 18)?);
        Some(Self {
            v6,
            source_port: u16::from_be_bytes([s0, s1]),
            destination_port: u16::from_be_bytes([d0, d1]),
            // A SYN takes one number before the data that may come with it (TCP Fast Open, RFC 7413).
            seq: if flags & SYN != 0 { seq.wrapping_add(1) } else { seq },
            payload: tcp + (offset >> 4) as u32 * 4,
            flags,
            urgent_pointer,
        })
    }

    /// True if the packet opens a connection.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.flags & SYN != 0
    }

    /// True if the packet ends the stream.
    #[inline(always)]
    pub const fn is_last(&self) -> bool {
        self.flags & (FIN | RST) != 0
    }

    /// True if the packet ends the stream and says that all of it was sent.
    #[inline(always)]
    pub const fn is_fin(&self) -> bool {
        self.flags & FIN != 0
    }

    /// True if the packet ends the connection at once.
    #[inline(always)]
    pub const fn is_reset(&self) -> bool {
        self.flags & RST != 0
    }

    /// Sequence number of the byte after the urgent one, as nearly every system reads it: the urgent pointer's own
    /// value.
    #[inline(always)]
    pub const fn behind_urgent(&self) -> Option<u32> {
        if self.flags & URG == 0 {
            return None;
        }
        Some(self.first().wrapping_add(self.urgent_pointer as u32))
    }

    /// Sequence number of the urgent byte. An urgent pointer of 0 points to the first byte.
    pub const fn urgent_byte(&self) -> Option<u32> {
        if self.flags & URG == 0 {
            return None;
        }
        Some(self.first().wrapping_add(self.urgent_pointer.saturating_sub(1) as u32))
    }

    /// The packet's own sequence number.
    #[inline(always)]
    const fn first(&self) -> u32 {
        self.seq.wrapping_sub(self.is_syn() as u32)
    }
}

/// Offset of the TCP header after IPv6 extension headers.
#[inline(always)]
fn behind_extensions(packet: &(impl Bytes + ?Sized)) -> Result<u32, NotTcp> {
    let Some([mut next]) = packet.load::<1>(6) else {
        return Err(NotTcp::Truncated);
    };
    let mut offset = 40_u32;
    for _ in 0..EXTENSIONS_MAX {
        match next {
            TCP => return Ok(offset),
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let Some([following, len]) = packet.load::<2>(offset) else {
                    return Err(NotTcp::Truncated);
                };
                next = following;
                offset += (len as u32 + 1) * 8;
            }
            _ => return Err(NotTcp::OtherProtocol),
        }
    }
    Err(NotTcp::OtherProtocol)
}

/// The source address of a packet; an IPv4 address is in the first four bytes.
#[inline(always)]
pub fn source(packet: &(impl Bytes + ?Sized), v6: bool) -> Option<[u8; 16]> {
    address(packet, v6, 12, 8)
}

/// The destination address of a packet; an IPv4 address is in the first four bytes.
#[inline(always)]
pub fn destination(packet: &(impl Bytes + ?Sized), v6: bool) -> Option<[u8; 16]> {
    address(packet, v6, 16, 24)
}

#[inline(always)]
fn address(packet: &(impl Bytes + ?Sized), v6: bool, at_in_v4: u32, at_in_v6: u32) -> Option<[u8; 16]> {
    if v6 {
        return packet.load::<16>(at_in_v6);
    }
    let [a, b, c, d] = packet.load::<4>(at_in_v4)?;
    Some([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
}

/// TTL of an IPv4 packet, or hop limit of an IPv6 packet.
#[inline(always)]
pub fn hop_limit(packet: &(impl Bytes + ?Sized), v6: bool) -> Option<u8> {
    let [hops] = packet.load::<1>(if v6 { 7 } else { 8 })?;
    Some(hops)
}

/// True if the sequence number `one` is before `other` as TCP compares them: half of the circle of numbers is before.
#[inline(always)]
pub const fn is_before(one: u32, other: u32) -> bool {
    one.wrapping_sub(other) > i32::MAX as u32
}

/// Position of bytes in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The bytes come next.
    New,
    /// This many of the bytes, possibly all of them, were sent before.
    Known(u32),
    /// This many bytes before them were not seen.
    Gap(u32),
}

/// The position of `len` bytes from `seq` on in a stream whose next byte is `next`. With a `len` of 0 there is no gap.
#[inline(always)]
pub const fn place(next: u32, seq: u32, len: u32) -> Place {
    if is_before(seq, next) {
        let known = next.wrapping_sub(seq);
        return Place::Known(if known < len { known } else { len });
    }
    let missing = seq.wrapping_sub(next);
    if missing == 0 || len == 0 {
        Place::New
    } else {
        Place::Gap(missing)
    }
}
