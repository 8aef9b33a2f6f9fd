//! The loop of every command that watches: next record -> decode -> join -> resolve -> sinks.

use std::{
    io,
    num::NonZeroU64,
    time::{Duration, SystemTime},
};

use aya_log::EbpfLogger;
use imds_analyzer_ebpf::abi::{OwnerHook, RecordKind, Request, program};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    decode::{self, Record},
    event::Event,
    host::clock::Now,
    join::{Host, Join},
    kernel::{
        features::Features,
        load::{self, Hook, Loaded},
        plan::{self, Impossible, Object, Plan, TapPlan, Wanted},
        stream::{Stream, Taken},
    },
    loss::{Kind, Ledger},
    process::{Resolver, ResolverSettings},
    secrets::ArgsMode,
    send::{Lineage, SendTap},
    settings::{Budget, FailOn, Filter},
    sink::{self, Notice, Sink, summary::Summary},
};

/// Records handled before heads that time out get a turn.
const BATCH: usize = 256;
/// Batches before signals and timers get a turn.
const BATCHES: usize = 16;
/// Batches handled at the end: more records than any buffer holds. A flood goes on after it, and is not seen then.
const BATCHES_AT_END: usize = 256;
/// Processes remembered: some 5 KiB each, with the chain.
const PROCESSES: usize = 2048;

/// What a session is to do with what it sees.
pub struct Options<S> {
    pub wanted: Wanted,
    pub args: ArgsMode,
    /// Ask the name service for users that `/etc/passwd` does not have.
    pub name_service: bool,
    pub filter: Filter,
    pub fail_on: FailOn,
    pub count: Option<NonZeroU64>,
    /// Write no requests, count them only.
    pub quiet: bool,
    /// How many requests of one user the kernel side reports.
    pub budget: Budget,
    pub sink: S,
}

/// Puts a budget into what the programs are loaded with, in us. The send tap has none: what it hands over is not yet a
/// request of anybody's.
fn set_budget(plan: &mut Plan, budget: Budget) {
    const SECOND: u32 = 1_000_000;
    for tap in &mut plan.taps {
        if let TapPlan::Wire { offsets, .. } = tap {
            offsets.budget_cost = SECOND.checked_div(budget.rate).map_or(0, |cost| cost.max(1));
            offsets.budget_depth = offsets.budget_cost.saturating_mul(budget.burst);
        }
    }
}

/// Why a session does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// By what was found before anything was tried.
    #[error(transparent)]
    Impossible(#[from] Impossible),
    /// By what the kernel said.
    #[error("{0:#}")]
    Refused(anyhow::Error),
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    On,
    /// The count is reached.
    Enough,
    /// Whoever read the output has closed it.
    Closed,
}

/// Hooks in the kernel, and what comes from them.
pub struct Session<S> {
    stream: Stream,
    /// There may be more to read without waiting.
    more: bool,
    loaded: Loaded,
    join: Join<Host>,
    send: SendTap,
    outlet: Outlet<S>,
    /// As of the last loss notice.
    reported_loss: Ledger,
    /// Records that did not get here, or could not be decoded.
    lost: Ledger,
    logger: Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>>,
}

/// The end of the pipeline.
struct Outlet<S> {
    filter: Filter,
    fail_on: FailOn,
    left: Option<u64>,
    quiet: bool,
    sink: S,
    summary: Summary,
    failed: bool,
}

impl<S: Sink> Outlet<S> {
    fn event(&mut self, event: &Event) -> io::Result<Flow> {
        if self.left == Some(0) {
            return Ok(Flow::Enough);
        }
        if !self.filter.matches(event) {
            return Ok(Flow::On);
        }
        self.summary.add(event);
        self.failed |= self.fail_on.matches(event);
        if !self.quiet {
            match self.sink.write(event) {
                Err(error) if sink::is_closed(&error) => return Ok(Flow::Closed),
                result => result?,
            }
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
            if *left == 0 {
                return Ok(Flow::Enough);
            }
        }
        Ok(Flow::On)
    }

    fn flush(&mut self) -> io::Result<Flow> {
        match self.sink.flush() {
            Err(error) if sink::is_closed(&error) => Ok(Flow::Closed),
            result => result.map(|()| Flow::On),
        }
    }
}

impl<S: Sink> Session<S> {
    /// Probes, plans, loads and attaches. Must be called inside a tokio runtime.
    pub fn start(options: Options<S>) -> Result<Self, StartError> {
        let features = Features::probe();
        let mut plan = plan::plan(&features, options.wanted)?;
        set_budget(&mut plan, options.budget);
        let mut loaded = load::load(&plan).map_err(StartError::Refused)?;
        let stream = Stream::new(loaded.take_buffers().map_err(StartError::Refused)?)?;
        let resolver = Resolver::new(ResolverSettings {
            args: options.args,
            name_service: options.name_service,
            capacity: PROCESSES,
        });
        let mut join = Join::new(Host::new(resolver));
        join.lookup_mut().find_older_sockets(Now::read());
        let mut outlet = Outlet {
            filter: options.filter,
            fail_on: options.fail_on,
            left: options.count.map(NonZeroU64::get),
            quiet: options.quiet,
            sink: options.sink,
            summary: Summary::new(),
            failed: false,
        };
        let hooks = notice_hooks(&loaded, &plan);
        let hooks: Vec<_> = hooks
            .iter()
            .map(|(name, attached, reason)| sink::Hook {
                name,
                attached: *attached,
                reason,
            })
            .collect();
        outlet.sink.notice(
            SystemTime::now(),
            &Notice::Start {
                kernel: &features.kernel,
                hooks: &hooks,
            },
        )?;
        outlet.sink.flush()?;
        let logger = match loaded.object {
            Object::Modern => logger(&mut loaded),
            // It has no diagnostics: they need a ring buffer.
            Object::Legacy | Object::LegacyWire => None,
        };
        let packets = loaded.object == Object::LegacyWire;
        Ok(Self {
            stream,
            more: false,
            send: SendTap::new(loaded.follows_processes.then(Lineage::of_this_host), packets),
            loaded,
            join,
            outlet,
            reported_loss: Ledger::default(),
            lost: Ledger::default(),
            logger,
        })
    }

