//! Joins requests with their owners into events, each exactly once.
//!
//! A state machine without clocks and files: the caller passes the time, a [`Lookup`] finds processes and older
//! sockets, and events go to a closure. Everything that waits here is bounded, charged to the user who sent it, and in
//! order of arrival:
//!
//! ```text
//! pending   heads that a packet left unfinished, until their end comes or for HEAD_TIMEOUT; then reported `unknown`
//! early     keys of heads that were reported before their end came: the end is not reported again
//! waiting   judged heads, for WAIT at most: until their answer comes; a change of their bytes makes them `unknown`, and
//!           heads in pages that their sender can still change wait for all of it
//! told      parts of streams that changed and were reported: a change that is seen twice is reported once
//! ```

use std::{sync::Arc, time::Duration};

use imds_analyzer_ebpf::{
    abi::{
        self, OwnerHook, Request, Task,
        exchange::{News, Outcome},
        request_flags,
    },
    classify::{self, PathClass, Reason, Verdict, facts},
};

use self::{
    queue::Queue,
    range::{Range, Told},
    relay::Relays,
};
use crate::{
    decode::address,
    event::{Answer, Attempt, Event, Judgement, NetNs, Process, Rehearsal, Reply, Tap, Thread},
    host::clock::{Now, nanoseconds},
    http,
    judge::{Judge, Noted, Remedies},
    loss::{Kind, Ledger},
    sanitize,
};

mod host;
mod queue;
mod range;
mod relay;
#[cfg(test)]
mod tests;

pub use self::host::Host;

/// Maximum time for a head to be unfinished.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time to wait for an answer, and time for which to hold a head that its sender can still change. TCP retransmits
/// a lost packet several times within it.
pub const WAIT: Duration = Duration::from_secs(5);

/// Bounds on the queues.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Maximum number of unfinished heads. Beyond it, a head of the user with the most is reported early.
    pending: usize,
    /// Maximum number of heads reported early whose end may still come. More than can be pending, because a user may
    /// have that many sockets.
    early: usize,
    /// Maximum number of judged heads that wait, in total and per user. Beyond it, the oldest is written.
    waiting: usize,
    waiting_of_user: usize,
}

const LIMITS: Limits = Limits {
    pending: 4096,
    early: 8 * 4096,
    waiting: 4096,
    waiting_of_user: 512,
};

/// Key of a head: its socket and the sequence number of its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct HeadKey {
    cookie: u64,
    sock: u64,
    seq: u32,
}

impl HeadKey {
    fn of(request: &Request) -> Self {
        Self {
            cookie: request.cookie,
            sock: request.sock,
            seq: request.seq,
        }
    }
}

/// Facts that are not in the records.
pub trait Lookup {
    /// The process of a request's task; `None` if the kernel side did not identify one.
    fn process(&mut self, task: &Task) -> Option<Arc<Process>>;
    /// The process that holds the request's socket, if the hooks did not see it connect.
    fn holder(&mut self, now: Now, request: &Request) -> Option<Arc<Process>>;
    /// The host's network namespace.
    fn host_net_ns(&self) -> Option<u32>;
}

/// The stage between decoding and the sinks.
pub struct Join<L> {
    lookup: L,
    /// Nanoseconds since boot. Never goes back.
    since_boot: u64,
    /// The clocks that convert times to wall-clock times. All records use the same reading until the wall clock is set,
    /// so that times keep their order.
    clocks: Option<Now>,
    /// True if answers are seen. Requests then wait for them.
    answers: bool,
    pending: Queue<Pending>,
    early: Queue<()>,
    waiting: Queue<Waiting>,
    told: Told,
    relays: Relays,
    judge: Judge,
    loss: Ledger,
    /// The number of answers that the kernel side could not hand over, and when the last increase was noticed.
    answers_lost: u64,
    answers_lost_until: u64,
}

/// An unfinished head.
#[derive(Debug)]
struct Pending {
    request: Request,
    capture: Box<[u8]>,
    changed: bool,
}

/// A judged head.
#[derive(Debug)]
struct Waiting {
    event: Event,
    noted: Noted,
    range: Range,
    /// When it was sent, in nanoseconds since boot.
    sent: u64,
    /// The index of the answer it waits for. `None` once it came.
    answer: Option<u32>,
    /// True if the sender can still change the head.
    is_changeable: bool,
}

