//! The release binary, and its lab.

use std::{os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Error, Result, anyhow, ensure};

use crate::{cargo, is_root, toolchain::Host, vm};

pub(crate) fn build() -> Result<()> {
    let status = cargo()
        .args(["build", "--release", "--locked", "--package", "imds-analyzer"])
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "imds-analyzer does not build, see above");
    Ok(())
}

pub(crate) fn binary() -> PathBuf {
    vm::target().join("release/imds-analyzer")
}

/// Replaces this process with the lab; returns only if that fails. Loading eBPF programs needs root.
pub(crate) fn exec(args: &[String]) -> Error {
    let binary = binary();
    let mut command = if is_root() {
        Command::new(&binary)
    } else if let Some(sudo) = Host::current().program("sudo") {
        let mut command = Command::new(sudo);
        command.arg(&binary);
        command
    } else {
        return anyhow!(
            "the lab needs root and there is no sudo here: as root, run `{} lab`",
            binary.display()
        );
    };
    let error = command.arg("lab").args(args).exec();
    anyhow!("cannot run {}: {error}", binary.display())
}
