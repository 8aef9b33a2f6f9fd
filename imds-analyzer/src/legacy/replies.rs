//! Pairs the requests of a connection with the answers that its reader receives, for the send tap.
//!
//! The kernel side reports the first bytes that are received after each send: a status line, or something else. That
//! identifies the answer only if exactly one request waits for it. Everywhere else answers are [`News::Lost`], and stay
//! so for the rest of the connection.

use imds_analyzer_ebpf::abi::{Request, exchange::News, request_flags};

/// The lowest status of a final answer; those below it announce another one (RFC 9110, section 15.2).
const FINAL: u16 = 200;

/// Requests and answers of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Replies {
    requests: u32,
    /// Requests whose outcome is reported.
    settled: u32,
    /// Received while a send was in progress: status and time.
    early: Option<Received>,
    is_lost: bool,
}

/// The first bytes received after a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    /// 0 if they are no status line.
    pub(super) status: u16,
    /// Nanoseconds since boot.
    pub(super) time: u64,
}

/// The outcome of the request at `index`; of the requests behind it too, unless it is an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) news: News,
    pub(super) index: u32,
    pub(super) received: Received,
}

impl Replies {
    /// For a connection whose answers are not seen.
    pub(super) fn lost() -> Self {
        Self {
            is_lost: true,
            ..Self::default()
        }
    }

    /// Numbers a request, unless its answer could not be told from another one.
    pub(super) fn number(&mut self, request: &mut Request) {
        if !self.is_lost {
            request.index = self.requests;
            request.flags |= request_flags::NUMBERED;
            self.requests += 1;
        }
    }

    /// Takes the first bytes received after a send. `sending`: true if the end of a send is still to come. `in_head`: true
    /// if the last head is unfinished.
    pub(super) fn received(&mut self, received: Received, sending: bool, in_head: bool) -> Option<Settled> {
        match self.requests - self.settled {
            // A second look at the same answer (MSG_PEEK), or one to a head that is not finished.
            0 if sending => {
                self.early = Some(received);
                None
            }
            0 => {
                self.is_lost |= in_head;
                None
            }
            1 if received.status >= FINAL && !self.is_lost => {
                let index = self.settled;
                self.settled += 1;
                Some(Settled {
                    news: News::Answer,
                    index,
                    received,
                })
            }
            _ => self.lose(received.time),
        }
    }

    /// Takes the end of a send.
    pub(super) fn sent(&mut self, in_head: bool) -> Option<Settled> {
        let early = self.early.take()?;
        if self.requests == self.settled {
            self.is_lost = true;
        }
        self.received(early, false, in_head)
    }

    /// Notes that the number of requests is uncertain from here on.
    pub(super) fn doubt(&mut self) {
        self.is_lost = true;
    }

    /// Notes that what was received may be lost, or that the connection is no longer followed.
    pub(super) fn lose(&mut self, time: u64) -> Option<Settled> {
        self.is_lost = true;
        self.settle(News::Lost, time)
    }

    /// Takes the end of the connection.
    pub(super) fn end(&mut self, time: u64) -> Option<Settled> {
        let news = if self.is_lost { News::Lost } else { News::End };
        self.settle(news, time)
    }

    fn settle(&mut self, news: News, time: u64) -> Option<Settled> {
        let index = self.settled;
        self.settled = self.requests;
        (index < self.requests).then_some(Settled {
            news,
            index,
            received: Received { status: 0, time },
        })
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    const TIME: u64 = 7;

    fn requests(replies: &mut Replies, count: u32) -> Vec<Option<u32>> {
        let mut indices = Vec::new();
        for _ in 0..count {
            let mut request = Request::new_zeroed();
            replies.number(&mut request);
            indices.push((request.flags & request_flags::NUMBERED != 0).then_some(request.index));
        }
        indices
    }

    fn received(replies: &mut Replies, status: u16) -> Option<(News, u32, u16)> {
        brief(replies.received(Received { status, time: TIME }, false, false))
    }

    fn brief(settled: Option<Settled>) -> Option<(News, u32, u16)> {
        settled.map(|settled| {
            assert_eq!(settled.received.time, TIME);
            (settled.news, settled.index, settled.received.status)
        })
    }

    #[test]
    fn one_request_at_a_time_has_its_answer() {
        let mut replies = Replies::default();
        for (index, status) in [200, 401, 999].into_iter().enumerate() {
            let index = index as u32;
            assert_eq!(requests(&mut replies, 1), [Some(index)]);
            assert_eq!(received(&mut replies, status), Some((News::Answer, index, status)));
            // Read once more, after a look with MSG_PEEK.
            assert_eq!(received(&mut replies, status), None);
        }
        assert_eq!(replies.end(TIME), None);
    }

    #[test]
    fn what_cannot_be_told_is_lost_and_so_is_what_follows() {
        // Two at once; the middle of an answer; one that announces another.
        for (count, status) in [(2, 200), (1, 0), (1, 100)] {
            let mut replies = Replies::default();
            requests(&mut replies, count);
            assert_eq!(
                received(&mut replies, status),
                Some((News::Lost, 0, 0)),
                "{count} {status}"
            );
            assert_eq!(requests(&mut replies, 1), [None]);
            assert_eq!(received(&mut replies, 200), None);
            assert_eq!(replies.end(TIME), None);
        }
    }

    #[test]
    fn an_answer_may_come_before_the_end_of_its_send() {
        let mut replies = Replies::default();
        let early = Received {
            status: 404,
            time: TIME,
        };
        assert_eq!(replies.received(early, true, true), None);
        requests(&mut replies, 1);
        assert_eq!(brief(replies.sent(false)), Some((News::Answer, 0, 404)));
        assert_eq!(replies.sent(false), None);
        // An answer to a send without the end of a head.
        assert_eq!(replies.received(early, true, true), None);
        assert_eq!(replies.sent(true), None);
        assert_eq!(requests(&mut replies, 1), [None]);
    }

    #[test]
    fn an_answer_to_half_a_head_is_nobodys() {
        let mut replies = Replies::default();
        let early = Received {
            status: 400,
            time: TIME,
        };
        assert_eq!(replies.received(early, false, true), None);
        assert_eq!(requests(&mut replies, 1), [None]);
    }

    #[test]
    fn the_end_leaves_requests_without_answer_and_a_loss_without_news() {
        let mut replies = Replies::default();
        requests(&mut replies, 3);
        assert_eq!(brief(replies.end(TIME)), Some((News::End, 0, 0)));
        assert_eq!(requests(&mut replies, 1), [Some(3)]);
        assert_eq!(brief(replies.lose(TIME)), Some((News::Lost, 3, 0)));
        assert_eq!(requests(&mut Replies::lost(), 1), [None]);

        let mut replies = Replies::default();
        requests(&mut replies, 1);
        replies.doubt();
        assert_eq!(brief(replies.end(TIME)), Some((News::Lost, 0, 0)));
    }
}
