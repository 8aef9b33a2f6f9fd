//! Secrets that are known by their look alone.

use std::ops::Range;

use super::{TOKEN_SHAPE, ends_value, view::View};

/// Length of an AWS access key id.
const ACCESS_KEY_ID: usize = 20;

/// Text of token shape: a run of base64 characters that ends in padding.
pub(super) fn tokens(view: &View, spans: &mut Vec<Range<usize>>) {
    let mut at = 0;
    while let Some(run) = view.next_run(at, is_base64) {
        let padding = view.skip(run.end, |byte| byte == b'=');
        at = padding.max(run.end);
        // The slash before a path's first name is not part of it.
        let start = view.skip(run.start, |byte| byte == b'/').min(run.end);
        let certain = match padding - run.end {
            0 => false,
            // `--a-very-long-option=value` looks much the same.
            1 => !view.at(padding).is_some_and(begins_value) && is_mixed(view.slice(&run)),
            _ => true,
        };
        if certain && padding - start >= TOKEN_SHAPE {
            spans.push(start..padding);
        }
    }
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

/// `AKIA` or `ASIA` and sixteen more.
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
    run.iter().any(u8::is_ascii_uppercase)
        && run.iter().any(u8::is_ascii_lowercase)
        && run.iter().any(u8::is_ascii_digit)
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
