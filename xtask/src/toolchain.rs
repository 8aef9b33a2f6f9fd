//! Finds the tools that compile the eBPF object, or reports which are missing and which commands install them.
//!
//! A BPF toolchain is a rustc with a `core` for BPF, and bpf-linker. Such a rustc is either a distribution's, with
//! `core` precompiled (Debian), or a rustup nightly with rust-src, which compiles `core` along (`-Z build-std`).
//!
//! Only std is used: `imds-analyzer/build.rs` includes this file too.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

/// The release of bpf-linker that this project is built with.
pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";

/// The BPF target for a byte order, which is a value of `CARGO_CFG_TARGET_ENDIAN`.
pub(crate) fn bpf_target(endian: &str) -> &'static str {
    if endian == "big" {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    }
}

/// The directory for the objects for hosts of `arch`, below cargo's target directory.
pub(crate) fn bpf_target_dir(target_dir: &Path, arch: &str) -> PathBuf {
    target_dir.join("ebpf").join(arch)
}

/// A rustc and a bpf-linker that fit together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) rustc: PathBuf,
    pub(crate) linker: PathBuf,
    pub(crate) core: Core,
}

/// The source of `core` for BPF.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// In rustc's sysroot; any cargo will do.
    Precompiled,
    /// From rust-src; only this nightly `cargo` can.
    BuildStd { cargo: PathBuf },
}

/// The missing tools, and the commands that install them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) absent: Vec<String>,
    pub(crate) remedies: Vec<Remedy>,
}

/// One step towards a toolchain; `Display` gives the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    Apt {
        packages: Vec<String>,
    },
    /// bpf-linker, compiled against LLVM `major`; `None` if the version is known only once rustc is installed.
    LinkerFromSource {
        major: Option<u32>,
    },
    LinkerPrebuilt,
    NightlyRustSrc,
}

/// The machine, and the places where tools are looked for.
#[derive(Debug)]
pub(crate) struct Host {
    /// `/`, or a directory that stands for it.
    pub(crate) root: PathBuf,
    /// The directories of `PATH`.
    pub(crate) path: Vec<PathBuf>,
    pub(crate) cargo_home: Option<PathBuf>,
    pub(crate) rustup_home: Option<PathBuf>,
    /// Debian or a relative: packages are available with apt.
    pub(crate) apt: bool,
}

impl Host {
    pub(crate) fn current() -> Self {
        let home = env::var_os("HOME").map(PathBuf::from);
        let home_of = |variable: &str, fallback: &str| {
            env::var_os(variable)
                .map(PathBuf::from)
                .or_else(|| home.as_ref().map(|home| home.join(fallback)))
        };
        Self {
            root: PathBuf::from("/"),
            path: env::var_os("PATH")
                .map(|path| env::split_paths(&path).collect())
                .unwrap_or_default(),
            cargo_home: home_of("CARGO_HOME", ".cargo"),
            rustup_home: home_of("RUSTUP_HOME", ".rustup"),
            apt: Path::new("/usr/bin/apt-get").is_file(),
        }
    }

    /// The program `name` as the shell would find it, or in cargo's own directory.
    pub(crate) fn program(&self, name: &str) -> Option<PathBuf> {
        let cargo_bin = self.cargo_home.as_ref().map(|home| home.join("bin"));
        self.path
            .iter()
            .chain(&cargo_bin)
            .map(|directory| directory.join(name))
            .find(|file| file.is_file())
    }

    /// The distribution's rustc, whether or not it can do BPF.
    fn system_rustc(&self) -> Option<PathBuf> {
        Some(self.root.join("usr/bin/rustc")).filter(|rustc| rustc.is_file())
    }

    /// The directory of the newest nightly with rust-src.
    fn nightly(&self) -> Option<PathBuf> {
        let toolchains = self.rustup_home.as_ref()?.join("toolchains");
        let mut nightlies: Vec<PathBuf> = toolchains
            .read_dir()
            .ok()?
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("nightly"))
            .map(|entry| entry.path())
            .filter(|directory| directory.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file())
            .collect();
        // "nightly-x86_64-..." sorts behind the dated "nightly-2026-...".
        nightlies.sort();
        nightlies.pop()
    }
}

impl Toolchain {
    /// Looks for a toolchain for `target`, see [`bpf_target`].
    pub(crate) fn find(host: &Host, target: &str) -> Result<Self, Missing> {
        let linker = host.program("bpf-linker");
        let system = host
            .system_rustc()
            .filter(|rustc| sysroot(rustc).is_some_and(|root| root.join("lib/rustlib").join(target).is_dir()));
        let nightly = host.nightly();
        match (system, nightly, linker) {
            (Some(rustc), _, Some(linker)) => Ok(Self {
                rustc,
                linker,
                core: Core::Precompiled,
            }),
            (None, Some(nightly), Some(linker)) => Ok(Self {
                rustc: nightly.join("bin/rustc"),
                linker,
                core: Core::BuildStd {
                    cargo: nightly.join("bin/cargo"),
                },
            }),
            (system, nightly, linker) => Err(Missing::of(
                host,
                target,
                system.as_deref(),
                nightly.as_deref(),
                linker.as_deref(),
            )),
        }
    }

