//! Writers of a report. None of them computes: a number in two formats is the same field.

use std::io::{self, Write};

use clap::ValueEnum;

use super::Report;
use crate::sink::Style;

mod commands;
mod csv;
mod html;
mod markdown;
mod text;
mod tfvars;

/// `--format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people, in the width of the terminal.
    #[default]
    Text,
    /// For a ticket.
    Markdown,
    /// Everything; `imds-analyzer schema report` prints its schema.
    Json,
    /// A row for each host and caller that has to change.
    Csv,
    /// A page that needs no network.
    Html,
    /// Variables for Terraform, as JSON: accounts and instances still using IMDSv1.
    Tfvars,
    /// A shell script that requires tokens on the hosts that are ready, and undoes it.
    Commands,
}

/// Writes `report`.
///
/// # Errors
///
/// If `out` cannot be written.
pub fn write(report: &Report, format: Format, style: Style, out: &mut impl Write) -> io::Result<()> {
    match format {
        Format::Text => out.write_all(text::render(report, style.columns(), style.color).as_bytes()),
        Format::Markdown => out.write_all(markdown::render(report).as_bytes()),
        Format::Json => {
            serde_json::to_writer(&mut *out, report)?;
            out.write_all(b"\n")
        }
        Format::Csv => csv::write(report, out),
        Format::Html => html::write(report, out),
        Format::Tfvars => tfvars::write(report, out),
        Format::Commands => out.write_all(commands::render(report).as_bytes()),
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
fn counted<'a, K: std::fmt::Display + 'a>(counts: impl IntoIterator<Item = (K, &'a u64)>) -> String {
    let mut counts: Vec<(K, u64)> = counts.into_iter().map(|(name, count)| (name, *count)).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// A time in minutes, for people.
fn minutes(time: crate::record::value::Micros) -> String {
    let text = humantime::format_rfc3339_seconds(time.time()).to_string();
    text.get(..16).unwrap_or(&text).replace('T', " ")
}

#[cfg(test)]
mod tests;
