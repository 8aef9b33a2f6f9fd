//! Turns a byte stream into verdicts: one request head at a time, one byte at a time.
//!
//! A [`Classifier`] belongs to one connection and follows the stream that the client sends, however the stream is cut.
//! It is driven by two tables built at compile time (`dfa` for heads, `path` for request targets), allocates nothing
//! and calls nothing, so the very same code runs in the kernel, in host tests and under a fuzzer. Every value a
//! `Classifier` can have is valid; all zeroes means a new connection.
//!
//! # Rules
//! Grammar: RFC 9112, with the tolerance of real servers where it cannot change the verdict: bare LF ends a line (2.2),
//! empty lines before a request are skipped (2.2), several spaces may separate the parts of the request line (3), and
//! `obs-fold` continues the value of the line before it (5.2). A request line without a version is an HTTP/0.9 request
//! if its method is GET (RFC 1945, 4.1): it has no headers, so nothing after it belongs to it.
//!
//! Duplicate headers: one token header with a value counts as a token, whatever its duplicates hold.
//!
//! Not HTTP (`not-http`): a first line that is not a request line, or a version other than HTTP/1.x.
//!
//! Malformed: a header line without a colon or with an invalid name; blanks before its colon, before the first header
//! or alone on a line; a control character or a bare CR in a value or at a line's end; a byte outside visible ASCII in
//! the target. Servers read such heads in different ways. If no reading has a token or TTL header, the head is judged,
//! and marked as malformed. If any reading has one (its name also counts after a bare CR, or at the beginning of a
//! folded line), the head is `unknown`, reason `malformed`.
//!
//! # Bodies
//! Every body is scanned: no IMDS call takes a body, and it is not known what the IMDS server does with one. Any line
//! in a body that ends like a request line (the end of the body may end the line, too) is reported as `unknown`, reason
//! `framing`, and the rest of that head is skipped. The scan ends where the body does (its length, its last chunk), or
//! at the next empty line if the length is not certain: a double or invalid Content-Length, one with blanks before its
//! colon, or a coding other than chunked. If a request line begins where a chunk's size is expected, no reading has a
//! body there (after `Expect: 100-continue` clients leave it out, RFC 9110, 10.1.1), so the line is judged like any
//! other. A line found in a body is shown only if it holds nothing but a request line and all of it was seen: otherwise
//! it may be a header with a secret.

mod capture;
mod dfa;
mod path;
mod vocabulary;

pub use self::{
    capture::{Capture, SIZE as CAPTURE_MAX},
    vocabulary::{Method, PathClass, Reason, Verdict, Version, facts},
};
use self::{
    dfa::{Action, HEAD},
    path::Target,
};

/// Maximum length of a head in bytes, its final empty line included; a longer one is reported as [`Reason::TooLong`].
pub const HEAD_MAX: u32 = 16 * 1024;

/// A Content-Length above this is invalid.
const LENGTH_MAX: u64 = 1 << 53;

/// The effect of one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Nothing to report yet.
    More = 0,
    /// A head can be reported: see [`Classifier::head`]. The classifier is ready for the next byte.
    Head = 1,
}

/// One judged head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub verdict: Verdict,
    pub reason: Option<Reason>,
    pub method: Method,
    pub path_class: PathClass,
    /// [`facts`].
    pub facts: u16,
    /// Bytes of the head seen, from its first byte to the last one pushed.
    pub len: u32,
}

/// Value of [`Classifier::keep`] for a line that must not be shown.
const ODD: u8 = 2;

/// How the bytes after a head are framed.
mod framing {
    /// The next byte starts a head.
    pub(super) const HEAD: u8 = 0;
    /// `remaining` bytes are scanned.
    pub(super) const SCAN_LENGTH: u8 = 1;
    /// Scanned to the last chunk.
    pub(super) const SCAN_CHUNKED: u8 = 2;
    /// Scanned to the next empty line.
    pub(super) const SCAN_LINE: u8 = 3;
}

/// Position in a chunked body (RFC 9112, 7.1).
mod chunk {
    /// In a chunk's size; also outside of chunked bodies.
    pub(super) const SIZE: u8 = 0;
    pub(super) const EXTENSION: u8 = 1;
    pub(super) const DATA: u8 = 2;
    pub(super) const DATA_END: u8 = 3;
    pub(super) const TRAILER: u8 = 4;
    /// A chunk's size must begin.
    pub(super) const BEGIN: u8 = 5;
}

