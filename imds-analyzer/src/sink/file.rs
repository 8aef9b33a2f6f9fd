//! The log file: JSON lines, each complete or absent, within a bound on total size.
//!
//! A line is one write. If a crash leaves an incomplete line, it is cut off when the file is next opened; a reader of
//! lines has not consumed it yet. The file may be removed, moved, truncated or mounted over at any time: this is
//! noticed and logged, and a start record precedes the next record. The directory must not be writable by other users.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    sync::Arc,
    time::SystemTime,
};

use rustix::fs::{Gid, fchown};

use super::queue::{Line, LineWriter};
use crate::{
    config,
    place::{self, Trust},
};

mod last;
mod tidy;

use self::last::Known;
pub(crate) use self::{last::Last, tidy::Tidy};

const FILE_MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o750;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Makes the record at the head of every file.
pub(crate) type Head = Arc<dyn Fn(SystemTime) -> io::Result<Vec<u8>> + Send + Sync>;

/// Writes lines to a file, and sets the file aside when it is too large or too old.
pub(crate) struct FileWriter {
    config: config::Log,
    head: Head,
    /// Write the head even if the file has one.
    head_due: bool,
    /// Group that may read the log.
    group: Option<Gid>,
    open: Option<Open>,
    last: Last,
    tidy: Tidy,
    torn: u64,
}

struct Open {
    file: File,
    device: u64,
    inode: u64,
    /// Minimum size of the file, unless others truncate it.
    size: u64,
    /// Time when the file was started.
    begun: SystemTime,
}

impl FileWriter {
    /// `head_due`: true when the program has just started. `last`: state of the previous writer.
    pub(crate) fn new(config: config::Log, head: Head, head_due: bool, group: Option<Gid>, last: Last) -> Self {
        Self {
            tidy: Tidy::new(&config),
            config,
            head,
            head_due,
            group,
            open: None,
            last,
            torn: 0,
        }
    }

    fn write_lines(&mut self, lines: &[Line], written: &mut usize) -> io::Result<()> {
        self.look()?;
        for line in lines {
            self.make_room(line.bytes.len() as u64)?;
            if let Some(open) = &mut self.open {
                open.append(&line.bytes)?;
                *written += 1;
            }
        }
        Ok(())
    }

    /// Opens the file if it is not open, was replaced, or was truncated.
    fn look(&mut self) -> io::Result<()> {
        if let Some(open) = &self.open {
            let in_place = fs::symlink_metadata(&self.config.path)
                .is_ok_and(|found| (found.dev(), found.ino()) == (open.device, open.inode) && found.len() >= open.size);
            if in_place {
                return Ok(());
            }
            self.open = None;
        }
        self.open()
    }

    fn open(&mut self) -> io::Result<()> {
        let trust = Trust::of_this_process();
        let (mut file, mut made) = self.open_or_make(trust)?;
        let mut found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        if !is_ours(&found, trust) {
            // It may date from when others could write to the directory, and be a second name of another file.
            tracing::warn!(
                "log: {} is not the service's own file (it has another owner, a second name, or is writable by others): set it \
                 aside and started a new file",
                self.config.path.display()
            );
            self.tidy.set_aside(&self.config.path)?;
            self.last.forget();
            (file, made) = self.open_or_make(trust)?;
            found = file.metadata()?;
            if !made {
                return Err(io::Error::other("another process replaced it"));
            }
        }
        let change = self.last.change(&self.config.path, &found, made);
        self.torn += cut_torn_end(&mut file, found.len())?;
        let mut open = Open {
            device: found.dev(),
            inode: found.ino(),
            size: file.metadata()?.len(),
            begun: found.created().unwrap_or_else(|_unknown| SystemTime::now()),
            file,
        };
        if self.head_due || open.size == 0 || change.is_some() {
            open.append(&(self.head)(SystemTime::now())?)?;
            self.head_due = false;
        }
        if let Some(change) = change {
            change.say(&self.config.path);
        }
        self.open = Some(open);
        self.remember();
        Ok(())
    }

