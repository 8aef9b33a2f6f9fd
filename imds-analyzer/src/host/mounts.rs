//! The mounts that this process sees: `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::{io, path::PathBuf};

use super::proc::Directory;

/// Maximum number of bytes read from mountinfo. A host with many containers has thousands of mounts.
const MOUNTINFO_MAX: usize = 16 << 20;

/// A mount of the directory `root` of a file system at `point`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) root: String,
    pub(crate) point: PathBuf,
    /// Type of the file system, for example `cgroup2`.
    pub(crate) system: String,
    /// Options of the file system, not of the mount, separated by commas.
    pub(crate) options: String,
}

pub(crate) fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&Directory::own()?.text("mountinfo", MOUNTINFO_MAX)?).collect())
}

/// Skips truncated lines.
pub(crate) fn parse(mountinfo: &str) -> impl Iterator<Item = Mount> {
    mountinfo.lines().filter_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let mut system = system.split(' ');
        Some(Mount {
            root: unescaped(mount.next()?),
            point: unescaped(mount.next()?).into(),
            system: system.next()?.to_owned(),
            options: system.nth(1)?.to_owned(),
        })
    })
}

/// Decodes octal escapes such as `\040` for a space.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let byte = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(part.get(3..).unwrap_or_default().as_bytes());
            }
            None => {
                bytes.push(b'\\');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_with_escapes_and_lines_that_are_cut() {
        let text = r"25 24 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
26 25 0:23 /docker/1\0402 /mnt/a\134x2db rw shared:7 - cgroup cgroup rw,cpu,cpuacct
nonsense - cgroup
27 25 0:24 / / rw - ext4
";
        let mount = |root: &str, point: &str, system: &str, options: &str| Mount {
            root: root.to_owned(),
            point: point.into(),
            system: system.to_owned(),
            options: options.to_owned(),
        };
        assert_eq!(
            parse(text).collect::<Vec<_>>(),
            [
                mount("/", "/sys/fs/cgroup", "cgroup2", "rw,nsdelegate"),
                mount("/docker/1 2", r"/mnt/a\x2db", "cgroup", "rw,cpu,cpuacct"),
            ]
        );
    }

    #[test]
    fn this_host_has_proc_mounted() {
        assert!(read().is_ok_and(|mounts| mounts.iter().any(|mount| mount.system == "proc")));
    }
}
