//! The table of callers, and the facts of the selected one below it.

use super::{Canvas, Line, cut_end, head::clock};
use crate::{
    process,
    report::verdict::plural,
    sink::layout::{ALARM, CAUTION, DOUBT, FAINT, PLAIN, STRONG, columns, fit, foreign, foreign_path, tail},
    top::{
        rows::{Row, Sort, short},
        state::State,
        trail::Rates,
    },
};

/// The marker of the selected row, and a blank.
const MARKER: usize = 2;
/// Lines below the table: a blank one, then the facts of the selected caller.
const FACTS: usize = 5;
/// Without room for this many rows, the facts are left out.
const ROWS_MIN: usize = 5;
/// Before callers whose calls went to an address of the host itself.
const LOCAL: &str = "local: ";
/// Cells of the column of rates: a minute.
const CELLS: usize = 12;
/// A terminal of this width has all counts.
const ALL: usize = 100;
/// Least width of the columns that share what is left.
const TEXT_MIN: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    V1,
    V2,
    Other,
    Unknown,
    Rate,
    Answers,
    Last,
    Caller,
    User,
    Place,
    Path,
    Cause,
}

use Column::{Answers, Caller, Cause, Last, Other, Path, Place, Rate, Unknown, User, V1, V2};

/// The columns of a terminal that is `width` columns wide: the narrower, the fewer. What could not be judged is shown at any
/// width if there is any.
fn columns_of(width: usize, has_unknown: bool) -> Vec<Column> {
    let columns: &[Column] = match width {
        150.. => &[
            V1, V2, Other, Unknown, Rate, Answers, Last, Caller, User, Place, Path, Cause,
        ],
        ALL.. => &[V1, V2, Other, Unknown, Rate, Answers, Caller, Path, Cause],
        80.. => &[V1, V2, Unknown, Rate, Answers, Caller, Path],
        60.. => &[V1, V2, Unknown, Rate, Caller, Path],
        _ => &[V1, V2, Unknown, Caller],
    };
    let is_shown = |column: &Column| *column != Unknown || width >= ALL || has_unknown;
    columns.iter().copied().filter(is_shown).collect()
}

impl Column {
    fn head(self) -> &'static str {
        match self {
            V1 => "v1",
            V2 => "v2",
            Other => "other",
            Unknown => "unknown",
            Rate => "calls, 1 min",
            Answers => "v1 answers",
            Last => "last",
            Caller => "caller",
            User => "user",
            Place => "unit or image",
            Path => "last path",
            Cause => "cause",
        }
    }

    /// Most columns, for those that do not share what is left.
    fn most(self) -> usize {
        match self {
            Rate => CELLS,
            Answers | User => 16,
            Place => 24,
            _ => usize::MAX,
        }
    }

    fn is_number(self) -> bool {
        matches!(self, V1 | V2 | Other | Unknown)
    }

    fn is_sorted(self, sort: Sort) -> bool {
        matches!(
            (self, sort),
            (V1, Sort::V1)
                | (Rate, Sort::Rate)
                | (Unknown, Sort::Unknown)
                | (Last, Sort::Last)
                | (Caller, Sort::Caller)
        )
    }

    fn text(self, row: &Row<'_>, state: &State) -> String {
        let counts = row.caller.counts;
        let escaped = |text: &str| foreign(text, usize::MAX);
        match self {
            V1 => short(counts.v1),
            V2 => short(counts.v2),
            Other => short(counts.other),
            Unknown => short(counts.unknown),
            Rate => sparkline(&row.trail.rates, state, CELLS),
            Answers => row.answers(),
            Last => row.trail.last.map(clock).unwrap_or_default(),
            Caller if row.caller.local => format!("{LOCAL}{}", escaped(row.name())),
            Caller => escaped(row.name()),
            User => escaped(&row.user().unwrap_or_default()),
            Place => escaped(row.caller.place.as_deref().unwrap_or_default()),
            Path => match (&row.caller.last_path, row.caller.attempts) {
                (Some(path), _) => escaped(path),
                (None, 0) => String::new(),
                (None, attempts) => format!("no call, {}", plural(attempts, "connection", "connections")),
            },
            Cause => row.trail.cause.map_or("", |cause| cause.as_str()).to_owned(),
        }
    }

    fn style(self, row: &Row<'_>) -> anstyle::Style {
        let counts = row.caller.counts;
        match self {
            V1 if counts.v1 > 0 => ALARM,
            Unknown if counts.unknown > 0 => DOUBT,
            V1 | V2 | Other | Unknown if self.count(row) == 0 => FAINT,
            Answers if row.caller.answers.rejected > 0 => CAUTION,
            Caller => STRONG,
            Last | User | Place => FAINT,
            _ => PLAIN,
        }
    }

    fn count(self, row: &Row<'_>) -> u64 {
        let counts = row.caller.counts;
        match self {
            V1 => counts.v1,
            V2 => counts.v2,
            Other => counts.other,
            _ => counts.unknown,
        }
    }
}

