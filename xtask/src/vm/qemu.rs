//! One run of a guest, and what its console said.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Boot, and slack.
const MARGIN: Duration = Duration::from_secs(60);

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
    pub(crate) output: Vec<String>,
}

/// Runs a guest until it switches itself off, or is late. It has no network device: no packet leaves it.
pub(crate) fn run(image: &Path, initramfs: &Path, log: &Path, limit: Duration) -> Result<Console> {
    let console = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = Command::new("qemu-system-x86_64");
    command
        // Emulated: /dev/kvm is not to be had everywhere, and a guest takes seconds without. `max` panics some kernels.
        .args(["-machine", "pc,accel=tcg", "-cpu", "qemu64", "-smp", "2", "-m", "1536"])
        .args(["-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio"])
        .args(["-no-reboot", "-append", "console=ttyS0 quiet panic=-1"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stderr(console.try_clone()?)
        .stdout(console);
    let mut guest = Guest(command.spawn().context("cannot run qemu-system-x86_64")?);
    let deadline = Instant::now() + limit + MARGIN;
    while guest.0.try_wait()?.is_none() && Instant::now() < deadline {
        sleep(Duration::from_millis(50));
    }
    drop(guest);
    Ok(parse(&String::from_utf8_lossy(&fs::read(log)?)))
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
            .map(|ended| (ended.name.as_str(), ended.code, ended.output.join(" ")))
            .collect();
        assert_eq!(results, [("a", 0, "one two".to_owned()), ("b", 4, String::new())]);
        assert_eq!(console.unfinished.as_deref(), Some("c"));
        assert!(!console.done);
        assert!(parse("@vm done\r\n").done);
    }
}
