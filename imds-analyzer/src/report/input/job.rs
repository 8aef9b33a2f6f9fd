//! What a thread does at a time.

use std::{fs::File, path::PathBuf, sync::Arc};

use crate::logfile::Format;

pub(super) enum Job {
    Stdin,
    Memory(Box<[u8]>),
    /// A file, but for what it has in common with the beginning of any of `others`.
    Whole {
        path: PathBuf,
        file: File,
        format: Format,
        others: Vec<PathBuf>,
    },
    /// The lines that begin in a part of a file that is not compressed.
    Part {
        path: PathBuf,
        file: Arc<File>,
        number: usize,
        from: u64,
        until: u64,
    },
}

/// A problem and where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Located {
    pub(super) path: PathBuf,
    pub(super) part: usize,
    /// The line, from 1, of the part.
    pub(super) line: Option<u64>,
    pub(super) why: String,
}
