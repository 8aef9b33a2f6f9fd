//! What a terminal sends when keys are pressed, and what each key means.

/// Where keys go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Table,
    /// The table, while a filter is typed.
    Filter,
    /// One caller.
    Caller,
    Help,
}

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    /// With the control key, in lower case.
    Control(char),
    Enter,
    Escape,
    Backspace,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Quit,
    /// Stop the process, as Ctrl-Z does elsewhere.
    Suspend,
    /// Draw all anew: something else wrote to the terminal.
    Redraw,
    /// Write what is seen to a file.
    Write,
    /// Go up (negative) or down.
    Lines(isize),
    Pages(isize),
    First,
    Last,
    /// Show one caller.
    Open,
    /// Back to the table.
    Close,
    /// Type a filter; then a character of it, erase the last one, take it, or forget it.
    Filter,
    Type(char),
    Erase,
    Accept,
    Forget,
    Sort,
    Pause,
    Help,
}

/// What `key` means in `mode`; `None` if nothing.
pub fn action(key: Key, mode: Mode) -> Option<Action> {
    let action = match (mode, key) {
        (_, Key::Control('c')) => Action::Quit,
        (_, Key::Control('z')) => Action::Suspend,
        (_, Key::Control('l')) => Action::Redraw,
        (Mode::Filter, Key::Char(typed)) => Action::Type(typed),
        (Mode::Filter, Key::Backspace) => Action::Erase,
        (Mode::Filter, Key::Enter) => Action::Accept,
        (Mode::Filter, Key::Escape) => Action::Forget,
        (_, Key::Up | Key::Char('k')) => Action::Lines(-1),
        (_, Key::Down | Key::Char('j')) => Action::Lines(1),
        (_, Key::PageUp | Key::Control('b')) => Action::Pages(-1),
        (_, Key::PageDown | Key::Control('f')) => Action::Pages(1),
        (_, Key::Home | Key::Char('g')) => Action::First,
        (_, Key::End | Key::Char('G')) => Action::Last,
        (Mode::Filter, _) => return None,
        (_, Key::Char('w')) => Action::Write,
        (_, Key::Char('p')) => Action::Pause,
        (Mode::Table, Key::Char('q') | Key::Escape) => Action::Quit,
        (_, Key::Char('q') | Key::Escape) => Action::Close,
        (Mode::Help, Key::Char('?') | Key::Enter) => Action::Close,
        (_, Key::Char('?')) => Action::Help,
        (Mode::Table, Key::Enter) => Action::Open,
        (Mode::Table, Key::Char('/')) => Action::Filter,
        (Mode::Table, Key::Char('s')) => Action::Sort,
        _ => return None,
    };
    Some(action)
}

/// Longest sequence for a key.
const SEQUENCE_MAX: usize = 16;

/// Takes the bytes of a terminal and gives keys.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a sequence whose end has not come yet.
    rest: Vec<u8>,
}

impl Decoder {
    /// The keys in `bytes`, which were read at once. An escape at the end is the key: terminals send sequences in one piece.
    pub fn keys(&mut self, bytes: &[u8], mut take: impl FnMut(Key)) {
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            match first(rest) {
                Some((key, length)) => {
                    key.into_iter().for_each(&mut take);
                    rest = rest.get(length..).unwrap_or_default();
                }
                None if rest.len() < SEQUENCE_MAX => {
                    self.rest = rest.to_vec();
                    return;
                }
                None => return,
            }
        }
    }
}

/// The first key, if there is one, and its length in bytes; `None` if it is not there as a whole.
fn first(bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    let key = match bytes {
        [0x1b, b'[', sequence @ ..] => {
            // ECMA-48: parameters and intermediates, then a final byte.
            let length = sequence.iter().position(|byte| matches!(byte, 0x40..=0x7e))?;
            return Some((control_sequence(&sequence[..=length]), length + 3));
        }
        // Keys of the application mode, and of the keypad.
        [0x1b, b'O'] => return None,
        [0x1b, b'O', last, ..] => return Some((control_sequence(&[*last]), 3)),
        [0x1b] => return Some((Some(Key::Escape), 1)),
        [0x1b, 0x1b, ..] => return Some((Some(Key::Escape), 1)),
        // With the alt key, which means nothing here.
        [0x1b, rest @ ..] => {
            let (_, length) = first(rest)?;
            return Some((None, length + 1));
        }
        [b'\r' | b'\n', ..] => Key::Enter,
        [0x7f | 0x08, ..] => Key::Backspace,
        [byte @ 0x01..=0x1a, ..] => Key::Control(char::from(byte - 1 + b'a')),
        [0x00..=0x1f, ..] => return Some((None, 1)),
        [byte, ..] => return character(*byte, bytes),
        [] => return None,
    };
    Some((Some(key), 1))
}

