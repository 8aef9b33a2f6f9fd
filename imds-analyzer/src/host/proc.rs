//! One process under /proc. Its directory is held open, and such a directory never becomes that of a later process with
//! the same pid: what is read through it belongs to the process whose start time was checked.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read as _},
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
};

use imds_analyzer_ebpf::abi::{COMM_LEN, Executable};
use procfs::{ProcError, process::Process};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::process::Counters;

/// Bytes of a file under /proc that are read at most.
const FILE_MAX: usize = 16 << 10;
/// Bytes of arguments that are read at most.
pub(crate) const CMDLINE_MAX: usize = 4096;

/// proc(5) gives times in clock ticks since boot, the kernel side in nanoseconds since boot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks {
    nanoseconds: u64,
}

impl Ticks {
    pub(crate) fn of_this_host() -> Self {
        Self {
            nanoseconds: 1_000_000_000 / procfs::ticks_per_second().max(1),
        }
    }

    /// As the kernel rounds it: down.
    pub(crate) fn of(self, nanoseconds: u64) -> u64 {
        nanoseconds / self.nanoseconds.max(1)
    }

    pub(crate) fn to_nanoseconds(self, ticks: u64) -> u64 {
        ticks.saturating_mul(self.nanoseconds)
    }
}

#[derive(Debug)]
pub(crate) struct Proc {
    process: Process,
    pub(crate) stat: Stat,
}

/// What is needed of `/proc/<pid>/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: u32,
    /// Start time in ticks since boot.
    pub(crate) start: u64,
    pub(crate) comm: [u8; COMM_LEN],
}

/// The process `pid` if it started at `start` (nanoseconds since boot), as exactly as /proc tells. A start of 0 could not
/// be read, and matches nothing.
pub(crate) fn find(pid: u32, start: u64, ticks: Ticks, counters: &mut Counters) -> Option<Proc> {
    if start == 0 {
        return None;
    }
    counters
        .note(Proc::open(pid))
        .filter(|found| found.stat.start == ticks.of(start))
}

impl Proc {
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).map_err(|_error| io::Error::from(ErrorKind::NotFound))?;
        let process = Process::new(pid).map_err(io_error)?;
        let text = read(&process, "stat", FILE_MAX)?;
        let stat = Stat::parse(&text).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "/proc/<pid>/stat"))?;
        Ok(Self { process, stat })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid.unsigned_abs()
    }

    /// `None` for a kernel thread, which has none.
    pub(crate) fn exe(&self) -> io::Result<Option<Vec<u8>>> {
        path(|| self.process.exe())
    }

    /// Whether it executes this file, as far as can be told: any will do where the kernel side knows of none.
    pub(crate) fn executes(&self, known: &Executable) -> bool {
        if known.inode == 0 {
            return true;
        }
        // What is cached will do: a server that does not answer stops nobody.
        let flags = AtFlags::STATX_DONT_SYNC;
        let path = format!("/proc/{}/exe", self.pid());
        statx(CWD, path, flags, StatxFlags::INO)
            .is_ok_and(|found| is_file(known, (found.stx_dev_major, found.stx_dev_minor), found.stx_ino))
    }

    pub(crate) fn cwd(&self) -> io::Result<Option<Vec<u8>>> {
        path(|| self.process.cwd())
    }

    /// NUL-separated arguments, [`CMDLINE_MAX`] bytes of them at most.
    pub(crate) fn cmdline(&self) -> io::Result<Vec<u8>> {
        read(&self.process, "cmdline", CMDLINE_MAX)
    }

    pub(crate) fn cgroup(&self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&read(&self.process, "cgroup", FILE_MAX)?).into_owned())
    }

    /// The user who logged in, and the audit session; `u32::MAX` where there is none. An error on a kernel without audit.
    pub(crate) fn login(&self) -> io::Result<(u32, u32)> {
        let number = |file| {
            let text = read(&self.process, file, FILE_MAX)?;
            let number = str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
            number.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "a number under /proc"))
        };
        Ok((number("loginuid")?, number("sessionid")?))
    }

    /// Real user and group id.
    pub(crate) fn ids(&self) -> io::Result<(u32, u32)> {
        let text = read(&self.process, "status", FILE_MAX)?;
        let text = String::from_utf8_lossy(&text);
        let id = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
        };
        id("Uid:")
            .zip(id("Gid:"))
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "/proc/<pid>/status"))
    }
}

impl Stat {
    /// `pid (comm) state ppid ... starttime ...`; the name may hold any character, `)` and line ends too.
    fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let mut comm = [0; COMM_LEN];
        // The last byte stays NUL; some kernel threads have longer names here.
        for (to, from) in comm.iter_mut().take(COMM_LEN - 1).zip(text.get(open + 1..close)?) {
            *to = *from;
        }
        let mut fields = text.get(close + 2..)?.split(|byte| byte.is_ascii_whitespace());
        let mut number = |skipped| str::from_utf8(fields.nth(skipped)?).ok()?.parse::<u64>().ok();
        // Fields 4 and 22; the first one here is field 3.
        let parent = u32::try_from(number(1)?).ok()?;
        Some(Self {
            parent,
            start: number(17)?,
            comm,
        })
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

/// A process's arguments and executable as they are at this moment, if there are any; whose they are is for the caller
/// to know.
pub(crate) fn cmdline_and_exe(pid: u32) -> Option<(Vec<u8>, Vec<u8>)> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let mut cmdline = Vec::new();
    let max = u64::try_from(CMDLINE_MAX).unwrap_or(u64::MAX);
    let file = File::open(directory.join("cmdline")).ok()?;
    file.take(max).read_to_end(&mut cmdline).ok()?;
    let exe = fs::read_link(directory.join("exe")).ok()?;
    Some((cmdline, exe.into_os_string().into_vec())).filter(|(cmdline, _)| !cmdline.is_empty())
}

