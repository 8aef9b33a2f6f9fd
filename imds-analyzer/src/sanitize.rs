//! Makes text from other processes harmless: valid UTF-8, bounded and, for a terminal, escaped.

use std::{borrow::Cow, fmt::Write as _};

use imds_analyzer_ebpf::abi::COMM_LEN;

/// Marks the end of text that was cut.
pub const CUT: &str = "…";

/// `bytes` as UTF-8, with invalid bytes replaced, in at most `max` bytes. Text that was cut ends in `…`, which counts.
pub fn lossy(bytes: &[u8], max: usize) -> String {
    // Replacing never makes text shorter, so bytes far beyond the bound are not needed.
    let looked_at = bytes.get(..max.saturating_add(CUT.len())).unwrap_or(bytes);
    bounded(String::from_utf8_lossy(looked_at).into_owned(), max)
}

/// `text` in at most `max` bytes, cut like [`lossy`] does.
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

/// Escapes `text` for a terminal: characters that could move the cursor, change colours, reorder or hide text, or begin
/// a line become `\x1b` or `\u{202e}`. A backslash is doubled, so that no text can imitate an escape.
pub fn escape(text: &str) -> Cow<'_, str> {
    if is_plain(text) && !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    let mut marks = Marks::default();
    for character in text.chars() {
        let _infallible = match character {
            '\\' => escaped.write_str("\\\\"),
            '\n' => escaped.write_str("\\n"),
            '\r' => escaped.write_str("\\r"),
            '\t' => escaped.write_str("\\t"),
            _ if !marks.is_escaped(character) => escaped.write_char(character),
            _ if u32::from(character) <= 0xff => write!(escaped, "\\x{:02x}", u32::from(character)),
            _ => write!(escaped, "{}", character.escape_unicode()),
        };
    }
    Cow::Owned(escaped)
}

/// True if `text` is printable ASCII.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, 0x20..=0x7e))
}

/// Maximum number of combining characters on one character. More would reach into other lines.
const MARKS_MAX: usize = 4;

/// Decides which characters of a text to escape. The text may come in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Marks {
    /// A combining character has a character to combine with.
    has_base: bool,
    /// Number of combining characters in a row.
    count: usize,
}

impl Marks {
    /// Splits the next piece of the text into parts to write unchanged and characters to escape between them.
    pub fn parts<'a>(&mut self, piece: &'a str) -> impl Iterator<Item = (&'a str, Option<char>)> {
        let mut rest = Some(piece).filter(|piece| !piece.is_empty());
        std::iter::from_fn(move || {
            let text = rest.take()?;
            let Some((at, found)) = text.char_indices().find(|(_, character)| self.is_escaped(*character)) else {
                return Some((text, None));
            };
            let (plain, escaped) = text.split_at(at);
            rest = escaped.get(found.len_utf8()..).filter(|text| !text.is_empty());
            Some((plain, Some(found)))
        })
    }

    /// Takes a piece of printable ASCII, which is written unchanged.
    pub fn printable(&mut self, piece: &str) {
        if !piece.is_empty() {
            (self.has_base, self.count) = (true, 0);
        }
    }

    fn is_escaped(&mut self, character: char) -> bool {
        if !is_combining(character) {
            let escaped = is_escaped(character);
            (self.has_base, self.count) = (!escaped, 0);
            return escaped;
        }
        self.count += 1;
        // At the start of a text it would combine with whatever precedes the text.
        !self.has_base || self.count > MARKS_MAX
    }
}

/// True for characters that are invisible or change how others are shown: control characters, Unicode's class Cf, line
/// ends, characters without a glyph (`Default_Ignorable_Code_Point`), and noncharacters.
fn is_escaped(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            // Soft hyphen, combining grapheme joiner.
            '\u{ad}' | '\u{34f}'
            // Arabic, Syriac and Kaithi signs of class Cf, Arabic letter mark.
            | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}'
            | '\u{110bd}' | '\u{110cd}'
            // Hangul fillers, Khmer inherent vowels, Mongolian selectors and vowel separator: invisible.
            | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            // Zero-width characters and bidirectional marks.
            | '\u{200b}'..='\u{200f}'
            // Line and paragraph separators, bidirectional embeddings and overrides.
            | '\u{2028}'..='\u{202e}'
            // Word joiner, invisible operators, bidirectional isolates.
            | '\u{2060}'..='\u{206f}'
            // Braille without dots.
            | '\u{2800}'
            // Variation selectors, byte order mark, interlinear annotations and their neighbours.
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
            // Egyptian, shorthand and musical format characters.
            | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            // Tags, more variation selectors, and the rest of their plane.
            | '\u{e0000}'..='\u{e0fff}'
            // Noncharacters.
            | '\u{fdd0}'..='\u{fdef}'
        )
        || u32::from(character) & 0xfffe == 0xfffe
}

/// Blocks of combining characters.
fn is_combining(character: char) -> bool {
    character != '\u{34f}'
        && matches!(
            character,
            '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{591}'..='\u{5bd}' | '\u{610}'..='\u{61a}'
            | '\u{64b}'..='\u{65f}' | '\u{6d6}'..='\u{6dc}' | '\u{6df}'..='\u{6e4}' | '\u{e34}'..='\u{e3a}'
            | '\u{e47}'..='\u{e4e}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}'
            | '\u{302a}'..='\u{302f}' | '\u{3099}'..='\u{309a}' | '\u{a66f}'..='\u{a67d}' | '\u{fe20}'..='\u{fe2f}'
            | '\u{1d165}'..='\u{1d169}' | '\u{1d16d}'..='\u{1d172}' | '\u{1d17b}'..='\u{1d182}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::{Marks, bounded, comm, escape, lossy};

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
            (
                "a\u{34f}\u{fe0f}\u{17b4}\u{e0100}",
                "a\\u{34f}\\u{fe0f}\\u{17b4}\\u{e0100}",
            ),
            (
                "\u{1d173}\u{e0041}\u{180e}\u{3164}",
                "\\u{1d173}\\u{e0041}\\u{180e}\\u{3164}",
            ),
            (
                "\u{600}\u{6dd}\u{110bd}\u{13430}",
                "\\u{600}\\u{6dd}\\u{110bd}\\u{13430}",
            ),
            ("\u{ffff}\u{fdd0}\u{1fffe}", "\\u{ffff}\\u{fdd0}\\u{1fffe}"),
            // Combining with what precedes the text, and reaching into other lines.
            ("\u{301}a", "\\u{301}a"),
            (
                "e\u{301}\u{301}\u{301}\u{301}\u{301}b\u{301}",
                "e\u{301}\u{301}\u{301}\u{301}\\u{301}b\u{301}",
            ),
        ] {
            assert_eq!(escape(text), expected);
        }
    }

    #[test]
    fn ordinary_text_stays_as_it_is() {
        assert!(matches!(escape("/usr/bin/curl -s"), std::borrow::Cow::Borrowed(_)));
        for text in ["/usr/bin/grüße 日本", "Việt ภาษาไทย é ñ̃", "🦀 ☃ Ω"] {
            assert_eq!(escape(text), text);
        }
    }

    proptest! {
        #[test]
        fn parts_are_the_whole_text(text in any::<String>()) {
            let mut whole = String::new();
            for (plain, escaped) in Marks::default().parts(&text) {
                prop_assert!(!plain.chars().any(char::is_control));
                whole += plain;
                whole.extend(escaped);
            }
            prop_assert_eq!(whole, text);
        }

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
