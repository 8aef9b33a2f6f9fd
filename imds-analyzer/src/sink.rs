//! The sinks for records. Formatting is pure; a sink adds a buffer and a file.

use std::{
    io::{self, BufWriter, IsTerminal, Stdout, Write},
    time::SystemTime,
};

use crate::{event::Event, loss::Ledger, notice::Notice};

pub mod fanout;
pub mod file;
pub mod journald;
pub mod json;
pub(crate) mod layout;
pub mod metrics;
pub mod noise;
mod plain;
pub mod queue;
mod stream;
pub mod text;

pub use self::layout::Style;

/// Takes records one by one.
pub trait Sink {
    fn write(&mut self, event: &Event) -> io::Result<()>;

    /// Writes a notice of the analyzer about itself, if the format has such notices.
    fn notice(&mut self, time: SystemTime, notice: &Notice<'_>) -> io::Result<()>;

    /// Writes buffered records. Call it whenever no further record is waiting, and at the end.
    fn flush(&mut self) -> io::Result<()>;

    /// The losses of this sink so far. Errors that the methods above return do not count.
    fn loss(&self) -> Ledger {
        Ledger::default()
    }
}

impl Sink for Box<dyn Sink> {
    fn write(&mut self, event: &Event) -> io::Result<()> {
        (**self).write(event)
    }

    fn notice(&mut self, time: SystemTime, notice: &Notice<'_>) -> io::Result<()> {
        (**self).notice(time, notice)
    }

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }

    fn loss(&self) -> Ledger {
        (**self).loss()
    }
}

/// True if the reader has closed the output, like `head` does. This ends the work; it is not a failure.
pub fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// A buffered stream of lines.
pub struct Output<W: Write> {
    writer: BufWriter<W>,
    flush_lines: bool,
}

impl Output<Stdout> {
    /// A terminal gets each line at once. A pipe or file gets lines in blocks, and the rest with [`Sink::flush`].
    pub fn stdout() -> Self {
        let stdout = io::stdout();
        let flush_lines = stdout.is_terminal();
        Self::new(stdout, flush_lines)
    }
}

impl<W: Write> Output<W> {
    pub fn new(writer: W, flush_lines: bool) -> Self {
        Self {
            writer: BufWriter::with_capacity(64 * 1024, writer),
            flush_lines,
        }
    }

    /// Writes `line`, which ends with LF.
    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        self.writer.write_all(line)?;
        if self.flush_lines { self.writer.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
pub(crate) mod tests;
