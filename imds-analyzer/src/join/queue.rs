//! A bounded queue of heads in order of arrival, charged to users.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::HeadKey;

/// Heads with values. Every entry is in all tables or in none, so that one bound covers all.
#[derive(Debug)]
pub(super) struct Queue<V> {
    capacity: usize,
    /// Maximum number of entries per user.
    user_capacity: usize,
    tickets: u64,
    by_key: BTreeMap<HeadKey, u64>,
    /// Tickets rise and time never goes back, so the first entry is the oldest.
    by_ticket: BTreeMap<u64, Entry<V>>,
    by_user: BTreeSet<(u32, u64)>,
    counts: HashMap<u32, usize>,
    by_count: BTreeSet<(usize, u32)>,
}

#[derive(Debug)]
struct Entry<V> {
    key: HeadKey,
    user: u32,
    since: u64,
    value: V,
}

impl<V> Queue<V> {
    pub(super) fn new(capacity: usize, user_capacity: usize) -> Self {
        Self {
            capacity,
            user_capacity,
            tickets: 0,
            by_key: BTreeMap::new(),
            by_ticket: BTreeMap::new(),
            by_user: BTreeSet::new(),
            counts: HashMap::new(),
            by_count: BTreeSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_ticket.len()
    }

    pub(super) fn contains(&self, key: &HeadKey) -> bool {
        self.by_key.contains_key(key)
    }

    pub(super) fn get_mut(&mut self, key: &HeadKey) -> Option<&mut V> {
        let entry = self.by_ticket.get_mut(self.by_key.get(key)?)?;
        Some(&mut entry.value)
    }

    /// The heads on the socket of `key`, including `key` itself.
    pub(super) fn of_socket(&self, key: HeadKey) -> impl Iterator<Item = (HeadKey, &V)> {
        let (first, last) = (HeadKey { seq: 0, ..key }, HeadKey { seq: u32::MAX, ..key });
        let tickets = self.by_key.range(first..=last);
        tickets.filter_map(|(key, ticket)| Some((*key, &self.by_ticket.get(ticket)?.value)))
    }

    /// Adds a new head. Returns the head that it evicts: the oldest of this user if the user has its share, else the
    /// oldest of the user with the most, and with equal shares this user's.
    pub(super) fn push(&mut self, key: HeadKey, user: u32, since: u64, value: V) -> Option<(HeadKey, u32, V)> {
        // The key must be new, or its old entry would become unreachable.
        self.take(&key);
        let ticket = self.tickets;
        self.tickets += 1;
        self.by_key.insert(key, ticket);
        self.by_user.insert((user, ticket));
        let entry = Entry {
            key,
            user,
            since,
            value,
        };
        self.by_ticket.insert(ticket, entry);
        let count = self.counts.get(&user).copied().unwrap_or(0) + 1;
        self.set_count(user, count);
        let most = if count > self.user_capacity {
            user
        } else if self.len() > self.capacity {
            let (most, who) = *self.by_count.last()?;
            if most == count { user } else { who }
        } else {
            return None;
        };
        let (_, oldest) = *self.by_user.range((most, 0)..).next()?;
        self.remove(oldest)
    }

    pub(super) fn take(&mut self, key: &HeadKey) -> Option<V> {
        // The queue is nearly always empty.
        if self.by_key.is_empty() {
            return None;
        }
        let ticket = *self.by_key.get(key)?;
        self.remove(ticket).map(|(.., value)| value)
    }

    /// Arrival time of the oldest entry.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.by_ticket.first_key_value().map(|(_, entry)| entry.since)
    }

    /// The oldest entry, if it arrived at or before `until`.
    pub(super) fn take_oldest(&mut self, until: u64) -> Option<(HeadKey, u32, V)> {
        let (ticket, entry) = self.by_ticket.first_key_value()?;
        let (ticket, due) = (*ticket, entry.since <= until);
        if due { self.remove(ticket) } else { None }
    }

