//! Text with its percent-encoding undone, that still knows where each byte came from.

use std::{borrow::Cow, ops::Range};

use super::MASK;

/// Bytes to look at, by index; out-of-range indexes are the end.
#[derive(Debug)]
pub(super) struct View<'a> {
    bytes: Cow<'a, [u8]>,
    /// Where each byte begins in the text, and the text's length at last; `None` where nothing was encoded.
    origins: Option<Vec<usize>>,
}

impl<'a> View<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let text = text.as_bytes();
        if !text.contains(&b'%') {
            return Self {
                bytes: Cow::Borrowed(text),
                origins: None,
            };
        }
        let mut bytes = Vec::with_capacity(text.len());
        let mut origins = Vec::with_capacity(text.len() + 1);
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            let encoded = (byte == b'%')
                .then(|| hex(text.get(at + 1), text.get(at + 2)))
                .flatten();
            bytes.push(encoded.unwrap_or(byte));
            origins.push(at);
            at += if encoded.is_some() { 3 } else { 1 };
        }
        origins.push(at);
        Self {
            bytes: Cow::Owned(bytes),
            origins: Some(origins),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn at(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    /// The byte in front of `at`.
    pub(super) fn before(&self, at: usize) -> Option<u8> {
        self.at(at.checked_sub(1)?)
    }

    pub(super) fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    /// The next longest run of bytes that are `wanted`, from `at` on.
    pub(super) fn next_run(&self, at: usize, wanted: impl Fn(u8) -> bool) -> Option<Range<usize>> {
        let start = self.skip(at, |byte| !wanted(byte));
        (start < self.len()).then(|| start..self.skip(start, wanted))
    }

    /// Where the bytes from `at` on that are `skipped` end.
    pub(super) fn skip(&self, at: usize, skipped: impl Fn(u8) -> bool) -> usize {
        let rest = self.bytes.get(at..).unwrap_or_default();
        at + rest.iter().take_while(|byte| skipped(**byte)).count()
    }

    /// Where the first byte from `at` on `ends` a value; one that was percent-encoded is part of the value.
    pub(super) fn until(&self, at: usize, ends: impl Fn(u8) -> bool) -> usize {
        (at..self.len())
            .find(|at| self.at(*at).is_some_and(&ends) && !self.is_encoded(*at))
            .unwrap_or(self.len())
    }

    /// Where the quote is closed that is open before `at`.
    pub(super) fn closing_quote(&self, at: usize, quote: u8, escaped: bool) -> usize {
        let closes = |at: &usize| {
            self.at(*at) == Some(quote) && !self.is_encoded(*at) && (escaped || self.before(*at) != Some(b'\\'))
        };
        (at..self.len()).find(closes).unwrap_or(self.len())
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

    /// Whether `http://` or `https://` begins at `at`.
    pub(super) fn has_scheme(&self, at: usize) -> bool {
        let rest = self.bytes.get(at..).unwrap_or_default();
        [b"http://".as_slice(), b"https://"].iter().any(|scheme| {
            rest.get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
    }

    /// `text`, which this is a view of, with the spans masked; those that overlap or touch become one.
    pub(super) fn without(&self, text: &str, mut spans: Vec<Range<usize>>) -> String {
        spans.sort_unstable_by_key(|span| span.start);
        let mut masked = String::with_capacity(text.len());
        let mut written = 0;
        let mut last_end = None;
        for span in spans.into_iter().filter(|span| !span.is_empty()) {
            let (start, end) = (self.origin(span.start), self.origin(span.end));
            if last_end.is_none_or(|last_end| start > last_end) {
                // Spans begin and end at ASCII characters; were that not so, too much is masked, never too little.
                masked.push_str(text.get(written..start).unwrap_or_default());
                masked.push_str(MASK);
            }
            written = end.max(written);
            last_end = Some(written);
        }
        masked.push_str(text.get(written..).unwrap_or_default());
        masked
    }

    fn is_encoded(&self, at: usize) -> bool {
        self.origins.is_some() && self.origin(at + 1) - self.origin(at) > 1
    }

    fn origin(&self, at: usize) -> usize {
        match &self.origins {
            Some(origins) => origins.get(at).or(origins.last()).copied().unwrap_or(at),
            None => at,
        }
    }
}

fn hex(high: Option<&u8>, low: Option<&u8>) -> Option<u8> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}
