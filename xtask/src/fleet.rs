//! `cargo xtask fleet`: the logs of a fleet that does not exist, and the truth about it.
//!
//! ```text
//! DIR/logs/HOST/events.jsonl           the newest records of a host
//! DIR/logs/HOST/events.jsonl.000001    the oldest; with --gzip, all but the newest end in .gz
//! DIR/truth.json                       verdicts and counts, added up while the records were written
//! ```
//!
//! The truth shares no code with the report. The same plan gives the same bytes.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::json;

mod callers;
mod clock;
mod files;
mod history;
mod host;
mod lines;
mod random;
mod template;
mod truth;

/// What to generate.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub hosts: usize,
    pub days: u64,
    /// Requests of each host and day, about.
    pub per_day: u64,
    pub seed: u64,
    /// Compress rotated files.
    pub gzip: bool,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    pub logs: PathBuf,
    pub truth: PathBuf,
    pub records: u64,
    /// Before compression.
    pub bytes: u64,
}

/// Writes the logs of a fleet and the truth below `directory`, which must not have either yet.
///
/// # Errors
///
/// If the plan is empty, or a file cannot be written.
pub fn generate(plan: Plan, directory: &Path) -> Result<Written> {
    ensure!(
        plan.hosts > 0 && plan.days > 0,
        "a fleet has at least one host and one day"
    );
    let logs = directory.join("logs");
    let truth = directory.join("truth.json");
    ensure!(
        !logs.exists(),
        "{} exists: remove it, or choose another directory",
        logs.display()
    );
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;

    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, truth::Host)>> {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= plan.hosts {
                return Ok(done);
            }
            done.push((index, history::write(plan, index, &logs)?));
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from).min(plan.hosts);
    let mut hosts = thread::scope(|scope| -> Result<Vec<(usize, truth::Host)>> {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut hosts = Vec::new();
        for worker in workers {
            hosts.extend(worker.join().map_err(|_| anyhow!("a thread panicked"))??);
        }
        Ok(hosts)
    })?;
    hosts.sort_by_key(|(index, _)| *index);

    let records = hosts.iter().map(|(_, host)| host.records).sum();
    let bytes = hosts.iter().map(|(_, host)| host.bytes).sum();
    let text = json!({
        "plan": {"hosts": plan.hosts, "days": plan.days, "per_day": plan.per_day, "seed": plan.seed},
        "records": records,
        "bytes": bytes,
        "hosts": hosts.iter().map(|(_, host)| host.json()).collect::<Vec<_>>(),
    });
    fs::write(&truth, serde_json::to_vec(&text)?).with_context(|| format!("cannot write {}", truth.display()))?;
    Ok(Written {
        logs,
        truth,
        records,
        bytes,
    })
}
