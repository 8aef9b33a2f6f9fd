//! What was lost, in plain words.

use std::fmt::Write as _;

use imds_analyzer_ebpf::abi::Loss;

use super::layout;

/// Details that a record lacks though nothing on its way was lost: the process was gone or could not be looked at in time.
/// And connections that were followed in spare memory.
const NOTES: [&str; 5] = [
    Loss::SpareState.as_str(),
    "process_read_failures",
    "processes_unannounced",
    "container_names_overdue",
    "user_names_overdue",
];

/// Whether `kind` is a loss, and not a note on details.
pub(super) fn is_loss(kind: &str) -> bool {
    !NOTES.contains(&kind)
}

/// One sentence on what was lost of `counts` (kind and how many), and one on what is only to be noted, if there is anything.
pub fn describe(counts: &[(&str, u64)]) -> String {
    let lost = list(counts, is_loss);
    let notes = list(counts, |kind| !is_loss(kind));
    let lost = if lost.is_empty() {
        "Nothing lost.".to_owned()
    } else {
        format!("Lost: {lost}.")
    };
    if notes.is_empty() {
        lost
    } else {
        format!("{lost} Note: {notes}.")
    }
}

fn list(counts: &[(&str, u64)], wanted: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for &(kind, count) in counts.iter().filter(|&&(kind, count)| count > 0 && wanted(kind)) {
        text.push_str(if text.is_empty() { "" } else { "; " });
        // Writing to a String does not fail.
        let _ = match Loss::ALL.iter().find(|loss| loss.as_str() == kind) {
            Some(&loss) => write!(text, "{count} {}", words(loss, count == 1)),
            None => match user_space(kind, count == 1) {
                Some(words) => write!(text, "{count} {words}"),
                None => write!(text, "{count} × {}", layout::foreign(&kind.replace('_', " "), 60)),
            },
        };
    }
    text
}

/// The kinds that are counted outside the kernel.
fn user_space(kind: &str, one: bool) -> Option<&'static str> {
    Some(match (kind, one) {
        ("requests_without_process", true) => "request whose process is not known",
        ("requests_without_process", false) => "requests whose process is not known",
        ("socket_search_failures", true) => "look at an open connection refused",
        ("socket_search_failures", false) => "looks at open connections refused",
        ("late_heads", true) => "end of a request that had timed out",
        ("late_heads", false) => "ends of requests that had timed out",
        ("unfinished_heads_evicted", true) => "unfinished request given up early (too many were unfinished)",
        ("unfinished_heads_evicted", false) => "unfinished requests given up early (too many were unfinished)",
        ("early_heads_forgotten", true) => "request given up early that may be in a second record",
        ("early_heads_forgotten", false) => "requests given up early that may be in a second record",
        ("held_heads_evicted", true) => "request written before all changes of its bytes could be seen",
        ("held_heads_evicted", false) => "requests written before all changes of their bytes could be seen",
        ("process_read_failures", true) => "detail of a process that /proc refused",
        ("process_read_failures", false) => "details of processes that /proc refused",
        ("processes_unannounced", true) => "process known without its beginnings",
        ("processes_unannounced", false) => "processes known without their beginnings",
        ("container_names_overdue", true) => "name of a container that its runtime's files did not give in time",
        ("container_names_overdue", false) => "names of containers that their runtimes' files did not give in time",
        ("user_names_overdue", true) => "name of a user that the name service did not give in time",
        ("user_names_overdue", false) => "names of users that the name service did not give in time",
        ("log_requests_lost", true) => "request not written to the log",
        ("log_requests_lost", false) => "requests not written to the log",
        ("journald_requests_lost", true) => "request not written to the journal",
        ("journald_requests_lost", false) => "requests not written to the journal",
        ("stdout_requests_lost", true) => "request not written to stdout",
        ("stdout_requests_lost", false) => "requests not written to stdout",
        ("log_torn_lines", true) => "line of the log torn by a crash",
        ("log_torn_lines", false) => "lines of the log torn by crashes",
        ("first_seen_unannounced", true) => "caller not announced when it was first seen",
        ("first_seen_unannounced", false) => "callers not announced when they were first seen",
        ("recursion_misses", true) => "run of a hook left out by the kernel",
        ("recursion_misses", false) => "runs of hooks left out by the kernel",
        _ => return None,
    })
}

