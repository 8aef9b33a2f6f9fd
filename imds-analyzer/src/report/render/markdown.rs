//! The report for a ticket.

use std::fmt::{self, Write as _};

use super::{counted, minutes};
use crate::{
    report::{Caller, Report, build::title, verdict::plural},
    sanitize,
};

/// A ticket takes no more.
const CALLERS: usize = 50;
const HOSTS: usize = 100;

pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write(&mut text, report);
    text
}

fn write(text: &mut String, report: &Report) -> fmt::Result {
    let observed = &report.observed;
    writeln!(text, "## IMDSv2: {}\n", title(&report.verdict))?;
    let verdicts = observed.verdicts;
    write!(
        text,
        "{}: {} not ready, {} unproven, {} ready.",
        plural(observed.hosts, "host", "hosts"),
        verdicts.not_ready,
        verdicts.unproven,
        verdicts.ready
    )?;
    if let (Some(since), Some(until)) = (observed.since, observed.until) {
        write!(text, " {} to {} UTC.", minutes(since), minutes(until))?;
    }
    let (calls, answers) = (observed.calls, observed.v1_answers);
    writeln!(
        text,
        " {} calls: {} v1 ({} succeeded, {} rejected), {} v2, {} other, {} unknown. {}",
        calls.sum(),
        calls.v1,
        answers.succeeded,
        answers.rejected,
        calls.v2,
        calls.other,
        calls.unknown,
        observed.loss
    )?;
    if !report.reasons.is_empty() {
        writeln!(text, "\n### Why\n")?;
        for finding in &report.reasons {
            writeln!(text, "- {}: {}", cell(finding.reason.as_str()), cell(&finding.text))?;
        }
    }
    let blocking: Vec<&Caller> = report.callers.iter().filter(|caller| caller.is_blocking()).collect();
    if !blocking.is_empty() {
        writeln!(text, "\n### Who has to change\n")?;
        writeln!(
            text,
            "| caller | user | hosts | v1 | succeeded | rejected | last v1 | client | cause | if tokens are required | change |"
        )?;
        writeln!(
            text,
            "| --- | --- | ---: | ---: | ---: | ---: | --- | --- | --- | --- | --- |"
        )?;
        for caller in blocking.iter().take(CALLERS) {
            row(text, caller)?;
        }
        more(text, blocking.len(), CALLERS)?;
    }
    writeln!(
        text,
        "\n### Hosts\n\n| host | instance | account | verdict | why |\n| --- | --- | --- | --- | --- |"
    )?;
    for host in report.hosts.iter().take(HOSTS) {
        let why: Vec<&str> = host.reasons.iter().map(|finding| finding.text.as_str()).collect();
        writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            cell(&host.name),
            cell(host.instance.as_deref().unwrap_or_default()),
            cell(host.account.as_deref().unwrap_or_default()),
            title(&host.verdict),
            cell(&why.join("; "))
        )?;
    }
    more(text, report.hosts.len(), HOSTS)
}

fn row(text: &mut String, caller: &Caller) -> fmt::Result {
    let clients = caller.clients.iter().map(|client| (client.to_string(), &client.calls));
    let change = caller
        .remedy
        .as_ref()
        .map(|remedy| format!("{} ({})", remedy.text, remedy.id));
    let cells = [
        cell(caller.caller.as_deref().unwrap_or("unknown process")),
        cell(caller.user.as_deref().unwrap_or_default()),
        caller.hosts.to_string(),
        caller.calls.v1.to_string(),
        caller.v1_answers.succeeded.to_string(),
        caller.v1_answers.rejected.to_string(),
        caller.last_v1.map(minutes).unwrap_or_default(),
        cell(&counted(clients)),
        cell(&counted(&caller.causes)),
        caller
            .outlook
            .known()
            .map_or("unknown", |outlook| outlook.title())
            .to_owned(),
        cell(&change.unwrap_or_default()),
    ];
    writeln!(text, "| {} |", cells.join(" | "))
}

fn more(text: &mut String, count: usize, shown: usize) -> fmt::Result {
    match count.checked_sub(shown) {
        Some(more @ 1..) => writeln!(text, "\nand {more} more"),
        _ => Ok(()),
    }
}

/// Text of others in a cell: it ends no cell and no line, is no markup, and hides nothing.
fn cell(text: &str) -> String {
    let mut cell = String::new();
    for character in sanitize::escape(text).chars() {
        match character {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' => cell.extend(['\\', character]),
            '<' => cell.push_str("&lt;"),
            '>' => cell.push_str("&gt;"),
            '&' => cell.push_str("&amp;"),
            // A name and a link to it.
            '@' => cell.push_str("&#64;"),
            _ => cell.push(character),
        }
    }
    cell.replace("://", ":&#47;&#47;").replace("www.", "www&#46;")
}
