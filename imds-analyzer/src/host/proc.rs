//! Processes under /proc.
//!
//! The directory of a process stays open, and an open directory never becomes that of a later process with the same
//! pid: everything read through it belongs to one process. Reads are bounded.

mod stat;

use std::{
    fs::File,
    io::{self, ErrorKind, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use imds_analyzer_ebpf::abi::Executable;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Statx, StatxFlags, fstat, open, openat, readlinkat, statx};

pub(crate) use self::stat::{Stat, Status, comm};
use super::clock;

/// Maximum number of bytes read from a file under /proc.
pub(crate) const FILE_MAX: usize = 16 << 10;
/// Maximum number of argument bytes that are read.
pub(crate) const CMDLINE_MAX: usize = 4096;

const ROOT: &str = "/proc";
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

/// The open directory of one process or thread.
#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

/// A process, with its `stat` from when the directory was opened.
#[derive(Debug)]
pub(crate) struct Proc {
    directory: Directory,
    pub(crate) stat: Stat,
}

/// The pids of all processes.
pub(crate) fn pids() -> io::Result<impl Iterator<Item = io::Result<u32>>> {
    numbers(CWD, ROOT)
}

pub(crate) fn exists(pid: u32) -> bool {
    Directory::open(pid).is_ok()
}

impl Directory {
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        Self::at(&pid.to_string())
    }

    /// The directory of this process.
    pub(crate) fn own() -> io::Result<Self> {
        Self::at("self")
    }

    /// The directory of the calling thread.
    pub(crate) fn own_thread() -> io::Result<Self> {
        Self::at("thread-self")
    }

    fn at(name: &str) -> io::Result<Self> {
        let path = format!("{ROOT}/{name}");
        Ok(Self(open(path, OFlags::PATH | DIRECTORY, Mode::empty())?))
    }

    /// The first `max` bytes of a file.
    pub(crate) fn read(&self, path: &str, max: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let max = u64::try_from(max).unwrap_or(u64::MAX);
        self.file(path)?.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// [`Self::read`] as text, with invalid UTF-8 replaced.
    pub(crate) fn text(&self, path: &str, max: usize) -> io::Result<String> {
        let bytes = self.read(path, max)?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// Opens a file, or the target of a link, for example a namespace.
    pub(crate) fn file(&self, path: &str) -> io::Result<File> {
        // Without O_NONBLOCK, opening a FIFO that a process has open would wait for its other end.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(again(|| openat(&self.0, path, flags, Mode::empty()).map_err(io::Error::from))?.into())
    }

    /// The target of a link, as text.
    pub(crate) fn link(&self, path: &str) -> io::Result<Vec<u8>> {
        let text = again(|| readlinkat(&self.0, path, Vec::new()).map_err(io::Error::from))?;
        Ok(text.into_bytes())
    }

    /// The metadata of the target of a link. Uses cached metadata, so that an unresponsive file server cannot block the
    /// caller.
    pub(crate) fn metadata(&self, path: &str) -> io::Result<Statx> {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        again(|| statx(&self.0, path, flags, StatxFlags::BASIC_STATS).map_err(io::Error::from))
    }

    /// Inode number of a namespace, for example `ns/net`. Namespaces have 32-bit inode numbers.
    pub(crate) fn namespace(&self, path: &str) -> io::Result<u32> {
        u32::try_from(self.metadata(path)?.stx_ino).map_err(io::Error::other)
    }

    /// The numeric names in a directory of threads or open files.
    pub(crate) fn numbers(&self, path: &str) -> io::Result<impl Iterator<Item = io::Result<u32>> + use<>> {
        numbers(self.0.as_fd(), path)
    }

    pub(crate) fn stat(&self) -> io::Result<Stat> {
        Stat::parse(&self.read("stat", FILE_MAX)?).ok_or_else(|| invalid("stat"))
    }

    pub(crate) fn status(&self) -> io::Result<Status> {
        Status::parse(&self.text("status", FILE_MAX)?).ok_or_else(|| invalid("status"))
    }

    /// NUL-separated arguments, at most [`CMDLINE_MAX`] bytes.
    pub(crate) fn cmdline(&self) -> io::Result<Vec<u8>> {
        self.read("cmdline", CMDLINE_MAX)
    }

    pub(crate) fn cgroup(&self) -> io::Result<String> {
        self.text("cgroup", FILE_MAX)
    }

    /// Path of the executable; `None` for a kernel thread, which has none, and for a process that has exited.
    pub(crate) fn exe(&self) -> io::Result<Option<Vec<u8>>> {
        self.path("exe")
    }

    /// The working directory; `None` as in [`Self::exe`].
    pub(crate) fn cwd(&self) -> io::Result<Option<Vec<u8>>> {
        self.path("cwd")
    }

    fn path(&self, link: &str) -> io::Result<Option<Vec<u8>>> {
        match self.link(link) {
            Ok(path) => Ok(Some(path)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The effective user; root if the process is not dumpable (prctl(2), PR_SET_DUMPABLE).
    pub(crate) fn owner(&self) -> io::Result<u32> {
        Ok(fstat(&self.0)?.st_uid)
    }

    /// The user who logged in, and the audit session; `u32::MAX` if there is none. An error on a kernel without audit.
    pub(crate) fn login(&self) -> io::Result<(u32, u32)> {
        let number = |file| {
            let text = self.text(file, FILE_MAX)?;
            text.trim().parse().map_err(|_error| invalid(file))
        };
        Ok((number("loginuid")?, number("sessionid")?))
    }
}

impl Proc {
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let directory = Directory::open(pid)?;
        let stat = directory.stat()?;
        Ok(Self { directory, stat })
    }

    /// The process `pid` if it started at `start` (ns since boot), compared with the precision of /proc. The error
    /// satisfies [`is_gone`] if another process has this pid. A start of 0 was not readable and never matches.
    pub(crate) fn find(pid: u32, start: u64) -> io::Result<Self> {
        if start == 0 {
            return Err(ErrorKind::NotFound.into());
        }
        let found = Self::open(pid)?;
        if found.stat.start != clock::to_ticks(start) {
            return Err(ErrorKind::NotFound.into());
        }
        Ok(found)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.stat.pid
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Real user and group id.
    pub(crate) fn ids(&self) -> io::Result<(u32, u32)> {
        let status = self.directory.status()?;
        let ([uid, ..], [gid, ..]) = (status.uids, status.gids);
        Ok((uid, gid))
    }

    /// True if the process executes this file, or if the kernel side does not know the file.
    pub(crate) fn executes(&self, known: &Executable) -> bool {
        if known.inode == 0 {
            return true;
        }
        let found = self.directory.metadata("exe");
        found.is_ok_and(|found| is_file(known, (found.stx_dev_major, found.stx_dev_minor), found.stx_ino))
    }
}

/// True if a file on `device` (major and minor number) is the file that the kernel side saw.
fn is_file(known: &Executable, device: (u32, u32), inode: u64) -> bool {
    /// `MINORBITS`, include/linux/kdev_t.h.
    const MINOR_BITS: u32 = 20;
    let (major, minor) = (known.device >> MINOR_BITS, known.device & ((1 << MINOR_BITS) - 1));
    // overlayfs and btrfs report device numbers of layers and subvolumes to user space, where the kernel side sees that
    // of the file system. All of them have major number 0, which belongs to no real device.
    let anonymous = major == 0 && device.0 == 0;
    known.inode == inode && (anonymous || (major, minor) == device)
}

/// True if the error means that the process has exited.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn invalid(file: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("/proc/<pid>/{file} is not understood"))
}

/// Retries once after EACCES. The kernel also returns EACCES for a link of a process that is just exiting:
/// `proc_pid_readlink` and `proc_pid_get_link` in fs/proc/base.c, `proc_ns_get_link` in fs/proc/namespaces.c, 4.14 to
/// 7.0. The second attempt then reports that the process does not exist.
fn again<T>(ask: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match ask() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => ask(),
        result => result,
    }
}

/// The numeric names in a directory.
fn numbers(at: BorrowedFd<'_>, path: &str) -> io::Result<impl Iterator<Item = io::Result<u32>> + use<>> {
    let directory = openat(at, path, OFlags::RDONLY | DIRECTORY, Mode::empty())?;
    Ok(Dir::new(directory)?.filter_map(|entry| match entry {
        Ok(entry) => entry.file_name().to_str().ok()?.parse().ok().map(Ok),
        Err(error) => Some(Err(error.into())),
    }))
}

#[cfg(test)]
mod tests;
