//! Makes a report of what a log adds up to.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use super::{
    Account, Caller, Client, Example, Head, Host, HostCaller, Input, Observed, Point, Remedy, Report, SCHEMA, Verdicts,
    cloudwatch::Metrics,
    filter::Filter,
    fold::{self, Fold},
    verdict::{self, Facts, Finding, Outlook, Reason, Verdict},
    watched::{HOUR, SECOND, Time},
};
use crate::{
    loss::{Class, Ledger},
    record::{Word, value::Micros},
    summary::{Answers, Counts},
    vocabulary::Vocabulary,
};

/// Hosts that a caller names.
const HOSTS_NAMED: usize = 5;
/// Over a longer time, calls are counted by day.
const HOURLY: usize = 4 * 24;
/// The hop limit that a container needs whose network is not the host's: one more than the host.
const CONTAINER_HOPS: u8 = 2;

/// What is asked of a report beside its input.
#[derive(Clone, Debug)]
pub struct Question {
    pub filter: Filter,
    pub window: Duration,
}

/// Everything, and a week.
impl Default for Question {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            window: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

/// What callers of a fleet are told apart by: whether their calls were local, the key, and the user.
type CallerId = (bool, Option<Box<str>>, Option<String>);

/// A caller of one or more hosts.
struct Known {
    facts: fold::Caller,
    /// Names of the hosts.
    on: Vec<String>,
    /// What would become of it on each of them.
    outlooks: Vec<Outlook>,
}

/// The report on `fold`, which was read from `input`.
pub fn build(mut fold: Fold, input: Input, metrics: &Metrics, question: &Question) -> Report {
    fold.join_names();
    let window = u64::try_from(question.window.as_micros()).unwrap_or(u64::MAX);
    // By the user as shown: user 1000 has another name on the images of another distribution.
    let mut callers: HashMap<CallerId, Known> = HashMap::new();
    let mut hosts = Vec::new();
    let mut observed = Observed {
        since: None,
        until: None,
        hosts: 0,
        verdicts: Verdicts::default(),
        hours: 0,
        calls: Counts::default(),
        v1_answers: Answers::default(),
        local_calls: Counts::default(),
        attempts: 0,
        loss: Ledger::default(),
    };
    let mut span: Option<(Time, Time)> = None;
    let silent = metrics.without(&fold);
    let records = fold.hosts.into_iter().map(|(key, host)| (Some(key), host));
    for (key, mut host) in records.chain(silent.into_iter().map(|host| (None, host))) {
        let key = key
            .as_deref()
            .or(host.cloud.instance.value.as_deref())
            .unwrap_or_default();
        let metric = metrics.of(key);
        let seen = host.watched.observation();
        let unexplained = metric.map_or(0, |metric| metric.unexplained(&host.answers));
        let lost = host.lost();
        let facts = facts(&host, &seen, &lost, unexplained, window);
        let (verdict, reasons) = verdict::of_host(&facts);
        let name = String::from(host.name.value.take().unwrap_or_default());

        observed.hosts += 1;
        observed.verdicts.add(verdict);
        observed.hours += seen.hours;
        observed.calls.merge(host.total);
        observed.v1_answers.merge(host.answers);
        observed.local_calls.merge(host.local);
        observed.attempts += host.attempts;
        observed.loss.merge(&lost);
        if let Some((first, last)) = seen.span {
            let (earliest, latest) = span.get_or_insert((first, last));
            *earliest = first.min(*earliest);
            *latest = last.max(*latest);
        }

        let mut blocking = Vec::new();
        let mut hop_limit = None;
        for (_, caller) in host.callers.drain() {
            let outlook = verdict::of_caller(&caller);
            if !caller.local && caller.other_netns > 0 {
                hop_limit = Some(CONTAINER_HOPS);
            }
            if !caller.local && (caller.counts.v1 > 0 || caller.counts.unknown > 0 || verdict::is_unanswered(&caller)) {
                blocking.push(HostCaller {
                    caller: caller.key.as_deref().map(str::to_owned),
                    user: user(&caller),
                    outlook: outlook.into(),
                    calls: caller.counts,
                    v1_answers: caller.answers,
                });
            }
            let id = (caller.local, caller.key.clone(), user(&caller));
            match callers.get_mut(&id) {
                Some(known) => {
                    known.facts.merge(caller);
                    known.on.push(name.clone());
                    known.outlooks.push(outlook);
                }
                None => {
                    let known = Known {
                        facts: caller,
                        on: vec![name.clone()],
                        outlooks: vec![outlook],
                    };
                    callers.insert(id, known);
                }
            }
        }
        blocking.sort_by(|a, b| {
            let rank = |it: &HostCaller| (it.v1_answers.rejected, it.calls.v1, it.calls.unknown);
            rank(b)
                .cmp(&rank(a))
                .then_with(|| (&a.caller, &a.user).cmp(&(&b.caller, &b.user)))
        });
        let text = |text: Option<Box<str>>| text.map(String::from);
        hosts.push(Host {
            name,
            instance: text(host.cloud.instance.value),
            account: text(host.cloud.account.value),
            region: text(host.cloud.region.value),
            machine: text(host.cloud.machine.value),
            image: text(host.cloud.image.value),
            verdict: verdict.into(),
            reasons,
            since: seen.span.map(|(first, _)| at(first)),
            until: seen.span.map(|(_, last)| at(last)),
            hours: seen.hours,
            boots: seen.boots,
            calls: host.total,
            v1_answers: host.answers,
            local_calls: host.local,
            hop_limit,
            callers: blocking,
        });
    }
    observed.since = span.map(|(first, _)| at(first));
    observed.until = span.map(|(_, last)| at(last));
    hosts.sort_by(|a, b| {
        let rank = |host: &Host| {
            (
                host.verdict.known().map(|it| it as u8),
                std::cmp::Reverse((host.v1_answers.rejected, host.calls.v1)),
            )
        };
        rank(a)
            .cmp(&rank(b))
            .then_with(|| (&a.name, &a.instance).cmp(&(&b.name, &b.instance)))
    });
    let reasons = of_fleet(&hosts, &input, fold.beyond);
    let mut callers: Vec<Caller> = callers.into_values().map(shown).collect();
    callers.sort_by(|a, b| {
        let rank = |it: &Caller| {
            (
                !it.local,
                it.v1_answers.rejected,
                it.calls.v1,
                it.calls.unknown,
                it.calls.sum(),
            )
        };
        rank(b)
            .cmp(&rank(a))
            .then_with(|| (&a.caller, &a.user).cmp(&(&b.caller, &b.user)))
    });
    let filter = &question.filter;
    Report {
        report: Head {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            window_seconds: question.window.as_secs(),
            since: filter.since.map(at),
            until: filter.until.map(at),
            filtered: filter.is_partial(),
        },
        verdict: verdict::of_findings(&reasons).into(),
        reasons,
        observed,
        accounts: accounts(&hosts),
        hosts,
        callers,
        series: series(&fold.hours),
        input,
    }
}

fn facts(
    host: &fold::Host,
    seen: &super::watched::Observation,
    lost: &Ledger,
    unexplained: u64,
    window: Time,
) -> Facts {
    let count: u64 = lost
        .iter()
        .filter(|(kind, _)| kind.class() == Class::Loss)
        .map(|(_, count)| count)
        .fold(0, u64::saturating_add);
    Facts {
        records: u64::from(seen.span.is_some()),
        v1: host.total.v1,
        rejected: host.answers.rejected,
        succeeded: host.answers.succeeded,
        unknown: host.total.unknown,
        unanswered: host
            .callers
            .values()
            .filter(|caller| verdict::is_unanswered(caller))
            .count() as u64,
        ignored: host.ignored.v1,
        lost: (count > 0).then(|| {
            (
                count,
                lost.to_string()
                    .trim_start_matches("Lost: ")
                    .trim_end_matches('.')
                    .to_owned(),
            )
        }),
        unreadable: host.unreadable,
        watched: seen.span.map_or(0, |(first, last)| last - first),
        window,
        saw_boot: seen.saw_boot,
        gaps: seen.gaps.clone(),
        odd_clock: seen.odd_clock,
        beyond: host.others.sum(),
        unexplained,
    }
}

/// Reasons of the hosts, each with the number of hosts, and those of the input.
fn of_fleet(hosts: &[Host], input: &Input, beyond: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    for &reason in Reason::ALL {
        let of_hosts: Vec<&Finding> = hosts
            .iter()
            .flat_map(|host| &host.reasons)
            .filter(|finding| finding.reason.known() == Some(reason))
            .collect();
        let text = match (reason, of_hosts.as_slice()) {
            (Reason::Unreadable, _) if input.unreadable > 0 => Some(format!(
                "{} could not be read",
                verdict::plural(input.unreadable, "line", "lines")
            )),
            (Reason::Unreadable, _) if input.failed_files > 0 => Some(format!(
                "{} could not be read",
                verdict::plural(input.failed_files, "file", "files")
            )),
            (Reason::TooMany, _) if beyond > 0 => Some(format!(
                "{} of hosts for which there was no room",
                verdict::plural(beyond, "record", "records")
            )),
            (Reason::NoRecords, _) if hosts.is_empty() => Some("no records were found".to_owned()),
            (_, []) => None,
            (_, [only]) if hosts.len() == 1 => Some(only.text.clone()),
            (_, all) => Some(format!(
                "on {}: {}",
                verdict::plural(all.len() as u64, "host", "hosts"),
                short(reason)
            )),
        };
        if let Some(text) = text {
            findings.push(Finding {
                reason: reason.into(),
                count: of_hosts.len().max(1) as u64,
                text,
            });
        }
    }
    findings
}

/// The reason in a few words, for many hosts.
fn short(reason: Reason) -> &'static str {
    match reason {
        Reason::Rejected => "v1 calls rejected (401): broken now",
        Reason::V1 => "v1 calls",
        Reason::NoRecords => "no records",
        Reason::Metric => "CloudWatch counted v1 calls that no record explains",
        Reason::Unanswered => "callers asked for a token and got no answer",
        Reason::Unknown => "calls that could not be judged",
        Reason::Ignored => "v1 calls kept out of the log by the ignore list",
        Reason::Lost => "something was lost",
        Reason::Unreadable => "lines that could not be read",
        Reason::TooShort => "watched for less than the window",
        Reason::NoBoot => "no boot was watched",
        Reason::Gap => "gaps without being watched",
        Reason::Clock => "the times in the log cannot be right",
        Reason::TooMany => "more callers than are told apart",
    }
}

