//! Rootless network helpers: programs that read a container's packets from a tun device and make its calls for it.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
};

use super::caller::DELETED;

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
pub(super) fn holds_tun(pid: u32) -> io::Result<bool> {
    let mut files = fs::read_dir(format!("/proc/{pid}/fd"))?.take(FILES_MAX);
    // One that is closed meanwhile is none.
    let is_tun = |file: io::Result<fs::DirEntry>| fs::metadata(file.ok()?.path()).ok().map(|data| is_tun(&data));
    Ok(files.any(|file| is_tun(file) == Some(true)))
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
        assert!(!holds_tun(std::process::id()).expect("our own files"));
        assert!(holds_tun(u32::MAX).is_err());
    }
}
