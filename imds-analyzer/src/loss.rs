//! Everything that is lost or left out between the kernel and the sinks, counted by kind.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};

mod kind;

pub use self::kind::{Class, Kind};

/// How much was lost, by kind, in the order of [`Kind::ALL`]. Kinds with a count of 0 are left out.
///
/// As text it is one sentence on what was lost, and one on what is only worth a note, if anything is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(
    rename = "LossCounts",
    description = "How much was lost, by kind; kinds with a count of 0 are left out."
)]
pub struct Ledger(#[schemars(with = "BTreeMap<String, u64>")] BTreeMap<Kind, u64>);

impl Ledger {
    /// Adds `count` to the count of `kind`.
    pub fn add(&mut self, kind: impl Into<Kind>, count: u64) {
        if count > 0 {
            let sum = self.0.entry(kind.into()).or_default();
            *sum = sum.saturating_add(count);
        }
    }

    /// Adds all counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (kind, count) in other.iter() {
            self.add(kind, count);
        }
    }

    /// The counts since `before`, an earlier state of this ledger.
    pub fn since(&self, before: &Self) -> Self {
        self.iter()
            .map(|(kind, count)| (kind, count.saturating_sub(before.of(kind))))
            .collect()
    }

    /// The larger count of each kind, for two accounts of the same losses.
    pub fn most(&self, other: &Self) -> Self {
        let mut most = self.clone();
        for (kind, count) in other.iter() {
            most.add(kind, count.saturating_sub(self.of(kind)));
        }
        most
    }

    /// The count of `kind`.
    pub fn of(&self, kind: impl Into<Kind>) -> u64 {
        self.0.get(&kind.into()).copied().unwrap_or_default()
    }

    /// Kinds with a count other than 0, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, u64)> {
        self.0.iter().map(|(&kind, &count)| (kind, count))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if something was lost. Notes alone do not count.
    pub fn has_loss(&self) -> bool {
        self.iter().any(|(kind, _)| kind.class() == Class::Loss)
    }
}

impl<K: Into<Kind>> FromIterator<(K, u64)> for Ledger {
    fn from_iter<I: IntoIterator<Item = (K, u64)>>(counts: I) -> Self {
        let mut ledger = Self::default();
        for (kind, count) in counts {
            ledger.add(kind, count);
        }
        ledger
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = |class: Class, heading: &str| {
            let mut separator = heading;
            for (kind, count) in self.iter().filter(|(kind, _)| kind.class() == class) {
                write!(f, "{separator}{count} {}", kind.words(count))?;
                separator = "; ";
            }
            f.write_str(match (separator == heading, class) {
                (false, _) => ".",
                (true, Class::Loss) => "Nothing lost.",
                (true, Class::Note) => "",
            })
        };
        list(Class::Loss, "Lost: ")?;
        list(Class::Note, " Note: ")
    }
}

impl<'de> Deserialize<'de> for Ledger {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Counts)
    }
}

/// Reads a map of kinds and counts. Adds up the counts of names that mean the same kind.
struct Counts;

impl<'de> Visitor<'de> for Counts {
    type Value = Ledger;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of kinds of loss and counts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ledger, A::Error> {
        let mut ledger = Ledger::default();
        while let Some((kind, count)) = map.next_entry::<Kind, u64>()? {
            ledger.add(kind, count);
        }
        Ok(ledger)
    }
}

#[cfg(test)]
mod tests {
    use imds_analyzer_ebpf::abi::Loss;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::*;

    fn ledger<const N: usize>(counts: [(Kind, u64); N]) -> Ledger {
        counts.into_iter().collect()
    }

    #[test]
    fn counts_of_one_kind_are_summed() {
        let mut both = ledger([(Kind::SendGaps, 1), (Loss::GapBytes.into(), 5)]);
        both.merge(&ledger([(Loss::GapBytes.into(), 7), (Kind::LateHeads, 1)]));
        both.add(Loss::GapBytes, 0);
        assert_eq!(both.of(Loss::GapBytes), 12);
        assert_eq!(
            serde_json::to_string(&both).expect("JSON"),
            r#"{"gap_bytes":12,"send_gaps":1,"late_heads":1}"#
        );
    }

    #[test]
    fn a_sum_stays_at_the_largest_number() {
        let mut full = ledger([(Kind::SendGaps, u64::MAX)]);
        full.add(Kind::SendGaps, 1);
        assert_eq!(full.of(Kind::SendGaps), u64::MAX);
    }

    #[test]
    fn only_what_is_new_is_left() {
        let before = ledger([(Kind::SendGaps, 2), (Kind::LateHeads, 1)]);
        let mut now = before.clone();
        assert!(now.since(&before).is_empty());
        now.add(Kind::SendGaps, 3);
        now.add(Kind::PerfRecords, 4);
        assert_eq!(
            now.since(&before),
            ledger([(Kind::SendGaps, 3), (Kind::PerfRecords, 4)])
        );
    }

    #[test]
    fn of_two_accounts_the_larger_counts() {
        let one = ledger([(Kind::SendGaps, 2), (Kind::LateHeads, 1)]);
        let other = ledger([(Kind::SendGaps, 5), (Kind::PerfRecords, 4)]);
        let most = ledger([(Kind::SendGaps, 5), (Kind::LateHeads, 1), (Kind::PerfRecords, 4)]);
        assert_eq!(one.most(&other), most);
        assert_eq!(other.most(&one), most);
    }

    #[test]
    fn says_what_was_lost() {
        assert_eq!(Ledger::default().to_string(), "Nothing lost.");
        assert_eq!(ledger([(Loss::RequestRing.into(), 0)]).to_string(), "Nothing lost.");
        assert_eq!(
            ledger([
                (Loss::RequestRing.into(), 2),
                (Loss::GapBytes.into(), 1),
                (Kind::DecodeShort, 3)
            ])
            .to_string(),
            "Lost: 2 requests not reported (buffer full); 1 byte of IMDS traffic not seen; 3 records from the kernel cut short."
        );
    }

    #[test]
    fn details_are_noted_and_not_lost() {
        let notes = ledger([(Kind::ProcessReadFailures, 1)]);
        assert!(!notes.has_loss());
        assert_eq!(
            notes.to_string(),
            "Nothing lost. Note: 1 process detail that could not be read from /proc."
        );
        let both = ledger([
            (Kind::ContainerNamesOverdue, 1),
            (Loss::GapBytes.into(), 2),
            (Loss::SpareState.into(), 2),
        ]);
        assert!(both.has_loss());
        assert_eq!(
            both.to_string(),
            "Lost: 2 bytes of IMDS traffic not seen. Note: 2 connections tracked in spare memory (their own was full); 1 container \
             name not found in time."
        );
    }

    #[test]
    fn kinds_of_a_newer_version_are_not_forgotten() {
        let read: Ledger = serde_json::from_str(r#"{"gap_bytes":1,"later_a":2,"later_b":3}"#).expect("a ledger");
        assert_eq!(read, ledger([(Loss::GapBytes.into(), 1), (Kind::Unrecognized, 5)]));
        for wrong in [r#"{"gap_bytes":-1}"#, r#"{"gap_bytes":"1"}"#, "[]", "null"] {
            assert!(serde_json::from_str::<Ledger>(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(counts in prop::collection::vec((0..Kind::ALL.len(), any::<u64>()), 0..8)) {
            let written: Ledger = counts.into_iter().map(|(at, count)| (Kind::ALL[at], count)).collect();
            let line = serde_json::to_vec(&written).expect("JSON");
            prop_assert_eq!(serde_json::from_slice::<Ledger>(&line).expect("a ledger"), written);
        }
    }
}