fn accounts(hosts: &[Host]) -> Vec<Account> {
    let mut accounts: BTreeMap<Option<&str>, Account> = BTreeMap::new();
    for host in hosts {
        let verdict = host.verdict.known().unwrap_or(Verdict::Unproven);
        let account = accounts.entry(host.account.as_deref()).or_insert_with(|| Account {
            id: host.account.clone(),
            verdict: verdict.into(),
            verdicts: Verdicts::default(),
            calls: Counts::default(),
            v1_answers: Answers::default(),
        });
        account.verdicts.add(verdict);
        account.calls.merge(host.calls);
        account.v1_answers.merge(host.v1_answers);
        let worst = account
            .verdict
            .known()
            .into_iter()
            .chain([verdict])
            .min_by_key(|it| *it as u8);
        account.verdict = worst.unwrap_or(verdict).into();
    }
    accounts.into_values().collect()
}

/// If the caller behaves differently on some hosts, the worst counts.
fn shown(known: Known) -> Caller {
    let Known {
        facts: caller,
        mut on,
        outlooks,
    } = known;
    on.sort();
    let hosts = on.len() as u64;
    on.truncate(HOSTS_NAMED);
    let outlook = outlooks
        .iter()
        .copied()
        .min_by_key(|outlook| *outlook as u8)
        .unwrap_or(Outlook::Unknown);
    let example = caller.last_v1.value.clone().or_else(|| caller.last.value.clone());
    let text = |text: Option<Box<str>>| text.map(String::from);
    Caller {
        outlook: outlook.into(),
        hosts,
        on,
        user: user(&caller),
        calls: caller.counts,
        v1_answers: caller.answers,
        v1_statuses: caller.statuses,
        v1_paths: words(&caller.v1_classes),
        paths: words(&caller.classes),
        causes: words(&caller.causes),
        unknown_reasons: words(&caller.reasons),
        risks: words(&caller.risks),
        attempts: words(&caller.attempts),
        token_requests: words(&caller.tokens),
        hop_limit: caller.hop_limit,
        clients: clients(caller.clients),
        remedy: caller.remedy.value.map(|(id, text)| Remedy {
            id: id.into(),
            text: text.into(),
        }),
        first: caller.span.map(|(first, _)| at(first)),
        last: caller.span.map(|(_, last)| at(last)),
        first_v1: caller.v1_span.map(|(first, _)| at(first)),
        last_v1: caller.v1_span.map(|(_, last)| at(last)),
        example: example.map(|example| Example {
            path: text(example.path),
            executable: text(example.executable),
            command_line: text(example.command_line),
        }),
        caller: text(caller.key),
        program: text(caller.program),
        place: text(caller.place),
        local: caller.local,
        rate_limited: caller.rate_limited,
    }
}

