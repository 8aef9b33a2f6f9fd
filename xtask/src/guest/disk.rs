//! A guest's disk, and the initramfs that mounts it.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::Repositories;
use crate::{
    setup,
    vm::{
        arch::Arch,
        cpio::Archive,
        initramfs,
        packages::{Mirror, Unpacked, run},
    },
};

/// Packages that a host has, and those that the tests call.
const PACKAGES: &str =
    "apt,systemd-sysv,udev,dbus,libpam-systemd,kmod,procps,iproute2,curl,python3,cron,runc,ca-certificates,gpgv";
/// Modules for mounting the disk.
const MODULES: [&str; 5] = ["crc32c_generic", "virtio_pci", "virtio_mmio", "virtio_blk", "ext4"];
const SIZE: &str = "1500M";

/// Read-only at first, as disks are until systemd remounts them.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
for module in /modules/*; do /bin/busybox insmod $module; done
/bin/busybox mount -t ext4 -o ro /dev/vda /root
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
";

/// Runs the tests after everything else has started. The tests report the result, so nothing depends on how the unit
/// ends.
const UNIT: &str = "[Unit]
Description=Tests of the packages
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /srv/test/guest.sh
StandardOutput=journal
[Install]
WantedBy=graphical.target
";

/// Makes the system of `suite` in the folder `tree`, if it is not there.
pub(super) fn make_root(tree: &Path, suite: &str, arch: Arch, mirror: Option<&Mirror>) -> Result<()> {
    if tree.join("sbin/init").exists() {
        return Ok(());
    }
    eprintln!("packages: making a root of {suite} for {}", arch.name());
    if !arch.is_ours() {
        setup::emulation()?;
    }
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--variant=minbase", &format!("--include={PACKAGES}")])
        .arg(format!("--architectures={}", arch.debian()))
        .arg("--aptopt=Acquire::Languages \"none\"");
    if let Some(mirror) = mirror {
        make.arg(format!("--keyring={}", mirror.keyring.display()));
    }
    make.arg(suite).arg(tree).env_remove("LD_LIBRARY_PATH");
    if let Some(mirror) = mirror {
        make.args(&mirror.sources);
    }
    run(make).map(drop)
}

/// Makes the disk of the system in `tree`, with everything in it.
pub(super) fn write(tree: &Path, kernel: &Unpacked, repositories: &Repositories, disk: &Path) -> Result<()> {
    let modules = tree.join("lib/modules").join(&kernel.release);
    copy(&kernel.modules, &modules)?;
    let mut depmod = Command::new("depmod");
    depmod.arg("--basedir").arg(tree).arg(&kernel.release);
    run(depmod)?;
    let test = tree.join("srv/test");
    if test.exists() {
        fs::remove_dir_all(&test)?;
    }
    fs::create_dir_all(&test)?;
    fs::copy("tests/packages/guest.sh", test.join("guest.sh")).context("the tests' script")?;
    copy(&repositories.now, &test.join("repo-now"))?;
    copy(&repositories.next, &test.join("repo-next"))?;
    let units = tree.join("etc/systemd/system");
    fs::write(units.join("package-tests.service"), UNIT)?;
    let wants = units.join("graphical.target.wants");
    fs::create_dir_all(&wants)?;
    let link = wants.join("package-tests.service");
    if !link.exists() {
        std::os::unix::fs::symlink("../package-tests.service", link)?;
    }
    // Without this file dpkg before 1.20 removes nothing, and mmdebstrap does not make it.
    let available = tree.join("var/lib/dpkg/available");
    if !available.exists() {
        fs::write(available, "")?;
    }
    // Without /etc/fstab, systemd leaves the root read-only.
    fs::write(tree.join("etc/fstab"), "/dev/vda / ext4 defaults 0 0\n")?;
    fs::write(tree.join("etc/hostname"), "guest\n")?;
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost guest\n")?;
    if disk.exists() {
        fs::remove_file(disk)?;
    }
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-d"]).arg(tree).arg(disk).arg(SIZE);
    run(make).map(drop)
}

/// Writes an initramfs that mounts the disk and goes on there.
pub(super) fn write_initramfs(path: &Path, kernel: &Unpacked, busybox: &Path) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(path)?));
    for folder in ["dev", "root", "bin"] {
        archive.directory(Path::new(folder))?;
    }
    let busybox = fs::read(busybox.join("bin/busybox")).context("busybox is not in its package")?;
    archive.file(Path::new("bin/busybox"), &busybox, true)?;
    archive.file(Path::new("init"), INIT.as_bytes(), true)?;
    let modules = initramfs::modules(&kernel.modules, &MODULES)?;
    ensure!(!modules.is_empty(), "the kernel has no modules for a disk");
    for (i, (name, content)) in modules.iter().enumerate() {
        archive.file(Path::new(&format!("modules/{i:02}-{name}.ko")), content, false)?;
    }
    archive.finish()?;
    Ok(())
}

/// Copies a folder with its contents.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let mut copy = Command::new("cp");
    copy.args(["--archive", "--no-target-directory"]).arg(from).arg(to);
    run(copy).map(drop)
}
