//! Takes the records of the legacy object: identifies the senders, converts times to the clock that the rest of the
//! program uses, and passes the bytes to `Sends` or `Packets`.

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use imds_analyzer_ebpf::abi::{
    Owner, Task,
    exchange::Answer,
    legacy::{ForkOrExec, Packet, Phase, Send},
};
use lru::LruCache;

use super::{Report, STREAMS_MAX, lineage::Lineage, packets::Packets, proc, sends::Sends};
use crate::{
    host::clock,
    loss::{Kind, Ledger},
};

/// Maximum number of kernel threads remembered.
const KERNEL_THREADS_MAX: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Minimum time between two warnings about connections that were given up.
const SILENCE: Duration = Duration::from_secs(60);

/// All sockets that send to IMDS.
pub struct LegacyTap {
    source: Source,
    /// Only if tasks cannot be read.
    lineage: Option<Lineage>,
    /// Pid and start of kernel threads that send on behalf of processes, like io_uring's workers until 5.12 (commit
    /// 3bfe6106693b).
    kernel_threads: LruCache<(u32, u64), ()>,
    /// ns that `CLOCK_BOOTTIME` is ahead of `CLOCK_MONOTONIC`: the time spent asleep.
    asleep: u64,
    counters: Ledger,
    /// Time of the last warning about connections given up, and how many there were then.
    said: Option<(Instant, u64)>,
}

/// The source of the bytes of requests.
enum Source {
    /// The senders' memory.
    Sends(Sends),
    /// Packets; sends only identify the senders.
    Packets(Packets),
}

impl LegacyTap {
    /// `lineage`: needed if tasks cannot be read. `packets`: the kernel side forwards packets.
    pub fn new(lineage: Option<Lineage>, packets: bool, answers: bool) -> Self {
        Self {
            source: if packets {
                Source::Packets(Packets::new())
            } else {
                Source::Sends(Sends::new(answers))
            },
            lineage,
            kernel_threads: LruCache::new(KERNEL_THREADS_MAX),
            asleep: clock::asleep(),
            counters: Ledger::default(),
            said: None,
        }
    }

    /// Losses on the user side.
    pub fn loss(&self) -> &Ledger {
        &self.counters
    }

    /// Reads the clocks again, because the machine may have slept. To be called regularly.
    pub fn set_clock(&mut self) {
        self.asleep = clock::asleep();
        self.warn();
    }

    /// Warns about connections given up, if there are more than at the last warning.
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

    /// Completes an announcement from /proc and the lineage, and converts its time to the clock that the rest of the
    /// program uses.
    pub fn announced(&mut self, owner: &mut Owner) {
        owner.header.time += self.asleep;
        self.complete(&mut owner.task);
        if let Some(lineage) = &mut self.lineage {
            lineage.ancestors_into(owner);
        }
        proc::complete_users(owner);
        if proc::is_kernel_thread(owner) {
            self.kernel_threads.put((owner.task.tgid, owner.task.start), ());
        }
    }

    /// Identifies the sender. For a kernel thread this is the process that sent or connected before.
    fn identify(&mut self, send: &mut Send) {
        self.complete(&mut send.task);
        if self.kernel_threads.contains(&(send.task.tgid, send.task.start)) {
            let last = match &self.source {
                Source::Sends(sends) => sends.last_sender(send),
                Source::Packets(packets) => packets.last_sender(send),
            };
            send.task = last.unwrap_or_default();
        }
    }

    /// Fills in what the kernel side could not read.
    fn complete(&mut self, task: &mut Task) {
        if let Some(lineage) = &mut self.lineage {
            lineage.identify(task);
        }
        proc::complete(task);
    }

    /// Takes the record of a fork or exec.
    pub fn on_fork_or_exec(&mut self, record: &ForkOrExec) {
        if let Some(lineage) = &mut self.lineage {
            lineage.take(record, record.header.time + self.asleep);
        }
    }

    /// Takes a piece of a send, or an event between sends.
    pub fn take(&mut self, send: &mut Send, data: &[u8], report: &mut impl Report) {
        send.header.time += self.asleep;
        let Some(phase) = Phase::from_raw(send.phase) else {
            self.counters.add(Kind::SendGaps, 1);
            return;
        };
        match (&self.source, phase) {
            // The task that connects is the connector: there is no earlier sender to look up.
            (Source::Sends(_), Phase::Connect) => self.complete(&mut send.task),
            // The sender of these events is not needed.
            (_, Phase::Received) | (Source::Sends(_), Phase::Shutdown | Phase::Close) => {}
            _ => self.identify(send),
        }
        match &mut self.source {
            Source::Sends(sends) => sends.take(send, phase, data, &mut self.counters, report),
            Source::Packets(packets) => packets.sent(send, phase, &mut self.counters, report),
        }
    }

    /// News of answers since the last call, which come after the records of their requests.
    pub fn take_news(&mut self) -> Vec<Answer> {
        match &mut self.source {
            Source::Sends(sends) => sends.take_news(),
            Source::Packets(_) => Vec::new(),
        }
    }

    /// Takes one packet.
    pub fn packet(&mut self, packet: &Packet, data: &[u8], report: &mut impl Report) {
        if let Source::Packets(packets) = &mut self.source {
            let time = packet.header.time + self.asleep;
            packets.take(packet, data, time, &mut self.counters, report);
        }
    }

    /// Handles the loss of records that no later record may reveal.
    pub fn lost(&mut self, time: u64, report: &mut impl Report) {
        let time = time + self.asleep;
        if let Some(lineage) = &mut self.lineage {
            lineage.doubt(time);
        }
        match &mut self.source {
            Source::Sends(sends) => sends.lost(time, report),
            Source::Packets(packets) => packets.lost(),
        }
    }
}

#[cfg(test)]
mod tests;
