//! Documents that are written from what the code uses: docs/kernels.md, from the matrix of kernels and from the features
//! that the analyzer looks for; and the tables in other documents, which a unit test of the analyzer compares and writes.

use std::{fmt::Write as _, fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{cargo, lab, vm::kernels};

const KERNELS: &str = "docs/kernels.md";

/// Writes them anew.
pub(crate) fn write() -> Result<()> {
    fs::write(KERNELS, kernels_text()?).with_context(|| format!("cannot write {KERNELS}"))?;
    let written = cargo()
        .args(["test", "--package", "imds-analyzer", "--lib", "docs::"])
        .env("UPDATE_GOLDEN", "1")
        .status()
        .context("cannot run the test that writes tables")?;
    ensure!(written.success(), "the tables were not written");
    Ok(())
}

/// An error if docs/kernels.md is not as it would be written; a unit test of the analyzer checks the tables.
pub(crate) fn check() -> Result<()> {
    let there = fs::read_to_string(KERNELS).with_context(|| format!("cannot read {KERNELS}"))?;
    ensure!(
        there == kernels_text()?,
        "{KERNELS} is not what the code uses: `cargo xtask docs` writes it"
    );
    Ok(())
}

fn kernels_text() -> Result<String> {
    let mut text = String::from(
        "# Kernels\n\n\
         Written by `cargo xtask docs` from the tables that the code and its tests use.\n\n\
         ## What is used, and since when\n\n\
         Version numbers decide nothing: each is probed at start, and `imds-analyzer check` shows what was found.\n\n\
         | | Linux | where it is missing |\n| --- | --- | --- |\n",
    );
    for feature in features()? {
        let field = |name: &str| {
            feature[name]
                .as_str()
                .context("a feature without a name")
                .map(str::to_owned)
        };
        writeln!(
            text,
            "| {} | {} | {} |",
            field("name")?,
            field("since")?,
            field("remedy")?
        )?;
    }
    text.push_str(
        "\n## What is tested\n\n\
         `cargo xtask test` boots those of these kernels in QEMU that have the wire tap and this machine's architecture, and\n\
         runs the end-to-end tests in them: with every owner hook where the hook has a part in the outcome, once where the\n\
         kernel has, else in one of them; and with the send tap, without BTF. `cargo xtask test --full` boots all of them, and\n\
         runs all tests in each, with either tap. A hook that is absent must be refused, and a test is left out only where the\n\
         kernel is shown to lack what it is about.\n\n\
         | kernel | of | architecture | tap | owner hooks | absent | left out |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for kernel in &kernels::ALL {
        let left_out: Vec<_> = kernel
            .lacks
            .iter()
            .map(|lacked| format!("`{}`: {}", lacked.test, lacked.why))
            .collect();
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            kernel
                .name
                .trim_end_matches("-arm64")
                .replace("-nocx16", " on a CPU without cmpxchg16b"),
            kernel.distribution.name(),
            kernel.arch.name(),
            kernel.tap.name(),
            kernel.owners.join(", "),
            [kernel.absent, kernel.without].concat().join(", "),
            left_out.join("; ")
        )?;
    }
    Ok(text)
}

/// The table that the analyzer probes by.
fn features() -> Result<Vec<Value>> {
    let output = Command::new(lab::binary())
        .args(["check", "--format", "json"])
        .output()
        .context("cannot run the analyzer")?;
    let report: Value = serde_json::from_slice(&output.stdout).context("the report of `check`")?;
    let features = report["features"].as_array().cloned().unwrap_or_default();
    ensure!(!features.is_empty(), "`check` names no feature");
    Ok(features)
}
