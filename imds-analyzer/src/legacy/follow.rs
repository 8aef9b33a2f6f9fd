//! The stream of one connection: bytes go through the classifier, heads come out as records.

use std::collections::VecDeque;

use imds_analyzer_ebpf::{
    abi::{
        Header, Loss, RecordKind, Request, Task,
        legacy::{PIECE_MAX, Send, send_flags},
        request_flags,
    },
    classify::{Classifier, Method, PathClass, Reason, Step, Verdict},
    follow::is_before,
    target,
};
use zerocopy::FromZeros as _;

use super::{Report, urgent::Urgent};
use crate::loss::Ledger;

/// Changes of sender remembered: a head may come from several, and packets may wait.
const SENDERS_MAX: usize = 64;

/// The state of one connection.
pub(super) struct Stream {
    sock: u64,
    /// The socket's, or a number in its place.
    cookie: u64,
    classifier: Box<Classifier>,
    /// Stream bytes before the next one; its sequence number where packets are seen.
    position: u32,
    senders: VecDeque<Sender>,
    /// Bytes were in pages of a sender, or may be in those of one that was forgotten.
    had_pages: bool,
    forgot_pages: bool,
    /// Who connected, if that was seen.
    connector: Task,
    endpoints: Endpoints,
    /// Where packets go, if that is seen.
    packet_destination: Option<([u8; 16], u16)>,
    flags: u16,
    /// The head of which an unfinished-notice was given, and whether with its request line.
    noted: Option<(u32, bool)>,
    /// Bytes that could not be read were reported, and the next ones are their continuation.
    continues: bool,
    urgent: Urgent,
    /// More may wait in the socket than an urgent pointer can tell of.
    is_far: bool,
}

