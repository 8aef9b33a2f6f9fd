//! The sinks of the daemon. Each has its own queue and thread, so that a sink that hangs or fails stops no other.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::fs::{Gid, fstat};

use super::{
    Sink, Style,
    file::{FileWriter, Head, Last},
    journald::{self, JournaldWriter},
    json, plain,
    queue::{Line, LineWriter, Stats, Worker},
    stream::StdoutWriter,
    text,
};
use crate::{
    choice::StdoutFormat,
    config::Config,
    event::Event,
    identity::Identity,
    loss::{self, Ledger},
    notice::{Hook, Notice, Run},
    record::{Level, Record},
};

/// Time for a closed sink to write its queue.
const CLOSE: Duration = Duration::from_secs(5);

/// Passes every record to every sink.
pub struct Fanout {
    host: Arc<Identity>,
    /// Group that may read the log file.
    group: Option<Gid>,
    stdout_is_journal: bool,
    /// State of the log file, passed on from writer to writer.
    last_file: Last,
    /// The start record, repeated at the head of each file and for sinks that are added later.
    start: Arc<Start>,
    outlets: Vec<Outlet>,
    /// Sinks that are closed but still writing their queue.
    closing: Vec<Outlet>,
    /// Statistics of sinks that have ended.
    past: BTreeMap<Kind, Stats>,
}

struct Outlet {
    kind: Kind,
    worker: Worker,
}

/// Kinds of sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Log,
    Journald,
    Text,
    Json,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Journald => "journald",
            Self::Text | Self::Json => "stdout",
        }
    }

    /// The kinds of loss of [`Stats::lost_requests`] and [`Stats::lost_notices`].
    const fn losses(self) -> [loss::Kind; 2] {
        match self {
            Self::Log => [loss::Kind::LogRequestsLost, loss::Kind::LogNoticesLost],
            Self::Journald => [loss::Kind::JournaldRequestsLost, loss::Kind::JournaldNoticesLost],
            Self::Text | Self::Json => [loss::Kind::StdoutRequestsLost, loss::Kind::StdoutNoticesLost],
        }
    }
}

/// An owned [`Notice::Start`].
#[derive(Default)]
struct Start {
    kernel: String,
    hooks: Vec<(String, bool, String)>,
    run: Run,
}

impl Start {
    fn with<T>(&self, take: impl FnOnce(&Notice<'_>) -> T) -> T {
        let hooks: Vec<_> = self
            .hooks
            .iter()
            .map(|(name, attached, reason)| Hook {
                name,
                attached: *attached,
                reason,
            })
            .collect();
        take(&Notice::Start {
            kernel: &self.kernel,
            hooks: &hooks,
            run: &self.run,
        })
    }
}

impl Fanout {
    /// Starts without sinks. [`Self::configure`] adds them once the start record is known.
    pub fn new(host: Identity, group: Option<Gid>) -> Self {
        Self {
            host: Arc::new(host),
            group,
            stdout_is_journal: stdout_is_journal(),
            last_file: Last::default(),
            start: Arc::default(),
            outlets: Vec::new(),
            closing: Vec::new(),
            past: BTreeMap::new(),
        }
    }

    /// Changes the sinks to those of `config` and reopens all of them. Queued records stay queued.
    ///
    /// # Errors
    ///
    /// If a sink's thread cannot start. The other sinks are in place.
    pub fn configure(&mut self, config: &Config) -> io::Result<()> {
        let wanted = [
            (Kind::Log, config.log.enabled),
            (Kind::Journald, config.journald.enabled),
            (Kind::Text, config.stdout.format == StdoutFormat::Text),
            (Kind::Json, config.stdout.format == StdoutFormat::Json),
        ];
        let mut result = Ok(());
        for (kind, wanted) in wanted {
            let at = self.outlets.iter().position(|outlet| outlet.kind == kind);
            match (wanted, at) {
                (true, Some(at)) => {
                    let writer = self.writer(kind, config, false);
                    if let Some(outlet) = self.outlets.get(at) {
                        outlet.worker.replace(writer);
                    }
                }
                (true, None) => match Worker::start(kind.name(), self.writer(kind, config, true)) {
                    Ok(worker) => self.add(Outlet { kind, worker })?,
                    Err(error) => result = Err(error),
                },
                (false, Some(at)) => {
                    let outlet = self.outlets.remove(at);
                    outlet.worker.close(CLOSE);
                    self.closing.push(outlet);
                }
                (false, None) => {}
            }
        }
        result
    }

    fn writer(&self, kind: Kind, config: &Config, first: bool) -> Box<dyn LineWriter> {
        match kind {
            Kind::Log => {
                let (start, host) = (Arc::clone(&self.start), Arc::clone(&self.host));
                let head: Head =
                    Arc::new(move |time| start.with(|notice| json::line(&Record::of_notice(time, notice, &host))));
                let last = self.last_file.clone();
                Box::new(FileWriter::new(config.log.clone(), head, first, self.group, last))
            }
            Kind::Journald => Box::new(JournaldWriter::new(config.journald.socket.clone())),
            Kind::Text | Kind::Json => Box::new(StdoutWriter::new()),
        }
    }

