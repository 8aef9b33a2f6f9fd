//! Which file was written last, to tell when another is in its place.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Handed on from writer to writer: a configuration that is read again comes with a new one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Last(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    known: Option<Known>,
    /// That the file is emptied by others was said: a reader may do so all the time.
    emptying_said: bool,
}

#[derive(Debug)]
pub(super) struct Known {
    pub(super) path: PathBuf,
    pub(super) device: u64,
    pub(super) inode: u64,
    /// Bytes in it at least.
    pub(super) size: u64,
}

/// What others did to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Another file system is where the file was.
    Mounted,
    /// No file was there any more.
    Gone,
    Replaced,
    Cut {
        say: bool,
    },
}

impl Last {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, known: Known) {
        self.lock().known = Some(known);
    }

    /// The writer itself moved the file away.
    pub(super) fn forget(&self) {
        self.lock().known = None;
    }

    /// What has happened since [`Self::set`], where the file now at `path` is `found`.
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
    /// To whoever reads the service's own messages.
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
