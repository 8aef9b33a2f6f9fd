//! The legacy object's user side: pieces of sends, or packets, become judged heads, by the same `Classifier` that the
//! wire tap runs in the kernel.
//!
//! Bytes read from a sender's memory are provisional. Each send is read when it begins and again when it has ended; what
//! is the same both times is what was sent, what differs is [`Reason::Changed`], and only as many bytes count as the
//! socket took. They are here and nowhere else: what leaves is the classifier's masked capture, and the bytes are wiped
//! as soon as they have been compared. Where packets are seen, they say what was sent, and sends only by whom.

mod lineage;
mod packet;
mod read;
mod stream;
mod urgent;
mod wire;

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use imds_analyzer_ebpf::{
    abi::{
        self, RecordKind, Request,
        send::{Packet, Phase},
    },
    classify::Reason,
};
use lru::LruCache;

pub use self::lineage::Lineage;
use self::{stream::Stream, wire::Wire};
use crate::{
    host::clock,
    loss::{Kind, Ledger},
};

/// Sockets followed at once; beyond that the one that was quiet longest is given up.
const STREAMS_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Threads of the kernel's own that are remembered.
const KERNEL_THREADS_MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Time between two warnings of connections that are given up.
const SILENCE: Duration = Duration::from_secs(60);

/// All sockets that send to IMDS.
pub struct SendTap {
    streams: LruCache<u64, Stream>,
    /// Where packets are seen.
    wire: Option<Wire>,
    /// Connections seen.
    connections: u64,
    /// Where tasks cannot be read.
    lineage: Option<Lineage>,
    /// Pid and start of those that send for processes, as io_uring's workers did until 5.12 (commit 3bfe6106693b).
    kernel_threads: LruCache<(u32, u64), ()>,
    /// ns that `CLOCK_BOOTTIME` is ahead of `CLOCK_MONOTONIC`: the time spent asleep.
    asleep: u64,
    counters: Ledger,
    /// When it was said last that connections are given up, and how many there were then.
    said: Option<(Instant, u64)>,
}

/// What comes out: a record of a request, as the kernel side of the wire tap would have sent it, and its capture.
pub trait Report: FnMut(RecordKind, &Request, &[u8]) {}
impl<F: FnMut(RecordKind, &Request, &[u8])> Report for F {}

impl SendTap {
    /// `lineage` where tasks cannot be read; `packets` where they are seen.
    pub fn new(lineage: Option<Lineage>, packets: bool) -> Self {
        Self {
            streams: LruCache::new(STREAMS_MAX),
            wire: packets.then(Wire::new),
            connections: 0,
            lineage,
            kernel_threads: LruCache::new(KERNEL_THREADS_MAX),
            asleep: clock::asleep(),
            counters: Ledger::default(),
            said: None,
        }
    }

    /// What was lost on this side.
    pub fn loss(&self) -> &Ledger {
        &self.counters
    }

    /// Looks at the clocks: the machine may have slept. To be called now and then.
    pub fn set_clock(&mut self) {
        self.asleep = clock::asleep();
        self.warn();
    }

    /// Says that connections were given up, if there are more of them than when it was said last.
    fn warn(&mut self) {
        let given_up = self.counters.of(Kind::ConnectionsGivenUp);
        let before = self.said.map_or(0, |(_, count)| count);
        if given_up == before || self.said.is_some_and(|(when, _)| when.elapsed() < SILENCE) {
            return;
        }
        self.said = Some((Instant::now(), given_up));
        tracing::warn!(
            "stopped following {} connections to IMDS because more than {STREAMS_MAX} are open: their unfinished requests \
             are unknown, reason no-state. Those records name the senders",
            given_up - before
        );
    }

    /// An announcement with the kernel's facts completed from /proc, and in the clock of the rest of the program.
    pub fn announced(&mut self, owner: &mut abi::Owner) {
        owner.header.time += self.asleep;
        self.complete(&mut owner.task);
        if let Some(lineage) = &mut self.lineage {
            lineage.ancestors_into(owner);
        }
        read::complete_users(owner);
        if read::is_kernel_thread(owner) {
            self.kernel_threads.put((owner.task.tgid, owner.task.start), ());
        }
    }

