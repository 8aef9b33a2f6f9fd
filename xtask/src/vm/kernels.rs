//! The kernels of the matrix: which packages they are in, and what they lack.

use anyhow::{Context as _, Result};

use super::arch::Arch;

/// One guest.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) name: &'static str,
    pub(crate) arch: Arch,
    pub(crate) distribution: Distribution,
    /// The packages that make it up.
    pub(crate) packages: &'static [Pattern],
    /// The CPU, if it is not the usual one.
    pub(crate) cpu: Option<&'static str>,
    /// True if the guest is only for tests without socket storage.
    pub(crate) only_no_storage: bool,
    /// The tap that is used by default.
    pub(crate) tap: Tap,
    /// Features that `check` must not find, beside the hooks in `absent`.
    pub(crate) without: &'static [&'static str],
    /// Values of `--owner` that this kernel must offer.
    pub(crate) owners: &'static [&'static str],
    /// Values of `--owner` that this kernel must refuse: their tests are left out, and the refusal is a test.
    pub(crate) absent: &'static [&'static str],
    /// The value of `--owner` whose load tests run here: one guest for each, they take minutes.
    pub(crate) load: Option<&'static str>,
    pub(crate) lacks: &'static [Absent],
}

/// The distribution that packages a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distribution {
    Debian,
    Ubuntu,
}

/// How the analyzer sees bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tap {
    Wire,
    Send,
}

/// A feature that a kernel lacks.
#[derive(Debug)]
pub(crate) struct Absent {
    /// The test that is left out.
    pub(crate) test: &'static str,
    /// The reason, in words.
    pub(crate) why: &'static str,
    /// A command that succeeds in a guest without the feature, and only there.
    pub(crate) proof: &'static str,
}

/// `<before><version><after>`: the newest package of that shape is taken.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub(crate) before: &'static str,
    pub(crate) after: &'static str,
}

const fn pattern(before: &'static str, after: &'static str) -> Pattern {
    Pattern { before, after }
}

const MPTCP: Absent = Absent {
    test: "multipath_tcp",
    why: "this build has no MPTCP (5.6)",
    proof: "! python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)' 2>/dev/null",
};

const MAPS_BEYOND_MEMLOCK: Absent = Absent {
    test: "with_the_capabilities_that_it_names",
    why: "before 5.11 maps count against RLIMIT_MEMLOCK, which is too low without CAP_SYS_RESOURCE",
    proof: "setpriv --bounding-set=-sys_resource,-sys_admin imds-analyzer check >/dev/null; test $? = 4",
};

const NO_BTF_PROOF: &str = "! test -e /sys/kernel/btf/vmlinux";

const NO_BTF: Absent = Absent {
    test: "no_btf",
    why: "this kernel has no BTF to hide",
    proof: NO_BTF_PROOF,
};

const TRUNCATED_BTF: Absent = Absent {
    test: "truncated_btf",
    why: "this kernel has no BTF to truncate",
    proof: NO_BTF_PROOF,
};

const WRONG_BTF: Absent = Absent {
    test: "tasks_that_cannot_be_read",
    why: "this kernel has no BTF to corrupt",
    proof: NO_BTF_PROOF,
};

const PRIVATE_MOUNTS: Absent = Absent {
    test: "no_cgroup2_in_sight",
    why: "a private mount needs fsopen(2) (5.2)",
    proof: "python3 -c 'import ctypes; exit(ctypes.CDLL(None).syscall(430, b\"cgroup2\", 0) >= 0)'",
};

const IO_URING: Absent = Absent {
    test: "io_uring",
    why: "this kernel has no io_uring (5.1)",
    proof: "python3 -c 'import ctypes; c = ctypes.CDLL(None, use_errno=True); c.syscall(425, 0, 0); \
            exit(ctypes.get_errno() != 38)'",
};