    /// One line on what is in place, for the ready notice.
    pub fn describe(&self) -> String {
        let owner = self.loaded.owner.as_str();
        let tap = self.loaded.object.tap().as_str();
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

    /// Waits for the next records, or for a head to time out, and handles some of them. Cancel safe.
    pub async fn next(&mut self) -> io::Result<Flow> {
        let deadline = self.join.next_deadline();
        if self.more {
            // Signals and timers get their turn in a flood, too.
            tokio::task::yield_now().await;
        } else {
            tokio::select! {
                ready = self.stream.ready() => ready?,
                () = until(deadline) => {}
                () = kernel_messages(&mut self.logger) => {}
            }
            self.more = true;
        }
        for _ in 0..BATCHES {
            let flow = self.batch()?;
            if flow != Flow::On {
                return Ok(flow);
            }
            if !self.more {
                break;
            }
            // Sinks write while more is handled, before their queues are full.
            let flow = self.outlet.flush()?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        self.outlet.flush()
    }

    /// Handles all that is there, without waiting. Ends in a flood, too: what was there when it began has been handled then.
    pub fn drain(&mut self) -> io::Result<Flow> {
        for _ in 0..BATCHES_AT_END {
            let flow = self.batch()?;
            if flow != Flow::On {
                return Ok(flow);
            }
            if !self.more {
                break;
            }
            let flow = self.outlet.flush()?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        self.outlet.flush()
    }

    /// Handles one batch of what is there.
    fn batch(&mut self) -> io::Result<Flow> {
        let object = self.loaded.object;
        let Self {
            stream,
            join,
            send,
            outlet,
            lost,
            ..
        } = self;
        let mut outcome = Ok(Flow::On);
        let mut write = |event: Event| {
            if let Ok(Flow::On) = outcome {
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
                Ok(Record::Send(mut piece, data)) => {
                    send.take(&mut piece, data, &mut |kind, request: &_, capture: &_| {
                        judged(join, now, kind, request, capture, &mut write);
                    });
                }
                Ok(Record::Lineage(record)) => send.descends(&record),
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
        join.expire(now, &mut write);
        self.more = count == BATCH;
        match outcome {
            Ok(Flow::On) => Ok(Flow::On),
            other => {
                let flushed = self.outlet.flush()?;
                other.map(|flow| if flushed == Flow::Closed { flushed } else { flow })
            }
        }
    }

    /// Reports what is still unfinished and sums up. Returns the summary, what was lost, and whether `--fail-on`
    /// matched.
    pub fn finish(mut self) -> io::Result<Finished<S>> {
        let mut outcome = Ok(Flow::On);
        self.join.finish(Now::read(), &mut |event| {
            if let Ok(Flow::On) = outcome {
                outcome = self.outlet.event(&event);
            }
        });
        outcome?;
        if let Some(logger) = &mut self.logger {
            logger.get_mut().flush();
        }
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
        self.loaded.object.tap().as_str()
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

/// Name, whether attached, and why, of each hook.
fn notice_hooks(loaded: &Loaded, plan: &Plan) -> Vec<(&'static str, bool, String)> {
    let reason = |hook: &Hook| match &hook.error {
        Some(error) => error.clone(),
        None if hook.program == program::EGRESS => plan.reasons.first().cloned().unwrap_or_default(),
        None if load::is_sender(hook.program) => "the sender's own context".to_owned(),
        None => "used on every kernel that supports it".to_owned(),
    };
    loaded
        .hooks
        .iter()
        .map(|hook| (hook.program, hook.error.is_none(), reason(hook)))
        .collect()
}

/// The kernel side's rare diagnostics, through `log` into `tracing`.
fn logger(loaded: &mut Loaded) -> Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>> {
    let logger = match EbpfLogger::init(loaded.ebpf()) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!("cannot read diagnostics from the eBPF programs: {error}");
            return None;
        }
    };
    // SAFETY: the logger owns its ring buffer's descriptor and keeps it until it is dropped.
    match unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) } {
        Ok(logger) => Some(logger),
        Err(error) => {
            tracing::warn!("cannot read diagnostics from the eBPF programs: {error}");
            None
        }
    }
}

async fn kernel_messages(logger: &mut Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>>) {
    let Some(logger) = logger else {
        return std::future::pending().await;
    };
    if let Ok(mut guard) = logger.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}
