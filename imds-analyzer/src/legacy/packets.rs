//! Connections whose packets are forwarded to user space: does what the modern object does in the kernel, for kernels
//! that cannot run that. Packets show what is sent, kprobes on sends show the sender; the socket's cookie and TCP's
//! sequence numbers join the two.

use imds_analyzer_ebpf::{
    abi::{
        Loss, Task,
        legacy::{Packet, Phase, Send},
    },
    classify::Reason,
    follow::{self, Headers, NotTcp, Place, place},
};
use lru::LruCache;

mod history;

use self::history::{History, Point};
use super::{
    Report, STREAMS_MAX,
    follow::{Endpoints, Stream},
};
use crate::loss::{Kind, Ledger};

/// The index that every network namespace gives its loopback device (LOOPBACK_IFINDEX, include/net/flow.h).
const LOOPBACK: u32 = 1;

/// Connections followed by their packets.
pub(super) struct Packets {
    /// Connections by the socket's cookie.
    connections: LruCache<u64, Connection>,
    /// The begin of a send by sock, if the socket gets its cookie only when its first packet leaves.
    opening: LruCache<u64, Send>,
    /// The process that connected a socket, by sock.
    connectors: LruCache<u64, Task>,
    point: Point,
}

struct Connection {
    stream: Stream,
    /// Sequence number of the first byte; `None` before the first packet.
    first: Option<u32>,
    /// True if no new bytes follow. Bytes may still be sent again, and must be recognized as such.
    ended: bool,
    /// To compare with bytes that are sent again.
    history: History,
    point: Point,
    /// The reason to report if the beginning of the connection was missed.
    joined: Reason,
}

impl Packets {
    pub(super) fn new() -> Self {
        Self {
            connections: LruCache::new(STREAMS_MAX),
            opening: LruCache::new(STREAMS_MAX),
            connectors: LruCache::new(STREAMS_MAX),
            point: Point::random(),
        }
    }

    /// The process that sent last on the socket of `send`, or that connected it.
    pub(super) fn last_sender(&self, send: &Send) -> Option<Task> {
        let connection = self.connections.peek(&send.cookie);
        let sender = connection.map(|connection| connection.stream.last_sender());
        let known = sender.filter(|sender| sender.tgid != 0);
        known.or_else(|| self.connectors.peek(&send.sock).copied())
    }

    /// Takes a send that begins or has ended, or a socket that connects or is closed.
    pub(super) fn sent(&mut self, send: &Send, phase: Phase, counters: &mut Ledger, report: &mut impl Report) {
        match phase {
            Phase::Begin if send.cookie == 0 => {
                if let Some((sock, _)) = self.opening.push(send.sock, *send)
                    && sock != send.sock
                {
                    counters.add(Loss::SenderQueue, 1);
                }
            }
            Phase::Begin => {
                let connection = self.connection(send.cookie, send.header.time, counters, report);
                connection.stream.note(send, send.seq, counters);
            }
            Phase::End => {
                if self.opening.pop(&send.sock).is_some()
                    && let Some(connection) = self.connections.get_mut(&send.cookie)
                {
                    connection.opened_by(send, counters);
                }
            }
            Phase::Connect => {
                self.opening.pop(&send.sock);
                self.connectors.put(send.sock, send.task);
            }
            // A packet shows it.
            Phase::Shutdown => {}
            // Not attached beside packets.
            Phase::Received => {}
            Phase::Close => {
                self.opening.pop(&send.sock);
                self.connectors.pop(&send.sock);
                // Bytes written before may still leave later.
                if let Some(connection) = self.connections.get_mut(&send.cookie)
                    && connection.stream.position() == send.seq
                {
                    connection.end(send.header.time, report);
                }
            }
        }
    }

    /// Takes a packet that leaves.
    pub(super) fn take(
        &mut self,
        packet: &Packet,
        data: &[u8],
        time: u64,
        counters: &mut Ledger,
        report: &mut impl Report,
    ) {
        let segment = match Segment::read(data) {
            Ok(segment) => segment,
            Err(NotTcp::OtherProtocol) => return,
            Err(NotTcp::Truncated) => {
                counters.add(Loss::PacketShape, 1);
                return;
            }
        };
        let connection = self.connection(packet.cookie, time, counters, report);
        if connection.starts_with(&segment, packet.ifindex == LOOPBACK) {
            // The send that wrote it has not returned yet.
            let mut candidates = self.opening.iter().filter(|(_, begin)| is_of(begin, &segment));
            if let (Some((_, begin)), None) = (candidates.next(), candidates.next())
                && let Some(connection) = self.connections.get_mut(&packet.cookie)
            {
                connection.opened_by(begin, counters);
            }
        }
        let Some(connection) = self.connections.get_mut(&packet.cookie) else {
            return;
        };
        let cut = packet.len.saturating_sub(data.len() as u32);
        connection.take(&segment, cut, time, counters, report);
    }

