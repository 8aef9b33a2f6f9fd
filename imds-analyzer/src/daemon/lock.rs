//! One daemon a host: two would write to the same file. `watch` may run beside it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process,
};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};

/// Held for as long as it lives; the kernel gives it back however the process ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl Lock {
    /// # Errors
    ///
    /// When another daemon has it, which is named, or when the directory cannot be written.
    pub(super) fn take(directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        let path = directory.join("daemon.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .with_context(|| format!("{} cannot be opened", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut owner = String::new();
                // Only to name it.
                let _ = file.take(64).read_to_string(&mut owner);
                let owner = match owner.trim().parse::<u32>() {
                    Ok(pid) => format!("process {pid} is"),
                    Err(_) => "another process is".to_owned(),
                };
                bail!(
                    "{owner} running as the daemon of this host already (it holds {}); `imds-analyzer watch` can run \
                     beside it",
                    path.display()
                );
            }
            Err(error) => return Err(io::Error::from(error)).with_context(|| format!("lock of {}", path.display())),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", process::id()))
            .with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self(file))
    }
}
