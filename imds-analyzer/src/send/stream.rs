//! What one connection sends.

use std::{collections::VecDeque, mem};

use imds_analyzer_ebpf::{
    abi::{
        Header, Loss, RecordKind, Request, Task, request_flags,
        send::{PIECE_MAX, Send, send_flags},
    },
    classify::{Classifier, Method, PathClass, Reason, Step, Verdict},
    target,
};
use zerocopy::FromZeros as _;
use zeroize::Zeroizing;

use super::{Report, urgent::Urgent};
use crate::loss::{Kind, Ledger};

/// Changes of sender remembered: a head may come from several, and packets may wait.
const SENDERS_MAX: usize = 64;

/// An urgent pointer has 16 bits.
const FAR: u32 = 0xffff;
/// Bytes that may wait in a socket (`tcp_wmem`).
const WAITING_MAX: u32 = 16 * 1024 * 1024;

/// True if `one` is before `other` in a stream; at most 2 GiB are between the two.
pub(super) fn is_before(one: u32, other: u32) -> bool {
    one != other && other.wrapping_sub(one) <= i32::MAX as u32
}

/// The state of one connection.
pub(super) struct Stream {
    sock: u64,
    /// The socket's, or a number in its place.
    cookie: u64,
    classifier: Box<Classifier>,
    /// Stream bytes before the next one; its sequence number where packets are seen.
    position: u32,
    /// The send that ended last.
    number: u32,
    begun: Option<Begun>,
    senders: VecDeque<Sender>,
    /// Bytes were in pages of a sender, or may be in those of one that was forgotten.
    had_pages: bool,
    forgot_pages: bool,
    /// Who connected, if that was seen.
    connector: Task,
    ends: Ends,
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
    /// Records were lost since the last send, and whether a head that was cut by that has been reported.
    lost: Option<bool>,
}

/// The sender from a position on.
struct Sender {
    from: u32,
    task: Task,
    /// The bytes stay in pages that it can still write.
    pages: bool,
}

/// A send under way.
struct Begun {
    number: u32,
    task: Task,
    /// What was read at its begin, piece by piece with the place of each.
    pieces: Vec<(u32, Zeroizing<Vec<u8>>)>,
    /// Bytes of it that have been dealt with.
    taken: u32,
    /// It changed while it was sent.
    changed: bool,
}

/// The connection's two ends.
#[derive(Clone, Copy, Default)]
pub(super) struct Ends {
    pub(super) net_ns: u32,
    pub(super) family: u8,
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
    pub(super) source_port: u16,
}

impl Stream {
    /// A stream of sends; for the reason `joined` its beginning was not seen.
    pub(super) fn of_sends(send: &Send, connection: u64, joined: Option<Reason>) -> Self {
        /// Marks a number of ours in the place of a socket's cookie.
        const CONNECTION: u64 = 1 << 63;
        let mut stream = Self::new(connection | CONNECTION);
        stream.sock = send.sock;
        stream.flags = request_flags::SEND_TAP;
        if let Some(reason) = joined {
            stream.join(reason);
            stream.number = send.number.wrapping_sub(1);
        } else {
            stream.connector = send.task;
        }
        stream
    }

    /// Of packets, of which none has been seen.
    pub(super) fn new(cookie: u64) -> Self {
        Self {
            sock: 0,
            cookie,
            classifier: Box::new(Classifier::new()),
            position: 0,
            number: 0,
            begun: None,
            senders: VecDeque::new(),
            had_pages: false,
            forgot_pages: false,
            connector: Task::default(),
            ends: Ends::default(),
            packet_destination: None,
            flags: 0,
            noted: None,
            continues: false,
            urgent: Urgent::default(),
            is_far: false,
            lost: None,
        }
    }

    /// Another connection of the same socket.
    pub(super) fn restart(&mut self) {
        *self = Self::new(self.cookie);
    }

    /// Its beginning was not seen: it is older, or has been given up before.
    pub(super) fn join(&mut self, reason: Reason) {
        self.classifier.join_midstream(reason);
        self.is_far = true;
        if reason == Reason::Midstream {
            self.flags |= request_flags::OLD_SOCKET;
        }
    }

