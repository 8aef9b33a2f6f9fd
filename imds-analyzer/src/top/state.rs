//! What was seen, and what of it is on the screen.

use std::time::{Duration, SystemTime};

use super::{
    keys::{Action, Mode},
    rows::{Row, Sort, rows},
    seen::Seen,
    trail::Rates,
};
use crate::{loss::Ledger, record::Record};

/// Longest filter, in characters.
const FILTER_MAX: usize = 64;

/// What the screen has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Rows of the table.
    pub rows: usize,
    /// Lines that are below the screen at first, in the modes that scroll.
    pub below: usize,
}

/// Everything that is drawn.
#[derive(Clone, Debug)]
pub struct State {
    /// Grows with each record, also while the screen is paused.
    seen: Seen,
    now: SystemTime,
    /// What was seen when the screen was paused, and when that was.
    paused: Option<Box<(Seen, SystemTime)>>,
    /// Where records come from, in a few words.
    pub source: String,
    /// What there is to say of the source at the moment, such as that a log has ended.
    pub note: Option<String>,
    pub color: bool,
    pub(super) mode: Mode,
    pub(super) sort: Sort,
    pub(super) filter: String,
    /// Key of the selected caller. Without one it is the first.
    selected: Option<String>,
    /// Lines above the screen, in the modes that scroll.
    pub(super) scroll: usize,
    /// Instead of the list of keys, until the next key.
    pub(super) message: Option<String>,
    /// The last warning of this program.
    pub(super) warning: Option<String>,
}

impl State {
    pub fn new(source: String, color: bool) -> Self {
        Self {
            seen: Seen::default(),
            now: SystemTime::UNIX_EPOCH,
            paused: None,
            source,
            note: None,
            color,
            mode: Mode::default(),
            sort: Sort::default(),
            filter: String::new(),
            selected: None,
            scroll: 0,
            message: None,
            warning: None,
        }
    }

    /// Takes a record at the time `now`, or later: of a log it may be the time of the record.
    pub fn apply(&mut self, record: &Record<'_>, now: SystemTime) {
        self.now = self.now.max(now);
        self.seen.apply(record);
    }

    /// Moves time on.
    pub fn advance(&mut self, now: SystemTime) {
        self.now = now;
    }

    /// Tells all losses so far.
    pub fn set_loss(&mut self, loss: Ledger) {
        self.seen.set_loss(loss);
    }

    /// Counts a line that could not be read.
    pub fn unreadable(&mut self) {
        self.seen.unreadable += 1;
    }

    /// Counts a line of another program.
    pub fn foreign(&mut self) {
        self.seen.foreign += 1;
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// True if the screen changes as time passes, without a record.
    pub fn is_moving(&self) -> bool {
        const SHOWN: Duration = Duration::from_secs(Rates::CELL.as_secs() * Rates::CELLS as u64);
        let last = self.seen.last.and_then(|last| last.checked_add(SHOWN));
        !self.is_paused() && last.is_some_and(|until| until > self.now)
    }

    /// All that was seen, even while paused.
    pub fn all(&self) -> &Seen {
        &self.seen
    }

    /// What is on the screen.
    pub fn seen(&self) -> &Seen {
        self.paused.as_deref().map_or(&self.seen, |(seen, _)| seen)
    }

    /// The time of what is on the screen.
    pub fn now(&self) -> SystemTime {
        self.paused.as_deref().map_or(self.now, |(_, now)| *now)
    }

    /// The callers that the filter lets pass, in order.
    pub fn rows(&self) -> Vec<Row<'_>> {
        rows(self.seen(), self.sort, &self.filter, self.now())
    }

    /// The place of the selected caller in `rows`.
    pub(super) fn at(&self, rows: &[Row<'_>]) -> usize {
        let selected = self.selected.as_deref();
        let at = selected.and_then(|key| rows.iter().position(|row| row.key == key));
        at.unwrap_or(0)
    }

    /// The caller that was opened.
    pub(super) fn opened(&self) -> Option<Row<'_>> {
        let selected = self.selected.as_deref()?;
        let mut all = self.seen().callers();
        let (key, caller, trail) = all.find(|(key, ..)| *key == selected)?;
        Some(Row { key, caller, trail })
    }

    /// Shows `message` until the next key.
    pub fn say(&mut self, message: String) {
        self.message = Some(message);
    }

    /// Shows a warning in place of the keys, while there is no message.
    pub fn set_warning(&mut self, warning: Option<String>) {
        self.warning = warning;
    }

    /// Does what is not for the terminal or the process.
    pub fn act(&mut self, action: Action, room: Room) {
        self.message = None;
        match action {
            Action::Lines(count) => self.go(count, room),
            Action::Pages(count) => self.go(count * page(room), room),
            Action::First => self.go(isize::MIN, room),
            Action::Last => self.go(isize::MAX, room),
            Action::Open => self.open(),
            Action::Close => self.enter(Mode::Table),
            Action::Help => self.enter(Mode::Help),
            Action::Filter => self.enter(Mode::Filter),
            Action::Type(typed) if self.filter.chars().count() < FILTER_MAX => self.filter.push(typed),
            Action::Erase => drop(self.filter.pop()),
            Action::Accept => self.enter(Mode::Table),
            Action::Forget => {
                self.filter.clear();
                self.enter(Mode::Table);
            }
            Action::Sort => self.sort = self.sort.next(),
            Action::Pause if self.is_paused() => self.paused = None,
            Action::Pause => self.paused = Some(Box::new((self.seen.clone(), self.now))),
            Action::Type(_) | Action::Quit | Action::Suspend | Action::Redraw | Action::Write => {}
        }
    }

    fn enter(&mut self, mode: Mode) {
        self.mode = mode;
        self.scroll = 0;
    }

    fn open(&mut self) {
        let rows = self.rows();
        if let Some(row) = rows.get(self.at(&rows)) {
            self.selected = Some(row.key.to_owned());
            self.enter(Mode::Caller);
        }
    }

    /// Goes `count` lines down, or up.
    fn go(&mut self, count: isize, room: Room) {
        let (from, end) = match self.mode {
            Mode::Table | Mode::Filter => {
                let rows = self.rows();
                (self.at(&rows), rows.len())
            }
            Mode::Caller | Mode::Help => (self.scroll, room.below + 1),
        };
        let to = from.saturating_add_signed(count).min(end.saturating_sub(1));
        match self.mode {
            Mode::Table | Mode::Filter => self.selected = self.rows().get(to).map(|row| row.key.to_owned()),
            Mode::Caller | Mode::Help => self.scroll = to,
        }
    }
}

/// Lines of a page: one stays on the screen.
fn page(room: Room) -> isize {
    isize::try_from(room.rows.saturating_sub(1).max(1)).unwrap_or(1)
}
