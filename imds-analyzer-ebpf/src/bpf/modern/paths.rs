//! Paths of the current task: its executable, its working directory, its cgroup. The walk to the root takes no lock, so
//! a directory that is renamed during the walk may appear half renamed.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use imds_analyzer_ebpf::abi::{NAME_MAX, PATHS_MAX, Paths, path_flags};

use super::{constants::offset, memory};
use crate::bpf::common::read;

/// Maximum number of names and mounts visited on the way to the root of all files.
const FILE_DEPTH: usize = 20;
/// Maximum number of names visited on the way to the root of all cgroups.
const CGROUP_DEPTH: usize = 16;

type Names = [u8; PATHS_MAX];

pub(super) const NONE: Paths = Paths {
    executable_end: 0,
    working_directory_end: 0,
    cgroup_end: 0,
    flags: 0,
};

/// Reads the three paths of `task`. A path that does not fit takes no room. `task` is the thread that acts, not its
/// group leader: a group leader that has exited has no files any more.
#[inline(always)]
pub(super) fn read_into(paths: &mut Paths, names: &mut Names, task: u64, mm: u64) {
    // VERIFIER: the end of the names is kept in the record, whose values the verifier does not track. In a register,
    // each possible length would be another state to verify.
    let end = &mut paths.cgroup_end;
    memory::store(end, 0);
    let mut flags = 0;
    if offset!(mm_exe_file) != 0 {
        let (file, _) = read::kernel_or_zero::<u64>(mm + offset!(mm_exe_file));
        let executable = file + offset!(file_path);
        if whole(walk(executable, end, names), end, 0) {
            flags |= path_flags::EXECUTABLE;
            if is_deleted(executable) {
                flags |= path_flags::EXECUTABLE_DELETED;
            }
        }
    }
    paths.executable_end = memory::load(end);
    if offset!(task_fs) != 0 {
        let (fs, _) = read::kernel_or_zero::<u64>(task + offset!(task_fs));
        let directory = fs + offset!(fs_pwd);
        if whole(walk(directory, end, names), end, paths.executable_end) {
            flags |= path_flags::WORKING_DIRECTORY;
            if is_deleted(directory) {
                flags |= path_flags::WORKING_DIRECTORY_DELETED;
            }
        }
    }
    paths.working_directory_end = memory::load(end);
    if offset!(task_cgroups) != 0 && whole(cgroup(task, end, names), end, paths.working_directory_end) {
        flags |= path_flags::CGROUP;
    }
    paths.flags = flags;
}

/// True if a path was read up to its root. Otherwise drops the names that were read: without its root the path would
/// begin at an arbitrary directory.
#[inline(always)]
fn whole(walked: Option<()>, end: &mut u16, start: u16) -> bool {
    if walked.is_none() {
        memory::store(end, start);
    }
    walked.is_some()
}

/// Walks from the `struct path` at an address to the root of its mount namespace. Returns `None` if the root cannot be
/// reached or the path does not fit.
#[inline(always)]
fn walk(path: u64, end: &mut u16, names: &mut Names) -> Option<()> {
    let (mut dentry, _) = read::kernel_or_zero::<u64>(path + offset!(path_dentry));
    let (vfsmount, _) = read::kernel_or_zero::<u64>(path + offset!(path_mnt));
    let mut mount = vfsmount.wrapping_sub(offset!(mount_vfsmount));
    // VERIFIER: a constant bound; the verifier walks every iteration.
    for _ in 0..FILE_DEPTH {
        let (root, _) = read::kernel_or_zero::<u64>(mount + offset!(mount_vfsmount) + offset!(vfsmount_root));
        let (parent, failed) = read::kernel_or_zero::<u64>(dentry + offset!(dentry_parent));
        if failed != 0 {
            return None;
        }
        if dentry == root {
            let (above, _) = read::kernel_or_zero::<u64>(mount + offset!(mount_parent));
            if above == mount {
                return Some(());
            }
            (dentry, _) = read::kernel_or_zero(mount + offset!(mount_mountpoint));
            mount = above;
        } else {
            append(dentry + offset!(dentry_name), end, names)?;
            // The root of a directory tree, but of no mount: a file that cannot be reached has no path.
            if parent == dentry {
                return None;
            }
            dentry = parent;
        }
    }
    None
}

/// True if the file of the `struct path` at an address was removed from its directory.
#[inline(always)]
fn is_deleted(path: u64) -> bool {
    let Some(dentry) = read::kernel::<u64>(path + offset!(path_dentry)) else {
        return false;
    };
    // The hash entry's back pointer (`pprev`), after its `next`: null once the name is removed from the table of names.
    read::kernel::<u64>(dentry + offset!(dentry_hash) + 8) == Some(0)
        // A root has no name that could be removed.
        && read::kernel::<u64>(dentry + offset!(dentry_parent)) != Some(dentry)
}

/// Reads the path of the task's v2 cgroup, or of its cgroup in a v1 hierarchy on hosts that use v1.
#[inline(always)]
fn cgroup(task: u64, end: &mut u16, names: &mut Names) -> Option<()> {
    let (css_set, _) = read::kernel_or_zero::<u64>(task + offset!(task_cgroups));
    let (cgroup, _): (u64, _) = if offset!(css_set_subsys) != 0 {
        let (state, _) = read::kernel_or_zero::<u64>(css_set + offset!(css_set_subsys));
        read::kernel_or_zero(state + offset!(css_cgroup))
    } else {
        read::kernel_or_zero(css_set + offset!(css_set_dfl_cgrp))
    };
    let (mut node, _) = read::kernel_or_zero::<u64>(cgroup + offset!(cgroup_kn));
    // VERIFIER: as in `walk`.
    for _ in 0..CGROUP_DEPTH {
        let parent: u64 = read::kernel(node + offset!(kernfs_parent))?;
        if parent == 0 {
            return Some(());
        }
        append(node + offset!(kernfs_name), end, names)?;
        node = parent;
    }
    None
}

/// Appends the name that the pointer at address `pointer` points to.
#[inline(always)]
fn append(pointer: u64, end: &mut u16, names: &mut Names) -> Option<()> {
    let (name, _) = read::kernel_or_zero::<u64>(pointer);
    let start = memory::load(end);
    let len = kernel_str_into::<NAME_MAX, PATHS_MAX>(names, start, name)?;
    memory::store(end, start + len);
    Some(())
}

/// Copies a NUL-terminated string of at most N bytes, its NUL included, into `to` at `start`; N bytes must be free
/// there. Returns the length with the NUL.
#[inline(always)]
fn kernel_str_into<const N: usize, const ROOM: usize>(to: &mut [u8; ROOM], start: u16, address: u64) -> Option<u16> {
    const { assert!(N <= ROOM) };
    let start = start as usize;
    if start > ROOM - N {
        return None;
    }
    // SAFETY: the N bytes from `start` on are within `to`, as just checked.
    let at = unsafe { to.as_mut_ptr().add(start) };
    // SAFETY: at most N bytes are written there; the helper checks the address it reads from.
    let len = unsafe { bpf_probe_read_kernel_str(at.cast(), N as u32, address as *const c_void) };
    if len > 0 { Some(len as u16) } else { None }
}
