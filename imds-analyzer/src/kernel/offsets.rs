//! Offsets of the fields that the programs read in this kernel: the only file that names these fields.

use imds_analyzer_ebpf::abi::Offsets;

use super::btf::{Btf, BtfError};
use crate::host::proc::Directory;

/// Looks up every field; the error names the first that is missing.
pub fn from_btf(btf: &Btf) -> Result<Offsets, BtfError> {
    // The programs read struct sock's common part at the sock's own address.
    if btf.field("sock", "__sk_common")? != 0 {
        return Err(BtfError::Format("struct sock does not start with its common part"));
    }
    let required = Offsets {
        task_flags: btf.field("task_struct", "flags")?,
        task_real_parent: btf.field("task_struct", "real_parent")?,
        task_group_leader: btf.field("task_struct", "group_leader")?,
        task_pid: btf.field("task_struct", "pid")?,
        task_tgid: btf.field("task_struct", "tgid")?,
        // real_start_time until 5.5 (commit cf25e24db61c).
        task_start_boottime: btf
            .field("task_struct", "start_boottime")
            .or_else(|_| btf.field("task_struct", "real_start_time"))?,
        task_comm: btf.field("task_struct", "comm")?,
        task_mm: btf.field("task_struct", "mm")?,
        task_cred: btf.field("task_struct", "cred")?,
        task_thread_pid: btf.field("task_struct", "thread_pid")?,
        cred_uid: btf.field("cred", "uid")?,
        cred_gid: btf.field("cred", "gid")?,
        pid_level: btf.field("pid", "level")?,
        pid_numbers: btf.field("pid", "numbers")?,
        upid_size: btf.size_of("upid")?,
        upid_ns: btf.field("upid", "ns")?,
        pid_namespace_inum: btf.field("pid_namespace", "ns")? + btf.field("ns_common", "inum")?,
        mm_arg_start: btf.field("mm_struct", "arg_start")?,
        mm_arg_end: btf.field("mm_struct", "arg_end")?,
        sock_daddr: btf.field("sock_common", "skc_daddr")?,
        sock_dport: btf.field("sock_common", "skc_dport")?,
        sock_family: btf.field("sock_common", "skc_family")?,
        sock_v6_daddr: btf.field("sock_common", "skc_v6_daddr")?,
        sock_net: btf.field("sock_common", "skc_net")?,
        sock_cookie: btf.field("sock_common", "skc_cookie")?,
        net_inum: btf.field("net", "ns")? + btf.field("ns_common", "inum")?,
        tcp_sock_write_seq: btf.field("tcp_sock", "write_seq")?,
        ..Offsets::default()
    };
    let with_login = with_login(btf, required);
    let with_paths = with_paths(btf, with_login).unwrap_or(with_login);
    let with_cgroup = with_cgroup(btf, with_paths).unwrap_or(with_paths);
    let with_executable = with_executable(btf, with_cgroup).unwrap_or(with_cgroup);
    let with_pages = with_pages(btf, with_executable).unwrap_or(with_executable);
    Ok(with_mptcp(btf, with_pages).unwrap_or(with_pages))
}

/// Fields of audit, each 0 if the kernel was built without it, and how often the task executed a program.
fn with_login(btf: &Btf, settings: Offsets) -> Offsets {
    Offsets {
        task_loginuid: btf.field("task_struct", "loginuid").unwrap_or(0),
        task_sessionid: btf.field("task_struct", "sessionid").unwrap_or(0),
        task_self_exec_id: btf.field("task_struct", "self_exec_id").unwrap_or(0),
        ..settings
    }
}

/// All fields that are needed to walk from a file to its root, or none.
fn with_paths(btf: &Btf, settings: Offsets) -> Result<Offsets, BtfError> {
    Ok(Offsets {
        task_fs: btf.field("task_struct", "fs")?,
        mm_exe_file: btf.field("mm_struct", "exe_file")?,
        file_path: btf.field("file", "f_path")?,
        fs_pwd: btf.field("fs_struct", "pwd")?,
        path_mnt: btf.field("path", "mnt")?,
        path_dentry: btf.field("path", "dentry")?,
        dentry_parent: btf.field("dentry", "d_parent")?,
        dentry_name: btf.field("dentry", "d_name")? + btf.field("qstr", "name")?,
        dentry_hash: btf.field("dentry", "d_hash")?,
        mount_vfsmount: btf.field("mount", "mnt")?,
        mount_parent: btf.field("mount", "mnt_parent")?,
        mount_mountpoint: btf.field("mount", "mnt_mountpoint")?,
        vfsmount_root: btf.field("vfsmount", "mnt_root")?,
        ..settings
    })
}