    fn remove(&mut self, ticket: u64) -> Option<(HeadKey, u32, V)> {
        let Entry { key, user, value, .. } = self.by_ticket.remove(&ticket)?;
        self.by_key.remove(&key);
        self.by_user.remove(&(user, ticket));
        let count = self.counts.get(&user).copied().unwrap_or(0);
        self.set_count(user, count.saturating_sub(1));
        Some((key, user, value))
    }

    fn set_count(&mut self, user: u32, count: usize) {
        let before = match count {
            0 => self.counts.remove(&user),
            _ => self.counts.insert(user, count),
        };
        if let Some(before) = before {
            self.by_count.remove(&(before, user));
        }
        if count > 0 {
            self.by_count.insert((count, user));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(cookie: u64, seq: u32) -> HeadKey {
        HeadKey { cookie, sock: 1, seq }
    }

    fn queue(capacity: usize, user_capacity: usize) -> Queue<&'static str> {
        Queue::new(capacity, user_capacity)
    }

    #[test]
    fn who_has_most_makes_room() {
        let mut queue = queue(4, 4);
        for (cookie, user) in [(1, 7), (2, 8), (3, 8), (4, 9)] {
            assert!(queue.push(key(cookie, 0), user, cookie, "").is_none());
        }
        let evicted = queue.push(key(5, 0), 7, 5, "");
        assert_eq!(
            evicted.map(|(key, user, _)| (key.cookie, user)),
            Some((1, 7)),
            "7 has as many as 8 and came last"
        );
        let evicted = queue.push(key(6, 0), 9, 6, "");
        assert_eq!(evicted.map(|(key, user, _)| (key.cookie, user)), Some((4, 9)));
        let evicted = queue.push(key(7, 0), 10, 7, "");
        assert_eq!(evicted.map(|(key, user, _)| (key.cookie, user)), Some((2, 8)));
        assert_eq!(queue.len(), 4);
    }

    #[test]
    fn a_user_s_share_is_bounded() {
        let mut queue = queue(100, 2);
        for cookie in 0..10 {
            let evicted = queue.push(key(cookie, 0), 7, cookie, "");
            assert_eq!(evicted.map(|(key, ..)| key.cookie), cookie.checked_sub(2));
        }
        assert!(queue.push(key(20, 0), 8, 20, "").is_none());
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn nothing_is_left_of_what_went() {
        let mut queue = queue(10, 10);
        for round in 0..1000 {
            queue.push(key(round, 0), 7, round, "a");
            queue.push(key(round, 0), 8, round, "b");
            assert_eq!(queue.take(&key(round, 0)), Some("b"), "the later one replaces");
        }
        let Queue {
            by_key,
            by_ticket,
            by_user,
            counts,
            by_count,
            ..
        } = &queue;
        let sizes = [
            by_key.len(),
            by_ticket.len(),
            by_user.len(),
            counts.len(),
            by_count.len(),
        ];
        assert_eq!(sizes, [0; 5]);
    }

    #[test]
    fn the_oldest_comes_first_and_when_it_is_due() {
        let mut queue = queue(10, 10);
        queue.push(key(1, 0), 7, 100, "a");
        queue.push(key(2, 0), 7, 200, "b");
        assert_eq!(queue.oldest(), Some(100));
        assert!(queue.take_oldest(99).is_none());
        assert_eq!(queue.take_oldest(150).map(|(.., value)| value), Some("a"));
        assert!(queue.take_oldest(150).is_none());
        assert_eq!(queue.oldest(), Some(200));
    }

    #[test]
    fn a_socket_s_heads_are_found_together() {
        let mut queue = queue(10, 10);
        for (cookie, seq) in [(1, u32::MAX), (2, 0), (2, 5), (2, u32::MAX), (3, 0)] {
            queue.push(key(cookie, seq), 7, 0, "");
        }
        let seqs: Vec<u32> = queue.of_socket(key(2, 77)).map(|(key, _)| key.seq).collect();
        assert_eq!(seqs, [0, 5, u32::MAX]);
    }
}
