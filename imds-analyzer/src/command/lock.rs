//! One daemon per host, because two would write to the same file, and one rehearsal. `watch` may run at the same time.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, bail, ensure};
use rustix::fs::{FlockOperation, flock};

use crate::{
    host::proc,
    place::{self, Trust},
};

/// No access for other users: flock(2) needs only an open descriptor, so anyone who can read the file can hold the
/// lock.
const MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o755;
const OTHERS: u32 = 0o077;
/// Number of attempts if another process keeps replacing the file.
const ATTEMPTS: usize = 10;

/// Those of whom only one may run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holder {
    Daemon,
    Rehearsal,
}

impl Holder {
    const fn file(self) -> &'static str {
        match self {
            Self::Daemon => "daemon.lock",
            Self::Rehearsal => "rehearse.lock",
        }
    }

    /// The setting that names the directory, for the error.
    const fn setting(self) -> &'static str {
        match self {
            Self::Daemon => "runtime_dir: ",
            Self::Rehearsal => "",
        }
    }

    /// Describes the process that holds the lock, in the error.
    const fn doing(self) -> &'static str {
        match self {
            Self::Daemon => "already running as this host's daemon",
            Self::Rehearsal => "already rehearsing on this host",
        }
    }

    const fn advice(self) -> &'static str {
        match self {
            Self::Daemon => "`imds-analyzer watch` can run at the same time",
            Self::Rehearsal => "wait for its end, or end it with SIGTERM",
        }
    }
}

/// The lock, held until dropped. The kernel releases it however the process ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl Lock {
    /// # Errors
    ///
    /// If another process holds the lock (the error names that process), if the directory is not writable, or if other
    /// users can write to it.
    pub(super) fn take(directory: &Path, holder: Holder) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        if let Some(distrust) = place::walk(directory, Trust::of_this_process()).distrust {
            bail!(
                "{}{distrust}: other users could remove or hold the lock",
                holder.setting()
            );
        }
        let path = directory.join(holder.file());
        for _ in 0..ATTEMPTS {
            if let Some(mut file) = attempt(&path, holder).with_context(|| format!("cannot lock {}", path.display()))? {
                file.set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| writeln!(file, "{}", process::id()))
                    .with_context(|| format!("cannot write {}", path.display()))?;
                return Ok(Self(file));
            }
        }
        bail!("another process keeps replacing {}", path.display());
    }
}

/// The locked file. `None` if a different file is at the path now.
fn attempt(path: &Path, holder: Holder) -> anyhow::Result<Option<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let found = file.metadata()?;
    ensure!(found.is_file(), "not a regular file");
    // An older version made a file like this. Whoever opened it then may lock it at any time.
    let loose = found.mode() & OTHERS != 0 || found.nlink() != 1;
    let locked = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => true,
        Err(rustix::io::Errno::WOULDBLOCK) => false,
        Err(error) => return Err(io::Error::from(error).into()),
    };
    if !locked {
        let owner = owner(&file);
        if !loose || owner.is_some_and(proc::exists) {
            let owner = owner.map_or_else(|| "another process is".to_owned(), |pid| format!("process {pid} is"));
            bail!(
                "{owner} {} (it holds {}); {}",
                holder.doing(),
                path.display(),
                holder.advice()
            );
        }
        tracing::warn!("{} is locked by another program; replacing it", path.display());
    }
    if loose {
        replace(path)?;
        return Ok(None);
    }
    let in_place = fs::symlink_metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (found.dev(), found.ino()));
    Ok(in_place.then_some(file))
}

/// The pid stored in the file.
fn owner(file: &File) -> Option<u32> {
    let mut owner = String::new();
    // Only used to name the owner and to see if it still exists.
    let _ = file.take(64).read_to_string(&mut owner);
    owner.trim().parse().ok()
}

/// Replaces a file that other users can lock by a new one.
fn replace(path: &Path) -> io::Result<()> {
    let new = PathBuf::from(format!("{}.{}", path.display(), process::id()));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&new)?;
    // Regardless of the umask.
    file.set_permissions(Permissions::from_mode(MODE))?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("made").mode() & 0o7777
    }

    #[test]
    fn nobody_else_can_hold_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let run = dir.path().join("run/deep");
        let path = run.join("daemon.lock");
        let lock = Lock::take(&run, Holder::Daemon).expect("free");
        assert_eq!((mode(&path), mode(&run) & 0o022), (MODE, 0));
        let error = Lock::take(&run, Holder::Daemon).expect_err("held").to_string();
        assert!(error.contains("cannot lock"), "{error}");
        drop(lock);
        drop(Lock::take(&run, Holder::Daemon).expect("free again"));
    }

    #[test]
    fn one_that_others_could_open_is_made_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("daemon.lock");
        fs::write(&path, "4294967294\n").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("ours");
        // Opened while it was still readable for all, and held for ever by a process that is not a daemon.
        let held = File::open(&path).expect("readable");
        flock(&held, FlockOperation::NonBlockingLockExclusive).expect("free");
        let lock = Lock::take(dir.path(), Holder::Daemon).expect("no daemon holds it");
        assert_eq!(mode(&path), MODE);
        assert_eq!(
            fs::read_to_string(&path).expect("ours").trim(),
            process::id().to_string()
        );
        assert!(Lock::take(dir.path(), Holder::Daemon).is_err());
        drop(lock);
        drop(Lock::take(dir.path(), Holder::Daemon).expect("whatever they still hold"));
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1);
    }

    #[test]
    fn an_older_daemon_that_runs_keeps_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("daemon.lock");
        fs::write(&path, process::id().to_string()).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("ours");
        let held = File::open(&path).expect("readable");
        flock(&held, FlockOperation::NonBlockingLockExclusive).expect("free");
        let error = format!(
            "{:#}",
            Lock::take(dir.path(), Holder::Daemon).expect_err("a daemon holds it")
        );
        assert!(
            error.contains(&format!("process {} is already running", process::id())),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_file_or_in_reach_of_others_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("daemon.lock");
        std::os::unix::fs::symlink("/etc/hostname", &path).expect("linked");
        assert!(Lock::take(dir.path(), Holder::Daemon).is_err());
        fs::remove_file(&path).expect("removed");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a FIFO");
        assert!(Lock::take(dir.path(), Holder::Daemon).is_err());
        fs::remove_file(&path).expect("removed");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).expect("ours");
        let error = Lock::take(dir.path(), Holder::Daemon)
            .expect_err("a directory of everybody's")
            .to_string();
        assert!(error.contains("runtime_dir"), "{error}");
    }
}
