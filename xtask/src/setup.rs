//! Installs what is missing, as far as this system and this user allow; otherwise reports which commands to run.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cargo, is_root,
    toolchain::{Host, Missing, Remedy, Toolchain, bpf_target},
};

/// Programs that the tests call, and the Debian package of each.
const TEST_TOOLS: [(&str, &str); 14] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("curl", "curl"),
    ("wget", "wget"),
    // The system's own: the first in the path may be a script that looks for another.
    ("/usr/bin/python3", "python3"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("script", "bsdutils"),
    ("bpftool", "bpftool"),
    ("runc", "runc"),
    // The package also has promtool.
    ("prometheus", "prometheus"),
    ("prometheus-node-exporter", "prometheus-node-exporter"),
    // Opens the page of a report.
    ("chromium", "chromium"),
    // Fits Debian's rustc: lints the kernel side.
    ("clippy-driver", "rust-web-clippy"),
];

/// Programs that start other kernels, and those that their guests get beside the ones above.
const VM_TOOLS: [(&str, &str); 9] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-system-aarch64", "qemu-system-arm"),
    ("busybox", "busybox-static"),
    ("setpriv", "util-linux"),
    ("script", "bsdutils"),
    ("dpkg-deb", "dpkg"),
    ("strip", "binutils"),
    ("xz", "xz-utils"),
    ("bash", "bash"),
];

/// Programs that make repositories, and those that test packages.
const PACKAGING_TOOLS: [(&str, &str); 9] = [
    ("apt-ftparchive", "apt-utils"),
    ("gpg", "gnupg"),
    ("rpmsign", "rpm"),
    ("createrepo_c", "createrepo-c"),
    ("dnf", "dnf"),
    ("lintian", "lintian"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("depmod", "kmod"),
];

/// Programs that let this kernel run programs of another architecture.
const EMULATION_TOOLS: [(&str, &str); 3] = [
    ("qemu-aarch64-static", "qemu-user-static"),
    ("update-binfmts", "binfmt-support"),
    ("arch-test", "arch-test"),
];

/// The BPF target of the machine this is compiled for.
pub(crate) fn target() -> &'static str {
    bpf_target(if cfg!(target_endian = "big") { "big" } else { "little" })
}

/// Installs the eBPF toolchain; quick when it is there.
pub(crate) fn toolchain() -> Result<()> {
    let mut host = Host::current();
    let mut done: Vec<Remedy> = Vec::new();
    loop {
        let missing = match Toolchain::find(&host, target()) {
            Ok(_) => return Ok(()),
            Err(missing) => missing,
        };
        let Some(remedy) = missing.remedies.first() else {
            bail!("{missing}");
        };
        if done.contains(remedy) {
            bail!("`{remedy}` went well and yet:\n{missing}");
        }
        if !apply(remedy, &missing)? {
            eprintln!("setup: no such package in this system's repositories; trying rustup's nightly");
            host.apt = false;
        }
        done.push(remedy.clone());
    }
}

/// Installs the programs that the tests call.
pub(crate) fn test_tools() -> Result<()> {
    programs(&TEST_TOOLS)
}

/// Installs the programs that `cargo xtask repo` and `cargo xtask packages` call.
pub(crate) fn packaging_tools() -> Result<()> {
    programs(&PACKAGING_TOOLS)
}

/// Installs the programs that `cargo xtask vm` calls.
pub(crate) fn vm_tools() -> Result<()> {
    programs(&VM_TOOLS)
}

/// Lets this kernel run programs of other architectures: making a root of such an architecture runs some.
pub(crate) fn emulation() -> Result<()> {
    programs(&EMULATION_TOOLS)?;
    let mut enable = Command::new("update-binfmts");
    enable.arg("--enable");
    quietly("letting programs of other architectures run", enable)
}

