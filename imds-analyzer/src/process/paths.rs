//! Paths as the kernel side reads them: names, innermost first.

use imds_analyzer_ebpf::abi::{Paths, path_flags};

use super::caller::DELETED;

/// Paths that were read up to their root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KernelPaths {
    pub(super) executable: Option<Vec<u8>>,
    pub(super) working_directory: Option<Vec<u8>>,
    pub(super) cgroup: Option<String>,
}

impl KernelPaths {
    /// `names`: the names of all three paths in the record.
    pub(super) fn of(paths: Paths, names: &[u8]) -> Self {
        let Paths {
            executable_end,
            working_directory_end,
            cgroup_end,
            flags,
        } = paths;
        let path = |bit: u16, start: u16, end: u16, deleted: u16| {
            let names = names.get(usize::from(start)..usize::from(end))?;
            (flags & bit != 0).then(|| absolute(names, flags & deleted != 0))
        };
        let cgroup = path(path_flags::CGROUP, working_directory_end, cgroup_end, 0);
        Self {
            executable: path(
                path_flags::EXECUTABLE,
                0,
                executable_end,
                path_flags::EXECUTABLE_DELETED,
            ),
            working_directory: path(
                path_flags::WORKING_DIRECTORY,
                executable_end,
                working_directory_end,
                path_flags::WORKING_DIRECTORY_DELETED,
            ),
            cgroup: cgroup.map(|path| String::from_utf8_lossy(&path).into_owned()),
        }
    }

    /// Fills in missing paths from those known before.
    pub(super) fn or(self, former: Self) -> Self {
        Self {
            executable: self.executable.or(former.executable),
            working_directory: self.working_directory.or(former.working_directory),
            cgroup: self.cgroup.or(former.cgroup),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.executable.is_some() && self.working_directory.is_some() && self.cgroup.is_some()
    }
}

/// `python3\0bin\0usr\0` is `/usr/bin/python3`.
fn absolute(names: &[u8], deleted: bool) -> Vec<u8> {
    let names = names.strip_suffix(&[0]).unwrap_or(names);
    let mut path = Vec::with_capacity(names.len() + 1 + DELETED.len());
    for name in names.rsplit(|byte| *byte == 0) {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if deleted {
        path.extend_from_slice(DELETED.as_bytes());
    }
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    const NAMES: &[u8] = b"python3\0bin\0usr\0app\0opt\0app.service\0system.slice\0";

    #[test]
    fn names_become_paths() {
        let mut paths = Paths {
            executable_end: 16,
            working_directory_end: 24,
            cgroup_end: 49,
            flags: path_flags::EXECUTABLE | path_flags::WORKING_DIRECTORY | path_flags::CGROUP,
        };
        let all = KernelPaths::of(paths, NAMES);
        assert_eq!(all.executable.as_deref(), Some(&b"/usr/bin/python3"[..]));
        assert_eq!(all.working_directory.as_deref(), Some(&b"/opt/app"[..]));
        assert_eq!(all.cgroup.as_deref(), Some("/system.slice/app.service"));
        assert!(all.is_complete());

        paths.flags = path_flags::EXECUTABLE | path_flags::EXECUTABLE_DELETED;
        let one = KernelPaths::of(paths, NAMES);
        assert_eq!(one.executable.as_deref(), Some(&b"/usr/bin/python3 (deleted)"[..]));
        assert_eq!((one.working_directory.clone(), one.cgroup.clone()), (None, None));
        assert!(!one.is_complete());
    }

    #[test]
    fn the_root_has_no_names() {
        let paths = Paths {
            flags: path_flags::WORKING_DIRECTORY,
            ..Paths::default()
        };
        let root = KernelPaths::of(paths, NAMES);
        assert_eq!(root.working_directory.as_deref(), Some(&b"/"[..]));
        assert_eq!(KernelPaths::of(Paths::default(), &[]), KernelPaths::default());
    }

    proptest! {
        #[test]
        fn arbitrary_ends_never_panic(ends in any::<[u16; 3]>(), flags in any::<u16>(), names in any::<Vec<u8>>()) {
            let [executable_end, working_directory_end, cgroup_end] = ends;
            let _ = KernelPaths::of(Paths { executable_end, working_directory_end, cgroup_end, flags }, &names);
        }
    }
}
