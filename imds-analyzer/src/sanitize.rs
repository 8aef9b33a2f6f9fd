//! Text that others control, made harmless: valid UTF-8, bounded, and for a terminal escaped.

use std::{borrow::Cow, fmt::Write as _};

use imds_analyzer_ebpf::abi::COMM_LEN;

/// Stands at the end of text that was cut.
pub const CUT: &str = "…";

/// `bytes` as UTF-8, invalid ones replaced, in `max` bytes at most; text that was cut ends in `…` (which counts).
pub fn lossy(bytes: &[u8], max: usize) -> String {
    // Replacing makes text longer, never shorter: bytes far behind the bound need not be looked at.
    let looked_at = bytes.get(..max.saturating_add(CUT.len())).unwrap_or(bytes);
    bounded(String::from_utf8_lossy(looked_at).into_owned(), max)
}

/// `text` in `max` bytes at most, cut as by [`lossy`].
pub fn bounded(mut text: String, max: usize) -> String {
    if text.len() > max {
        let room = max.saturating_sub(CUT.len());
        text.truncate(text.floor_char_boundary(room));
        if max >= CUT.len() {
            text.push_str(CUT);
        }
    }
    text
}

/// The kernel's name of a task: up to the first NUL.
pub fn comm(comm: &[u8; COMM_LEN]) -> String {
    let name = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// `text` for a terminal: what could move the cursor, change colours, reorder or hide text, or begin a line is written
/// out (`\x1b`, `\u{202e}`), and a backslash doubled, so that no text can pretend to be an escape.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        let _infallible = match character {
            '\\' => escaped.write_str("\\\\"),
            '\n' => escaped.write_str("\\n"),
            '\r' => escaped.write_str("\\r"),
            '\t' => escaped.write_str("\\t"),
            _ if !is_escaped(character) => escaped.write_char(character),
            _ if u32::from(character) <= 0xff => write!(escaped, "\\x{:02x}", u32::from(character)),
            _ => write!(escaped, "{}", character.escape_unicode()),
        };
    }
    Cow::Owned(escaped)
}

fn is_escaped(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\\'
            // Soft hyphen, Arabic letter mark, Mongolian vowel separator, Hangul fillers: invisible.
            | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}'
            // Zero-width characters and bidirectional marks.
            | '\u{200b}'..='\u{200f}'
            // Line and paragraph separators, bidirectional embeddings and overrides.
            | '\u{2028}'..='\u{202e}'
            // Word joiner, invisible operators, bidirectional isolates.
            | '\u{2060}'..='\u{206f}'
            // Byte order mark, interlinear annotations, tags.
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{bounded, comm, escape, lossy};

    #[test]
    fn text_is_cut_between_characters_and_says_so() {
        assert_eq!(lossy(b"/usr/bin/python3", 16), "/usr/bin/python3");
        assert_eq!(lossy(b"/usr/bin/python3", 12), "/usr/bin/…");
        assert_eq!(lossy("aéé".as_bytes(), 5), "aéé");
        assert_eq!(lossy("aééé".as_bytes(), 5), "a…");
        assert_eq!(lossy(b"a\xff\xfeb", 100), "a\u{fffd}\u{fffd}b");
        assert_eq!(lossy(b"abc", 2), "");
    }

    #[test]
    fn comm_ends_at_the_first_nul() {
        assert_eq!(comm(b"python3\0\0\0\0\0\0\0\0\0"), "python3");
        assert_eq!(comm(b"0123456789abcdef"), "0123456789abcdef");
        assert_eq!(comm(b"a\0leftover\0\0\0\0\0\0"), "a");
    }

    #[test]
    fn what_drives_a_terminal_is_written_out() {
        for (text, expected) in [
            ("\x1b[2J", "\\x1b[2J"),
            ("\u{9b}31m", "\\x9b31m"),
            ("a\nv2 /forged", "a\\nv2 /forged"),
            ("a\rb\tc\0\x7f", "a\\rb\\tc\\x00\\x7f"),
            ("\u{85}\u{2028}\u{2029}", "\\x85\\u{2028}\\u{2029}"),
            ("\u{202e}gpj.exe\u{200b}\u{feff}", "\\u{202e}gpj.exe\\u{200b}\\u{feff}"),
            ("\\x1b", "\\\\x1b"),
        ] {
            assert_eq!(escape(text), expected);
        }
    }

    #[test]
    fn ordinary_text_is_not_copied() {
        assert!(matches!(escape("/usr/bin/grüße 日本"), std::borrow::Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn lossy_keeps_its_bound(bytes in any::<Vec<u8>>(), max in 0_usize..64) {
            let text = lossy(&bytes, max);
            prop_assert!(text.len() <= max);
            prop_assert_eq!(&text, &bounded(String::from_utf8_lossy(&bytes).into_owned(), max));
        }

        #[test]
        fn escaped_text_has_no_control_characters(text in any::<String>()) {
            prop_assert!(!escape(&text).chars().any(char::is_control));
        }
    }
}
