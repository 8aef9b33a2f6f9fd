//! Closed lists of words. Each word is written once, beside the value it stands for; records, text and the journal take it
//! from there, and a record that is read back finds its value there.

use imds_analyzer_ebpf::{
    abi::{OwnerHook, exchange::Outcome},
    classify::{PathClass, Reason, Verdict, Version},
};

/// A type whose values are written as one word each.
pub trait Vocabulary: Copy + PartialEq + 'static {
    const ALL: &'static [Self];
    /// The name of the list in the JSON Schema's `$defs`; `None` for a list that is described where it is used.
    const DEFINITION: Option<&'static str> = None;

    fn as_str(self) -> &'static str;

    /// The value that `word` stands for.
    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|value| value.as_str() == word)
    }
}

/// Defines an enum with the word of each variant: `enum Level in "Level" { Info = "info" }`; the text after `in` is
/// [`Vocabulary::DEFINITION`].
macro_rules! vocabulary {
    (
        $(#[$meta:meta])*
        $visibility:vis enum $name:ident $(in $definition:literal)? {
            $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visibility enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            $visibility const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl $crate::vocabulary::Vocabulary for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            $(const DEFINITION: Option<&'static str> = Some($definition);)?

            fn as_str(self) -> &'static str {
                self.as_str()
            }
        }
    };
}

pub(crate) use vocabulary;

/// For the lists that the kernel side shares.
macro_rules! shared {
    ($($name:ident)+) => {
        $(impl Vocabulary for $name {
            const ALL: &'static [Self] = &$name::ALL;

            fn as_str(self) -> &'static str {
                self.as_str()
            }
        })+
    };
}

shared!(Outcome OwnerHook PathClass Reason Verdict Version);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_owner_of_the_abi_has_a_word() {
        let of_the_abi: Vec<OwnerHook> = (0..=u8::MAX).filter_map(OwnerHook::from_raw).collect();
        assert_eq!(of_the_abi, OwnerHook::ALL);
    }

    #[test]
    fn words_lead_back_to_their_values() {
        fn check<T: Vocabulary + std::fmt::Debug>() {
            for &value in T::ALL {
                assert_eq!(T::of_word(value.as_str()), Some(value));
            }
            assert_eq!(T::of_word(""), None);
        }
        check::<Outcome>();
        check::<OwnerHook>();
        check::<PathClass>();
        check::<Reason>();
        check::<Verdict>();
        check::<Version>();
    }
}