/// The sender from a position on.
struct Sender {
    from: u32,
    task: Task,
    /// The bytes stay in pages that it can still write.
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
    /// Of packets, of which none has been seen.
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
        }
    }

    /// Of sends on the socket of `send`, which has no cookie that is known here; `connection` is a number in its place.
    pub(super) fn of_sends(send: &Send, connection: u64) -> Self {
        /// Marks such a number.
        const CONNECTION: u64 = 1 << 63;
        Self {
            sock: send.sock,
            flags: request_flags::SEND_TAP,
            ..Self::new(connection | CONNECTION)
        }
    }

    /// Notes who connected, as it was seen.
    pub(super) fn set_connector(&mut self, task: Task) {
        self.connector = task;
    }

    /// Notes the two ends as a send has them; a socket that was reset has no port any more.
    pub(super) fn note_endpoints(&mut self, send: &Send) {
        if send.source_port != 0 {
            self.endpoints = Endpoints::of(send);
        }
    }

    /// Another connection of the same socket.
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.cookie);
    }

    /// Its beginning was not seen: it is older, or has been given up before.
    pub(super) fn start_midstream(&mut self, reason: Reason) {
        self.classifier.join_midstream(reason);
        self.is_far = true;
        if reason == Reason::Midstream {
            self.flags |= request_flags::OLD_SOCKET;
        }
    }

    /// Its first packet is there, which has the byte `seq`.
    pub(super) fn start(&mut self, seq: u32, local: bool, endpoints: Endpoints, destination: ([u8; 16], u16)) {
        self.position = seq;
        // A send that began before it knows better.
        if self.sock == 0 {
            self.endpoints = endpoints;
        }
        self.packet_destination = Some(destination);
        self.flags |= if local { request_flags::LOCAL } else { 0 };
    }

    /// Where the next byte stands.
    pub(super) fn position(&self) -> u32 {
        self.position
    }

    /// From `seq` on `send` is what is sent, and its two ends are the socket's.
    pub(super) fn note(&mut self, send: &Send, seq: u32, counters: &mut Ledger) {
        self.sock = send.sock;
        self.note_endpoints(send);
        // Nothing was sent since, or it was not said: whoever comes later is it.
        while self.senders.back().is_some_and(|sender| sender.from == seq) {
            self.senders.pop_back();
        }
        self.sent_by(&send.task, send.flags, seq, counters);
    }

    /// It may have been anybody who sent what follows, and from any pages.
    pub(super) fn forget_all_senders(&mut self) {
        self.senders.clear();
        self.had_pages = true;
    }

    /// True where a head may begin.
    pub(super) fn is_between_heads(&self) -> bool {
        self.classifier.is_between_heads()
    }

    /// Reports the unfinished head, if there is one, because nothing more of the connection is followed.
    pub(super) fn give_up(&mut self, time: u64, report: &mut impl Report) -> bool {
        let unfinished = self.classifier.is_unfinished();
        if unfinished {
            self.report(RecordKind::Request, Some(Reason::NoState), time, report);
        }
        unfinished
    }

    /// `task` sends what follows, with [`send_flags`].
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

    /// True if bytes of it were in pages that their sender could still write, or may have been.
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

    /// The last of `len` bytes that come next is urgent, as their send says, unless TCP may take another byte for it: because
    /// they `waited` for room, or because too much may wait before them.
    pub(super) fn expect_urgent(&mut self, len: u32, waited: bool, time: u64, report: &mut impl Report) {
        /// An urgent pointer has 16 bits.
        const FAR: u32 = 0xffff;
        /// Bytes that may wait in a socket (`tcp_wmem`).
        const WAITING_MAX: u32 = 16 * 1024 * 1024;
        self.is_far |= self.position > FAR;
        if self.is_far {
            // What waits in the socket leaves with pointers that do not reach that far: bytes before it are taken for it.
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

    /// The byte at `position` is urgent, by what a packet says.
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

    /// Takes back the verdict on `len` bytes from `from` on: a receiver may have others.
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

    /// `missing` bytes of the stream cannot be judged. What may be in them is reported, once.
    pub(super) fn unseen(&mut self, missing: u32, reason: Reason, time: u64, report: &mut impl Report) {
        if !self.cut(missing, reason, time, report) && !self.continues {
            self.report_unseen(reason, time, report);
        }
        // A file of many pages is many sends.
        self.continues = missing as usize >= PIECE_MAX;
    }

    /// What comes next is no continuation of bytes that could not be read.
    pub(super) fn end_unseen(&mut self) {
        self.continues = false;
    }

    /// Reports the head in which `missing` bytes cannot be judged, if they are in one; `u32::MAX` if nobody knows how many.
    pub(super) fn cut(&mut self, missing: u32, reason: Reason, time: u64, report: &mut impl Report) -> bool {
        self.is_far |= missing == u32::MAX;
        self.urgent.gap(self.position, missing, &mut self.classifier);
        let cut = self.classifier.gap(missing) == Step::Head;
        if cut {
            self.report(RecordKind::Request, Some(reason), time, report);
        }
        self.position = self.position.wrapping_add(missing);
        cut
    }

    /// Nothing more comes.
    pub(super) fn close(&mut self, time: u64, report: &mut impl Report) {
        if self.classifier.close() == Step::Head {
            self.report(RecordKind::Request, None, time, report);
        }
        for _ in 0..self.urgent.hidden() {
            self.report_unseen(Reason::Urgent, time, report);
        }
    }

    /// Once at first, once with its request line, as the wire tap does.
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

    /// Reports the head that the classifier has read last; for another reason than its own if there is one.
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
        report(kind, &request, capture.get(..len).unwrap_or_default());
        self.forget_senders(begin);
    }

    /// Reports what nobody could read as one request.
    pub(super) fn report_unseen(&mut self, reason: Reason, time: u64, report: &mut impl Report) {
        let request = self.unknown(RecordKind::Request, self.position, reason, time);
        report(RecordKind::Request, &request, &[]);
    }

    /// A request in the place of bytes from `begin` on that nobody could read.
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
        // A host reaches its own addresses from themselves, unless the sender chose another.
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

    /// Who sent last, or who connected.
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

    /// Those who sent before `position` alone.
    fn forget_senders(&mut self, position: u32) {
        while self.senders.get(1).is_some_and(|next| !is_before(position, next.from)) {
            self.senders.pop_front();
        }
        // It stays before what follows, however much that is.
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
