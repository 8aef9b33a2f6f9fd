//! Builds the release binary, the end-to-end tests, and the guests' `/init` for an architecture.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{arch::Arch, cross::Cross, packages::Packages};
use crate::cargo;

/// Files that were built for the guests.
#[derive(Debug, Default)]
pub(crate) struct Built {
    pub(crate) init: PathBuf,
    pub(crate) refusals: PathBuf,
    pub(crate) analyzer: PathBuf,
    /// Test binaries by name; in the guest they are in `/tests`.
    pub(crate) tests: Vec<(String, PathBuf)>,
}

pub(super) fn build(arch: Arch, packages: &mut Packages) -> Result<Built> {
    let cross = if arch.is_ours() {
        None
    } else {
        Some(Cross::prepare(arch, packages)?)
    };
    let run = |subcommand: &str, args: &[&str]| {
        let mut command = match &cross {
            Some(cross) => cross.cargo(subcommand),
            None => {
                let mut command = cargo();
                command.arg(subcommand);
                command
            }
        };
        command.arg("--locked").args(args);
        executables(command)
    };
    let mut built = Built::default();
    for (kind, name, path) in run("build", &["--release", "--package", "imds-analyzer"])? {
        if kind == "bin" && name == "imds-analyzer" {
            built.analyzer = path;
        }
    }
    for (kind, name, path) in run("test", &["--no-run", "--package", "imds-analyzer-tests"])? {
        match kind.as_str() {
            "bin" if name == "vm-init" => built.init = path,
            "bin" if name == "vm-refusals" => built.refusals = path,
            "test" => built.tests.push((name, path)),
            _ => {}
        }
    }
    ensure!(built.analyzer.is_file(), "cargo built no imds-analyzer");
    ensure!(
        built.init.is_file() && built.refusals.is_file(),
        "cargo built no programs for guests"
    );
    ensure!(!built.tests.is_empty(), "cargo built no end-to-end test");
    built.tests.sort();
    Ok(built)
}

/// Runs cargo. Returns kind, name and path of each executable that it built.
fn executables(mut command: Command) -> Result<Vec<(String, String, PathBuf)>> {
    let output = command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "the analyzer or its tests do not build, see above"
    );
    let mut executables = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line).context("cargo's message")?;
        let target = &message["target"];
        if let (Some(path), Some(kind), Some(name)) = (
            message["executable"].as_str(),
            target["kind"][0].as_str(),
            target["name"].as_str(),
        ) {
            executables.push((kind.to_owned(), name.to_owned(), PathBuf::from(path)));
        }
    }
    Ok(executables)
}
