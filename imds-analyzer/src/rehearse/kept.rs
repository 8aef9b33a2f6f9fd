//! The calls that are kept back, each until its connection has ended.
//!
//! A state machine without clocks and sockets: the caller passes the time, and sends the packets.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use imds_analyzer_ebpf::abi::rehearsal::{Refusal, RefusalNews};

use super::answer::Connection;
use crate::{decode::address, host::clock::nanoseconds};

/// How long a caller that was answered may take to close the connection.
const CLOSING: Duration = Duration::from_secs(1);
/// How long earlier calls on the connection may take to be answered.
const QUEUED: Duration = Duration::from_secs(5);

/// How many of the connections that their callers closed are remembered.
const CLOSED_MAX: usize = 1024;

/// A packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) net_ns: u32,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
    /// True for an answer, without which a call would hang.
    pub(super) is_answer: bool,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    connection: Connection,
    net_ns: u32,
    answered: bool,
    /// When the connection is reset, in ns since boot.
    deadline: u64,
}

/// The calls, by the cookies of their sockets.
#[derive(Debug, Default)]
pub(super) struct Kept {
    calls: BTreeMap<u64, Call>,
    /// Source addresses of the last connections that callers closed themselves.
    closed: VecDeque<SocketAddr>,
}

impl Kept {
    /// Takes news of a connection.
    pub(super) fn news(&mut self, now: u64, refusal: &Refusal, out: &mut Vec<Packet>) {
        let known = self.calls.get(&refusal.cookie).copied();
        match (RefusalNews::from_raw(refusal.news), known) {
            (Some(RefusalNews::Refused), _) => self.answer(now, Call::new(now, refusal), refusal.cookie, out),
            (Some(RefusalNews::Queued), _) => {
                self.calls.insert(refusal.cookie, Call::new(now, refusal));
            }
            (Some(RefusalNews::Due), Some(mut call)) if !call.answered => {
                call.connection.answer_seq = refusal.answer_seq;
                self.answer(now, call, refusal.cookie, out);
            }
            (Some(RefusalNews::Closed), Some(call)) => {
                self.reset(refusal.cookie, out);
                self.closed.truncate(CLOSED_MAX - 1);
                self.closed.push_front(call.connection.caller);
            }
            _ => {}
        }
    }

    fn answer(&mut self, now: u64, call: Call, cookie: u64, out: &mut Vec<Packet>) {
        let connection = call.connection;
        out.push(Packet {
            net_ns: call.net_ns,
            to: connection.caller,
            bytes: connection.answer(),
            is_answer: true,
        });
        // At once: if this process is killed before it ends the caller's side, the caller soon sends what was kept back,
        // and a server that knows nothing of the connection ends it. One that knows would ignore the caller, which has
        // acknowledged bytes that the server never sent.
        out.push(call.to(connection.server, connection.reset_server()));
        let call = Call {
            answered: true,
            deadline: now.saturating_add(nanoseconds(CLOSING)),
            ..call
        };
        self.calls.insert(cookie, call);
    }

    /// True if the caller with this address and port has recently closed its connection itself.
    pub(super) fn was_closed(&self, caller: SocketAddr) -> bool {
        self.closed.contains(&caller)
    }

    /// When [`Self::expire`] is due next.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.calls.values().map(|call| call.deadline).min()
    }

    /// Resets connections that have not ended in time.
    pub(super) fn expire(&mut self, now: u64, out: &mut Vec<Packet>) {
        let due = self.calls.iter().filter(|(_, call)| call.deadline <= now);
        for cookie in due.map(|(cookie, _)| *cookie).collect::<Vec<_>>() {
            self.reset(cookie, out);
        }
    }

    /// Ends the connections that were answered, and forgets the others: the kernel side lets their calls out.
    pub(super) fn finish(&mut self, out: &mut Vec<Packet>) {
        let answered = self.calls.iter().filter(|(_, call)| call.answered);
        for cookie in answered.map(|(cookie, _)| *cookie).collect::<Vec<_>>() {
            self.reset(cookie, out);
        }
        self.calls.clear();
    }

    fn reset(&mut self, cookie: u64, out: &mut Vec<Packet>) {
        let Some(call) = self.calls.remove(&cookie) else { return };
        let connection = call.connection;
        out.push(call.to(connection.caller, connection.reset_caller(call.answered)));
        if !call.answered {
            out.push(call.to(connection.server, connection.reset_server()));
        }
    }
}

impl Call {
    fn new(now: u64, refusal: &Refusal) -> Self {
        Self {
            connection: Connection {
                caller: address(refusal.family, refusal.source, refusal.source_port),
                server: address(refusal.family, refusal.destination, refusal.destination_port),
                answer_seq: refusal.answer_seq,
                unsent: refusal.acknowledge,
            },
            net_ns: refusal.net_ns,
            answered: false,
            deadline: now.saturating_add(nanoseconds(QUEUED)),
        }
    }

