//! What this host has: probed, not guessed from version numbers.

use std::{fs, path::Path};

use imds_analyzer_ebpf::abi::{Offsets, legacy::Settings, program};
use rustix::thread::CapabilitySet;

use super::{btf::Btf, cgroup, constants, offsets, tracefs::Tracefs};
use crate::host::capabilities;

/// One thing that the tool can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    Privileges,
    KernelReads,
    Cgroup2,
    Btf,
    RingBuffer,
    Fentry,
    TpBtf,
    Kprobe,
    KprobeEvents,
}

impl Feature {
    pub const ALL: [Self; 9] = [
        Self::Privileges,
        Self::KernelReads,
        Self::Cgroup2,
        Self::Btf,
        Self::RingBuffer,
        Self::Fentry,
        Self::TpBtf,
        Self::Kprobe,
        Self::KprobeEvents,
    ];

    /// Name in `check`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Privileges => "privileges",
            Self::KernelReads => "reads of kernel memory",
            Self::Cgroup2 => "cgroup2",
            Self::Btf => "BTF",
            Self::RingBuffer => "ring buffer",
            Self::Fentry => "fentry tcp_sendmsg_locked",
            Self::TpBtf => "tp_btf tcp_sendmsg_locked",
            Self::Kprobe => "kprobe tcp_sendmsg_locked",
            Self::KprobeEvents => "kprobe events",
        }
    }

    /// The first kernel that has the feature.
    pub const fn since(self) -> &'static str {
        match self {
            Self::Privileges | Self::KernelReads => "any",
            Self::Cgroup2 => "4.10",
            Self::Btf => "4.18, with CONFIG_DEBUG_INFO_BTF 5.4",
            Self::RingBuffer => "5.8",
            Self::Fentry => "5.5 on x86_64, 6.4 on arm64",
            Self::TpBtf => "6.15",
            Self::Kprobe => "4.17",
            Self::KprobeEvents => "4.14",
        }
    }

    /// The feature's use, and the remedy if it is missing.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Privileges => {
                "run as root (sudo), or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_PTRACE and, for the self-test in a network namespace, CAP_SYS_ADMIN (before 5.11 also CAP_SYS_RESOURCE)"
            }
            Self::KernelReads => "boot with lockdown=integrity or without lockdown",
            Self::Cgroup2 => {
                "the wire tap attaches to the root of cgroup2: mount it (mount -t cgroup2 none /mnt), or run on the host instead of in a container"
            }
            Self::Btf => "it gives the offsets of kernel structs: use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
            Self::RingBuffer => "use Linux 5.8 or later",
            Self::Fentry | Self::TpBtf | Self::Kprobe => {
                "optional: one of the three hooks is enough to identify the sender; without any, a request is attributed to the process that connected"
            }
            Self::KprobeEvents => {
                "the send tap, the fallback for the wire tap, needs them: use a kernel built with CONFIG_KPROBE_EVENTS=y and CONFIG_BPF_EVENTS=y"
            }
        }
    }
}

/// The result of looking for a feature, with text for `check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe<T = String> {
    /// A description of the feature found.
    Present(T),
    /// Why the feature cannot be used.
    Missing(T),
    /// Not probed, because only a privileged process can: the host may have the feature.
    Unprobed,
}

impl Probe {
    fn as_deref(&self) -> Probe<&str> {
        match self {
            Self::Present(found) => Probe::Present(found),
            Self::Missing(why) => Probe::Missing(why),
            Self::Unprobed => Probe::Unprobed,
        }
    }
}

impl<T> Probe<T> {
    pub fn is_present(&self) -> bool {
        matches!(self, Self::Present(_))
    }
}

impl<'a> Probe<&'a str> {
    /// One line for people.
    pub fn detail(self) -> &'a str {
        match self {
            Self::Present(text) | Self::Missing(text) => text,
            Self::Unprobed => "not probed",
        }
    }
}

impl<T: Into<String>, E: ToString> From<Result<T, E>> for Probe {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(found) => Self::Present(found.into()),
            Err(why) => Self::Missing(why.to_string()),
        }
    }
}

/// The running host, one field for each [`Feature`].
#[derive(Clone, Debug)]
pub struct Features {
    /// Release and machine.
    pub kernel: String,
    /// The mode in brackets of `/sys/kernel/security/lockdown`.
    pub lockdown: Option<String>,
    pub privileges: Probe,
    pub kernel_reads: Probe,
    pub cgroup2: Probe,
    /// The offsets of struct fields that BTF gives, or why it gives none.
    pub btf: Result<Offsets, String>,
    /// Settings for the legacy object; `None` if BTF does not give them, in which case calibration learns them.
    pub legacy_settings: Option<Settings>,
    pub ring_buffer: Probe,
    pub fentry: Probe,
    pub tp_btf: Probe,
    pub kprobe: Probe,
    pub kprobe_events: Probe,
}

