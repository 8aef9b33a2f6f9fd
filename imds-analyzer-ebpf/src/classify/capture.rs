//! The part of a head that may be shown.
//!
//! An allow list, not a deny list: the request line and the lines of the headers that [`super::dfa`] keeps (User-Agent,
//! Host), each ended by LF. Every other line is never kept, including the values of the token, of Authorization and of
//! headers that nobody has thought of.

/// Maximum length of a capture, in bytes.
pub const SIZE: usize = 1024;

/// Maximum bytes of the request line in a capture, so that room is left for the User-Agent.
const REQUEST_LINE_SIZE: usize = SIZE - 256;

/// A bounded buffer with one mark to go back to.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Capture {
    bytes: [u8; SIZE],
    len: u16,
    mark: u16,
}

impl Capture {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; SIZE],
            len: 0,
            mark: 0,
        }
    }

    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        let len = self.len as usize;
        if len > SIZE { SIZE } else { len }
    }

    /// The whole buffer, aligned to eight bytes.
    #[inline(always)]
    pub(super) fn bytes(&self) -> &[u8; SIZE] {
        &self.bytes
    }

    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.mark = 0;
    }

    /// Marks this place, the beginning of a line.
    #[inline(always)]
    pub(super) fn mark(&mut self) {
        self.mark = self.len;
    }

    /// Drops the bytes after the mark.
    #[inline(always)]
    pub(super) fn rewind(&mut self) {
        self.len = self.mark;
    }

    /// Appends `byte` if there is room; CR is left out.
    #[inline(always)]
    pub(super) fn push(&mut self, byte: u8, request_line: bool) {
        let limit = if request_line { REQUEST_LINE_SIZE } else { SIZE };
        let at = self.len as usize;
        if at < limit && byte != b'\r' {
            // VERIFIER: the mask repeats what the comparison has established, in a form that the verifier can follow.
            self.bytes[at & (SIZE - 1)] = byte;
            self.len = at as u16 + 1;
        }
    }
}

const _: () = assert!(SIZE.is_power_of_two());
