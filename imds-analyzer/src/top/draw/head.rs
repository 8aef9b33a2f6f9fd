//! The head of the screen: where records come from, sums, and what else there is to know.

use std::time::SystemTime;

use super::{Line, Span, spread};
use crate::{
    record::writable,
    report::verdict::plural,
    sink::layout::{ALARM, CAUTION, DOUBT, FAINT, PLAIN, STRONG, columns, foreign},
    summary::{Answers, CALLERS_MAX, Counts},
    top::state::State,
};

const TITLE: &str = "imds-analyzer top";

/// The lines, each at most `width` columns or cut by the screen.
pub(super) fn lines(state: &State, width: usize) -> [Line; super::HEAD] {
    [title(state, width), sums(state), facts(state, width)]
}

fn title(state: &State, width: usize) -> Line {
    let note = if state.is_paused() {
        ("PAUSED".to_owned(), CAUTION)
    } else if let Some(note) = &state.note {
        (note.clone(), STRONG)
    } else {
        let last = state.seen().last.map(|last| format!("last call {} UTC", clock(last)));
        (last.unwrap_or_default(), FAINT)
    };
    let room = width.saturating_sub(TITLE.len() + columns(&note.0) + 4);
    let source = foreign(&state.source, room);
    spread(
        vec![(TITLE.to_owned(), STRONG), (format!("  {source}"), PLAIN)],
        note,
        width,
    )
}

/// Calls to the metadata service, and what came back of those without a token.
fn sums(state: &State) -> Line {
    let summary = &state.seen().summary;
    let Counts { v1, v2, other, unknown } = summary.total(false);
    let mut line = vec![
        (format!("v1 {v1}"), if v1 > 0 { ALARM } else { STRONG }),
        (format!("  v2 {v2}  other {other}  "), PLAIN),
        (format!("unknown {unknown}"), if unknown > 0 { DOUBT } else { PLAIN }),
    ];
    let Answers {
        succeeded,
        rejected,
        failed,
        none,
        unseen,
    } = summary.answers(false);
    let parts = [
        (succeeded, "succeeded"),
        (rejected, "rejected (401)"),
        (failed, "failed"),
        (none, "unanswered"),
        (unseen, "with unseen answer"),
    ];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if !parts.is_empty() {
        line.push((format!("   of v1: {}", parts.join(", ")), PLAIN));
    }
    line
}

/// Number and order of the callers, and what is not among the sums.
fn facts(state: &State, width: usize) -> Line {
    let seen = state.seen();
    let summary = &seen.summary;
    let all = seen.callers().count();
    let callers = plural(all as u64, "caller", "callers");
    let mut line = if state.filter.is_empty() {
        vec![(callers, STRONG)]
    } else {
        let shown = state.rows().len();
        vec![
            (format!("{shown} of {callers} with "), STRONG),
            (format!("\"{}\"", foreign(&state.filter, 20)), CAUTION),
        ]
    };
    line.push((format!(", sorted by {}", state.sort.as_str()), FAINT));
    let mut note = |count: u64, one: &str, many: &str, style| {
        if count > 0 {
            line.push((format!("  {}", plural(count, one, many)), style));
        }
    };
    let others = [false, true].map(|local| summary.other_callers(local).map_or(0, Counts::sum));
    let beyond = format!("calls of callers beyond the first {CALLERS_MAX}");
    note(others.iter().sum(), &beyond, &beyond, DOUBT);
    note(seen.unreadable, "unreadable line", "unreadable lines", DOUBT);
    note(
        seen.unknown_kinds,
        "record of a later version",
        "records of a later version",
        DOUBT,
    );
    let local = summary.total(true).sum();
    note(local, "call to this host itself", "calls to this host itself", PLAIN);
    note(
        summary.attempts(),
        "connection without a call",
        "connections without a call",
        PLAIN,
    );
    note(
        seen.foreign,
        "line of another program",
        "lines of other programs",
        FAINT,
    );
    let relayed = summary.relayed().map_or(0, Counts::sum);
    note(
        relayed,
        "call repeated by a network helper",
        "calls repeated by a network helper",
        FAINT,
    );
    spread(line, loss(state, width), width)
}

/// Losses are the first thing to be told: they may be calls.
fn loss(state: &State, width: usize) -> Span {
    let loss = state.seen().loss();
    let style = if loss.has_loss() { ALARM } else { FAINT };
    let text = loss.to_string();
    // The notes are no loss; the summary at the end has them.
    let text = text.split(" Note: ").next().unwrap_or_default().trim_end_matches('.');
    (foreign(text, width / 2), style)
}

/// The time of day.
pub(super) fn clock(time: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(writable(time)).to_string();
    time.get(11..19).unwrap_or(&time).to_owned()
}