    /// The connection with this cookie, created if there is none.
    fn connection(
        &mut self,
        cookie: u64,
        time: u64,
        counters: &mut Ledger,
        report: &mut impl Report,
    ) -> &mut Connection {
        let full = self.connections.len() == STREAMS_MAX.get() && !self.connections.contains(&cookie);
        if full
            && let Some((_, mut oldest)) = self.connections.pop_lru()
            && !oldest.ended
        {
            counters.add(Kind::ConnectionsGivenUp, 1);
            oldest.stream.give_up(time, report);
        }
        // This connection may be one that was given up.
        let joined = if counters.of(Kind::ConnectionsGivenUp) > 0 {
            Reason::NoState
        } else {
            Reason::Midstream
        };
        let point = self.point;
        self.connections
            .get_or_insert_mut(cookie, || Connection::new(cookie, point, joined))
    }

    /// Handles lost records of sends. Lost packets show in the sequence numbers.
    pub(super) fn lost(&mut self) {
        self.opening.clear();
        for (_, connection) in &mut self.connections {
            connection.stream.forget_all_senders();
        }
    }
}

/// True if a send may have written the first packet of a connection: its socket has the packet's port, or has none yet
/// (MSG_FASTOPEN).
fn is_of(begin: &Send, segment: &Segment<'_>) -> bool {
    match u16::from_be(begin.source_port) {
        0 => segment.headers.is_syn(),
        port => port == segment.headers.source_port,
    }
}

/// A TCP packet.
struct Segment<'a> {
    headers: Headers,
    source: [u8; 16],
    destination: [u8; 16],
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    fn read(packet: &'a [u8]) -> Result<Self, NotTcp> {
        let headers = Headers::read(packet)?;
        let payload = packet.get(headers.payload as usize..);
        let (source, destination) = (
            follow::source(packet, headers.v6),
            follow::destination(packet, headers.v6),
        );
        Ok(Self {
            headers,
            source: source.ok_or(NotTcp::Truncated)?,
            destination: destination.ok_or(NotTcp::Truncated)?,
            payload: payload.ok_or(NotTcp::Truncated)?,
        })
    }
}

impl Connection {
    fn new(cookie: u64, point: Point, joined: Reason) -> Self {
        Self {
            stream: Stream::new(cookie),
            first: None,
            ended: false,
            history: History::default(),
            point,
            joined,
        }
    }

    /// Notes that `send` wrote the first packet.
    fn opened_by(&mut self, send: &Send, counters: &mut Ledger) {
        if let Some(first) = self.first {
            self.stream.note(send, first, counters);
        }
    }

    /// True if this packet is the first of the connection, or the first one seen. Then starts the stream.
    fn starts_with(&mut self, segment: &Segment<'_>, local: bool) -> bool {
        let headers = &segment.headers;
        let again = headers.is_syn() && self.first == Some(headers.seq);
        let starts = headers.is_syn() && !again || self.first.is_none() && !segment.payload.is_empty();
        if !starts {
            return false;
        }
        if self.first.is_some() {
            // The socket was disconnected and connects again.
            self.stream.restart();
            self.history = History::default();
            self.ended = false;
        }
        if !headers.is_syn() {
            self.stream.start_midstream(self.joined);
        }
        self.first = Some(headers.seq);
        let endpoints = Endpoints {
            family: if headers.v6 { 6 } else { 4 },
            source: segment.source,
            source_port: headers.source_port,
            destination: segment.destination,
            net_ns: 0,
        };
        let destination = (segment.destination, headers.destination_port);
        self.stream.start(headers.seq, local, endpoints, destination);
        true
    }

    /// Takes the new part of the payload. The kernel side left out the last `cut` bytes.
    fn take(&mut self, segment: &Segment<'_>, cut: u32, time: u64, counters: &mut Ledger, report: &mut impl Report) {
        let stream = &mut self.stream;
        if let Some(urgent) = segment.headers.urgent_byte() {
            stream.urgent(urgent, time, report);
        }
        let (mut payload, mut cut) = (segment.payload, cut);
        let len = payload.len() as u32;
        match place(stream.position(), segment.headers.seq, len.saturating_add(cut)) {
            Place::New => {}
            Place::Known(known) => {
                let (again, new) = payload.split_at_checked(known as usize).unwrap_or((payload, &[]));
                let compared = self.history.compare(segment.headers.seq, again, self.point);
                if let Some((from, to)) = compared.other {
                    counters.add(Kind::SendsChanged, 1);
                    stream.revoke(from, to.wrapping_sub(from), Reason::Changed, time, report);
                }
                if let Some((from, to)) = compared.unknown
                    && stream.had_pages()
                {
                    stream.revoke(from, to.wrapping_sub(from), Reason::Changed, time, report);
                }
                cut -= known.saturating_sub(len);
                payload = new;
            }
            Place::Gap(missing) => {
                counters.add(Loss::GapBytes, u64::from(missing));
                stream.unseen(missing, Reason::Gap, time, report);
            }
        }
        self.history.push(stream.position(), payload, self.point);
        stream.push(payload, time, report);
        if cut > 0 {
            counters.add(Loss::PacketBound, 1);
            counters.add(Loss::GapBytes, u64::from(cut));
            stream.unseen(cut, Reason::Gap, time, report);
        }
        if segment.headers.is_last() {
            self.end(time, report);
        } else {
            stream.note_unfinished(time, report);
        }
    }

    fn end(&mut self, time: u64, report: &mut impl Report) {
        self.stream.close(time, report);
        self.ended = true;
    }
}

#[cfg(test)]
mod tests;
