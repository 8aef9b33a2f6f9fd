//! Finds the answers in the bytes that a server sends: their status lines, and where each answer ends.
//!
//! An [`Answers`] belongs to one connection and follows the stream that the client receives, however the stream is cut.
//! Like [`crate::classify`] it takes a byte at a time, allocates nothing and calls nothing. Every value it can have is
//! valid; all zeroes means a new connection. Bodies are counted, not read.
//!
//! # Rules
//! Grammar and framing follow RFC 9112, with the tolerance of clients where it cannot change the count of answers: bare
//! LF ends a line (2.2), empty lines before a status line are skipped, and several spaces may precede the status code.
//!
//! A status of 1xx is not an answer: the final status follows (RFC 9110, 15.2). After 101 the connection speaks another
//! protocol. An answer with status 204 or 304 and an answer to HEAD have no body. Any other body is chunked, has a
//! Content-Length, or ends with the connection (RFC 9112, 6.3).
//!
//! Clients may disagree about where an answer ends: if its Content-Length is not a number, appears twice or beside a
//! Transfer-Encoding, if a folded line follows either header, or if blanks precede its colon. Then the status of that
//! answer is certain, but nothing after the answer is. Bytes that are not HTTP are not an answer, and neither is
//! anything after them: [`Step::Lost`].

/// Maximum length of a head, in bytes; also of the lines around one chunk, and of the trailers.
pub const HEAD_MAX: u32 = 64 * 1024;

/// A Content-Length or a chunk size above this is invalid.
const LENGTH_MAX: u64 = 1 << 53;

/// Length of `HTTP/1.1 200`.
pub const STATUS_LINE_LEN: usize = 12;

/// The status in the first bytes of a status line; 0 if they do not begin one.
#[inline(always)]
pub const fn status_of(line: &[u8; STATUS_LINE_LEN]) -> u16 {
    let [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor, b' ', a, b, c] = *line else {
        return 0;
    };
    if !(minor.is_ascii_digit() && a.is_ascii_digit() && b.is_ascii_digit() && c.is_ascii_digit()) {
        return 0;
    }
    (a - b'0') as u16 * 100 + (b - b'0') as u16 * 10 + (c - b'0') as u16
}

/// The effect of one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Nothing to report yet.
    More = 0,
    /// The byte ended the status code of an answer: see [`Answers::status`].
    Answer = 1,
    /// The stream cannot be followed from here on. Returned once.
    Lost = 2,
}

/// Values of [`Answers::state`]: what the next byte belongs to.
mod state {
    /// In `HTTP/1.`; [`super::Answers::position`] bytes of it have been seen.
    pub(super) const VERSION: u8 = 0;
    pub(super) const MINOR: u8 = 1;
    pub(super) const SPACE: u8 = 2;
    /// In the status code; `position` digits of it have been seen.
    pub(super) const STATUS: u8 = 3;
    pub(super) const REASON: u8 = 4;
    /// At the beginning of a header line.
    pub(super) const LINE: u8 = 5;
    /// After a CR at the beginning of a header line.
    pub(super) const END: u8 = 6;
    /// In a header's name; `position` bytes of it have been seen.
    pub(super) const NAME: u8 = 7;
    /// In a line that does not matter.
    pub(super) const SKIP: u8 = 8;
    /// In the value of Content-Length; `position` is one of `length`.
    pub(super) const LENGTH: u8 = 9;
    /// In a coding of Transfer-Encoding; `position` counts its bytes that match `chunked`, or is one of `coding`.
    pub(super) const CODING: u8 = 10;
    /// In a body with `remaining` bytes left.
    pub(super) const BODY: u8 = 11;
    /// In a chunk's size; `position` is 1 once a digit has been seen.
    pub(super) const CHUNK_SIZE: u8 = 12;
    pub(super) const CHUNK_EXTENSION: u8 = 13;
    /// In a chunk with `remaining` bytes left.
    pub(super) const CHUNK_DATA: u8 = 14;
    pub(super) const CHUNK_END: u8 = 15;
    pub(super) const CHUNK_END_LF: u8 = 16;
    /// At the beginning of a trailer line, after a CR there, and within a trailer line.
    pub(super) const TRAILER: u8 = 17;
    pub(super) const TRAILER_END: u8 = 18;
    pub(super) const TRAILER_LINE: u8 = 19;
    /// The body ends with the connection.
    pub(super) const CLOSE: u8 = 20;
    pub(super) const LOST: u8 = 21;
}

/// Values of [`Answers::position`] in the value of a Content-Length.
mod length {
    pub(super) const BEFORE: u8 = 0;
    pub(super) const DIGITS: u8 = 1;
    pub(super) const BEHIND: u8 = 2;
}

