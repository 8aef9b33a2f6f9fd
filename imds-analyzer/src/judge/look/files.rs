//! Reads small parts of the file system as a process sees it.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, openat};

/// Limits of one look: names in directories and bytes of files.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) names: usize,
    pub(super) bytes: u64,
}

const LIMITS: Limits = Limits {
    names: 16 << 10,
    bytes: 1 << 20,
};

/// Maximum time of one look.
const TIME_MAX: Duration = Duration::from_millis(500);

/// Owner and rights of a file.
pub(super) struct Access {
    gid: u32,
    mode: u32,
}

impl Access {
    /// True if everybody can write the file, or a group that is not root's.
    pub(super) fn is_open_to_others(&self) -> bool {
        let by_group = self.mode & 0o020 != 0 && self.gid != 0;
        self.mode & 0o002 != 0 || by_group
    }
}

/// A root directory and the rest of the limits for it. Does not follow links, which could lead outside.
pub(super) struct Files {
    root: File,
    left: Limits,
    deadline: Instant,
}

impl Files {
    pub(super) fn new(root: File) -> Self {
        Self::with(root, LIMITS)
    }

    pub(super) fn with(root: File, limits: Limits) -> Self {
        Self {
            root,
            left: limits,
            deadline: Instant::now() + TIME_MAX,
        }
    }

    /// Owner and rights of a regular file.
    pub(super) fn access(&self, path: &str) -> Option<Access> {
        let status = fstat(self.open(path, OFlags::PATH).ok()?).ok()?;
        let is_file = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
        is_file.then_some(Access {
            gid: status.st_gid,
            mode: status.st_mode,
        })
    }

    /// The names in a directory; none if it cannot be read.
    pub(super) fn names(&mut self, path: &str) -> Vec<String> {
        let Ok(directory) = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY) else {
            return Vec::new();
        };
        let Ok(entries) = Dir::read_from(&directory) else {
            return Vec::new();
        };
        let names: Vec<String> = entries
            .take(self.left.names)
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned()))
            .filter(|name| name != "." && name != "..")
            .collect();
        self.left.names = self.left.names.saturating_sub(names.len() + 1);
        names
    }

    /// Reads a regular file, up to `max` bytes.
    pub(super) fn read(&mut self, path: &str, max: u64) -> Option<Vec<u8>> {
        let file = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
        let status = fstat(&file).ok()?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return None;
        }
        let max = max.min(self.left.bytes);
        let mut bytes = Vec::new();
        File::from(file).take(max + 1).read_to_end(&mut bytes).ok()?;
        let len = bytes.len() as u64;
        self.left.bytes = self.left.bytes.saturating_sub(len);
        (len <= max).then_some(bytes)
    }

    fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        let mut at: OwnedFd = self.root.try_clone()?.into();
        while let Some(part) = parts.next() {
            if part == ".." || Instant::now() > self.deadline {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let flags = if parts.peek().is_some() {
                step
            } else {
                flags | OFlags::NOFOLLOW | OFlags::CLOEXEC
            };
            at = openat(&at, part, flags, Mode::empty())?;
        }
        Ok(at)
    }
}