    fn add(&mut self, outlet: Outlet) -> io::Result<()> {
        // The log file already begins with the start record.
        if outlet.kind != Kind::Log {
            let line = self
                .start
                .with(|notice| self.notice_line(outlet.kind, SystemTime::now(), notice))?;
            outlet.worker.push(line);
            outlet.worker.wake();
        }
        self.outlets.push(outlet);
        Ok(())
    }

    /// `record` is the line in the log.
    fn event_line(&self, kind: Kind, event: &Event, record: &[u8]) -> Line {
        let bytes = match kind {
            Kind::Log | Kind::Json => record.to_vec(),
            Kind::Journald => journald::event_entry(event, record),
            Kind::Text => {
                let style = Style {
                    color: false,
                    width: None,
                    verbose: false,
                };
                let prefix = self.prefix(Level::of_request(event));
                format!("{prefix}{}\n", text::line(event, style)).into_bytes()
            }
        };
        Line { bytes, requests: 1 }
    }

    fn notice_line(&self, kind: Kind, time: SystemTime, notice: &Notice<'_>) -> io::Result<Line> {
        let bytes = match kind {
            Kind::Log | Kind::Json => json::line(&Record::of_notice(time, notice, &self.host))?,
            Kind::Journald => {
                journald::notice_entry(notice, &json::line(&Record::of_notice(time, notice, &self.host))?)
            }
            Kind::Text => {
                let prefix = self.prefix(Level::of_notice(notice));
                format!("{prefix}{}\n", plain::describe(notice)).into_bytes()
            }
        };
        let requests = match notice {
            Notice::RateLimited(folded) => folded.counts.sum(),
            _ => 0,
        };
        Ok(Line { bytes, requests })
    }

    /// The prefix that systemd removes from a line of text and uses as the level: sd-daemon(3).
    fn prefix(&self, level: Level) -> String {
        if self.stdout_is_journal {
            format!("<{}>", level.syslog())
        } else {
            String::new()
        }
    }

    /// Statistics of each sink, including closed ones.
    pub fn stats(&self) -> BTreeMap<&'static str, Stats> {
        let mut all = BTreeMap::new();
        for (kind, stats) in self.by_kind() {
            add(all.entry(kind.name()).or_default(), stats);
        }
        all
    }

    fn by_kind(&self) -> BTreeMap<Kind, Stats> {
        let mut all = self.past.clone();
        for outlet in self.outlets.iter().chain(&self.closing) {
            add(all.entry(outlet.kind).or_default(), outlet.worker.stats());
        }
        all
    }

    /// Writes the queues, within the time limit, and ends all threads.
    pub fn close(&mut self) {
        for outlet in self.outlets.drain(..) {
            outlet.worker.close(CLOSE);
            self.closing.push(outlet);
        }
        for outlet in self.closing.drain(..) {
            outlet.worker.join();
            add(self.past.entry(outlet.kind).or_default(), outlet.worker.stats());
        }
    }

    /// Drops sinks that have ended, but keeps their counts.
    fn bury(&mut self) {
        let past = &mut self.past;
        self.closing.retain(|outlet| {
            let finished = outlet.worker.is_finished();
            if finished {
                add(past.entry(outlet.kind).or_default(), outlet.worker.stats());
            }
            !finished
        });
    }
}

/// systemd names the file that it connected to the journal: systemd.exec(5). Other processes inherit the variable too,
/// so the file is compared.
fn stdout_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    fstat(io::stdout()).is_ok_and(|stdout| stream == format!("{}:{}", stdout.st_dev, stdout.st_ino))
}

fn add(to: &mut Stats, stats: Stats) {
    to.written += stats.written;
    to.lost += stats.lost;
    to.lost_requests += stats.lost_requests;
    to.lost_notices += stats.lost_notices;
    to.torn += stats.torn;
    to.failing |= stats.failing;
}

impl Sink for Fanout {
    fn write(&mut self, event: &Event) -> io::Result<()> {
        // Most sinks need it, and each the same.
        let record = json::line(&Record::of_request(event, &self.host))?;
        for outlet in &self.outlets {
            outlet.worker.push(self.event_line(outlet.kind, event, &record));
        }
        Ok(())
    }

    fn notice(&mut self, time: SystemTime, notice: &Notice<'_>) -> io::Result<()> {
        if let Notice::Start { kernel, hooks, run } = notice {
            self.start = Arc::new(Start {
                kernel: (*kernel).to_owned(),
                hooks: hooks
                    .iter()
                    .map(|hook| (hook.name.to_owned(), hook.attached, hook.reason.to_owned()))
                    .collect(),
                run: (*run).clone(),
            });
        }
        for outlet in &self.outlets {
            outlet.worker.push(self.notice_line(outlet.kind, time, notice)?);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.outlets.iter().for_each(|outlet| outlet.worker.wake());
        if !self.closing.is_empty() {
            self.bury();
        }
        Ok(())
    }

    fn loss(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for (kind, stats) in self.by_kind() {
            let [requests, notices] = kind.losses();
            ledger.add(requests, stats.lost_requests);
            ledger.add(notices, stats.lost_notices);
            // Only the log keeps incomplete lines after a crash.
            ledger.add(loss::Kind::LogTornLines, stats.torn);
        }
        ledger
    }
}
