//! `cargo xtask dist`: writes the files of a release, for each architecture, into `target/dist`.
//!
//! ```text
//! build     by cargo-zigbuild, against an old glibc       elf       debug information apart, the floor of glibc
//! contents  man pages, completions, changelogs            files     the list of what is installed
//! package   .deb, .rpm, .tar.gz of that list              sbom      what is compiled in
//! ```

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    cargo,
    vm::{
        self,
        arch::Arch,
        cross::Cross,
        packages::{self, Packages},
    },
};

pub(crate) mod contents;
mod elf;
pub(crate) mod files;
pub(crate) mod package;
mod sbom;
#[cfg(test)]
mod tests;

pub(crate) const NAME: &str = "imds-analyzer";
const ARCHES: [Arch; 2] = [Arch::X86_64, Arch::Arm64];
/// The limits in DESIGN.
const LARGEST_BINARY: u64 = 8 << 20;
const LARGEST_PACKAGE: u64 = 4 << 20;

/// The folder of a release.
pub(crate) fn folder() -> Result<PathBuf> {
    let folder = vm::target().join("dist");
    fs::create_dir_all(&folder)?;
    Ok(fs::canonicalize(folder)?)
}

/// The parts of the packages of one architecture.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) arch: Arch,
    /// The time of everything that has one, in seconds since 1970, so that two runs give the same bytes.
    pub(crate) epoch: String,
    pub(crate) version: String,
    /// The folder with the program and the files that it has printed about itself.
    pub(crate) made: PathBuf,
}

/// Builds and packs for the architectures of these names, or for all.
pub(crate) fn run(names: &[String]) -> Result<()> {
    let chosen: Vec<Arch> = ARCHES
        .into_iter()
        .filter(|arch| names.is_empty() || names.iter().any(|name| name == arch.name()))
        .collect();
    ensure!(
        !chosen.is_empty(),
        "there is no such architecture; there are x86_64 and arm64"
    );
    let out = folder()?;
    // Old files would be summed and published, too.
    for entry in fs::read_dir(&out)? {
        let path = entry?.path();
        if path.is_file() {
            fs::remove_file(path)?;
        }
    }
    package::tools()?;
    let releases = releases(&chosen)?;
    for release in &releases {
        for file in package::all(release, &out)? {
            let size = fs::metadata(&file)?.len();
            ensure!(
                size <= LARGEST_PACKAGE,
                "{} is larger than {LARGEST_PACKAGE} bytes: {size}",
                file.display()
            );
        }
    }
    sbom::write(&out)?;
    sums(&out)?;
    for line in fs::read_to_string(out.join("SHA256SUMS"))?.lines() {
        let (sum, name) = line.split_once("  ").context("a sum")?;
        println!("{sum}  {:>8}  {name}", fs::metadata(out.join(name))?.len());
    }
    Ok(())
}

/// Builds the programs and the files that go with them.
pub(crate) fn releases(arches: &[Arch]) -> Result<Vec<Release>> {
    let version = version()?;
    let epoch = epoch()?;
    let mut releases = Vec::new();
    for arch in arches {
        let root = vm::root()?;
        fs::create_dir_all(root.join(arch.name()))?;
        let built = build(*arch, &mut Packages::new(&root, *arch, false)?)?;
        let made = folder()?.join("made").join(arch.name());
        if made.exists() {
            fs::remove_dir_all(&made)?;
        }
        fs::create_dir_all(&made)?;
        let debug = folder()?.join(format!("{NAME}-{version}-{}.debug", arch.name()));
        let program = made.join(NAME);
        elf::split(&built, &program, &debug)?;
        let floor = elf::glibc_floor(&program)?;
        ensure!(
            floor <= elf::version(crate::vm::cross::GLIBC),
            "it needs glibc {floor:?}"
        );
        elf::names_no_directory(&program)?;
        let size = fs::metadata(&program)?.len();
        ensure!(
            size <= LARGEST_BINARY,
            "the program is larger than {LARGEST_BINARY} bytes: {size}"
        );
        println!(
            "{}: {size} bytes, newest symbol GLIBC_{}.{}, {}",
            arch.name(),
            floor.0,
            floor.1,
            elf::needs(&program)?
        );
        releases.push(Release {
            arch: *arch,
            epoch: epoch.clone(),
            version: version.clone(),
            made,
        });
    }
    // The program of this machine's architecture prints these files for all: they are the same everywhere.
    let ours = folder()?.join("made").join(Arch::ours().name()).join(NAME);
    for release in &releases {
        contents::write(&ours, release)?;
    }
    Ok(releases)
}

/// Compiles the program. Returns its path; it has debug information.
fn build(arch: Arch, packages: &mut Packages) -> Result<PathBuf> {
    let mut command = Cross::prepare(arch, packages)?.cargo("build");
    command.args(["--locked", "--profile", "dist", "--package", NAME]);
    let status = command.status().context("cannot run cargo-zigbuild")?;
    ensure!(status.success(), "{NAME} does not build, see above");
    let built = vm::target().join(format!("cross/{}-unknown-linux-gnu/dist/{NAME}", arch.rust()));
    ensure!(built.is_file(), "cargo built no {NAME}");
    Ok(built)
}

/// The version of the workspace.
fn version() -> Result<String> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().context("cargo names no packages")?;
    let package = packages.iter().find(|package| package["name"] == NAME);
    let version = package.and_then(|package| package["version"].as_str());
    version.map(str::to_owned).context("it has no version")
}

fn metadata() -> Result<Value> {
    let mut command = cargo();
    command.args(["metadata", "--format-version=1", "--locked"]);
    serde_json::from_str(&packages::run(command)?).context("cargo's metadata")
}

/// The time of the last commit, unless SOURCE_DATE_EPOCH says otherwise:
/// <https://reproducible-builds.org/specs/source-date-epoch/>.
fn epoch() -> Result<String> {
    if let Ok(epoch) = env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"]);
    let epoch = packages::run(git)?;
    let Ok(_) = epoch.trim().parse::<u64>() else {
        bail!("git names no time; SOURCE_DATE_EPOCH may")
    };
    Ok(epoch.trim().to_owned())
}

/// Writes SHA256SUMS, with all files in `out`.
fn sums(out: &Path) -> Result<()> {
    let mut names: Vec<_> = fs::read_dir(out)?
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    let mut command = Command::new("sha256sum");
    command.args(names).current_dir(out);
    fs::write(out.join("SHA256SUMS"), packages::run(command)?)?;
    Ok(())
}
