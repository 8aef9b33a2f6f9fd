#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

use std::{
    collections::HashMap,
    io::{self, Write as _},
    time::SystemTime,
};

use imds_analyzer_ebpf::abi::{CAPTURE_SHORT, Header, Owner, PATHS_MAX, RecordKind};
use proptest::{
    collection::vec,
    prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest},
};
use rustix::time::{ClockId, clock_gettime};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::*;
use crate::{
    decode::{self, Record},
    identity::Identity,
    process::{Resolver, ResolverSettings},
    secrets::ArgsMode,
    sink::{Output, Sink as _, json::JsonSink},
};

/// A look-up with fixed answers that counts questions.
#[derive(Default)]
struct Fake {
    holders: HashMap<u64, u32>,
    searches: u32,
}

impl Lookup for Fake {
    fn process(&mut self, task: &Task) -> Option<Arc<Process>> {
        (task.tgid != 0).then(|| process(task.tgid))
    }

    fn holder(&mut self, _now: Now, request: &Request) -> Option<Arc<Process>> {
        self.searches += 1;
        self.holders.get(&request.cookie).map(|pid| process(*pid))
    }

    fn host_net_ns(&self) -> Option<u32> {
        Some(7)
    }
}

fn process(pid: u32) -> Arc<Process> {
    Arc::new(Process {
        pid,
        ..Process::default()
    })
}

const SECOND: u64 = 1_000_000_000;
const UNKNOWN: Verdict = Verdict::Unknown;
const PAGES: u16 = request_flags::SENDER_PAGES;

/// An event in short: head, verdict and reason.
type Out = (String, Verdict, Option<Reason>);

/// A join with a settable clock.
struct Script {
    join: Join<Fake>,
    since_boot: u64,
    answers_lost: u64,
    events: Vec<Event>,
}

impl Script {
    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn with(limits: Limits) -> Self {
        Self {
            join: Join::with(Fake::default(), true, Remedies::built_in(), limits),
            since_boot: 1_000 * SECOND,
            answers_lost: 0,
            events: Vec::new(),
        }
    }

    fn small() -> Self {
        Self::with(Limits {
            pending: 3,
            early: 100,
            waiting: 3,
            waiting_of_user: 2,
        })
    }

    fn now(&self) -> Now {
        Now {
            since_boot: self.since_boot,
            wall: SystemTime::UNIX_EPOCH + Duration::from_nanos(self.since_boot),
        }
    }

    fn begin(&mut self, head: &Request) {
        let (now, events) = (self.now(), &mut self.events);
        self.join
            .unfinished(now, head, capture(head).as_bytes(), &mut |event| events.push(event));
    }

    fn end(&mut self, head: &Request) {
        let (now, events) = (self.now(), &mut self.events);
        self.join
            .request(now, head, capture(head).as_bytes(), &mut |event| events.push(event));
    }

    fn change(&mut self, notice: &Request) {
        let (now, events) = (self.now(), &mut self.events);
        self.join.changed(now, notice, &mut |event| events.push(event));
    }

    fn news(&mut self, news: &abi::exchange::Answer) {
        let (now, events) = (self.now(), &mut self.events);
        self.join.answer(now, news, &mut |event| events.push(event));
    }

    fn pass(&mut self, seconds: u64) {
        self.since_boot += seconds * SECOND;
        let (now, lost, events) = (self.now(), self.answers_lost, &mut self.events);
        self.join.expire(now, || lost, &mut |event| events.push(event));
    }

    fn finish(&mut self) {
        let (now, events) = (self.now(), &mut self.events);
        self.join.finish(now, &mut |event| events.push(event));
        assert_eq!(self.join.next_deadline(), None);
    }

    /// Events since the last call.
    fn out(&mut self) -> Vec<Out> {
        let events = self.events.drain(..);
        events
            .map(|event| (event.http.target.unwrap_or_default(), event.verdict, event.reason))
            .collect()
    }

    fn count(&self, kind: Kind) -> u64 {
        self.join.loss().of(kind)
    }
}

/// A v1 head of 100 bytes by user 1000.
fn head(cookie: u64, seq: u32) -> Request {
    let mut head = Request::new_zeroed();
    (head.cookie, head.sock, head.seq, head.head_len) = (cookie, 9, seq, 100);
    (head.verdict, head.family) = (Verdict::V1 as u8, 4);
    (head.task.tgid, head.task.uid) = (42, 1000);
    head
}

fn by(uid: u32, cookie: u64, seq: u32) -> Request {
    let mut head = head(cookie, seq);
    head.task.uid = uid;
    head
}

/// Marks the head as being in pages that the sender can still change.
fn in_pages(cookie: u64, seq: u32) -> Request {
    let mut head = head(cookie, seq);
    head.flags = PAGES;
    head
}

