//! The loop of every command that watches: next record -> decode -> join -> resolve -> sinks.

mod outlet;
mod start;
mod turns;

use std::{
    io,
    time::{Duration, SystemTime},
};

use imds_analyzer_ebpf::abi::{Loss, OwnerHook, RecordKind, Request};

pub use self::{
    outlet::Flow,
    start::{Options, StartError},
    turns::{End, Tick},
};
use self::{outlet::Outlet, turns::Turns};
use crate::{
    decode::{self, Record},
    event::Event,
    host::clock::Now,
    join::{Host, Join},
    kernel::{
        diagnostics::Diagnostics,
        load::{self, Loaded},
        plan::Object,
        stream::{Stream, Taken},
    },
    legacy::LegacyTap,
    loss::{Kind, Ledger},
    notice::Notice,
    sink::{self, Sink},
    summary::Summary,
};

/// Records handled before heads that time out get a turn.
const BATCH: usize = 256;
/// Batches before signals and timers get a turn.
const BATCHES: usize = 16;
/// Batches handled at the end: more records than any buffer holds. A flood goes on after it, and is not seen then.
const BATCHES_AT_END: usize = 256;

/// Hooks in the kernel, and what comes from them.
pub struct Session<S> {
    stream: Stream,
    /// There may be more to read without waiting.
    more: bool,
    loaded: Loaded,
    join: Join<Host>,
    send: LegacyTap,
    outlet: Outlet<S>,
    /// As of the last loss notice.
    reported_loss: Ledger,
    /// Records that did not get here, or could not be decoded.
    lost: Ledger,
    diagnostics: Diagnostics,
}

impl<S: Sink> Session<S> {
    /// Handles records until `stop` is ready, the count is reached, or the output is closed, and what is due to `tick`
    /// beside them. What is there at the end is left for the next call, or for [`Self::finish`].
    pub async fn run<T>(&mut self, stop: impl Future<Output = T>, tick: &mut impl Tick<Self>) -> io::Result<End<T>> {
        turns::run(self, stop, tick).await
    }

    /// One line on what is in place, for the ready notice.
    pub fn describe(&self) -> String {
        let owner = self.loaded.owner.as_str();
        let tap = self.loaded.tap.as_str();
        let missing: Vec<_> = self
            .loaded
            .hooks
            .iter()
            .filter(|hook| hook.error.is_some() && !load::is_sender(hook.program))
            .map(|hook| hook.program)
            .collect();
        if missing.is_empty() {
            format!("{tap} tap attached, owner from {owner}")
        } else {
            format!("{tap} tap attached, owner from {owner}, without {}", missing.join(", "))
        }
    }

    /// Handles all that is there, without waiting. Ends in a flood, too: what was there when it began has been handled then.
    pub fn drain(&mut self) -> io::Result<Flow> {
        self.batches(BATCHES_AT_END)
    }

    /// Handles what is there, up to so many batches.
    fn batches(&mut self, limit: usize) -> io::Result<Flow> {
        for _ in 0..limit {
            let handled = self.batch();
            // Sinks write while more is handled, before their queues are full.
            let flow = self.outlet.flush()?;
            handled?;
            if flow != Flow::Continue || !self.more {
                break;
            }
        }
        Ok(self.outlet.flow())
    }

    /// Handles one batch of what is there.
    fn batch(&mut self) -> io::Result<()> {
        let object = self.loaded.object;
        let Self {
            stream,
            join,
            send,
            outlet,
            lost,
            loaded,
            ..
        } = self;
        let mut attempts = Vec::new();
        let mut outcome = Ok(());
        let mut write = |event: Event| {
            if outcome.is_ok() {
                outcome = outlet.event(&event);
            }
        };
        send.set_clock();
        let now = Now::read();
        let count = stream.drain(BATCH, |taken| match taken {
            Taken::Record(bytes) => match decode::decode(bytes) {
                Ok(Record::Owner(mut owner, names, argv)) => {
                    if object != Object::Modern {
                        send.announced(&mut owner);
                    }
                    if owner.task.hook == OwnerHook::Connect as u8 {
                        join.connected(owner.cookie, owner.sock);
                    }
                    join.lookup_mut().resolver().observe(&owner, names, argv);
                }
                Ok(Record::Request(request, capture)) => join.request(now, &request, capture, &mut write),
                Ok(Record::Pending(request, capture)) => join.unfinished(now, &request, capture, &mut write),
                Ok(Record::Changed(notice)) => join.changed(now, &notice, &mut write),
                Ok(Record::Answer(news)) => join.answer(now, &news, &mut write),
                // Without the other direction nobody knows what became of it.
                Ok(Record::Attempt(_)) if !loaded.answers => {}
                Ok(Record::Attempt(attempt)) => attempts.push(join.attempt(now, &attempt)),
                Ok(Record::Send(mut piece, data)) => {
                    send.take(&mut piece, data, &mut |kind, request: &_, capture: &_| {
                        judged(join, now, kind, request, capture, &mut write);
                    });
                }
                Ok(Record::ForkOrExec(record)) => send.on_fork_or_exec(&record),
                Ok(Record::Packet(packet, data)) => {
                    send.packet(&packet, data, &mut |kind, request: &_, capture: &_| {
                        judged(join, now, kind, request, capture, &mut write);
                    });
                }
                Err(error) => lost.add(error, 1),
            },
            Taken::Lost(count, time) => {
                lost.add(Kind::PerfRecords, count);
                send.lost(time, &mut |kind, request: &_, capture: &_| {
                    judged(join, now, kind, request, capture, &mut write);
                });
            }
        });
        join.expire(now, || loaded.count(Loss::AnswerRing), &mut write);
        self.more = count == BATCH;
        outcome?;
        attempts.iter().try_for_each(|attempt| outlet.attempt(attempt))
    }