/// A character in UTF-8.
fn character(byte: u8, bytes: &[u8]) -> Option<(Option<Key>, usize)> {
    let length = match byte {
        0x00..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => return Some((None, 1)),
    };
    let text = std::str::from_utf8(bytes.get(..length)?).ok();
    let typed = text.and_then(|text| text.chars().next());
    Some((typed.map(Key::Char), if typed.is_some() { length } else { 1 }))
}

fn control_sequence(sequence: &[u8]) -> Option<Key> {
    // Parameters after the first are the shift, alt and control keys, which mean nothing here.
    let first = sequence.split(|byte| *byte == b';').next().unwrap_or_default();
    Some(match (sequence.last()?, first) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'H', _) | (b'~', b"1" | b"7" | b"1~" | b"7~") => Key::Home,
        (b'F', _) | (b'~', b"4" | b"8" | b"4~" | b"8~") => Key::End,
        (b'~', b"5" | b"5~") => Key::PageUp,
        (b'~', b"6" | b"6~") => Key::PageDown,
        (b'M', b"M") => Key::Enter,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn keys(reads: &[&[u8]]) -> Vec<Key> {
        let (mut decoder, mut keys) = (Decoder::default(), Vec::new());
        reads.iter().for_each(|bytes| decoder.keys(bytes, |key| keys.push(key)));
        keys
    }

    #[test]
    fn what_terminals_send() {
        for (bytes, expected) in [
            (&b"q"[..], &[Key::Char('q')][..]),
            (b"\r", &[Key::Enter]),
            (b"\x1b", &[Key::Escape]),
            (b"\x1b\x1b", &[Key::Escape, Key::Escape]),
            (b"\x7f\x08", &[Key::Backspace, Key::Backspace]),
            (
                b"\x03\x1a\x0c",
                &[Key::Control('c'), Key::Control('z'), Key::Control('l')],
            ),
            // xterm, the application mode, rxvt, the Linux console, with shift.
            (b"\x1b[A\x1b[B", &[Key::Up, Key::Down]),
            (b"\x1bOA\x1bOB\x1bOH\x1bOF", &[Key::Up, Key::Down, Key::Home, Key::End]),
            (b"\x1b[5~\x1b[6~", &[Key::PageUp, Key::PageDown]),
            (
                b"\x1b[H\x1b[F\x1b[1~\x1b[4~\x1b[7~\x1b[8~",
                &[Key::Home, Key::End, Key::Home, Key::End, Key::Home, Key::End],
            ),
            (b"\x1b[1;2A\x1b[6;5~", &[Key::Up, Key::PageDown]),
            // Nothing here: F5, alt-x, a mouse, the beginning and end of pasted text.
            (b"\x1b[15~\x1bx\x1b[<0;1;1M\x1b[200~\x1b[201~", &[]),
            ("äq".as_bytes(), &[Key::Char('ä'), Key::Char('q')]),
            (b"\xffq\x80", &[Key::Char('q')]),
        ] {
            assert_eq!(keys(&[bytes]), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_sequence_may_come_in_pieces() {
        assert_eq!(keys(&[b"\x1b[", b"A"]), [Key::Up]);
        assert_eq!(keys(&[b"\x1bO", b"B"]), [Key::Down]);
        assert_eq!(keys(&[b"\xc3", b"\xa4"]), [Key::Char('ä')]);
        // A sequence without end is given up.
        assert_eq!(keys(&[b"\x1b[1111111111111111111", b"q"]), [Key::Char('q')]);
    }

    #[test]
    fn each_mode_has_a_way_back_and_out() {
        assert_eq!(action(Key::Escape, Mode::Table), Some(Action::Quit));
        for mode in [Mode::Caller, Mode::Help] {
            assert_eq!(action(Key::Escape, mode), Some(Action::Close));
            assert_eq!(action(Key::Char('q'), mode), Some(Action::Close));
        }
        assert_eq!(action(Key::Char('q'), Mode::Filter), Some(Action::Type('q')));
        assert_eq!(action(Key::Escape, Mode::Filter), Some(Action::Forget));
        for mode in [Mode::Table, Mode::Filter, Mode::Caller, Mode::Help] {
            assert_eq!(action(Key::Control('c'), mode), Some(Action::Quit));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_keys_that_are_no_control_characters(reads in prop::collection::vec(any::<Vec<u8>>(), 0..4)) {
            let reads: Vec<&[u8]> = reads.iter().map(Vec::as_slice).collect();
            for key in keys(&reads) {
                if let Key::Char(typed) = key {
                    prop_assert!(!typed.is_ascii_control());
                }
            }
        }

        #[test]
        fn text_is_itself(text in "[ -~äöü日]{0,40}") {
            let typed: String = keys(&[text.as_bytes()])
                .into_iter()
                .map(|key| match key {
                    Key::Char(typed) => typed,
                    _ => '\0',
                })
                .collect();
            prop_assert_eq!(typed, text);
        }
    }
}
