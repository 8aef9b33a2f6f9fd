//! One boot of a guest with a disk.

use std::{path::Path, time::Duration};

use anyhow::Result;

use crate::vm::{arch::Arch, qemu::Machine};

/// Emulated, a boot takes half a minute and installing a package ten seconds.
const LIMIT: Duration = Duration::from_secs(420);
/// Before each line of the test script, because systemd and the kernel write to the console, too.
const MARK: &str = "@test ";

/// Boots the guest. Returns the console output until it switches itself off or restarts, or its time is up.
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

/// The text of a line, if the test script wrote it to the console.
pub(super) fn test_line(line: &str) -> Option<&str> {
    line.split_once(MARK).map(|(_, text)| text.trim_end_matches('\r'))
}
