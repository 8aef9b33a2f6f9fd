//! The kernel side's rare diagnostics: what its programs log, through `log` into `tracing`.

use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

use super::{load::Loaded, plan::Object};

/// The programs' log, if they have one.
pub struct Diagnostics(Option<AsyncFd<EbpfLogger<&'static dyn log::Log>>>);

impl Diagnostics {
    /// Must be called inside a tokio runtime. That a log cannot be read is no reason not to watch.
    pub fn of(loaded: &mut Loaded) -> Self {
        match loaded.object {
            Object::Modern => Self(open(loaded)),
            // It has none: a log needs a ring buffer.
            Object::Legacy => Self(None),
        }
    }

    /// Waits for messages and hands them on. Cancel safe.
    pub async fn forward(&mut self) {
        let Some(logger) = &mut self.0 else {
            return std::future::pending().await;
        };
        if let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }

    /// Hands on what is there, without waiting.
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
