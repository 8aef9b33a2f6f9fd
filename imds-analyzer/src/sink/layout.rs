//! Colour and columns of text output.

use std::{borrow::Cow, fmt, io::IsTerminal, os::fd::AsFd};

use anstyle::AnsiColor;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::{choice::ColorChoice, sanitize};

/// Style of text output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    pub color: bool,
    /// Columns of the terminal; `None` without a terminal, when lines may have any length.
    pub width: Option<usize>,
    /// Show everything known about each request, in a block.
    pub verbose: bool,
}

impl Style {
    /// Width to use without a terminal.
    const DEFAULT_WIDTH: usize = 120;

    /// The style for `stream`, from the user's choice and the terminal.
    pub fn of(stream: impl IsTerminal + AsFd, color: ColorChoice, verbose: bool) -> Self {
        // https://no-color.org
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            color: color.enabled(stream.is_terminal(), no_color),
            width: width_of(stream),
            verbose,
        }
    }

    /// The style after the terminal's size may have changed.
    #[must_use]
    pub fn resized(self, stream: impl AsFd) -> Self {
        // What was no terminal does not become one.
        let width = self.width.and_then(|_| width_of(stream));
        Self { width, ..self }
    }

    /// The width for tables.
    pub fn columns(&self) -> usize {
        self.width.unwrap_or(Self::DEFAULT_WIDTH)
    }
}

/// Columns of the terminal that `stream` is; `None` if it is none, or does not know.
pub(crate) fn width_of(stream: impl AsFd) -> Option<usize> {
    let width = terminal_size::terminal_size_of(stream).map(|(width, _)| usize::from(width.0));
    width.filter(|&width| width > 0)
}

pub(crate) const ALARM: anstyle::Style = AnsiColor::Red.on_default().bold();
pub(crate) const DOUBT: anstyle::Style = AnsiColor::Magenta.on_default().bold();
pub(crate) const CAUTION: anstyle::Style = AnsiColor::Yellow.on_default();
pub(crate) const GOOD: anstyle::Style = AnsiColor::Green.on_default();
pub(crate) const STRONG: anstyle::Style = anstyle::Style::new().bold();
pub(crate) const FAINT: anstyle::Style = anstyle::Style::new().dimmed();
pub(crate) const PLAIN: anstyle::Style = anstyle::Style::new();

/// `text` in `style`, or plain if colour is off.
pub(crate) struct Painted<T> {
    text: T,
    style: anstyle::Style,
}

/// Lines of whole words, each at most `width` columns. A word that is longer than a line goes on in the next one.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(2);
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if columns(line) + 1 + columns(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
        while let Some(line) = lines.last_mut().filter(|line| columns(line) > width) {
            let rest = line.split_off(head(line, width).len());
            lines.push(rest);
        }
    }
    lines
}

/// `text`, to be written after `indent` columns: wrapped to `width`, if there is one, with its lines below each other.
pub(crate) fn hang(text: &str, indent: usize, width: Option<usize>) -> String {
    match width {
        Some(width) => wrap(text, width.saturating_sub(indent)).join(&format!("\n{:indent$}", "")),
        None => text.to_owned(),
    }
}

/// `text`, wrapped to `width`: line by line, with the indentation of each.
pub(crate) fn wrap_lines(text: &str, width: usize) -> String {
    let wrapped = |line: &str| {
        let words = line.trim_start_matches(' ');
        let indent = &line[..line.len() - words.len()];
        let lines = wrap(words, width.saturating_sub(indent.len()));
        format!("{indent}{}", lines.join(&format!("\n{indent}")))
    };
    text.split('\n').map(wrapped).collect::<Vec<_>>().join("\n")
}

pub(crate) fn paint<T: fmt::Display>(color: bool, style: anstyle::Style, text: T) -> Painted<T> {
    let style = if color { style } else { PLAIN };
    Painted { text, style }
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Padding applies to the text alone, so that escape sequences do not count.
        write!(f, "{}", self.style)?;
        self.text.fmt(f)?;
        write!(f, "{:#}", self.style)
    }
}

/// Text from other processes, escaped for a terminal, in at most `width` columns.
pub(crate) fn foreign(text: &str, width: usize) -> String {
    fit(&sanitize::escape(text), width).into_owned()
}