/// The state of one connection.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Classifier {
    /// Body bytes, or bytes of this chunk, still to come.
    remaining: u64,
    /// The Content-Length being read.
    length: u64,
    head_len: u32,
    facts: u16,
    /// A state of [`dfa::HEAD`].
    state: u8,
    /// One of [`framing`].
    framing: u8,
    /// One of [`chunk`].
    chunk: u8,
    /// Bytes seen in this line of the chunked framing.
    chunk_line: u8,
    method: u8,
    /// The [`Reason`] of the head to report, 0 for none.
    reason: u8,
    /// Why heads found while scanning are not certain: a [`Reason`].
    scan_reason: u8,
    /// Why it is not certain that this is a head (the stream was joined in its middle, and no request line has been
    /// seen since): a [`Reason`], 0 for certain.
    uncertain: u8,
    /// Not 0 if this head has been reported already (it was too long).
    reported: u8,
    /// Not 0 while the capture takes the bytes of this line; [`ODD`] if the line must not be shown after all.
    keep: u8,
    /// Why this head cannot be judged, whatever its bytes are, and why heads that begin from now on cannot: each a
    /// [`Reason`], 0 for none.
    spoiled: u8,
    spoiling: u8,
    /// Not 0 while lines belong to a head that was found in a body.
    found: u8,
    /// Like [`Self::found`], after the body has ended: only a request line is reported.
    trailing: u8,
    target: Target,
    capture: Capture,
}

impl Default for Classifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Classifier {
    /// The state of a connection that has just been opened.
    pub const fn new() -> Self {
        Self {
            remaining: 0,
            length: 0,
            head_len: 0,
            facts: 0,
            state: dfa::START,
            framing: framing::HEAD,
            chunk: chunk::SIZE,
            chunk_line: 0,
            method: 0,
            reason: 0,
            scan_reason: 0,
            uncertain: 0,
            reported: 0,
            keep: 0,
            spoiled: 0,
            spoiling: 0,
            found: 0,
            trailing: 0,
            target: Target::new(),
            capture: Capture::new(),
        }
    }

    /// Resets the state to that of a new connection, without writing all of it.
    #[inline(always)]
    pub fn restart(&mut self) {
        self.begin_head();
        self.head_len = 0;
        self.uncertain = 0;
        self.spoiling = 0;
        self.trailing = 0;
    }

    /// Notes that it is not known how a receiver reads the bytes from here on: the head in progress is `unknown` for
    /// `reason`, and so is each head that begins before [`Self::end_spoil`].
    #[inline(always)]
    pub fn spoil(&mut self, reason: Reason) {
        self.spoiling = reason as u8;
        self.spoiled = reason as u8;
    }

    /// Heads that begin from here on are judged again.
    #[inline(always)]
    pub fn end_spoil(&mut self) {
        self.spoiling = 0;
    }

    /// Joins a stream whose beginning was not seen. If the next bytes are a request line (with a version: a line like
    /// `GET /x` may as well be the end of a header) they are judged as usual. If not, `reason` is reported and the
    /// stream is picked up again after the next empty line.
    #[inline(always)]
    pub fn join_midstream(&mut self, reason: Reason) {
        self.begin_head();
        self.uncertain = reason as u8;
        self.trailing = 0;
    }

    /// Notes that `missing` bytes of the stream were not seen. Returns [`Step::Head`] if that cut off a head, which
    /// must be reported now.
    #[inline(always)]
    pub fn gap(&mut self, missing: u32) -> Step {
        if self.framing == framing::SCAN_LENGTH && self.remaining >= missing as u64 {
            self.remaining -= missing as u64;
            if self.remaining == 0 {
                self.begin_head();
            } else {
                self.scan(framing::SCAN_LENGTH, Reason::Gap);
            }
            return Step::More;
        }
        if self.framing == framing::HEAD && self.state != dfa::START && self.head_len > 0 {
            // The bytes that follow belong to this head, even if it has been reported already.
            let reported = self.reported != 0;
            self.reason = Reason::Gap as u8;
            if self.is_doubtful() {
                self.capture.clear();
            }
            self.scan(framing::SCAN_LINE, Reason::Gap);
            return if reported { Step::More } else { Step::Head };
        }
        if self.framing >= framing::SCAN_CHUNKED {
            // The end of the body is no longer known: the next empty line is the first safe place.
            self.scan(framing::SCAN_LINE, Reason::Gap);
            return Step::More;
        }
        self.join_midstream(Reason::Gap);
        Step::More
    }