/// A notice that this many bytes changed in a retransmission.
fn notice(cookie: u64, seq: u32, len: u32) -> Request {
    let mut notice = in_pages(cookie, seq);
    notice.head_len = len;
    notice
}

fn name(head: &Request) -> String {
    format!("/{}/{}", head.cookie, head.seq)
}

fn capture(head: &Request) -> String {
    format!("GET {} HTTP/1.1\r\n", name(head))
}

fn v1(head: &Request) -> Out {
    (name(head), Verdict::V1, None)
}

fn unknown_by(head: &Request, reason: Reason) -> Out {
    (name(head), UNKNOWN, Some(reason))
}

/// The record of a change that belongs to no head.
fn change() -> Out {
    (String::new(), UNKNOWN, Some(Reason::Changed))
}

/// A head that waits for its answer.
fn numbered(cookie: u64, index: u32) -> Request {
    let mut head = head(cookie, index * 100);
    (head.flags, head.index) = (request_flags::NUMBERED, index);
    head.header.time = 1_000 * SECOND;
    head
}

/// News of an answer that came `millis` ms after 1000 s.
fn news(cookie: u64, index: u32, news: News, status: u16, millis: u64) -> abi::exchange::Answer {
    let mut answer = abi::exchange::Answer::new_zeroed();
    answer.header.time = 1_000 * SECOND + millis * 1_000_000;
    (answer.cookie, answer.sock, answer.index) = (cookie, 9, index);
    (answer.news, answer.status, answer.hop_limit) = (news as u8, status, 64);
    answer
}

const fn replied(status: u16, millis: u64) -> Answer {
    Answer::Answered(Reply {
        status,
        duration: Duration::from_millis(millis),
        hop_limit: Some(64),
    })
}

/// The heads that were written and their answers.
fn answers(script: &mut Script) -> Vec<(String, Answer)> {
    let events = script.events.drain(..);
    events
        .map(|event| (event.http.target.unwrap_or_default(), event.answer))
        .collect()
}

#[test]
fn a_head_waits_for_its_answer() {
    let mut script = Script::new();
    let (one, two) = (numbered(1, 0), numbered(1, 1));
    script.end(&one);
    script.end(&two);
    assert_eq!(script.join.next_deadline(), Some(1_005 * SECOND));
    assert_eq!(answers(&mut script), []);
    script.news(&news(1, 0, News::Answer, 200, 3));
    assert_eq!(answers(&mut script), [(name(&one), replied(200, 3))]);
    script.news(&news(1, 1, News::Answer, 401, 4));
    assert_eq!(answers(&mut script), [(name(&two), replied(401, 4))]);
    assert_eq!(script.join.next_deadline(), None);
    script.finish();
    assert_eq!(answers(&mut script), []);
}

#[test]
fn no_answer_in_time_is_none_and_a_later_one_is_counted() {
    let mut script = Script::new();
    let head = numbered(1, 0);
    script.end(&head);
    script.pass(4);
    assert_eq!(answers(&mut script), []);
    script.pass(1);
    assert_eq!(answers(&mut script), [(name(&head), Answer::None)]);
    script.news(&news(1, 0, News::Answer, 200, 6_000));
    assert_eq!(answers(&mut script), []);
    assert_eq!(script.count(Kind::LateAnswers), 1);
}

#[test]
fn an_answer_that_the_kernel_side_lost_is_unseen() {
    let mut script = Script::new();
    let (before, after) = (numbered(1, 0), {
        let mut head = numbered(2, 0);
        head.header.time = 1_006 * SECOND;
        head
    });
    script.end(&before);
    script.answers_lost = 1;
    script.pass(5);
    assert_eq!(answers(&mut script), [(name(&before), Answer::Unseen)]);
    script.pass(1);
    script.end(&after);
    script.pass(5);
    assert_eq!(answers(&mut script), [(name(&after), Answer::None)]);
}

#[test]
fn the_end_of_a_connection_ends_the_wait() {
    for (how, answer) in [(News::End, Answer::None), (News::Lost, Answer::Unseen)] {
        let mut script = Script::new();
        let heads: Vec<_> = (0..4).map(|index| numbered(1, index)).collect();
        heads.iter().for_each(|head| script.end(head));
        let other = numbered(2, 0);
        script.end(&other);
        script.news(&news(1, 0, News::Answer, 200, 1));
        script.news(&news(1, 1, how, 0, 1));
        let mut expected = vec![(name(&heads[0]), replied(200, 1))];
        expected.extend(heads[1..].iter().map(|head| (name(head), answer)));
        assert_eq!(answers(&mut script), expected);
        script.finish();
        assert_eq!(answers(&mut script), [(name(&other), Answer::Unseen)]);
    }
}

