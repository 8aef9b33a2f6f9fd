//! Compares versions by the rules of their ecosystems.

use std::cmp::Ordering;

use serde::Deserialize;

/// The rules of an ecosystem. They differ in the words that mean a pre-release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scheme {
    /// Numbers and dots. Anything else comes before the release: Go, npm, Ruby.
    #[default]
    Semver,
    /// Python: `1.0.dev1 < 1.0a1 < 1.0rc1 < 1.0 < 1.0.post1`.
    Pep440,
    /// Maven: `1.0-alpha < 1.0-SNAPSHOT < 1.0 < 1.0-sp`.
    Maven,
}

/// A part of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part<'a> {
    Number(&'a str),
    Word(&'a str),
}

impl Scheme {
    /// Compares two versions. Accepts any text.
    pub(super) fn compare(self, one: &str, other: &str) -> Ordering {
        let (mut one, mut other) = (parts(self, one), parts(self, other));
        loop {
            let (a, b) = (one.next(), other.next());
            let order = match (a, b) {
                (None, None) => return Ordering::Equal,
                (Some(part), None) => self.against_end(part),
                (None, Some(part)) => self.against_end(part).reverse(),
                (Some(Part::Number(a)), Some(Part::Number(b))) => number(a, b),
                (Some(Part::Word(a)), Some(Part::Word(b))) => self.rank(a).cmp(&self.rank(b)).then_with(|| a.cmp(b)),
                // A number is a later release than any word: 1.0.1 > 1.0.rc1. This also holds for 1.0.post1 < 1.0.1.
                (Some(Part::Number(_)), Some(Part::Word(_))) => Ordering::Greater,
                (Some(Part::Word(_)), Some(Part::Number(_))) => Ordering::Less,
            };
            if order != Ordering::Equal {
                return order;
            }
        }
    }

    /// Compares a part with the end of the other version: 1.0 = 1.0.0, 1.0 < 1.0.1, 1.0 > 1.0rc1.
    fn against_end(self, part: Part<'_>) -> Ordering {
        match part {
            Part::Number(digits) => number(digits, "0"),
            Part::Word(word) => self.rank(word).cmp(&0),
        }
    }

    /// The position of a word: before the release (below 0), at it (0), or after it.
    fn rank(self, word: &str) -> i8 {
        let is = |words: &[&str]| words.iter().any(|other| word.eq_ignore_ascii_case(other));
        match self {
            Self::Semver => -1,
            Self::Pep440 | Self::Maven if is(&["dev"]) => -6,
            Self::Pep440 | Self::Maven if is(&["a", "alpha"]) => -5,
            Self::Pep440 | Self::Maven if is(&["b", "beta"]) => -4,
            Self::Pep440 | Self::Maven if is(&["m", "milestone"]) => -3,
            Self::Pep440 | Self::Maven if is(&["rc", "c", "cr", "pre", "preview"]) => -2,
            Self::Maven if is(&["snapshot"]) => -1,
            Self::Maven if is(&["final", "ga", "release"]) => 0,
            Self::Pep440 if is(&["post", "rev", "r"]) => 1,
            Self::Maven => 1,
            Self::Pep440 => -1,
        }
    }
}

/// Compares numbers of any length.
fn number(one: &str, other: &str) -> Ordering {
    let (one, other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

/// Splits a version into digits and letters, in turns. Build metadata (`+incompatible`) and a leading `v` do not affect
/// the order.
fn parts(scheme: Scheme, version: &str) -> impl Iterator<Item = Part<'_>> {
    let version = version.trim().trim_start_matches(['v', 'V']);
    let version = match scheme {
        Scheme::Semver | Scheme::Pep440 => version.split('+').next().unwrap_or(version),
        Scheme::Maven => version,
    };
    // A missing epoch is 0, and none of the clients here has another epoch.
    let mut rest = version.strip_prefix("0!").unwrap_or(version);
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|char: char| !char.is_ascii_alphanumeric());
        let first = rest.chars().next()?;
        let is_digit = first.is_ascii_digit();
        let end = rest
            .find(|char: char| !char.is_ascii_alphanumeric() || char.is_ascii_digit() != is_digit)
            .unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        rest = after;
        Some(if is_digit { Part::Number(part) } else { Part::Word(part) })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    /// Lines of versions in order, according to their ecosystems' own tools (`packaging.version`, `Gem::Version`,
    /// semver.org, Maven's `ComparableVersion`).
    const ORDERED: [(Scheme, &str); 8] = [
        (
            Scheme::Semver,
            "1.9.0 < 1.10.0 < 1.25.37 < 1.25.38 < 2.0.0-rc.1 < 2.0.0",
        ),
        (
            Scheme::Semver,
            "0.0.1-alpha < 0.0.1-alpha.1 < 0.0.1-beta < 0.0.1 < v0.19.0 < 7.0.0+incompatible",
        ),
        (Scheme::Semver, "2.400.0 < 2.721.9 < 2.722.0 < 2.1692.0 < 3.0.0"),
        (Scheme::Semver, "2.11.400 < 2.11.401 < 3.79.0.rc1 < 3.79.0 < 3.100.0"),
        (
            Scheme::Pep440,
            "1.12.dev1 < 1.12a1 < 1.12b2 < 1.12rc1 < 1.12 < 1.12.post1 < 1.12.253 < 1.13.25",
        ),
        (Scheme::Pep440, "1.16.288 < 1.16.289 < 2.0.0dev116 < 2.0.0 < 2.15.1"),
        (Scheme::Maven, "1.11.534.1 < 1.11.677 < 1.11.678 < 1.12.0"),
        (
            Scheme::Maven,
            "2.10.21-alpha < 2.10.21-beta-1 < 2.10.21-rc1 < 2.10.21-SNAPSHOT < 2.10.21 < 2.10.21-sp < 2.10.22",
        ),
    ];

    #[test]
    fn versions_are_in_their_order() {
        for (scheme, line) in ORDERED {
            let versions: Vec<&str> = line.split(" < ").collect();
            for (i, one) in versions.iter().enumerate() {
                for (j, other) in versions.iter().enumerate() {
                    assert_eq!(scheme.compare(one, other), i.cmp(&j), "{scheme:?}: {one} and {other}");
                }
            }
        }
    }

    #[test]
    fn the_same_in_other_words() {
        for (scheme, one, other) in [
            (Scheme::Semver, "1.0", "v1.0.0"),
            (Scheme::Semver, "1.0.0+incompatible", "1.0.0"),
            (Scheme::Pep440, "1.0.0", "1"),
            (Scheme::Pep440, "1.0+local", "1.0"),
            (Scheme::Maven, "1.0.Final", "1.0"),
            (Scheme::Semver, "1.00000000000000000000000000007", "1.7"),
        ] {
            assert_eq!(scheme.compare(one, other), Ordering::Equal, "{one} and {other}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_version(one in ".{0,20}", other in ".{0,20}") {
            for scheme in [Scheme::Semver, Scheme::Pep440, Scheme::Maven] {
                prop_assert_eq!(scheme.compare(&one, &other), scheme.compare(&other, &one).reverse());
                prop_assert_eq!(scheme.compare(&one, &one), Ordering::Equal);
            }
        }
    }
}
