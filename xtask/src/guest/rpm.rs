//! Tests the .rpm: a script has dnf install it from the repository into a root of its own.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::Repositories;

/// Runs tests/packages/rpm.sh, and returns its output.
pub(super) fn test(root: &Path, repositories: &Repositories) -> Result<String> {
    let mut command = Command::new("bash");
    command
        .arg("tests/packages/rpm.sh")
        .args([root, &repositories.now, &repositories.next])
        .env_remove("LD_LIBRARY_PATH");
    let output = command.output().context("cannot run bash")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}
