//! Recognises secrets by shape.

use std::ops::Range;

use super::{TOKEN_SHAPE, ends_value, view::View};

/// Length of an AWS access key id.
const ACCESS_KEY_ID: usize = 20;

/// Length of an IMDS token without padding.
const UNPADDED: usize = 54;
/// Minimum length of a scheme's value outside a header.
const SCHEME_VALUE: usize = 16;
/// Maximum number of bytes between the parts of a wrapped token.
const WRAP: usize = 64;

/// Finds text of token shape: a run of base64 characters that ends in padding, or one of the same length that begins
/// like an IMDS token. It may be wrapped over lines or split into adjacent pieces of text.
pub(super) fn tokens(view: &View, spans: &mut Vec<Range<usize>>) {
    // Earlier parts of the same token.
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while let Some(run) = view.next_run(at, is_base64) {
        if parts.last().is_some_and(|last| !is_wrap(view, last.end..run.start)) {
            parts.clear();
        }
        let padding = view.skip(run.end, |byte| byte == b'=');
        at = padding.max(run.end);
        // The leading slash of a path is not part of it.
        let start = view.skip(run.start, |byte| byte == b'/').min(run.end);
        let bytes = view.slice(&(start..run.end));
        let certain = match padding - run.end {
            0 => is_unpadded(bytes),
            // Excludes `--a-very-long-option=value`, which looks similar.
            1 => !view.at(padding).is_some_and(begins_value) && is_mixed(bytes),
            _ => true,
        };
        if certain && padding - start >= TOKEN_SHAPE {
            spans.push(start..padding);
            parts.clear();
        } else if certain && !parts.is_empty() {
            spans.extend(wrapped(view, &parts, start..padding));
            parts.clear();
        } else if padding > run.end {
            parts.clear();
        } else if bytes != b"+" {
            parts.push(literal_wrap_cut(view, start..run.end));
        }
    }
}

/// The token that ends with `last`, if it is long enough with the earlier parts.
fn wrapped(view: &View, parts: &[Range<usize>], last: Range<usize>) -> Option<Range<usize>> {
    let mut length = last.len();
    let mut text = view.slice(&last).to_vec();
    for part in parts.iter().rev() {
        length += part.len();
        text.extend_from_slice(view.slice(part));
        if length >= UNPADDED {
            return is_of_both_cases(&text).then_some(part.start..last.end);
        }
    }
    let first = parts.first()?;
    (length >= TOKEN_SHAPE && is_of_both_cases(&text)).then_some(first.start..last.end)
}

/// True for `\n` and `\r` written as two characters, whose letter is not part of the following run.
fn literal_wrap_cut(view: &View, run: Range<usize>) -> Range<usize> {
    let escaped = view.before(run.start) == Some(b'\\') && matches!(view.at(run.start), Some(b'n' | b'r'));
    run.start + usize::from(escaped)..run.end
}

/// True if `range` only wraps a text onto the next line.
fn is_wrap(view: &View, range: Range<usize>) -> bool {
    let bytes = view.slice(&range);
    bytes.len() <= WRAP
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_whitespace() || b"\"'`\\+.".contains(byte))
        && bytes.iter().any(|byte| b"\n\"'`\\".contains(byte))
}

/// `AQAAA...`, without padding.
fn is_unpadded(run: &[u8]) -> bool {
    run.starts_with(b"AQA")
        && run.len() >= UNPADDED
        && run.iter().all(|byte| is_base64url(*byte))
        && is_of_both_cases(run)
}

/// `scheme://user:password@host`.
pub(super) fn url_passwords(view: &View, spans: &mut Vec<Range<usize>>) {
    let mut at = 0;
    while let Some(scheme) = view.find_text(at, b"://") {
        at = scheme + 3;
        let end = view.until(at, |byte| matches!(byte, b'/' | b'?' | b'#') || ends_value(byte));
        let host = view.rfind(at..end, b'@');
        if let Some((colon, host)) = view
            .find(at..end, b':')
            .zip(host)
            .filter(|(colon, host)| colon + 1 < *host)
        {
            spans.push(colon + 1..host);
        }
    }
}