/// IORING_OP_SEND came together with IORING_REGISTER_PROBE, which asks a ring whether it has that operation.
const IO_URING_SEND: Absent = Absent {
    test: "io_uring",
    why: "io_uring cannot send before 5.6",
    proof: "python3 -c 'import ctypes; c = ctypes.CDLL(None); b = ctypes.create_string_buffer; \
            ring = c.syscall(425, 1, b(120)); exit(ring < 0 or c.syscall(427, ring, 8, b(4096), 256) == 0)'",
};

/// The test program for the wire tap of the legacy object, and the value of `--object` for that tap.
pub(crate) const LEGACY_WIRE: &str = "legacy_wire";
pub(crate) const LEGACY_WIRE_OBJECT: &str = "legacy-wire";

const PACKETS: Absent = Absent {
    test: LEGACY_WIRE,
    why: "packet programs cannot write to a perf buffer before 5.4",
    proof: "imds-analyzer check --object legacy-wire | grep 'cannot forward packets to user space'",
};

const ZERO_COPY: Absent = Absent {
    test: "zero_copy",
    why: "before 4.17 SO_ZEROCOPY must be set before connecting",
    proof: "! python3 -c 'import socket; s = socket.create_server((\"127.0.0.1\", 0)); \
            socket.create_connection(s.getsockname()).setsockopt(1, 60, 1)' 2>/dev/null",
};

const LOCKDOWN: Absent = Absent {
    test: "lockdown",
    why: "this kernel has no lockdown (5.4)",
    proof: "! test -e /sys/kernel/security/lockdown",
};

/// Features that no guest has, by the names that tests give them. A test that skips itself for another reason fails
/// there.
pub(crate) const GUESTS_LACK: [&str; 1] = ["tun"];

