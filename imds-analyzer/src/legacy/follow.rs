//! The stream of one connection: feeds its bytes to the classifier and reports heads as records.

use std::collections::VecDeque;

use imds_analyzer_ebpf::{
    abi::{
        Header, Loss, RecordKind, Request, Task,
        exchange::Answer,
        legacy::{PIECE_MAX, Send, send_flags},
        request_flags,
    },
    classify::{Classifier, Method, PathClass, Reason, Step, Verdict},
    follow::is_before,
    target,
};
use zerocopy::FromZeros as _;

use super::{
    Report,
    replies::{Replies, Settled},
    urgent::Urgent,
};
use crate::loss::Ledger;

/// Maximum number of sender changes remembered: a head may have several senders, and packets may be delayed.
const SENDERS_MAX: usize = 64;

/// The state of one connection.
pub(super) struct Stream {
    sock: u64,
    /// The socket's cookie, or a number used instead.
    cookie: u64,
    classifier: Box<Classifier>,
    /// Position of the next byte: the number of bytes before it, or its sequence number if packets are seen.
    position: u32,
    senders: VecDeque<Sender>,
    /// True if bytes were in pages of a sender, or may have been in those of a sender that was forgotten.
    had_pages: bool,
    forgot_pages: bool,
    /// The process that connected, if that was seen.
    connector: Task,
    endpoints: Endpoints,
    /// Destination of the packets, if they are seen.
    packet_destination: Option<([u8; 16], u16)>,
    flags: u16,
    /// Start of the head that was reported as unfinished, and whether that report had the request line.
    noted: Option<(u32, bool)>,
    /// True if unreadable bytes were reported and the next unreadable bytes continue them.
    continues: bool,
    urgent: Urgent,
    /// True if more bytes may wait in the socket than an urgent pointer can span.
    is_far: bool,
    pub(super) replies: Replies,
}

/// The sender of the bytes from a position on.
struct Sender {
    from: u32,
    task: Task,
    /// True if the bytes stay in pages that the sender can still write.
    pages: bool,
}

/// The connection's two ends.
#[derive(Clone, Copy, Default)]
pub(super) struct Endpoints {
    pub(super) net_ns: u32,
    pub(super) family: u8,
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
    pub(super) source_port: u16,
}

impl Stream {
    /// A stream followed by packets, before the first packet.
    pub(super) fn new(cookie: u64) -> Self {
        Self {
            sock: 0,
            cookie,
            classifier: Box::new(Classifier::new()),
            position: 0,
            senders: VecDeque::new(),
            had_pages: false,
            forgot_pages: false,
            connector: Task::default(),
            endpoints: Endpoints::default(),
            packet_destination: None,
            flags: 0,
            noted: None,
            continues: false,
            urgent: Urgent::default(),
            is_far: false,
            replies: Replies::lost(),
        }
    }

    /// A stream followed by sends on the socket of `send`, whose cookie is unknown here; `connection` is a number used
    /// instead. `answers`: true if what the reader receives is seen.
    pub(super) fn of_sends(send: &Send, connection: u64, answers: bool) -> Self {
        /// Marks a number that is not a cookie.
        const CONNECTION: u64 = 1 << 63;
        Self {
            sock: send.sock,
            flags: request_flags::SEND_TAP,
            replies: if answers { Replies::default() } else { Replies::lost() },
            ..Self::new(connection | CONNECTION)
        }
    }

    pub(super) fn set_connector(&mut self, task: Task) {
        self.connector = task;
    }

    /// Notes the addresses and ports of a send. After a reset the socket has no port any more: then nothing changes.
    pub(super) fn note_endpoints(&mut self, send: &Send) {
        if send.source_port != 0 {
            self.endpoints = Endpoints::of(send);
        }
    }

