//! Finds our record inside of another tool's line: a log collector's envelope, an export of the journal or of CloudWatch.

use std::borrow::Cow;

use memchr::memmem;
use serde_json::Value;

/// How our lines begin.
const BEGINNING: &str = "{\"@timestamp\"";
/// The same inside of a JSON string.
const ESCAPED: &str = "{\\\"@timestamp\\\"";
/// A word that each of our records has.
const MARK: &str = "imds-";
/// How deep a record is looked for.
const DEPTH_MAX: usize = 6;
/// Longest line of another tool that is taken apart.
const LINE_MAX: usize = 4 << 20;

/// Our record in `line`, as a line of ours; `None` if there is none.
pub(crate) fn record(line: &str) -> Option<Cow<'_, str>> {
    let line = line.trim();
    if line.starts_with(BEGINNING) {
        return Some(Cow::Borrowed(line));
    }
    if line.len() > LINE_MAX || memmem::find(line.as_bytes(), MARK.as_bytes()).is_none() {
        return None;
    }
    // In a JSON string. Looked for first: a line of a document that spans many lines is no JSON by itself.
    if let Some(at) = memmem::find(line.as_bytes(), ESCAPED.as_bytes())
        && let Some(literal) = line
            .get(..at)
            .and_then(|before| before.rfind('"'))
            .and_then(|quote| line.get(quote..))
        && let Some(Ok(text)) = serde_json::Deserializer::from_str(literal).into_iter::<String>().next()
    {
        return Some(Cow::Owned(text.trim().to_owned()));
    }
    // In an object whose fields are in another order, or further down.
    if line.starts_with(['{', '[']) {
        let value = serde_json::from_str::<Value>(line).ok()?;
        return inside(value, DEPTH_MAX).map(|record| Cow::Owned(record.to_string()));
    }
    // After other text, such as a time.
    let at = memmem::find(line.as_bytes(), BEGINNING.as_bytes())?;
    line.get(at..).map(Cow::Borrowed)
}

fn inside(value: Value, depth: usize) -> Option<Value> {
    if is_ours(&value) {
        return Some(value);
    }
    let depth = depth.checked_sub(1)?;
    match value {
        Value::Object(fields) => fields.into_iter().find_map(|(_, value)| inside(value, depth)),
        Value::Array(values) => values.into_iter().find_map(|value| inside(value, depth)),
        Value::String(text) if text.trim_start().starts_with('{') => inside(serde_json::from_str(&text).ok()?, depth),
        _ => None,
    }
}

fn is_ours(value: &Value) -> bool {
    let action = value.pointer("/event/action").and_then(Value::as_str);
    action.is_some_and(|action| action.starts_with(MARK)) && value.pointer("/imds/schema").is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::Brief;

    const OURS: &str = include_str!("../record/fixtures/2026-11-29.jsonl");

    #[track_caller]
    fn is_found(line: &str, ours: &str) {
        let found = record(line).expect(line);
        let values = [&*found, ours].map(|text| serde_json::from_str::<Value>(text).expect("JSON"));
        assert_eq!(values[0], values[1]);
        assert!(Brief::read(&found).is_ok());
    }

    #[test]
    fn records_are_found_in_the_lines_of_other_tools() {
        for ours in OURS.lines() {
            let object: Value = serde_json::from_str(ours).expect("JSON");
            let envelopes = [
                // Docker's json-file, Fluent Bit, Vector.
                json!({ "log": ours, "stream": "stdout", "time": "2026-11-22T09:10:11Z" }),
                json!({ "message": ours, "source_type": "file", "host": "other", "timestamp": "2026-11-22T09:10:11Z" }),
                json!({ "date": 1.5, "imds": "x", "parsed": object }),
                // A subscription of CloudWatch Logs.
                json!({ "messageType": "DATA_MESSAGE", "logEvents": [{ "id": "1", "timestamp": 1, "message": ours }] }),
                // journalctl -o json of a service that writes records to stdout.
                json!({ "__CURSOR": "s=1", "MESSAGE": ours, "_PID": "1" }),
                // The same of the service's entries in the journal.
                json!({ "__CURSOR": "s=1", "MESSAGE": "09:10:11.123 v1", "IMDS_ACTION": "x", "IMDS_RECORD": ours }),
            ];
            for envelope in &envelopes {
                is_found(&envelope.to_string(), ours);
            }
            // aws logs filter-log-events, whose document has a line for each field.
            is_found(&format!("            \"message\": {},", json!(ours)), ours);
            // An export of CloudWatch Logs to S3.
            is_found(&format!("2026-11-22T09:10:11.123Z {ours}\r"), ours);
            is_found(ours, ours);
        }
    }

    #[test]
    fn nothing_else_is_found() {
        for line in [
            "",
            "{}",
            "imds-",
            "{\"imds-\":1}",
            "imds- {\\\"@timestamp\\\"",
            "\"imds- {\\\"@timestamp\\\"",
            "[[[[[[[[[[\"imds-\"]]]]]]]]]]",
        ] {
            assert_eq!(record(line), None, "{line}");
        }
    }
}
