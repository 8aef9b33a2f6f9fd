//! The loop of every command that watches: next record -> decode -> join -> resolve -> sinks.

mod outlet;
mod start;
mod turns;

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use imds_analyzer_ebpf::abi::{Loss, OwnerHook, RecordKind, Request, Task, rehearsal::Refusal};

use self::outlet::Outlet;
pub use self::{
    outlet::Flow,
    start::{Options, StartError},
    turns::{End, Tick, Turns, run},
};
use crate::{
    decode::{self, Record},
    event::{Event, Process},
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

/// Records per batch. Timed-out heads are handled after each batch.
const BATCH: usize = 256;
/// Batches before signals and timers get a turn.
const BATCHES: usize = 16;
/// Batches at the end: more records than any buffer holds. If a flood goes on longer, the rest is not seen.
const BATCHES_AT_END: usize = 256;

/// What only a rehearsal looks at.
#[derive(Debug, Default)]
pub struct News {
    pub refusals: Vec<Refusal>,
    /// The tasks that were announced.
    pub announced: Vec<Task>,
}

/// The hooks in the kernel and the pipeline for their records.
pub struct Session<S> {
    stream: Stream,
    /// True if more records may be available without waiting.
    more: bool,
    loaded: Loaded,
    join: Join<Host>,
    send: LegacyTap,
    outlet: Outlet<S>,
    /// All losses up to the last loss notice.
    reported_loss: Ledger,
    /// Records that user space did not get or could not decode.
    lost: Ledger,
    /// In a rehearsal, the news that it has not taken yet.
    news: Option<News>,
    diagnostics: Diagnostics,
}

impl<S: Sink> Session<S> {
    /// Handles records until `stop` is ready, the count is reached, or the output is closed. Runs `tick` when something
    /// is due. Records that are left at the end are for the next call or for [`Self::finish`].
    pub async fn run<T>(&mut self, stop: impl Future<Output = T>, tick: &mut impl Tick<Self>) -> io::Result<End<T>> {
        run(self, stop, tick).await
    }

    /// One line for the ready notice: what is attached and what is missing.
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

    /// Handles the available records without waiting. Stops even in a flood: all records that were there at the start
    /// have been handled by then.
    pub fn drain(&mut self) -> io::Result<Flow> {
        self.batches(BATCHES_AT_END)
    }

    /// Handles the available records, up to `limit` batches.
    fn batches(&mut self, limit: usize) -> io::Result<Flow> {
        for _ in 0..limit {
            let handled = self.batch();
            // Sinks write while the next batch is handled, before their queues are full.
            let flow = self.outlet.flush()?;
            handled?;
            if flow != Flow::Continue || !self.more {
                break;
            }
        }
        Ok(self.outlet.flow())
    }

    /// Handles one batch of the available records.
    fn batch(&mut self) -> io::Result<()> {
        let object = self.loaded.object;
        let Self {
            stream,
            join,
            send,
            outlet,
            lost,
            loaded,
            news,
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
                    if let Some(news) = news {
                        news.announced.push(owner.task);
                    }
                }
                Ok(Record::Request(request, capture)) => join.request(now, &request, capture, &mut write),
                Ok(Record::Pending(request, capture)) => join.unfinished(now, &request, capture, &mut write),
                Ok(Record::Changed(notice)) => join.changed(now, &notice, &mut write),
                Ok(Record::Answer(news)) => join.answer(now, &news, &mut write),
                // Without the ingress program nobody sees the outcome of an attempt.
                Ok(Record::Attempt(_)) if !loaded.answers => {}
                Ok(Record::Attempt(attempt)) => attempts.push(join.attempt(now, &attempt)),
                Ok(Record::Refusal(refusal)) => {
                    if let Some(news) = news {
                        news.refusals.push(refusal);
                    }
                }
                Ok(Record::Send(mut piece, data)) => {
                    send.take(&mut piece, data, &mut |kind, request: &_, capture: &_| {
                        judged(join, now, kind, request, capture, &mut write);
                    });
                    for news in send.take_news() {
                        join.answer(now, &news, &mut write);
                    }
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
                for news in send.take_news() {
                    join.answer(now, &news, &mut write);
                }
            }
        });
        join.expire(now, || loaded.count(Loss::AnswerRing), &mut write);
        self.more = count == BATCH;
        outcome?;
        attempts.iter().try_for_each(|attempt| outlet.attempt(attempt))
    }

    /// Handles the available records, reports unfinished requests, and writes the summary. Returns the summary, the
    /// losses, and if `--fail-on` matched.
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

    /// Writes a notice with the losses since the last one, if there are any.
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

    /// Tells the session that rights were dropped, so that it no longer tries what needs them.
    pub fn rights_dropped(&mut self) {
        self.join.lookup_mut().forbid_searches();
    }

    pub fn sink(&mut self) -> &mut S {
        &mut self.outlet.sink
    }

    /// In a rehearsal, the news since the last call.
    pub fn take_news(&mut self) -> News {
        self.news.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// In a rehearsal, the map that chooses callers; `None` if it was taken before.
    pub fn take_choices(&mut self) -> Option<load::Choices> {
        self.loaded.choice.take()
    }

    /// The process of a task that the kernel side announced.
    pub fn process(&mut self, task: &Task) -> Option<Arc<Process>> {
        self.join.lookup_mut().resolver().resolve(task)
    }

    /// The process with this id, from /proc.
    pub fn process_of(&mut self, pid: u32) -> Option<Arc<Process>> {
        self.join.lookup_mut().resolver().from_pid(pid)
    }

    /// The programs of the plan, each with true if it is attached.
    pub fn hooks(&self) -> Vec<(&'static str, bool)> {
        let hooks = self.loaded.hooks.iter();
        hooks.map(|hook| (hook.program, hook.error.is_none())).collect()
    }

    /// The tap that sees requests, `imds.tap`.
    pub fn tap(&self) -> &'static str {
        self.loaded.tap.as_str()
    }

    /// True if a program stays attached unless this process detaches it at the end.
    pub fn must_detach(&self) -> bool {
        self.loaded.must_detach
    }

    /// The source of owners, `imds.owner`.
    pub fn owner(&self) -> &'static str {
        self.loaded.owner.as_str()
    }

    /// True if the kernel side's counters can be read with the current rights.
    pub fn counters_readable(&self) -> bool {
        self.loaded.counters_readable()
    }

    /// All losses so far, of the kernel side and of user space.
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

    /// Waits for the next records or for a head to time out, and handles some records.
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

/// Passes a result of the legacy tap to the join, like a record from the kernel.
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

/// The result of a session.
pub struct Finished<S> {
    pub summary: Summary,
    pub loss: Ledger,
    /// True if `--fail-on` matched.
    pub failed: bool,
    pub sink: S,
}

/// Waits until `deadline`, in ns since boot. Without one, waits for ever.
async fn until(deadline: Option<u64>) {
    match deadline {
        Some(deadline) => {
            let left = deadline.saturating_sub(Now::read().since_boot);
            tokio::time::sleep(Duration::from_nanos(left)).await;
        }
        None => std::future::pending().await,
    }
}