    /// `cargo SUBCOMMAND` for BPF, run in `workspace`; the caller adds package, profile and the rest.
    ///
    /// Variables that the outer build has set for itself (clippy's wrapper, the job server, its own flags and compiler)
    /// must not reach this build.
    pub(crate) fn cargo(&self, subcommand: &str, host: &Host, workspace: &Path, target: &str, arch: &str) -> Command {
        let cargo = match &self.core {
            Core::Precompiled => env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
            Core::BuildStd { cargo } => cargo.into(),
        };
        let mut command = Command::new(cargo);
        for variable in [
            "CARGO_BUILD_RUSTC",
            "CARGO_BUILD_RUSTC_WRAPPER",
            "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_MAKEFLAGS",
            "CARGO_TARGET_DIR",
            "CLIPPY_ARGS",
            "LD_LIBRARY_PATH",
            "MAKEFLAGS",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "RUSTDOC",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
        ] {
            command.env_remove(variable);
        }
        let mut flags = vec![
            // aya-ebpf chooses the layout of pt_regs by this.
            format!("--cfg=bpf_target_arch=\"{arch}\""),
            "-Cdebuginfo=2".to_owned(),
            // The debug information becomes BTF.
            "-Clink-arg=--btf".to_owned(),
            // Unless told not to, bpf-linker makes LLVM expand copies in order; these programs have no need for it.
            "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
            // The object is the same wherever it is compiled. `.`, because that is where the linker finds the source
            // lines that the verifier's log shows.
            format!("--remap-path-prefix={}=.", workspace.display()),
        ];
        flags.extend(
            host.cargo_home
                .as_ref()
                .map(|home| format!("--remap-path-prefix={}=cargo", home.display())),
        );
        let linker_variable = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
        command
            .env("RUSTC", &self.rustc)
            .env(linker_variable, &self.linker)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            // aya-ebpf asks for `asm_experimental_arch`.
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(workspace)
            .args([subcommand, "--target", target]);
        if self.core != Core::Precompiled {
            command.args(["-Z", "build-std=core"]);
        }
        command
    }
}

impl Missing {
    fn of(host: &Host, target: &str, system: Option<&Path>, nightly: Option<&Path>, linker: Option<&Path>) -> Self {
        let mut absent = Vec::new();
        let mut remedies = Vec::new();
        let debian = system.is_some() || (nightly.is_none() && host.apt);
        if system.is_none() && nightly.is_none() {
            absent.push(format!("a Rust compiler for {target}"));
            remedies.push(if debian {
                Remedy::apt(["rustc-web", "libstd-rust-web-dev-bpf"])
            } else {
                Remedy::NightlyRustSrc
            });
        }
        if linker.is_none() {
            absent.push("bpf-linker".to_owned());
            if debian {
                // The LLVM that Debian's rustc uses: the linker must read what that rustc writes.
                let major = system.and_then(llvm_major);
                let llvm = format!(
                    "usr/lib/llvm-{}",
                    major.map_or_else(String::new, |major| major.to_string())
                );
                let has_llvm = host.root.join(llvm).join("bin/llvm-config").is_file();
                if !has_llvm || !host.root.join("usr/include/zstd.h").is_file() {
                    let llvm = format!("llvm-{}-dev", Major(major));
                    remedies.push(Remedy::apt([llvm.as_str(), "libzstd-dev", "zlib1g-dev", "g++"]));
                }
                remedies.push(Remedy::LinkerFromSource { major });
            } else {
                remedies.push(Remedy::LinkerPrebuilt);
            }
        }
        Self { absent, remedies }
    }
}

impl Remedy {
    fn apt<const N: usize>(packages: [&str; N]) -> Self {
        Self::Apt {
            packages: packages.map(str::to_owned).to_vec(),
        }
    }
}

/// LLVM's major version, or a shell variable in its place while it is unknown.
struct Major(Option<u32>);

impl fmt::Display for Major {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(major) => major.fmt(f),
            None => f.write_str("$llvm"),
        }
    }
}

impl fmt::Display for Missing {
    /// One sentence, then the commands, one per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} missing, needed to compile the eBPF object.",
            self.absent.join(" and ")
        )?;
        writeln!(f, "`cargo xtask setup` installs it; by hand:")?;
        let mut compiler_comes_first = false;
        for remedy in &self.remedies {
            if compiler_comes_first {
                writeln!(
                    f,
                    r"    llvm=$(/usr/bin/rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')"
                )?;
            }
            compiler_comes_first = matches!(remedy, Remedy::Apt { packages } if packages[0] == "rustc-web");
            writeln!(f, "    {remedy}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apt { packages } => write!(f, "apt-get install --no-install-recommends {}", packages.join(" ")),
            Self::LinkerFromSource { major } => {
                let major = Major(*major);
                write!(
                    f,
                    "LLVM_PREFIX=/usr/lib/llvm-{major} cargo install bpf-linker --version {BPF_LINKER_VERSION} \
                     --no-default-features --features llvm-{major}"
                )
            }
            Self::LinkerPrebuilt => write!(f, "cargo binstall bpf-linker --version {BPF_LINKER_VERSION}"),
            Self::NightlyRustSrc => f.write_str("rustup toolchain install nightly --component rust-src"),
        }
    }
}

fn sysroot(rustc: &Path) -> Option<PathBuf> {
    let output = run(rustc, &["--print", "sysroot"])?;
    Some(PathBuf::from(output.trim()))
}

fn llvm_major(rustc: &Path) -> Option<u32> {
    let output = run(rustc, &["-vV"])?;
    let version = output.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// The output of `program`, if it succeeds. Cargo's library path is only for the rustc of its own toolchain.
fn run(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

// The path is spelt out because from build.rs it would be looked for elsewhere.
#[cfg(test)]
#[path = "toolchain/tests.rs"]
mod tests;
