//! Recognises a container's request that its rootless network helper repeats.
//!
//! The helper (slirp4netns, pasta, rootlesskit) reads the container's packets from a tun device and repeats the call on
//! its own socket, so both are seen. The helper's request is marked only if the container's request was seen just
//! before, in another network namespace and with the same bytes. Each request explains one other. So nobody can hide a
//! call by being, or pretending to be, a helper.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
};

use imds_analyzer_ebpf::abi::{Request, request_flags};

/// Maximum number of requests remembered. The oldest is dropped first.
const SENT_MAX: usize = 1024;
/// Maximum delay of a helper, in nanoseconds.
const WINDOW: u64 = 10_000_000_000;

/// Remembers requests from network namespaces other than the host's.
#[derive(Debug, Default)]
pub(super) struct Relays {
    sent: VecDeque<Sent>,
    /// Secret, so that nobody can choose requests that collide.
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    time: u64,
    net_ns: u32,
    content: u64,
}

impl Relays {
    /// True if the sender of `request`, a network helper, repeats a request that another process sent before.
    pub(super) fn is_relayed(&mut self, request: &Request, capture: &[u8]) -> bool {
        let content = self.content(request, capture);
        let is_it = |sent: &Sent| {
            let age = request.header.time.checked_sub(sent.time);
            sent.content == content && sent.net_ns != request.net_ns && age.is_some_and(|age| age <= WINDOW)
        };
        match self.sent.iter().position(is_it) {
            Some(index) => self.sent.remove(index).is_some(),
            None => false,
        }
    }

    /// Remembers a request that a helper may repeat.
    pub(super) fn sent(&mut self, request: &Request, capture: &[u8]) {
        // A request that never leaves its namespace is not repeated.
        if request.flags & request_flags::LOCAL != 0 {
            return;
        }
        let sent = Sent {
            time: request.header.time,
            net_ns: request.net_ns,
            content: self.content(request, capture),
        };
        self.sent.push_back(sent);
        let is_old = |sent: &Sent| request.header.time.saturating_sub(sent.time) > WINDOW;
        while self.sent.len() > SENT_MAX || self.sent.front().is_some_and(is_old) {
            self.sent.pop_front();
        }
    }

    /// Hash of the captured head, its length and its verdict.
    fn content(&self, request: &Request, capture: &[u8]) -> u64 {
        let judged = (request.verdict, request.reason, request.facts, request.head_len);
        let peer = (request.destination, request.destination_port);
        self.hasher.hash_one((judged, peer, capture))
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    fn request(net_ns: u32, time: u64) -> Request {
        let mut request = Request::new_zeroed();
        (request.net_ns, request.header.time, request.head_len) = (net_ns, time, 50);
        request
    }

    const HEAD: &[u8] = b"GET /latest/meta-data/ HTTP/1.1\r\n";

    #[test]
    fn a_request_explains_one_other_of_the_same_bytes() {
        let mut relays = Relays::default();
        assert!(!relays.is_relayed(&request(1, 10), HEAD), "nobody sent it before");
        relays.sent(&request(2, 10), HEAD);
        assert!(!relays.is_relayed(&request(1, 20), b"GET /latest/user-data HTTP/1.1\r\n"));
        let longer = Request {
            head_len: 51,
            ..request(1, 20)
        };
        assert!(!relays.is_relayed(&longer, HEAD), "with other headers");
        assert!(!relays.is_relayed(&request(2, 20), HEAD), "in the same namespace");
        assert!(!relays.is_relayed(&request(1, 9), HEAD), "before it");
        assert!(!relays.is_relayed(&request(1, 11 + WINDOW), HEAD), "long after it");
        assert!(relays.is_relayed(&request(1, 20), HEAD));
        assert!(!relays.is_relayed(&request(1, 21), HEAD), "once");
    }

    #[test]
    fn two_containers_with_the_same_request_are_two() {
        let mut relays = Relays::default();
        relays.sent(&request(2, 10), HEAD);
        relays.sent(&request(3, 10), HEAD);
        assert!(relays.is_relayed(&request(1, 20), HEAD) && relays.is_relayed(&request(1, 20), HEAD));
        assert!(!relays.is_relayed(&request(1, 20), HEAD));
    }

    #[test]
    fn a_call_to_the_namespace_s_own_address_is_sent_on_by_nobody() {
        let mut relays = Relays::default();
        let local = Request {
            flags: request_flags::LOCAL,
            ..request(2, 10)
        };
        relays.sent(&local, HEAD);
        assert!(!relays.is_relayed(&request(1, 20), HEAD));
    }

    #[test]
    fn memory_is_bounded() {
        let mut relays = Relays::default();
        for time in 0..2 * SENT_MAX as u64 {
            relays.sent(&request(2, time), HEAD);
        }
        assert_eq!(relays.sent.len(), SENT_MAX);
        relays.sent(&request(2, 3 * WINDOW), HEAD);
        assert_eq!(relays.sent.len(), 1);
    }
}
