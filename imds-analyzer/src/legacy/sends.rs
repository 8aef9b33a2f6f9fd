//! Connections whose sends are read from the senders' memory.
//!
//! Bytes read from a sender's memory are provisional. Each send is read when it begins and again when it has ended.
//! Bytes that are equal both times are what was sent, differing ones are [`Reason::Changed`], and only as many bytes
//! count as the socket accepted. The bytes are wiped as soon as they have been compared.

use std::mem;

use imds_analyzer_ebpf::{
    abi::{
        Task,
        exchange::Answer,
        legacy::{Phase, Send, send_flags},
    },
    classify::Reason,
    follow::is_before,
};
use lru::LruCache;
use zeroize::Zeroizing;

use super::{Report, STREAMS_MAX, follow::Stream, replies::Received};
use crate::loss::{Kind, Ledger};

/// Connections followed by their sends.
pub(super) struct Sends {
    /// Connections by sock.
    connections: LruCache<u64, Connection>,
    /// Number of connections seen.
    seen: u64,
    /// True if what readers receive is seen.
    answers: bool,
    news: Vec<Answer>,
}

struct Connection {
    stream: Stream,
    /// Number of the last send that ended.
    number: u32,
    in_progress: Option<SendInProgress>,
    /// `Some` if records were lost since the last send; true if a head that this cut was reported.
    lost: Option<bool>,
}

/// A send that has begun but not ended.
struct SendInProgress {
    number: u32,
    task: Task,
    /// The bytes read at its begin: offset and content of each piece.
    pieces: Vec<(u32, Zeroizing<Vec<u8>>)>,
    /// Number of its bytes that have been handled.
    taken: u32,
    /// True if it changed while it was sent.
    changed: bool,
}

impl Sends {
    /// `answers`: true if what readers receive is seen.
    pub(super) fn new(answers: bool) -> Self {
        Self {
            connections: LruCache::new(STREAMS_MAX),
            seen: 0,
            answers,
            news: Vec::new(),
        }
    }

    /// The process that sent last on the socket of `send`, or that connected it.
    pub(super) fn last_sender(&self, send: &Send) -> Option<Task> {
        let connection = self.connections.peek(&send.sock)?;
        Some(connection.stream.last_sender())
    }

    /// Takes a piece of a send, or an event between sends.
    pub(super) fn take(
        &mut self,
        send: &Send,
        phase: Phase,
        data: &[u8],
        counters: &mut Ledger,
        report: &mut impl Report,
    ) {
        match phase {
            Phase::Connect => {
                self.close(send, counters, report);
                self.open(send, None, counters, report);
            }
            Phase::Begin => {
                // With MSG_FASTOPEN the first send connects: the socket has no peer yet.
                let connects = send.number == 1 && send.destination == [0; 16];
                if connects {
                    self.close(send, counters, report);
                }
                if !self.connections.contains(&send.sock) {
                    let joined = if send.number > 1 {
                        Reason::NoState
                    } else {
                        Reason::Midstream
                    };
                    self.open(send, (!connects).then_some(joined), counters, report);
                }
                if let Some(connection) = self.connections.get_mut(&send.sock) {
                    connection.begin(send, data, counters, report);
                }
            }
            Phase::End => {
                if !self.connections.contains(&send.sock) {
                    self.open(send, Some(Reason::NoState), counters, report);
                }
                if let Some(connection) = self.connections.get_mut(&send.sock) {
                    connection.end(send, data, counters, report);
                    self.news.extend(connection.sent());
                }
            }
            Phase::Shutdown => {
                if let Some(connection) = self.connections.get_mut(&send.sock) {
                    connection.stream.close(send.header.time, report);
                }
            }
            Phase::Close => self.close(send, counters, report),
            Phase::Received => {
                if let Some(connection) = self.connections.get_mut(&send.sock) {
                    self.news.extend(connection.received(send));
                }
            }
        }
    }

    /// News of answers since the last call.
    pub(super) fn take_news(&mut self) -> Vec<Answer> {
        mem::take(&mut self.news)
    }

