//! The architectures of guests.

use std::process::Command;

/// An architecture, by the names it has in different places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    Arm64,
}

impl Arch {
    /// This machine's architecture.
    pub(crate) fn ours() -> Self {
        if Self::Arm64.is_ours() {
            Self::Arm64
        } else {
            Self::X86_64
        }
    }

    /// Its name in the kernel's sources and in this project's documents.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }

    /// Its name in Debian.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Its name in Rust: the first word of a target.
    pub(crate) const fn rust(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// True if programs of this machine run in such a guest.
    pub(crate) fn is_ours(self) -> bool {
        self.rust() == std::env::consts::ARCH
    }

    /// The kernel's name of the serial console.
    pub(crate) const fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }

    /// The emulator, with a machine. It does not use KVM, because /dev/kvm is not available everywhere and a guest
    /// takes only seconds without it.
    ///
    /// One thread runs all CPUs. With one thread each, a CPU can run into a breakpoint that another one has already
    /// removed from the kernel: when kprobes come and go beside busy senders, even without BPF, that stops some kernels
    /// within a minute. Two guests at a time are as fast this way, or faster.
    pub(crate) fn qemu(self) -> Command {
        let (program, machine) = match self {
            // `max` panics some kernels.
            Self::X86_64 => ("qemu-system-x86_64", ["-machine", "pc", "-cpu", "qemu64"]),
            Self::Arm64 => ("qemu-system-aarch64", ["-machine", "virt", "-cpu", "cortex-a72"]),
        };
        let mut qemu = Command::new(program);
        qemu.args(machine).args(["-accel", "tcg,thread=single"]);
        qemu
    }
}