#[test]
fn who_waits_is_bounded_and_what_goes_early_is_unseen() {
    let mut script = Script::small();
    let heads: Vec<_> = (0..3).map(|index| numbered(1, index)).collect();
    heads.iter().for_each(|head| script.end(head));
    assert_eq!(answers(&mut script), [(name(&heads[0]), Answer::Unseen)]);
    assert_eq!(script.count(Kind::AnswersEvicted), 1);
    assert_eq!(script.count(Kind::HeldHeadsEvicted), 0);
    script.news(&news(1, 0, News::Answer, 200, 1));
    assert_eq!(script.count(Kind::LateAnswers), 1);
}

#[test]
fn a_change_while_its_answer_is_awaited_is_unknown_with_the_answer() {
    let mut script = Script::new();
    let head = numbered(1, 0);
    script.end(&head);
    script.change(&notice(1, 10, 5));
    assert_eq!(script.out(), []);
    script.news(&news(1, 0, News::Answer, 200, 1));
    let event = &script.events[0];
    assert_eq!((event.verdict, event.reason), (UNKNOWN, Some(Reason::Changed)));
    assert_eq!(event.answer, replied(200, 1));
    assert_eq!(script.events.len(), 1);
}

#[test]
fn a_head_that_can_change_keeps_waiting_when_it_was_answered() {
    let mut script = Script::new();
    let mut head = numbered(1, 0);
    head.flags |= PAGES;
    script.end(&head);
    script.news(&news(1, 0, News::Answer, 404, 1));
    script.pass(4);
    assert_eq!(answers(&mut script), []);
    script.pass(1);
    assert_eq!(answers(&mut script), [(name(&head), replied(404, 1))]);
}

#[test]
fn without_answers_nothing_waits() {
    let mut script = Script::new();
    script.join.answers = false;
    script.end(&numbered(1, 0));
    assert_eq!(answers(&mut script), [(name(&numbered(1, 0)), Answer::Unseen)]);
}

#[test]
fn news_of_an_unknown_kind_is_counted() {
    let mut script = Script::new();
    script.end(&numbered(1, 0));
    let mut odd = news(1, 0, News::Answer, 200, 1);
    odd.news = 77;
    script.news(&odd);
    assert_eq!(script.count(Kind::DecodeKind), 1);
}

#[test]
fn an_attempt_names_who_and_how_long() {
    let mut script = Script::new();
    let mut record = abi::exchange::Attempt::new_zeroed();
    record.request = head(1, 0);
    record.request.header.time = 1_001 * SECOND;
    (record.started, record.outcome) = (1_000 * SECOND, Outcome::Refused as u8);
    let now = script.now();
    let attempt = script.join.attempt(now, &record);
    assert_eq!(attempt.outcome, Outcome::Refused);
    assert_eq!(attempt.duration, Duration::from_secs(1));
    assert_eq!(attempt.process.map(|process| process.pid), Some(42));
    assert_eq!(attempt.source, None);
}

#[test]
fn times_keep_their_order_unless_the_clock_is_set() {
    let mut script = Script::new();
    let send = |script: &mut Script, cookie: u64, skew: i64| {
        let mut head = head(cookie, 0);
        head.header.time = 1_000 * SECOND + cookie;
        let mut now = script.now();
        let skewed = Duration::from_millis(skew.unsigned_abs());
        now.wall = if skew < 0 { now.wall - skewed } else { now.wall + skewed };
        let mut time = None;
        script
            .join
            .request(now, &head, b"", &mut |event| time = Some(event.time));
        time.unwrap()
    };
    let first = send(&mut script, 1, 0);
    let second = send(&mut script, 2, -5);
    assert_eq!(second.duration_since(first).unwrap(), Duration::from_nanos(1));
    let third = send(&mut script, 3, 60_000);
    assert!(third.duration_since(first).unwrap() >= Duration::from_secs(60));
}

#[test]
fn a_whole_head_is_written_at_once() {
    let mut script = Script::new();
    script.end(&head(1, 0));
    assert_eq!(script.out(), [v1(&head(1, 0))]);
    assert_eq!(script.join.next_deadline(), None);
}

#[test]
fn a_head_in_pieces_is_one() {
    let mut script = Script::new();
    script.begin(&head(1, 0));
    script.begin(&head(1, 0));
    script.pass(29);
    script.end(&head(1, 0));
    script.pass(60);
    script.finish();
    assert_eq!(script.out(), [v1(&head(1, 0))]);
}

