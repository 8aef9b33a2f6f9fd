//! Prometheus metrics. They count every request, including those left out of the log, and contain no arguments.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

#[cfg(test)]
use prometheus::core::Desc;
use prometheus::{Encoder as _, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, TextEncoder};

use self::register::Register;
use super::queue::Stats;
use crate::{
    event::{Answer, Attempt, Event, Reply},
    identity::Identity,
    loss::Ledger,
    notice::First,
    sanitize,
};

mod own;
mod register;

/// Content type of the text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;
/// Label for callers and users that do not fit.
const OTHER: &str = "other";
/// Prefix of our names.
const OURS: &str = "imds_analyzer_";
/// Maximum length of a caller's name, in bytes.
const CALLER_MAX: usize = 200;

/// All counters.
pub struct Metrics {
    register: Register,
    requests: IntCounterVec,
    callers: IntCounterVec,
    answers: IntCounterVec,
    attempts: IntCounterVec,
    relayed: IntCounterVec,
    first_seen: IntCounterVec,
    unwritten: IntCounterVec,
    lost: IntCounterVec,
    sink_records: IntCounterVec,
    sink_lost: IntCounterVec,
    sink_failing: IntGaugeVec,
    hooks: IntGaugeVec,
    capture: IntGaugeVec,
    scrapes: IntCounterVec,
    scrapes_delayed: IntCounter,
    reload_good: IntGauge,
    ready: IntGaugeVec,
    own: own::Own,
    known: HashMap<u32, HashSet<String>>,
    known_len: usize,
    callers_max: usize,
}

/// Outcomes of connections to the metrics port.
#[derive(Debug, Default)]
pub struct Scrapes {
    pub answered: AtomicU64,
    /// The request was for something else, or not HTTP.
    pub refused: AtomicU64,
    /// The client was too slow to send or to read.
    pub timed_out: AtomicU64,
    /// The client closed the connection early.
    pub failed: AtomicU64,
    /// Connections that had to wait because there were too many in a second; also counted above.
    pub delayed: AtomicU64,
}

impl Scrapes {
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn by_outcome(&self) -> [(&'static str, u64); 4] {
        [
            ("answered", &self.answered),
            ("refused", &self.refused),
            ("timed-out", &self.timed_out),
            ("failed", &self.failed),
        ]
        .map(|(outcome, counter)| (outcome, counter.load(Ordering::Relaxed)))
    }
}

/// Reader of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    Prometheus,
    /// node_exporter, which rejects `process_*` from others because it exports its own.
    NodeExporter,
}

/// Counts that are kept elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    pub loss: &'a Ledger,
    pub sinks: &'a BTreeMap<&'static str, Stats>,
    /// Programs, with true for attached ones.
    pub hooks: &'a [(&'static str, bool)],
    /// The tap.
    pub tap: &'a str,
    /// The hook that identifies owners.
    pub owner: &'a str,
    pub scrapes: &'a Scrapes,
}

/// Reason why a request is not in the log.
#[derive(Clone, Copy, Debug)]
pub enum Unwritten {
    RateLimited,
    Ignored,
}