    /// Says who sends: not a thread of the kernel's, but who sent or connected before it.
    fn identify(&mut self, send: &mut abi::send::Send) {
        self.complete(&mut send.task);
        if self.kernel_threads.contains(&(send.task.tgid, send.task.start)) {
            let last = match &self.wire {
                Some(wire) => wire.last_sender(send),
                None => self.streams.peek(&send.sock).map(Stream::last_sender),
            };
            send.task = last.unwrap_or_default();
        }
    }

    /// Fills in what the kernel side could not read.
    fn complete(&mut self, task: &mut abi::Task) {
        if let Some(lineage) = &mut self.lineage {
            lineage.identify(task);
        }
        read::complete(task);
    }

    /// A process starts another one, or executes a program.
    pub fn descends(&mut self, record: &abi::send::Lineage) {
        if let Some(lineage) = &mut self.lineage {
            lineage.take(record, record.header.time + self.asleep);
        }
    }

    /// Takes one record of the legacy object.
    pub fn take(&mut self, send: &mut abi::send::Send, data: &[u8], report: &mut impl Report) {
        send.header.time += self.asleep;
        let Some(phase) = Phase::from_raw(send.phase) else {
            self.counters.add(Kind::SendGaps, 1);
            return;
        };
        if self.wire.is_some() {
            self.identify(send);
            if let Some(wire) = &mut self.wire {
                wire.sent(send, phase, &mut self.counters, report);
            }
            return;
        }
        match phase {
            Phase::Connect => {
                self.close(send, report);
                self.complete(&mut send.task);
                self.open(send, None, report);
            }
            Phase::Begin => {
                self.identify(send);
                // With MSG_FASTOPEN the first send connects: there is no peer yet.
                let connects = send.number == 1 && send.destination == [0; 16];
                if connects {
                    self.close(send, report);
                }
                if !self.streams.contains(&send.sock) {
                    let joined = if send.number > 1 {
                        Reason::NoState
                    } else {
                        Reason::Midstream
                    };
                    self.open(send, (!connects).then_some(joined), report);
                }
                if let Some(stream) = self.streams.get_mut(&send.sock) {
                    stream.begin(send, data, &mut self.counters, report);
                }
            }
            Phase::End => {
                self.identify(send);
                if !self.streams.contains(&send.sock) {
                    self.open(send, Some(Reason::NoState), report);
                }
                if let Some(stream) = self.streams.get_mut(&send.sock) {
                    stream.end(send, data, &mut self.counters, report);
                }
            }
            Phase::Shutdown => {
                if let Some(stream) = self.streams.get_mut(&send.sock) {
                    stream.close(send.header.time, report);
                }
            }
            Phase::Close => self.close(send, report),
        }
    }

    /// Takes one packet.
    pub fn packet(&mut self, packet: &Packet, data: &[u8], report: &mut impl Report) {
        if let Some(wire) = &mut self.wire {
            let time = packet.header.time + self.asleep;
            wire.take(packet, data, time, &mut self.counters, report);
        }
    }

    /// A new connection on a socket that has none here; for the reason `joined` its beginning was not seen.
    fn open(&mut self, send: &abi::send::Send, joined: Option<Reason>, report: &mut impl Report) {
        self.connections += 1;
        let stream = Stream::of_sends(send, self.connections, joined);
        if let Some((sock, mut oldest)) = self.streams.push(send.sock, stream)
            && sock != send.sock
        {
            self.counters.add(Kind::ConnectionsGivenUp, 1);
            oldest.give_up(send.header.time, report);
        }
    }

    fn close(&mut self, send: &abi::send::Send, report: &mut impl Report) {
        if let Some(mut stream) = self.streams.pop(&send.sock) {
            stream.finish(send, &mut self.counters, report);
        }
    }

    /// Records were lost that no later one may tell of: every stream may have a gap.
    pub fn lost(&mut self, time: u64, report: &mut impl Report) {
        let time = time + self.asleep;
        if let Some(lineage) = &mut self.lineage {
            lineage.doubt(time);
        }
        if let Some(wire) = &mut self.wire {
            wire.lost();
        }
        for (_, stream) in &mut self.streams {
            stream.doubt(time, report);
        }
    }
}

#[cfg(test)]
mod tests;
