//! The log of one host, in files as the daemon leaves them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// A log that is being written. The first file that is finished has the lowest number.
#[derive(Debug)]
pub(super) struct Log {
    directory: PathBuf,
    gzip: bool,
    /// The lines of the file at hand.
    pub(super) lines: Vec<u8>,
    finished: u64,
    pub(super) bytes: u64,
}

impl Log {
    pub(super) fn new(directory: PathBuf, gzip: bool) -> Result<Self> {
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Self {
            directory,
            gzip,
            lines: Vec::with_capacity(1 << 20),
            finished: 0,
            bytes: 0,
        })
    }

    /// Ends the file at hand.
    pub(super) fn rotate(&mut self) -> Result<()> {
        self.finished += 1;
        let path = self.directory.join(format!("events.jsonl.{:06}", self.finished));
        self.write(&path)?;
        if self.gzip {
            compress(&path)?;
        }
        Ok(())
    }

    /// Ends the log.
    pub(super) fn end(&mut self) -> Result<()> {
        let path = self.directory.join("events.jsonl");
        self.write(&path)
    }

    fn write(&mut self, path: &Path) -> Result<()> {
        fs::write(path, &self.lines).with_context(|| format!("cannot write {}", path.display()))?;
        self.bytes += self.lines.len() as u64;
        self.lines.clear();
        Ok(())
    }
}

/// Puts `path`.gz in the place of `path`.
fn compress(path: &Path) -> Result<()> {
    let mut gzip = Command::new("gzip");
    // Without the time of the file, or the bytes would differ.
    let status = gzip.args(["--fast", "--no-name"]).arg(path).status();
    let status = status.context("cannot run gzip")?;
    ensure!(status.success(), "gzip failed on {}", path.display());
    Ok(())
}
