//! QEMU, for one boot of a guest with a disk.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::vm::arch::Arch;

/// Emulated, a boot takes half a minute and installing a package ten seconds.
const LIMIT: Duration = Duration::from_secs(420);
/// Before what the test script says, as systemd and the kernel write to the console too.
const MARK: &str = "@test ";

/// What the console said until the guest ended, switched off, restarted, or was late.
pub(super) fn boot(arch: Arch, image: &Path, initramfs: &Path, disk: &Path, log: &Path) -> Result<String> {
    let console = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let (mut command, serial) = arch.qemu();
    command
        .args(["-smp", "2", "-m", "1024", "-no-reboot"])
        .args(["-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio"])
        .args(["-drive", &format!("file={},format=raw,if=virtio,cache=unsafe", disk.display())])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        // Nobody logs in there; without this, systemd waits for the console's device.
        .args(["-append", &format!("console={serial} quiet panic=-1 systemd.mask=serial-getty@{serial}.service")])
        .stdin(Stdio::null())
        .stderr(console.try_clone()?)
        .stdout(console);
    // SAFETY: prctl is async-signal-safe, and touches nothing of this process.
    unsafe {
        // No guest outlives this program, however it ends.
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let spawned = command.spawn();
    let mut guest = Machine(spawned.with_context(|| format!("cannot run {}", command.get_program().display()))?);
    let deadline = Instant::now() + LIMIT;
    while guest.0.try_wait()?.is_none() && Instant::now() < deadline {
        sleep(Duration::from_millis(100));
    }
    drop(guest);
    Ok(String::from_utf8_lossy(&fs::read(log)?).into_owned())
}

/// Ends with the value.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // One that has ended already is past both.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A line of the test script on the console.
pub(super) fn test_line(line: &str) -> Option<&str> {
    line.split_once(MARK).map(|(_, text)| text.trim_end_matches('\r'))
}
