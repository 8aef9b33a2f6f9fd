//! The kernel side's rare diagnostics: forwards the programs' log messages through `log` to `tracing`.

use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

use super::{load::Loaded, plan::Object};

/// The log of the programs, if they have one.
pub struct Diagnostics(Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>>);

impl Diagnostics {
    /// Must be called inside a tokio runtime. An unreadable log is not an error: the tap works without it.
    pub fn of(loaded: &mut Loaded) -> Self {
        match loaded.object {
            Object::Modern => Self(open(loaded)),
            // The legacy object has no log, which needs a ring buffer.
            Object::Legacy => Self(None),
        }
    }

    /// Waits for messages and forwards them. Cancel safe.
    pub async fn forward(&mut self) {
        let Some(logger) = &mut self.0 else {
            return std::future::pending().await;
        };
        if let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }

    /// Forwards the messages that have arrived, without waiting.
    pub fn flush(&mut self) {
        if let Some(logger) = &mut self.0 {
            logger.get_mut().flush();
        }
    }
}

fn open(loaded: &mut Loaded) -> Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>> {
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
