//! Remembers the file that was written last, to notice when it is replaced.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Passed on from writer to writer, because a reload creates a new writer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Last(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    known: Option<Known>,
    /// Truncation by others was logged. It is logged once, because a reader may do it regularly.
    emptying_said: bool,
}

#[derive(Debug)]
pub(super) struct Known {
    pub(super) path: PathBuf,
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Minimum size of the file.
    pub(super) size: u64,
}

/// A change that others made to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Another file system is mounted at the path.
    Mounted,
    /// The file was gone.
    Gone,
    Replaced,
    Cut {
        say: bool,
    },
}

impl Last {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, known: Known) {
        self.lock().known = Some(known);
    }

    /// Forgets the file, because the writer itself moved it.
    pub(super) fn forget(&self) {
        self.lock().known = None;
    }

    /// The change since [`Self::set`], given that the file at `path` is now `found`.
    pub(super) fn change(&self, path: &Path, found: &fs::Metadata, made: bool) -> Option<Change> {
        let state = &mut *self.lock();
        let known = state.known.as_ref().filter(|known| known.path == path)?;
        if known.device != found.dev() {
            Some(Change::Mounted)
        } else if made {
            Some(Change::Gone)
        } else if known.inode != found.ino() {
            Some(Change::Replaced)
        } else if found.len() < known.size {
            let say = !std::mem::replace(&mut state.emptying_said, true);
            Some(Change::Cut { say })
        } else {
            None
        }
    }
}

impl Change {
    /// Logs the change.
    pub(super) fn say(self, path: &Path) {
        let path = path.display();
        match self {
            Self::Mounted => tracing::warn!(
                "log: a file system was mounted or unmounted at {path}, which hides the earlier records; continuing in the file \
                 that is there now"
            ),
            Self::Gone => tracing::warn!("log: {path} was removed or moved; continuing in a new file"),
            Self::Replaced => tracing::warn!("log: {path} was replaced by another file; continuing in that file"),
            Self::Cut { say: true } => {
                tracing::warn!("log: another program truncated {path}; continuing in it (reported once)")
            }
            Self::Cut { say: false } => tracing::debug!("log: another program truncated {path} again"),
        }
    }
}