fn user(caller: &fold::Caller) -> Option<String> {
    let name = caller.user_name.value.as_deref().map(str::to_owned);
    name.or_else(|| caller.user_id.map(|id| id.to_string()))
}

fn words<T: Vocabulary>(words: &fold::Words<T>) -> BTreeMap<&'static str, u64> {
    words.iter().map(|(word, count)| (word.as_str(), count)).collect()
}

fn clients(counts: BTreeMap<(Box<str>, Box<str>), u64>) -> Vec<Client> {
    let mut clients: Vec<Client> = counts
        .into_iter()
        .map(|((name, version), calls)| Client {
            name: name.into(),
            version: (!version.is_empty()).then(|| version.into()),
            calls,
        })
        .collect();
    clients.sort_by_key(|client| std::cmp::Reverse(client.calls));
    clients
}

/// Calls by hour or, if these are many, by day. Times without calls are left out.
fn series(hours: &BTreeMap<u32, Counts>) -> Vec<Point> {
    let span = hours
        .keys()
        .next_back()
        .zip(hours.keys().next())
        .map_or(0, |(last, first)| last - first);
    let step: u32 = if span as usize > HOURLY { 24 } else { 1 };
    let mut steps: BTreeMap<u32, Counts> = BTreeMap::new();
    for (hour, counts) in hours {
        steps.entry(hour / step).or_default().merge(*counts);
    }
    let points = steps.into_iter().map(|(number, calls)| Point {
        time: at(u64::from(number) * u64::from(step) * HOUR),
        seconds: u64::from(step) * HOUR / SECOND,
        calls,
    });
    points.collect()
}

fn at(time: Time) -> Micros {
    Micros::new(SystemTime::UNIX_EPOCH + Duration::from_micros(time))
}

/// The verdict as a word, for a writer.
pub fn title(verdict: &Word<'static, Verdict>) -> &'static str {
    verdict.known().unwrap_or(Verdict::Unproven).title()
}
