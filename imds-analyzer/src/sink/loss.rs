//! What was lost, in plain words.

use std::fmt::Write as _;

use imds_analyzer_ebpf::abi::Loss;

use super::layout;

/// One sentence on `counts` (kind and how many).
pub fn describe(counts: &[(&str, u64)]) -> String {
    let mut text = String::new();
    for &(kind, count) in counts.iter().filter(|&&(_, count)| count > 0) {
        text.push_str(if text.is_empty() { "Lost: " } else { "; " });
        // Writing to a String does not fail.
        let _ = match Loss::ALL.iter().find(|loss| loss.as_str() == kind) {
            Some(&loss) => write!(text, "{count} {}", words(loss, count == 1)),
            None => match user_space(kind, count == 1) {
                Some(words) => write!(text, "{count} {words}"),
                None => write!(text, "{count} × {}", layout::foreign(&kind.replace('_', " "), 60)),
            },
        };
    }
    if text.is_empty() {
        return "Nothing lost.".to_owned();
    }
    text.push('.');
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
        (Loss::SocketState, true) => "connection not followed (no memory for it)",
        (Loss::SocketState, false) => "connections not followed (no memory for them)",
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
}
