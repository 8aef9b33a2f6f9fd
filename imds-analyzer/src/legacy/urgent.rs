//! Urgent bytes (`MSG_OOB`, RFC 6093): a receiver may remove one from the stream, or, with `tcp_stdurg`, the byte
//! behind it, or neither. The stream is read in all three ways until they agree again on where a head begins.

use std::collections::VecDeque;

use imds_analyzer_ebpf::{
    classify::{Classifier, Reason, Step},
    follow::is_before,
};

/// Maximum number of urgent bytes that are announced but not yet seen: TCP announces one at a time, rarely far ahead.
const EXPECTED_MAX: usize = 64;

/// The urgent bytes of one connection.
#[derive(Default)]
pub(super) struct Urgent {
    /// Positions of urgent bytes that have not arrived, in order.
    expected: VecDeque<u32>,
    /// Position of the last urgent byte that arrived.
    last: Option<u32>,
    /// Two readings, without the last urgent byte and without the byte behind it; empty while all readings agree.
    readings: Vec<Classifier>,
    /// Number of heads in each reading, and in the unchanged stream, since the readings differ.
    heads: [u32; 2],
    own_heads: u32,
    /// True once no reading of the stream is certain.
    lost: bool,
}

impl Urgent {
    /// Notes that the byte at `position`, which has not arrived, is urgent.
    pub(super) fn expect(&mut self, position: u32, classifier: &mut Classifier) {
        if self.lost || self.expected.contains(&position) {
            return;
        }
        if self.expected.len() == EXPECTED_MAX {
            return self.give_up(classifier);
        }
        let place = self.expected.partition_point(|known| is_before(*known, position));
        self.expected.insert(place, position);
    }

    /// True if the byte at `position` is already known to be urgent.
    pub(super) fn knows(&self, position: u32) -> bool {
        self.lost || self.last == Some(position) || self.expected.contains(&position)
    }

    /// Gives up: from now on any byte may be urgent.
    pub(super) fn give_up(&mut self, classifier: &mut Classifier) {
        classifier.spoil(Reason::Urgent);
        self.expected.clear();
        self.readings.clear();
        self.lost = true;
    }

    /// True if heads that begin now are unknown.
    pub(super) fn is_spoiling(&self) -> bool {
        self.lost || !self.readings.is_empty()
    }

    /// Notes that `missing` bytes at `position` are not seen; `u32::MAX` if their number is unknown.
    pub(super) fn gap(&mut self, position: u32, missing: u32, classifier: &mut Classifier) {
        let end = position.wrapping_add(missing);
        let passed = |at: &u32| missing == u32::MAX || is_before(*at, end);
        if !self.readings.is_empty() || self.expected.front().is_some_and(passed) {
            self.give_up(classifier);
        }
    }

    /// To be called before the byte at `position` is pushed.
    pub(super) fn before(&mut self, position: u32, classifier: &mut Classifier) {
        if self.expected.front() != Some(&position) {
            return;
        }
        self.expected.pop_front();
        self.last = Some(position);
        if self.readings.is_empty() {
            self.readings = vec![*classifier; 2];
            classifier.spoil(Reason::Urgent);
        } else {
            // A receiver may know one of the two urgent bytes, or both.
            self.give_up(classifier);
        }
    }

    /// To be called after the byte at `position` was pushed. Once the readings agree again, returns the number of heads
    /// that another reading had and the unchanged stream did not.
    pub(super) fn after(&mut self, position: u32, byte: u8, step: Step, classifier: &mut Classifier) -> u32 {
        let Some(last) = self.last.filter(|_| !self.readings.is_empty()) else {
            return 0;
        };
        let left_out = [last, last.wrapping_add(1)];
        for ((reading, left_out), heads) in self.readings.iter_mut().zip(left_out).zip(&mut self.heads) {
            if position != left_out {
                let is_head = reading.push(byte) == Step::Head && reading.head().reason != Some(Reason::NotHttp);
                *heads += u32::from(is_head);
            }
        }
        self.own_heads += u32::from(step == Step::Head);
        let agree = classifier.is_between_heads() && self.readings.iter().all(Classifier::is_between_heads);
        if agree && position != last {
            self.readings.clear();
            classifier.end_spoil();
            return self.hidden();
        }
        0
    }

    /// The number of heads that another reading had and the unchanged stream did not, since the readings differ.
    pub(super) fn hidden(&mut self) -> u32 {
        let [one, other] = std::mem::take(&mut self.heads);
        one.max(other).saturating_sub(std::mem::take(&mut self.own_heads))
    }
}