    /// Starts another connection of the same socket.
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.cookie);
    }

    /// Starts in the middle: the connection is older than the tap, or was given up before.
    pub(super) fn start_midstream(&mut self, reason: Reason) {
        self.classifier.join_midstream(reason);
        self.is_far = true;
        if reason == Reason::Midstream {
            self.flags |= request_flags::OLD_SOCKET;
        }
    }

    /// Starts with the first packet, whose first byte is `seq`.
    pub(super) fn start(&mut self, seq: u32, local: bool, endpoints: Endpoints, destination: ([u8; 16], u16)) {
        self.position = seq;
        // The endpoints of a send that began before the packet are better.
        if self.sock == 0 {
            self.endpoints = endpoints;
        }
        self.packet_destination = Some(destination);
        self.flags |= if local { request_flags::LOCAL } else { 0 };
    }

    /// Position of the next byte.
    pub(super) fn position(&self) -> u32 {
        self.position
    }

    /// Notes that the bytes from `seq` on come from `send`, and takes its addresses and ports.
    pub(super) fn note(&mut self, send: &Send, seq: u32, counters: &mut Ledger) {
        self.sock = send.sock;
        self.note_endpoints(send);
        // Earlier senders at this position sent nothing, or their bytes were not reported: the latest one counts.
        while self.senders.back().is_some_and(|sender| sender.from == seq) {
            self.senders.pop_back();
        }
        self.sent_by(&send.task, send.flags, seq, counters);
    }

    /// Forgets all senders: any process may have sent the next bytes, from any pages.
    pub(super) fn forget_all_senders(&mut self) {
        self.senders.clear();
        self.had_pages = true;
    }

    /// True if the last head is unfinished.
    pub(super) fn is_in_head(&self) -> bool {
        self.classifier.is_unfinished()
    }

    /// News of an answer, as the modern object would send them.
    pub(super) fn news(&self, settled: Settled) -> Answer {
        let mut answer = Answer::new_zeroed();
        answer.header = Header {
            time: settled.received.time,
            kind: RecordKind::Answer as u16,
            data_len: 0,
            reserved: 0,
        };
        answer.sock = self.sock;
        answer.cookie = self.cookie;
        answer.index = settled.index;
        answer.status = settled.received.status;
        answer.news = settled.news as u8;
        answer
    }

    /// True if a head may begin here.
    pub(super) fn is_between_heads(&self) -> bool {
        self.classifier.is_between_heads()
    }

    /// Reports the unfinished head, if there is one, because the connection is no longer followed.
    pub(super) fn give_up(&mut self, time: u64, report: &mut impl Report) -> bool {
        let unfinished = self.classifier.is_unfinished();
        if unfinished {
            self.report(RecordKind::Request, Some(Reason::NoState), time, report);
        }
        unfinished
    }

    /// Notes that `task` sends the bytes from `position` on, with [`send_flags`].
    pub(super) fn sent_by(&mut self, task: &Task, flags: u32, position: u32, counters: &mut Ledger) {
        let pages = flags & send_flags::SENDER_PAGES != 0;
        self.had_pages |= pages;
        let last = self.senders.back();
        if last.is_some_and(|last| last.task == *task && last.pages == pages) {
            return;
        }
        if self.senders.len() == SENDERS_MAX {
            self.forgot_pages |= self.senders.pop_front().is_some_and(|sender| sender.pages);
            counters.add(Loss::SenderQueue, 1);
        }
        self.senders.push_back(Sender {
            from: position,
            task: *task,
            pages,
        });
    }

    /// True if bytes of the stream were, or may have been, in pages that their sender could still write.
    pub(super) fn had_pages(&self) -> bool {
        self.had_pages || self.forgot_pages
    }

    /// True if bytes from `begin` to here may be in pages that their sender can still write.
    pub(super) fn has_pages(&self, begin: u32) -> bool {
        let ends = self.senders.iter().skip(1).map(|next| Some(next.from)).chain([None]);
        let mut senders = self.senders.iter().zip(ends);
        self.forgot_pages
            || senders.any(|(sender, end)| {
                let begins = is_before(sender.from, self.position) || !is_before(begin, sender.from);
                sender.pages && begins && end.is_none_or(|end| is_before(begin, end))
            })
    }

    /// Notes that the last of the next `len` bytes is urgent, according to its send. Gives up if TCP may mark another
    /// byte: because the send `waited` for room, or because too many bytes may wait before it.
    pub(super) fn expect_urgent(&mut self, len: u32, waited: bool, time: u64, report: &mut impl Report) {
        /// An urgent pointer has 16 bits.
        const FAR: u32 = 0xffff;
        /// Bytes that may wait in a socket (`tcp_wmem`).
        const WAITING_MAX: u32 = 16 * 1024 * 1024;
        self.is_far |= self.position > FAR;
        if self.is_far {
            // Bytes that wait in the socket leave with pointers that do not reach the urgent byte: a receiver takes an
            // earlier byte for it.
            let waiting = WAITING_MAX.min(self.position);
            self.revoke(
                self.position.wrapping_sub(waiting),
                waiting,
                Reason::Urgent,
                time,
                report,
            );
        }
        if self.is_far || waited {
            self.urgent.give_up(&mut self.classifier);
        } else {
            self.urgent
                .expect(self.position.wrapping_add(len - 1), &mut self.classifier);
        }
    }

    /// Notes that a packet marks the byte at `position` as urgent.
    pub(super) fn urgent(&mut self, position: u32, time: u64, report: &mut impl Report) {
        if self.urgent.knows(position) {
            return;
        }
        if is_before(position, self.position) {
            self.revoke(position, 2, Reason::Urgent, time, report);
            self.urgent.give_up(&mut self.classifier);
        } else {
            self.urgent.expect(position, &mut self.classifier);
        }
    }

    /// Revokes the verdict on `len` bytes from `from` on: a receiver may have got other bytes.
    pub(super) fn revoke(&mut self, from: u32, len: u32, reason: Reason, time: u64, report: &mut impl Report) {
        let end = from.wrapping_add(len);
        let begin = if self.classifier.is_unfinished() {
            self.position.wrapping_sub(self.classifier.head().len)
        } else {
            self.position
        };
        if is_before(begin, end) {
            self.classifier.spoil(reason);
            if !self.urgent.is_spoiling() {
                self.classifier.end_spoil();
            }
        }
        if is_before(from, begin) {
            let mut request = self.unknown(RecordKind::Changed, from, reason, time);
            request.head_len = len;
            report(RecordKind::Changed, &request, &[]);
        }
    }

    pub(super) fn push(&mut self, data: &[u8], time: u64, report: &mut impl Report) {
        if !data.is_empty() {
            self.continues = false;
        }
        let mut rest = data;
        while let Some((&byte, behind)) = rest.split_first() {
            self.urgent.before(self.position, &mut self.classifier);
            let step = self.classifier.push(byte);
            let hidden = self.urgent.after(self.position, byte, step, &mut self.classifier);
            self.position = self.position.wrapping_add(1);
            rest = behind;
            if step == Step::Head {
                self.report(RecordKind::Request, None, time, report);
            }
            for _ in 0..hidden {
                self.report_unseen(Reason::Urgent, time, report);
            }
        }
    }

    /// Skips `missing` bytes of the stream that cannot be judged, and reports once what they may contain.
    pub(super) fn unseen(&mut self, missing: u32, reason: Reason, time: u64, report: &mut impl Report) {
        if !self.cut(missing, reason, time, report) && !self.continues {
            self.report_unseen(reason, time, report);
        }
        // A file of many pages arrives in many sends.
        self.continues = missing as usize >= PIECE_MAX;
    }

    /// Notes that the next bytes do not continue unreadable ones.
    pub(super) fn end_unseen(&mut self) {
        self.continues = false;
    }

    /// Skips `missing` bytes that cannot be judged, and reports the head that they are in, if any. `u32::MAX` if their
    /// number is unknown.
    pub(super) fn cut(&mut self, missing: u32, reason: Reason, time: u64, report: &mut impl Report) -> bool {
        self.is_far |= missing == u32::MAX;
        // Any number of requests may be among them.
        self.replies.doubt();
        self.urgent.gap(self.position, missing, &mut self.classifier);
        let cut = self.classifier.gap(missing) == Step::Head;
        if cut {
            self.report(RecordKind::Request, Some(reason), time, report);
        }
        self.position = self.position.wrapping_add(missing);
        cut
    }

    /// Ends the stream: no more bytes follow.
    pub(super) fn close(&mut self, time: u64, report: &mut impl Report) {
        if self.classifier.close() == Step::Head {
            self.report(RecordKind::Request, None, time, report);
        }
        for _ in 0..self.urgent.hidden() {
            self.report_unseen(Reason::Urgent, time, report);
        }
    }

    /// Reports an unfinished head: once when it is first seen, and once with its request line, like the wire tap.
    pub(super) fn note_unfinished(&mut self, time: u64, report: &mut impl Report) {
        if !self.classifier.is_unfinished() {
            return;
        }
        let begin = self.position.wrapping_sub(self.classifier.head().len);
        let line = self.classifier.has_request_line();
        if self
            .noted
            .is_some_and(|(noted, with_line)| noted == begin && with_line >= line)
        {
            return;
        }
        self.noted = Some((begin, line));
        self.report(RecordKind::Pending, None, time, report);
    }

    /// Reports the head that the classifier read last; `reason` replaces the head's own reason.
    fn report(&mut self, kind: RecordKind, reason: Option<Reason>, time: u64, report: &mut impl Report) {
        let head = self.classifier.head();
        let begin = self.position.wrapping_sub(head.len);
        let mut request = self.request(kind, begin, time);
        request.head_len = head.len;
        request.verdict = reason.map_or(head.verdict, |_| Verdict::Unknown) as u8;
        request.reason = reason.or(head.reason).map_or(0, |reason| reason as u8);
        request.method = head.method as u8;
        request.path_class = head.path_class as u8;
        request.facts = head.facts;
        let (capture, len) = self.classifier.capture();
        request.header.data_len = len as u16;
        if kind == RecordKind::Request {
            self.replies.number(&mut request);
        }
        report(kind, &request, capture.get(..len).unwrap_or_default());
        self.forget_senders(begin);
    }

    /// Reports unreadable bytes as one request.
    pub(super) fn report_unseen(&mut self, reason: Reason, time: u64, report: &mut impl Report) {
        let request = self.unknown(RecordKind::Request, self.position, reason, time);
        report(RecordKind::Request, &request, &[]);
    }

    /// A request that stands for unreadable bytes from `begin` on.
    fn unknown(&self, kind: RecordKind, begin: u32, reason: Reason, time: u64) -> Request {
        let mut request = self.request(kind, begin, time);
        if request.task.tgid == 0 {
            request.task = self.last_sender();
        }
        request.verdict = Verdict::Unknown as u8;
        request.reason = reason as u8;
        request.method = Method::Other as u8;
        request.path_class = PathClass::NotImds as u8;
        request
    }

    fn request(&self, kind: RecordKind, begin: u32, time: u64) -> Request {
        let endpoints = &self.endpoints;
        let mut request = Request::new_zeroed();
        request.header = Header {
            time,
            kind: kind as u16,
            data_len: 0,
            reserved: 0,
        };
        request.sock = self.sock;
        request.cookie = self.cookie;
        request.seq = begin;
        request.task = self.sender(begin);
        // A connection to one of the host's own addresses has the same source address, unless the sender chose another.
        let local = endpoints.source == endpoints.destination;
        request.flags = self.flags | if local { request_flags::LOCAL } else { 0 };
        if self.has_pages(begin) {
            request.flags |= request_flags::SENDER_PAGES;
        }
        request.net_ns = endpoints.net_ns;
        request.family = endpoints.family;
        request.source = endpoints.source;
        request.source_port = endpoints.source_port;
        request.destination = endpoints.destination;
        request.destination_port = target::PORT;
        (request.packet_destination, request.packet_port) =
            self.packet_destination.unwrap_or((endpoints.destination, target::PORT));
        request
    }

    /// The last sender, or the process that connected.
    pub(super) fn last_sender(&self) -> Task {
        self.senders.back().map_or(self.connector, |sender| sender.task)
    }

    /// The sender of the byte at `position`.
    fn sender(&self, position: u32) -> Task {
        let sender = self
            .senders
            .iter()
            .rev()
            .find(|sender| !is_before(position, sender.from));
        sender.map_or_else(Task::default, |sender| sender.task)
    }

    /// Forgets the senders whose bytes all come before `position`.
    fn forget_senders(&mut self, position: u32) {
        while self.senders.get(1).is_some_and(|next| !is_before(position, next.from)) {
            self.senders.pop_front();
        }
        // Move the start of the first sender forward, so that it compares as before all later bytes, however many
        // follow.
        if let Some(first) = self.senders.front_mut()
            && !is_before(position, first.from)
        {
            first.from = position;
        }
    }
}

impl Endpoints {
    fn of(send: &Send) -> Self {
        Self {
            net_ns: send.net_ns,
            family: send.family,
            source: send.source,
            destination: send.destination,
            source_port: u16::from_be(send.source_port),
        }
    }
}