#[test]
fn a_late_end_is_not_a_second_request() {
    let mut script = Script::new();
    script.begin(&head(1, 0));
    assert_eq!(script.join.next_deadline(), Some(1_030 * SECOND));
    script.pass(29);
    assert_eq!(script.out(), []);
    script.pass(1);
    assert_eq!(script.out(), [unknown_by(&head(1, 0), Reason::Timeout)]);
    script.pass(3_600);
    script.end(&head(1, 0));
    script.finish();
    assert_eq!(script.out(), []);
    assert_eq!(script.count(Kind::LateHeads), 1);
}

#[test]
fn more_of_a_head_that_timed_out_is_not_another_one() {
    let mut script = Script::new();
    script.begin(&head(1, 0));
    script.pass(30);
    // Its request line arrives late, followed by nothing.
    script.begin(&head(1, 0));
    script.pass(30);
    script.finish();
    assert_eq!(script.out(), [unknown_by(&head(1, 0), Reason::Timeout)]);
}

#[test]
fn a_second_notice_brings_the_request_line_and_no_more_time() {
    let mut script = Script::new();
    let (now, mut events) = (script.now(), Vec::new());
    script
        .join
        .unfinished(now, &head(1, 0), b"GE", &mut |event| events.push(event));
    script.pass(20);
    script.begin(&head(1, 0));
    script.pass(10);
    assert_eq!(script.out(), [unknown_by(&head(1, 0), Reason::Timeout)]);
}

#[test]
fn the_next_head_on_a_connection_is_another() {
    let mut script = Script::new();
    script.begin(&head(1, 0));
    script.pass(30);
    script.out();
    script.end(&head(1, 0));
    script.end(&head(1, 100));
    assert_eq!(script.out(), [v1(&head(1, 100))]);
}

#[test]
fn two_connections_interleave() {
    let mut script = Script::new();
    script.begin(&head(1, 0));
    script.begin(&head(2, 0));
    script.end(&head(1, 0));
    script.begin(&head(1, 100));
    script.pass(10);
    script.begin(&head(3, 0));
    script.end(&head(3, 0));
    script.pass(20);
    let [one, two] = [head(1, 100), head(2, 0)];
    assert_eq!(
        script.out(),
        [
            v1(&head(1, 0)),
            v1(&head(3, 0)),
            unknown_by(&two, Reason::Timeout),
            unknown_by(&one, Reason::Timeout)
        ]
    );
    script.end(&two);
    script.end(&one);
    assert_eq!(script.out(), []);
}

#[test]
fn a_cookie_of_another_socket_is_another_connection() {
    let mut script = Script::new();
    let mut other = head(1, 0);
    other.sock = 10;
    script.begin(&head(1, 0));
    script.pass(30);
    script.out();
    script.end(&other);
    assert_eq!(script.out(), [v1(&other)]);
    script.end(&head(1, 0));
    assert_eq!(script.out(), []);
}

#[test]
fn a_key_is_used_again_once_its_head_has_ended() {
    let mut script = Script::new();
    script.begin(&head(1, 0));
    script.pass(30);
    script.end(&head(1, 0));
    script.out();
    script.begin(&head(1, 0));
    script.end(&head(1, 0));
    script.end(&head(1, 0));
    assert_eq!(script.out(), [v1(&head(1, 0)), v1(&head(1, 0))]);
}

#[test]
fn a_head_at_the_last_sequence_number_ends() {
    let mut script = Script::new();
    let last = head(1, u32::MAX);
    script.begin(&last);
    script.end(&last);
    script.end(&head(1, 99));
    assert_eq!(script.out(), [v1(&last), v1(&head(1, 99))]);
}

#[test]
fn unfinished_heads_are_written_at_the_end() {
    let mut script = Script::new();
    script.begin(&head(1, 0));
    script.end(&in_pages(2, 0));
    script.finish();
    assert_eq!(
        script.out(),
        [v1(&in_pages(2, 0)), unknown_by(&head(1, 0), Reason::Unfinished)]
    );
}

#[test]
fn for_lack_of_room_the_oldest_of_who_has_most_is_early() {
    let mut script = Script::small();
    script.begin(&by(1, 1, 0));
    for cookie in 2..=10 {
        script.begin(&by(2, cookie, 0));
    }
    let expected: Vec<Out> = (2..=8)
        .map(|cookie| unknown_by(&by(2, cookie, 0), Reason::Unfinished))
        .collect();
    assert_eq!(script.out(), expected);
    assert_eq!(script.count(Kind::UnfinishedHeadsEvicted), 7);
    // No other user's head is affected.
    script.end(&by(1, 1, 0));
    assert_eq!(script.out(), [v1(&by(1, 1, 0))]);
    // Nor do the other users' heads get a second record.
    for cookie in 2..=10 {
        script.begin(&by(2, cookie, 0));
        script.end(&by(2, cookie, 0));
    }
    assert_eq!(script.out(), [v1(&by(2, 9, 0)), v1(&by(2, 10, 0))]);
    assert_eq!(script.count(Kind::LateHeads), 7);
}