/// Whether the error means that the process has exited.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

pub(crate) fn io_error(error: ProcError) -> io::Error {
    match error {
        ProcError::PermissionDenied(_) => ErrorKind::PermissionDenied.into(),
        ProcError::NotFound(_) => ErrorKind::NotFound.into(),
        ProcError::Io(error, _) => error,
        error => io::Error::other(error.to_string()),
    }
}

fn read(process: &Process, file: &str, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let max = u64::try_from(max).unwrap_or(u64::MAX);
    process
        .open_relative(file)
        .map_err(io_error)?
        .take(max)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Follows a link under /proc. That of a process that exits at this moment is refused (EACCES) as if by rights:
/// `proc_pid_readlink` and `proc_pid_get_link` in fs/proc/base.c, `proc_ns_get_link` in fs/proc/namespaces.c, 4.14 to 7.0.
/// Asked for again it is not there.
pub(crate) fn link<T>(ask: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match ask() {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => ask(),
        result => result,
    }
}

fn path(ask: impl Fn() -> procfs::ProcResult<PathBuf>) -> io::Result<Option<Vec<u8>>> {
    match link(|| ask().map_err(io_error)) {
        Ok(path) => Ok(Some(path.into_os_string().into_vec())),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        io::{Error, ErrorKind},
    };

    use imds_analyzer_ebpf::abi::Executable;

    use super::{Proc, Stat, is_file, is_gone, link};

    #[test]
    fn an_executable_is_its_file_and_not_its_name() {
        let known = |device, inode| Executable {
            device,
            inode,
            ..Executable::default()
        };
        for (kernel, inode, device, found, same) in [
            // 8:1 and 259:7, 20 bits of minor number.
            (8 << 20 | 1, 42, (8, 1), 42, true),
            (8 << 20 | 1, 42, (8, 1), 43, false),
            (8 << 20 | 1, 42, (8, 2), 42, false),
            (259 << 20 | 7, 42, (259, 7), 42, true),
            (259 << 20 | 7, 42, (3, 7), 42, false),
            (8 << 20 | 0xf_ffff, 42, (8, 0xf_ffff), 42, true),
            (8 << 20 | 0xf_ffff, 42, (8, 0xf_fffe), 42, false),
            // overlayfs: one number for the file system, others for its layers.
            (54, 42, (0, 55), 42, true),
            (54, 42, (0, 55), 43, false),
            (54, 42, (8, 54), 42, false),
            (8 << 20 | 1, 1 << 40, (8, 1), 0, false),
        ] {
            assert_eq!(
                is_file(&known(kernel, inode), device, found),
                same,
                "{kernel:x} {device:?}"
            );
        }
    }

    #[test]
    fn a_process_executes_its_own_file_and_no_other() {
        use std::os::unix::fs::MetadataExt as _;

        let this = Proc::open(std::process::id()).expect("this process");
        let file = std::fs::metadata("/proc/self/exe").expect("its executable");
        let device = libc::major(file.dev()) << 20 | libc::minor(file.dev());
        let mut known = Executable {
            device,
            inode: file.ino(),
            ..Executable::default()
        };
        assert!(this.executes(&known));
        known.inode += 1;
        assert!(!this.executes(&known));
        assert!(this.executes(&Executable::default()), "nothing is known");
    }

    #[test]
    fn a_link_of_a_process_that_exits_is_gone_and_not_refused() {
        let asked = Cell::new(0);
        let answers = |answers: [ErrorKind; 2]| {
            asked.set(0);
            link(|| {
                let kind = answers[asked.replace(asked.get() + 1)];
                Err::<(), _>(Error::from(kind))
            })
            .expect_err("no answer")
        };
        assert!(is_gone(&answers([ErrorKind::PermissionDenied, ErrorKind::NotFound])));
        // By rights, and not asked forever.
        assert!(!is_gone(&answers([ErrorKind::PermissionDenied; 2])));
        assert!(is_gone(&answers([ErrorKind::NotFound, ErrorKind::Other])));
        assert_eq!(asked.get(), 1);
    }

    #[test]
    fn a_name_cannot_forge_the_fields_behind_it() {
        let text = b"42 (a) R 7 8\n(b) S 1 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 161408 2998272 423\n";
        let comm = *b"a) R 7 8\n(b\0\0\0\0\0";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                parent: 1,
                start: 161_408,
                comm
            })
        );
    }

    #[test]
    fn cut_text_is_refused() {
        for text in [
            "",
            "42",
            "42 (a",
            "42 (a)",
            "42 (a) S",
            "42 (a) S 1 42 42 0",
            "42 )a( S 1",
        ] {
            assert_eq!(Stat::parse(text.as_bytes()), None, "{text}");
        }
    }
}