    /// Notes that the connection ended. Returns [`Step::Head`] if that cut off a head, which must be reported now.
    #[inline(always)]
    pub fn close(&mut self) -> Step {
        if self.is_unfinished() {
            self.reason = Reason::Closed as u8;
            self.reported = 1;
            return Step::Head;
        }
        Step::More
    }

    /// True if a head has begun and has neither ended nor been reported.
    #[inline(always)]
    pub fn is_unfinished(&self) -> bool {
        self.framing == framing::HEAD && self.state != dfa::START && self.reported == 0 && self.head_len > 0
    }

    /// True if the next byte begins a head, whatever came before it.
    #[inline(always)]
    pub fn is_between_heads(&self) -> bool {
        self.framing == framing::HEAD && self.state == dfa::START && self.uncertain == 0
    }

    /// True if the request line of the head in progress is complete.
    #[inline(always)]
    pub fn has_request_line(&self) -> bool {
        self.framing == framing::HEAD && self.state >= dfa::FIRST_HEADER_STATE
    }

    /// The head last reported by a [`Step::Head`], or the one in progress.
    #[inline(always)]
    pub fn head(&self) -> Head {
        let method = Method::from_dfa(self.method);
        let (path_class, cloud) = self.target.class();
        let facts = if cloud {
            self.facts | facts::CLOUD_PATH
        } else {
            self.facts
        };
        let reason = Reason::from_raw(if self.spoiled != 0 { self.spoiled } else { self.reason });
        let verdict = match reason {
            Some(_) => Verdict::Unknown,
            None => Verdict::of(method, path_class, facts),
        };
        Head {
            verdict,
            reason,
            method,
            path_class,
            facts,
            len: self.head_len,
        }
    }

    /// The parts of the head that may be shown, and their length: 0 while it is not certain that the bytes are a head.
    #[inline(always)]
    pub fn capture(&self) -> (&[u8; capture::SIZE], usize) {
        let len = if self.uncertain != 0 || self.is_doubtful() {
            0
        } else {
            self.capture.len()
        };
        (self.capture.bytes(), len)
    }

    /// True if the request line is not complete and its method is none that IMDS knows: its bytes may be anything, even
    /// the rest of a body whose length was wrong.
    #[inline(always)]
    fn is_doubtful(&self) -> bool {
        let known =
            self.method == Method::Get as u8 || self.method == Method::Head as u8 || self.method == Method::Put as u8;
        self.framing == framing::HEAD && self.state != dfa::START && !self.has_request_line() && !known
    }

