//! The architectures of guests.

use std::process::Command;

/// An architecture, by the names it has in different places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    Arm64,
}

impl Arch {
    /// This machine's.
    pub(crate) fn ours() -> Self {
        if Self::Arm64.is_ours() {
            Self::Arm64
        } else {
            Self::X86_64
        }
    }

    /// As the kernel's own sources and this project's documents have it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }

    /// As Debian has it.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As Rust has it: the first word of a target.
    pub(crate) const fn rust(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// Whether programs of this machine run in such a guest.
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

    /// The emulator, with a machine. Emulated: /dev/kvm is not to be had everywhere, and a guest takes seconds without.
    ///
    /// One thread has all CPUs. Where each has its own, one of them can run into a breakpoint that another one has taken out
    /// of the kernel: while kprobes come and go beside busy senders, also without BPF, that stops some kernels within a
    /// minute. Two guests at a time are as quick this way, or quicker.
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
