//! Serves metrics to Prometheus over HTTP, and writes them to a file for node_exporter.

use std::{
    future::pending,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinHandle, time};

use super::{
    every,
    http::{Scrape, Server},
    textfile,
};
use crate::{config, sink::metrics::Scrapes};

/// Scrapes that wait for the loop.
const SCRAPES: usize = 8;
/// Retry interval for a port that is in use.
const LISTEN_AGAIN: Duration = Duration::from_secs(60);

/// A request for metrics.
pub(super) enum Wanted {
    Scrape(Scrape),
    Textfile(PathBuf),
}

/// The server and the file.
pub(super) struct Exposition {
    server: Option<Server>,
    /// When to retry a port that was in use.
    listen_again: Option<Instant>,
    scrapes: (mpsc::Sender<Scrape>, mpsc::Receiver<Scrape>),
    counts: Arc<Scrapes>,
    textfile: Option<(PathBuf, time::Interval)>,
    job: Option<JoinHandle<()>>,
    /// The path of the last textfile written.
    written: Option<PathBuf>,
    /// True if the log already says that the last write has not finished.
    hangs: bool,
}

impl Exposition {
    pub(super) fn new() -> Self {
        Self {
            server: None,
            listen_again: None,
            scrapes: mpsc::channel(SCRAPES),
            counts: Arc::default(),
            textfile: None,
            job: None,
            written: None,
            hangs: false,
        }
    }

    /// If the port is not available, only the metrics are missing; the service goes on.
    pub(super) fn listen(&mut self, listen: Option<SocketAddr>) {
        if self.server.as_ref().map(|server| server.address) == listen && listen.is_some() {
            return;
        }
        self.server = None;
        self.listen_again = None;
        let Some(address) = listen else { return };
        match Server::start(address, self.scrapes.0.clone(), Arc::clone(&self.counts)) {
            Ok(server) => {
                if !server.address.ip().is_loopback() {
                    tracing::warn!("metrics on {} are reachable from other hosts", server.address);
                }
                self.server = Some(server);
            }
            Err(error) => {
                tracing::warn!("cannot serve metrics on {address}, will retry: {error}");
                self.listen_again = Some(Instant::now() + LISTEN_AGAIN);
            }
        }
    }

    /// When [`Self::listen`] should be called again.
    pub(super) fn listen_again(&self) -> Option<Instant> {
        self.listen_again
    }

    /// Sets the textfile. The first write is due at once.
    pub(super) fn configure(&mut self, metrics: &config::Metrics) {
        let interval = metrics.textfile_interval;
        self.textfile = metrics.textfile.clone().map(|path| (path, every(interval)));
    }

    pub(super) fn counts(&self) -> &Scrapes {
        &self.counts
    }

    /// Waits until metrics are wanted. Cancel safe.
    pub(super) async fn wanted(&mut self) -> Wanted {
        let textfile = async {
            match &mut self.textfile {
                Some((path, interval)) => {
                    interval.tick().await;
                    path.clone()
                }
                None => pending().await,
            }
        };
        tokio::select! {
            Some(scrape) = self.scrapes.1.recv() => Wanted::Scrape(scrape),
            path = textfile => Wanted::Textfile(path),
        }
    }

    /// True if the last textfile is still being written. The caller must not start another write then.
    pub(super) fn is_writing(&mut self, path: &Path) -> bool {
        let writing = self.job.as_ref().is_some_and(|job| !job.is_finished());
        if writing && !self.hangs {
            tracing::warn!("cannot write {}: its file system does not respond", path.display());
        }
        self.hangs = writing;
        writing
    }

    /// Writes on another thread, because the disk may be slow.
    pub(super) fn write(&mut self, path: PathBuf, text: Vec<u8>) {
        let first = self.written.as_ref() != Some(&path);
        self.written = Some(path.clone());
        self.job = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = textfile::write(&path, &text, first) {
                tracing::warn!("cannot write {}: {error}", path.display());
            }
        }));
    }
}
