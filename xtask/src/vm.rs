//! `cargo xtask vm`: other kernels, in QEMU. Each boots into an initramfs with the analyzer, real clients and the same
//! end-to-end tests as on the host, which run once per owner hook that the kernel has.
//!
//! ```text
//! kernels    the table: packages, hooks        packages   fetched by apt, unpacked below target/vm
//! initramfs  what is in a guest (cpio)         qemu       one run, its console read
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{cargo, lab, vm::result::GuestResult};

mod cpio;
mod initramfs;
mod kernels;
mod packages;
mod qemu;
mod result;

use self::{initramfs::Built, kernels::Kernel, packages::Packages};

/// Names of the commands that every guest runs beside tests.
const LAB: &str = "lab";
/// Before the name of an owner hook that is to be had.
const CHECK: &str = "check/";
/// Before the name of an owner hook that is to be refused.
const ABSENT: &str = "absent/";

/// Before the name of a test whose feature the kernel lacks.
const LACKED: &str = "lacked/";

/// How long one command may take in a guest.
const SHORT: Duration = Duration::from_secs(60);
const TESTS: Duration = Duration::from_secs(600);

/// `command`, if there is one, is run instead of the checks.
pub(crate) fn run(names: &[String], update: bool, command: &[String]) -> Result<ExitCode> {
    let chosen = choose(names)?;
    let built = build()?;
    let root = fs::canonicalize(target())?.join("vm");
    let logs = root.join("log");
    fs::create_dir_all(&logs)?;
    let base = root.join("base.cpio");
    initramfs::write_base(&base, &root, &built).context("the initramfs cannot be written")?;

    let mut packages = Packages::new(&root, update)?;
    let mut results = Vec::new();
    for kernel in chosen {
        let started = Instant::now();
        let log = logs.join(format!("{}.log", kernel.name));
        let commands = if command.is_empty() {
            commands(kernel, &built)
        } else {
            vec![("command".to_owned(), TESTS, command.join(" "))]
        };
        let outcome = boot(kernel, &commands, &mut packages, &base, &log);
        if !command.is_empty() {
            outcome?.1.print();
            continue;
        }
        let result = match outcome {
            Ok((release, console)) => GuestResult::new(kernel, release, &console, started.elapsed()),
            Err(error) => GuestResult::not_run(kernel, &format!("{error:#}"), started.elapsed()),
        };
        result.print(&log);
        results.push(result);
    }
    if !command.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(result::table(&results))
}

fn choose(names: &[String]) -> Result<Vec<&'static Kernel>> {
    for name in names {
        if !kernels::ALL.iter().any(|kernel| kernel.name == name) {
            let known: Vec<_> = kernels::ALL.iter().map(|kernel| kernel.name).collect();
            bail!(
                "there is no kernel {name} in the matrix; there are {}",
                known.join(", ")
            );
        }
    }
    Ok(kernels::ALL
        .iter()
        .filter(|kernel| names.is_empty() || names.iter().any(|name| kernel.name == name))
        .collect())
}

/// Runs one guest; the kernel's release and what the console said.
fn boot(
    kernel: &Kernel,
    commands: &[GuestCommand],
    packages: &mut Packages,
    base: &Path,
    log: &Path,
) -> Result<(String, qemu::Console)> {
    let unpacked = packages.unpack(kernel)?;
    println!("\n== kernel {} ({})", kernel.name, unpacked.release);
    let initramfs = base.with_file_name(format!("{}.cpio", kernel.name));
    let list: String = commands
        .iter()
        .map(|(name, limit, command)| format!("{name}\t{}\t{command}\n", limit.as_secs()))
        .collect();
    let limit = commands.iter().map(|(_, limit, _)| *limit).sum();
    initramfs::write_guest(&initramfs, base, &unpacked, &list)?;
    let console = qemu::run(&unpacked.image, &initramfs, log, limit);
    fs::remove_file(initramfs)?;
    Ok((unpacked.release, console?))
}

/// Name, time limit, and the command for the guest's shell.
type GuestCommand = (String, Duration, String);

/// The checks of one guest.
fn commands(kernel: &Kernel, built: &Built) -> Vec<GuestCommand> {
    let analyzer = "imds-analyzer";
    let mut commands = vec![(LAB.to_owned(), SHORT, format!("{analyzer} lab --format json"))];
    for owner in kernel.owners {
        let command = format!("{analyzer} check --format json --owner {owner}");
        commands.push((format!("{CHECK}{owner}"), SHORT, command));
    }
    for owner in kernel.absent {
        let command = format!("{analyzer} watch --owner {owner} --duration 1s");
        commands.push((format!("{ABSENT}{owner}"), SHORT, command));
    }
    for lacked in kernel.lacks {
        commands.push((format!("{LACKED}{}", lacked.test), SHORT, lacked.proof.to_owned()));
    }
    let skip: String = kernel
        .lacks
        .iter()
        .map(|lacked| format!(" --skip {}", lacked.test))
        .collect();
    for owner in kernel.owners {
        for (name, _) in &built.tests {
            let environment = format!("IMDS_ANALYZER={} OWNER={owner}", initramfs::WITH_OWNER);
            let command = format!("{environment} exec /tests/{name} --test-threads=1{skip}");
            commands.push((format!("{name}/{owner}"), TESTS, command));
        }
    }
    commands
}

/// The release binary, and the crate of end-to-end tests with the guests' `/init`.
fn build() -> Result<Built> {
    lab::build()?;
    let output = cargo()
        .args(["test", "--no-run", "--locked", "--package", "imds-analyzer-tests"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "the end-to-end tests do not build, see above");
    let mut built = Built {
        analyzer: lab::binary(),
        ..Built::default()
    };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line).context("cargo's message")?;
        let Some(executable) = message["executable"].as_str().map(PathBuf::from) else {
            continue;
        };
        match (
            message["target"]["kind"][0].as_str(),
            message["target"]["name"].as_str(),
        ) {
            (Some("bin"), Some("vm-init")) => built.init = executable,
            (Some("test"), Some(name)) => built.tests.push((name.to_owned(), executable)),
            _ => {}
        }
    }
    ensure!(built.init.is_file(), "cargo built no vm-init");
    ensure!(!built.tests.is_empty(), "cargo built no end-to-end test");
    built.tests.sort();
    Ok(built)
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from)
}
