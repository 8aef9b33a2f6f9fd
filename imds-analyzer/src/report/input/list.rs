//! Lists what there is to read, and makes jobs of it.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
};

use super::{
    Outcome, Progress, Source,
    job::{Job, Located},
    locked,
};
use crate::{
    host::file,
    logfile::{Format, UNFINISHED, decoded},
};

/// A longer file is read in parts.
const PART: u64 = if cfg!(test) { 4 << 10 } else { 64 << 20 };
/// Files with the same first line are one file, or copies of it. More than so many are not compared.
const COPIES_MAX: usize = 8;
/// The first line is known by this much of it.
const FIRST_LINE_MAX: u64 = 64 << 10;
/// How deep directories are listed.
const DEPTH_MAX: usize = 32;

struct Lister<'a> {
    outcome: &'a Mutex<Outcome>,
    progress: &'a Progress,
    send: &'a dyn Fn(Job),
    /// Device and inode of each file.
    seen: HashSet<(u64, u64)>,
    /// Files by their first line.
    first_lines: HashMap<u64, Vec<PathBuf>>,
}

/// Passes all jobs to `send`.
pub(super) fn jobs(sources: &[Source], outcome: &Mutex<Outcome>, progress: &Progress, send: &dyn Fn(Job)) {
    let mut lister = Lister {
        outcome,
        progress,
        send,
        seen: HashSet::new(),
        first_lines: HashMap::new(),
    };
    for source in sources {
        match source {
            Source::Stdin => (lister.send)(Job::Stdin),
            Source::Path(path) => match fs::metadata(path) {
                Ok(data) if data.is_dir() => lister.directory(path, DEPTH_MAX),
                Ok(_) => lister.file(path, true),
                Err(error) => lister.failed(path, &error),
            },
        }
    }
}

impl Lister<'_> {
    fn failed(&self, path: &Path, why: &dyn ToString) {
        let mut outcome = locked(self.outcome);
        outcome.input.failed_files += 1;
        outcome.problem(Located {
            path: path.to_owned(),
            part: 0,
            line: None,
            why: why.to_string(),
        });
    }

    fn directory(&mut self, path: &Path, depth: usize) {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.failed(path, &error),
        };
        for entry in entries {
            let Ok((entry, kind)) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))) else {
                // It is gone.
                continue;
            };
            if kind.is_dir() && depth > 0 {
                self.directory(&entry, depth - 1);
            } else if kind.is_file() || kind.is_symlink() {
                // No link to a directory is followed: it may lead back.
                let is_directory = kind.is_symlink() && entry.is_dir();
                if !is_directory && entry.extension().is_none_or(|extension| extension != UNFINISHED) {
                    self.file(&entry, false);
                }
            }
        }
    }

    /// `is_named`: by the user, who is told if it is no log.
    fn file(&mut self, path: &Path, is_named: bool) {
        let (file, data) = match file::regular(path, 0) {
            Ok(opened) => opened,
            // Rotated or removed since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound && !is_named => return,
            Err(_) if !is_named && !path.is_file() => {
                locked(self.outcome).input.skipped_files += 1;
                return;
            }
            Err(error) => return self.failed(path, &error),
        };
        if !self.seen.insert((data.dev(), data.ino())) {
            locked(self.outcome).input.duplicate_files += 1;
            return;
        }
        let (format, first_line) = match beginning(&file) {
            Ok(beginning) => beginning,
            Err(error) => return self.failed(path, &error),
        };
        if format == Format::Binary {
            if is_named {
                self.failed(path, &"it is no log: it has bytes that no text has");
            } else {
                locked(self.outcome).input.skipped_files += 1;
            }
            return;
        }
        self.progress.files.fetch_add(1, Ordering::Relaxed);
        locked(self.outcome).input.files += 1;
        let others = match first_line {
            Some(first_line) => {
                let same = self.first_lines.entry(first_line).or_default();
                let others = same.clone();
                if same.len() < COPIES_MAX {
                    same.push(path.to_owned());
                }
                others
            }
            None => Vec::new(),
        };
        let path = path.to_owned();
        if format == Format::Plain && others.is_empty() && data.len() > PART {
            let file = Arc::new(file);
            for number in 0..data.len().div_ceil(PART) {
                (self.send)(Job::Part {
                    path: path.clone(),
                    file: Arc::clone(&file),
                    number: usize::try_from(number).unwrap_or(usize::MAX),
                    from: number * PART,
                    until: ((number + 1) * PART).min(data.len()),
                });
            }
        } else {
            (self.send)(Job::Whole {
                path,
                file,
                format,
                others,
            });
        }
    }
}

/// The format of a file, and a hash of its first line; `None` if the line is too long or not complete.
fn beginning(file: &File) -> io::Result<(Format, Option<u64>)> {
    let mut bytes = vec![0; FIRST_LINE_MAX as usize];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    let format = Format::of(&bytes);
    if matches!(format, Format::Gzip | Format::Zstd) {
        let mut text = Vec::new();
        // An error in it comes up again when the file is read.
        let _ = decoded(format, io::Cursor::new(bytes))
            .take(FIRST_LINE_MAX)
            .read_to_end(&mut text);
        bytes = text;
    }
    let end = memchr::memchr(b'\n', &bytes);
    Ok((format, end.and_then(|end| bytes.get(..end)).map(super::worker::hash)))
}