#[test]
fn many_users_with_one_head_each_push_out_their_own() {
    let mut script = Script::small();
    script.begin(&by(1, 1, 0));
    script.begin(&by(1, 2, 0));
    script.begin(&by(500, 3, 0));
    // User 1 has the most entries, so its own are evicted.
    for uid in 501..600 {
        script.begin(&by(uid, u64::from(uid), 0));
    }
    script.out();
    script.end(&by(1, 2, 0));
    assert_eq!(script.out(), [v1(&by(1, 2, 0))]);
}

/// Like an attack that was seen: eight thousand heads by one user, all finished after 35 seconds.
#[test]
fn thousands_of_slow_heads_have_one_record_each() {
    for (count, users) in [(8_000, 1), (8_000, 2), (20_000, 1), (30_000, 3)] {
        let mut script = Script::new();
        let heads: Vec<Request> = (0..count)
            .map(|cookie| by(1 + (cookie % users) as u32, cookie + 1, 0))
            .collect();
        let other = by(7777, 1 << 40, 0);
        script.begin(&other);
        heads.iter().for_each(|head| script.begin(head));
        script.pass(10);
        script.end(&other);
        let out = script.out();
        assert!(out.contains(&v1(&other)), "somebody else's slow head is left alone");
        assert_eq!(out.len(), count as usize - LIMITS.pending + 2, "{count}");
        script.pass(25);
        heads.iter().for_each(|head| script.end(head));
        script.end(&by(1, 2 << 40, 0));
        script.finish();
        let after = script.out();
        assert_eq!(out.len() + after.len(), count as usize + 2);
        assert_eq!(after.last(), Some(&v1(&by(1, 2 << 40, 0))));
        let unknown = out.iter().chain(&after).filter(|(_, verdict, _)| *verdict == UNKNOWN);
        assert_eq!(unknown.count(), count as usize);
        assert_eq!(script.count(Kind::LateHeads), count);
        assert_eq!(script.count(Kind::EarlyHeadsForgotten), 0);
        assert_eq!(script.join.early.len(), 0);
    }
}

#[test]
fn one_open_head_leaves_nothing_of_those_that_come_and_go() {
    let mut script = Script::new();
    script.begin(&head(1, 0));
    for seq in 0..10_000 {
        script.begin(&head(2, seq * 100));
        script.end(&head(2, seq * 100));
        script.events.clear();
    }
    assert_eq!(script.join.pending.len(), 1);
    assert_eq!(script.join.early.len(), 0);
}

#[test]
fn what_had_to_be_forgotten_is_counted() {
    let mut script = Script::with(Limits {
        pending: 1,
        early: 2,
        ..LIMITS
    });
    for cookie in 0..5 {
        script.begin(&head(cookie, 0));
    }
    assert_eq!(script.count(Kind::UnfinishedHeadsEvicted), 4);
    assert_eq!(script.count(Kind::EarlyHeadsForgotten), 2);
}

#[test]
fn time_never_goes_back() {
    let mut script = Script::new();
    script.begin(&head(1, 0));
    script.since_boot -= 500 * SECOND;
    script.begin(&head(2, 0));
    assert_eq!(script.join.next_deadline(), Some(1_030 * SECOND));
    script.pass(529);
    assert_eq!(script.out(), []);
    script.pass(1);
    assert_eq!(script.out().len(), 2);
}

#[test]
fn deadlines_of_a_host_that_has_just_booted() {
    let mut script = Script::new();
    script.since_boot = SECOND;
    script.begin(&head(1, 0));
    script.end(&in_pages(2, 0));
    script.pass(0);
    assert_eq!(script.out(), []);
    assert_eq!(script.join.next_deadline(), Some(6 * SECOND));
    script.pass(5);
    assert_eq!(script.out(), [v1(&in_pages(2, 0))]);
    assert_eq!(script.join.next_deadline(), Some(31 * SECOND));
}

#[test]
fn who_holds_the_socket_is_asked_where_nobody_is_known() {
    let mut script = Script::new();
    let nobody = |cookie| {
        let mut head = head(cookie, 0);
        head.task = Task::default();
        head
    };
    script.join.lookup_mut().holders.insert(1, 77);
    script.end(&head(1, 0));
    assert_eq!(script.join.lookup_mut().searches, 0);
    script.end(&nobody(1));
    script.end(&nobody(2));
    let owners: Vec<_> = script
        .events
        .iter()
        .map(|event| (event.process.as_ref().map(|it| it.pid), event.owner))
        .collect();
    assert_eq!(
        owners,
        [(Some(42), None), (Some(77), Some(OwnerHook::SockDiag)), (None, None)]
    );
    assert_eq!(script.count(Kind::RequestsWithoutProcess), 1);
}

