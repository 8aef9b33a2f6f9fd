//! Where the fields the programs read are in this kernel: the only place that names them.

use imds_analyzer_ebpf::abi::Settings;

use super::btf::{Btf, BtfError};

/// Looks every field up; the error names the first that is missing.
pub fn from_btf(btf: &Btf) -> Result<Settings, BtfError> {
    // The programs read struct sock's common part at the sock's own address.
    if btf.field("sock", "__sk_common")? != 0 {
        return Err(BtfError::Format("struct sock does not start with its common part"));
    }
    Ok(Settings {
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
        budget_cost: 0,
        budget_depth: 0,
    })
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
    }
}
