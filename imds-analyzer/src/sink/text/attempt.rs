//! The line of a connection that ended without a request.

use std::fmt;

use super::{
    CAUTION, FAINT, STATUS_WIDTH, STRONG, Style, VERDICT_WIDTH, caller, chain, columns, marks, paint, request_widths,
    time,
};
use crate::event::Attempt;

/// What stands in the place of a verdict.
const LABEL: &str = "attempt";

/// The line of `attempt`, without a line end.
pub(super) fn line(attempt: &Attempt, style: Style) -> impl fmt::Display + '_ {
    fmt::from_fn(move |f| {
        let color = style.color;
        let time = time(attempt.time);
        let what = format!(
            "{} after {}",
            attempt.outcome.as_str(),
            humantime::format_duration(millis(attempt.duration))
        );
        let (width, _) = request_widths(style.width);
        let process = attempt.process.as_deref();
        let caller = caller(process);
        let marks = marks::of_process(attempt.local, attempt.net_ns, process);
        let taken =
            columns(&time) + VERDICT_WIDTH + STATUS_WIDTH + 1 + columns(&what).max(width) + columns(&caller) + 4;
        let taken = taken + marks.iter().map(|(_, text)| columns(text) + 1).sum::<usize>() + 1;
        let room = style.width.map_or(usize::MAX, |width| width.saturating_sub(taken));
        write!(f, "{} ", paint(color, FAINT, time))?;
        write!(f, "{} ", paint(color, CAUTION, format_args!("{LABEL:VERDICT_WIDTH$}")))?;
        write!(
            f,
            "{:STATUS_WIDTH$} {what:width$}  {}",
            "",
            paint(color, STRONG, caller)
        )?;
        if let Some(process) = process {
            write!(f, "{}", paint(color, FAINT, chain(&process.ancestors, room)))?;
        }
        marks::write(f, color, marks)
    })
}

/// Whole milliseconds, or seconds where those say enough.
fn millis(duration: std::time::Duration) -> std::time::Duration {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    std::time::Duration::from_millis(if millis > 10_000 { millis / 1000 * 1000 } else { millis })
}