impl Waiting {
    fn is_settled(&self) -> bool {
        self.answer.is_none() && !self.is_changeable
    }
}

impl<L: Lookup> Join<L> {
    /// `answers`: true if answers are seen. Requests then wait for them.
    pub fn new(lookup: L, answers: bool, remedies: Remedies) -> Self {
        Self::with(lookup, answers, remedies, LIMITS)
    }

    fn with(lookup: L, answers: bool, remedies: Remedies, limits: Limits) -> Self {
        Self {
            lookup,
            since_boot: 0,
            clocks: None,
            answers,
            pending: Queue::new(limits.pending, limits.pending),
            early: Queue::new(limits.early, limits.early),
            waiting: Queue::new(limits.waiting, limits.waiting_of_user),
            told: Told::new(),
            relays: Relays::default(),
            judge: Judge::new(remedies),
            loss: Ledger::default(),
            answers_lost: 0,
            answers_lost_until: 0,
        }
    }

    pub fn lookup(&self) -> &L {
        &self.lookup
    }

    pub fn lookup_mut(&mut self) -> &mut L {
        &mut self.lookup
    }

    /// Losses of this stage.
    pub fn loss(&self) -> &Ledger {
        &self.loss
    }

    /// Takes a judged head.
    pub fn request(&mut self, now: Now, request: &Request, capture: &[u8], out: &mut impl FnMut(Event)) {
        let since_boot = self.pass(now);
        let (key, range) = (HeadKey::of(request), Range::new(request.seq, request.head_len));
        let pending = self.pending.take(&key);
        if self.early.take(&key).is_some() {
            self.loss.add(Kind::LateHeads, 1);
            // Not reported as a change: the head was already reported as `unknown`.
            if in_sender_pages(request) {
                self.told.add(key, range);
            }
            return;
        }
        let changed = pending.is_some_and(|pending| pending.changed) || self.told.overlaps(key, range);
        let event = if changed {
            self.told.add(key, range);
            self.event(now, &unknown(request, Reason::Changed), capture)
        } else {
            self.event(now, request, capture)
        };
        let noted = self.judge.sent(&event, &request.task, request.facts, since_boot);
        let waiting = Waiting {
            event,
            noted,
            range,
            sent: request.header.time,
            answer: (self.answers && request.flags & request_flags::NUMBERED != 0).then_some(request.index),
            is_changeable: in_sender_pages(request) && !changed,
        };
        // A second head with the same key means that the socket was connected again.
        if let Some(former) = self.waiting.take(&key) {
            self.write(former, out);
        }
        if waiting.is_settled() {
            self.write(waiting, out);
            return;
        }
        if let Some((.., evicted)) = self.waiting.push(key, request.task.uid, since_boot, waiting) {
            self.loss.add(Kind::HeldHeadsEvicted, evicted.is_changeable.into());
            self.loss.add(Kind::AnswersEvicted, evicted.answer.is_some().into());
            self.write(evicted, out);
        }
    }

    /// Judges a call and passes it on.
    fn write(&mut self, mut waiting: Waiting, out: &mut impl FnMut(Event)) {
        self.judge.judge(&mut waiting.event, waiting.noted, self.since_boot);
        out(waiting.event);
    }