#[test]
fn a_head_in_the_sender_s_pages_is_held() {
    let mut script = Script::new();
    script.end(&in_pages(1, 0));
    assert_eq!(script.join.next_deadline(), Some(1_005 * SECOND));
    script.pass(4);
    assert_eq!(script.out(), []);
    script.pass(1);
    assert_eq!(script.out(), [v1(&in_pages(1, 0))]);
    // Too late for that record: the change gets exactly one record of its own.
    for _ in 0..3 {
        script.change(&notice(1, 0, 100));
        script.change(&notice(1, 40, 20));
    }
    assert_eq!(script.out(), [change()]);
}

#[test]
fn the_send_tap_s_bytes_are_not_held() {
    let mut script = Script::new();
    let mut head = in_pages(1, 0);
    head.flags |= request_flags::SEND_TAP;
    script.end(&head);
    assert_eq!(script.out(), [v1(&head)]);
}

#[test]
fn a_held_head_that_changes_is_unknown() {
    let all = notice(1, 0, 100);
    let end = notice(1, 99, 1);
    let around = notice(1, u32::MAX - 9, 200);
    for (notices, own) in [
        (&[all][..], 0),
        (&[end], 0),
        (&[all, all, all], 0),
        (&[end, all, end], 0),
        // The ten bytes before it belong to something else.
        (&[around], 1),
        (&[around, around, all, end], 1),
    ] {
        let mut script = Script::new();
        let mut v2 = in_pages(1, 0);
        v2.verdict = Verdict::V2 as u8;
        script.end(&v2);
        notices.iter().for_each(|notice| script.change(notice));
        script.pass(60);
        script.finish();
        let mut out = script.out();
        assert_eq!(out.remove(0), unknown_by(&v2, Reason::Changed));
        assert_eq!(out, vec![change(); own], "{notices:?}");
    }
}

#[test]
fn a_change_beside_a_held_head_leaves_it_alone() {
    let mut script = Script::new();
    script.end(&in_pages(1, 100));
    script.change(&notice(1, 0, 100));
    script.change(&notice(1, 200, 100));
    script.change(&notice(2, 100, 100));
    script.change(&notice(1, 0, 50));
    assert_eq!(script.out(), vec![change(); 3]);
    script.pass(5);
    assert_eq!(script.out(), [v1(&in_pages(1, 100))]);
}

#[test]
fn a_change_of_two_held_heads_is_two() {
    let mut script = Script::new();
    let heads = [in_pages(1, u32::MAX - 99), in_pages(1, 0), in_pages(1, 100)];
    heads.iter().for_each(|head| script.end(head));
    script.change(&notice(1, u32::MAX - 20, 50));
    assert_eq!(
        script.out(),
        [&heads[1], &heads[0]].map(|head| unknown_by(head, Reason::Changed))
    );
    script.change(&notice(1, u32::MAX - 20, 50));
    script.pass(5);
    assert_eq!(script.out(), [v1(&heads[2])]);
}

#[test]
fn an_unfinished_head_that_changes_is_unknown_whatever_its_end() {
    let mut script = Script::new();
    let mut begun = in_pages(1, 0);
    begun.head_len = 40;
    script.begin(&begun);
    script.change(&notice(1, 20, 20));
    // More bytes were judged than announced.
    script.change(&notice(1, 60, 20));
    assert_eq!(script.out(), []);
    script.end(&in_pages(1, 0));
    script.change(&notice(1, 90, 10));
    script.pass(5);
    assert_eq!(script.out(), [unknown_by(&begun, Reason::Changed)]);

    script.begin(&in_pages(2, 0));
    script.change(&notice(2, 20, 20));
    script.pass(30);
    script.change(&notice(2, 30, 20));
    assert_eq!(script.out(), [unknown_by(&in_pages(2, 0), Reason::Changed)]);
    script.end(&in_pages(2, 0));
    script.change(&notice(2, 0, 100));
    assert_eq!(script.out(), []);
}

#[test]
fn a_change_before_an_unfinished_head_is_its_own() {
    let mut script = Script::new();
    script.begin(&in_pages(1, 100));
    script.change(&notice(1, 0, 100));
    assert_eq!(script.out(), [change()]);
    script.end(&in_pages(1, 100));
    script.pass(5);
    assert_eq!(script.out(), [v1(&in_pages(1, 100))]);
}

#[test]
fn a_head_whose_beginning_changed_unseen_is_no_v2() {
    let mut script = Script::new();
    // The notice of its beginning was lost.
    script.change(&notice(1, 0, 40));
    let mut v2 = head(1, 0);
    v2.verdict = Verdict::V2 as u8;
    script.end(&v2);
    assert_eq!(script.out(), [change(), unknown_by(&v2, Reason::Changed)]);
}

