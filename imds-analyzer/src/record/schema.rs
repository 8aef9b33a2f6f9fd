//! The JSON Schema of the records, derived from the types for writing and reading. It allows only the fields and words
//! that this version writes.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use schemars::{
    JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema, transform::RecursiveTransform,
};
use serde_json::{Value, json};

use super::{
    Action, Envelope, Record,
    attempt::Attempt,
    noise::{FirstSeen, RateLimited},
    notice::{Loss, Rehearsal, Start, Summary, Watching},
    request::Request,
};

/// Writes the schema (draft 2020-12).
pub fn write(out: &mut impl Write) -> io::Result<()> {
    print(&schema(), out)
}

/// Writes any schema.
pub fn print(schema: &Schema, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, schema)?;
    out.write_all(b"\n")
}

fn schema() -> Schema {
    let mut schema = SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(RecursiveTransform(without_null))
        .into_generator()
        .into_root_schema_for::<Record<'_>>();
    schema.insert("title".to_owned(), "A record of imds-analyzer".into());
    schema
}

impl JsonSchema for Record<'_> {
    fn schema_name() -> Cow<'static, str> {
        "Record".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let any_of = [
            kind::<Request<'_>>(generator, "RequestRecord", Action::Request),
            kind::<Attempt<'_>>(generator, "AttemptRecord", Action::Attempt),
            kind::<Start<'_>>(generator, "StartRecord", Action::Start),
            kind::<Watching<'_>>(generator, "WatchingRecord", Action::Watching),
            kind::<Loss<'_>>(generator, "LossRecord", Action::Loss),
            kind::<FirstSeen<'_>>(generator, "FirstSeenRecord", Action::FirstSeen),
            kind::<RateLimited<'_>>(generator, "RateLimitedRecord", Action::RateLimited),
            kind::<Rehearsal<'_>>(generator, "RehearsalRecord", Action::Rehearsal),
            kind::<Summary<'_>>(generator, "SummaryRecord", Action::Summary),
        ];
        json_schema!({ "description": "One line of output.", "anyOf": any_of })
    }
}

/// A reference to the schema of one kind of record: the envelope's fields with this `event.action`, and the fields of
/// `T`.
fn kind<T: JsonSchema>(generator: &mut SchemaGenerator, name: &str, action: Action) -> Value {
    let envelope = Envelope::json_schema(generator);
    let mut schema = T::json_schema(generator);
    for list in ["properties", "required"] {
        let merged = match (envelope.get(list), schema.remove(list)) {
            (Some(Value::Object(first)), Some(Value::Object(rest))) => first.clone().into_iter().chain(rest).collect(),
            (Some(Value::Array(first)), Some(Value::Array(rest))) => first.iter().cloned().chain(rest).collect(),
            (first, rest) => first.cloned().or(rest).unwrap_or_default(),
        };
        schema.insert(list.to_owned(), merged);
    }
    if let Some(Value::Object(event)) = schema.pointer_mut("/properties/event") {
        event.insert(
            "properties".to_owned(),
            json!({ "action": { "const": action.as_str() } }),
        );
    }
    generator.definitions_mut().insert(name.to_owned(), schema.to_value());
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// Removes null from the types: schemars describes an `Option` as nullable, but records leave absent values out.
pub(crate) fn without_null(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(words)) = schema.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            for (name, value) in only {
                schema.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{
        json,
        tests::{full_event, full_host, golden, minimal_event, notices, unknown_event},
    };

    #[test]
    fn every_record_is_valid() {
        let schema = serde_json::to_value(schema()).expect("JSON");
        assert!(jsonschema::meta::is_valid(&schema));
        let validator = jsonschema::validator_for(&schema).expect("a schema");

        let mut records: Vec<Vec<u8>> = [full_event(), minimal_event(), unknown_event()]
            .iter()
            .map(|event| json::line(&Record::of_request(event, &full_host())).expect("no I/O"))
            .collect();
        notices(|time, notice| {
            records.push(json::line(&Record::of_notice(time, notice, &full_host())).expect("no I/O"))
        });
        for record in &records {
            let mut record: Value = serde_json::from_slice(record).expect("JSON");
            assert!(
                validator.is_valid(&record),
                "{:?}",
                validator.iter_errors(&record).collect::<Vec<_>>()
            );
            let mut open = record.clone();
            open["imds"]["surprise"] = Value::from(1);
            assert!(
                !validator.is_valid(&open),
                "a field that is not described is valid in {open}"
            );
            record["event"]["action"] = Value::from("imds-other");
            assert!(!validator.is_valid(&record), "the action tells records apart: {record}");
        }
    }

    #[test]
    fn schema_is_as_published() {
        let mut text = Vec::new();
        write(&mut text).expect("no I/O");
        golden("schema.json", &String::from_utf8(text).expect("UTF-8"));
    }

    #[test]
    fn every_object_is_closed_and_nothing_is_null() {
        fn check(schema: &Value) {
            assert_ne!(schema, "null");
            if schema.get("type").is_some_and(|name| name == "object") {
                let closed = ["additionalProperties", "unevaluatedProperties"];
                assert!(closed.iter().any(|key| schema.get(key).is_some()), "{schema:#}");
            }
            match schema {
                Value::Object(fields) => fields.values().for_each(check),
                Value::Array(values) => values.iter().for_each(check),
                _ => {}
            }
        }
        check(&serde_json::to_value(schema()).expect("JSON"));
    }
}
