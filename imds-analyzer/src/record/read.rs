//! Reads a line back into a record.

use serde::{Deserialize, Serialize};

use super::{Action, Body, Record, SCHEMA, Text, Word, envelope::Host};

/// Maximum length of a line in bytes, without the line end. No record is longer: a summary has at most 1000 callers,
/// and each is bounded.
pub const LINE_MAX: usize = 16 << 20;

/// Why a line is not a record. Contains no part of the line, because another program's line may hold secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the line is longer than {LINE_MAX} bytes")]
    TooLong,
    /// Like the last line of a file that is still being written, or a line that was cut off.
    #[error("the line ends in the middle of a JSON object")]
    Truncated,
    #[error("the line is not JSON (byte {0})")]
    NotJson(usize),
    #[error("the line is JSON, but not a record of imds-analyzer")]
    Foreign,
    #[error("the record has schema {0}, and this version reads schema {SCHEMA}")]
    Schema(u64),
    /// The journal's export leaves out long fields, unless it is asked for all.
    #[error("the journal's entry has no IMDS_RECORD: export it with `journalctl --output json --all`")]
    NoRecord,
    #[error("a field of the record is missing or has another type (byte {0})")]
    Field(usize),
}

/// A record of a kind that this version does not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct Other<'a> {
    pub imds: Schema,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Host<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    pub schema: u32,
}

/// Reads one line, with or without its end.
///
/// # Errors
///
/// [`Unreadable`] for anything else. Never panics.
pub fn read(line: &[u8]) -> Result<Record<'_>, Unreadable> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line.len() > LINE_MAX {
        return Err(Unreadable::TooLong);
    }
    // Checks UTF-8 once for the whole line. `from_slice` of serde_json would check every string.
    let text = std::str::from_utf8(line).map_err(|error| match error.error_len() {
        Some(_) => Unreadable::NotJson(error.valid_up_to()),
        None => Unreadable::Truncated,
    })?;
    let record = record(text).map_err(|error| why(text, &error))?;
    check(&record.envelope.event.action, record.schema())?;
    Ok(record)
}

/// Checks that a line with this action and schema is a record that this version reads.
pub(super) fn check(action: &Word<'_, Action>, schema: u32) -> Result<(), Unreadable> {
    match (schema, action) {
        (_, Word::Other(action)) if !is_ours(action) => Err(Unreadable::Foreign),
        (SCHEMA, _) => Ok(()),
        (other, _) => Err(Unreadable::Schema(other.into())),
    }
}

/// Reads the envelope first, because it has the kind of the record.
fn record(text: &str) -> serde_json::Result<Record<'_>> {
    let envelope = serde_json::from_str::<super::Envelope<'_>>(text)?;
    let body = match envelope.event.action {
        Word::Known(Action::Request) => Body::Request(serde_json::from_str(text)?),
        Word::Known(Action::Attempt) => Body::Attempt(serde_json::from_str(text)?),
        Word::Known(Action::Start) => Body::Start(serde_json::from_str(text)?),
        Word::Known(Action::Watching) => Body::Watching(serde_json::from_str(text)?),
        Word::Known(Action::Loss) => Body::Loss(serde_json::from_str(text)?),
        Word::Known(Action::FirstSeen) => Body::FirstSeen(serde_json::from_str(text)?),
        Word::Known(Action::RateLimited) => Body::RateLimited(serde_json::from_str(text)?),
        Word::Known(Action::Rehearsal) => Body::Rehearsal(serde_json::from_str(text)?),
        Word::Known(Action::Summary) => Body::Summary(serde_json::from_str(text)?),
        Word::Other(_) => Body::Other(serde_json::from_str(text)?),
    };
    Ok(Record { envelope, body })
}

impl Record<'_> {
    fn schema(&self) -> u32 {
        match &self.body {
            Body::Request(body) => body.imds.schema,
            Body::Attempt(body) => body.imds.schema,
            Body::Start(body) => body.imds.schema,
            Body::Watching(body) => body.imds.schema,
            Body::Loss(body) => body.imds.schema,
            Body::FirstSeen(body) => body.imds.schema,
            Body::RateLimited(body) => body.imds.schema,
            Body::Rehearsal(body) => body.imds.schema,
            Body::Summary(body) => body.imds.schema,
            Body::Other(body) => body.imds.schema,
        }
    }
}

/// True if `action` belongs to a record of ours. Actions of later versions have the same prefix.
fn is_ours(action: &str) -> bool {
    action.starts_with("imds-")
}

/// The fields that identify a record of ours, whatever else the line has.
#[derive(Deserialize)]
struct Marks<'a> {
    #[serde(borrow)]
    event: ActionMark<'a>,
    imds: SchemaMark,
}

#[derive(Deserialize)]
struct ActionMark<'a> {
    #[serde(borrow)]
    action: Text<'a>,
}

#[derive(Deserialize)]
struct SchemaMark {
    schema: u64,
}

/// Why `text` is not a record. `error` is the result of reading it as one.
pub(super) fn why(text: &str, error: &serde_json::Error) -> Unreadable {
    use serde_json::error::Category;

    // Parses the whole line, even if `error` was found early in it.
    let whole = serde_json::from_str::<serde::de::IgnoredAny>(text);
    if let Err(error) = whole {
        return match error.classify() {
            Category::Eof if text.trim_start().starts_with('{') => Unreadable::Truncated,
            _ => Unreadable::NotJson(error.column()),
        };
    }
    match serde_json::from_str::<Marks<'_>>(text) {
        Ok(marks) if !is_ours(&marks.event.action) => Unreadable::Foreign,
        Ok(marks) if marks.imds.schema != u64::from(SCHEMA) => Unreadable::Schema(marks.imds.schema),
        Ok(_) => Unreadable::Field(error.column()),
        Err(_) => Unreadable::Foreign,
    }
}
