//! Settings as a global: read-only data that user space writes before load, known constants to the verifier.

use imds_analyzer_ebpf::abi::Settings;

#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings {
    task_real_parent: 0,
    task_group_leader: 0,
    task_pid: 0,
    task_tgid: 0,
    task_start_boottime: 0,
    task_comm: 0,
    task_mm: 0,
    task_cred: 0,
    task_thread_pid: 0,
    cred_uid: 0,
    cred_gid: 0,
    pid_level: 0,
    pid_numbers: 0,
    upid_size: 0,
    upid_ns: 0,
    pid_namespace_inum: 0,
    mm_arg_start: 0,
    mm_arg_end: 0,
    sock_daddr: 0,
    sock_dport: 0,
    sock_family: 0,
    sock_v6_daddr: 0,
    sock_net: 0,
    sock_cookie: 0,
    net_inum: 0,
    tcp_sock_write_seq: 0,
};

/// One field of the settings.
macro_rules! setting {
    ($field:ident) => {
        $crate::bpf::settings_global::load(|settings| &raw const settings.$field)
    };
}
pub(super) use setting;

/// Loads a field where it is used: the compiler must not fold the zeroes above.
#[inline(always)]
pub(super) fn load(field: impl FnOnce(&Settings) -> *const u32) -> u64 {
    // SAFETY: a reference to a static's field is valid to read.
    let value = unsafe { core::ptr::read_volatile(field(&SETTINGS)) };
    value as u64
}