/// [`foreign`] for a path.
pub(crate) fn foreign_path(path: &str, width: usize) -> String {
    fit_path(&sanitize::escape(path), width).into_owned()
}

/// Cuts the middle out of a text that is too long, because its ends are more useful.
pub(crate) fn fit(text: &str, width: usize) -> Cow<'_, str> {
    let length = columns(text);
    if length <= width {
        return Cow::Borrowed(text);
    }
    let kept = width.saturating_sub(1);
    let first = kept / 3;
    Cow::Owned(format!("{}…{}", head(text, first), tail(text, kept - first)))
}

/// Cuts first names off a path that is too long, because its end is more useful. If the last name is too long, cuts the
/// middle out of it.
pub(crate) fn fit_path(path: &str, width: usize) -> Cow<'_, str> {
    if columns(path) <= width {
        return Cow::Borrowed(path);
    }
    let kept = tail(path, width.saturating_sub(1));
    // A slash at the very end has no name behind it.
    match kept.find('/').filter(|&at| at + 1 < kept.len()) {
        Some(at) => Cow::Owned(format!("…{}", &kept[at..])),
        None => {
            let name = path.trim_end_matches('/').rfind('/').map_or(0, |at| at + 1);
            fit(&path[name..], width)
        }
    }
}

/// As much of the beginning of `text` as fits into `width` columns.
pub(crate) fn head(text: &str, width: usize) -> &str {
    let mut taken = 0;
    let end = text.char_indices().find(|(_, char)| {
        taken += char.width().unwrap_or(0);
        taken > width
    });
    end.map_or(text, |(at, _)| &text[..at])
}

/// As much of the end of `text` as fits into `width` columns.
pub(crate) fn tail(text: &str, width: usize) -> &str {
    let mut taken = 0;
    let start = text.char_indices().rev().find(|(_, char)| {
        taken += char.width().unwrap_or(0);
        taken > width
    });
    start.map_or(text, |(at, char)| &text[at + char.len_utf8()..])
}

/// `text` with blanks up to `width` columns.
pub(crate) fn pad(text: &str, width: usize) -> String {
    format!("{text}{:1$}", "", width.saturating_sub(columns(text)))
}

/// The columns of a terminal that `text` takes: wide characters take two (UAX #11).
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_the_middle() {
        assert_eq!(fit("/latest/user-data", 17), "/latest/user-data");
        assert_eq!(fit("/latest/user-data", 10), "/la…r-data");
        assert_eq!(fit("äöüäöü", 4), "ä…öü");
        assert_eq!(fit("abc", 1), "…");
        assert_eq!(fit("abc", 0), "…");
        // Wide characters.
        assert_eq!(fit("監視監視監視", 12), "監視監視監視");
        assert_eq!(fit("監視監視監視", 8), "監…監視");
    }

    #[test]
    fn cuts_the_beginning_of_a_path() {
        let path = "/latest/meta-data/iam/security-credentials/app";
        assert_eq!(fit_path(path, 46), path);
        assert_eq!(fit_path(path, 45), "…/meta-data/iam/security-credentials/app");
        assert_eq!(fit_path(path, 34), "…/iam/security-credentials/app");
        assert_eq!(fit_path(path, 24), "…/app");
        assert_eq!(fit_path("/a/a-long-name", 8), "a-…-name");
        assert_eq!(fit_path("/a/äöüäöü/", 5), "ä…öü/");
        assert_eq!(fit_path(path, 0), "…");
    }

    #[test]
    fn wraps_at_words() {
        assert_eq!(wrap("who calls IMDS", 9), ["who calls", "IMDS"]);
        assert_eq!(wrap("a 0123456789", 4), ["a", "0123", "4567", "89"]);
        assert_eq!(wrap("監視監視", 3), ["監", "視", "監", "視"]);
        assert_eq!(
            wrap_lines("\n# one two\n  three four", 7),
            "\n# one\ntwo\n  three\n  four"
        );
    }

    #[test]
    fn padding_does_not_count_colour() {
        assert_eq!(format!("{:<4}|", paint(false, ALARM, "v1")), "v1  |");
        assert_eq!(
            format!("{:<4}|", paint(true, ALARM, "v1")),
            "\u{1b}[1m\u{1b}[31mv1  \u{1b}[0m|"
        );
    }
}
