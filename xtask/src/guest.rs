//! `cargo xtask packages`: the packages, installed, used, upgraded and removed in real systemd guests: several releases
//! of Debian, and Ubuntu 18.04, on a virtual disk and started by their own systemd. It takes minutes, so
//! `cargo xtask test` leaves it out.
//!
//! ```text
//! disk      a file system made by mmdebstrap, with the repositories and tests/packages/guest.sh in it
//! machine   QEMU, once for each time that the guest boots
//! rpm       no guest: an RPM root made by dnf on this machine
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, ensure};

use crate::{
    dist::{self, Release, package},
    repo::{self, Key},
    setup,
    vm::{
        self,
        arch::Arch,
        kernels::{self, Kernel},
        packages::Packages,
    },
};

mod disk;
mod machine;
mod rpm;

/// A release of a distribution, and the kernel of the matrix that it is started with: its own, or the nearest.
struct System {
    name: &'static str,
    suite: &'static str,
    kernel: &'static str,
}

const SYSTEMS: [System; 5] = [
    System {
        name: "bookworm",
        suite: "bookworm",
        kernel: "6.1",
    },
    System {
        name: "bullseye",
        suite: "bullseye",
        kernel: "5.10",
    },
    System {
        name: "trixie",
        suite: "trixie",
        kernel: "6.12",
    },
    System {
        name: "bionic",
        suite: "bionic",
        kernel: "4.15-aws",
    },
    System {
        name: "bookworm-arm64",
        suite: "bookworm",
        kernel: "6.1-arm64",
    },
];
/// The name of the RPM root among the systems.
const RPM: &str = "rpm";
/// The URL of the repositories in a guest, which serves them itself.
const URL: &str = "http://127.0.0.1:8000";
/// The suffix of the version that guests upgrade to.
const NEXT: &str = "+next";

/// The repositories, before and after the next version came out.
struct Repositories {
    now: PathBuf,
    next: PathBuf,
}

/// Runs the tests in the systems of these names, or in all; `rpm` is one of them.
pub(crate) fn run(names: &[String]) -> Result<ExitCode> {
    setup::packaging_tools()?;
    setup::vm_tools()?;
    package::tools()?;
    for name in names {
        ensure!(
            name == RPM || SYSTEMS.iter().any(|system| system.name == name),
            "there is no system {name}; there are {RPM}, {}",
            SYSTEMS.map(|system| system.name).join(", ")
        );
    }
    let chosen = |name: &str| names.is_empty() || names.iter().any(|chosen| chosen == name);
    let root = vm::target().join("guest");
    fs::create_dir_all(&root)?;
    let root = fs::canonicalize(root)?;
    let mut counts = Counts::default();
    for arch in [Arch::X86_64, Arch::Arm64] {
        let mut systems = Vec::new();
        for system in SYSTEMS.iter().filter(|system| chosen(system.name)) {
            let kernel = kernels::named(system.kernel)?;
            if kernel.arch == arch {
                systems.push((system, kernel));
            }
        }
        let rpm = arch.is_ours() && chosen(RPM);
        if systems.is_empty() && !rpm {
            continue;
        }
        let repositories = repositories(&root.join(arch.name()), arch)?;
        if rpm {
            println!("\n== {RPM}");
            counts.add(&rpm::test(&root, &repositories)?);
        }
        for (system, kernel) in systems {
            println!("\n== {}, kernel {}", system.name, kernel.name);
            counts.add(&guest(&root, system, kernel, &repositories)?);
        }
    }
    println!("\n{} passed, {} failed", counts.passed, counts.failed);
    Ok(if counts.failed == 0 && counts.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Lines of a test script: `ok <what>` and `FAILED <what>`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    fn add(&mut self, text: &str) {
        for line in text.lines() {
            self.passed += u64::from(line.starts_with("ok "));
            self.failed += u64::from(line.starts_with("FAILED "));
        }
    }
}

fn repositories(root: &Path, arch: Arch) -> Result<Repositories> {
    let releases = dist::releases(&[arch])?;
    let folder = root.join("packages");
    fs::create_dir_all(&folder)?;
    let mut now = Vec::new();
    let mut next = Vec::new();
    for release in &releases {
        now.extend([package::deb(release, &folder)?, package::rpm(release, &folder)?]);
        let later = Release {
            version: format!("{}{NEXT}", release.version),
            ..release.clone()
        };
        next.extend([package::deb(&later, &folder)?, package::rpm(&later, &folder)?]);
    }
    next.extend(now.iter().cloned());
    let key = Key::of_tests()?;
    let repositories = Repositories {
        now: root.join("repo-now"),
        next: root.join("repo-next"),
    };
    repo::write(&repositories.now, &now, &key, URL)?;
    repo::write(&repositories.next, &next, &key, URL)?;
    Ok(repositories)
}

/// Boots a guest until it switches itself off. Returns the output of its tests.
fn guest(root: &Path, system: &System, kernel: &Kernel, repositories: &Repositories) -> Result<String> {
    let (arch, distribution) = (kernel.arch, kernel.distribution);
    let vm = vm::root()?;
    fs::create_dir_all(vm.join(arch.name()))?;
    let mut packages = Packages::new(&vm, arch, false)?;
    let kernel = packages.kernel(kernel)?;
    let busybox = packages.named("busybox", &["busybox-static".to_owned()])?;
    let disk = root.join(format!("{}.ext4", system.name));
    let tree = root.join(system.name);
    let mirror = packages.mirror(distribution, system.suite)?;
    disk::make_root(&tree, system.suite, arch, mirror.as_ref())?;
    disk::write(&tree, &kernel, repositories, &disk)?;
    let initramfs = root.join(format!("{}.cpio", system.name));
    disk::write_initramfs(&initramfs, &kernel, &busybox)?;
    let mut said = String::new();
    for boot in 1..=BOOTS {
        let log = root.join(format!("{}-{boot}.log", system.name));
        let text = machine::boot(arch, &kernel.image, &initramfs, &disk, &log)?;
        let tests: Vec<&str> = text.lines().filter_map(machine::test_line).collect();
        tests.iter().for_each(|line| println!("{line}"));
        said.extend(tests.iter().flat_map(|line| [line, "\n"]));
        let end = format!("end of boot {boot}");
        if !tests.iter().any(|line| *line == end) {
            println!("FAILED boot {boot}: it did not come to its end, see {}", log.display());
            said.push_str("FAILED \n");
            break;
        }
    }
    fs::remove_file(disk)?;
    fs::remove_file(initramfs)?;
    ensure!(!said.is_empty(), "the guest said nothing");
    Ok(said)
}

/// First installed, then enabled, then with a service that never gets ready.
const BOOTS: u32 = 3;
