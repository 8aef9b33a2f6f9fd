//! The kinds of loss, with their names and texts.

use imds_analyzer_ebpf::abi::Loss;
use serde::{Deserialize, Serialize};

/// The texts about a kind.
struct Entry {
    name: &'static str,
    class: Class,
    one: &'static str,
    many: &'static str,
    meaning: &'static str,
}

/// The class of a kind: real loss, or only worth a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A record, or a part of one, is missing.
    Loss,
    /// No record was lost: a process was gone or could not be read in time, or spare memory was used.
    Note,
}

impl Class {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Note => "note",
        }
    }
}

/// Makes [`Kind`] and its table from one list: `VARIANT: CLASS, name, singular, plural, meaning`.
macro_rules! kinds {
    (
        kernel { $($kernel:ident: $kernel_class:ident, $kernel_name:literal, $kernel_one:literal, $kernel_many:literal, $kernel_meaning:literal;)+ }
        user { $($user:ident: $user_class:ident, $user_name:literal, $user_one:literal, $user_many:literal, $user_meaning:literal;)+ }
    ) => {
        /// A kind of loss. The order is the order of documents and records.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "&'static str", from = "String")]
        pub enum Kind {
            /// Counted by the kernel side.
            Kernel(Loss),
            $(#[doc = $user_meaning] $user,)+
        }

        impl Kind {
            /// Every kind, in order.
            pub const ALL: &[Self] = &[$(Self::Kernel(Loss::$kernel),)+ $(Self::$user,)+];

            const fn entry(self) -> Entry {
                match self {
                    $(Self::Kernel(Loss::$kernel) => Entry {
                        name: $kernel_name,
                        class: Class::$kernel_class,
                        one: $kernel_one,
                        many: $kernel_many,
                        meaning: $kernel_meaning,
                    },)+
                    $(Self::$user => Entry {
                        name: $user_name,
                        class: Class::$user_class,
                        one: $user_one,
                        many: $user_many,
                        meaning: $user_meaning,
                    },)+
                }
            }
        }
    };
}

kinds! {
    kernel {
        RequestRing: Loss, "request_ring_full",
            "request not reported (buffer full)",
            "requests not reported (buffer full)",
            "The kernel's buffer had no room for a request, which is in no record.";
        OwnerRing: Loss, "owner_ring_full",
            "process reported with less detail (buffer full)",
            "processes reported with less detail (buffer full)",
            "The kernel's buffer had no room for the description of a process: records of its requests have less detail.";
        PendingRing: Loss, "pending_ring_full",
            "notice of an unfinished request dropped (buffer full)",
            "notices of unfinished requests dropped (buffer full)",
            "The kernel's buffer had no room for the notice of an unfinished request, which is in no record if it never ends.";
        SocketState: Loss, "socket_state",
            "packet of an untracked connection (no memory to track it)",
            "packets of untracked connections (no memory to track them)",
            "There was no memory to track a connection: its requests are `unknown`, reason `no-state`.";
        GapBytes: Loss, "gap_bytes",
            "byte of IMDS traffic not seen",
            "bytes of IMDS traffic not seen",
            "Bytes of a connection passed without being seen: the request they belong to is `unknown`, reason `gap`, and requests wholly within them are in no record.";
        PacketBound: Loss, "packet_bound",
            "packet not read to its end (too long, or too many requests in it)",
            "packets not read to their ends (too long, or too many requests in them)",
            "A packet held more bytes or requests than are read of one; the rest counts as `gap_bytes`.";
        PacketShape: Loss, "packet_shape",
            "packet that could not be read as TCP",
            "packets that could not be read as TCP",
            "The headers of a packet to IMDS could not be read; its bytes count as `gap_bytes` when the next packet comes.";
        SenderQueue: Loss, "sender_queue",
            "change of sender not tracked (a request may name the wrong process)",
            "changes of sender not tracked (requests may name the wrong process)",
            "Senders took turns on one connection faster than is tracked: a request may name a process that sent before or after it.";
        TaskRead: Loss, "task_read",
            "process detail that could not be read in the kernel",
            "process details that could not be read in the kernel",
            "A field of a process could not be read in the kernel and is left out.";
        ArgvRead: Loss, "argv_read",
            "command line that could not be read in the kernel",
            "command lines that could not be read in the kernel",
            "A process's arguments were not in memory when it called: they are read from `/proc` if the process is still there.";
        BudgetV1: Loss, "budget_v1",
            "v1 request counted but not reported (over its user's budget)",
            "v1 requests counted but not reported (over their users' budgets)",
            "A v1 request over its user's budget (`limits.kernel_rate`) is counted here and is in no record.";
        BudgetOther: Loss, "budget_other",
            "other request counted but not reported (over its user's budget)",
            "other requests counted but not reported (over their users' budgets)",
            "Any other request over its user's budget (`limits.kernel_rate`) is counted here and is in no record.";
        BudgetNotice: Loss, "budget_notice",
            "process or unfinished request reported with less detail (over its user's budget)",
            "processes or unfinished requests reported with less detail (over their users' budgets)",
            "The description of a process or the notice of an unfinished request was over its user's budget (`limits.kernel_rate`) and was not sent.";
        SendState: Loss, "send_state",
            "send not followed (no memory or buffer space)",
            "sends not followed (no memory or buffer space)",
            "The send tap had no memory to follow a send, or no buffer space to hand it over: a gap in its connection.";
        SpareState: Note, "spare_state",
            "connection tracked in spare memory (its own was full)",
            "connections tracked in spare memory (their own was full)",
            "The socket's own memory had no room for what is known of its connection, which was tracked in spare memory instead.";
        SenderNotes: Loss, "sender_notes",
            "request whose sender was forgotten (the process that connected is named)",
            "requests whose senders were forgotten (the processes that connected are named)",
            "Notes on who sends on a connection were pushed out by those on others: its requests name the process that connected.";
        AnswerRing: Loss, "answer_ring_full",
            "answer not reported (buffer full)",
            "answers not reported (buffer full)",
            "The kernel's buffer had no room for an answer: its request has `imds.answer` `unseen`.";
        AnswerState: Note, "answer_state",
            "connection whose answers were not followed (no memory)",
            "connections whose answers were not followed (no memory)",
            "There was no memory to follow the answers on a connection: its requests have `imds.answer` `unseen`.";
        AnswerStreams: Note, "answer_streams",
            "connection on which answers were no longer told apart",
            "connections on which answers were no longer told apart",
            "Packets came out of order, or what came was not HTTP: requests after that have `imds.answer` `unseen`.";
        AttemptRing: Loss, "attempt_ring_full",
            "connection without a request not reported (buffer full)",
            "connections without a request not reported (buffer full)",
            "The kernel's buffer had no room for a connection that ended without a request: it has no `imds-attempt` record.";
        RefusalRing: Loss, "refusal_ring_full",
            "notice of a rehearsal dropped (buffer full)",
            "notices of a rehearsal dropped (buffer full)",
            "The kernel's buffer had no room for a notice of `imds-analyzer rehearse`: a call passed instead of being refused, or its connection ended later.";
    }
    user {
        RecursionMisses: Loss, "recursion_misses",
            "run of a hook skipped by the kernel",
            "runs of hooks skipped by the kernel",
            "The kernel skipped a program that was already running on that CPU: what it would have seen is in no record.";
        KprobeMisses: Loss, "kprobe_misses",
            "run of a kprobe skipped by the kernel",
            "runs of kprobes skipped by the kernel",
            "The kernel skipped a kprobe of the send tap; a skipped return shows as a gap. Kernels before 5.14 also count reads of memory that was not there.";
        PerfRecords: Loss, "perf_records",
            "record dropped by the kernel (buffer full)",
            "records dropped by the kernel (buffer full)",
            "A perf buffer of the send tap was full: every connection may have a gap there.";
        SendGaps: Loss, "send_gaps",
            "gap in what was sent on a connection",
            "gaps in what was sent on connections",
            "Sends, or parts of sends, did not reach the send tap: a request in the gap is `unknown`, reason `gap`, or in no record.";
        SendsChanged: Loss, "sends_changed",
            "send whose bytes were changed by the sender",
            "sends whose bytes were changed by the sender",
            "The sender changed the bytes during the send, or between two transmissions: the request is `unknown`, reason `changed`.";
        SendsUnreadable: Loss, "sends_unreadable",
            "send whose bytes could not be read",
            "sends whose bytes could not be read",
            "The bytes were in no memory of the sender that can be read (sendfile, splice): the request is `unknown`, reason `unreadable`.";
        ConnectionsGivenUp: Loss, "connections_given_up",
            "connection dropped (too many were open)",
            "connections dropped (too many were open)",
            "More connections were open than the send tap tracks: requests that had begun on this one are `unknown`, reason `no-state`.";
        DecodeShort: Loss, "decode_short",
            "record from the kernel cut short",
            "records from the kernel cut short",
            "A record from the kernel side was too short, which is a defect: please report it.";
        DecodeKind: Loss, "decode_kind",
            "record from the kernel of an unknown kind",
            "records from the kernel of an unknown kind",
            "A record from the kernel side was of an unknown kind, which is a defect: please report it.";
        DecodeData: Loss, "decode_data",
            "record from the kernel with a wrong length",
            "records from the kernel with wrong lengths",
            "A record from the kernel side claimed more data than it had, which is a defect: please report it.";
        RequestsWithoutProcess: Loss, "requests_without_process",
            "request without a known process",
            "requests without a known process",
            "Nothing tells which process sent a request: its record names none.";
        LateHeads: Loss, "late_heads",
            "request that ended after it was reported as unfinished",
            "requests that ended after they were reported as unfinished",
            "The end of a request came after it had been reported `unknown` (`timeout`, `unfinished`): it has that one record.";
        UnfinishedHeadsEvicted: Loss, "unfinished_heads_evicted",
            "unfinished request reported early (too many were unfinished)",
            "unfinished requests reported early (too many were unfinished)",
            "Too many requests were unfinished: the oldest of the user who had most was reported `unknown`, reason `unfinished`, before its 30 seconds were over.";
        EarlyHeadsForgotten: Loss, "early_heads_forgotten",
            "request reported early that may have a second record",
            "requests reported early that may have second records",
            "Too many requests were reported before they ended to remember this one: should it end, it has a second record.";
        HeldHeadsEvicted: Loss, "held_heads_evicted",
            "request written before later changes of its bytes could be seen",
            "requests written before later changes of their bytes could be seen",
            "Too many requests in memory that their senders can still change were held back: this one was written early, and a change that is seen later has a record of its own.";
        AnswersEvicted: Loss, "answers_evicted",
            "request written before its answer came (too many were waiting)",
            "requests written before their answers came (too many were waiting)",
            "Too many requests of one user, or of all, waited for their answers: this one was written early, with `imds.answer` `unseen`.";
        LateAnswers: Note, "late_answers",
            "answer that came after its request was written",
            "answers that came after their requests were written",
            "An answer came more than 5 seconds after its request, which has `imds.answer` `none`, or after the request was written early.";
        SocketSearchFailures: Loss, "socket_search_failures",
            "failed look-up in the search for an open connection's process",
            "failed look-ups in searches for open connections' processes",
            "A thread, an open file or a network namespace could not be looked at in a search for the process behind a connection that is older than the tool.";
        ProcessReadFailures: Note, "process_read_failures",
            "process detail that could not be read from /proc",
            "process details that could not be read from /proc",
            "`/proc` refused a detail of a process that was still there; the record lacks it.";
        ProcessesUnannounced: Note, "processes_unannounced",
            "process first seen after it had connected",
            "processes first seen after they had connected",
            "A process was not described by the kernel side before its request: the record has what `/proc` still knew.";
        ContainerNamesOverdue: Note, "container_names_overdue",
            "container name not found in time",
            "container names not found in time",
            "The container runtime's files did not answer in time: the record lacks the container's name.";
        UserNamesOverdue: Note, "user_names_overdue",
            "user name not found in time",
            "user names not found in time",
            "The name service did not answer in time: the record lacks the user's name.";
        LogRequestsLost: Loss, "log_requests_lost",
            "request not written to the log",
            "requests not written to the log",
            "The log file could not be written, and its queue was full: the request is missing there.";
        LogNoticesLost: Loss, "log_notices_lost",
            "record other than a request not written to the log",
            "records other than requests not written to the log",
            "The log file could not be written, and its queue was full: a record that stands for no request is missing there.";
        LogTornLines: Loss, "log_torn_lines",
            "line of the log torn by a crash",
            "lines of the log torn by crashes",
            "A crash left half a line at the end of the log file: it was cut off when the file was opened again.";
        JournaldRequestsLost: Loss, "journald_requests_lost",
            "request not written to the journal",
            "requests not written to the journal",
            "The journal did not take entries, and its queue was full: the request is missing there.";
        JournaldNoticesLost: Loss, "journald_notices_lost",
            "record other than a request not written to the journal",
            "records other than requests not written to the journal",
            "The journal did not take entries, and its queue was full: a record that stands for no request is missing there.";
        StdoutRequestsLost: Loss, "stdout_requests_lost",
            "request not written to stdout",
            "requests not written to stdout",
            "Standard output could not be written, and its queue was full: the request is missing there.";
        StdoutNoticesLost: Loss, "stdout_notices_lost",
            "record other than a request not written to stdout",
            "records other than requests not written to stdout",
            "Standard output could not be written, and its queue was full: a record that stands for no request is missing there.";
        FirstSeenUnannounced: Loss, "first_seen_unannounced",
            "new caller without a first-seen record",
            "new callers without first-seen records",
            "One user made first calls as more callers than are remembered: this one has no `imds-analyzer-first-seen` record.";
        Unrecognized: Loss, "unrecognized",
            "loss of a kind unknown to this version",
            "losses of kinds unknown to this version",
            "A loss record of a newer version was read that names a kind unknown to this one. Never written by the version that lost it.";
    }
}

impl Kind {
    /// The name in records and metrics.
    pub const fn name(self) -> &'static str {
        self.entry().name
    }

    /// The class of the kind.
    pub const fn class(self) -> Class {
        self.entry().class
    }

    /// A phrase for people that follows `count`.
    pub const fn words(self, count: u64) -> &'static str {
        let entry = self.entry();
        if count == 1 { entry.one } else { entry.many }
    }

    /// One sentence in Markdown: how this happens and how it affects records.
    pub const fn meaning(self) -> &'static str {
        self.entry().meaning
    }
}