fn words(loss: Loss, one: bool) -> &'static str {
    match (loss, one) {
        (Loss::RequestRing, true) => "request not reported (buffer full)",
        (Loss::RequestRing, false) => "requests not reported (buffer full)",
        (Loss::OwnerRing, true) => "process reported with less detail (buffer full)",
        (Loss::OwnerRing, false) => "processes reported with less detail (buffer full)",
        (Loss::PendingRing, true) => "notice of an unfinished request (buffer full)",
        (Loss::PendingRing, false) => "notices of unfinished requests (buffer full)",
        (Loss::SocketState, true) => "packet of a connection that could not be followed (no memory for it)",
        (Loss::SocketState, false) => "packets of connections that could not be followed (no memory for them)",
        (Loss::GapBytes, true) => "byte of IMDS traffic not seen",
        (Loss::GapBytes, false) => "bytes of IMDS traffic not seen",
        (Loss::PacketBound, true) => "packet too long to be read whole",
        (Loss::PacketBound, false) => "packets too long to be read whole",
        (Loss::PacketShape, true) => "packet that could not be read",
        (Loss::PacketShape, false) => "packets that could not be read",
        (Loss::SenderQueue, true) => "change of sender not followed (the caller may be a wrong one)",
        (Loss::SenderQueue, false) => "changes of sender not followed (callers may be wrong ones)",
        (Loss::TaskRead, true) => "detail of a process that could not be read",
        (Loss::TaskRead, false) => "details of processes that could not be read",
        (Loss::ArgvRead, true) => "command line that could not be read whole",
        (Loss::ArgvRead, false) => "command lines that could not be read whole",
        (Loss::BudgetV1, true) => "v1 request counted only (over the user's budget)",
        (Loss::BudgetV1, false) => "v1 requests counted only (over their users' budgets)",
        (Loss::BudgetOther, true) => "other request counted only (over the user's budget)",
        (Loss::BudgetOther, false) => "other requests counted only (over their users' budgets)",
        (Loss::BudgetNotice, true) => "process reported with less detail (over the user's budget)",
        (Loss::BudgetNotice, false) => "processes reported with less detail (over their users' budgets)",
        (Loss::SendState, true) => "send not followed (no memory or buffer for it)",
        (Loss::SendState, false) => "sends not followed (no memory or buffer for them)",
        (Loss::SpareState, true) => "connection followed in spare memory (its own was full)",
        (Loss::SpareState, false) => "connections followed in spare memory (their own was full)",
        (Loss::SenderNotes, true) => "request whose sender was forgotten (who connected is named)",
        (Loss::SenderNotes, false) => "requests whose senders were forgotten (who connected is named)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_was_lost() {
        assert_eq!(describe(&[]), "Nothing lost.");
        assert_eq!(describe(&[("request_ring_full", 0)]), "Nothing lost.");
        assert_eq!(
            describe(&[("request_ring_full", 2), ("gap_bytes", 1), ("decode_error", 3)]),
            "Lost: 2 requests not reported (buffer full); 1 byte of IMDS traffic not seen; 3 × decode error."
        );
    }

    #[test]
    fn details_are_noted_and_not_lost() {
        assert_eq!(
            describe(&[("process_read_failures", 1)]),
            "Nothing lost. Note: 1 detail of a process that /proc refused."
        );
        assert_eq!(
            describe(&[
                ("processes_unannounced", 2),
                ("gap_bytes", 2),
                ("container_names_overdue", 1)
            ]),
            "Lost: 2 bytes of IMDS traffic not seen. Note: 2 processes known without their beginnings; 1 name of a container that \
             its runtime's files did not give in time."
        );
        for kind in NOTES {
            for count in [1, 2] {
                let text = describe(&[(kind, count)]);
                assert!(
                    text.starts_with("Nothing lost. Note: ") && !text.contains(kind),
                    "{text}"
                );
            }
        }
    }
}
