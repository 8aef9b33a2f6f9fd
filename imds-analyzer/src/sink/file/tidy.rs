//! Files set aside: `events.jsonl.<number>`, and `.gz` once they are compressed. The higher the number the newer the file,
//! whatever the clock said.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use flate2::{Compression, write::GzEncoder};
use rustix::process::setpriority_process;

use super::with_suffix;
use crate::config;

const COMPRESSED: &str = "gz";
/// Of a file that is being compressed.
const UNFINISHED: &str = "tmp";

/// Held while files are compressed: a configuration that is read again comes with a [`Tidy`] of its own, and two threads
/// at one file would spoil it.
static TURN: Mutex<()> = Mutex::new(());

/// Numbers files, compresses them and removes the oldest.
pub(crate) struct Tidy {
    job: Job,
    /// A thread is at it.
    busy: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Job {
    path: PathBuf,
    /// Bytes that files set aside may have.
    room: u64,
    compress: bool,
}

impl Tidy {
    pub(super) fn new(config: &config::Log) -> Self {
        Self {
            job: Job {
                path: config.path.clone(),
                room: config.max_total.saturating_sub(config.max_size),
                compress: config.compress,
            },
            busy: Arc::default(),
        }
    }

    /// Gives the file its number. The oldest files go at once; compressing takes its time, on a thread of its own.
    pub(super) fn set_aside(&self, path: &Path) -> io::Result<()> {
        let number = last_number(path)? + 1;
        fs::rename(path, with_suffix(path, format_args!("{number:06}")))?;
        self.job.remove_oldest()?;
        if self.job.compress && !self.busy.swap(true, Ordering::Acquire) {
            let (job, busy) = (self.job.clone(), Arc::clone(&self.busy));
            let started = thread::Builder::new().name("log-tidy".to_owned()).spawn(move || {
                // There is time.
                if let Err(error) = setpriority_process(None, 19) {
                    tracing::debug!("the priority of log-tidy: {error}");
                }
                if let Err(error) = job.compress_all() {
                    tracing::warn!("cannot compress a log file: {error}");
                }
                busy.store(false, Ordering::Release);
            });
            if started.is_err() {
                self.busy.store(false, Ordering::Release);
            }
        }
        Ok(())
    }
}

/// One file set aside.
#[derive(Debug)]
struct Aside {
    number: u64,
    path: PathBuf,
    size: u64,
    extension: Option<&'static str>,
}

/// The files set aside, the oldest first.
fn aside(path: &Path) -> io::Result<Vec<Aside>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some((number, extension)) = entry.file_name().to_str().and_then(|entry| numbered(entry, name)) else {
            continue;
        };
        // Removed meanwhile, perhaps by a collector of logs.
        let Ok(data) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        if data.is_file() {
            found.push(Aside {
                number,
                path: entry.path(),
                size: data.size(),
                extension,
            });
        }
    }
    found.sort_unstable_by_key(|file| file.number);
    Ok(found)
}

/// The highest number there is, be it a file's or not; 0 without any.
fn last_number(path: &Path) -> io::Result<u64> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(0);
    };
    let mut last = 0;
    for entry in fs::read_dir(directory)? {
        let number = entry?.file_name().to_str().and_then(|entry| numbered(entry, name));
        last = last.max(number.map_or(0, |(number, _)| number));
    }
    Ok(last)
}

/// The number and the extension of a file set aside, by its name and that of the log.
fn numbered(entry: &str, log: &str) -> Option<(u64, Option<&'static str>)> {
    let rest = entry.strip_prefix(log)?.strip_prefix('.')?;
    let (number, extension) = match rest.split_once('.') {
        None => (rest, None),
        Some((number, COMPRESSED)) => (number, Some(COMPRESSED)),
        Some((number, UNFINISHED)) => (number, Some(UNFINISHED)),
        Some(_) => return None,
    };
    // A number that nobody can count up from is not one of ours.
    let number = number.parse().ok().filter(|number| *number < u64::MAX)?;
    Some((number, extension))
}

impl Job {
    fn remove_oldest(&self) -> io::Result<()> {
        let files = aside(&self.path)?;
        let mut total: u64 = files.iter().map(|file| file.size).sum();
        for file in files {
            if total <= self.room {
                break;
            }
            remove(&file.path)?;
            total -= file.size;
        }
        Ok(())
    }

    fn compress_all(&self) -> io::Result<()> {
        // No code panics while it holds the lock.
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        for file in aside(&self.path)? {
            match file.extension {
                Some(UNFINISHED) => remove(&file.path)?,
                None => self.compress(&file)?,
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// The compressed file is complete before it has its name, and only then the other goes.
    fn compress(&self, file: &Aside) -> io::Result<()> {
        let unfinished = with_suffix(&file.path, UNFINISHED);
        let result = gzip(&file.path, &unfinished)
            .and_then(|()| fs::rename(&unfinished, with_suffix(&file.path, COMPRESSED)))
            .and_then(|()| remove(&file.path));
        match result {
            // The oldest may have been removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => remove(&unfinished).and(Err(error)),
            Ok(()) => Ok(()),
        }
    }
}

fn gzip(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(from)?;
    let data = from.metadata()?;
    // Of an attempt that was cut short.
    remove(to)?;
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(data.permissions().mode())
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(to)?;
    // As the original; where it does not work the owner alone reads it.
    if std::os::unix::fs::fchown(&file, None, Some(data.gid())).is_err() {
        tracing::debug!("cannot set the group of a compressed log file");
    }
    let mut encoder = GzEncoder::new(file, Compression::fast());
    let mut block = [0; 32 << 10];
    loop {
        match from.read(&mut block)? {
            0 => break,
            count => encoder.write_all(&block[..count])?,
        }
    }
    encoder.finish()?.sync_all()
}

/// It may be gone already.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
