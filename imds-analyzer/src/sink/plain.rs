//! Notices as one line of text, for the journal and text streams.

use std::fmt::Write as _;

use super::layout::foreign;
use crate::notice::{Folded, Notice, Watching};

/// Maximum columns of text from other processes.
const WIDTH: usize = 256;

/// One line, without a line end.
pub(super) fn describe(notice: &Notice<'_>) -> String {
    match notice {
        Notice::Start { kernel, hooks, .. } => {
            let mut text = format!(
                "imds-analyzer {} attached on {}:",
                env!("CARGO_PKG_VERSION"),
                foreign(kernel, WIDTH)
            );
            for hook in hooks.iter().filter(|hook| hook.attached) {
                text.push(' ');
                text.push_str(hook.name);
            }
            text
        }
        Notice::Watching(Watching { calls, ignored }) => {
            let mut text = format!(
                "still watching: {} v1, {} v2, {} other, {} unknown since the last time",
                calls.v1, calls.v2, calls.other, calls.unknown
            );
            if !ignored.is_empty() {
                // Writing to a String does not fail.
                let _ = write!(text, "; {} of them ignored, as configured", ignored.sum());
            }
            text
        }
        Notice::Loss(loss) => loss.to_string(),
        Notice::FirstSeen { event, first } => {
            let what = match (first.v1, first.credential) {
                (true, true) => "v1 call, for credentials",
                (true, false) => "v1 call",
                _ => "call for credentials",
            };
            let path = event.http.path.as_deref().unwrap_or("?");
            format!(
                "first {what} by {}: {}",
                foreign(event.caller(), WIDTH),
                foreign(path, WIDTH)
            )
        }
        Notice::Attempt(attempt) => format!(
            "connection without a call by {}: {} after {:.1} s",
            foreign(attempt.caller(), WIDTH),
            attempt.outcome.as_str(),
            attempt.duration.as_secs_f64()
        ),
        Notice::RateLimited(folded) => rate_limited(folded),
        Notice::Rehearsal(outcome) => format!(
            "rehearsal ends: {} v1 calls of {} callers refused",
            outcome.refused,
            outcome.callers.len()
        ),
        Notice::Summary { summary, loss } => {
            let total = summary.total(false);
            format!(
                "imds-analyzer ends: {} v1, {} v2, {} other, {} unknown. {loss}",
                total.v1, total.v2, total.other, total.unknown
            )
        }
    }
}

fn rate_limited(folded: &Folded) -> String {
    let counts = folded.counts;
    let mut text = format!("rate-limited: {} calls", counts.sum());
    // Writing to a String does not fail.
    let _ = write!(
        text,
        " ({} v1, {} v2, {} other, {} unknown) by {}",
        counts.v1,
        counts.v2,
        counts.other,
        counts.unknown,
        foreign(folded.caller.as_deref().unwrap_or("other callers"), WIDTH)
    );
    text
}
