//! The root of the cgroup v2 hierarchy, where the hooks see every socket of the machine.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    fs::{AtFlags, statat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
};

use crate::host::mounts::{self, Mount};

/// The open root. Dropping it releases a private mount.
#[derive(Debug)]
pub enum Root {
    /// Mounted by the host at this path.
    Mounted(PathBuf, File),
    /// Not mounted by the host: an unattached mount that only this descriptor holds.
    Private(OwnedFd),
}

impl Root {
    /// Finds the mount in mountinfo, or creates a private one (fsopen: 5.2).
    pub fn open() -> io::Result<Self> {
        if let Some(path) = find(mounts::read()?) {
            return Ok(Self::Mounted(path.clone(), File::open(path)?));
        }
        let filesystem = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(filesystem.as_fd())?;
        let mount = fsmount(
            filesystem.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        Ok(Self::Private(mount))
    }

    /// True if this is only the root of a cgroup namespace, for example in a container: other processes of the host are
    /// in cgroups beside or above it. The root of the hierarchy has no type (Documentation/admin-guide/cgroup-v2.rst,
    /// "cgroup.type").
    pub fn is_of_namespace(&self) -> bool {
        statat(self, "cgroup.type", AtFlags::empty()).is_ok()
    }

    /// The path of the mount, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Mounted(path, _) => path.display().to_string(),
            Self::Private(_) => "a private mount (this host has not mounted cgroup2)".to_owned(),
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Mounted(_, file) => file.as_fd(),
            Self::Private(mount) => mount.as_fd(),
        }
    }
}

/// Detaches an egress program that was attached to a cgroup without a link.
pub fn detach_egress(cgroup: &Root, program: BorrowedFd<'_>) -> io::Result<()> {
    /// `BPF_PROG_DETACH` and `BPF_CGROUP_INET_EGRESS` of include/uapi/linux/bpf.h.
    const PROG_DETACH: libc::c_int = 9;
    const INET_EGRESS: u32 = 1;
    /// The part of `union bpf_attr` that this command uses.
    #[repr(C)]
    struct Attr {
        target: libc::c_int,
        program: libc::c_int,
        attach_type: u32,
        flags: u32,
    }
    let attr = Attr {
        target: cgroup.as_fd().as_raw_fd(),
        program: program.as_raw_fd(),
        attach_type: INET_EGRESS,
        flags: 0,
    };
    // SAFETY: the kernel reads only the size it is given, from a struct that outlives the call.
    match unsafe { libc::syscall(libc::SYS_bpf, PROG_DETACH, &raw const attr, size_of::<Attr>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Mount point of a cgroup2 mount that shows the root of its hierarchy.
fn find(mounts: impl IntoIterator<Item = Mount>) -> Option<PathBuf> {
    mounts
        .into_iter()
        .find(|mount| mount.system == "cgroup2" && mount.root == "/")
        .map(|mount| mount.point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount_on_unified_hybrid_and_legacy_hosts() {
        let unified = "24 1 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw";
        let legacy = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu";
        let inside_a_container = "41 31 0:38 /../.. /sys/fs/cgroup ro - cgroup2 cgroup2 rw";
        assert_eq!(find(mounts::parse(unified)), Some("/sys/fs/cgroup".into()));
        assert_eq!(find(mounts::parse(hybrid)), Some("/sys/fs/cgroup/uni fied".into()));
        assert_eq!(find(mounts::parse(legacy)), None);
        assert_eq!(find(mounts::parse(inside_a_container)), None);
    }
}
