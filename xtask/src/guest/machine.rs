//! One boot of a guest with a disk.

use std::{path::Path, time::Duration};

use anyhow::Result;

use crate::vm::{arch::Arch, qemu::Machine};

/// Emulated, a boot takes half a minute and installing a package ten seconds.
const LIMIT: Duration = Duration::from_secs(420);
/// Before what the test script says, as systemd and the kernel write to the console too.
const MARK: &str = "@test ";

/// What the console said until the guest ended, switched off, restarted, or was late.
pub(super) fn boot(arch: Arch, image: &Path, initramfs: &Path, disk: &Path, log: &Path) -> Result<String> {
    let machine = Machine {
        arch,
        cpu: None,
        image,
        initramfs,
        memory: "1024",
        disk: Some(disk),
        // Nobody logs in there; without this, systemd waits for the console's device.
        append: &format!("systemd.mask=serial-getty@{}.service", arch.console()),
    };
    machine.run(log, LIMIT)
}

/// A line of the test script on the console.
pub(super) fn test_line(line: &str) -> Option<&str> {
    line.split_once(MARK).map(|(_, text)| text.trim_end_matches('\r'))
}
