//! Log files: their names, their order, and reading them.
//!
//! The live file has the configured name, `events.jsonl`. A rotated file has a number, `events.jsonl.000007`, and `.gz` once
//! it is compressed. A higher number means a newer file, whatever the clock said.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::{self, BufRead, BufReader, ErrorKind, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{host::file, record::LINE_MAX};

mod decoded;
mod follow;

pub(crate) use self::decoded::{Format, decoded};
pub use self::follow::Follow;

#[cfg(test)]
mod tests;

const COMPRESSED: &str = "gz";
/// The suffix of a file that is being compressed.
pub(crate) const UNFINISHED: &str = "tmp";
const BUFFER: usize = 256 << 10;
/// Bytes read of a line: one that is longer than a record stays too long.
const ROOM: usize = LINE_MAX + 2;

/// A rotated file.
#[derive(Debug)]
pub(crate) struct Rotated {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) form: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    Plain,
    Compressed,
    /// Compression was interrupted or is running.
    Unfinished,
}

/// The path of the rotated file of `log` with this number.
pub(crate) fn numbered(log: &Path, number: u64) -> PathBuf {
    with_suffix(log, format_args!("{number:06}"))
}

/// The path of a file once it is compressed.
pub(crate) fn compressed(path: &Path) -> PathBuf {
    with_suffix(path, COMPRESSED)
}

/// The path to which a file is compressed.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    with_suffix(path, UNFINISHED)
}

fn with_suffix(path: &Path, suffix: impl fmt::Display) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{suffix}"));
    name.into()
}

/// The rotated files of `log`, the oldest first.
pub(crate) fn rotated(log: &Path) -> io::Result<Vec<Rotated>> {
    let mut found = Vec::new();
    for (path, number, form) in names(log)? {
        // A file may have been removed since the directory was read.
        let Ok(data) = fs::symlink_metadata(&path) else {
            continue;
        };
        if data.is_file() {
            found.push(Rotated {
                number,
                path,
                size: data.size(),
                form,
            });
        }
    }
    found.sort_unstable_by_key(|file| (file.number, file.form));
    Ok(found)
}

/// The highest number in use, by a file or anything else; 0 if there is none.
pub(crate) fn last_number(log: &Path) -> io::Result<u64> {
    let numbers = names(log)?.into_iter().map(|(_, number, _)| number);
    Ok(numbers.max().unwrap_or(0))
}

/// Everything in the directory with the name of a rotated file.
fn names(log: &Path) -> io::Result<Vec<(PathBuf, u64, Form)>> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let directory = if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Some((number, form)) = entry.file_name().to_str().and_then(|entry| parse(entry, name)) {
            found.push((entry.path(), number, form));
        }
    }
    Ok(found)
}

/// Number and form of a rotated file, from its name and the name of the log.
fn parse(entry: &str, log: &str) -> Option<(u64, Form)> {
    let rest = entry.strip_prefix(log)?.strip_prefix('.')?;
    let (number, form) = match rest.split_once('.') {
        None => (rest, Form::Plain),
        Some((number, COMPRESSED)) => (number, Form::Compressed),
        Some((number, UNFINISHED)) => (number, Form::Unfinished),
        Some(_) => return None,
    };
    // The writer needs a number above the last one.
    let number = number.parse().ok().filter(|number| *number < u64::MAX)?;
    Some((number, form))
}

/// A file of a log for reading.
#[derive(Debug)]
pub struct LogFile {
    pub path: PathBuf,
    /// The live file, opened before the others were listed.
    live: Option<File>,
}

/// All files of `log`, the oldest first and the live one last. Each record is in exactly one of them, even if files are
/// rotated or compressed at the same time. Records written after this call may be missing.
///
/// # Errors
///
/// If the directory cannot be read, the live file exists and cannot be opened, or files change all the time.
pub fn files(log: &Path) -> io::Result<Vec<LogFile>> {
    const ATTEMPTS: usize = 100;
    for _ in 0..ATTEMPTS {
        if let Some(files) = listing(log)? {
            return Ok(files);
        }
    }
    Err(io::Error::other("its files are rotated faster than they can be listed"))
}

/// [`files`], or `None` if a file got another name meanwhile: a directory that changes while it is read may show such a file
/// under both names or under none.
fn listing(log: &Path) -> io::Result<Option<Vec<LogFile>>> {
    let live = match file::regular(log, 0) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        result => Some(result?),
    };
    let mut rotated = self::rotated(log)?;
    let is_same = match (&live, fs::metadata(log)) {
        (Some((_, opened)), Ok(now)) => (opened.dev(), opened.ino()) == (now.dev(), now.ino()),
        (None, Err(error)) => error.kind() == ErrorKind::NotFound,
        _ => false,
    };
    let names = |files: &[Rotated]| files.iter().map(|file| (file.number, file.form)).collect::<Vec<_>>();
    if !is_same || names(&rotated) != names(&self::rotated(log)?) {
        return Ok(None);
    }
    rotated.retain(|file| file.form != Form::Unfinished);
    // Both forms of a file exist until the plain one is removed.
    rotated.dedup_by_key(|file| file.number);
    let rotated = rotated.into_iter().map(|file| LogFile {
        path: file.path,
        live: None,
    });
    let live = live.map(|(file, _)| LogFile {
        path: log.to_owned(),
        live: Some(file),
    });
    Ok(Some(rotated.chain(live).collect()))
}

impl LogFile {
    /// The lines of the file, decompressed if necessary.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened; `NotFound` if it was removed to free space.
    pub fn lines(self) -> io::Result<Lines<Box<dyn BufRead + Send>>> {
        let file = match self.live {
            Some(file) => file,
            None => {
                let opened = file::regular(&self.path, 0).or_else(|error| match error.kind() {
                    // It may have been compressed after it was listed.
                    ErrorKind::NotFound => file::regular(&compressed(&self.path), 0),
                    _ => Err(error),
                });
                opened?.0
            }
        };
        Ok(Lines::new(decompressed(file)?))
    }
}

/// The lines of the file at `path`, decompressed if necessary.
///
/// # Errors
///
/// If it cannot be opened, or is not a regular file.
pub fn open(path: &Path) -> io::Result<Lines<Box<dyn BufRead + Send>>> {
    let (file, _) = file::regular(path, 0)?;
    Ok(Lines::new(decompressed(file)?))
}

/// The first bytes of the file tell its format, because log collectors rename files.
fn decompressed(file: File) -> io::Result<Box<dyn BufRead + Send>> {
    let mut file = BufReader::with_capacity(BUFFER, file);
    let format = Format::of(file.fill_buf()?);
    Ok(Box::new(BufReader::with_capacity(BUFFER, decoded(format, file))))
}

/// Reads line by line in bounded memory.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    /// Kept to be filled again.
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            line: Vec::new(),
        }
    }

    /// The next line, for [`crate::record::read`], with its newline unless the file ends without one; `None` after the last
    /// line. A line above [`LINE_MAX`] is truncated to a length that is still too long.
    ///
    /// # Errors
    ///
    /// If reading fails, for example because a compressed file is truncated or damaged.
    pub fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        let count = (&mut self.reader).take(ROOM as u64).read_until(b'\n', &mut self.line)?;
        if count == ROOM && self.line.last() != Some(&b'\n') {
            self.reader.skip_until(b'\n')?;
        }
        Ok((count > 0).then_some(self.line.as_slice()))
    }
}
