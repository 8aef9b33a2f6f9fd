//! The summary as a table, for people.

use std::fmt::{self, Write as _};

use crate::{
    loss::Ledger,
    sink::layout::{
        ALARM, CAUTION, DOUBT, FAINT, PLAIN, STRONG, columns, fit, fit_path, foreign, pad, paint, wrap, wrap_lines,
    },
    summary::{Caller, Counts, Summary},
};

const COUNT_HEADS: [&str; 5] = ["v1", "ok", "v2", "other", "unknown"];
const TEXT_HEADS: [&str; 4] = ["caller", "user", "unit or image", "last path"];
/// Maximum width of the user column.
const USER_WIDTH: usize = 16;
/// Minimum width of the caller and path columns, however narrow the terminal.
const TEXT_WIDTH_MIN: usize = 11;
const GAP: usize = 2;
/// Programs that are named with a remedy.
const PROGRAMS: usize = 8;

/// The table in `width` columns.
pub fn render(summary: &Summary, width: usize, color: bool, loss: &Ledger) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write(&mut text, summary, width, color, loss);
    text
}

fn write(text: &mut String, summary: &Summary, width: usize, color: bool, loss: &Ledger) -> fmt::Result {
    let has_local = summary.total(true).sum() > 0;
    if summary.total(false).sum() == 0 {
        let but = if has_local { ", only to this host itself" } else { "" };
        writeln!(text, "No calls to the metadata service were seen{but}.")?;
    } else {
        section(text, summary, false, "Calls to the metadata service", width, color)?;
    }
    if has_local {
        writeln!(text)?;
        section(
            text,
            summary,
            true,
            "Calls to this host itself (a proxy or a mock)",
            width,
            color,
        )?;
    }
    remedies(text, summary, width, color)?;
    if let Some(counts) = summary.relayed() {
        let Counts { v1, v2, other, unknown } = counts;
        let sentence = format!(
            "A rootless network helper repeated {v1} v1, {v2} v2, {other} other, {unknown} unknown of them, not counted again."
        );
        writeln!(text, "\n{}", wrap_lines(&sentence, width))?;
    }
    let attempts = summary.attempts();
    if attempts > 0 {
        let connections = if attempts == 1 { "connection" } else { "connections" };
        writeln!(
            text,
            "\n{attempts} {connections} to the metadata service ended without a call."
        )?;
    }
    writeln!(text, "\n{}", wrap_lines(&loss.to_string(), width))
}

/// Writes what to change, and for which callers.
fn remedies(text: &mut String, summary: &Summary, width: usize, color: bool) -> fmt::Result {
    const INDENT: usize = 2;
    let callers = [false, true].into_iter().flat_map(|local| summary.callers(local));
    let mut remedies: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for caller in callers {
        let Some((id, advice)) = &caller.remedy else { continue };
        let program = caller.program.as_deref().unwrap_or("unknown process");
        match remedies.iter_mut().find(|(known, ..)| known == id) {
            Some((.., programs)) if programs.contains(&program) => {}
            Some((.., programs)) => programs.push(program),
            None => remedies.push((id, advice, vec![program])),
        }
    }
    if remedies.is_empty() {
        return Ok(());
    }
    let title = paint(color, STRONG, "What to change");
    writeln!(text, "\n{title} (`imds-analyzer explain ID` says more)")?;
    for (id, advice, programs) in remedies {
        writeln!(text, "{}", paint(color, CAUTION, foreign(id, width)))?;
        for line in wrap(&foreign(advice, usize::MAX), width.saturating_sub(INDENT)) {
            writeln!(text, "{:INDENT$}{line}", "")?;
        }
        let shown = programs.iter().take(PROGRAMS);
        let mut list: Vec<String> = shown.map(|program| foreign(program, usize::MAX)).collect();
        if let Some(more @ 1..) = programs.len().checked_sub(PROGRAMS) {
            list.push(format!("and {more} more"));
        }
        for line in wrap(&list.join(", "), width.saturating_sub(INDENT)) {
            writeln!(text, "{:INDENT$}{}", "", paint(color, FAINT, line))?;
        }
    }
    Ok(())
}