/// All fields that a cgroup's path needs, or none.
fn with_cgroup(btf: &Btf, settings: Offsets) -> Result<Offsets, BtfError> {
    Ok(Offsets {
        task_cgroups: btf.field("task_struct", "cgroups")?,
        css_set_dfl_cgrp: btf.field("css_set", "dfl_cgrp")?,
        css_set_subsys: v1_hierarchy(btf)?,
        css_cgroup: btf.field("cgroup_subsys_state", "cgroup")?,
        cgroup_kn: btf.field("cgroup", "kn")?,
        kernfs_name: btf.field("kernfs_node", "name")?,
        // `__parent` from 6.15 on (commit 633488947ef6).
        kernfs_parent: btf
            .field("kernfs_node", "parent")
            .or_else(|_| btf.field("kernfs_node", "__parent"))?,
        ..settings
    })
}

/// All fields that tell which file a process executes and in which namespaces, or none.
fn with_executable(btf: &Btf, settings: Offsets) -> Result<Offsets, BtfError> {
    let inum = btf.field("ns_common", "inum")?;
    Ok(Offsets {
        task_nsproxy: btf.field("task_struct", "nsproxy")?,
        nsproxy_mnt_ns: btf.field("nsproxy", "mnt_ns")?,
        mnt_namespace_inum: btf.field("mnt_namespace", "ns")? + inum,
        cred_user_ns: btf.field("cred", "user_ns")?,
        user_namespace_inum: btf.field("user_namespace", "ns")? + inum,
        mm_exe_file: btf.field("mm_struct", "exe_file")?,
        file_inode: btf.field("file", "f_inode")?,
        inode_number: btf.field("inode", "i_ino")?,
        inode_uid: btf.field("inode", "i_uid")?,
        inode_mode: btf.field("inode", "i_mode")?,
        inode_super_block: btf.field("inode", "i_sb")?,
        super_block_device: btf.field("super_block", "s_dev")?,
        ..settings
    })
}

/// All fields that tell whether the sender can still write the pages of a packet, or none.
fn with_pages(btf: &Btf, settings: Offsets) -> Result<Offsets, BtfError> {
    // SKBFL_ZEROCOPY_ENABLE, SKBFL_SHARED_FRAG, SKBFL_PURE_ZEROCOPY, SKBFL_MANAGED_FRAG_REFS.
    const FLAGS: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 4;
    // Until 5.12 (commit 06b4feb37e64): SKBTX_DEV_ZEROCOPY, SKBTX_SHARED_FRAG.
    const TX_FLAGS: u32 = 1 << 3 | 1 << 5;
    let (shared_info_flags, shared_info_mask) = match btf.field("skb_shared_info", "flags") {
        Ok(offset) => (offset, FLAGS),
        Err(_) => (btf.field("skb_shared_info", "tx_flags")?, TX_FLAGS),
    };
    Ok(Offsets {
        skb_head: btf.field("sk_buff", "head")?,
        skb_end: btf.field("sk_buff", "end")?,
        shared_info_flags,
        shared_info_mask,
        ..settings
    })
}

/// All fields that tell who sends on an MPTCP connection, or none. Not every kernel has MPTCP.
fn with_mptcp(btf: &Btf, settings: Offsets) -> Result<Offsets, BtfError> {
    Ok(Offsets {
        tcp_sock_is_mptcp: btf.field("tcp_sock", "is_mptcp")?,
        sock_lock_owned: btf.field("sock", "sk_lock")? + btf.field("socket_lock_t", "owned")?,
        ..settings
    })
}

/// Offset of a task's cgroup in the v1 hierarchy of `pids`, 0 if `pids` belongs to v2. In this hierarchy both container
/// runtimes and systemd give every container and every unit a cgroup of its own.
fn v1_hierarchy(btf: &Btf) -> Result<u32, BtfError> {
    const POINTER: u32 = 8;
    let own = Directory::own().and_then(|own| own.cgroup()).unwrap_or_default();
    let is_v1 = own
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .any(|controllers| controllers.split(',').any(|name| name == "pids"));
    if !is_v1 {
        return Ok(0);
    }
    Ok(btf.field("css_set", "subsys")? + POINTER * btf.enum_value("cgroup_subsys_id", "pids_cgrp_id")?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed assertion is the point of a test")]

    use super::*;

    #[test]
    fn this_kernel_has_every_field() {
        let settings = from_btf(&Btf::from_kernel().unwrap()).unwrap();
        assert_ne!(settings.task_tgid, 0);
        assert_ne!(settings.tcp_sock_write_seq, 0);
        assert_ne!(
            (settings.task_fs, settings.dentry_name, settings.vfsmount_root),
            (0, 0, 0)
        );
        assert_ne!((settings.task_cgroups, settings.kernfs_name), (0, 0));
        assert_ne!((settings.inode_uid, settings.user_namespace_inum), (0, 0));
        assert_ne!((settings.shared_info_mask, settings.sock_lock_owned), (0, 0));
    }
}
