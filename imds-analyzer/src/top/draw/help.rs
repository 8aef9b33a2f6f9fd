//! The keys.

use super::{Line, Span};
use crate::{
    sink::layout::{FAINT, PLAIN, STRONG, columns, wrap},
    top::{
        keys::Mode,
        trail::{CALLS, Rates},
    },
};

/// The keys of a mode that fit into a line, the most useful first.
pub(super) fn keys(mode: Mode, width: usize) -> Line {
    let keys: &[(&str, &str)] = match mode {
        Mode::Table | Mode::Filter => &[
            ("q", "leave"),
            ("Enter", "open"),
            ("?", "help"),
            ("/", "filter"),
            ("s", "sort"),
            ("p", "pause"),
            ("w", "write"),
        ],
        Mode::Caller => &[
            ("q", "back"),
            ("↑↓", "scroll"),
            ("p", "pause"),
            ("w", "write"),
            ("?", "help"),
        ],
        Mode::Help => &[("q", "back"), ("↑↓", "scroll")],
    };
    let mut line: Vec<Span> = Vec::new();
    let mut taken = 0;
    for (key, what) in keys {
        let needed = columns(key) + columns(what) + 3;
        if taken + needed > width + 2 {
            break;
        }
        taken += needed;
        line.push(((*key).to_owned(), STRONG));
        line.push((format!(" {what}  "), FAINT));
    }
    line
}

/// What keys and columns mean.
pub(super) fn lines(width: usize) -> Vec<Line> {
    const KEY: usize = 12;
    let cell = Rates::CELL.as_secs();
    let texts = [
        ("Keys", String::new()),
        ("↑ ↓ j k", "select a caller; in a caller, scroll; also PgUp, PgDn, Home, End".to_owned()),
        ("Enter", "show one caller: who it is, its last calls, and what to change".to_owned()),
        ("/", "show only callers that contain a text, in name, user, unit, image, path, cause or remedy; Esc shows all".to_owned()),
        ("s", "change the order: v1, calls in the last minute, unknown, last call, caller".to_owned()),
        ("p", "pause the screen; calls are counted meanwhile; again: go on".to_owned()),
        ("w", "write the callers on the screen, with their last calls, to a JSON file in this directory".to_owned()),
        ("Ctrl-L", "draw all anew".to_owned()),
        ("Ctrl-Z", "stop, as elsewhere; fg goes on".to_owned()),
        ("q, Esc", "back; from the table: leave, and print the summary".to_owned()),
        ("", String::new()),
        ("Columns", String::new()),
        ("v1", "calls without a token, which IMDS refuses once tokens are required".to_owned()),
        ("v2", "calls with a token, and requests for one".to_owned()),
        ("other", "probes for another cloud".to_owned()),
        ("unknown", "calls that could not be judged; never assumed to be v1".to_owned()),
        ("calls in …", format!("each column is {cell} seconds, as high as its calls, of all versions")),
        ("v1 answers", "what came back of v1 calls: 200×40 is 40 times 200; 401: tokens are required here already, and the caller is broken; none: no answer; unseen: cannot be told".to_owned()),
        ("caller", "the script or executable; local: its calls went to an address of this host, such as a proxy or a mock".to_owned()),
        ("last path", "of the last v1 call or, without one, of the last call".to_owned()),
        ("cause", "why the last call had no token, or why its token was rejected".to_owned()),
        ("", String::new()),
        ("", format!("A narrow terminal has fewer columns; a caller has all facts, and its last {CALLS} calls.")),
    ];
    let mut lines = Vec::new();
    for (key, text) in texts {
        let mut label = key;
        let room = width.saturating_sub(KEY + 2).max(20);
        for part in wrap(&text, room) {
            let style = if part.is_empty() { PLAIN } else { STRONG };
            lines.push(vec![(format!("  {label:KEY$}"), style), (part, PLAIN)]);
            label = "";
        }
        if text.is_empty() && !key.is_empty() {
            lines.pop();
            lines.push(vec![(key.to_owned(), STRONG)]);
        }
    }
    lines
}