fn section(text: &mut String, summary: &Summary, local: bool, title: &str, width: usize, color: bool) -> fmt::Result {
    let total = summary.total(local);
    let title = paint(color, STRONG, title);
    let Counts { v1, v2, other, unknown } = total;
    let v1 = paint(color, if v1 > 0 { ALARM } else { STRONG }, format_args!("{v1} v1")).to_string();
    writeln!(text, "{title}: {v1}, {v2} v2, {other} other, {unknown} unknown")?;
    let answers = summary.answers(local).in_words();
    if !answers.is_empty() {
        writeln!(text, "v1: {answers}")?;
    }
    let succeeded = summary.answers(local).succeeded;
    let mut rows: Vec<Row> = summary.callers(local).into_iter().map(Row::of).collect();
    if let Some(counts) = summary.other_callers(local) {
        rows.push(Row {
            counts,
            succeeded: succeeded - rows.iter().map(|row| row.succeeded).sum::<u64>(),
            cells: ["other callers".to_owned(), String::new(), String::new(), String::new()],
        });
    }
    let layout = Layout::of(&rows, total, succeeded, width);
    let heads = COUNT_HEADS.map(str::to_owned);
    layout.line(
        text,
        &heads.each_ref().map(|head| paint(color, FAINT, head)),
        &TEXT_HEADS.map(str::to_owned),
        |cell| paint(color, FAINT, cell).to_string(),
    )?;
    for row in &rows {
        let Counts { v1, v2, other, unknown } = row.counts;
        let mark = |count: u64, style| paint(color, if count > 0 { style } else { FAINT }, count);
        let plain = |count: u64| mark(count, PLAIN);
        let counts = [
            mark(v1, ALARM),
            mark(row.succeeded, ALARM),
            plain(v2),
            plain(other),
            mark(unknown, DOUBT),
        ];
        layout.line(text, &counts, &row.cells, str::to_owned)?;
    }
    Ok(())
}

struct Row {
    counts: Counts,
    /// Number of v1 calls that succeeded.
    succeeded: u64,
    cells: [String; 4],
}

impl Row {
    fn of(caller: &Caller) -> Self {
        let text = |text: Option<&str>, none: &str| foreign(text.unwrap_or(none), usize::MAX);
        let user = caller
            .user
            .name
            .clone()
            .or_else(|| caller.user.id.map(|id| id.to_string()));
        Self {
            counts: caller.counts,
            succeeded: caller.answers.succeeded,
            cells: [
                text(caller.program.as_deref(), "unknown process"),
                text(user.as_deref(), ""),
                text(caller.place.as_deref(), ""),
                text(caller.last_path.as_deref(), ""),
            ],
        }
    }
}

/// The widths of the columns.
struct Layout {
    count: [usize; COUNT_HEADS.len()],
    text: [usize; 4],
}

impl Layout {
    /// Each column is as wide as its longest cell. If the table exceeds `width`, caller and path get less.
    fn of(rows: &[Row], total: Counts, succeeded: u64, width: usize) -> Self {
        let Counts { v1, v2, other, unknown } = total;
        let mut count = [v1, succeeded, v2, other, unknown].map(|count| count.to_string().len());
        for (width, head) in count.iter_mut().zip(COUNT_HEADS) {
            *width = head.len().max(*width);
        }
        let mut text = TEXT_HEADS.map(str::len);
        for (index, width) in text.iter_mut().enumerate() {
            let longest = rows.iter().map(|row| columns(&row.cells[index])).max();
            // A column without a cell is left out.
            *width = longest.filter(|longest| *longest > 0).map_or(0, |it| it.max(*width));
        }
        let gaps = COUNT_HEADS.len() + text.iter().filter(|width| **width > 0).count();
        let [caller, user, place, path] = &mut text;
        *user = USER_WIDTH.min(*user);
        *place = (width / 5).max(TEXT_HEADS[2].len()).min(*place);
        let fixed = count.iter().sum::<usize>() + *user + *place + gaps.saturating_sub(1) * GAP;
        let room = width.saturating_sub(fixed).max(2 * TEXT_WIDTH_MIN);
        if *caller + *path > room {
            *caller = (*caller).min((room / 2).max(room.saturating_sub(*path)));
            *path = (*path).min(room - *caller);
        }
        Self { count, text }
    }

    fn line<C: fmt::Display>(
        &self,
        out: &mut String,
        counts: &[C; COUNT_HEADS.len()],
        cells: &[String; 4],
        painted: impl Fn(&str) -> String,
    ) -> fmt::Result {
        for (count, width) in counts.iter().zip(self.count) {
            write!(out, "{count:>width$}{:GAP$}", "")?;
        }
        for (cell, width) in cells.iter().zip(self.text).filter(|(_, width)| *width > 0) {
            let cell = if cell.starts_with('/') {
                fit_path(cell, width)
            } else {
                fit(cell, width)
            };
            write!(out, "{}{:GAP$}", painted(&pad(&cell, width)), "")?;
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use imds_analyzer_ebpf::abi::Loss;

    use super::*;
    use crate::sink::tests::{full_event, golden, samples};

    fn summary() -> Summary {
        let mut summary = Summary::new();
        samples().iter().for_each(|event| summary.add(event));
        (0..1234).for_each(|_| summary.add(&full_event()));
        summary
    }

    #[test]
    fn table() {
        let loss = [(Loss::RequestRing, 3)].into_iter().collect();
        golden("summary.txt", &render(&summary(), 120, false, &loss));
        golden(
            "summary-empty.txt",
            &render(&Summary::new(), 120, false, &Ledger::default()),
        );
    }

    #[test]
    fn fits_its_width() {
        for width in [80, 100, 120, 160] {
            let text = render(&summary(), width, false, &Ledger::default());
            assert!(text.lines().all(|line| columns(line) <= width), "{width}:\n{text}");
        }
    }
}
