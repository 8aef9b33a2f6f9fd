//! Writers of a report. None of them computes: a number in two formats is the same field.

use std::io::{self, Write};

use super::{Input, Report};
use crate::{choice::ReportFormat, sink::Style};

mod commands;
mod csv;
mod html;
mod markdown;
mod text;
mod tfvars;

/// Writes `report`.
///
/// # Errors
///
/// If `out` cannot be written.
pub fn write(report: &Report, format: ReportFormat, style: Style, out: &mut impl Write) -> io::Result<()> {
    match format {
        ReportFormat::Text => out.write_all(text::render(report, style.columns(), style.color).as_bytes()),
        ReportFormat::Markdown => out.write_all(markdown::render(report).as_bytes()),
        ReportFormat::Json => {
            serde_json::to_writer(&mut *out, report)?;
            out.write_all(b"\n")
        }
        ReportFormat::Csv => csv::write(report, out),
        ReportFormat::Html => html::write(report, out),
        ReportFormat::Tfvars => tfvars::write(report, out),
        ReportFormat::Commands => out.write_all(commands::render(report).as_bytes()),
    }
}

/// The id of an instance, if `text` is one and nothing else.
fn instance_id(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("i-")?;
    let is_id = matches!(digits.len(), 8 | 17) && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then_some(text)
}

/// The id of an account: 12 digits.
fn account_id(text: &str) -> Option<&str> {
    (text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

/// The name of a region.
fn region(text: &str) -> Option<&str> {
    let is_name = text
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && text.contains('-');
    (is_name && text.len() < 32 && !text.starts_with('-')).then_some(text)
}

/// `name 3, other 1`: the most frequent first.
fn counted<'a, K: std::fmt::Display>(counts: impl IntoIterator<Item = (K, &'a u64)>) -> String {
    let texts: Vec<String> = most_first(counts)
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    texts.join(", ")
}

/// The most frequent first.
fn most_first<'a, K>(counts: impl IntoIterator<Item = (K, &'a u64)>) -> Vec<(K, u64)> {
    let mut counts: Vec<(K, u64)> = counts.into_iter().map(|(name, count)| (name, *count)).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

/// What was read beside the records that count, and what could not be read.
fn left_out(input: &Input) -> Vec<(u64, String)> {
    let (file, line, record) = (["file", "files"], ["line", "lines"], ["record", "records"]);
    let all = [
        (input.foreign, line, "of other programs"),
        (input.unreadable, line, "that could not be read"),
        (input.duplicate_lines, line, "read already"),
        (input.duplicate_files, file, "read already"),
        (input.skipped_files, file, "of another kind"),
        (input.failed_files, file, "that could not be read"),
        (input.unknown_kinds, record, "of a later version"),
    ];
    let some = all.into_iter().filter(|(count, ..)| *count > 0);
    some.map(|(count, noun, what)| (count, format!("{} {what}", noun[usize::from(count != 1)])))
        .collect()
}

/// A time in minutes, for people.
fn minutes(time: crate::record::value::Micros) -> String {
    let text = humantime::format_rfc3339_seconds(time.time()).to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

#[cfg(test)]
mod tests;
