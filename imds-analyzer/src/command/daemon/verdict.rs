//! This host's own verdict, `verdict.json` in the runtime directory: what `report --format json` says of the daemon's own
//! log. So a fleet can be asked without shipping a log.

use std::{
    future::pending,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::textfile;
use crate::{
    config::Config,
    logfile,
    report::{
        build::{self, Question},
        cloudwatch::Metrics,
        input::{self, Progress, Source},
        verdict::Verdict,
    },
};

/// How often the verdict is renewed without a reason: time alone can make it better.
const PERIOD: Duration = Duration::from_secs(60 * 60);
/// How long after the start, or after something that can change it. Until then records have reached the log.
const SOON: Duration = Duration::from_secs(5);

pub(super) struct OwnVerdict {
    due: Instant,
    /// There was a call that keeps this host from being ready.
    has_against: bool,
    job: Option<JoinHandle<io::Result<Verdict>>>,
    is_first: bool,
}

impl OwnVerdict {
    pub(super) fn new() -> Self {
        Self {
            due: Instant::now() + SOON,
            has_against: false,
            job: None,
            is_first: true,
        }
    }

    /// When [`Self::renew`] is due; `None` while it is at work.
    pub(super) fn due(&self) -> Option<Instant> {
        self.job.is_none().then_some(self.due)
    }

    /// So many calls keep this host from being ready by now. The first of them changes the verdict.
    pub(super) fn noted(&mut self, against: u64) {
        if against > 0 && !self.has_against {
            self.has_against = true;
            self.due = self.due.min(Instant::now() + SOON);
        }
    }

    /// Reads the log on another thread: the disk may be slow.
    pub(super) fn renew(&mut self, config: &Config) {
        self.due = Instant::now() + PERIOD;
        if !config.log.enabled || self.job.is_some() {
            return;
        }
        let (log, path) = (config.log.path.clone(), path(config));
        let is_first = std::mem::replace(&mut self.is_first, false);
        self.job = Some(tokio::task::spawn_blocking(move || write(&log, &path, is_first)));
    }

    /// Waits for the verdict; `None` if it could not be told, which the log then says. Cancel safe.
    pub(super) async fn renewed(&mut self) -> Option<Verdict> {
        let Some(job) = &mut self.job else {
            return pending().await;
        };
        let result = job.await;
        self.job = None;
        match result.map_err(io::Error::other).flatten() {
            Ok(verdict) => Some(verdict),
            Err(error) => {
                tracing::warn!("cannot renew verdict.json: {error}");
                None
            }
        }
    }
}

fn write(log: &Path, path: &Path, is_first: bool) -> io::Result<Verdict> {
    let files = logfile::files(log)?;
    let sources: Vec<Source> = files.into_iter().map(|file| Source::Path(file.path)).collect();
    let question = Question::default();
    let (fold, input) = input::read(&sources, &question.filter, 1, &Progress::default());
    let report = build::build(fold, input, &Metrics::default(), &question);
    let mut text = serde_json::to_vec(&report)?;
    text.push(b'\n');
    textfile::write(path, &text, is_first)?;
    Ok(report.verdict.known().unwrap_or(Verdict::Unproven))
}

/// The file.
pub(super) fn path(config: &Config) -> PathBuf {
    config.runtime_dir.join("verdict.json")
}