    /// Adds a connection for a socket that has none here. `joined`: why its beginning was missed, if it was.
    fn open(&mut self, send: &Send, joined: Option<Reason>, counters: &mut Ledger, report: &mut impl Report) {
        self.seen += 1;
        let connection = Connection::new(send, self.seen, joined, self.answers);
        if let Some((sock, mut oldest)) = self.connections.push(send.sock, connection)
            && sock != send.sock
        {
            counters.add(Kind::ConnectionsGivenUp, 1);
            oldest.give_up(send.header.time, report);
            self.news.extend(oldest.lose_answers(send.header.time));
        }
    }

    fn close(&mut self, send: &Send, counters: &mut Ledger, report: &mut impl Report) {
        if let Some(mut connection) = self.connections.pop(&send.sock) {
            connection.finish(send, counters, report);
            let settled = connection.stream.replies.end(send.header.time);
            self.news.extend(settled.map(|settled| connection.stream.news(settled)));
        }
    }

    /// Handles the loss of records that no later record may reveal: any stream may have a gap.
    pub(super) fn lost(&mut self, time: u64, report: &mut impl Report) {
        for (_, connection) in &mut self.connections {
            connection.doubt(time, report);
            self.news.extend(connection.lose_answers(time));
        }
    }
}

impl Connection {
    /// The `count`-th connection. `joined`: why its beginning was missed, if it was.
    fn new(send: &Send, count: u64, joined: Option<Reason>, answers: bool) -> Self {
        let mut stream = Stream::of_sends(send, count, answers);
        let mut number = 0;
        if let Some(reason) = joined {
            stream.start_midstream(reason);
            number = send.number.wrapping_sub(1);
        } else {
            stream.set_connector(send.task);
        }
        Self {
            stream,
            number,
            in_progress: None,
            lost: None,
        }
    }

    /// Takes a piece of a send that begins.
    fn begin(&mut self, send: &Send, data: &[u8], counters: &mut Ledger, report: &mut impl Report) {
        self.expect(send, counters, report);
        let task = send.task;
        let in_progress = self
            .in_progress
            .get_or_insert_with(|| SendInProgress::new(send.number, task));
        if !data.is_empty() {
            in_progress.pieces.push((send.offset, Zeroizing::new(data.to_vec())));
        }
    }

    /// Takes a piece of a send that has ended.
    fn end(&mut self, send: &Send, data: &[u8], counters: &mut Ledger, report: &mut impl Report) {
        self.expect(send, counters, report);
        let mut ended = self
            .in_progress
            .take()
            .unwrap_or_else(|| SendInProgress::new(send.number, send.task));
        let time = send.header.time;
        let stream = &mut self.stream;
        if ended.taken == 0 && send.result > 0 {
            stream.sent_by(&ended.task, send.flags, stream.position(), counters);
            if send.flags & send_flags::URGENT != 0 {
                let waited = send.flags & send_flags::WAITED != 0;
                stream.expect_urgent(send.result.unsigned_abs(), waited, time, report);
            }
        }
        if send.offset > ended.taken {
            counters.add(Kind::SendGaps, 1);
            stream.unseen(send.offset - ended.taken, Reason::Gap, time, report);
        }
        if ended.differs_from(send.offset, data) {
            counters.add(Kind::SendsChanged, u64::from(!mem::replace(&mut ended.changed, true)));
            stream.unseen(data.len() as u32, Reason::Changed, time, report);
        } else {
            stream.push(data, time, report);
        }
        if send.missing > 0 {
            // Behind the first piece, the send exceeds what the kernel side copies of one send.
            let reason = if send.offset == 0 && data.is_empty() {
                counters.add(Kind::SendsUnreadable, 1);
                Reason::Unreadable
            } else {
                counters.add(Kind::SendGaps, 1);
                Reason::Gap
            };
            stream.unseen(send.missing, reason, time, report);
        }
        ended.taken = send
            .offset
            .saturating_add(data.len() as u32)
            .saturating_add(send.missing);
        if i64::from(ended.taken) < i64::from(send.result) {
            self.in_progress = Some(ended);
            return;
        }
        self.number = send.number;
        stream.note_unfinished(time, report);
    }