/// tp_btf's tracepoint, `tcp_sendmsg_locked`, exists since 6.15.
pub(crate) const ALL: [Kernel; 10] = [
    Kernel {
        name: "5.10",
        arch: Arch::X86_64,
        distribution: Distribution::Debian,
        packages: &[pattern("linux-image-5.10.0-", "-cloud-amd64")],
        cpu: None,
        only_no_storage: false,
        tap: Tap::Wire,
        without: &[],
        owners: &["fentry", "kprobe", "connect"],
        absent: &["tp_btf"],
        load: Some("kprobe"),
        lacks: &[MPTCP, MAPS_BEYOND_MEMLOCK],
    },
    Kernel {
        name: "6.1",
        arch: Arch::X86_64,
        distribution: Distribution::Debian,
        packages: &[pattern("linux-image-6.1.0-", "-cloud-amd64")],
        cpu: None,
        only_no_storage: false,
        tap: Tap::Wire,
        without: &[],
        owners: &["fentry", "kprobe", "connect"],
        absent: &["tp_btf"],
        load: Some("connect"),
        lacks: &[],
    },
    Kernel {
        name: "6.12",
        arch: Arch::X86_64,
        distribution: Distribution::Debian,
        packages: &[pattern("linux-image-6.12.", "+deb12-cloud-amd64")],
        cpu: None,
        only_no_storage: false,
        tap: Tap::Wire,
        without: &[],
        owners: &["fentry", "kprobe", "connect"],
        absent: &["tp_btf"],
        load: Some("fentry"),
        lacks: &[],
    },
    Kernel {
        name: "7",
        arch: Arch::X86_64,
        distribution: Distribution::Debian,
        packages: &[
            pattern("linux-binary-7.", "-cloud-amd64"),
            pattern("linux-modules-7.", "-cloud-amd64"),
        ],
        cpu: None,
        only_no_storage: false,
        tap: Tap::Wire,
        without: &[],
        owners: &["fentry", "tp_btf", "kprobe", "connect"],
        absent: &[],
        load: Some("tp_btf"),
        lacks: &[],
    },
    // Socket storage is never available there: `kmalloc_nolock` needs cmpxchg16b.
    Kernel {
        name: "7-nocx16",
        arch: Arch::X86_64,
        distribution: Distribution::Debian,
        packages: &[
            pattern("linux-binary-7.", "-cloud-amd64"),
            pattern("linux-modules-7.", "-cloud-amd64"),
        ],
        cpu: Some("qemu64,-cx16"),
        only_no_storage: true,
        tap: Tap::Wire,
        without: &[],
        owners: &["tp_btf"],
        absent: &[],
        load: None,
        lacks: &[],
    },
    // The first and the last kernel of Ubuntu 18.04.
    Kernel {
        name: "4.15-aws",
        arch: Arch::X86_64,
        distribution: Distribution::Ubuntu,
        packages: &[
            pattern("linux-image-4.15.0-", "-aws"),
            pattern("linux-modules-4.15.0-", "-aws"),
        ],
        cpu: None,
        only_no_storage: false,
        tap: Tap::Send,
        without: &["BTF", "ring buffer", "kprobe tcp_sendmsg_locked"],
        owners: &["kprobe"],
        absent: &["fentry", "tp_btf", "connect"],
        load: None,
        lacks: &[
            NO_BTF,
            TRUNCATED_BTF,
            WRONG_BTF,
            PRIVATE_MOUNTS,
            PACKETS,
            LOCKDOWN,
            IO_URING,
            ZERO_COPY,
        ],
    },
    Kernel {
        name: "5.4-aws",
        arch: Arch::X86_64,
        distribution: Distribution::Ubuntu,
        packages: &[
            pattern("linux-image-5.4.0-", "-aws"),
            pattern("linux-modules-5.4.0-", "-aws"),
        ],
        cpu: None,
        only_no_storage: false,
        tap: Tap::Send,
        without: &["ring buffer"],
        owners: &["kprobe"],
        absent: &["fentry", "tp_btf", "connect"],
        load: None,
        lacks: &[IO_URING_SEND],
    },
    // This kernel has everything but BTF.
    Kernel {
        name: "5.8-aws",
        arch: Arch::X86_64,
        distribution: Distribution::Ubuntu,
        packages: &[
            pattern("linux-image-5.8.0-", "-aws"),
            pattern("linux-modules-5.8.0-", "-aws"),
        ],
        cpu: None,
        only_no_storage: false,
        tap: Tap::Send,
        without: &["BTF"],
        owners: &["kprobe"],
        absent: &["fentry", "tp_btf", "connect"],
        load: None,
        lacks: &[NO_BTF, TRUNCATED_BTF, WRONG_BTF],
    },
    // fentry needs ftrace's direct calls, which arm64 has since 6.4: earlier, the kernel loads the program and refuses
    // to attach it.
    Kernel {
        name: "6.1-arm64",
        arch: Arch::Arm64,
        distribution: Distribution::Debian,
        packages: &[pattern("linux-image-6.1.0-", "-cloud-arm64")],
        cpu: None,
        only_no_storage: false,
        tap: Tap::Wire,
        without: &[],
        owners: &["kprobe", "connect"],
        absent: &["fentry", "tp_btf"],
        load: None,
        lacks: &[],
    },
    Kernel {
        name: "6.12-arm64",
        arch: Arch::Arm64,
        distribution: Distribution::Debian,
        packages: &[pattern("linux-image-6.12.", "+deb12-cloud-arm64")],
        cpu: None,
        only_no_storage: false,
        tap: Tap::Wire,
        without: &[],
        owners: &["fentry", "kprobe", "connect"],
        absent: &["tp_btf"],
        load: None,
        lacks: &[],
    },
];

/// Suites the packages come from; a mirror need not have all of them.
pub(crate) const SUITES: [&str; 4] = ["bullseye", "bookworm", "bookworm-backports", "sid"];
pub(crate) const SECURITY_SUITES: [&str; 2] = ["bullseye-security", "bookworm-security"];

/// Ubuntu's archive, and the suites that are read from it; Debian has a package with the keys.
pub(crate) const UBUNTU: &str = "http://archive.ubuntu.com/ubuntu";
pub(crate) const UBUNTU_SUITES: [&str; 2] = ["bionic-updates", "focal-updates"];
pub(crate) const UBUNTU_KEYS: &str = "ubuntu-keyring";

