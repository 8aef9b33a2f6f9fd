//! Rotation: a file gets a number, is compressed, and the oldest files are removed.

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

use crate::{
    config,
    logfile::{self, Form, Rotated},
};

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
        let number = logfile::last_number(path)? + 1;
        fs::rename(path, logfile::numbered(path, number))?;
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

impl Job {
    fn remove_oldest(&self) -> io::Result<()> {
        let files = logfile::rotated(&self.path)?;
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
        for file in logfile::rotated(&self.path)? {
            match file.form {
                Form::Unfinished => remove(&file.path)?,
                Form::Plain => self.compress(&file)?,
                Form::Compressed => {}
            }
        }
        Ok(())
    }

    /// The compressed file is complete before it has its name, and only then the other goes.
    fn compress(&self, file: &Rotated) -> io::Result<()> {
        let unfinished = logfile::unfinished(&file.path);
        let result = gzip(&file.path, &unfinished)
            .and_then(|()| fs::rename(&unfinished, logfile::compressed(&file.path)))
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
