//! Lists that can be written without a copy.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A list of `R`. For writing, each `R` is made from an `L` of the event as the list is serialized. For reading, all
/// are here.
#[derive(Clone, Debug)]
pub enum List<'a, L, R> {
    Live(&'a [L]),
    Read(Vec<R>),
}

impl<'a, L, R: From<&'a L> + Clone> List<'a, L, R> {
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Live(list) => list.is_empty(),
            Self::Read(list) => list.is_empty(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Cow<'_, R>> {
        let (live, read) = match self {
            Self::Live(list) => (*list, Default::default()),
            Self::Read(list) => (Default::default(), list.as_slice()),
        };
        let live = live.iter().map(|item| Cow::Owned(R::from(item)));
        live.chain(read.iter().map(Cow::Borrowed))
    }
}

impl<L, R> Default for List<'_, L, R> {
    fn default() -> Self {
        Self::Read(Vec::new())
    }
}

impl<'a, L, R: From<&'a L> + Clone + PartialEq> PartialEq for List<'a, L, R> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a, L, R: From<&'a L> + Clone + Serialize> Serialize for List<'a, L, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Live(list) => serializer.collect_seq(list.iter().map(R::from)),
            Self::Read(list) => serializer.collect_seq(list),
        }
    }
}

impl<'de, L, R: Deserialize<'de>> Deserialize<'de> for List<'_, L, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::Read)
    }
}

/// A list of objects with a schema gets its own schema: `Ancestors` for `Ancestor`.
impl<L, R: JsonSchema> JsonSchema for List<'_, L, R> {
    fn inline_schema() -> bool {
        R::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}s", R::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<R>::json_schema(generator)
    }
}