    /// Takes news of an answer. News come in the order of the requests, and after them.
    pub fn answer(&mut self, now: Now, news: &abi::exchange::Answer, out: &mut impl FnMut(Event)) {
        self.pass(now);
        let socket = HeadKey {
            cookie: news.cookie,
            sock: news.sock,
            seq: 0,
        };
        let index = news.index;
        match News::from_raw(news.news) {
            Some(News::Answer) => {
                let is_answered = |waiting: &Waiting| waiting.answer == Some(index);
                let key = self.waiting.of_socket(socket).find(|(_, waiting)| is_answered(waiting));
                let Some((key, waiting)) = key else {
                    self.loss.add(Kind::LateAnswers, 1);
                    return;
                };
                let reply = Reply {
                    status: news.status,
                    duration: Duration::from_nanos(news.header.time.saturating_sub(waiting.sent)),
                    hop_limit: (news.hop_limit != 0).then_some(news.hop_limit),
                };
                self.settle(key, Answer::Answered(reply), out);
            }
            Some(ended @ (News::Lost | News::End)) => {
                let answer = if ended == News::End {
                    Answer::None
                } else {
                    Answer::Unseen
                };
                let is_ended = |waiting: &Waiting| waiting.answer.is_some_and(|answer| answer >= index);
                let mut keys: Vec<_> = self
                    .waiting
                    .of_socket(socket)
                    .filter(|(_, waiting)| is_ended(waiting))
                    .map(|(key, waiting)| (waiting.answer, key))
                    .collect();
                keys.sort_unstable();
                for (_, key) in keys {
                    self.settle(key, answer, out);
                }
            }
            None => self.loss.add(Kind::DecodeKind, 1),
        }
    }

    /// Stores the outcome of a waiting head, and writes it if nothing else can change it.
    fn settle(&mut self, key: HeadKey, answer: Answer, out: &mut impl FnMut(Event)) {
        let Some(waiting) = self.waiting.get_mut(&key) else {
            return;
        };
        waiting.event.answer = answer;
        waiting.answer = None;
        if waiting.is_settled()
            && let Some(waiting) = self.waiting.take(&key)
        {
            self.write(waiting, out);
        }
    }

    /// Takes a connection that ended without a request.
    pub fn attempt(&mut self, now: Now, record: &abi::exchange::Attempt) -> Attempt {
        self.pass(now);
        let request = &record.request;
        let (process, owner) = self.owner(now, request);
        let source = address(request.family, request.source, request.source_port);
        Attempt {
            time: self.clocks.unwrap_or(now).wall_at(record.started),
            outcome: Outcome::from_raw(record.outcome).unwrap_or(Outcome::Closed),
            duration: Duration::from_nanos(request.header.time.saturating_sub(record.started)),
            owner,
            net_ns: self.net_ns(request),
            local: request.flags & request_flags::LOCAL != 0,
            source: (source.port() != 0).then_some(source),
            destination: address(request.family, request.destination, request.destination_port),
            process,
            thread: thread(&request.task),
        }
    }

    /// Takes an unfinished head.
    pub fn unfinished(&mut self, now: Now, request: &Request, capture: &[u8], out: &mut impl FnMut(Event)) {
        let since_boot = self.pass(now);
        let key = HeadKey::of(request);
        if self.early.contains(&key) {
            return;
        }
        if let Some(pending) = self.pending.get_mut(&key) {
            pending.request = *request;
            pending.capture = capture.into();
            return;
        }
        let pending = Pending {
            request: *request,
            capture: capture.into(),
            changed: false,
        };
        if let Some((key, user, evicted)) = self.pending.push(key, request.task.uid, since_boot, pending) {
            self.loss.add(Kind::UnfinishedHeadsEvicted, 1);
            self.report_early(now, key, user, &evicted, Reason::Unfinished, out);
        }
    }