    /// Its first packet is there, which has the byte `seq`.
    pub(super) fn start(&mut self, seq: u32, local: bool, ends: Ends, destination: ([u8; 16], u16)) {
        self.position = seq;
        // A send that began before it knows better.
        if self.sock == 0 {
            self.ends = ends;
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
        if send.source_port != 0 {
            self.ends = Ends::of(send);
        }
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

    /// A piece of a send that begins.
    pub(super) fn begin(&mut self, send: &Send, data: &[u8], counters: &mut Ledger, report: &mut impl Report) {
        self.expect(send, counters, report);
        let task = send.task;
        let begun = self.begun.get_or_insert_with(|| Begun::new(send.number, task));
        if !data.is_empty() {
            begun.pieces.push((send.offset, Zeroizing::new(data.to_vec())));
        }
    }

    /// A piece of a send that has ended.
    pub(super) fn end(&mut self, send: &Send, data: &[u8], counters: &mut Ledger, report: &mut impl Report) {
        self.expect(send, counters, report);
        let mut begun = self.begun.take().unwrap_or_else(|| Begun::new(send.number, send.task));
        let time = send.header.time;
        if begun.taken == 0 && send.result > 0 {
            self.sent_by(&begun.task, send.flags, self.position, counters);
            self.expect_urgent(send, report);
        }
        if send.offset > begun.taken {
            counters.add(Kind::SendGaps, 1);
            self.unseen(send.offset - begun.taken, Reason::Gap, time, report);
        }
        if begun.has_other_than(send.offset, data) {
            counters.add(Kind::SendsChanged, u64::from(!mem::replace(&mut begun.changed, true)));
            self.unseen(data.len() as u32, Reason::Changed, time, report);
        } else {
            self.push(data, time, report);
        }
        if send.missing > 0 {
            // Behind the first piece it is what one send may be copied of that is over.
            let reason = if send.offset == 0 && data.is_empty() {
                counters.add(Kind::SendsUnreadable, 1);
                Reason::Unreadable
            } else {
                counters.add(Kind::SendGaps, 1);
                Reason::Gap
            };
            self.unseen(send.missing, reason, time, report);
        }
        begun.taken = send
            .offset
            .saturating_add(data.len() as u32)
            .saturating_add(send.missing);
        if i64::from(begun.taken) < i64::from(send.result) {
            self.begun = Some(begun);
            return;
        }
        self.number = send.number;
        self.note_unfinished(time, report);
    }

    /// Notices what was lost before this record.
    fn expect(&mut self, send: &Send, counters: &mut Ledger, report: &mut impl Report) {
        // A socket that was reset has no port any more.
        if send.source_port != 0 {
            self.ends = Ends::of(send);
        }
        if self.begun.as_ref().is_some_and(|begun| begun.number == send.number) {
            return;
        }
        let begun = self.begun.take();
        let last = begun.as_ref().map_or(self.number, |begun| begun.number);
        let is_next = send.number == last.wrapping_add(1);
        if begun.is_none() {
            if is_next {
                self.lost = None;
                return;
            }
            if send.number == 1 && self.lost.is_none() {
                // The kernel side had no room for its count, and has begun again: no send is missing.
                self.number = 0;
                if !self.classifier.is_between_heads() {
                    self.lost_sends(Reason::NoState, send.header.time, report);
                }
                return;
            }
        }
        counters.add(Kind::SendGaps, 1);
        self.number = send.number.wrapping_sub(1);
        let reason = if is_next { self.why_no_end() } else { Reason::Gap };
        self.lost_sends(reason, send.header.time, report);
    }

    /// The reason for a send without end: the record of it was lost, or the kernel side had no room for the send.
    fn why_no_end(&self) -> Reason {
        match self.lost {
            Some(_) => Reason::Gap,
            None => Reason::NoState,
        }
    }

    /// Sends were lost: what was in them is reported as one request, if it was not yet.
    fn lost_sends(&mut self, reason: Reason, time: u64, report: &mut impl Report) {
        let told = self.lost.take() == Some(true);
        if !self.cut(u32::MAX, reason, time, report) && !told {
            self.report_unseen(reason, time, report);
        }
        self.continues = false;
    }

    /// Records were lost: of this connection too, perhaps.
    pub(super) fn doubt(&mut self, time: u64, report: &mut impl Report) {
        let cut = self.cut(u32::MAX, Reason::Gap, time, report);
        self.lost = Some(cut || self.lost == Some(true));
    }

    /// It is closed, after as many sends as `send` says.
    pub(super) fn finish(&mut self, send: &Send, counters: &mut Ledger, report: &mut impl Report) {
        let time = send.header.time;
        if self.begun.take().is_some() {
            counters.add(Kind::SendGaps, 1);
            self.lost_sends(self.why_no_end(), time, report);
        } else if is_before(self.number, send.number) {
            counters.add(Kind::SendGaps, 1);
            self.lost_sends(Reason::Gap, time, report);
        }
        self.close(time, report);
    }

    /// There is no room for it any more.
    pub(super) fn give_up(&mut self, time: u64, report: &mut impl Report) {
        if self.classifier.is_unfinished() {
            self.report(RecordKind::Request, Some(Reason::NoState), time, report);
        } else if self.begun.is_some() {
            self.report_unseen(Reason::NoState, time, report);
        }
    }

    fn sent_by(&mut self, task: &Task, flags: u32, position: u32, counters: &mut Ledger) {
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

    /// The last byte of a send is urgent, if there is none that TCP may take for it.
    fn expect_urgent(&mut self, send: &Send, report: &mut impl Report) {
        if send.flags & send_flags::URGENT == 0 {
            return;
        }
        self.is_far |= self.position > FAR;
        if self.is_far {
            // What waits in the socket leaves with pointers that do not reach that far: bytes before it are taken for it.
            let from = self.position.wrapping_sub(WAITING_MAX.min(self.position));
            self.revoke(
                from,
                self.position.wrapping_sub(from),
                Reason::Urgent,
                send.header.time,
                report,
            );
        }
        if self.is_far || send.flags & send_flags::WAITED != 0 {
            self.urgent.give_up(&mut self.classifier);
        } else {
            let last = self.position.wrapping_add(send.result.unsigned_abs() - 1);
            self.urgent.expect(last, &mut self.classifier);
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

    /// Reports the head in which `missing` bytes cannot be judged, if they are in one; `u32::MAX` if nobody knows how many.
    fn cut(&mut self, missing: u32, reason: Reason, time: u64, report: &mut impl Report) -> bool {
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
    fn report_unseen(&mut self, reason: Reason, time: u64, report: &mut impl Report) {
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
        let ends = &self.ends;
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
        let local = ends.source == ends.destination;
        request.flags = self.flags | if local { request_flags::LOCAL } else { 0 };
        if self.has_pages(begin) {
            request.flags |= request_flags::SENDER_PAGES;
        }
        request.net_ns = ends.net_ns;
        request.family = ends.family;
        request.source = ends.source;
        request.source_port = ends.source_port;
        request.destination = ends.destination;
        request.destination_port = target::PORT;
        (request.packet_destination, request.packet_port) =
            self.packet_destination.unwrap_or((ends.destination, target::PORT));
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

impl Begun {
    fn new(number: u32, task: Task) -> Self {
        Self {
            number,
            task,
            pieces: Vec::new(),
            taken: 0,
            changed: false,
        }
    }

    /// Whether something else was there at the begin, in what was read then.
    fn has_other_than(&self, offset: u32, data: &[u8]) -> bool {
        let (start, end) = (offset as usize, offset as usize + data.len());
        self.pieces.iter().any(|(at, piece)| {
            let at = *at as usize;
            let (from, to) = (start.max(at), end.min(at + piece.len()));
            from < to && data.get(from - start..to - start) != piece.get(from - at..to - at)
        })
    }
}

impl Ends {
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