/// Values of [`Answers::position`] in a coding.
mod coding {
    /// All of `chunked`.
    pub(super) const WHOLE: u8 = super::CHUNKED.len() as u8;
    /// `chunked` and blanks.
    pub(super) const BEHIND: u8 = WHOLE + 1;
    pub(super) const OTHER: u8 = WHOLE + 2;
}

/// Headers that frame a body: bits of [`Answers::candidates`].
mod name {
    pub(super) const LENGTH: u8 = 1;
    pub(super) const ENCODING: u8 = 2;
    pub(super) const BOTH: u8 = LENGTH | ENCODING;
}

/// Bits of [`Answers::framing`].
mod framing {
    /// A Content-Length was seen.
    pub(super) const LENGTH: u8 = 1;
    /// A Transfer-Encoding was seen.
    pub(super) const ENCODING: u8 = 1 << 1;
    /// The last coding is chunked.
    pub(super) const CHUNKED: u8 = 1 << 2;
    /// Clients may disagree about the framing.
    pub(super) const DOUBT: u8 = 1 << 3;
}

const VERSION: [u8; 7] = *b"HTTP/1.";
const CONTENT_LENGTH: [u8; 14] = *b"content-length";
const TRANSFER_ENCODING: [u8; 17] = *b"transfer-encoding";
const CHUNKED: [u8; 7] = *b"chunked";

/// The state of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Answers {
    /// Body bytes, or bytes of this chunk, still to come.
    remaining: u64,
    /// The Content-Length, or the chunk's size being read.
    length: u64,
    /// Bytes of this head, or of the lines around this chunk, so far.
    line_bytes: u32,
    status: u16,
    /// One of [`state`].
    state: u8,
    position: u8,
    /// Headers whose names still match this line's name: bits of [`name`].
    candidates: u8,
    /// Bits of [`framing`].
    framing: u8,
    reserved: [u8; 6],
}

const _: () = assert!(size_of::<Answers>() == 32);

impl Answers {
    /// The status code of the answer last reported by a [`Step::Answer`].
    #[inline(always)]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// True if the stream can no longer be followed.
    #[inline(always)]
    pub const fn is_lost(&self) -> bool {
        self.state == state::LOST
    }

    /// True if the next byte begins a status line, or an empty line before it.
    #[inline(always)]
    pub const fn is_between_answers(&self) -> bool {
        self.state == state::VERSION && self.position == 0
    }

    /// Stops following the stream.
    #[inline(always)]
    pub const fn lose(&mut self) {
        self.state = state::LOST;
    }

    /// How many of the next bytes need no parsing and can be [`Self::skip`]ped; `u64::MAX` if all.
    #[inline(always)]
    pub const fn to_skip(&self) -> u64 {
        match self.state {
            state::BODY | state::CHUNK_DATA => self.remaining,
            state::CLOSE | state::LOST => u64::MAX,
            _ => 0,
        }
    }

    /// Skips `count` bytes, at most [`Self::to_skip`].
    #[inline(always)]
    pub const fn skip(&mut self, count: u64) {
        if self.state == state::CLOSE || self.state == state::LOST {
            return;
        }
        self.remaining = self.remaining.saturating_sub(count);
        if self.remaining == 0 {
            if self.state == state::BODY {
                self.begin();
            } else if self.state == state::CHUNK_DATA {
                self.state = state::CHUNK_END;
            }
        }
    }

    /// Notes that `missing` bytes of the stream were not seen.
    #[inline(always)]
    pub const fn gap(&mut self, missing: u64) -> Step {
        if missing <= self.to_skip() {
            self.skip(missing);
            Step::More
        } else {
            self.lost()
        }
    }

    /// Takes the next byte of the stream. `is_head` is true if this answer is to a HEAD request.
    #[inline(always)]
    pub const fn push(&mut self, byte: u8, is_head: bool) -> Step {
        if self.to_skip() > 0 {
            self.skip(1);
            return Step::More;
        }
        self.line_bytes = self.line_bytes.wrapping_add(1);
        if self.line_bytes > HEAD_MAX {
            return self.lost();
        }
        match self.state {
            state::VERSION | state::MINOR | state::SPACE | state::STATUS | state::REASON => self.status_line(byte),
            state::LINE | state::END | state::NAME | state::SKIP => self.header(byte, is_head),
            state::LENGTH | state::CODING => self.value(byte),
            _ => self.chunk(byte),
        }
    }

