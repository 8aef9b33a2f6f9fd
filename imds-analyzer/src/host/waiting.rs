//! Waits for descriptors.

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::{Interest, unix::AsyncFd};

/// `descriptor`, to wait until it can be read. Must be called inside a tokio runtime.
pub(crate) fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays open, and the same file, for as long as it lives.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(Into::into)
}

/// Tells when something in one of several directories has changed.
#[derive(Debug)]
pub(crate) struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    /// Watches no directory yet. Must be called inside a tokio runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self(readable(watch)?))
    }

    /// Watches a directory from now on. Does nothing if it is watched already.
    pub(crate) fn add(&self, directory: &Path, what: WatchFlags) -> io::Result<()> {
        inotify::add_watch(self.0.get_ref(), directory, what | WatchFlags::ONLYDIR)?;
        Ok(())
    }

    /// Cancel safe.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut events = [0; 4096];
        // What they say does not matter.
        while let Ok(result) = ready.try_io(|watch| Ok(rustix::io::read(watch.get_ref(), &mut events)?)) {
            result?;
        }
        Ok(())
    }
}