/// The clients of guests of another architecture, and the suite they are from.
pub(crate) const SYSTEM_SUITE: &str = "bookworm";
pub(crate) const SYSTEM: [&str; 12] = [
    "bash",
    "bpftool",
    "bsdutils",
    "busybox-static",
    "coreutils",
    "curl",
    "dash",
    "iproute2",
    "nftables",
    "python3",
    "util-linux",
    "wget",
];

/// Modules that tests use, if a kernel has them as modules, under their old and new names.
pub(crate) const MODULES: [&str; 12] = [
    "veth",
    "sch_netem",
    "tls",
    "inet_diag",
    "tcp_diag",
    "nf_tables",
    "nf_tables_ipv4",
    "nft_meta",
    "nft_chain_nat",
    "nft_nat",
    "nft_counter",
    "nft_numgen",
];

impl Kernel {
    /// True if records say what came back: `imds_ingress` belongs to the wire tap and keeps its counts in socket storage.
    pub(crate) fn sees_answers(&self) -> bool {
        self.tap == Tap::Wire && !self.only_no_storage
    }

    /// True if `rehearse` works here: it needs the wire tap of the modern object, and its answers. Elsewhere its tests
    /// are left out, and its refusal is a test.
    pub(crate) fn can_rehearse(&self) -> bool {
        self.sees_answers()
    }

    /// The folder of its packages, which kernels on other CPUs share.
    pub(crate) fn folder(&self) -> &'static str {
        self.name.trim_end_matches("-nocx16")
    }
}

impl Distribution {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Debian => "Debian",
            Self::Ubuntu => "Ubuntu",
        }
    }
}

impl Tap {
    /// The value of `imds.tap`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Send => "send",
        }
    }
}

/// The kernel of this name.
pub(crate) fn named(name: &str) -> Result<&'static Kernel> {
    ALL.iter().find(|kernel| kernel.name == name).with_context(|| {
        let known: Vec<_> = ALL.iter().map(|kernel| kernel.name).collect();
        format!(
            "there is no kernel {name} in the matrix; there are {}",
            known.join(", ")
        )
    })
}

impl Pattern {
    /// The newest of `names`. Unsigned, debug and backported variants have words in place of the version, and do not
    /// count.
    pub(crate) fn newest<'a>(&self, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let version = |name: &'a str| -> Option<Vec<u64>> {
            let version = name.strip_prefix(self.before)?.strip_suffix(self.after)?;
            // sid's versions end in the release they are for.
            let version = version.split_once("+deb").map_or(version, |(version, _)| version);
            version.split('.').map(|part| part.parse().ok()).collect()
        };
        names
            .filter_map(|name| Some((version(name)?, name)))
            .max()
            .map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_by_number_and_no_variants() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-57-cloud-amd64-unsigned",
            "linux-image-6.1.0-0.deb11.58-cloud-amd64",
            "linux-image-6.1.0-58-amd64",
        ];
        let newest = pattern("linux-image-6.1.0-", "-cloud-amd64").newest(names.into_iter());
        assert_eq!(newest, Some("linux-image-6.1.0-56-cloud-amd64"));

        let names = [
            "linux-binary-7.2.9+deb14-cloud-amd64",
            "linux-binary-7.2.13+deb14-cloud-amd64",
        ];
        let newest = pattern("linux-binary-7.", "-cloud-amd64").newest(names.into_iter());
        assert_eq!(newest, Some("linux-binary-7.2.13+deb14-cloud-amd64"));
        assert_eq!(
            pattern("linux-image-5.", "-cloud-amd64").newest(names.into_iter()),
            None
        );
    }

    #[test]
    fn every_owner_hook_is_either_there_or_absent() {
        for kernel in ALL.iter().filter(|kernel| !kernel.only_no_storage) {
            for owner in ["fentry", "tp_btf", "kprobe", "connect"] {
                let (there, absent) = (kernel.owners.contains(&owner), kernel.absent.contains(&owner));
                assert!(there != absent, "{owner} on {}", kernel.name);
            }
        }
    }
}