    #[inline(always)]
    const fn status_line(&mut self, byte: u8) -> Step {
        match self.state {
            state::VERSION => {
                if self.position == 0 && (byte == b'\r' || byte == b'\n') {
                    return Step::More;
                }
                if byte != at(&VERSION, self.position) {
                    return self.lost();
                }
                self.position += 1;
                if self.position == VERSION.len() as u8 {
                    self.state = state::MINOR;
                }
            }
            state::MINOR => {
                if !byte.is_ascii_digit() {
                    return self.lost();
                }
                self.state = state::SPACE;
            }
            state::SPACE => {
                if byte != b' ' {
                    return self.lost();
                }
                self.state = state::STATUS;
                self.position = 0;
                self.status = 0;
            }
            state::STATUS => return self.status_code(byte),
            _ => {
                if byte == b'\n' {
                    self.state = state::LINE;
                }
            }
        }
        Step::More
    }

    #[inline(always)]
    const fn status_code(&mut self, byte: u8) -> Step {
        if self.position < 3 {
            if byte == b' ' && self.position == 0 {
                return Step::More;
            }
            if !byte.is_ascii_digit() {
                return self.lost();
            }
            self.status = self.status * 10 + (byte - b'0') as u16;
            self.position += 1;
            return Step::More;
        }
        self.state = match byte {
            b'\n' => state::LINE,
            b' ' | b'\t' | b'\r' => state::REASON,
            _ => return self.lost(),
        };
        if self.status < 100 {
            return self.lost();
        }
        if self.is_interim() { Step::More } else { Step::Answer }
    }

    /// True if the final status is still to come.
    #[inline(always)]
    const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    #[inline(always)]
    const fn header(&mut self, byte: u8, is_head: bool) -> Step {
        match self.state {
            state::LINE => match byte {
                b'\n' => return self.end_head(is_head),
                b'\r' => self.state = state::END,
                b' ' | b'\t' => {
                    // The line continues the value of the line before it.
                    if self.candidates != 0 {
                        self.framing |= framing::DOUBT;
                    }
                    self.state = state::SKIP;
                }
                _ => {
                    self.candidates = name::BOTH;
                    self.position = 0;
                    self.state = state::NAME;
                    self.name(byte);
                }
            },
            state::END => {
                if byte == b'\n' {
                    return self.end_head(is_head);
                }
                return self.lost();
            }
            state::NAME => self.name(byte),
            _ => {
                if byte == b'\n' {
                    self.state = state::LINE;
                }
            }
        }
        Step::More
    }

    /// Takes a byte of a header's name, or the byte that ends it.
    #[inline(always)]
    const fn name(&mut self, byte: u8) {
        let position = self.position;
        match byte {
            b'\n' => {
                self.candidates = 0;
                self.state = state::LINE;
            }
            b':' => self.end_name(),
            b' ' | b'\t' | b'\r' => {
                if self.whole_names() != 0 {
                    self.framing |= framing::DOUBT;
                }
                self.candidates = 0;
                self.state = state::SKIP;
            }
            _ => {
                let byte = byte.to_ascii_lowercase();
                if byte != at(&CONTENT_LENGTH, position) {
                    self.candidates &= !name::LENGTH;
                }
                if byte != at(&TRANSFER_ENCODING, position) {
                    self.candidates &= !name::ENCODING;
                }
                if self.candidates == 0 {
                    self.state = state::SKIP;
                }
                self.position = position + 1;
            }
        }
    }

    /// The headers whose complete name has been read: bits of [`name`].
    #[inline(always)]
    const fn whole_names(&self) -> u8 {
        if self.position == CONTENT_LENGTH.len() as u8 {
            self.candidates & name::LENGTH
        } else if self.position == TRANSFER_ENCODING.len() as u8 {
            self.candidates & name::ENCODING
        } else {
            0
        }
    }

    #[inline(always)]
    const fn end_name(&mut self) {
        self.candidates = self.whole_names();
        self.position = 0;
        if self.candidates == name::LENGTH {
            if self.framing & framing::LENGTH != 0 {
                self.framing |= framing::DOUBT;
            }
            self.framing |= framing::LENGTH;
            self.length = 0;
            self.state = state::LENGTH;
        } else if self.candidates == name::ENCODING {
            self.framing |= framing::ENCODING;
            self.state = state::CODING;
        } else {
            self.state = state::SKIP;
        }
    }

    #[inline(always)]
    const fn value(&mut self, byte: u8) -> Step {
        if self.state == state::LENGTH {
            self.length_value(byte);
        } else {
            self.coding_value(byte);
        }
        if byte == b'\n' {
            self.state = state::LINE;
        }
        Step::More
    }

