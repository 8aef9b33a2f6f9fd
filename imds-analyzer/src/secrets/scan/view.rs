//! Decoded text that maps each byte back to its source.
//!
//! It decodes percent-encoding, character escapes (`\u003d`, `\x3d`, `\075`) and HTML references (`&#61;`), nested up
//! to [`ROUNDS`] times. It removes what joins pieces of one text: `'a' + 'b'`, `a''b`, a backslash at the end of a
//! line.

use std::{borrow::Cow, ops::Range};

use super::{MASK, is_word};

/// Maximum depth of nested encodings.
const ROUNDS: usize = 4;
/// Maximum number of bytes between two joined pieces of text.
const JOINT: usize = 64;

/// The decoded bytes. Indexes out of range are the end.
#[derive(Debug)]
pub(super) struct View<'a> {
    bytes: Cow<'a, [u8]>,
    /// The origin of each byte; `None` if nothing was decoded.
    origins: Option<Vec<Origin>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    start: usize,
    end: usize,
    /// Number of encodings undone.
    depth: u8,
}

/// The replacement at a position: the number of bytes, and the byte that replaces them, if any.
type Found = fn(&[u8], usize) -> Option<(usize, Option<u8>)>;

/// A quotation mark. The closing mark is the same as the opening one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quote {
    byte: u8,
    /// Number of preceding backslashes.
    escapes: usize,
    depth: u8,
}

impl Quote {
    /// Length of the mark in bytes, with backslashes.
    pub(super) fn len(&self) -> usize {
        self.escapes + 1
    }

    pub(super) fn is_encoded(&self) -> bool {
        self.depth > 0
    }

    /// True for the mark of a shell's command substitution.
    pub(super) fn is_backtick(&self) -> bool {
        self.byte == b'`'
    }
}