impl Metrics {
    /// `callers_max`: number of callers with their own counters. At most half of them can belong to one user.
    pub fn new(callers_max: usize, host: &Identity) -> prometheus::Result<Self> {
        let mut register = Register::default();
        let build = register.gauges(
            "imds_analyzer_build_info",
            "Always 1; the label is the version.",
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let cloud = &host.cloud;
        let labels = [
            ("provider", &cloud.provider),
            ("account_id", &cloud.account_id),
            ("region", &cloud.region),
            ("availability_zone", &cloud.availability_zone),
            ("instance_id", &cloud.instance_id),
            ("machine_type", &cloud.machine_type),
            ("image_id", &cloud.image_id),
        ];
        let info = register.gauges(
            "imds_analyzer_host_info",
            "Always 1; the labels say which instance this is, as far as files of the host name it.",
            &labels.map(|(name, _)| name),
        )?;
        let values = labels.map(|(_, value)| value.as_deref().unwrap_or_default());
        info.with_label_values(&values).set(1);
        let reload_good = register.add(IntGauge::new(
            "imds_analyzer_config_last_reload_successful",
            "0 while the configuration file has an error and an older configuration is in use.",
        )?)?;
        reload_good.set(1);
        let ready = register.gauges(
            "imds_analyzer_ready",
            "1 if tokens can be required on this host, by its log; the label is the verdict: ready, not-ready or unproven. Absent without a log.",
            &["verdict"],
        )?;
        Ok(Self {
            requests: register.counters(
                "imds_analyzer_requests_total",
                "Requests to the metadata service. local=\"true\": to an address of this host, such as a proxy or a mock.",
                &["version", "verdict", "path_class", "local"],
            )?,
            callers: register.counters(
                "imds_analyzer_caller_requests_total",
                "Requests by caller: at most metrics.max_callers callers, at most half of them of one user. Others are counted as caller=\"other\".",
                &["caller", "uid", "version", "local"],
            )?,
            answers: register.counters(
                "imds_analyzer_answers_total",
                "What came back of requests: a status code (rare ones as 2xx to 5xx or other), none, or unseen if that cannot be told.",
                &["version", "status", "local"],
            )?,
            attempts: register.counters(
                "imds_analyzer_attempts_total",
                "Connections to the metadata service that ended without a request: refused, unreachable, timeout or closed.",
                &["outcome"],
            )?,
            relayed: register.counters(
                "imds_analyzer_relayed_requests_total",
                "Requests by rootless network helpers that repeat a container's request. The other metrics count only the container's.",
                &["version"],
            )?,
            first_seen: register.counters(
                "imds_analyzer_first_seen_total",
                "Callers that made their first v1 or credential request.",
                &["kind"],
            )?,
            unwritten: register.counters(
                "imds_analyzer_requests_unwritten_total",
                "Requests that are counted but not written in full: rate-limit (counted in rate-limited records) or ignore-list.",
                &["reason"],
            )?,
            lost: register.counters(
                "imds_analyzer_lost_total",
                "Records and details lost between the kernel and the sinks, by kind.",
                &["kind"],
            )?,
            sink_records: register.counters(
                "imds_analyzer_sink_records_total",
                "Records written to a sink: log, journald or stdout.",
                &["sink"],
            )?,
            sink_lost: register.counters(
                "imds_analyzer_sink_lost_total",
                "Records that did not fit into a sink's queue.",
                &["sink"],
            )?,
            sink_failing: register.gauges(
                "imds_analyzer_sink_failing",
                "1 if the last write to a sink failed.",
                &["sink"],
            )?,
            hooks: register.gauges(
                "imds_analyzer_hook_attached",
                "1 if an eBPF program is attached. One of the sender hooks (imds_fentry, imds_tp_btf, imds_kprobe) is enough.",
                &["program"],
            )?,
            capture: register.gauges(
                "imds_analyzer_capture_info",
                "Always 1; the labels are the tap and the hook that identifies the sender.",
                &["tap", "owner"],
            )?,
            scrapes: register.counters(
                "imds_analyzer_scrapes_total",
                "Connections to the metrics port: answered, refused (another request, or not HTTP), timed-out or failed (closed early).",
                &["outcome"],
            )?,
            scrapes_delayed: register.add(IntCounter::new(
                "imds_analyzer_scrapes_delayed_total",
                "Connections to the metrics port that had to wait because there were too many in a second.",
            )?)?,
            reload_good,
            ready,
            own: own::Own::new(&mut register)?,
            register,
            known: HashMap::new(),
            known_len: 0,
            callers_max,
        })
    }

    /// Name, help and labels of each metric, in the order of registration.
    #[cfg(test)]
    pub(crate) fn described(&self) -> &[Desc] {
        &self.register.described
    }

    pub fn set_callers_max(&mut self, callers_max: usize) {
        self.callers_max = callers_max;
    }

    /// Sets this host's verdict: its word, and true if it is ready. `None` if it cannot be told.
    pub fn set_verdict(&self, verdict: Option<(&str, bool)>) {
        self.ready.reset();
        if let Some((word, is_ready)) = verdict {
            self.ready.with_label_values(&[word]).set(is_ready.into());
        }
    }

    /// Counts a request.
    pub fn count(&mut self, event: &Event) {
        let version = event.verdict.version().as_str();
        if event.relay {
            self.relayed.with_label_values(&[version]).inc();
            return;
        }
        let local = if event.local { "true" } else { "false" };
        self.requests
            .with_label_values(&[version, event.verdict.as_str(), event.path_class.as_str(), local])
            .inc();
        self.answers
            .with_label_values(&[version, &status(event.answer), local])
            .inc();
        let uid = event.process.as_ref().and_then(|process| process.user.id);
        // The text may be read on a terminal.
        let caller = sanitize::bounded(sanitize::escape(event.caller()).into_owned(), CALLER_MAX);
        if self.has_room(uid.unwrap_or(u32::MAX), &caller) {
            let uid = uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
            self.callers
                .with_label_values(&[caller.as_str(), uid.as_str(), version, local])
                .inc();
        } else {
            self.callers.with_label_values(&[OTHER, OTHER, version, local]).inc();
        }
    }

    fn has_room(&mut self, uid: u32, caller: &str) -> bool {
        let of_user = self.known.get(&uid);
        if of_user.is_some_and(|callers| callers.contains(caller)) {
            return true;
        }
        let share = self.callers_max.div_ceil(2);
        if self.known_len >= self.callers_max || of_user.map_or(0, HashSet::len) >= share {
            return false;
        }
        self.known_len += 1;
        self.known.entry(uid).or_default().insert(caller.to_owned())
    }

    pub fn count_attempt(&self, attempt: &Attempt) {
        self.attempts.with_label_values(&[attempt.outcome.as_str()]).inc();
    }

    pub fn count_first_seen(&self, first: First) {
        for (kind, is) in [("v1", first.v1), ("credential", first.credential)] {
            if is {
                self.first_seen.with_label_values(&[kind]).inc();
            }
        }
    }

    pub fn count_unwritten(&self, reason: Unwritten) {
        let reason = match reason {
            Unwritten::RateLimited => "rate-limit",
            Unwritten::Ignored => "ignore-list",
        };
        self.unwritten.with_label_values(&[reason]).inc();
    }

    pub fn set_reload_good(&self, good: bool) {
        self.reload_good.set(good.into());
    }

    /// The text for `reader`.
    ///
    /// # Errors
    ///
    /// If the counters cannot be written as text.
    pub fn render(&self, snapshot: Snapshot<'_>, reader: Reader) -> prometheus::Result<Vec<u8>> {
        for (kind, count) in snapshot.loss.iter() {
            set(&self.lost.with_label_values(&[kind.name()]), count);
        }
        for (sink, stats) in snapshot.sinks {
            set(&self.sink_records.with_label_values(&[sink]), stats.written);
            set(&self.sink_lost.with_label_values(&[sink]), stats.lost);
            self.sink_failing.with_label_values(&[sink]).set(stats.failing.into());
        }
        for (program, attached) in snapshot.hooks {
            self.hooks.with_label_values(&[program]).set((*attached).into());
        }
        self.capture.reset();
        self.capture.with_label_values(&[snapshot.tap, snapshot.owner]).set(1);
        for (outcome, count) in snapshot.scrapes.by_outcome() {
            set(&self.scrapes.with_label_values(&[outcome]), count);
        }
        set(&self.scrapes_delayed, snapshot.scrapes.delayed.load(Ordering::Relaxed));
        self.own.update();
        let mut families = self.register.registry.gather();
        if reader == Reader::NodeExporter {
            families.retain(|family| family.name().starts_with(OURS));
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(text)
    }
}

/// The label for an answer. Uncommon statuses share a label, because a server may send any number.
fn status(answer: Answer) -> Cow<'static, str> {
    const COMMON: [u16; 10] = [200, 400, 401, 403, 404, 405, 429, 500, 502, 503];
    match answer {
        Answer::Answered(Reply { status, .. }) if COMMON.contains(&status) => Cow::Owned(status.to_string()),
        Answer::Answered(Reply { status, .. }) => Cow::Borrowed(match status / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            5 => "5xx",
            _ => OTHER,
        }),
        Answer::None | Answer::Unseen => Cow::Borrowed(answer.word().as_str()),
    }
}

/// Sets a counter to a value that is counted elsewhere.
fn set(counter: &IntCounter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

/// Seconds since 1970.
fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

#[cfg(test)]
mod tests;