    /// Takes the next byte of the stream.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) -> Step {
        // The first letter of a method, and not a digit of a chunk's size.
        if self.chunk == chunk::BEGIN && HEAD.next(dfa::START, byte) >= dfa::METHOD && hex_value(byte) > 15 {
            self.chunk = chunk::SIZE;
            self.begin_head();
        }
        if self.state == dfa::START {
            self.start_head();
        }
        let state = HEAD.next(self.state, byte);
        self.state = state;
        self.head_len = self.head_len.wrapping_add(1);
        if self.keep != 0 {
            self.capture.push(byte, state < dfa::FIRST_HEADER_STATE);
        }
        let action = HEAD.action(state);
        if action == Action::NONE {
            return self.check_length();
        }
        if action >= Action::SCAN {
            return self.push_scanned(byte, action);
        }
        self.act(byte, action)
    }

    /// Forgets the last head before the first byte of the next one.
    #[inline(always)]
    fn start_head(&mut self) {
        self.head_len = 0;
        self.facts = 0;
        self.length = 0;
        self.method = 0;
        self.reason = 0;
        self.reported = self.trailing;
        self.spoiled = self.spoiling;
        self.keep = 1;
        self.target = Target::new();
        self.capture.clear();
    }

    #[inline(always)]
    fn act(&mut self, byte: u8, action: u8) -> Step {
        match action {
            Action::TARGET => self.target.push(byte),
            // An empty line before the head: the head has not begun.
            Action::IDLE => self.head_len = 0,
            Action::NOT_HTTP => return self.not_http(byte),
            Action::SIMPLE_END => {
                if self.method != Method::Get as u8 || self.uncertain != 0 {
                    return self.not_http(byte);
                }
                self.facts |= facts::HTTP_0_9;
                let reported = self.reported != 0 && self.trailing == 0;
                self.trailing = 0;
                if self.head_len > HEAD_MAX {
                    self.reason = Reason::TooLong as u8;
                }
                self.begin_head();
                return if reported { Step::More } else { Step::Head };
            }
            Action::FACT => {}
            Action::METHOD => {
                self.method = HEAD.method(self.state);
                if self.uncertain != 0 && self.method == Method::Other as u8 {
                    // It may be the rest of another method, like "UT" of "PUT".
                    return self.not_http(byte);
                }
            }
            Action::LINE => {
                self.uncertain = 0;
                if self.trailing != 0 {
                    self.trailing = 0;
                    self.reported = 0;
                }
                self.keep = 1;
                self.capture.mark();
            }
            Action::MALFORMED_LINE => {
                self.capture.rewind();
                self.keep = 1;
            }
            Action::END => return self.end(),
            Action::LENGTH_DIGIT => {
                self.facts &= !facts::LENGTH_EMPTY;
                self.length = self.length.wrapping_mul(10).wrapping_add((byte & 0x0f) as u64);
                if self.length > LENGTH_MAX {
                    self.length = LENGTH_MAX;
                    self.facts |= facts::LENGTH_INVALID;
                }
            }
            _ => {
                // A header line that is not shown; the table has its meaning.
                if action == Action::LENGTH {
                    if self.facts & facts::LENGTH != 0 {
                        self.facts |= facts::LENGTH_INVALID;
                    }
                    self.length = 0;
                }
                self.keep = 0;
                self.capture.rewind();
            }
        }
        self.facts |= HEAD.facts(self.state);
        self.check_length()
    }

    #[inline(always)]
    fn check_length(&mut self) -> Step {
        if self.head_len > HEAD_MAX && self.reported == 0 {
            self.reported = 1;
            self.reason = Reason::TooLong as u8;
            return Step::Head;
        }
        Step::More
    }

    /// Handles the empty line after the headers: judges the head, and decides how the bytes after it are framed.
    #[inline(always)]
    fn end(&mut self) -> Step {
        self.capture.rewind();
        let reported = self.reported != 0;
        if self.head_len > HEAD_MAX {
            self.reason = Reason::TooLong as u8;
        } else if self.facts & facts::MALFORMED != 0
            && self.facts & (facts::TOKEN | facts::TTL | facts::TOKEN_NAME) != 0
        {
            self.reason = Reason::Malformed as u8;
        }
        let length_unclear = facts::LENGTH_INVALID | facts::LENGTH_EMPTY;
        self.remaining = self.length;
        if self.facts & facts::ENCODING != 0 {
            let chunked = self.facts & (facts::CHUNKED | facts::ENCODING_OTHER) == facts::CHUNKED;
            self.scan(
                if chunked {
                    framing::SCAN_CHUNKED
                } else {
                    framing::SCAN_LINE
                },
                Reason::Framing,
            );
        } else if self.facts & length_unclear != 0 {
            self.scan(framing::SCAN_LINE, Reason::Framing);
        } else if self.length == 0 {
            self.begin_head();
        } else {
            self.scan(framing::SCAN_LENGTH, Reason::Framing);
        }
        if reported { Step::More } else { Step::Head }
    }

    /// Handles bytes after the last head that are not a request line.
    #[inline(always)]
    fn not_http(&mut self, byte: u8) -> Step {
        let reason = if self.uncertain != 0 {
            self.uncertain
        } else {
            Reason::NotHttp as u8
        };
        self.reason = reason;
        let reported = self.reported != 0;
        let trailing = self.trailing;
        if self.uncertain != 0 || self.is_doubtful() {
            // The supposed method may be the middle of anything, even of a token.
            self.capture.clear();
        }
        let scan_reason = Reason::from_raw(self.uncertain).unwrap_or(Reason::Framing);
        self.scan(framing::SCAN_LINE, scan_reason);
        // The rest of this line belongs to the head that is being reported.
        self.state = if byte == b'\n' { dfa::SCAN_LINE } else { dfa::SCAN_DEAD };
        self.uncertain = 0;
        self.trailing = 0;
        self.found = trailing;
        if reported { Step::More } else { Step::Head }
    }

    /// Begins a head with the next byte.
    #[inline(always)]
    fn begin_head(&mut self) {
        self.framing = framing::HEAD;
        self.state = dfa::START;
    }

    /// Starts a part of the stream that is scanned for heads.
    #[inline(always)]
    fn scan(&mut self, framing: u8, reason: Reason) {
        self.framing = framing;
        self.state = dfa::SCAN_LINE;
        self.scan_reason = reason as u8;
        self.keep = 0;
        self.found = 0;
        self.chunk = chunk::SIZE;
        self.chunk_line = 0;
        if framing == framing::SCAN_CHUNKED {
            self.chunk = chunk::BEGIN;
            self.remaining = 0;
        }
    }

    /// Takes a byte of a scanned body and follows the framing; the line automaton has taken the byte already.
    #[inline(always)]
    fn push_scanned(&mut self, byte: u8, action: u8) -> Step {
        if self.keep == 0 && action != Action::SCAN_DEAD {
            // The first byte of a line: if the line is a head, it is reported as a head of its own.
            self.start_head();
            self.head_len = 1;
            self.capture.push(byte, false);
        }
        if action == Action::SCAN_ODD {
            self.keep = ODD;
        }
        let ended = match self.framing {
            framing::SCAN_LENGTH => {
                self.remaining = self.remaining.wrapping_sub(1);
                self.remaining == 0
            }
            framing::SCAN_CHUNKED => self.push_chunked(byte),
            _ => action == Action::SCAN_BLANK,
        };
        let found = action == Action::SCAN_FOUND || (ended && action == Action::SCAN_WHOLE);
        if found {
            self.found = 1;
            self.reason = self.scan_reason;
            let whole = self.head_len <= capture::SIZE as u32 && self.scan_reason == Reason::Framing as u8;
            if self.keep == ODD || !whole {
                self.capture.clear();
            }
        }
        if found || byte == b'\n' {
            self.keep = 0;
        }
        if action == Action::SCAN_BLANK {
            self.found = 0;
        }
        if ended {
            self.begin_head();
            self.trailing = self.found;
        }
        if found { Step::Head } else { Step::More }
    }

    /// Follows chunked framing. Returns true at the end of the body. If the framing breaks its grammar, continues as a
    /// scan to the next empty line.
    #[inline(always)]
    fn push_chunked(&mut self, byte: u8) -> bool {
        let digit = hex_value(byte);
        match self.chunk {
            chunk::BEGIN | chunk::SIZE if digit < 16 && self.chunk_line < 12 => {
                self.chunk = chunk::SIZE;
                self.remaining = self.remaining << 4 | digit as u64;
                self.chunk_line += 1;
            }
            chunk::SIZE if digit > 15 && HEAD.next(dfa::METHOD, byte) == dfa::METHOD => {
                // A method that begins like a size, for example DELETE.
                self.framing = framing::HEAD;
                self.state = dfa::METHOD;
            }
            chunk::SIZE | chunk::EXTENSION => {
                if byte == b'\n' {
                    self.chunk = if self.remaining == 0 {
                        chunk::TRAILER
                    } else {
                        chunk::DATA
                    };
                    self.chunk_line = 0;
                } else {
                    self.chunk = chunk::EXTENSION;
                }
            }
            chunk::DATA => {
                self.remaining = self.remaining.wrapping_sub(1);
                if self.remaining == 0 {
                    self.chunk = chunk::DATA_END;
                }
            }
            chunk::DATA_END if byte == b'\r' => {}
            chunk::DATA_END if byte == b'\n' => self.chunk = chunk::BEGIN,
            chunk::TRAILER => {
                if byte == b'\n' {
                    let empty = self.chunk_line == 0;
                    self.chunk_line = 0;
                    return empty;
                }
                if byte != b'\r' {
                    self.chunk_line = 1;
                }
            }
            _ => {
                self.framing = framing::SCAN_LINE;
                self.chunk = chunk::SIZE;
            }
        }
        false
    }
}

/// The class of a whole request target, for targets that were not read by a [`Classifier`]: a path of another cloud is
/// [`PathClass::NotImds`].
pub fn path_class(target: &[u8]) -> PathClass {
    let mut path = Target::new();
    for &byte in target {
        path.push(byte);
    }
    path.class().0
}

/// 0 to 15, or 16 for a byte that is not a hexadecimal digit.
#[inline(always)]
const fn hex_value(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        _ => 16,
    }
}
