//! Draws the state: head, table or caller, and a line on keys. A line that is too long is cut, never wrapped.
//!
//! All text of other processes comes in through [`foreign`] and its like, which escape it.

use std::borrow::Cow;

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};

use super::{
    keys::Mode,
    state::{Room, State},
};
use crate::sink::layout::{self, CAUTION, FAINT, STRONG, columns, foreign};

mod details;
mod head;
mod help;
mod table;

/// Lines of the head: title, sums, and what else there is to know.
const HEAD: usize = 3;
/// The line at the end.
const KEYS: usize = 1;

/// Text in one style.
type Span = (String, anstyle::Style);
/// A line of the screen.
type Line = Vec<Span>;

/// Draws all of it.
pub fn draw(state: &State, frame: &mut Frame<'_>) {
    let area = frame.area();
    let mut canvas = Canvas {
        buffer: frame.buffer_mut(),
        area,
        color: state.color,
    };
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let bottom = height.saturating_sub(KEYS);
    match state.mode() {
        Mode::Table | Mode::Filter => {
            for (y, line) in head::lines(state, width).iter().enumerate() {
                canvas.line(y, line);
            }
            table::draw(state, &mut canvas, HEAD, bottom);
        }
        Mode::Caller | Mode::Help => {
            let all = scrolled(state, width);
            // A terminal that has grown shows more.
            let skipped = state.scroll.min(all.len().saturating_sub(bottom));
            for (y, line) in all.iter().skip(skipped).take(bottom).enumerate() {
                canvas.line(y, line);
            }
        }
    }
    canvas.line(bottom, &last_line(state, width));
}

/// The lines of a mode that scrolls.
fn scrolled(state: &State, width: usize) -> Vec<Line> {
    match state.mode() {
        Mode::Caller => details::lines(state, width),
        _ => help::lines(width),
    }
}

/// What a terminal of this size has room for.
pub fn room(state: &State, (width, height): (u16, u16)) -> Room {
    let bottom = usize::from(height).saturating_sub(KEYS);
    let below = match state.mode() {
        Mode::Table | Mode::Filter => 0,
        Mode::Caller | Mode::Help => scrolled(state, width.into()).len().saturating_sub(bottom),
    };
    Room {
        rows: table::room(HEAD, bottom),
        below,
    }
}

/// What is typed, else a message, else the keys.
fn last_line(state: &State, width: usize) -> Line {
    if state.mode() == Mode::Filter {
        let filter = foreign(&state.filter, width.saturating_sub(2));
        return vec![("/".to_owned(), STRONG), (format!("{filter}_"), STRONG)];
    }
    if let Some(message) = state.message.as_ref().or(state.warning.as_ref()) {
        return vec![(foreign(message, width), STRONG)];
    }
    let mut line = Line::new();
    if state.is_paused() && state.mode() == Mode::Caller {
        line.push(("PAUSED  ".to_owned(), CAUTION));
    }
    let taken: usize = line.iter().map(|(text, _)| columns(text)).sum();
    line.extend(help::keys(state.mode(), width.saturating_sub(taken)));
    line
}

/// The cells of a terminal.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
    color: bool,
}

impl Canvas<'_> {
    /// Writes `line` from the first column on. A line below the screen is left out.
    fn line(&mut self, y: usize, line: &[Span]) {
        let mut x = 0;
        for (text, style) in line {
            let room = usize::from(self.area.width).saturating_sub(x);
            x += self.put(x, y, &cut_end(text, room), room, *style);
        }
    }

    /// Writes `text` in at most `width` columns, and returns how many it took.
    fn put(&mut self, x: usize, y: usize, text: &str, width: usize, style: anstyle::Style) -> usize {
        let Some((column, row)) = self.place(x, y) else {
            return 0;
        };
        let style = painted(style, self.color);
        let (end, _) = self.buffer.set_stringn(column, row, text, width, style);
        usize::from(end - column)
    }

    /// Marks a line as the selected one.
    fn select(&mut self, y: usize) {
        if let Some((column, row)) = self.place(0, y) {
            let line = Rect::new(column, row, self.area.width, 1);
            self.buffer
                .set_style(line, Style::new().add_modifier(Modifier::REVERSED));
        }
    }

    fn place(&self, x: usize, y: usize) -> Option<(u16, u16)> {
        let (x, y) = (u16::try_from(x).ok()?, u16::try_from(y).ok()?);
        (x < self.area.width && y < self.area.height).then_some((self.area.x + x, self.area.y + y))
    }
}

/// The style of other text output, for cells.
fn painted(style: anstyle::Style, color: bool) -> Style {
    let mut painted = Style::new();
    let effects = style.get_effects();
    if effects.contains(anstyle::Effects::BOLD) {
        painted = painted.add_modifier(Modifier::BOLD);
    }
    if effects.contains(anstyle::Effects::DIMMED) {
        painted = painted.add_modifier(Modifier::DIM);
    }
    match style.get_fg_color().filter(|_| color) {
        Some(anstyle::Color::Ansi(ansi)) => painted.fg(Color::Indexed(anstyle::Ansi256Color::from_ansi(ansi).0)),
        _ => painted,
    }
}

/// `text` cut at its end, where that matters least.
fn cut_end(text: &str, width: usize) -> Cow<'_, str> {
    if columns(text) <= width {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", layout::head(text, width.saturating_sub(1))))
}

/// `right` at the right, and as much of `left` as there is room for.
fn spread(left: Line, right: Span, width: usize) -> Line {
    const GAP: usize = 2;
    let mut room = width.saturating_sub(columns(&right.0) + GAP);
    let mut line = Line::new();
    for (text, style) in left {
        let text = cut_end(&text, room).into_owned();
        room -= columns(&text).min(room);
        line.push((text, style));
        if room == 0 {
            break;
        }
    }
    line.push((" ".repeat(room + GAP), FAINT));
    line.push(right);
    line
}

#[cfg(test)]
mod tests;