impl Features {
    /// Probes the running host. Loads no program: only a real load shows whether the kernel accepts one.
    pub fn probe() -> Self {
        let btf = Btf::from_kernel();
        let offsets = match &btf {
            Ok(btf) => offsets::from_btf(btf).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let legacy_settings = match (&btf, &offsets) {
            (Ok(btf), Ok(offsets)) => constants::from_btf(btf, *offsets).ok(),
            _ => None,
        };
        let in_btf = |found: fn(&Btf, &str) -> bool, what: &str| match &btf {
            Ok(btf) if found(btf, program::SENDER) => Probe::Present("in this kernel's BTF".to_owned()),
            Ok(_) => Probe::Missing(format!("this kernel has no such {what}")),
            Err(_) => Probe::Missing("needs BTF".to_owned()),
        };
        let privileges = privileges();
        let privileged = |probe: fn() -> Probe| match privileges {
            Probe::Present(_) => probe(),
            _ => Probe::Unprobed,
        };
        let kernel = rustix::system::uname();
        let lockdown = lockdown(Path::new("/sys/kernel/security/lockdown"));
        Self {
            kernel: format!(
                "{} {}",
                kernel.release().to_string_lossy(),
                kernel.machine().to_string_lossy()
            ),
            kernel_reads: kernel_reads(lockdown.as_deref()),
            lockdown,
            cgroup2: cgroup::Root::open().map(|root| root.describe()).into(),
            legacy_settings,
            ring_buffer: privileged(ring_buffer),
            fentry: in_btf(Btf::has_function, "function"),
            tp_btf: in_btf(Btf::has_tracepoint, "tracepoint"),
            kprobe: kprobes(),
            kprobe_events: privileged(kprobe_events),
            btf: offsets,
            privileges,
        }
    }

    pub fn get(&self, feature: Feature) -> Probe<&str> {
        match feature {
            Feature::Privileges => self.privileges.as_deref(),
            Feature::KernelReads => self.kernel_reads.as_deref(),
            Feature::Cgroup2 => self.cgroup2.as_deref(),
            Feature::Btf => match &self.btf {
                Ok(_) => Probe::Present("every field found"),
                Err(why) => Probe::Missing(why),
            },
            Feature::RingBuffer => self.ring_buffer.as_deref(),
            Feature::Fentry => self.fentry.as_deref(),
            Feature::TpBtf => self.tp_btf.as_deref(),
            Feature::Kprobe => self.kprobe.as_deref(),
            Feature::KprobeEvents => self.kprobe_events.as_deref(),
        }
    }
}

/// Checks the effective capabilities that loading and attaching need; CAP_SYS_ADMIN stands for all of them.
fn privileges() -> Probe {
    let needed = CapabilitySet::NET_ADMIN | CapabilitySet::PERFMON | CapabilitySet::BPF;
    match capabilities::effective() {
        Ok(held) if held.contains(CapabilitySet::SYS_ADMIN) => Probe::Present("CAP_SYS_ADMIN".to_owned()),
        Ok(held) if held.contains(needed) => Probe::Present("CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN".to_owned()),
        Ok(_) => Probe::Missing("this process is not allowed to load BPF programs".to_owned()),
        Err(error) => Probe::Missing(format!("cannot read its capabilities: {error}")),
    }
}

/// In lockdown mode "confidentiality" no program may call `bpf_probe_read_kernel` (5.4, commit 9d1f8be5cf42). Without
/// securityfs the mode is unknown, and only a load shows it.
fn kernel_reads(lockdown: Option<&str>) -> Probe {
    match lockdown {
        Some("confidentiality") => Probe::Missing("kernel lockdown mode is confidentiality".to_owned()),
        Some(level) => Probe::Present(format!("allowed, lockdown mode is {level}")),
        None => Probe::Present("no lockdown found".to_owned()),
    }
}

/// Asks the kernel for a ring buffer map, the way aya probes map types.
fn ring_buffer() -> Probe {
    match aya::sys::is_map_supported(aya::maps::MapType::RingBuf) {
        Ok(true) => Probe::Present("present".to_owned()),
        Ok(false) => Probe::Missing("this kernel has no BPF ring buffer".to_owned()),
        Err(error) => Probe::Missing(format!("cannot probe it: {error}")),
    }
}

/// Kprobes through perf_event_open (4.17): the kernel lists their PMU in sysfs.
fn kprobes() -> Probe {
    if Path::new("/sys/bus/event_source/devices/kprobe/type").exists() {
        Probe::Present("present".to_owned())
    } else {
        Probe::Missing("this kernel has no kprobes".to_owned())
    }
}

/// Kprobes through tracefs.
fn kprobe_events() -> Probe {
    Tracefs::open()
        .map(|tracefs| tracefs.describe().to_owned())
        .map_err(|error| format!("not in tracefs: {error}"))
        .into()
}

fn lockdown(path: &Path) -> Option<String> {
    let modes = fs::read_to_string(path).ok()?;
    let (_, rest) = modes.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}