/// Draws from line `top` to before line `bottom`.
pub(super) fn draw(state: &State, canvas: &mut Canvas<'_>, top: usize, bottom: usize) {
    let width = usize::from(canvas.area.width);
    let rows = state.rows();
    if rows.is_empty() {
        canvas.put(MARKER, top + 1, nothing(state), usize::MAX, FAINT);
        return;
    }
    let room = room(top, bottom);
    let selected = state.at(&rows);
    // The selected row stays in the middle, except at the ends.
    let first = selected.saturating_sub(room / 2).min(rows.len().saturating_sub(room));
    let shown: Vec<&Row<'_>> = rows.iter().skip(first).take(room).collect();
    let layout = Layout::of(&rows, state, width);
    layout.head(state, canvas, top);
    for (index, row) in shown.into_iter().enumerate() {
        let y = top + 1 + index;
        layout.row(row, state, canvas, y);
        if first + index == selected {
            canvas.put(0, y, ">", 1, STRONG);
            canvas.select(y);
        }
    }
    if let Some(row) = rows.get(selected)
        && has_facts(top, bottom)
    {
        for (index, line) in facts(row, width).iter().enumerate() {
            canvas.line(bottom + 1 + index - FACTS, line);
        }
    }
}

/// How many rows there is room for between two lines.
pub(super) fn room(top: usize, bottom: usize) -> usize {
    let facts = if has_facts(top, bottom) { FACTS } else { 0 };
    bottom.saturating_sub(top + 1 + facts)
}

fn has_facts(top: usize, bottom: usize) -> bool {
    bottom >= top + 1 + ROWS_MIN + FACTS
}

fn nothing(state: &State) -> &'static str {
    if state.filter.is_empty() {
        "No call to the metadata service yet."
    } else {
        "No caller contains this text: / changes it."
    }
}

/// What the columns may have had no room for.
fn facts(row: &Row<'_>, width: usize) -> [Line; FACTS - 1] {
    let user = row.user().map(|user| format!("  user {user}")).unwrap_or_default();
    let place = row
        .caller
        .place
        .as_deref()
        .map(|place| format!("  {place}"))
        .unwrap_or_default();
    let after = foreign(&format!("{user}{place}"), usize::MAX);
    let name = foreign(row.name(), width.saturating_sub(columns(&after)).max(width / 2));
    let last_path = row.caller.last_path.as_deref().unwrap_or_default();
    let path = vec![
        ("last path ".to_owned(), FAINT),
        (foreign_path(last_path, width.saturating_sub(10)), PLAIN),
    ];
    let cause = row
        .trail
        .cause
        .map(|cause| format!("{}: {}", cause.as_str(), cause.meaning()));
    let change = row.caller.remedy.as_ref().map(|(_, text)| text.as_str());
    let told = |label: &str, text: Option<&str>| text.map_or_else(Line::new, |text| labelled(label, text, width));
    [
        vec![(name, STRONG), (after, FAINT)],
        path,
        told("cause     ", cause.as_deref()),
        told("change    ", change),
    ]
}

fn labelled(label: &str, text: &str, width: usize) -> Line {
    let room = width.saturating_sub(columns(label));
    vec![
        (label.to_owned(), FAINT),
        (
            cut_end(&foreign(&text.replace('`', ""), usize::MAX), room).into_owned(),
            PLAIN,
        ),
    ]
}