impl From<Loss> for Kind {
    fn from(loss: Loss) -> Self {
        Self::Kernel(loss)
    }
}

impl From<Kind> for &'static str {
    fn from(kind: Kind) -> Self {
        kind.name()
    }
}

impl From<String> for Kind {
    /// The kind of this name. A name that a newer version introduced becomes [`Kind::Unrecognized`], so that its count
    /// is kept.
    fn from(name: String) -> Self {
        let mut all = Self::ALL.iter().copied();
        all.find(|kind| kind.name() == name).unwrap_or(Self::Unrecognized)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_fit_a_metric() {
        let names: HashSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        for name in names {
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "{name}"
            );
        }
    }

    #[test]
    fn the_list_has_the_order_of_the_kinds() {
        assert!(Kind::ALL.is_sorted());
    }

    #[test]
    fn names_are_read_back() {
        for &kind in Kind::ALL {
            assert_eq!(Kind::from(kind.name().to_owned()), kind);
        }
        assert_eq!(Kind::from("of_the_future".to_owned()), Kind::Unrecognized);
    }

    #[test]
    fn words_and_sentences_are_complete() {
        for kind in Kind::ALL {
            assert_ne!(kind.words(1), kind.words(2), "{}", kind.name());
            assert!(kind.meaning().ends_with('.'), "{}", kind.name());
            // The texts are used in a Markdown table and in a list with semicolons.
            assert!(!kind.meaning().contains('|') && !kind.words(1).contains([';', '_']));
        }
    }
}