    /// Detects and handles records lost before this one.
    fn expect(&mut self, send: &Send, counters: &mut Ledger, report: &mut impl Report) {
        self.stream.note_endpoints(send);
        if self
            .in_progress
            .as_ref()
            .is_some_and(|begun| begun.number == send.number)
        {
            return;
        }
        let unended = self.in_progress.take();
        let last = unended.as_ref().map_or(self.number, |begun| begun.number);
        let is_next = send.number == last.wrapping_add(1);
        if unended.is_none() {
            if is_next {
                self.lost = None;
                return;
            }
            if send.number == 1 && self.lost.is_none() {
                // The kernel side had no room for this socket's count and started it again: no send is missing.
                self.number = 0;
                if !self.stream.is_between_heads() {
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

    /// The reason for a send without an end: its record was lost, or the kernel side had no room for the send.
    fn why_no_end(&self) -> Reason {
        match self.lost {
            Some(_) => Reason::Gap,
            None => Reason::NoState,
        }
    }

    /// Handles lost sends: reports their content as one request, unless it was reported before.
    fn lost_sends(&mut self, reason: Reason, time: u64, report: &mut impl Report) {
        let told = self.lost.take() == Some(true);
        if !self.stream.cut(u32::MAX, reason, time, report) && !told {
            self.stream.report_unseen(reason, time, report);
        }
        self.stream.end_unseen();
    }

    /// Handles lost records, which may have belonged to this connection.
    fn doubt(&mut self, time: u64, report: &mut impl Report) {
        let cut = self.stream.cut(u32::MAX, Reason::Gap, time, report);
        self.lost = Some(cut || self.lost == Some(true));
    }

    /// Ends a connection that was closed after `send.number` sends.
    fn finish(&mut self, send: &Send, counters: &mut Ledger, report: &mut impl Report) {
        let time = send.header.time;
        if self.in_progress.take().is_some() {
            counters.add(Kind::SendGaps, 1);
            self.lost_sends(self.why_no_end(), time, report);
        } else if is_before(self.number, send.number) {
            counters.add(Kind::SendGaps, 1);
            self.lost_sends(Reason::Gap, time, report);
        }
        self.stream.close(time, report);
    }

    /// Ends a connection for which there is no room any more.
    fn give_up(&mut self, time: u64, report: &mut impl Report) {
        if !self.stream.give_up(time, report) && self.in_progress.is_some() {
            self.stream.report_unseen(Reason::NoState, time, report);
        }
    }

    /// Handles what was received first after a send.
    fn received(&mut self, receive: &Send) -> Option<Answer> {
        let received = Received {
            status: u16::try_from(receive.result).unwrap_or(0),
            time: receive.header.time,
        };
        let is_sending = self.in_progress.is_some();
        let in_head = self.stream.is_in_head();
        let settled = self.stream.replies.received(received, is_sending, in_head)?;
        Some(self.stream.news(settled))
    }

    /// Handles an answer that came before the end of its send.
    fn sent(&mut self) -> Option<Answer> {
        if self.in_progress.is_some() {
            return None;
        }
        let settled = self.stream.replies.sent(self.stream.is_in_head())?;
        Some(self.stream.news(settled))
    }

    /// Gives up on the answers of this connection.
    fn lose_answers(&mut self, time: u64) -> Option<Answer> {
        let settled = self.stream.replies.lose(time)?;
        Some(self.stream.news(settled))
    }
}

impl SendInProgress {
    fn new(number: u32, task: Task) -> Self {
        Self {
            number,
            task,
            pieces: Vec::new(),
            taken: 0,
            changed: false,
        }
    }

    /// True if the bytes at `offset` differed from `data` when the send began, as far as they were read then.
    fn differs_from(&self, offset: u32, data: &[u8]) -> bool {
        let (start, end) = (offset as usize, offset as usize + data.len());
        self.pieces.iter().any(|(at, piece)| {
            let at = *at as usize;
            let (from, to) = (start.max(at), end.min(at + piece.len()));
            from < to && data.get(from - start..to - start) != piece.get(from - at..to - at)
        })
    }
}
