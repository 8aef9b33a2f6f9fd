//! Compiles the eBPF objects from source, as part of the ordinary build, and passes their paths on in
//! `IMDS_MODERN_OBJECT` and `IMDS_LEGACY_OBJECT`.

use std::{
    env,
    error::Error,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};
use toolchain::{Host, Toolchain, bpf_target};

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

/// The package and its binaries, eBPF objects, each with the variable for its path.
const PACKAGE: &str = "imds-analyzer-ebpf";
const OBJECTS: [(&str, &str); 2] = [("modern", "IMDS_MODERN_OBJECT"), ("legacy", "IMDS_LEGACY_OBJECT")];

fn main() {
    if let Err(error) = build() {
        for line in error.to_string().lines() {
            println!("cargo::error={line}");
        }
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = package.parent().ok_or("the package is not inside the workspace")?;
    for input in [PACKAGE, "Cargo.toml", "Cargo.lock", "xtask/src/toolchain.rs"] {
        rerun_if_changed(&workspace.join(input));
    }

    let target = bpf_target(&text("CARGO_CFG_TARGET_ENDIAN")?);
    let host = Host::current();
    let toolchain = Toolchain::find(&host, target).map_err(|missing| missing.to_string())?;
    rerun_if_changed(&toolchain.rustc);
    rerun_if_changed(&toolchain.linker);

    let out = PathBuf::from(variable("OUT_DIR")?);
    let arch = text("CARGO_CFG_TARGET_ARCH")?;
    // One directory for all profiles: what the objects depend on is compiled once, and not for each of them.
    let target_dir = toolchain::bpf_target_dir(target_dir(&out)?, &arch);
    let output = toolchain
        .cargo("build", &host, workspace, target, &arch)
        .args([
            "--quiet",
            "--locked",
            "--profile",
            "bpf",
            "--package",
            PACKAGE,
            "--bins",
        ])
        .arg("--target-dir")
        .arg(&target_dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cargo does not run: {error}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the eBPF objects do not compile:\n{messages}").into());
    }
    // Cargo repeats them on every build, as it does for other packages of the workspace.
    for line in messages.lines() {
        println!("cargo::warning={line}");
    }

    for (object, variable) in OBJECTS {
        let path = out.join(object);
        let built = fs::read(target_dir.join(target).join("bpf").join(object))
            .map_err(|error| format!("cannot read the eBPF object {object}: {error}"))?;
        let stripped = without_dwarf(&built).map_err(|error| format!("cannot strip the eBPF object: {error}"))?;
        fs::write(&path, stripped)
            .map_err(|error| format!("cannot write the eBPF object to {}: {error}", path.display()))?;
        println!("cargo::rustc-env={variable}={}", path.display());
    }
    Ok(())
}

/// `object` without DWARF, which is most of it: the kernel and the loader read the BTF that was made of it.
fn without_dwarf(object: &[u8]) -> Result<Vec<u8>, object::build::Error> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections among those of symbols, which this writer does not.
    let names = builder.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

/// The target directory of this build. `OUT_DIR` is `build/PACKAGE/out` in it, behind the profile and, if one was asked
/// for, the target.
fn target_dir(out: &Path) -> Result<&Path, String> {
    let dir = out.ancestors().nth(4).ok_or("OUT_DIR is not in a target directory")?;
    match dir.parent() {
        Some(parent) if dir.file_name() == env::var_os("TARGET").as_deref() => Ok(parent),
        _ => Ok(dir),
    }
}

fn rerun_if_changed(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

/// A variable that cargo sets for build scripts.
fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set: this is a build script, run it through cargo."))
}

fn text(name: &str) -> Result<String, String> {
    variable(name)?
        .into_string()
        .map_err(|value| format!("{name} is not text: {}", value.display()))
}
