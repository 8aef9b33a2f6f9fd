//! The report as one page that needs nothing else: no network, no other file, and no script to be whole.
//!
//! Text of others reaches the page through the filter `text` alone, which writes out what would hide or reorder text and
//! bounds its length; askama escapes what comes out of it. None of it is in a script, a style sheet, or an address, and the
//! page's own policy lets only the one script and the one style sheet below be used.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{self, Write},
};

use askama::Template;

use self::chart::Chart;
use super::{left_out, minutes, most_first};
use crate::{
    event::Cause,
    record::Word,
    report::{
        Account, Caller, Client, Host, HostCaller, Point, Report,
        build::title,
        verdict::{self, Outlook, Verdict},
    },
    vocabulary::Vocabulary as _,
};

mod chart;
mod filters;

/// How many of each the page has. Further ones are in CSV and JSON.
const BLOCKING: usize = 200;
const OTHERS: usize = 200;
const HOSTS: usize = 500;
const ACCOUNTS: usize = 200;
const POINTS: usize = 400;
/// Of one caller or host.
const CLIENTS: usize = 8;
const CALLERS_OF_HOST: usize = 3;

const CSS: &str = include_str!("../../../templates/report.css");
const SCRIPT: &str = include_str!("../../../templates/report.js");
/// SHA-256 of the two, in base64, as a Content-Security-Policy has it. A test says when they no longer fit.
const CSS_HASH: &str = "0H1fz/lfK4Ufsz+fsoa77STe8cdziOgtCiCqpAqyfvQ=";
const SCRIPT_HASH: &str = "gfwlikHWQrodnWI11F1ee5wEFT5tJlgNkFKY/Lt0/QQ=";

/// Writes the page.
///
/// # Errors
///
/// If `out` cannot be written.
pub(super) fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let (blocking, others): (Vec<&Caller>, Vec<&Caller>) =
        report.callers.iter().partition(|caller| caller.is_blocking());
    let page = Page {
        report,
        verdict: report.verdict.known().unwrap_or(Verdict::Unproven),
        blocking: Top::of(blocking, BLOCKING),
        others: Top::of(others, OTHERS),
        hosts: Top::of(report.hosts.iter().collect(), HOSTS),
        accounts: Top::of(report.accounts.iter().collect(), ACCOUNTS),
        points: Top::of(report.series.iter().collect(), POINTS),
        causes: causes(&report.callers),
        chart: Chart::of(&report.series),
    };
    page.write_into(out)
}

#[derive(Template)]
#[template(path = "report.html", whitespace = "minimize")]
struct Page<'a> {
    report: &'a Report,
    verdict: Verdict,
    blocking: Top<'a, Caller>,
    others: Top<'a, Caller>,
    hosts: Top<'a, Host>,
    accounts: Top<'a, Account>,
    points: Top<'a, Point>,
    causes: Vec<Bar>,
    chart: Option<Chart>,
}

/// The first ones of a list, and how many more there are.
struct Top<'a, T> {
    items: Vec<&'a T>,
    more: usize,
}

impl<'a, T> Top<'a, T> {
    fn of(mut items: Vec<&'a T>, max: usize) -> Self {
        let more = items.len().saturating_sub(max);
        items.truncate(max);
        Self { items, more }
    }

    /// All of them, shown or not.
    fn len(&self) -> usize {
        self.items.len() + self.more
    }
}

/// A cause, and how often it is one.
struct Bar {
    cause: &'static str,
    meaning: &'static str,
    calls: u64,
    callers: u64,
    /// Per mille of the most frequent one.
    width: u64,
}

/// Causes of the calls of all callers, the most frequent first.
fn causes(callers: &[Caller]) -> Vec<Bar> {
    let mut causes: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
    for (cause, count) in callers.iter().filter(|caller| !caller.local).flat_map(|it| &it.causes) {
        let (calls, callers) = causes.entry(cause).or_default();
        *calls = calls.saturating_add(*count);
        *callers += 1;
    }
    let most = causes
        .values()
        .map(|(calls, _)| *calls)
        .max()
        .unwrap_or_default()
        .max(1);
    let mut bars: Vec<Bar> = causes
        .into_iter()
        .map(|(cause, (calls, callers))| Bar {
            cause,
            meaning: Cause::of_word(cause).map_or("", Cause::meaning),
            calls,
            callers,
            width: u64::try_from(u128::from(calls) * 1000 / u128::from(most))
                .unwrap_or(1000)
                .max(4),
        })
        .collect();
    bars.sort_by_key(|bar| std::cmp::Reverse(bar.calls));
    bars
}

/// The class of a verdict in the style sheet.
fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::NotReady => "bad",
        Verdict::Unproven => "open",
        Verdict::Ready => "good",
    }
}

/// What the verdict says, in a sentence.
fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::NotReady => {
            "Some calls have no token. If tokens were required now, these callers would break, or they are broken already."
        }
        Verdict::Unproven => {
            "No call without a token was seen, but not everything was seen. Tokens cannot be required safely yet."
        }
        Verdict::Ready => "No call without a token was seen, and nothing was missed. Tokens can be required.",
    }
}

/// What would become of a caller, in a few words.
fn outlook(word: &Word<'static, Outlook>) -> &'static str {
    word.known().map_or("unknown", Outlook::title)
}

/// `name (3), other (1)`: the most frequent first.
fn tally<'a, K: Display>(counts: impl IntoIterator<Item = (K, &'a u64)>) -> String {
    let texts: Vec<String> = most_first(counts)
        .iter()
        .map(|(name, count)| format!("{name} ({count})"))
        .collect();
    texts.join(", ")
}

/// The clients of a caller, the most frequent first.
fn clients(clients: &[Client]) -> String {
    let shown = clients.iter().take(CLIENTS).map(|client| (client, &client.calls));
    let mut text = tally(shown);
    if let Some(more @ 1..) = clients.len().checked_sub(CLIENTS) {
        text.push_str(&format!(", and {more} more"));
    }
    text
}

/// Some hosts of a caller.
fn places(caller: &Caller) -> String {
    let mut text = caller.on.join(", ");
    if let Some(more @ 1..) = caller.hosts.checked_sub(caller.on.len() as u64) {
        text.push_str(&format!(", and {more} more"));
    }
    text
}

/// The first callers that keep a host from being ready, each in a line of its own, and how many more there are.
fn callers_of(host: &Host) -> Top<'_, HostCaller> {
    Top::of(host.callers.iter().collect(), CALLERS_OF_HOST)
}

/// The id of a remedy, if it can be copied into a shell.
fn explainable(id: &str) -> Option<&str> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (!id.starts_with('-') && id.len() <= 64 && id.bytes().all(is_word) && !id.is_empty()).then_some(id)
}
