//! Records on stdout, written by a thread because the reader may be slow.

use std::io;

use super::queue::{Line, LineWriter};

/// Writes lines to stdout.
pub(super) struct StdoutWriter {
    /// Number of bytes of the first line that were written before a failure.
    begun: usize,
}

impl StdoutWriter {
    pub(super) fn new() -> Self {
        Self { begun: 0 }
    }
}

impl LineWriter for StdoutWriter {
    fn write(&mut self, lines: &[Line]) -> (usize, io::Result<()>) {
        // Bypasses std's buffer, which would hide how much of a line was written.
        let stdout = io::stdout();
        for (count, line) in lines.iter().enumerate() {
            while self.begun < line.bytes.len() {
                match rustix::io::write(&stdout, &line.bytes[self.begun..]) {
                    Ok(written) => self.begun += written,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return (count, Err(error.into())),
                }
            }
            self.begun = 0;
        }
        (lines.len(), Ok(()))
    }
}
