//! Rootless network helpers: programs that read a container's packets from a tun device and make its calls for it.

use std::io;

use rustix::fs::{FileType, Statx};

use super::paths::DELETED;
use crate::host::proc::{Proc, is_gone};

/// Names of their executables.
const HELPERS: [&str; 9] = [
    "gvproxy",
    "pasta",
    "pasta.avx2",
    "passt",
    "passt.avx2",
    "rootlesskit",
    "slirp4netns",
    "vpnkit",
    "vpnkit-forwarder",
];
/// Maximum number of open files to check per process.
const FILES_MAX: usize = 1024;

/// True for the name of a helper. The name alone proves nothing.
pub(super) fn is_named_so(executable: &str) -> bool {
    let executable = executable.strip_suffix(DELETED).unwrap_or(executable);
    let name = executable.rsplit('/').next().unwrap_or(executable);
    HELPERS.contains(&name)
}

/// True if the process, which started at `start` (ns since boot), holds a tun device. Checks the device's number,
/// because the paths of open files belong to a mount namespace that is gone. `None` if the process has exited: a
/// process that is still to be waited for has its directory, but no files.
pub(super) fn holds_tun(pid: u32, start: u64) -> io::Result<Option<bool>> {
    let look = || {
        let process = Proc::find(pid, start)?;
        let mut holds = None;
        for file in process.directory().numbers("fd")?.take(FILES_MAX) {
            // Ignores a file that was closed in between.
            let data = process.directory().metadata(&format!("fd/{}", file?));
            holds = Some(holds.unwrap_or_default() || data.is_ok_and(|data| is_tun(&data)));
        }
        Ok(holds)
    };
    look().or_else(|error| if is_gone(&error) { Ok(None) } else { Err(error) })
}

fn is_tun(data: &Statx) -> bool {
    /// `MISC_MAJOR` and `TUN_MINOR`, Documentation/admin-guide/devices.txt.
    const TUN: (u32, u32) = (10, 200);
    FileType::from_raw_mode(data.stx_mode.into()) == FileType::CharacterDevice
        && (data.stx_rdev_major, data.stx_rdev_minor) == TUN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    #[test]
    fn helpers_are_known_by_their_names_and_by_what_they_hold() {
        for executable in [
            "/usr/bin/slirp4netns",
            "/usr/bin/pasta.avx2 (deleted)",
            "/home/a/bin/rootlesskit",
        ] {
            assert!(is_named_so(executable), "{executable}");
        }
        for executable in ["/usr/bin/curl", "/usr/bin/slirp4netns/curl", "/usr/bin/pasta2", ""] {
            assert!(!is_named_so(executable), "{executable}");
        }
        let own = Proc::open(std::process::id()).expect("this process");
        let start = clock::from_ticks(own.stat.start);
        assert_eq!(holds_tun(own.pid(), start).expect("our own files"), Some(false));
        assert_eq!(holds_tun(own.pid(), 1).expect("another process"), None);
        assert_eq!(holds_tun(u32::MAX, start).expect("nobody"), None);
    }

    #[test]
    fn of_a_process_that_has_exited_nothing_is_told() {
        let mut child = std::process::Command::new("true").spawn().expect("a program");
        let pid = child.id();
        let process = Proc::open(pid).expect("not waited for");
        while process.directory().exe().expect("readable").is_some() {
            std::thread::yield_now();
        }
        let start = clock::from_ticks(process.stat.start);
        assert_eq!(holds_tun(pid, start).expect("no files"), None);
        child.wait().expect("our own child");
    }
}
