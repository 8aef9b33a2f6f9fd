//! What a rehearsal broke, in words.

use std::fmt::Write as _;

use imds_analyzer_ebpf::abi::rehearsal::Passed;

use crate::{
    notice::{CallerOutcome, RehearsalOutcome},
    report::verdict::plural,
    sink::layout::foreign,
};

/// Longest name of a caller, in columns.
const WIDTH: usize = 100;

/// Why a call was let through.
const fn reason(passed: Passed) -> &'static str {
    match passed {
        Passed::SharedPacket => "in one packet with an earlier call",
        Passed::FastOpen => "sent with the SYN (TCP Fast Open)",
        Passed::Namespace => "in a network namespace that this process cannot enter",
        Passed::Device => "on a socket that is bound to a device",
        Passed::Multipath => "on a multipath TCP connection",
        Passed::Rewritten => "on a connection that netfilter rewrites",
        Passed::Uncounted => "on a connection from before the rehearsal",
        Passed::NotInTime => "before it knew of their processes, or while it was stopped",
    }
}

/// The summary for people.
pub fn text(outcome: &RehearsalOutcome) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_text(outcome, &mut text);
    text
}

fn write_text(outcome: &RehearsalOutcome, to: &mut String) -> std::fmt::Result {
    let verb = if outcome.dry_run {
        "would have refused"
    } else {
        "refused"
    };
    if let Some(why) = &outcome.ended_early {
        writeln!(to, "The rehearsal ended early: {}", foreign(why, WIDTH * 2))?;
    }
    if outcome.callers.is_empty() {
        writeln!(to, "It {verb} no call.")?;
    } else {
        let callers = plural(outcome.callers.len() as u64, "caller", "callers");
        writeln!(
            to,
            "It {verb} {} by {callers}:",
            plural(outcome.refused, "v1 call", "v1 calls")
        )?;
    }
    for caller in &outcome.callers {
        writeln!(to, "\n  {}", foreign(&caller.caller, WIDTH))?;
        writeln!(to, "    {}", calls(caller, outcome.dry_run))?;
        if !outcome.dry_run && caller.processes > 0 {
            writeln!(to, "    {}", fates(caller))?;
        }
    }
    if outcome.unanswered > 0 {
        let calls = plural(outcome.unanswered, "refused call", "refused calls");
        writeln!(
            to,
            "\n{calls} got no answer: the caller closed the connection first, or the rehearsal ended."
        )?;
    }
    if !outcome.let_through.is_empty() {
        let verb = if outcome.dry_run { "It would have let" } else { "It let" };
        writeln!(to, "\n{verb} v1 calls of chosen callers through:")?;
        for passed in Passed::ALL {
            if let Some(count) = outcome.let_through.get(passed.as_str()) {
                writeln!(to, "  {count} {}", reason(passed))?;
            }
        }
    }
    Ok(())
}

fn calls(caller: &CallerOutcome, dry_run: bool) -> String {
    let verb = if dry_run { "would have been refused" } else { "refused" };
    let processes = plural(caller.processes, "process", "processes");
    let mut text = format!("{} {verb}, {processes}", plural(caller.refused, "call", "calls"));
    if !dry_run {
        // Writing to a String does not fail.
        let _ = match caller.tried_again {
            0 => write!(text, "; none tried again"),
            count => write!(text, "; tried again {}", plural(count, "time", "times")),
        };
    }
    text
}

fn fates(caller: &CallerOutcome) -> String {
    let fates = [
        (caller.fell_back, "turned to v2"),
        (caller.exited, "exited within 10 s, without v2"),
        (caller.gave_up, "went on without v2"),
    ];
    let fates: Vec<_> = fates
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, fate)| {
            if caller.processes == 1 {
                fate.to_owned()
            } else {
                format!("{count} {fate}")
            }
        })
        .collect();
    fates.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_broke() {
        let outcome = RehearsalOutcome {
            refused: 6,
            unanswered: 1,
            let_through: [(Passed::Device.as_str().to_owned(), 2)].into(),
            callers: vec![
                CallerOutcome {
                    caller: "/opt/app/run.py app.service".to_owned(),
                    refused: 5,
                    processes: 3,
                    tried_again: 2,
                    fell_back: 1,
                    exited: 2,
                    gave_up: 0,
                },
                CallerOutcome {
                    caller: "evil\u{1b}[2J".to_owned(),
                    refused: 1,
                    processes: 1,
                    gave_up: 1,
                    ..CallerOutcome::default()
                },
            ],
            ..RehearsalOutcome::default()
        };
        let expected = "\
It refused 6 v1 calls by 2 callers:

  /opt/app/run.py app.service
    5 calls refused, 3 processes; tried again 2 times
    1 turned to v2, 2 exited within 10 s, without v2

  evil\\x1b[2J
    1 call refused, 1 process; none tried again
    went on without v2

1 refused call got no answer: the caller closed the connection first, or the rehearsal ended.

It let v1 calls of chosen callers through:
  2 on a socket that is bound to a device
";
        assert_eq!(text(&outcome), expected);
    }

    #[test]
    fn a_dry_run_says_what_would_have_happened() {
        let outcome = RehearsalOutcome {
            dry_run: true,
            refused: 1,
            callers: vec![CallerOutcome {
                caller: "curl".to_owned(),
                refused: 1,
                processes: 1,
                gave_up: 1,
                ..CallerOutcome::default()
            }],
            ..RehearsalOutcome::default()
        };
        assert_eq!(
            text(&outcome),
            "It would have refused 1 v1 call by 1 caller:\n\n  curl\n    1 call would have been refused, 1 process\n"
        );
    }
}
