//! One run of a guest, and what its console said.

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

/// Boot, and slack.
const MARGIN: Duration = Duration::from_secs(60);

/// For the kernel's command line: off is what costs much where it is emulated, and nothing of what is tested depends on.
/// Without page table isolation a system call costs no TLB, which would have to be filled again.
const CHEAP: &str = "mitigations=off kpti=off init_on_alloc=0 hardened_usercopy=off kfence.sample_interval=0";

/// What a guest's console said, in order.
#[derive(Debug, Default)]
pub(crate) struct Console {
    pub(crate) results: Vec<Ended>,
    /// The command that was running when the console fell silent.
    pub(crate) unfinished: Option<String>,
    /// Whether it came to the end of its list.
    pub(crate) done: bool,
}

impl Console {
    /// What all boots of a guest said.
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

    /// What the commands printed.
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

/// Runs a guest of the matrix until it switches itself off, or is late.
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
    /// Another one than the architecture's.
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
    /// Runs until it switches itself off, starts again, or is late; what its console said, which is in `log` too. It has
    /// no network device: no packet leaves it.
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
            .arg(self.initramfs)
            .stdin(Stdio::null())
            .stderr(console.try_clone()?)
            .stdout(console);
        if let Some(disk) = self.disk {
            command.args([
                "-drive",
                &format!("file={},format=raw,if=virtio,cache=unsafe", disk.display()),
            ]);
        }
        // No guest outlives this program, however it ends. The signal comes when the thread ends that starts the
        // guest, which is the one that waits for it.
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

/// Ends with the value.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // One that has ended already is past both.
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
        // A command's output need not end with a line's end.
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
