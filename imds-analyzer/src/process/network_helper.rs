//! Rootless network helpers: programs that read a container's packets from a tun device and make its calls for it.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
};

use super::paths::DELETED;
use crate::host::proc::is_gone;

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
/// Open files looked at of one process.
const FILES_MAX: usize = 1024;

/// True for the name of a helper; the name alone makes no helper.
pub(super) fn is_named_so(executable: &str) -> bool {
    let executable = executable.strip_suffix(DELETED).unwrap_or(executable);
    let name = executable.rsplit('/').next().unwrap_or(executable);
    HELPERS.contains(&name)
}

/// True if the process holds a tun device, by the device's number: paths are those of a mount namespace that is gone.
/// `None` if the process has exited: one that is waited for still has its directory, and no files.
pub(super) fn holds_tun(pid: u32) -> io::Result<Option<bool>> {
    let files = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(files) => files.take(FILES_MAX),
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut holds = None;
    for file in files {
        let path = match file {
            Ok(file) => file.path(),
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        // A file that is closed meanwhile is none.
        let is_tun = fs::metadata(path).is_ok_and(|data| is_tun(&data));
        holds = Some(holds.unwrap_or_default() || is_tun);
    }
    Ok(holds)
}

fn is_tun(data: &fs::Metadata) -> bool {
    /// `MISC_MAJOR` and `TUN_MINOR`, Documentation/admin-guide/devices.txt.
    const TUN: (u32, u32) = (10, 200);
    let device = data.rdev();
    data.file_type().is_char_device() && (libc::major(device), libc::minor(device)) == TUN
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(holds_tun(std::process::id()).expect("our own files"), Some(false));
        assert_eq!(holds_tun(u32::MAX).expect("nobody"), None);
    }

    #[test]
    fn of_a_process_that_has_exited_nothing_is_told() {
        let mut child = std::process::Command::new("true").spawn().expect("a program");
        let pid = child.id();
        let stat = || fs::read_to_string(format!("/proc/{pid}/stat")).expect("not waited for");
        while !stat().contains(") Z ") {
            std::thread::yield_now();
        }
        assert_eq!(holds_tun(pid).expect("no files"), None);
        child.wait().expect("our own child");
    }
}