fn programs(wanted: &[(&str, &'static str)]) -> Result<()> {
    let absent: Vec<&str> = wanted
        .iter()
        .filter(|(program, _)| !has_tool(program))
        .map(|(_, package)| *package)
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    if !Host::current().apt {
        eprintln!(
            "setup: not found: {}; tests that need them will fail",
            absent.join(", ")
        );
        return Ok(());
    }
    let (known, unknown): (Vec<&str>, Vec<&str>) = absent.into_iter().partition(|package| {
        // The second look is after an update, which happens at most once.
        apt_knows(package) || (is_root() && update_once() && apt_knows(package))
    });
    if !unknown.is_empty() {
        eprintln!(
            "setup: no package {} here; what needs it is left out",
            unknown.join(", ")
        );
    }
    if known.is_empty() {
        return Ok(());
    }
    let install = Remedy::Apt {
        packages: known.into_iter().map(str::to_owned).collect(),
    };
    if !is_root() {
        bail!("the tests need programs that are not here; as root, run:\n    {install}");
    }
    apt_install(&install)
}

/// True if the program is installed. clippy's driver must be where Debian puts it: rustup's does not fit Debian's
/// compiler.
fn has_tool(program: &str) -> bool {
    let directories = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    let in_system = directories
        .iter()
        .any(|directory| Path::new(directory).join(program).is_file());
    in_system || (program != "clippy-driver" && Host::current().program(program).is_some())
}

/// Runs one remedy; `false` if its packages do not exist here.
fn apply(remedy: &Remedy, missing: &Missing) -> Result<bool> {
    let host = Host::current();
    match remedy {
        Remedy::Apt { packages } => {
            if !is_root() {
                bail!("{missing}This user may not install packages: run the commands above as root, then try again.");
            }
            let known = || packages.iter().all(|package| apt_knows(package));
            if !known() {
                update_once();
                if !known() {
                    return Ok(false);
                }
            }
            apt_install(remedy)?;
        }
        Remedy::LinkerFromSource { major: None } => bail!("{missing}"),
        Remedy::LinkerFromSource { major: Some(major) } => {
            let mut command = cargo();
            command
                .args(["install", "bpf-linker", "--version"])
                .arg(crate::toolchain::BPF_LINKER_VERSION)
                .args(["--no-default-features", "--features", &format!("llvm-{major}")])
                .env("LLVM_PREFIX", format!("/usr/lib/llvm-{major}"));
            quietly("compiling bpf-linker, about a minute", command)?;
        }
        Remedy::LinkerPrebuilt => {
            if host.program("cargo-binstall").is_none() {
                bail!("{missing}cargo-binstall is not here either: `cargo install cargo-binstall` brings it.");
            }
            let mut command = cargo();
            command
                .args(["binstall", "--no-confirm", "bpf-linker", "--version"])
                .arg(crate::toolchain::BPF_LINKER_VERSION);
            quietly("fetching bpf-linker", command)?;
        }
        Remedy::NightlyRustSrc => {
            let Some(rustup) = host.program("rustup") else {
                bail!("{missing}rustup is not here either: see rustup.rs.");
            };
            let mut command = Command::new(rustup);
            command.args(["toolchain", "install", "nightly", "--component", "rust-src"]);
            quietly("installing a nightly compiler with rust-src", command)?;
        }
    }
    Ok(true)
}

fn apt_knows(package: &str) -> bool {
    Command::new("apt-cache")
        .args(["show", "--no-all-versions", package])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Refreshes apt's lists, once per run. True if that succeeded.
fn update_once() -> bool {
    use std::sync::OnceLock;
    static UPDATED: OnceLock<bool> = OnceLock::new();
    *UPDATED.get_or_init(|| {
        let mut command = Command::new("apt-get");
        command.args(["update", "-qq"]);
        quietly("refreshing apt's package lists", command).is_ok()
    })
}

fn apt_install(remedy: &Remedy) -> Result<()> {
    let Remedy::Apt { packages } = remedy else {
        bail!("`{remedy}` is not apt's work");
    };
    let install = || {
        let mut command = Command::new("apt-get");
        command
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive");
        quietly(&format!("installing {}", packages.join(" ")), command)
    };
    // Old lists name packages that the mirror has replaced since.
    install().or_else(|error| if update_once() { install() } else { Err(error) })
}

/// Prints one line of progress, and the output of the command only if it fails.
pub(crate) fn quietly(what: &str, mut command: Command) -> Result<()> {
    eprint!("setup: {what} ...");
    let started = Instant::now();
    let output = command
        .stdin(Stdio::null())
        .env_remove("LD_LIBRARY_PATH")
        .current_dir(env::temp_dir())
        .output()
        .inspect_err(|_| eprintln!())
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if output.status.success() {
        eprintln!(" {:.0} s", started.elapsed().as_secs_f64());
        return Ok(());
    }
    eprintln!(" failed");
    eprint!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    bail!("{what} failed, see above")
}
