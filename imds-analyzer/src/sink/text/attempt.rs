//! The line of a connection that ended without a request.

use std::{fmt, time::Duration};

use super::{CAUTION, Line, PLAIN, Style, What, marks};
use crate::event::Attempt;

/// Printed in the column of the verdict.
const LABEL: &str = "attempt";

/// The line of `attempt`, without a line end.
pub(super) fn line(attempt: &Attempt, style: Style) -> impl fmt::Display + '_ {
    fmt::from_fn(move |f| {
        let process = attempt.process.as_deref();
        let duration = humantime::format_duration(millis(attempt.duration));
        let line = Line {
            time: attempt.time,
            label: (LABEL, CAUTION),
            status: (String::new(), PLAIN),
            what: What {
                word: format!("{} after {duration}", attempt.outcome.as_str()),
                path: None,
            },
            process,
            marks: marks::of_process(attempt.local, attempt.net_ns, process),
        };
        line.write(f, style)
    })
}

/// Rounds down to milliseconds, and to seconds above 10 s.
fn millis(duration: Duration) -> Duration {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(if millis > 10_000 { millis / 1000 * 1000 } else { millis })
}
