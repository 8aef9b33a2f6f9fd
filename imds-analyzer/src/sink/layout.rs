//! Colour and columns of text output.

use std::{borrow::Cow, fmt, io::IsTerminal, os::fd::AsFd};

use anstyle::AnsiColor;

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
        let width = terminal_size::terminal_size_of(&stream).map(|(width, _)| usize::from(width.0));
        Self {
            color: color.enabled(stream.is_terminal(), no_color),
            width: width.filter(|&width| width > 0),
            verbose,
        }
    }

    /// The width for tables.
    pub fn columns(&self) -> usize {
        self.width.unwrap_or(Self::DEFAULT_WIDTH)
    }
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

/// Lines of whole words, each at most `width` columns unless a word is longer.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if columns(line) + 1 + columns(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
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
    let head = kept / 3;
    let tail = length - (kept - head);
    let mut cut: String = text.chars().take(head).collect();
    cut.push('…');
    cut.extend(text.chars().skip(tail));
    Cow::Owned(cut)
}

/// Cuts the beginning off a path that is too long, at a slash if one is near, because its end is more useful.
pub(crate) fn fit_path(path: &str, width: usize) -> Cow<'_, str> {
    const COST: usize = 16;
    let length = columns(path);
    if length <= width {
        return Cow::Borrowed(path);
    }
    let skipped = length - width.saturating_sub(1);
    let start = path.char_indices().nth(skipped).map_or(path.len(), |(at, _)| at);
    let kept = &path[start..];
    let name = kept
        .find('/')
        .filter(|&at| at <= COST && at + 1 < kept.len())
        .unwrap_or(0);
    Cow::Owned(format!("…{}", &kept[name..]))
}

pub(crate) fn columns(text: &str) -> usize {
    text.chars().count()
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
    }

    #[test]
    fn cuts_the_beginning_of_a_path() {
        let path = "/latest/meta-data/iam/security-credentials/app";
        assert_eq!(fit_path(path, 46), path);
        assert_eq!(fit_path(path, 45), "…/meta-data/iam/security-credentials/app");
        assert_eq!(fit_path(path, 34), "…/iam/security-credentials/app");
        assert_eq!(fit_path(path, 24), "…ecurity-credentials/app");
        assert_eq!(fit_path("/a/äöüäöü/", 5), "…äöü/");
        assert_eq!(fit_path(path, 0), "…");
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
