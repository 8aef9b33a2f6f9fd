//! Compiles for another architecture, and against an old glibc, with cargo-zigbuild: its linker has every version of
//! glibc's symbols. cargo-zigbuild and its zig come from PyPI, and stay below `target`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    arch::Arch,
    packages::{self, Packages},
    target,
};
use crate::{setup, toolchain::Host};

/// The oldest glibc the binaries run with: that of Amazon Linux 2 is 2.26, of RHEL 7 2.17.
pub(crate) const GLIBC: &str = "2.17";
const ZIGBUILD: &str = "cargo-zigbuild==0.24.0";
const ZIG: &str = "ziglang==0.17.1";
/// Debian's rustc, which `cargo xtask setup` installs: rustup's has no std for other architectures on a machine that
/// cannot fetch one.
const RUSTC: &str = "/usr/bin/rustc";
const STD: &str = "libstd-rust-web-dev";

/// A way to compile for an architecture.
#[derive(Debug)]
pub(crate) struct Cross {
    arch: Arch,
    tools: PathBuf,
    /// The directory of std for the architecture, if it is not with the compiler.
    std: Option<PathBuf>,
}

impl Cross {
    /// Installs what is missing.
    pub(crate) fn prepare(arch: Arch, packages: &mut Packages) -> Result<Self> {
        let root = fs::canonicalize(target())?;
        // A folder for this alone: pip leaves a folder as it is if it already has something in it.
        let tools = root.join("tools/zig");
        if !tools.join("bin/cargo-zigbuild").is_file() {
            setup::quietly("fetching cargo-zigbuild and zig", pip(&tools))?;
        }
        let std = if arch.is_ours() {
            None
        } else {
            Some(std(arch, packages)?)
        };
        Ok(Self { arch, tools, std })
    }

    /// `cargo SUBCOMMAND` for that architecture, which builds below `target/cross`.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let triple = format!("{}-unknown-linux-gnu", self.arch.rust());
        let variable = triple.to_uppercase().replace('-', "_");
        let mut command = Command::new(self.tools.join("bin/cargo-zigbuild"));
        command
            .arg(if subcommand == "build" { "zigbuild" } else { subcommand })
            .args(["--target", &format!("{triple}.{GLIBC}")])
            .env("CARGO_ZIGBUILD_ZIG_PATH", self.tools.join("ziglang/zig"))
            .env("RUSTC", RUSTC)
            .env(format!("CARGO_TARGET_{variable}_RUSTFLAGS"), self.rustflags())
            .env("CARGO_TARGET_DIR", target().join("cross"))
            // Without debug information: guests have no room for it, and this machine's strip may not know the
            // architecture.
            .env("CARGO_PROFILE_DEV_DEBUG", "false")
            .env("CARGO_PROFILE_DEV_STRIP", "debuginfo")
            // Cargo's library path is for its own programs.
            .env_remove("LD_LIBRARY_PATH");
        command
    }

    /// Flags that tell where std is, and keep this machine's directories out of what is built.
    fn rustflags(&self) -> String {
        let workspace = env::current_dir().ok();
        let cargo_home = Host::current().cargo_home;
        let std = self.std.as_ref().map(|std| format!("-L {}", std.display()));
        let remap = [(workspace, "imds-analyzer"), (cargo_home, "cargo")]
            .into_iter()
            .filter_map(|(path, name)| Some(format!("--remap-path-prefix={}=/usr/src/{name}", path?.display())));
        std.into_iter().chain(remap).collect::<Vec<_>>().join(" ")
    }
}

/// Fetches std, of the same version as the compiler.
fn std(arch: Arch, packages: &mut Packages) -> Result<PathBuf> {
    let version = packages::run({
        let mut query = Command::new("dpkg-query");
        query.args(["--show", "--showformat=${Version}", STD]);
        query
    })
    .context("compiling for another architecture takes Debian's rustc")?;
    let package = packages.named("std", &[format!("{STD}={version}")])?;
    let std = package.join(format!("usr/lib/rustlib/{}-unknown-linux-gnu/lib", arch.rust()));
    ensure!(std.is_dir(), "{STD} has no std for {}", arch.name());
    Ok(std)
}

fn pip(tools: &Path) -> Command {
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--root-user-action=ignore",
        "--target",
    ])
    .arg(tools)
    .args([ZIGBUILD, ZIG]);
    pip
}