    /// Handles what is there, reports what is still unfinished, and sums up. Returns the summary, what was lost, and
    /// whether `--fail-on` matched.
    pub fn finish(mut self) -> io::Result<Finished<S>> {
        if self.outlet.flow() != Flow::Closed {
            self.drain()?;
        }
        let mut outcome = Ok(());
        self.join.finish(Now::read(), &mut |event| {
            if outcome.is_ok() {
                outcome = self.outlet.event(&event);
            }
        });
        outcome?;
        self.diagnostics.flush();
        let loss = self.loss();
        let notice = Notice::Summary {
            summary: &self.outlet.summary,
            loss: &loss,
        };
        let written = self.outlet.sink.notice(SystemTime::now(), &notice);
        match written.and_then(|()| self.outlet.sink.flush()) {
            Err(error) if !sink::is_closed(&error) => return Err(error),
            _ => {}
        }
        Ok(Finished {
            summary: self.outlet.summary,
            loss,
            failed: self.outlet.failed,
            sink: self.outlet.sink,
        })
    }

    /// Says what was lost since the last time, if anything was.
    pub fn report_loss(&mut self) -> io::Result<()> {
        let loss = self.loss();
        let new = loss.since(&self.reported_loss);
        if new.is_empty() {
            return Ok(());
        }
        self.reported_loss = loss;
        let sink = &mut self.outlet.sink;
        sink.notice(SystemTime::now(), &Notice::Loss(&new))?;
        sink.flush()
    }

    /// Rights were given up: what takes them is not tried any more.
    pub fn rights_dropped(&mut self) {
        self.join.lookup_mut().forbid_searches();
    }

    /// Where records go.
    pub fn sink(&mut self) -> &mut S {
        &mut self.outlet.sink
    }

    /// The programs that were considered, and whether they are attached.
    pub fn hooks(&self) -> Vec<(&'static str, bool)> {
        let hooks = self.loaded.hooks.iter();
        hooks.map(|hook| (hook.program, hook.error.is_none())).collect()
    }

    /// How requests are seen, `imds.tap`.
    pub fn tap(&self) -> &'static str {
        self.loaded.tap.as_str()
    }

    /// Whether a program stays attached unless this process detaches it when it ends.
    pub fn must_detach(&self) -> bool {
        self.loaded.must_detach
    }

    /// Where owners come from, `imds.owner`.
    pub fn owner(&self) -> &'static str {
        self.loaded.owner.as_str()
    }

    /// Whether the kernel side's counters can be read with the rights of now.
    pub fn counters_readable(&self) -> bool {
        self.loaded.counters_readable()
    }

    /// Everything that was lost so far, on both sides.
    pub fn loss(&self) -> Ledger {
        let mut loss = self.loaded.loss();
        let join = self.join.loss();
        let ownerless = join.of(Kind::RequestsWithoutProcess) > 0;
        loss.merge(self.send.loss());
        loss.merge(&self.lost);
        loss.merge(join);
        loss.merge(&self.join.lookup().loss(ownerless));
        loss.merge(&self.outlet.sink.loss());
        loss
    }
}

impl<S: Sink> Turns for Session<S> {
    fn is_busy(&self) -> bool {
        self.more
    }

    /// Waits for the next records, or for a head to time out, and handles some of them.
    async fn next(&mut self) -> io::Result<Flow> {
        if !self.more {
            let deadline = self.join.next_deadline();
            tokio::select! {
                ready = self.stream.ready() => ready?,
                () = until(deadline) => {}
                () = self.diagnostics.forward() => {}
            }
            self.more = true;
        }
        self.batches(BATCHES)
    }
}

/// What the send tap says of a head, as if it came from the kernel.
fn judged(
    join: &mut Join<Host>,
    now: Now,
    kind: RecordKind,
    request: &Request,
    capture: &[u8],
    out: &mut impl FnMut(Event),
) {
    match kind {
        RecordKind::Pending => join.unfinished(now, request, capture, out),
        RecordKind::Changed => join.changed(now, request, out),
        _ => join.request(now, request, capture, out),
    }
}

/// The end of a session.
pub struct Finished<S> {
    pub summary: Summary,
    pub loss: Ledger,
    /// `--fail-on` matched.
    pub failed: bool,
    pub sink: S,
}

/// Until so many ns since boot.
async fn until(deadline: Option<u64>) {
    match deadline {
        Some(deadline) => {
            let left = deadline.saturating_sub(Now::read().since_boot);
            tokio::time::sleep(Duration::from_nanos(left)).await;
        }
        None => std::future::pending().await,
    }
}
