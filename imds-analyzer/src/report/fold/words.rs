//! Small sums: counts of words, and the last of something.

use std::marker::PhantomData;

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

impl<T: Ord> Last<T> {
    /// `value` is made only if it is later than the one that is known.
    pub(super) fn at(&mut self, time: Time, value: impl FnOnce() -> T) {
        if self.value.is_none() || time > self.time {
            *self = Self {
                time,
                value: Some(value()),
            };
        } else if time == self.time {
            // So that the order of lines makes no difference.
            let value = Some(value());
            if value > self.value {
                self.value = value;
            }
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        if other > *self {
            *self = other;
        }
    }
}
