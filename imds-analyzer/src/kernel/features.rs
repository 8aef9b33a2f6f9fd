//! What this host has, probed and not guessed from version numbers.

use std::{fs, path::Path};

use imds_analyzer_ebpf::abi::{Settings, program, send::SendSettings};

use super::{btf::Btf, cgroup, constants, offsets, tracefs::Tracefs};

/// Why a feature is not known that only a privileged process can probe.
pub const NOT_LOOKED_AT: &str = "not looked at";

/// One thing the tool can use.
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

    /// The first kernel that has it.
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

    /// What it is needed for, and what helps if it is missing.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Privileges => {
                "run as root (sudo), or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_PTRACE, and CAP_SYS_ADMIN for its self-test in a network namespace (before 5.11 CAP_SYS_RESOURCE too)"
            }
            Self::KernelReads => "boot with lockdown=integrity, or without lockdown",
            Self::Cgroup2 => {
                "the wire tap is attached to the root of cgroup2: mount it (mount -t cgroup2 none /mnt), or run on the host and not inside a container"
            }
            Self::Btf => "offsets of kernel structs come from it: use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
            Self::RingBuffer => "use a kernel from 5.8 on",
            Self::Fentry | Self::TpBtf | Self::Kprobe => {
                "nothing to do: one of the three names the sender; without any, a request's owner is who connected"
            }
            Self::KprobeEvents => {
                "the send tap, which stands in where the wire tap cannot be had, is made of them: use a kernel built with CONFIG_KPROBE_EVENTS=y and CONFIG_BPF_EVENTS=y"
            }
        }
    }
}

/// A feature and whether this host has it.
#[derive(Clone, Debug)]
pub struct Probe {
    pub feature: Feature,
    /// What was found, or why it cannot be used.
    pub result: Result<String, String>,
}

/// All that was found.
#[derive(Clone, Debug)]
pub struct Features {
    pub kernel: String,
    pub probes: Vec<Probe>,
    /// Of struct fields, where there is BTF.
    pub offsets: Option<Settings>,
    /// The same for the send tap.
    pub send_offsets: Option<SendSettings>,
    /// The mode in brackets of `/sys/kernel/security/lockdown`.
    pub lockdown: Option<String>,
}

impl Features {
    /// Looks at the running host. Reads only; what a program's load says is found at load.
    pub fn probe() -> Self {
        let btf = Btf::from_kernel();
        let offsets = match &btf {
            Ok(btf) => offsets::from_btf(btf).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let send_offsets = match (&btf, &offsets) {
            // Without what the programs read of it, the send tap learns where things are.
            (Ok(btf), Ok(common)) => constants::from_btf(btf, *common).ok(),
            _ => None,
        };
        let in_btf = |found: fn(&Btf, &str) -> bool, what: &str| match &btf {
            Ok(btf) if found(btf, program::SENDER) => Ok("in this kernel's BTF".to_owned()),
            Ok(_) => Err(format!("this kernel has no such {what}")),
            Err(_) => Err("needs BTF".to_owned()),
        };
        let privileges = privileges();
        let kernel = rustix::system::uname();
        let lockdown = lockdown(Path::new("/sys/kernel/security/lockdown"));
        let results = [
            privileges.clone(),
            kernel_reads(lockdown.as_deref()),
            cgroup::Root::open()
                .map(|root| root.describe())
                .map_err(|error| error.to_string()),
            offsets
                .as_ref()
                .map(|_| "every field found".to_owned())
                .map_err(Clone::clone),
            match &privileges {
                Ok(_) => ring_buffer(),
                Err(_) => Err(NOT_LOOKED_AT.to_owned()),
            },
            in_btf(Btf::has_function, "function"),
            in_btf(Btf::has_tracepoint, "tracepoint"),
            kprobes(),
            match &privileges {
                Ok(_) => Tracefs::open()
                    .map(|tracefs| tracefs.describe().to_owned())
                    .map_err(|error| format!("tracefs has none: {error}")),
                Err(_) => Err(NOT_LOOKED_AT.to_owned()),
            },
        ];
        Self {
            kernel: format!(
                "{} {}",
                kernel.release().to_string_lossy(),
                kernel.machine().to_string_lossy()
            ),
            probes: Feature::ALL
                .into_iter()
                .zip(results)
                .map(|(feature, result)| Probe { feature, result })
                .collect(),
            offsets: offsets.ok(),
            send_offsets,
            lockdown,
        }
    }

    /// What was found of a feature.
    pub fn get(&self, feature: Feature) -> Result<&str, &str> {
        match self.probes.iter().find(|probe| probe.feature == feature) {
            Some(Probe { result: Ok(found), .. }) => Ok(found),
            Some(Probe { result: Err(why), .. }) => Err(why),
            None => Err("not looked at"),
        }
    }
}

/// The bits of the effective set that loading and attaching need; CAP_SYS_ADMIN stands for all of them.
fn privileges() -> Result<String, String> {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    const PERFMON: u64 = 1 << 38;
    const BPF: u64 = 1 << 39;
    let status = fs::read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        .ok_or("/proc/self/status has no CapEff line")?;
    if effective & SYS_ADMIN != 0 {
        return Ok("CAP_SYS_ADMIN".to_owned());
    }
    let needed = NET_ADMIN | PERFMON | BPF;
    if effective & needed == needed {
        return Ok("CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN".to_owned());
    }
    Err("this process may not load BPF programs".to_owned())
}

/// At confidentiality no program may call `bpf_probe_read_kernel` (5.4, commit 9d1f8be5cf42). Without securityfs the
/// level is not known, and a load tells.
fn kernel_reads(lockdown: Option<&str>) -> Result<String, String> {
    match lockdown {
        Some("confidentiality") => Err("kernel lockdown is at confidentiality".to_owned()),
        Some(level) => Ok(format!("allowed, lockdown is at {level}")),
        None => Ok("not forbidden as far as can be seen".to_owned()),
    }
}

/// Asks the kernel for one, as aya probes map types.
fn ring_buffer() -> Result<String, String> {
    match aya::sys::is_map_supported(aya::maps::MapType::RingBuf) {
        Ok(true) => Ok("present".to_owned()),
        Ok(false) => Err("this kernel has no BPF ring buffer".to_owned()),
        Err(error) => Err(format!("cannot be probed: {error}")),
    }
}

/// Kprobes by perf_event_open (4.17), whose PMU the kernel shows.
fn kprobes() -> Result<String, String> {
    if Path::new("/sys/bus/event_source/devices/kprobe/type").exists() {
        Ok("present".to_owned())
    } else {
        Err("this kernel has no kprobes".to_owned())
    }
}

fn lockdown(path: &Path) -> Option<String> {
    let modes = fs::read_to_string(path).ok()?;
    let (_, rest) = modes.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}
