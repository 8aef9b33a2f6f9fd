//! A real systemd-journald, separate from this machine's own: it runs in a mount namespace where /run is a directory of
//! the test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{run_to_end, until};

const JOURNALD: &str = "/lib/systemd/systemd-journald";
/// No rate limit, and only what a test sends: no kernel messages and no audit.
const CONFIG: &str = "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nRuntimeMaxUse=256M\nReadKMsg=no\nAudit=no\n";

/// A journal; killed when dropped.
pub struct Journal {
    dir: PathBuf,
    child: Child,
}

impl Journal {
    /// True if this machine has a journald to run.
    pub fn is_there() -> bool {
        Path::new(JOURNALD).exists()
    }

    /// Starts a journald that keeps everything below `dir`, and waits until it listens.
    pub fn start(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("run/systemd/journal")).expect("made");
        fs::write(dir.join("journald.conf"), CONFIG).expect("written");
        // Left behind by a journald that was killed.
        let _ = fs::remove_file(dir.join("run/systemd/journal/socket"));
        let script = "mount --bind \"$0/run\" /run && touch /run/journald.conf && \
                      mount --bind \"$0/journald.conf\" /etc/systemd/journald.conf && exec \"$1\"";
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(dir)
            .arg(JOURNALD)
            .stdin(Stdio::null())
            .spawn()
            .expect("journald");
        let journal = Self {
            dir: dir.to_owned(),
            child,
        };
        until("the journal listens", || journal.socket().exists());
        journal
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/systemd/journal/socket")
    }

    /// All entries with these fields, as `journalctl` shows them.
    pub fn entries(&self, matches: &[&str]) -> Vec<Value> {
        let mut command = Command::new("journalctl");
        command.args(["--no-pager", "--output=json", "--all", "--directory"]);
        command.arg(self.dir.join("run/log/journal")).args(matches);
        let output = run_to_end(&mut command);
        let lines = output.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
            .collect()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