    /// The file, and true if it is new.
    fn open_or_make(&self, trust: Trust) -> io::Result<(File, bool)> {
        let path = &self.config.path;
        if let Some(distrust) = path
            .parent()
            .and_then(|directory| place::walk(directory, trust).distrust)
        {
            let why =
                format!("{distrust}: nothing is written where others can take files away or put others in their place");
            return Err(io::Error::new(ErrorKind::PermissionDenied, why));
        }
        let options = || {
            let mut options = OpenOptions::new();
            // Readable, to find an incomplete line. O_NONBLOCK, so that opening a FIFO in its place does not block.
            options.read(true).append(true).mode(FILE_MODE);
            options.custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK);
            options
        };
        match options().create_new(true).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok((options().open(path)?, false)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.make_directory()?;
                Ok((self.created(options().create_new(true).open(path)?)?, true))
            }
            Err(error) => Err(error),
            Ok(file) => Ok((self.created(file)?, true)),
        }
    }

    /// Remembers the file for the next writer.
    fn remember(&self) {
        if let Some(open) = &self.open {
            self.last.set(Known {
                path: self.config.path.clone(),
                device: open.device,
                inode: open.inode,
                size: open.size,
            });
        }
    }

    fn make_directory(&self) -> io::Result<()> {
        let Some(directory) = self.config.path.parent() else {
            return Ok(());
        };
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory)?;
        self.give_to_group(&File::open(directory)?);
        Ok(())
    }

    /// Independent of the umask.
    fn created(&self, file: File) -> io::Result<File> {
        file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
        self.give_to_group(&file);
        Ok(file)
    }

    /// If it fails, only the owner can read the log.
    fn give_to_group(&self, file: &File) {
        if self.group.is_some() && fchown(file.as_fd(), None, self.group).is_err() {
            tracing::debug!("cannot set the group of the log file");
        }
    }

    /// Sets the file aside if it is too old or has no room for `more` bytes.
    fn make_room(&mut self, more: u64) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let size = open.file.metadata()?.len();
        if size < open.size {
            self.remember();
            self.open = None;
            return self.open();
        }
        open.size = size;
        // Setting the clock back does not make a file old.
        let age = SystemTime::now().duration_since(open.begun).unwrap_or_default();
        if size == 0 || (size + more <= self.config.max_size && age < self.config.max_age) {
            return Ok(());
        }
        self.tidy.set_aside(&self.config.path)?;
        self.last.forget();
        self.open = None;
        self.open()
    }
}

impl LineWriter for FileWriter {
    fn write(&mut self, lines: &[Line]) -> (usize, io::Result<()>) {
        let mut written = 0;
        let result = self.write_lines(lines, &mut written);
        self.remember();
        if result.is_err() {
            self.open = None;
        }
        let path = self.config.path.display();
        (
            written,
            result.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}"))),
        )
    }

    fn take_torn(&mut self) -> u64 {
        std::mem::take(&mut self.torn)
    }
}

impl Open {
    /// Writes all of `line` or nothing.
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        let count = loop {
            match self.file.write(line) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if count == line.len() {
            self.size += count as u64;
            return Ok(());
        }
        // The disk became full within the line.
        let size = self.file.metadata()?.len();
        self.file.set_len(size.saturating_sub(count as u64))?;
        Err(ErrorKind::StorageFull.into())
    }
}

/// True if nobody else can write the file and it has no other name.
fn is_ours(file: &fs::Metadata, trust: Trust) -> bool {
    trust.has(file.uid()) && file.nlink() == 1 && file.mode() & WRITABLE_BY_OTHERS == 0
}

/// Removes an incomplete last line. Returns the number of lines removed, 0 or 1.
fn cut_torn_end(file: &mut File, size: u64) -> io::Result<u64> {
    const BLOCK: u64 = 4096;
    let mut end = size;
    let mut block = [0; BLOCK as usize];
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        let block = &mut block[..(end - begin) as usize];
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            end = begin + at as u64 + 1;
            break;
        }
        end = begin;
    }
    if end == size {
        return Ok(0);
    }
    file.set_len(end)?;
    Ok(1)
}

#[cfg(test)]
mod tests;