#[test]
fn a_new_connection_of_a_socket_has_not_changed() {
    let mut script = Script::new();
    script.change(&notice(1, 0, 100));
    script.out();
    script.join.connected(1, 9);
    script.end(&head(1, 0));
    assert_eq!(script.out(), [v1(&head(1, 0))]);
}

#[test]
fn held_heads_are_bounded_for_each_user() {
    let mut script = Script::small();
    for cookie in 1..=5 {
        let mut head = in_pages(cookie, 0);
        head.task.uid = 1;
        script.end(&head);
    }
    let mut other = in_pages(9, 0);
    other.task.uid = 2;
    script.end(&other);
    let names: Vec<String> = script.out().into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["/1/0", "/2/0", "/3/0"]);
    assert_eq!(script.count(Kind::HeldHeadsEvicted), 3);
    script.change(&notice(9, 0, 1));
    assert_eq!(script.out(), [unknown_by(&other, Reason::Changed)]);
    script.pass(5);
    assert_eq!(script.out().len(), 2);
}

#[test]
fn two_held_heads_of_one_key_are_two() {
    let mut script = Script::new();
    script.end(&in_pages(1, 0));
    script.end(&in_pages(1, 0));
    script.finish();
    assert_eq!(script.out().len(), 2);
}

#[test]
fn a_held_head_keeps_the_process_and_the_time_of_its_call() {
    let mut script = Script::new();
    let mut head = in_pages(1, 0);
    head.header.time = script.since_boot - 3 * SECOND;
    script.end(&head);
    let called = script.now().wall - Duration::from_secs(3);
    script.pass(5);
    let event = script.events.pop().unwrap();
    assert_eq!(event.time, called);
    assert_eq!(event.process.unwrap().pid, 42);
}

#[test]
fn records_are_dated_by_when_they_were_made() {
    let script = Script::new();
    let now = script.now();
    for age in [-3_i64, 0, 3, 900] {
        let time = now.since_boot.checked_add_signed(-age * 1_000_000_000).unwrap();
        let at = now.wall_at(time);
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(seconds, u64::try_from(1_000 - age).unwrap());
    }
}

/// One step of a run.
#[derive(Clone, Copy, Debug)]
enum Op {
    Begin(usize),
    End(usize),
    Change { head: usize, skip: u32, len: u32 },
    Pass(u64),
}

/// Heads of three sockets and two users, some at the wrap of the sequence numbers, some in their sender's pages.
fn few(index: usize) -> Request {
    let (cookie, place) = (index as u64 % 3, index as u32 / 3);
    let mut head = by(index as u32 % 2, cookie, (place * 100).wrapping_sub(150));
    if index.is_multiple_of(4) {
        head.flags = PAGES;
    }
    head
}
const FEW: usize = 12;

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..FEW).prop_map(Op::Begin),
        4 => (0..FEW).prop_map(Op::End),
        1 => (0..FEW, 0..150_u32, 0..300_u32).prop_map(|(head, skip, len)| Op::Change { head, skip, len }),
        2 => (0..40_u64).prop_map(Op::Pass),
    ]
}

proptest! {
    /// The model ignores time, room and changes: a head is everything between a begin, if there is one, and an end, if
    /// there is one.
    #[test]
    fn every_head_has_exactly_one_event(ops in vec(op(), 0..200), roomy in any::<bool>()) {
        let mut script = if roomy { Script::new() } else { Script::small() };
        let mut open = [false; FEW];
        let mut heads = [0; FEW];
        let mut changed_open = [0; FEW];
        let mut tainted = [false; FEW];
        let mut changes = 0;
        for op in ops {
            match op {
                Op::Begin(index) => {
                    heads[index] += usize::from(!open[index]);
                    open[index] = true;
                    script.begin(&few(index));
                }
                Op::End(index) => {
                    heads[index] += usize::from(!open[index]);
                    changed_open[index] += usize::from(tainted[index]);
                    (open[index], tainted[index]) = (false, false);
                    script.end(&few(index));
                }
                Op::Change { head, skip, len } => {
                    changes += 1;
                    let head = few(head);
                    let bytes = notice(head.cookie, head.seq.wrapping_add(skip), len);
                    for index in (0..FEW).filter(|index| few(*index).cookie == head.cookie && open[*index]) {
                        tainted[index] |= (0..len.max(1)).any(|byte| bytes.seq.wrapping_add(byte).wrapping_sub(few(index).seq) < 100);
                    }
                    script.change(&bytes);
                }
                Op::Pass(seconds) => script.pass(seconds),
            }
            prop_assert!(roomy || script.join.pending.len() <= 3 && script.join.waiting.len() <= 3);
            prop_assert!(script.join.early.len() <= FEW);
        }
        script.finish();
        let out = script.out();
        for index in 0..FEW {
            let events = || out.iter().filter(|(label, ..)| *label == name(&few(index)));
            prop_assert_eq!(events().count(), heads[index], "{:?}", few(index).seq);
            let unknown = events().filter(|(_, verdict, _)| *verdict == UNKNOWN).count();
            prop_assert!(unknown >= changed_open[index] + usize::from(tainted[index]));
        }
        let own = out.iter().filter(|(label, ..)| label.is_empty()).count();
        prop_assert!(own <= changes);
    }

    /// If everything comes in time, only records of changes are `unknown`.
    #[test]
    fn what_comes_in_time_is_judged(order in vec(0..FEW, 0..100)) {
        let mut script = Script::new();
        for index in order {
            script.begin(&few(index));
            script.end(&few(index));
        }
        script.finish();
        prop_assert!(script.out().iter().all(|(_, verdict, _)| *verdict == Verdict::V1));
    }
}

