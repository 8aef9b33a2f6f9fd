//! Builds the packages with cargo-deb and cargo-generate-rpm, from one manifest that is written here. Both tools read
//! the list of files from `Cargo.toml`, and would need one list each.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    NAME, Release,
    files::{self, Format, Installed, Kind},
};
use crate::{
    cargo, setup,
    vm::{self, packages::run},
};

/// A placeholder: the project has no address of its own, so whoever publishes packages puts theirs here.
pub(crate) const MAINTAINER: &str = "The imds-analyzer authors <maintainers@imds-analyzer.invalid>";
const SUMMARY: &str = "find processes that call EC2 instance metadata without a token";
/// RPM summaries begin with a capital.
const RPM_SUMMARY: &str = "Find processes that call EC2 instance metadata without a token";
const DESCRIPTION: &str = "Finds which process on an EC2 host, started by whom, still talks to the instance \
metadata service (IMDS) without a session token (IMDSv1), so that tokens can be required without breaking \
anything. eBPF programs judge what leaves the host's sockets; it changes no traffic and writes no token.\n\
Installing the package neither enables nor starts the service. It rotates its log itself: logrotate is not needed.";

/// Tools that are compiled once, below `target/tools`.
const TOOLS: [(&str, &str); 2] = [("cargo-deb", "3.8.0"), ("cargo-generate-rpm", "0.21.1")];

/// Installs the tools that are missing.
pub(crate) fn tools() -> Result<()> {
    let root = vm::target().join("tools");
    fs::create_dir_all(&root)?;
    let root = fs::canonicalize(root)?;
    for (tool, version) in TOOLS {
        if !root.join("bin").join(tool).is_file() {
            let mut install = cargo();
            install
                .args(["install", "--locked", "--version", version, tool, "--root"])
                .arg(&root);
            setup::quietly(&format!("compiling {tool}, some minutes"), install)?;
        }
    }
    Ok(())
}

fn tool(name: &str) -> Result<Command> {
    let mut command = Command::new(fs::canonicalize(vm::target().join("tools/bin").join(name))?);
    // Cargo's own settings are for its own programs.
    command.env_remove("LD_LIBRARY_PATH").env_remove("CARGO_TARGET_DIR");
    Ok(command)
}

/// The version in Debian's form, in which a pre-release sorts before its release.
pub(crate) fn deb_version(release: &Release) -> String {
    format!("{}-1", release.version.replace('-', "~"))
}

/// Packs the release in every format, and returns the files.
pub(crate) fn all(release: &Release, out: &Path) -> Result<Vec<PathBuf>> {
    Ok(vec![deb(release, out)?, rpm(release, out)?, tar(release, out)?])
}

pub(crate) fn deb(release: &Release, out: &Path) -> Result<PathBuf> {
    let assets = list(release, Format::Deb)?
        .iter()
        .fold(String::new(), |mut text, file| {
            let _ = writeln!(text, "  [{:?}, {:?}, {:?}],", file.source, file.place, file.mode());
            text
        });
    let metadata = format!(
        "[package.metadata.deb]\n\
         name = {NAME:?}\n\
         maintainer = {MAINTAINER:?}\n\
         copyright = \"2026, {MAINTAINER}\"\n\
         section = \"admin\"\n\
         priority = \"optional\"\n\
         depends = \"libc6 (>= {})\"\n\
         extended-description = {DESCRIPTION:?}\n\
         maintainer-scripts = {:?}\n\
         assets = [\n{assets}]\n",
        crate::vm::cross::GLIBC,
        fs::canonicalize("packaging/deb")?,
    );
    let path = out.join(format!("{NAME}_{}_{}.deb", deb_version(release), release.arch.debian()));
    let mut command = tool("cargo-deb")?;
    command
        .args([
            "--quiet",
            "--offline",
            "--no-build",
            "--no-strip",
            "--compress-type",
            "xz",
        ])
        .args(["--target", &format!("{}-unknown-linux-gnu", release.arch.rust())])
        .args(["--deb-version", &deb_version(release)])
        .arg("--output")
        .arg(&path);
    pack(release, command, &metadata)?;
    Ok(path)
}

