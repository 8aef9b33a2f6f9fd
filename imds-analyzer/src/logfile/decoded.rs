//! Files as they are written, and compressed ones.

use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// The first bytes of a gzip file, RFC 1952; of a frame of zstd, RFC 8878; and of a frame to be skipped, but for its first
/// byte.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// Most memory for a frame's window: zstd uses up to 8 MiB unless it is asked for more.
const WINDOW_MAX: u64 = 16 << 20;
/// Logs shrink to a twentieth. What expands more than this is made to keep the reader busy.
const EXPANSION_MAX: u64 = 2000;
/// Before that is checked.
const EXPANDED_MIN: u64 = 64 << 20;

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Plain,
    Gzip,
    Zstd,
    /// Not a log.
    Binary,
}

impl Format {
    /// The format of a file that begins with `bytes`. Names say nothing: collectors rename files.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(&GZIP) {
            Self::Gzip
        } else if bytes.starts_with(&ZSTD) || bytes.get(1..4) == Some(&ZSTD_SKIPPABLE) {
            Self::Zstd
        } else if bytes.contains(&0) {
            Self::Binary
        } else {
            Self::Plain
        }
    }
}

/// What `reader` has, decompressed.
pub(crate) fn decoded<'a>(format: Format, reader: impl Read + Send + 'a) -> Box<dyn Read + Send + 'a> {
    let reader = io::BufReader::with_capacity(64 << 10, Metered { reader, count: 0 });
    match format {
        Format::Plain | Format::Binary => Box::new(reader),
        Format::Gzip => Box::new(Bounded {
            decoder: MultiGzDecoder::new(reader),
            compressed: |decoder| decoder.get_ref().get_ref().count,
            expanded: 0,
        }),
        Format::Zstd => Box::new(Bounded {
            decoder: Zstd::new(reader),
            compressed: |decoder| decoder.reader.get_ref().count,
            expanded: 0,
        }),
    }
}

/// Counts what is read.
struct Metered<R> {
    reader: R,
    count: u64,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

/// Ends at what expands too much.
struct Bounded<D> {
    decoder: D,
    compressed: fn(&D) -> u64,
    expanded: u64,
}

impl<D: Read> Read for Bounded<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(buffer)?;
        self.expanded += count as u64;
        let compressed = (self.compressed)(&self.decoder);
        if self.expanded > EXPANDED_MIN && compressed > 0 && self.expanded / compressed > EXPANSION_MAX {
            return Err(io::Error::other("it expands to more than 2000 times its size"));
        }
        Ok(count)
    }
}

/// All frames of a zstd file. The streaming decoder of the library reads one.
struct Zstd<R> {
    reader: R,
    frame: FrameDecoder,
    has_begun: bool,
}

impl<R: io::BufRead> Zstd<R> {
    fn new(reader: R) -> Self {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(WINDOW_MAX);
        Self {
            reader,
            frame,
            has_begun: false,
        }
    }

    /// Begins the next frame; false at the end of the file.
    fn begin(&mut self) -> io::Result<bool> {
        if self.reader.fill_buf()?.is_empty() {
            return Ok(false);
        }
        match self.frame.init(&mut self.reader) {
            Ok(()) => self.has_begun = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                io::copy(&mut (&mut self.reader).take(length.into()), &mut io::sink())?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(true)
    }
}

impl<R: io::BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.has_begun {
                while self.frame.can_collect() == 0 && !self.frame.is_finished() {
                    let blocks = BlockDecodingStrategy::UptoBlocks(1);
                    self.frame
                        .decode_blocks(&mut self.reader, blocks)
                        .map_err(io::Error::other)?;
                }
                let count = self.frame.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
            }
            if !self.begin()? {
                return Ok(0);
            }
        }
    }
}
