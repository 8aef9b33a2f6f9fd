//! Resources used by this process, under the names that Prometheus's libraries use.

use std::time::{Duration, SystemTime};

use prometheus::{Counter, Gauge};

use super::{register::Register, unix_seconds};
use crate::host::{clock, proc::Directory};

pub(super) struct Own {
    cpu: Counter,
    memory: Gauge,
    files: Gauge,
}

impl Own {
    pub(super) fn new(register: &mut Register) -> prometheus::Result<Self> {
        let mut gauge = |name: &str, help: &str| register.add(Gauge::new(name, help)?);
        let start = gauge(
            "process_start_time_seconds",
            "Start time of the process in seconds since 1970.",
        )?;
        start.set(unix_seconds(SystemTime::now()));
        Ok(Self {
            memory: gauge("process_resident_memory_bytes", "Resident memory in bytes.")?,
            files: gauge("process_open_fds", "Open file descriptors.")?,
            cpu: register.add(Counter::new(
                "process_cpu_seconds_total",
                "CPU time in seconds, user and system.",
            )?)?,
        })
    }

    /// Updates the values. A value that cannot be read keeps its last reading.
    pub(super) fn update(&self) {
        let found = Directory::own().and_then(|own| Ok((own.stat()?, own.numbers("fd")?.count())));
        match found {
            Ok((stat, files)) => {
                let cpu = Duration::from_nanos(clock::from_ticks(stat.cpu)).as_secs_f64();
                self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
                self.memory
                    .set(stat.resident as f64 * rustix::param::page_size() as f64);
                self.files.set(files as f64);
            }
            Err(error) => tracing::debug!("/proc/self: {error}"),
        }
    }
}
