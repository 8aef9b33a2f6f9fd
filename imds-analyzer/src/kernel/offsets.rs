//! Where the fields the programs read are in this kernel: the only place that names them.

use std::fs;

use imds_analyzer_ebpf::abi::Settings;

use super::btf::{Btf, BtfError};

/// Looks every field up; the error names the first that is missing.
pub fn from_btf(btf: &Btf) -> Result<Settings, BtfError> {
    // The programs read struct sock's common part at the sock's own address.
    if btf.field("sock", "__sk_common")? != 0 {
        return Err(BtfError::Format("struct sock does not start with its common part"));
    }
    let required = Settings {
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
        ..Settings::default()
    };
    let with_login = with_login(btf, required);
    let with_paths = with_paths(btf, with_login).unwrap_or(with_login);
    Ok(with_cgroup(btf, with_paths).unwrap_or(with_paths))
}

/// Audit's fields, of a kernel that was built with it, and how often the task executed a program.
fn with_login(btf: &Btf, settings: Settings) -> Settings {
    Settings {
        task_loginuid: btf.field("task_struct", "loginuid").unwrap_or(0),
        task_sessionid: btf.field("task_struct", "sessionid").unwrap_or(0),
        task_self_exec_id: btf.field("task_struct", "self_exec_id").unwrap_or(0),
        ..settings
    }
}

/// All that the ways of files to their roots take, or nothing.
fn with_paths(btf: &Btf, settings: Settings) -> Result<Settings, BtfError> {
    Ok(Settings {
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

/// All that a cgroup's path takes, or nothing.
fn with_cgroup(btf: &Btf, settings: Settings) -> Result<Settings, BtfError> {
    Ok(Settings {
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

/// Where a task's place in the v1 hierarchy of `pids` is, 0 where `pids` belongs to v2: container runtimes and systemd
/// alike keep every container and every unit apart in it.
fn v1_hierarchy(btf: &Btf) -> Result<u32, BtfError> {
    const POINTER: u32 = 8;
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
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
    }
}