    /// A packet that ends one side.
    fn to(&self, to: SocketAddr, bytes: Vec<u8>) -> Packet {
        Packet {
            net_ns: self.net_ns,
            to,
            bytes,
            is_answer: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn refusal(cookie: u64, news: RefusalNews, answer_seq: u32) -> Refusal {
        let mut refusal = Refusal::new_zeroed();
        refusal.cookie = cookie;
        refusal.net_ns = 5;
        refusal.family = 4;
        refusal.news = news as u8;
        refusal.answer_seq = answer_seq;
        refusal.source[..4].copy_from_slice(&[10, 0, 0, 5]);
        refusal.source_port = 1000;
        refusal.destination[..4].copy_from_slice(&[169, 254, 169, 254]);
        refusal.destination_port = 80;
        refusal
    }

    /// What a step sends: `answer SEQ`, `reset caller`, `reset server`.
    fn sent(packets: &[Packet]) -> Vec<String> {
        let word = |packet: &Packet| {
            assert_eq!(packet.net_ns, 5);
            let seq = u32::from_be_bytes([packet.bytes[24], packet.bytes[25], packet.bytes[26], packet.bytes[27]]);
            match (packet.is_answer, packet.to.port()) {
                (true, 1000) => format!("answer {seq}"),
                (false, 1000) => format!("reset caller {seq}"),
                (false, 80) => "reset server".to_owned(),
                other => format!("{other:?}"),
            }
        };
        packets.iter().map(word).collect()
    }

    fn step(act: impl FnOnce(&mut Vec<Packet>)) -> Vec<String> {
        let mut packets = Vec::new();
        act(&mut packets);
        sent(&packets)
    }

    #[test]
    fn a_call_is_answered_at_once_and_its_connection_reset_when_it_is_closed() {
        let mut kept = Kept::default();
        let answer = refusal(1, RefusalNews::Refused, 100);
        assert_eq!(step(|out| kept.news(0, &answer, out)), ["answer 100", "reset server"]);
        assert_eq!(kept.next_deadline(), Some(SECOND));
        let caller = "10.0.0.5:1000".parse().expect("an address");
        assert!(!kept.was_closed(caller));
        let closed = refusal(1, RefusalNews::Closed, 0);
        let behind = 100 + super::super::answer::UNAUTHORIZED.len() + 1;
        let expected = [format!("reset caller {behind}")];
        assert_eq!(step(|out| kept.news(7, &closed, out)), expected);
        assert_eq!(step(|out| kept.news(8, &closed, out)), [""; 0]);
        assert!(kept.was_closed(caller));
        assert_eq!(kept.next_deadline(), None);
    }

    #[test]
    fn one_that_stays_open_is_reset_after_a_second() {
        let mut kept = Kept::default();
        step(|out| kept.news(0, &refusal(1, RefusalNews::Refused, 100), out));
        assert_eq!(step(|out| kept.expire(SECOND - 1, out)), [""; 0]);
        assert_eq!(step(|out| kept.expire(SECOND, out)).len(), 1);
    }

    #[test]
    fn a_call_behind_others_waits_for_their_answers() {
        let mut kept = Kept::default();
        assert_eq!(
            step(|out| kept.news(0, &refusal(1, RefusalNews::Queued, 100), out)),
            [""; 0]
        );
        let due = refusal(1, RefusalNews::Due, 900);
        assert_eq!(step(|out| kept.news(SECOND, &due, out)), ["answer 900", "reset server"]);
        assert_eq!(step(|out| kept.news(SECOND, &due, out)), [""; 0]);
        assert_eq!(kept.next_deadline(), Some(2 * SECOND));
    }

    #[test]
    fn if_the_earlier_calls_get_no_answer_both_sides_are_reset() {
        let mut kept = Kept::default();
        step(|out| kept.news(0, &refusal(1, RefusalNews::Queued, 100), out));
        let expected = ["reset caller 100", "reset server"];
        assert_eq!(step(|out| kept.expire(5 * SECOND, out)), expected);
        assert!(!kept.was_closed("10.0.0.5:1000".parse().expect("an address")));
    }

    #[test]
    fn at_the_end_only_answered_calls_are_reset() {
        let mut kept = Kept::default();
        step(|out| kept.news(0, &refusal(1, RefusalNews::Queued, 100), out));
        step(|out| kept.news(0, &refusal(2, RefusalNews::Refused, 100), out));
        assert_eq!(step(|out| kept.finish(out)).len(), 1);
        assert_eq!(kept.next_deadline(), None);
    }

    #[test]
    fn news_of_an_unknown_connection_does_nothing() {
        let mut kept = Kept::default();
        for news in [RefusalNews::Due, RefusalNews::Closed, RefusalNews::Passed] {
            assert_eq!(step(|out| kept.news(0, &refusal(1, news, 1), out)), [""; 0]);
        }
    }
}