    /// Takes the notice that a retransmission changed judged bytes. Waiting heads with such bytes become `unknown`.
    /// Bytes before those belong to heads that are already written, and become an event of their own.
    pub fn changed(&mut self, now: Now, notice: &Request, out: &mut impl FnMut(Event)) {
        self.pass(now);
        let (key, range) = (HeadKey::of(notice), Range::new(notice.seq, notice.head_len));
        // An unfinished head extends as far as the notice may reach.
        let open = |key: HeadKey| Range::new(key.seq, Range::MAX);
        let waiting: Vec<(HeadKey, Range)> = self
            .waiting
            .of_socket(key)
            .map(|(key, waiting)| (key, waiting.range))
            .filter(|(_, waiting)| waiting.overlaps(range))
            .collect();
        let pending: Vec<HeadKey> = self.pending.of_socket(key).map(|(key, _)| key).collect();
        let early = self.early.of_socket(key).map(|(key, ())| key);
        let unfinished = pending.iter().copied().chain(early);
        let first = unfinished
            .filter(|key| open(*key).overlaps(range))
            .chain(waiting.iter().map(|(key, _)| *key))
            .map(|key| range.offset_of(key.seq))
            .min();
        let rest = match first {
            Some(first) => u32::try_from(first).unwrap_or(0),
            None => range.len,
        };
        let own = (rest > 0)
            .then(|| Range::new(range.seq, rest))
            .filter(|own| !self.told.contains(key, *own));
        for key in pending.into_iter().filter(|key| open(*key).overlaps(range)) {
            if let Some(pending) = self.pending.get_mut(&key) {
                pending.changed = true;
            }
        }
        for (key, range) in waiting {
            self.told.add(key, range);
            let Some(waiting) = self.waiting.get_mut(&key) else {
                continue;
            };
            waiting.event.verdict = Verdict::Unknown;
            waiting.event.reason = Some(Reason::Changed);
            waiting.is_changeable = false;
            if waiting.is_settled()
                && let Some(waiting) = self.waiting.take(&key)
            {
                self.write(waiting, out);
            }
        }
        // The whole range: if a head waits, so do later heads that can change.
        self.told.add(key, range);
        if own.is_some() {
            let mut request = unknown(notice, Reason::Changed);
            // The notice identifies the socket, but no head.
            request.facts = 0;
            request.path_class = PathClass::NotImds as u8;
            out(self.event(now, &request, &[]));
        }
    }

    /// Forgets the previous connection of a socket that is connected.
    pub fn connected(&mut self, cookie: u64, sock: u64) {
        self.told.forget(HeadKey { cookie, sock, seq: 0 });
    }

    /// When [`Self::expire`] is due next, in nanoseconds since boot.
    pub fn next_deadline(&self) -> Option<u64> {
        let pending = self.pending.oldest().map(|since| due(since, HEAD_TIMEOUT));
        let waiting = self.waiting.oldest().map(|since| due(since, WAIT));
        [pending, waiting].into_iter().flatten().min()
    }

    /// Releases everything that has waited long enough. `answers_lost` returns how many answers the kernel side could
    /// not hand over so far: a request from before the last of them may have been answered.
    pub fn expire(&mut self, now: Now, answers_lost: impl FnOnce() -> u64, out: &mut impl FnMut(Event)) {
        let since_boot = self.pass(now);
        let until = before(since_boot, WAIT);
        let mut next = until.and_then(|until| self.waiting.take_oldest(until));
        if next.is_some() {
            let lost = answers_lost();
            if lost != self.answers_lost {
                self.answers_lost = lost;
                self.answers_lost_until = since_boot;
            }
        }
        while let Some((.., mut waiting)) = next {
            if waiting.answer.is_some() && waiting.sent > self.answers_lost_until {
                waiting.event.answer = Answer::None;
            }
            self.write(waiting, out);
            next = until.and_then(|until| self.waiting.take_oldest(until));
        }
        while let Some((key, user, pending)) =
            before(since_boot, HEAD_TIMEOUT).and_then(|until| self.pending.take_oldest(until))
        {
            self.report_early(now, key, user, &pending, Reason::Timeout, out);
        }
    }

    /// Releases everything that is still waiting, at the end of a run.
    pub fn finish(&mut self, now: Now, out: &mut impl FnMut(Event)) {
        while let Some((.., waiting)) = self.waiting.take_oldest(u64::MAX) {
            self.write(waiting, out);
        }
        while let Some((key, user, pending)) = self.pending.take_oldest(u64::MAX) {
            self.report_early(now, key, user, &pending, Reason::Unfinished, out);
        }
    }

    fn pass(&mut self, now: Now) -> u64 {
        if self.clocks.is_none_or(|clocks| clocks.differs(now)) {
            self.clocks = Some(now);
        }
        self.since_boot = self.since_boot.max(now.since_boot);
        self.since_boot
    }

    fn report_early(
        &mut self,
        now: Now,
        key: HeadKey,
        user: u32,
        pending: &Pending,
        reason: Reason,
        out: &mut impl FnMut(Event),
    ) {
        let reason = if pending.changed { Reason::Changed } else { reason };
        if self.early.push(key, user, self.since_boot, ()).is_some() {
            self.loss.add(Kind::EarlyHeadsForgotten, 1);
        }
        out(self.event(now, &unknown(&pending.request, reason), &pending.capture));
    }

