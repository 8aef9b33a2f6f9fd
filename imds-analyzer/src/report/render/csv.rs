//! A row for each host and caller that keeps it from being ready; one row for a host without such a caller.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use super::counted;
use crate::{
    record::{Word, value::Micros},
    report::{Caller, Host, HostCaller, Report},
    sanitize,
    vocabulary::Vocabulary,
};

const HEADS: [&str; 30] = [
    "verdict",
    "host",
    "instance",
    "account",
    "region",
    "reasons",
    "caller",
    "user",
    "outlook",
    "v1",
    "v1_succeeded",
    "v1_rejected",
    "v1_failed",
    "v1_unanswered",
    "v1_unseen",
    "v2",
    "other",
    "unknown",
    "program",
    "place",
    "first_v1",
    "last_v1",
    "statuses",
    "paths",
    "causes",
    "clients",
    "remedy",
    "change",
    "path",
    "command_line",
];

pub(super) fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let callers: HashMap<_, &Caller> = report
        .callers
        .iter()
        .filter(|caller| !caller.local)
        .map(|caller| ((&caller.caller, &caller.user), caller))
        .collect();
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(HEADS)?;
    for host in &report.hosts {
        if host.callers.is_empty() {
            csv.write_record(row(host, None, None))?;
        }
        for caller in &host.callers {
            let facts = callers.get(&(&caller.caller, &caller.user)).copied();
            csv.write_record(row(host, Some(caller), facts))?;
        }
    }
    csv.flush()
}

/// `facts` are those of the caller on all hosts.
fn row(host: &Host, caller: Option<&HostCaller>, facts: Option<&Caller>) -> [String; HEADS.len()] {
    let reasons: Vec<&str> = host.reasons.iter().map(|finding| finding.reason.as_str()).collect();
    let number = |of: fn(&HostCaller) -> u64| caller.map(|caller| of(caller).to_string()).unwrap_or_default();
    let text = |text: Option<&String>| cell(text.map_or("", String::as_str));
    let time = |time: Option<Micros>| {
        time.map(|time| humantime::format_rfc3339_seconds(time.time()).to_string())
            .unwrap_or_default()
    };
    let clients = facts
        .into_iter()
        .flat_map(|facts| &facts.clients)
        .map(|client| (client.to_string(), &client.calls));
    let remedy = facts.and_then(|facts| facts.remedy.as_ref());
    let example = facts.and_then(|facts| facts.example.as_ref());
    [
        word(Some(&host.verdict)),
        cell(&host.name),
        text(host.instance.as_ref()),
        text(host.account.as_ref()),
        text(host.region.as_ref()),
        reasons.join(", "),
        caller
            .map(|caller| cell(caller.caller.as_deref().unwrap_or("unknown process")))
            .unwrap_or_default(),
        text(caller.and_then(|caller| caller.user.as_ref())),
        word(caller.map(|caller| &caller.outlook)),
        number(|caller| caller.calls.v1),
        number(|caller| caller.v1_answers.succeeded),
        number(|caller| caller.v1_answers.rejected),
        number(|caller| caller.v1_answers.failed),
        number(|caller| caller.v1_answers.none),
        number(|caller| caller.v1_answers.unseen),
        number(|caller| caller.calls.v2),
        number(|caller| caller.calls.other),
        number(|caller| caller.calls.unknown),
        text(facts.and_then(|facts| facts.program.as_ref())),
        text(facts.and_then(|facts| facts.place.as_ref())),
        time(facts.and_then(|facts| facts.first_v1)),
        time(facts.and_then(|facts| facts.last_v1)),
        facts.map(|facts| counted(&facts.v1_statuses)).unwrap_or_default(),
        facts.map(|facts| counted(&facts.v1_paths)).unwrap_or_default(),
        facts.map(|facts| counted(&facts.causes)).unwrap_or_default(),
        cell(&counted(clients)),
        text(remedy.map(|remedy| &remedy.id)),
        text(remedy.map(|remedy| &remedy.text)),
        text(example.and_then(|example| example.path.as_ref())),
        text(example.and_then(|example| example.command_line.as_ref())),
    ]
}

fn word<T: Vocabulary>(word: Option<&Word<'static, T>>) -> String {
    word.map_or("", Word::as_str).to_owned()
}

/// Text of others: no spreadsheet takes it for a formula, and nothing hidden in it reaches a terminal.
fn cell(text: &str) -> String {
    let text = sanitize::escape(text);
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text.into_owned()
    }
}
