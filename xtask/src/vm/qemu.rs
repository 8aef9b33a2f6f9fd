//! One run of a guest, and its console output.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::arch::Arch;
use crate::step;

/// Time to boot, and slack.
const MARGIN: Duration = Duration::from_secs(60);

/// For the kernel's command line: switches off features that cost much under emulation and that no test depends on.
/// Without page table isolation a system call does not flush the TLB, which would have to be filled again.
const CHEAP: &str = "mitigations=off kpti=off init_on_alloc=0 hardened_usercopy=off kfence.sample_interval=0";

/// The console output of a guest, in order.
#[derive(Debug, Default)]
pub(crate) struct Console {
    pub(crate) results: Vec<Ended>,
    /// The command that was running when the console fell silent.
    pub(crate) unfinished: Option<String>,
    /// True if the guest came to the end of its list.
    pub(crate) done: bool,
}

impl Console {
    /// The console output of all boots of a guest together.
    pub(crate) fn of_all(boots: Vec<Self>) -> Self {
        let mut all = Self {
            done: true,
            ..Self::default()
        };
        for boot in boots {
            all.results.extend(boot.results);
            all.unfinished = all.unfinished.or(boot.unfinished);
            all.done &= boot.done;
        }
        all
    }

    /// Prints the output of the commands.
    pub(crate) fn print(&self) {
        for ended in &self.results {
            ended.output.iter().for_each(|line| println!("{line}"));
            println!("ended with {}", ended.code);
        }
        if let Some(name) = &self.unfinished {
            println!("stopped in {name}");
        }
    }
}

/// A command that was run in a guest.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) name: String,
    pub(crate) code: i32,
    pub(crate) seconds: f64,
    pub(crate) output: Vec<String>,
}

/// Runs a guest of the matrix until it switches itself off, or its time is up.
pub(crate) fn run(
    arch: Arch,
    cpu: Option<&str>,
    image: &Path,
    initramfs: &Path,
    log: &Path,
    limit: Duration,
) -> Result<Console> {
    let machine = Machine {
        arch,
        cpu,
        image,
        initramfs,
        memory: "2560",
        disk: None,
        append: "",
    };
    Ok(parse(&machine.run(log, limit + MARGIN)?))
}

/// A guest's machine.
pub(crate) struct Machine<'a> {
    pub(crate) arch: Arch,
    /// A CPU that is not the architecture's usual one.
    pub(crate) cpu: Option<&'a str>,
    pub(crate) image: &'a Path,
    pub(crate) initramfs: &'a Path,
    /// MiB.
    pub(crate) memory: &'static str,
    pub(crate) disk: Option<&'a Path>,
    /// For the kernel's command line.
    pub(crate) append: &'a str,
}

impl Machine<'_> {
    /// Runs until the machine switches itself off or restarts, or its time is up. Returns the console output, which is
    /// in `log`, too. The machine has no network device, so no packet leaves it.
    pub(crate) fn run(&self, log: &Path, limit: Duration) -> Result<String> {
        let console = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.arch.qemu();
        if let Some(cpu) = self.cpu {
            command.args(["-cpu", cpu]);
        }
        command
            .args(["-smp", "2", "-m", self.memory])
            .args([
                "-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio",
            ])
            .args(["-no-reboot", "-append"])
            .arg(format!(
                "console={} quiet panic=-1 {CHEAP} {}",
                self.arch.console(),
                self.append
            ))
            .arg("-kernel")
            .arg(self.image)
            .arg("-initrd")
            .arg(self.initramfs);
        if let Some(disk) = self.disk {
            command.args([
                "-drive",
                &format!("file={},format=raw,if=virtio,cache=unsafe", disk.display()),
            ]);
        }
        let mut command = step::patient(&command);
        command
            .stdin(Stdio::null())
            .stderr(console.try_clone()?)
            .stdout(console);
        // No guest outlives this program, however it ends. The signal comes when the thread that started the guest
        // ends, and that thread waits for the guest.
        let end_with_parent = || {
            // SAFETY: two numbers; nothing of this process is touched.
            match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        // SAFETY: prctl is async-signal-safe.
        unsafe { command.pre_exec(end_with_parent) };
        let spawned = command.spawn();
        let mut guest = Guest(spawned.with_context(|| format!("cannot run {}", command.get_program().display()))?);
        let deadline = Instant::now() + limit;
        while guest.0.try_wait()?.is_none() && Instant::now() < deadline {
            sleep(Duration::from_millis(50));
        }
        drop(guest);
        Ok(String::from_utf8_lossy(&fs::read(log)?).into_owned())
    }
}

/// Killed when dropped.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads what `vm-init` writes.
fn parse(text: &str) -> Console {
    let mut console = Console::default();
    let mut output = Vec::new();
    for line in text.lines() {
        let line = line.trim_end_matches('\r');
        // A command's output need not end with a newline.
        let Some((before, message)) = line.split_once("@vm ") else {
            output.push(line.to_owned());
            continue;
        };
        if !before.is_empty() {
            output.push(before.to_owned());
        }
        let mut words = message.split(' ');
        match (words.next(), words.next()) {
            (Some("begin"), Some(name)) => {
                console.unfinished = Some(name.to_owned());
                output.clear();
            }
            (Some("end"), Some(name)) => {
                console.unfinished = None;
                console.results.push(Ended {
                    name: name.to_owned(),
                    code: words.next().and_then(|code| code.parse().ok()).unwrap_or(-1),
                    seconds: words.next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0),
                    output: std::mem::take(&mut output),
                });
            }
            (Some("done"), _) => console.done = true,
            _ => {}
        }
    }
    console
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_is_read() {
        let console = parse(
            "boot\r\n@vm begin a\r\none\r\ntwo@vm end a 0 0.12\r\n@vm begin b\r\n@vm end b 4 1.00\r\n@vm begin c\r\nx\r\n",
        );
        let results: Vec<_> = console
            .results
            .iter()
            .map(|ended| (ended.name.as_str(), ended.code, ended.seconds, ended.output.join(" ")))
            .collect();
        assert_eq!(
            results,
            [("a", 0, 0.12, "one two".to_owned()), ("b", 4, 1.0, String::new())]
        );
        assert_eq!(console.unfinished.as_deref(), Some("c"));
        assert!(!console.done);
        let done = parse("@vm done\r\n");
        assert!(done.done);
        let both = Console::of_all(vec![console, done]);
        assert_eq!((both.results.len(), both.done), (2, false));
        assert_eq!(both.unfinished.as_deref(), Some("c"));
    }
}