    fn event(&mut self, now: Now, request: &Request, capture: &[u8]) -> Event {
        let reason = request.reason();
        let verdict = request.verdict().unwrap_or(Verdict::Unknown);
        let http = http::parse(capture, request.facts, reason);
        let path_class = match (reason, &http.target) {
            // A head found by scanning has a line but no target.
            (Some(Reason::Framing | Reason::Gap | Reason::Midstream), Some(target)) => {
                classify::path_class(target.as_bytes())
            }
            _ => request.path_class().unwrap_or(PathClass::NotImds),
        };
        let (process, owner) = self.owner(now, request);
        let net_ns = self.net_ns(request);
        let is_helper = process.as_ref().is_some_and(|process| process.network_helper);
        let relay = is_helper && self.relays.is_relayed(request, capture);
        if !is_helper && net_ns == NetNs::Other {
            self.relays.sent(request, capture);
        }
        let destination = address(request.family, request.destination, request.destination_port);
        let packet_destination = address(request.family, request.packet_destination, request.packet_port);
        Event {
            time: self.clocks.unwrap_or(now).wall_at(request.header.time),
            verdict,
            reason,
            path_class,
            tap: if request.flags & request_flags::SEND_TAP != 0 {
                Tap::Send
            } else {
                Tap::Wire
            },
            owner,
            net_ns,
            local: request.flags & request_flags::LOCAL != 0,
            relay,
            forwarded: request.facts & facts::FORWARDED != 0,
            malformed: request.facts & facts::MALFORMED != 0,
            sender_pages: request.flags & request_flags::SENDER_PAGES != 0,
            rehearsal: rehearsal(request),
            http,
            answer: Answer::Unseen,
            judgement: Judgement::default(),
            source: address(request.family, request.source, request.source_port),
            destination,
            packet_destination: (packet_destination != destination).then_some(packet_destination),
            thread: thread(&request.task),
            process,
        }
    }

    fn net_ns(&self, request: &Request) -> NetNs {
        if Some(request.net_ns) == self.lookup.host_net_ns() {
            NetNs::Host
        } else {
            NetNs::Other
        }
    }

    /// The process behind a request: from the kernel's notes, else the holder of the socket.
    fn owner(&mut self, now: Now, request: &Request) -> (Option<Arc<Process>>, Option<OwnerHook>) {
        if let Some(process) = self.lookup.process(&request.task) {
            return (Some(process), OwnerHook::from_raw(request.task.hook));
        }
        match self.lookup.holder(now, request) {
            Some(process) => (Some(process), Some(OwnerHook::SockDiag)),
            None => {
                self.loss.add(Kind::RequestsWithoutProcess, 1);
                (None, None)
            }
        }
    }
}

/// The request without a verdict.
fn unknown(request: &Request, reason: Reason) -> Request {
    Request {
        verdict: Verdict::Unknown as u8,
        reason: reason as u8,
        ..*request
    }
}

fn rehearsal(request: &Request) -> Rehearsal {
    if request.flags & request_flags::REHEARSED != 0 {
        Rehearsal::KeptBack
    } else if request.flags & request_flags::WOULD != 0 {
        Rehearsal::Would
    } else if request.flags & request_flags::EXEMPT != 0 {
        Rehearsal::Exempt
    } else {
        Rehearsal::Nothing
    }
}

/// True if the bytes may still change before they arrive, and the kernel side reports changes.
fn in_sender_pages(request: &Request) -> bool {
    request.flags & request_flags::SENDER_PAGES != 0 && request.flags & request_flags::SEND_TAP == 0
}

fn due(since: u64, after: Duration) -> u64 {
    since.saturating_add(nanoseconds(after))
}

/// The latest start of an entry that has waited for `time`; `None` if the host booted after that.
fn before(now: u64, time: Duration) -> Option<u64> {
    now.checked_sub(nanoseconds(time))
}

/// The thread, if it is not the main thread.
fn thread(task: &Task) -> Option<Thread> {
    (task.tgid != 0 && task.tid != task.tgid).then(|| Thread {
        id: task.tid,
        name: sanitize::comm(&task.thread_comm),
    })
}
