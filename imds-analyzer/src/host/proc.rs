//! Processes under /proc.
//!
//! The directory of a process is held open, and such a directory never becomes that of a later process with the same
//! pid: whatever is read through it belongs to one process. Reads are bounded.

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

/// Bytes of a file under /proc that are read at most.
pub(crate) const FILE_MAX: usize = 16 << 10;
/// Bytes of arguments that are read at most.
pub(crate) const CMDLINE_MAX: usize = 4096;

const ROOT: &str = "/proc";
const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

/// The open directory of one process or thread.
#[derive(Debug)]
pub(crate) struct Directory(OwnedFd);

/// A process, and its numbers when its directory was opened.
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

    /// Of this process.
    pub(crate) fn own() -> io::Result<Self> {
        Self::at("self")
    }

    /// Of the calling thread.
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

    /// [`Self::read`] as text; what is not UTF-8 is replaced.
    pub(crate) fn text(&self, path: &str, max: usize) -> io::Result<String> {
        let bytes = self.read(path, max)?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// A file, or whatever a link leads to: a namespace.
    pub(crate) fn file(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(again(|| openat(&self.0, path, flags, Mode::empty()).map_err(io::Error::from))?.into())
    }

    /// The text of a link.
    pub(crate) fn link(&self, path: &str) -> io::Result<Vec<u8>> {
        let text = again(|| readlinkat(&self.0, path, Vec::new()).map_err(io::Error::from))?;
        Ok(text.into_bytes())
    }

    /// The metadata of whatever a link leads to. Cached ones will do: a file server that does not answer stops nobody.
    pub(crate) fn metadata(&self, path: &str) -> io::Result<Statx> {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        again(|| statx(&self.0, path, flags, StatxFlags::BASIC_STATS).map_err(io::Error::from))
    }

    /// Inode number of a namespace: `ns/net`. Namespaces have 32-bit numbers.
    pub(crate) fn namespace(&self, path: &str) -> io::Result<u32> {
        u32::try_from(self.metadata(path)?.stx_ino).map_err(io::Error::other)
    }

    /// The names in a directory that holds threads or open files.
    pub(crate) fn numbers(&self, path: &str) -> io::Result<impl Iterator<Item = io::Result<u32>> + use<>> {
        numbers(self.0.as_fd(), path)
    }

    pub(crate) fn stat(&self) -> io::Result<Stat> {
        Stat::parse(&self.read("stat", FILE_MAX)?).ok_or_else(|| invalid("stat"))
    }

    pub(crate) fn status(&self) -> io::Result<Status> {
        Status::parse(&self.text("status", FILE_MAX)?).ok_or_else(|| invalid("status"))
    }

    /// NUL-separated arguments, cut at [`CMDLINE_MAX`] bytes.
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

    /// The effective user; root where the process may not be looked into (prctl(2), PR_SET_DUMPABLE).
    pub(crate) fn owner(&self) -> io::Result<u32> {
        Ok(fstat(&self.0)?.st_uid)
    }

    /// The user who logged in, and the audit session; `u32::MAX` where there is none. An error on a kernel without audit.
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

    /// The process `pid` if it started at `start` (ns since boot), as exactly as /proc tells. It is gone, for
    /// [`is_gone`], if another process has its pid. A start of 0 could not be read, and matches nothing.
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

    /// Whether it executes this file, as far as can be told: any will do where the kernel side knows of none.
    pub(crate) fn executes(&self, known: &Executable) -> bool {
        if known.inode == 0 {
            return true;
        }
        let found = self.directory.metadata("exe");
        found.is_ok_and(|found| is_file(known, (found.stx_dev_major, found.stx_dev_minor), found.stx_ino))
    }
}

/// Whether a file on `device` (major and minor number) is the kernel side's.
fn is_file(known: &Executable, device: (u32, u32), inode: u64) -> bool {
    /// `MINORBITS`, include/linux/kdev_t.h.
    const MINOR_BITS: u32 = 20;
    let (major, minor) = (known.device >> MINOR_BITS, known.device & ((1 << MINOR_BITS) - 1));
    // overlayfs and btrfs show the numbers of layers and subvolumes where the kernel has the file system's; all of those
    // are of the one major number that belongs to no device.
    let anonymous = major == 0 && device.0 == 0;
    known.inode == inode && (anonymous || (major, minor) == device)
}

/// Whether the error means that the process has exited.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn invalid(file: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("/proc/<pid>/{file} is not understood"))
}

/// A link of a process that exits at this moment is refused (EACCES), as if by rights: `proc_pid_readlink` and
/// `proc_pid_get_link` in fs/proc/base.c, `proc_ns_get_link` in fs/proc/namespaces.c, 4.14 to 7.0. Asked for again it is
/// not there.
fn again<T>(ask: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match ask() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => ask(),
        result => result,
    }
}

/// The names in a directory that are numbers.
fn numbers(at: BorrowedFd<'_>, path: &str) -> io::Result<impl Iterator<Item = io::Result<u32>> + use<>> {
    let directory = openat(at, path, OFlags::RDONLY | DIRECTORY, Mode::empty())?;
    Ok(Dir::new(directory)?.filter_map(|entry| match entry {
        Ok(entry) => entry.file_name().to_str().ok()?.parse().ok().map(Ok),
        Err(error) => Some(Err(error.into())),
    }))
}

#[cfg(test)]
mod tests;
