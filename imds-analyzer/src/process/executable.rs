//! Decides if the path of an executable identifies its program.
//!
//! A path alone proves nothing. In its own mount namespace a process can give any file any path, and in its own user
//! namespace it can tell the kernel which file to report (PR_SET_MM_MAP). So the namespaces and the owner of the file
//! matter.

use std::io;

use imds_analyzer_ebpf::abi;

use super::Counters;
use crate::host::{namespace, proc::Proc};

/// Inode numbers of the namespaces of pid 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) mount_ns: u32,
    pub(super) user_ns: u32,
}

/// Trust in an executable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// See [`crate::event::Process::executable_trusted`].
    pub(super) trusted: bool,
    /// See [`crate::event::Process::executable_claimed`].
    pub(super) claimed: bool,
}

impl Host {
    /// # Errors
    ///
    /// Without `/proc`.
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self {
            mount_ns: namespace::of_host("mnt")?,
            user_ns: namespace::of_host("user")?,
        })
    }

    pub(super) fn judge(self, file: &abi::Executable) -> Standing {
        const WRITABLE_BY_OTHERS: u32 = 0o022;
        let is_file = file.inode != 0 && file.mode & libc::S_IFMT == libc::S_IFREG;
        let of_root = is_file && file.uid == 0 && file.mode & WRITABLE_BY_OTHERS == 0;
        Standing {
            trusted: of_root && file.mount_ns == self.mount_ns && file.user_ns == self.user_ns,
            claimed: file.user_ns != 0 && file.user_ns != self.user_ns,
        }
    }
}

/// True if the kernel side has read the facts.
pub(super) fn is_known(file: &abi::Executable) -> bool {
    file.inode != 0 && file.mount_ns != 0 && file.user_ns != 0
}

/// Judges the kernel's facts in `file` if the `path` was read with them, or else the facts in /proc if the program is
/// still the same.
pub(super) fn standing(
    host: Host,
    file: &abi::Executable,
    path: Option<&[u8]>,
    process: Option<&Proc>,
    counters: &mut Counters,
) -> Standing {
    if is_known(file) && path.is_some() {
        return host.judge(file);
    }
    let Some(process) = process else {
        return host.judge(&abi::Executable::default());
    };
    let of_proc = || counters.note(process.directory().exe()).flatten();
    let Some(path) = path.map(<[u8]>::to_vec).or_else(of_proc) else {
        return Standing::default();
    };
    let found = counters.note(look(process, host, &path)).unwrap_or_default();
    let standing = host.judge(&found);
    Standing {
        // The kernel saw another file, so another program was executed since.
        trusted: standing.trusted && (file.inode == 0 || file.inode == found.inode),
        ..standing
    }
}

/// The same facts from /proc, for a process that still runs the program at `path`; all zeroes otherwise.
pub(super) fn look(process: &Proc, host: Host, path: &[u8]) -> io::Result<abi::Executable> {
    let directory = process.directory();
    let mut file = abi::Executable {
        mount_ns: directory.namespace("ns/mnt")?,
        user_ns: directory.namespace("ns/user")?,
        ..abi::Executable::default()
    };
    if file.mount_ns == host.mount_ns && file.user_ns == host.user_ns {
        // Uses cached attributes: a user's own file system may never answer.
        let data = directory.metadata("exe")?;
        file.inode = data.stx_ino;
        file.uid = data.stx_uid;
        file.mode = u32::from(data.stx_mode);
    }
    // If process and program are still the same, all facts belong to them.
    if directory.exe()?.as_deref() != Some(path) {
        return Ok(abi::Executable::default());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host = Host {
        mount_ns: 0xf000_0001,
        user_ns: 0xeffffffd,
    };
    const CURL: abi::Executable = abi::Executable {
        inode: 7,
        device: 0x0080_0001,
        uid: 0,
        mode: libc::S_IFREG | 0o755,
        mount_ns: HOST.mount_ns,
        user_ns: HOST.user_ns,
        reserved: 0,
    };

    #[test]
    fn only_root_s_files_in_the_host_s_namespaces_are_trusted() {
        let trusted = Standing {
            trusted: true,
            claimed: false,
        };
        let setuid = abi::Executable {
            mode: libc::S_IFREG | 0o4755,
            ..CURL
        };
        assert_eq!((HOST.judge(&CURL), HOST.judge(&setuid)), (trusted, trusted));
        let other_mount_ns = |file: &mut abi::Executable| file.mount_ns += 1;
        let not_read = |file: &mut abi::Executable| *file = abi::Executable::default();
        let changes: [fn(&mut abi::Executable); 8] = [
            other_mount_ns,
            not_read,
            |file| file.uid = 1000,
            |file| file.mode |= 0o020,
            |file| file.mode |= 0o002,
            |file| file.mode = libc::S_IFDIR | 0o755,
            |file| file.inode = 0,
            |file| file.user_ns = 0,
        ];
        for change in changes {
            let mut file = CURL;
            change(&mut file);
            assert_eq!(HOST.judge(&file), Standing::default(), "{file:?}");
        }
        // The host's files and mounts, but another user namespace: the process can forge what the kernel reports.
        let forged = abi::Executable {
            user_ns: 0xf000_0002,
            ..CURL
        };
        let claimed = Standing {
            trusted: false,
            claimed: true,
        };
        assert_eq!(HOST.judge(&forged), claimed);
    }

    #[test]
    fn proc_says_the_same_of_this_process() {
        let host = Host::read().expect("/proc");
        let this = Proc::open(std::process::id()).expect("this process");
        let path = this.directory().exe().expect("readable").expect("a path");
        let file = look(&this, host, &path).expect("readable");
        assert_eq!(file.mount_ns, this.directory().namespace("ns/mnt").expect("readable"));
        assert!(is_known(&file), "{file:?}");
        assert_eq!(
            look(&this, host, b"/usr/bin/other").expect("readable"),
            abi::Executable::default()
        );
    }
}
