//! Records on stdout, by a thread of their own: whoever reads them may be slow.

use std::io;

use super::queue::{Line, LineWriter};

/// Writes lines to stdout.
pub(super) struct StdoutWriter {
    /// Of the first line, what was written of it before a failure.
    begun: usize,
}

impl StdoutWriter {
    pub(super) fn new() -> Self {
        Self { begun: 0 }
    }
}

impl LineWriter for StdoutWriter {
    fn write(&mut self, lines: &[Line]) -> (usize, io::Result<()>) {
        // Past std's own buffer, which would hide how much of a line is out.
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
