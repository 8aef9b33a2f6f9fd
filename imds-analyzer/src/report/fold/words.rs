//! Small sums: counts of words, and the last of something.

use std::{cmp::Ordering, marker::PhantomData};

use crate::{report::watched::Time, vocabulary::Vocabulary};

/// Counts of the words of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words<T>(Box<[u64]>, PhantomData<T>);

impl<T: Vocabulary> Default for Words<T> {
    fn default() -> Self {
        Self(Box::default(), PhantomData)
    }
}

impl<T: Vocabulary> Words<T> {
    pub fn add(&mut self, word: T, count: u64) {
        if self.0.is_empty() {
            self.0 = vec![0; T::ALL.len()].into();
        }
        if let Some(at) = T::ALL.iter().position(|other| *other == word)
            && let Some(sum) = self.0.get_mut(at)
        {
            *sum = sum.saturating_add(count);
        }
    }

    pub fn of(&self, word: T) -> u64 {
        self.iter()
            .find(|(other, _)| *other == word)
            .map_or(0, |(_, count)| count)
    }

    /// The words that were counted.
    pub fn iter(&self) -> impl Iterator<Item = (T, u64)> {
        T::ALL
            .iter()
            .copied()
            .zip(self.0.iter().copied())
            .filter(|(_, count)| *count > 0)
    }

    pub fn merge(&mut self, other: &Self) {
        other.iter().for_each(|(word, count)| self.add(word, count));
    }
}

/// Something kept of records, which is compared with that of the next record before it is copied.
pub trait Kept: Ord {
    type Seen<'a>;

    fn compare(&self, seen: &Self::Seen<'_>) -> Ordering;
    fn keep(seen: Self::Seen<'_>) -> Self;
}

impl Kept for Box<str> {
    type Seen<'a> = &'a str;

    fn compare(&self, seen: &&str) -> Ordering {
        (**self).cmp(seen)
    }

    fn keep(seen: &str) -> Self {
        seen.into()
    }
}

impl Kept for (Box<str>, Box<str>) {
    type Seen<'a> = (&'a str, &'a str);

    fn compare(&self, seen: &(&str, &str)) -> Ordering {
        (&*self.0, &*self.1).cmp(seen)
    }

    fn keep((a, b): (&str, &str)) -> Self {
        (a.into(), b.into())
    }
}

/// What is known of the last of something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Last<T> {
    time: Time,
    pub value: Option<T>,
}

impl<T> Default for Last<T> {
    fn default() -> Self {
        Self { time: 0, value: None }
    }
}

impl<T: Kept> Last<T> {
    pub fn at(&mut self, time: Time, seen: T::Seen<'_>) {
        let order = self.value.as_ref().map(|kept| kept.compare(&seen));
        // Of those of the same time, the greatest: the order of lines makes no difference.
        if order.is_some_and(|order| (self.time, order) > (time, Ordering::Equal)) {
            return;
        }
        self.time = time;
        if order != Some(Ordering::Equal) {
            self.value = Some(T::keep(seen));
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        if other > *self {
            *self = other;
        }
    }
}