/// The end of `text`: in a narrow column, whole names would leave nothing of a path.
fn fit_end(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    format!("…{}", tail(text, width.saturating_sub(1)))
}

/// A caller, without directories if it is too long: `backup.sh > curl` says more than a half of either path.
fn fit_caller(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let text = process::program_of(text);
    let (local, program) = text.strip_prefix(LOCAL).map_or(("", text), |program| (LOCAL, program));
    let names: Vec<&str> = program
        .split(" > ")
        .map(|part| part.rsplit('/').next().unwrap_or(part))
        .collect();
    let room = width.saturating_sub(columns(local));
    format!("{local}{}", fit(&names.join(" > "), room))
}

/// Calls over time: each column is a cell, as high as its calls.
pub(super) fn sparkline(rates: &Rates, state: &State, cells: usize) -> String {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let counts: Vec<u32> = rates.cells(state.now(), cells).collect();
    // Few calls stay low.
    let most = counts.iter().copied().fold(8, u32::max);
    let bar = |count: u32| (u64::from(count) * 8).div_ceil(u64::from(most)) as usize;
    counts.iter().map(|count| BARS[bar(*count).min(8)]).collect()
}

/// The width of each column.
struct Layout(Vec<(Column, usize)>);

impl Layout {
    /// Each column is as wide as its longest text; caller and path share what is left.
    fn of(rows: &[Row<'_>], state: &State, width: usize) -> Self {
        let needed = |column: Column| {
            let texts = rows.iter().map(|row| columns(&column.text(row, state)));
            texts.fold(columns(column.head()), usize::max).min(column.most())
        };
        let has_unknown = rows.iter().any(|row| row.caller.counts.unknown > 0);
        let mut widths: Vec<(Column, usize)> = columns_of(width, has_unknown)
            .into_iter()
            .map(|column| (column, needed(column)))
            .collect();
        let gaps: usize = widths.iter().map(|(column, _)| gap(*column)).sum();
        let is_shared = |column: Column| matches!(column, Caller | Path);
        let fixed = |widths: &[(Column, usize)]| -> usize {
            widths
                .iter()
                .filter(|(column, _)| !is_shared(*column))
                .map(|(_, width)| width)
                .sum()
        };
        let wanted = |widths: &[(Column, usize)], wanted: Column| {
            widths
                .iter()
                .find(|(column, _)| *column == wanted)
                .map_or(0, |(_, width)| *width)
        };
        let room = width.saturating_sub(MARKER + gaps + fixed(&widths)).max(2 * TEXT_MIN);
        let (caller, path) = (wanted(&widths, Caller), wanted(&widths, Path));
        // The caller matters more than its path, of which the end is enough.
        let caller = caller.min(room - path.min(room * 2 / 5));
        for (column, width) in &mut widths {
            match column {
                Caller => *width = caller,
                Path => *width = path.min(room - caller),
                _ => {}
            }
        }
        Self(widths)
    }

    fn head(&self, state: &State, canvas: &mut Canvas<'_>, y: usize) {
        self.cells(canvas, y, |column, width| {
            let head = column.head();
            let style = if column.is_sorted(state.sort) { STRONG } else { FAINT };
            let text = if column.is_number() {
                format!("{head:>width$}")
            } else {
                head.to_owned()
            };
            (text, style)
        });
    }

    fn row(&self, row: &Row<'_>, state: &State, canvas: &mut Canvas<'_>, y: usize) {
        self.cells(canvas, y, |column, width| {
            let text = column.text(row, state);
            let text = match column {
                _ if column.is_number() => format!("{text:>width$}"),
                Caller => fit_caller(&text, width),
                Path => fit_end(&text, width),
                Answers => cut_end(&text, width).into_owned(),
                _ => fit(&text, width).into_owned(),
            };
            (text, column.style(row))
        });
    }

    fn cells(&self, canvas: &mut Canvas<'_>, y: usize, cell: impl Fn(Column, usize) -> super::Span) {
        let mut x = MARKER;
        for (column, width) in &self.0 {
            let (text, style) = cell(*column, *width);
            canvas.put(x, y, &text, *width, style);
            x += width + gap(*column);
        }
    }
}

/// Columns after a column.
fn gap(column: Column) -> usize {
    if column.is_number() { 1 } else { 2 }
}