/// `cargo test --release -p imds-analyzer -- --ignored --nocapture throughput`
#[test]
#[ignore = "a measurement"]
fn throughput_of_decoding_joining_resolving_and_formatting() {
    let task = Task {
        start: 4321,
        exec: 1,
        tgid: 4_194_304,
        tid: 4_194_304,
        comm: *b"python3\0\0\0\0\0\0\0\0\0",
        hook: OwnerHook::TpBtf as u8,
        ..Task::default()
    };
    let argv = b"python3\0/opt/app/run.py\0--config\0/etc/app/config.toml\0";
    let mut owner = Owner::new_zeroed();
    owner.header = header(RecordKind::Owner, argv.len());
    owner.task = task;
    owner.argv_len = argv.len().try_into().unwrap();
    owner.paths_room = PATHS_MAX.try_into().unwrap();
    owner.ancestors_len = 8;
    for (pid, ancestor) in (1..=8).rev().zip(&mut owner.ancestors) {
        (ancestor.tgid, ancestor.start, ancestor.comm) = (pid, 1, *b"an-ancestor\0\0\0\0\0");
    }
    let announced = [owner.as_bytes(), &[0; PATHS_MAX], argv].concat();

    let capture =
        b"GET /latest/meta-data/iam/security-credentials/app HTTP/1.1\r\nUser-Agent: Boto3/1.9.0 Python/3.8\r\n";
    let mut request = Request::new_zeroed();
    request.header = header(RecordKind::Request, capture.len());
    request.task = task;
    request.verdict = Verdict::V1 as u8;
    request.path_class = PathClass::Credential as u8;
    request.family = 4;
    request.flags = request_flags::NUMBERED;
    let mut judged = [request.as_bytes(), capture].concat();
    judged.resize(size_of::<Request>() + CAPTURE_SHORT, 0);
    let mut answered = abi::exchange::Answer::new_zeroed();
    answered.header = header(RecordKind::Answer, 0);
    (answered.news, answered.status) = (News::Answer as u8, 200);

    let mut join = Join::new(
        Host::new(Resolver::new(ResolverSettings {
            args: ArgsMode::Redacted,
            name_service: false,
            capacity: 100,
        })),
        true,
        Remedies::built_in(),
    );
    let mut sink = JsonSink::new(Output::new(io::sink(), false), Identity::named("ip-10-0-0-1"));
    let begin = cpu_time();
    let count = 500_000;
    for _ in 0..count {
        // Each process is announced once for each connection.
        if let Record::Owner(owner, names, argv) = decode::decode(&announced).unwrap() {
            join.lookup_mut().resolver().observe(&owner, names, argv);
        }
        if let Record::Request(request, capture) = decode::decode(&judged).unwrap() {
            join.request(Now::read(), &request, capture, &mut |_| panic!("it waits"));
        }
        if let Record::Answer(answer) = decode::decode(answered.as_bytes()).unwrap() {
            join.answer(Now::read(), &answer, &mut |event| {
                assert!(event.process.is_some());
                sink.write(&event).unwrap();
            });
        }
    }
    let rate = f64::from(count) / (cpu_time() - begin).as_secs_f64();
    writeln!(
        io::stderr(),
        "{rate:.0} requests a second, each answered, and of an announced connection"
    )
    .unwrap();
}

/// CPU time of this thread, because other threads may be busy on the machine.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

fn header(kind: RecordKind, data_len: usize) -> Header {
    Header {
        time: 7,
        kind: kind as u16,
        data_len: data_len.try_into().unwrap(),
        reserved: 0,
    }
}
