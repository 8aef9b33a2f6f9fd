//! The program as an ELF file of any architecture: GNU readelf and LLVM's objcopy read them all.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{toolchain::Host, vm::packages::run};

/// Copies `built` to `program` without symbols, which go to `debug`.
pub(super) fn split(built: &Path, program: &Path, debug: &Path) -> Result<()> {
    let objcopy = objcopy()?;
    let call = |args: &[&str], from: &Path, to: &Path| {
        let mut command = Command::new(&objcopy);
        command.args(args).arg(from).arg(to);
        run(command)
    };
    call(&["--only-keep-debug", "--compress-debug-sections=zlib"], built, debug)?;
    // No link to the debug information: it has a checksum, and zig's start files name the directory they were built in.
    call(&["--strip-all"], built, program)?;
    Ok(())
}

/// LLVM's objcopy, because GNU's knows only one architecture. It comes with the LLVM that bpf-linker is made with.
fn objcopy() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib")?
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    folders
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("llvm-"))
        })
        .map(|path| path.join("bin/llvm-objcopy"))
        .chain(Host::current().program("llvm-objcopy"))
        .find(|path| path.is_file())
        .context("llvm-objcopy is not here; it is in the package llvm")
}

/// `2.17` as two numbers.
pub(super) fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(u32::MAX));
    (numbers.next().unwrap_or(u32::MAX), numbers.next().unwrap_or(0))
}

/// The newest version of glibc whose symbols the program needs.
pub(super) fn glibc_floor(program: &Path) -> Result<(u32, u32)> {
    floor(&readelf("--version-info", program)?).context("it needs no symbol of glibc: its versions were not read")
}

/// The newest version in lines such as `  0x0010:   Name: GLIBC_2.17  Flags: none  Version: 4`.
fn floor(text: &str) -> Option<(u32, u32)> {
    text.lines()
        .filter_map(|line| line.split_once("Name: GLIBC_")?.1.split(' ').next())
        .map(version)
        .max()
}

/// The libraries that the program needs.
pub(super) fn needs(program: &Path) -> Result<String> {
    let text = readelf("--dynamic", program)?;
    let libraries = text
        .lines()
        .filter_map(|line| line.split_once("Shared library: [")?.1.split(']').next());
    Ok(libraries.collect::<Vec<_>>().join(" "))
}

/// Fails if the program names directories of this machine: another machine would build other bytes.
pub(super) fn names_no_directory(program: &Path) -> Result<()> {
    let bytes = fs::read(program)?;
    for directory in [env::current_dir().ok(), Host::current().cargo_home]
        .into_iter()
        .flatten()
    {
        let name = directory.as_os_str().as_encoded_bytes();
        let found = bytes.windows(name.len()).any(|window| window == name);
        ensure!(!found, "the program names {}", directory.display());
    }
    Ok(())
}

fn readelf(what: &str, program: &Path) -> Result<String> {
    let mut command = Command::new("readelf");
    command.args(["--wide", what]).arg(program).env("LC_ALL", "C");
    run(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_symbol_counts() {
        let text = "  0x0010:   Name: GLIBC_2.9  Flags: none  Version: 4\n  0x0020:   Name: GLIBC_2.17  Flags: none  Version: 3\n";
        assert_eq!(floor(text), Some((2, 17)));
        assert_eq!(floor("No version information found in this file."), None);
        // A version that is not understood does not count as old.
        assert!(floor("Name: GLIBC_PRIVATE  Flags") > Some((2, 17)));
    }
}