impl<'a> View<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let text = text.as_bytes();
        let mut view = Self {
            bytes: Cow::Borrowed(text),
            origins: None,
        };
        for _ in 0..ROUNDS {
            if !view.bytes.iter().any(|byte| matches!(byte, b'%' | b'\\' | b'&')) || !view.edit(encoded) {
                break;
            }
        }
        if view
            .bytes
            .iter()
            .any(|byte| matches!(byte, b'"' | b'\'' | b'`' | b'\\'))
        {
            view.edit(joint);
        }
        view
    }

    /// Applies the replacements that `found` returns. True if there was any.
    fn edit(&mut self, found: Found) -> bool {
        let Some(first) = (0..self.len()).find(|at| found(&self.bytes, *at).is_some()) else {
            return false;
        };
        let mut bytes = Vec::with_capacity(self.len());
        let mut origins = Vec::with_capacity(self.len());
        let mut at = 0;
        while let Some(&byte) = self.bytes.get(at) {
            match found(&self.bytes, at).filter(|_| at >= first) {
                Some((length, replacement)) => {
                    if let Some(replacement) = replacement {
                        let depths = (at..at + length).map(|at| self.origin(at).depth);
                        bytes.push(replacement);
                        origins.push(Origin {
                            start: self.origin(at).start,
                            end: self.origin(at + length - 1).end,
                            depth: depths.max().unwrap_or_default() + 1,
                        });
                    }
                    at += length;
                }
                None => {
                    bytes.push(byte);
                    origins.push(self.origin(at));
                    at += 1;
                }
            }
        }
        self.bytes = Cow::Owned(bytes);
        self.origins = Some(origins);
        true
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn at(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    /// The byte before `at`.
    pub(super) fn before(&self, at: usize) -> Option<u8> {
        self.at(at.checked_sub(1)?)
    }

    pub(super) fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    /// The next maximal run of `wanted` bytes, from `at` on.
    pub(super) fn next_run(&self, at: usize, wanted: impl Fn(u8) -> bool) -> Option<Range<usize>> {
        let start = self.skip(at, |byte| !wanted(byte));
        (start < self.len()).then(|| start..self.skip(start, wanted))
    }

    /// The end of the `skipped` bytes from `at` on.
    pub(super) fn skip(&self, at: usize, skipped: impl Fn(u8) -> bool) -> usize {
        let rest = self.bytes.get(at..).unwrap_or_default();
        at + rest.iter().take_while(|byte| skipped(**byte)).count()
    }

    /// The beginning of the `skipped` bytes before `at`.
    pub(super) fn skip_back(&self, at: usize, skipped: impl Fn(u8) -> bool) -> usize {
        let front = self.bytes.get(..at).unwrap_or_default();
        at - front.iter().rev().take_while(|byte| skipped(**byte)).count()
    }

    /// The first byte from `at` on that `ends` a value. Encoded bytes are part of the value.
    pub(super) fn until(&self, at: usize, ends: impl Fn(u8) -> bool) -> usize {
        (at..self.len())
            .find(|at| self.at(*at).is_some_and(&ends) && !self.is_encoded(*at))
            .unwrap_or(self.len())
    }

    /// The quotation mark at `at`.
    pub(super) fn quote(&self, at: usize) -> Option<Quote> {
        let byte = self.at(at).filter(|byte| matches!(byte, b'"' | b'\'' | b'`'))?;
        Some(Quote {
            byte,
            escapes: at - self.skip_back(at, |byte| byte == b'\\'),
            depth: self.origin(at).depth,
        })
    }

    /// The quotation mark directly before `at`.
    pub(super) fn quote_before(&self, at: usize) -> Option<Quote> {
        self.quote(at.checked_sub(1)?)
    }

    /// The closing mark of `quote`, which is open at `at`.
    pub(super) fn closing(&self, at: usize, quote: Quote) -> Option<usize> {
        (at..self.len()).find(|at| self.quote(*at) == Some(quote))
    }

    pub(super) fn find(&self, range: Range<usize>, wanted: u8) -> Option<usize> {
        Some(range.start + self.slice(&range).iter().position(|byte| *byte == wanted)?)
    }

    pub(super) fn rfind(&self, range: Range<usize>, wanted: u8) -> Option<usize> {
        Some(range.start + self.slice(&range).iter().rposition(|byte| *byte == wanted)?)
    }

    pub(super) fn find_text(&self, at: usize, wanted: &[u8]) -> Option<usize> {
        let rest = self.bytes.get(at..)?;
        Some(at + rest.windows(wanted.len()).position(|window| window == wanted)?)
    }

    /// True if `wanted` is at `at`.
    pub(super) fn has(&self, at: usize, wanted: &[u8]) -> bool {
        self.bytes.get(at..).is_some_and(|rest| rest.starts_with(wanted))
    }

    /// True if `http://` or `https://` begins at `at`.
    pub(super) fn has_scheme(&self, at: usize) -> bool {
        let rest = self.bytes.get(at..).unwrap_or_default();
        [b"http://".as_slice(), b"https://"].iter().any(|scheme| {
            rest.get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
    }

    /// Masks the spans in `text`, the source of this view. Overlapping and adjacent spans become one.
    pub(super) fn without(&self, text: &str, mut spans: Vec<Range<usize>>) -> String {
        spans.sort_unstable_by_key(|span| span.start);
        let mut masked = String::with_capacity(text.len());
        let mut written = 0;
        let mut last_end = None;
        for span in spans {
            let span = span.start..span.end.min(self.len());
            if span.is_empty() {
                continue;
            }
            let (start, end) = (self.origin(span.start).start, self.origin(span.end - 1).end);
            if last_end.is_none_or(|last_end| start > last_end) {
                // Spans begin and end at ASCII characters. If one did not, too much would be masked, never too little.
                masked.push_str(text.get(written..start).unwrap_or_default());
                masked.push_str(MASK);
            }
            written = end.max(written);
            last_end = Some(written);
        }
        while !text.is_char_boundary(written) {
            written += 1;
        }
        masked.push_str(text.get(written..).unwrap_or_default());
        masked
    }

    pub(super) fn is_encoded(&self, at: usize) -> bool {
        self.origins.is_some() && self.origin(at).depth > 0
    }

    fn origin(&self, at: usize) -> Origin {
        let plain = Origin {
            start: at,
            end: at + 1,
            depth: 0,
        };
        match &self.origins {
            Some(origins) => origins.get(at).copied().unwrap_or(plain),
            None => plain,
        }
    }
}

/// The encoded character at `at`: its length, and its byte. Characters outside ASCII become an arbitrary byte outside
/// ASCII.
fn encoded(bytes: &[u8], at: usize) -> Option<(usize, Option<u8>)> {
    const NOT_ASCII: u8 = 0x80;
    let rest = bytes.get(at..)?;
    let (length, code) = match rest {
        [b'%', rest @ ..] => number(rest, 2, 2, 16).map(|(length, code)| (1 + length, code))?,
        [b'\\', b'x' | b'X', rest @ ..] => number(rest, 2, 2, 16).map(|(length, code)| (2 + length, code))?,
        [b'\\', b'u', b'{', rest @ ..] => {
            let (length, code) = number(rest, 1, 6, 16)?;
            (rest.get(length) == Some(&b'}')).then_some((4 + length, code))?
        }
        [b'\\', b'u', rest @ ..] => number(rest, 4, 4, 16).map(|(length, code)| (2 + length, code))?,
        [b'\\', b'U', rest @ ..] => number(rest, 8, 8, 16).map(|(length, code)| (2 + length, code))?,
        [b'\\', b'0'..=b'3', ..] => number(rest.get(1..)?, 3, 3, 8).map(|(length, code)| (1 + length, code))?,
        [b'&', b'#', b'x' | b'X', rest @ ..] => reference(rest, 3, number(rest, 1, 6, 16)?),
        [b'&', b'#', rest @ ..] => reference(rest, 2, number(rest, 1, 7, 10)?),
        [b'&', rest @ ..] => {
            let (name, code) = REFERENCES.iter().find(|(name, _)| rest.starts_with(name))?;
            (1 + name.len(), u32::from(*code))
        }
        _ => return None,
    };
    let byte = u8::try_from(code).unwrap_or(NOT_ASCII);
    Some((length, Some(byte)))
}

/// HTML's named references, with their semicolon.
const REFERENCES: &[(&[u8], u8)] = &[
    (b"quot;", b'"'),
    (b"apos;", b'\''),
    (b"amp;", b'&'),
    (b"lt;", b'<'),
    (b"gt;", b'>'),
    (b"equals;", b'='),
    (b"colon;", b':'),
    (b"nbsp;", b' '),
];

/// Adds the semicolon of a reference, which browsers do not require.
fn reference(digits: &[u8], before: usize, (length, code): (usize, u32)) -> (usize, u32) {
    let semicolon = usize::from(digits.get(length) == Some(&b';'));
    (before + length + semicolon, code)
}

/// Parses up to `max` digits, if there are at least `min`.
fn number(digits: &[u8], min: usize, max: usize, radix: u32) -> Option<(usize, u32)> {
    let (mut length, mut value) = (0, 0_u32);
    while length < max {
        let Some(digit) = digits.get(length).and_then(|byte| char::from(*byte).to_digit(radix)) else {
            break;
        };
        value = value.saturating_mul(radix).saturating_add(digit);
        length += 1;
    }
    (length >= min).then_some((length, value))
}

/// The joint of two pieces of one text: `' + '`, `"."`, `''` inside a word, a backslash at the end of a line.
fn joint(bytes: &[u8], at: usize) -> Option<(usize, Option<u8>)> {
    let rest = bytes.get(at..at + JOINT).or(bytes.get(at..))?;
    match rest {
        [b'\\', b'\n', ..] => return Some((2, None)),
        [b'\\', b'\r', b'\n', ..] => return Some((3, None)),
        [b'"' | b'\'' | b'`' | b'\\', ..] => {}
        _ => return None,
    }
    // The second of two backslashes begins no escape.
    if at > 0 && rest.starts_with(b"\\") && bytes.get(at - 1) == Some(&b'\\') {
        return None;
    }
    let mark = rest.iter().take_while(|byte| **byte == b'\\').count();
    let quote = rest.get(..=mark)?;
    if !matches!(quote.last(), Some(b'"' | b'\'' | b'`')) {
        return None;
    }
    // `"a"'b'`, in a shell.
    let inside = |length: usize| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        before.copied().is_some_and(is_word) && bytes.get(at + length).copied().is_some_and(is_word)
    };
    if matches!(rest, [b'"', b'\'', ..] | [b'\'', b'"', ..]) && inside(2) {
        return Some((2, None));
    }
    let blanks = |from: usize| {
        rest.iter()
            .skip(from)
            .take_while(|byte| byte.is_ascii_whitespace())
            .count()
    };
    let mut end = quote.len();
    if rest.get(end..)?.starts_with(quote) {
        // Only inside a word: elsewhere it is an empty text.
        return inside(2 * quote.len()).then_some((2 * quote.len(), None));
    }
    end += blanks(end);
    // `'x-' 'y'`, in a program.
    let dangles = |byte: &u8| matches!(byte, b'-' | b'_');
    let before = at.checked_sub(1).and_then(|before| bytes.get(before));
    if rest.get(end..)?.starts_with(quote) && before.is_some_and(dangles) {
        let end = end + quote.len();
        return inside(end).then_some((end, None));
    }
    end += [b"++".as_slice(), b"+", b"..", b".", b"||", b"~", b"&", b"<>"]
        .iter()
        .find(|operator| rest.get(end..).is_some_and(|rest| rest.starts_with(operator)))?
        .len();
    end += blanks(end);
    // `b'...'`, `f"..."`.
    end += usize::from(matches!(
        rest.get(end..end + 2),
        Some([b'b' | b'f' | b'r' | b'u' | b'@' | b'$', b'"' | b'\''])
    ));
    rest.get(end..)?.starts_with(quote).then_some((end + quote.len(), None))
}