pub(crate) fn rpm(release: &Release, out: &Path) -> Result<PathBuf> {
    let files = list(release, Format::Rpm)?;
    let tree = tree(release)?;
    let mut assets = String::new();
    for file in &files {
        let more = match file.kind {
            Kind::Config => ", config = \"noreplace\"",
            Kind::Document => ", doc = true",
            Kind::Program | Kind::Data => "",
        };
        let (source, place, mode) = (stage(release, file, &tree)?, &file.place, file.mode());
        let _ = writeln!(
            assets,
            "  {{ source = {source:?}, dest = \"/{place}\", mode = {mode:?}{more} }},"
        );
    }
    let script = |name: &str| fs::read_to_string(Path::new("packaging/rpm").join(name));
    let metadata = format!(
        "[package.metadata.generate-rpm]\n\
         summary = {RPM_SUMMARY:?}\n\
         release = \"1\"\n\
         auto-req = \"no\"\n\
         post_install_script = {:?}\n\
         pre_uninstall_script = {:?}\n\
         post_uninstall_script = {:?}\n\
         assets = [\n{assets}]\n\
         [package.metadata.generate-rpm.requires]\n\
         \"libc.so.6(GLIBC_{})(64bit)\" = \"*\"\n",
        script("post")?,
        script("preun")?,
        script("postun")? + &without_folders(&files),
        crate::vm::cross::GLIBC,
    );
    let arch = release.arch.rust();
    let path = out.join(format!("{NAME}-{}-1.{arch}.rpm", release.version.replace('-', "~")));
    let mut command = tool("cargo-generate-rpm")?;
    command
        .args(["--arch", arch, "--payload-compress", "gzip", "--output"])
        .arg(&path);
    pack(release, command, &metadata)?;
    fs::remove_dir_all(tree)?;
    Ok(path)
}

/// Copies a file below `tree`, with its mode and the time of the release: cargo-generate-rpm takes the time from the
/// file.
fn stage(release: &Release, file: &Installed, tree: &Path) -> Result<PathBuf> {
    let copy = tree.join(&file.place);
    fs::create_dir_all(copy.parent().context("a folder")?)?;
    fs::copy(&file.source, &copy)?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(u32::from_str_radix(file.mode(), 8)?))?;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(release.epoch.parse().context("SOURCE_DATE_EPOCH")?);
    fs::File::open(&copy)?.set_modified(time)?;
    Ok(copy)
}

/// An empty folder in which files are staged.
fn tree(release: &Release) -> Result<PathBuf> {
    let tree = release.made.with_file_name(format!("{}.tree", release.arch.name()));
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    Ok(tree)
}

/// A shell script that removes the package's own folders when the last version is removed. cargo-generate-rpm 0.21
/// cannot make them part of the package: it reads them as files.
fn without_folders(files: &[Installed]) -> String {
    let mut folders: Vec<String> = files
        .iter()
        .flat_map(|file| Path::new(&file.place).ancestors().skip(1))
        .filter(|folder| folder.components().any(|part| part.as_os_str() == NAME))
        .map(|folder| format!("/{}", folder.display()))
        .collect();
    folders.sort();
    folders.dedup();
    // Folders inside a folder come before it.
    folders.reverse();
    let folders = folders.join(" ");
    format!("if [ \"$1\" -eq 0 ]; then\n    rmdir {folders} 2>/dev/null || :\nfi\nexit 0\n")
}

/// Packs the same files into an archive to be unpacked at the root.
fn tar(release: &Release, out: &Path) -> Result<PathBuf> {
    let tree = tree(release)?;
    for file in list(release, Format::Rpm)? {
        stage(release, &file, &tree)?;
    }
    let path = out.join(format!("{NAME}-{}-{}.tar.gz", release.version, release.arch.name()));
    let mut command = Command::new("tar");
    command
        .args([
            "--create",
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--mode=go-w",
        ])
        .args([
            "--use-compress-program=gzip -9 --no-name",
            &format!("--mtime=@{}", release.epoch),
        ])
        .arg("--file")
        .arg(&path)
        .arg("--directory")
        .arg(&tree)
        .args(["etc", "usr"]);
    run(command)?;
    fs::remove_dir_all(tree)?;
    Ok(path)
}

fn list(release: &Release, format: Format) -> Result<Vec<Installed>> {
    let workspace = std::env::current_dir()?;
    let files = files::list(&workspace, &release.made, format)?;
    ensure!(
        files.iter().any(|file| file.kind == Kind::Program),
        "the program is not on the list"
    );
    Ok(files)
}

/// Writes a Cargo package with that metadata, and runs the tool in it.
fn pack(release: &Release, mut command: Command, metadata: &str) -> Result<()> {
    let folder = release.made.with_file_name(format!("{}.manifest", release.arch.name()));
    fs::create_dir_all(folder.join("src"))?;
    fs::write(folder.join("src/main.rs"), "fn main() {}\n")?;
    let manifest = format!(
        "[package]\nname = {NAME:?}\nversion = {:?}\nedition = \"2024\"\nlicense = \"MIT OR Apache-2.0\"\n\
         description = {SUMMARY:?}\nauthors = [{MAINTAINER:?}]\n[workspace]\n{metadata}",
        release.version
    );
    fs::write(folder.join("Cargo.toml"), manifest)?;
    command.current_dir(&folder).env("SOURCE_DATE_EPOCH", &release.epoch);
    run(command)?;
    fs::remove_dir_all(folder)?;
    Ok(())
}