    #[inline(always)]
    const fn length_value(&mut self, byte: u8) {
        let is_valid = match byte {
            b'0'..=b'9' => {
                let is_valid = self.position != length::BEHIND;
                self.position = length::DIGITS;
                self.length = self.length * 10 + (byte - b'0') as u64;
                is_valid && self.length <= LENGTH_MAX
            }
            b' ' | b'\t' | b'\r' => {
                if self.position == length::DIGITS {
                    self.position = length::BEHIND;
                }
                true
            }
            b'\n' => self.position != length::BEFORE,
            _ => false,
        };
        if !is_valid {
            self.framing |= framing::DOUBT;
            // Keeps the number from growing without bound.
            self.length = 0;
        }
    }

    /// The last coding decides (RFC 9112, 6.3), whichever line it is in.
    #[inline(always)]
    const fn coding_value(&mut self, byte: u8) {
        self.position = match byte {
            b'\n' => {
                if self.position == coding::WHOLE || self.position == coding::BEHIND {
                    self.framing |= framing::CHUNKED;
                } else {
                    self.framing &= !framing::CHUNKED;
                }
                return;
            }
            b',' => 0,
            b' ' | b'\t' | b'\r' => match self.position {
                0 => 0,
                coding::WHOLE | coding::BEHIND => coding::BEHIND,
                _ => coding::OTHER,
            },
            _ if self.position < coding::WHOLE && byte.to_ascii_lowercase() == at(&CHUNKED, self.position) => {
                self.position + 1
            }
            _ => coding::OTHER,
        };
    }

    #[inline(always)]
    const fn end_head(&mut self, is_head: bool) -> Step {
        let framing = self.framing;
        if self.status == 101 {
            return self.lost();
        }
        if self.is_interim() || is_head || self.status == 204 || self.status == 304 {
            self.begin();
            return Step::More;
        }
        let both = framing::LENGTH | framing::ENCODING;
        if framing & framing::DOUBT != 0 || framing & both == both {
            return self.lost();
        }
        self.begin();
        if framing & framing::CHUNKED != 0 {
            self.begin_chunk();
        } else if framing & framing::LENGTH == 0 {
            self.state = state::CLOSE;
        } else if self.length > 0 {
            self.remaining = self.length;
            self.state = state::BODY;
        }
        Step::More
    }

    #[inline(always)]
    const fn chunk(&mut self, byte: u8) -> Step {
        match self.state {
            state::CHUNK_SIZE => return self.chunk_size(byte),
            state::CHUNK_EXTENSION => {
                if byte == b'\n' {
                    self.end_chunk_size();
                }
            }
            state::CHUNK_END => match byte {
                b'\r' => self.state = state::CHUNK_END_LF,
                b'\n' => self.begin_chunk(),
                _ => return self.lost(),
            },
            state::CHUNK_END_LF => {
                if byte != b'\n' {
                    return self.lost();
                }
                self.begin_chunk();
            }
            state::TRAILER => match byte {
                b'\n' => self.begin(),
                b'\r' => self.state = state::TRAILER_END,
                _ => self.state = state::TRAILER_LINE,
            },
            state::TRAILER_END => {
                if byte != b'\n' {
                    return self.lost();
                }
                self.begin();
            }
            _ => {
                if byte == b'\n' {
                    self.state = state::TRAILER;
                }
            }
        }
        Step::More
    }

    #[inline(always)]
    const fn chunk_size(&mut self, byte: u8) -> Step {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => {
                if self.position == 0 {
                    return self.lost();
                }
                match byte {
                    b'\n' => self.end_chunk_size(),
                    b';' | b' ' | b'\t' | b'\r' => self.state = state::CHUNK_EXTENSION,
                    _ => return self.lost(),
                }
                return Step::More;
            }
        };
        self.length = self.length << 4 | digit as u64;
        if self.length > LENGTH_MAX {
            return self.lost();
        }
        self.position = 1;
        Step::More
    }

    #[inline(always)]
    const fn end_chunk_size(&mut self) {
        if self.length == 0 {
            self.state = state::TRAILER;
        } else {
            self.remaining = self.length;
            self.state = state::CHUNK_DATA;
        }
    }

    #[inline(always)]
    const fn begin_chunk(&mut self) {
        self.length = 0;
        self.position = 0;
        self.line_bytes = 0;
        self.state = state::CHUNK_SIZE;
    }

    /// Begins an answer with the next byte.
    #[inline(always)]
    const fn begin(&mut self) {
        self.state = state::VERSION;
        self.position = 0;
        self.framing = 0;
        self.candidates = 0;
        self.line_bytes = 0;
    }

    #[inline(always)]
    const fn lost(&mut self) -> Step {
        self.state = state::LOST;
        Step::Lost
    }
}

/// The byte at `position`; 0 if `position` is beyond the end.
#[inline(always)]
const fn at<const N: usize>(text: &[u8; N], position: u8) -> u8 {
    let position = position as usize;
    if position < N { text[position] } else { 0 }
}