/// Finds `user:password@tcp(host)` and `user:password@host:port`, without a scheme.
pub(super) fn user_infos(view: &View, spans: &mut Vec<Range<usize>>) {
    let mut at = 0;
    while let Some(sign) = view.find(at..view.len(), b'@') {
        at = sign + 1;
        let start = view.skip_back(sign, |byte| {
            !ends_value(byte) && !matches!(byte, b'/' | b'=' | b',' | b'(' | b'@')
        });
        // A password may contain such a character too.
        let start = match view.at(sign + 1) {
            Some(_) if is_protocol(view, sign + 1) => view.skip_back(sign, |byte| !ends_value(byte)),
            _ => start,
        };
        let Some(colon) = view
            .find(start..sign, b':')
            .filter(|colon| colon + 1 < sign && *colon > start)
        else {
            continue;
        };
        let is_user = !matches!(
            view.slice(&(start..colon)),
            b"mailto" | b"user" | b"group" | b"npm" | b"sip" | b"xmpp"
        );
        if is_user && view.at(colon + 1) != Some(b'/') && (is_protocol(view, sign + 1) || has_port(view, sign + 1)) {
            spans.push(colon + 1..sign);
        }
    }
}

/// `tcp(`, `unix(`.
fn is_protocol(view: &View, at: usize) -> bool {
    let end = view.skip(at, |byte| byte.is_ascii_alphanumeric());
    end - at <= 8 && view.at(end) == Some(b'(')
}

/// True for `host:3306`, but not for a digest (`image:1@sha256:0123...`).
fn has_port(view: &View, at: usize) -> bool {
    let host = view.skip(at, |byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
    });
    let end = view.skip(host + 1, |byte| byte.is_ascii_digit());
    let digits = end.saturating_sub(host + 1);
    host > at
        && view.at(host) == Some(b':')
        && (1..=5).contains(&digits)
        && !view.at(end).is_some_and(|byte| byte.is_ascii_alphanumeric())
}

/// Finds `Bearer` or another scheme with a value that does not look like a word, even without a header's name.
pub(super) fn scheme_values(view: &View, word: &Range<usize>, spans: &mut Vec<Range<usize>>) {
    let start = view.skip(word.end, |byte| matches!(byte, b' ' | b'\t'));
    let end = view.skip(start, |byte| is_base64(byte) || matches!(byte, b'.' | b'~' | b'='));
    let value = view.slice(&(start..end));
    let is_value = value.len() >= SCHEME_VALUE && value.iter().any(u8::is_ascii_digit) && is_of_both_cases(value);
    if start > word.end && is_value {
        spans.push(start..end);
    }
}

/// Finds access key ids: `AKIA` or `ASIA` and 16 more characters.
pub(super) fn access_key_ids(view: &View, word: &Range<usize>, spans: &mut Vec<Range<usize>>) {
    let mut at = word.start;
    while let Some(run) = view
        .next_run(at, |byte| byte.is_ascii_alphanumeric())
        .filter(|run| run.start < word.end)
    {
        at = run.end;
        let id = view.slice(&run);
        let known = id.starts_with(b"AKIA") || id.starts_with(b"ASIA");
        if known && id.len() == ACCESS_KEY_ID && !id.iter().any(u8::is_ascii_lowercase) {
            spans.push(run);
        }
    }
}

fn is_mixed(run: &[u8]) -> bool {
    is_of_both_cases(run) && run.iter().any(u8::is_ascii_digit)
}

fn is_of_both_cases(run: &[u8]) -> bool {
    run.iter().any(u8::is_ascii_uppercase) && run.iter().any(u8::is_ascii_lowercase)
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn is_base64(byte: u8) -> bool {
    is_base64url(byte) || matches!(byte, b'+' | b'/')
}

fn begins_value(byte: u8) -> bool {
    is_base64(byte) || b"$.{[~*".contains(&byte)
}
