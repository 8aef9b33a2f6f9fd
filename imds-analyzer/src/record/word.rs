//! Words from closed lists, which later versions may extend.

use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, IgnoredAny},
};

use super::Text;
use crate::vocabulary::Vocabulary;

/// A word of the list `T`. Reading keeps a word of a later version as `Other`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word<'a, T> {
    Known(T),
    Other(Text<'a>),
}

impl<T: Vocabulary> Word<'_, T> {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(value) => value.as_str(),
            Self::Other(word) => word,
        }
    }

    /// `None` for a word that this version does not know.
    pub fn known(&self) -> Option<T> {
        match self {
            Self::Known(value) => Some(*value),
            Self::Other(_) => None,
        }
    }
}

impl<T: Vocabulary> From<T> for Word<'_, T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T: Vocabulary> Serialize for Word<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de: 'a, 'a, T: Vocabulary> Deserialize<'de> for Word<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = Text::deserialize(deserializer)?;
        Ok(T::of_word(&word).map_or(Self::Other(word), Self::Known))
    }
}

impl<T: Vocabulary> JsonSchema for Word<'_, T> {
    fn inline_schema() -> bool {
        T::DEFINITION.is_none()
    }

    fn schema_name() -> Cow<'static, str> {
        T::DEFINITION.unwrap_or("Word").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = T::ALL.iter().map(|value| value.as_str()).collect();
        json_schema!({ "type": "string", "enum": words })
    }
}

/// An array of one element, which ECS requires for some fields. If a later version wrote more, reading takes the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Single<T>(pub T);

impl<T: Serialize> Serialize for Single<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        [&self.0].serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Single<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Single<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array that is not empty")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let first = array
                    .next_element()?
                    .ok_or_else(|| de::Error::invalid_length(0, &self))?;
                while array.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Single(first))
            }
        }

        deserializer.deserialize_seq(Visitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Single<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        <[T; 1]>::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        <[T; 1]>::json_schema(generator)
    }
}
