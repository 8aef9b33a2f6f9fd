//! The rules: what was seen of a host or of a caller -> whether tokens can be required. Pure; `report --rules` prints them.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    fold::Caller,
    watched::{HOUR, Time},
};
use crate::{
    event::{AnswerWord, Cause},
    record::Word,
    vocabulary::{Vocabulary, vocabulary},
};

vocabulary! {
    /// Whether tokens can be required. The order is that of urgency.
    pub enum Verdict in "Verdict" {
        /// Something calls without a token.
        NotReady = "not-ready",
        /// No call without a token was seen, but not everything was seen.
        Unproven = "unproven",
        Ready = "ready",
    }
}

impl Verdict {
    /// The words on the first line of a report.
    pub const fn title(self) -> &'static str {
        match self {
            Self::NotReady => "NOT READY",
            Self::Unproven => "UNPROVEN",
            Self::Ready => "READY",
        }
    }
}

vocabulary! {
    /// Why a verdict is not `ready`.
    pub enum Reason in "Reason" {
        Rejected = "rejected",
        V1 = "v1",
        NoRecords = "no-records",
        Metric = "metric",
        Unanswered = "token-unanswered",
        Unknown = "unknown",
        Ignored = "ignored",
        Lost = "lost",
        Unreadable = "unreadable",
        TooShort = "too-short",
        NoBoot = "no-boot",
        Gap = "gap",
        Clock = "clock",
        TooMany = "too-many",
    }
}

impl Reason {
    /// The verdict of a host for which the reason holds.
    pub const fn verdict(self) -> Verdict {
        match self {
            Self::Rejected | Self::V1 => Verdict::NotReady,
            _ => Verdict::Unproven,
        }
    }

    /// When the reason holds, as a sentence for people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Rejected => {
                "Broken now: calls without a token were rejected (401), because tokens are required here already."
            }
            Self::V1 => "Calls without a token were made to the metadata service, whatever it answered.",
            Self::NoRecords => "There are no records of this host.",
            Self::Metric => {
                "CloudWatch counted calls without a token that no record explains: made by a virtual machine, through a raw \
                 socket, or while nobody watched."
            }
            Self::Unanswered => {
                "A caller asked for a token and got no answer, so its next version may fall back, and this one may fail: the hop \
                 limit of the instance is too low for it, or a filter drops the answer."
            }
            Self::Unknown => "Calls were seen that could not be judged.",
            Self::Ignored => "Calls without a token were kept out of the log by the ignore list of the configuration.",
            Self::Lost => "Something was lost on the way into the log.",
            Self::Unreadable => "Lines of the log could not be read: cut off, damaged, or of another schema.",
            Self::TooShort => "The host was watched for less time than the window.",
            Self::NoBoot => "No boot was watched: scripts that run only then were not seen.",
            Self::Gap => "The host was up for some time without being watched.",
            Self::Clock => "The times in the log cannot be right.",
            Self::TooMany => "There were more hosts or callers than a report tells apart.",
        }
    }
}

/// A reason that holds, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Finding {
    pub reason: Word<'static, Reason>,
    /// Calls, callers, losses, lines, hours or gaps, as `text` says; of a fleet, hosts.
    pub count: u64,
    pub text: String,
}

/// What a verdict on a host depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub records: u64,
    /// v1 calls to the service itself, and those of them that were rejected.
    pub v1: u64,
    pub rejected: u64,
    pub succeeded: u64,
    pub unknown: u64,
    /// Callers whose requests for a token got no answer.
    pub unanswered: u64,
    /// v1 calls that the ignore list kept out of the log.
    pub ignored: u64,
    /// What was lost, as a sentence; `None` if nothing was.
    pub lost: Option<(u64, String)>,
    pub unreadable: u64,
    /// Time from the first record to the last one, and how much is wanted.
    pub watched: Time,
    pub window: Time,
    pub saw_boot: Option<bool>,
    pub gaps: Vec<(Time, Time)>,
    pub odd_clock: bool,
    /// Calls of callers for whom there was no room.
    pub beyond: u64,
    /// Calls that CloudWatch counted and no record explains.
    pub unexplained: u64,
}

/// The verdict on a host: that of its first reason; without a reason it is ready.
pub fn of_host(facts: &Facts) -> (Verdict, Vec<Finding>) {
    let findings: Vec<Finding> = Reason::ALL
        .iter()
        .filter_map(|&reason| finding(reason, facts))
        .collect();
    (of_findings(&findings), findings)
}

/// The most urgent verdict of all reasons.
pub fn of_findings(findings: &[Finding]) -> Verdict {
    let verdicts = findings
        .iter()
        .filter_map(|finding| Some(finding.reason.known()?.verdict()));
    verdicts.min_by_key(|verdict| *verdict as u8).unwrap_or(Verdict::Ready)
}

fn finding(reason: Reason, facts: &Facts) -> Option<Finding> {
    let (count, text) = match reason {
        Reason::Rejected => (
            facts.rejected,
            format!("{} rejected (401): broken now", calls(facts.rejected)),
        ),
        Reason::V1 => {
            let others = facts.v1.saturating_sub(facts.rejected);
            (
                others,
                format!(
                    "{} without a token, {} of them answered with 200",
                    calls(others),
                    facts.succeeded
                ),
            )
        }
        Reason::NoRecords => (u64::from(facts.records == 0), "no records".to_owned()),
        Reason::Metric => (
            facts.unexplained,
            format!(
                "CloudWatch counted {} that no record explains",
                calls(facts.unexplained)
            ),
        ),
        Reason::Unanswered => (
            facts.unanswered,
            format!(
                "{} asked for a token and got no answer",
                plural(facts.unanswered, "caller", "callers")
            ),
        ),
        Reason::Unknown => (facts.unknown, format!("{} could not be judged", calls(facts.unknown))),
        Reason::Ignored => (
            facts.ignored,
            format!(
                "{} without a token kept out of the log by the ignore list",
                calls(facts.ignored)
            ),
        ),
        Reason::Lost => facts.lost.clone()?,
        Reason::Unreadable => (
            facts.unreadable,
            format!("{} could not be read", plural(facts.unreadable, "line", "lines")),
        ),
        Reason::TooShort if facts.records > 0 && facts.watched < facts.window => (
            (facts.watched / HOUR).max(1),
            format!("watched for {} of {}", span(facts.watched), span(facts.window)),
        ),
        Reason::NoBoot if facts.saw_boot == Some(false) => (1, "no boot was watched".to_owned()),
        Reason::Gap => {
            let unwatched: Time = facts.gaps.iter().map(|(from, until)| until - from).sum();
            let gaps = facts.gaps.len() as u64;
            (
                gaps,
                format!(
                    "{}, {} in all, without being watched",
                    plural(gaps, "gap", "gaps"),
                    span(unwatched)
                ),
            )
        }
        Reason::Clock if facts.odd_clock => (1, "the times in the log cannot be right".to_owned()),
        Reason::TooMany => (
            facts.beyond,
            format!("{} of callers for whom there was no room", calls(facts.beyond)),
        ),
        Reason::TooShort | Reason::NoBoot | Reason::Clock => return None,
    };
    (count > 0).then_some(Finding {
        reason: reason.into(),
        count,
        text,
    })
}

vocabulary! {
    /// What would become of a caller if tokens were required.
    pub enum Outlook in "Outlook" {
        V1Only = "v1-only",
        TokenLost = "token-lost",
        Unknown = "unknown",
        TurnsToV2 = "turns-to-v2",
        V2Only = "v2-only",
        NeverCalled = "never-called",
    }
}

impl Outlook {
    /// Whether it would break, in a few words.
    pub const fn title(self) -> &'static str {
        match self {
            Self::V1Only => "v1 only",
            Self::TokenLost => "v1 after a lost token answer (hop limit)",
            Self::Unknown => "unknown",
            Self::TurnsToV2 => "v1, but turns to v2 when refused",
            Self::V2Only => "v2 only",
            Self::NeverCalled => "never called",
        }
    }

    /// When the word holds, as a sentence for people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::V1Only => "It made calls without a token and none with one: it would break.",
            Self::TokenLost => {
                "Each of its calls without a token came after a request for a token that got no answer: it knows IMDSv2, and would \
                 break until the answer reaches it."
            }
            Self::Unknown => "It made calls of both versions, or calls that could not be judged: it may break.",
            Self::TurnsToV2 => {
                "Its calls without a token were rejected, and it made calls with a token after that: it would go on."
            }
            Self::V2Only => "It made no call without a token: it would go on.",
            Self::NeverCalled => "It connected and made no call, or was only named.",
        }
    }
}

/// What would become of `caller` if tokens were required.
pub fn of_caller(caller: &Caller) -> Outlook {
    let counts = caller.counts;
    if counts.is_empty() {
        return Outlook::NeverCalled;
    }
    if counts.v1 == 0 {
        return if counts.unknown == 0 {
            Outlook::V2Only
        } else {
            Outlook::Unknown
        };
    }
    let turned = caller
        .first_rejected
        .zip(caller.last_v2)
        .is_some_and(|(rejected, v2)| v2 > rejected);
    if turned && caller.answers.succeeded == 0 {
        return Outlook::TurnsToV2;
    }
    if caller.causes.of(Cause::TokenUnanswered) == counts.v1 {
        return Outlook::TokenLost;
    }
    if counts.v2 == 0 && counts.unknown == 0 {
        Outlook::V1Only
    } else {
        Outlook::Unknown
    }
}

/// True if the caller asked for a token and never got an answer.
pub fn is_unanswered(caller: &Caller) -> bool {
    !caller.local && caller.tokens.of(AnswerWord::None) > 0
}

/// The rules, for people.
pub fn rules() -> String {
    let mut text = String::from("A host is\n");
    for verdict in Verdict::ALL {
        let reasons = Reason::ALL.iter().filter(|reason| reason.verdict() == *verdict);
        // Writing to a String does not fail.
        let _ = writeln!(text, "\n{}", verdict.title());
        let mut any = false;
        for reason in reasons {
            any = true;
            let _ = writeln!(text, "  {}: {}", reason.as_str(), reason.meaning());
        }
        if !any {
            text.push_str("  if none of these reasons holds\n");
        }
    }
    text.push_str(
        "\nCalls to an address of the host itself (a proxy or a mock) are shown, and decide nothing. A fleet is NOT READY if one of\n\
         its hosts is, else UNPROVEN if one of its hosts is or if a part of the log could not be read, else READY.\n\n\
         If tokens were required, a caller\n\n",
    );
    for outlook in Outlook::ALL {
        let _ = writeln!(
            text,
            "  {} ({})\n    {}",
            outlook.title(),
            outlook.as_str(),
            outlook.meaning()
        );
    }
    text
}

/// A count with its noun.
pub fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn calls(count: u64) -> String {
    plural(count, "call", "calls")
}

/// A time span in words, such as `6 d 3 h`.
pub fn span(time: Time) -> String {
    let minutes = time / (HOUR / 60);
    let (days, hours, minutes) = (minutes / (24 * 60), minutes / 60 % 24, minutes % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min"),
        (0, _) if minutes > 0 => format!("{hours} h {minutes} min"),
        (0, _) => format!("{hours} h"),
        (_, 0) => format!("{days} d"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{golden::golden, summary::Counts};

    const DAY: Time = 24 * HOUR;

    /// A host without a reason.
    fn good() -> Facts {
        Facts {
            records: 100,
            watched: 8 * DAY,
            window: 7 * DAY,
            saw_boot: Some(true),
            ..Facts::default()
        }
    }

    #[test]
    fn the_table_of_hosts() {
        use Verdict::{NotReady, Ready, Unproven};
        type Change = fn(&mut Facts);
        let table: [(&str, Change, Verdict, &[Reason]); 21] = [
            ("nothing", |_| {}, Ready, &[]),
            ("boots are not known", |f| f.saw_boot = None, Ready, &[]),
            ("just long enough", |f| f.watched = 7 * DAY, Ready, &[]),
            ("v1", |f| f.v1 = 1, NotReady, &[Reason::V1]),
            (
                "rejected",
                |f| (f.v1, f.rejected) = (2, 2),
                NotReady,
                &[Reason::Rejected],
            ),
            (
                "some rejected",
                |f| (f.v1, f.rejected) = (3, 2),
                NotReady,
                &[Reason::Rejected, Reason::V1],
            ),
            ("unknown", |f| f.unknown = 1, Unproven, &[Reason::Unknown]),
            ("no answer", |f| f.unanswered = 1, Unproven, &[Reason::Unanswered]),
            ("ignored", |f| f.ignored = 1, Unproven, &[Reason::Ignored]),
            (
                "lost",
                |f| f.lost = Some((3, "3 lost".to_owned())),
                Unproven,
                &[Reason::Lost],
            ),
            ("only notes", |f| f.lost = Some((0, String::new())), Ready, &[]),
            ("unreadable", |f| f.unreadable = 1, Unproven, &[Reason::Unreadable]),
            ("too short", |f| f.watched = 7 * DAY - 1, Unproven, &[Reason::TooShort]),
            ("minutes", |f| f.watched = HOUR / 60, Unproven, &[Reason::TooShort]),
            ("no boot", |f| f.saw_boot = Some(false), Unproven, &[Reason::NoBoot]),
            ("gap", |f| f.gaps = vec![(0, DAY)], Unproven, &[Reason::Gap]),
            ("clock", |f| f.odd_clock = true, Unproven, &[Reason::Clock]),
            ("too many", |f| f.beyond = 1, Unproven, &[Reason::TooMany]),
            ("metric", |f| f.unexplained = 1, Unproven, &[Reason::Metric]),
            (
                "silent",
                |f| (f.records, f.watched) = (0, 0),
                Unproven,
                &[Reason::NoRecords],
            ),
            (
                "v1 wins, and nothing is left out",
                |f| (f.v1, f.unknown, f.watched) = (1, 1, HOUR),
                NotReady,
                &[Reason::V1, Reason::Unknown, Reason::TooShort],
            ),
        ];
        for (name, change, verdict, reasons) in table {
            let mut facts = good();
            change(&mut facts);
            let (found, findings) = of_host(&facts);
            let found_reasons: Vec<Reason> = findings.iter().filter_map(|finding| finding.reason.known()).collect();
            assert_eq!((found, found_reasons.as_slice()), (verdict, reasons), "{name}");
        }
    }

    #[test]
    fn the_table_of_callers() {
        fn caller(v1: u64, v2: u64, unknown: u64) -> Caller {
            let counts = Counts {
                v1,
                v2,
                other: 0,
                unknown,
            };
            Caller {
                counts,
                ..Caller::default()
            }
        }
        let mut rejected = caller(2, 1, 0);
        (rejected.first_rejected, rejected.last_v2) = (Some(5), Some(7));
        rejected.answers.rejected = 2;
        let mut stuck = caller(2, 1, 0);
        (stuck.first_rejected, stuck.last_v2) = (Some(5), Some(3));
        let mut not_each = caller(3, 1, 0);
        (not_each.first_rejected, not_each.last_v2) = (Some(5), Some(7));
        not_each.answers.succeeded = 1;
        let mut lost = caller(2, 2, 0);
        lost.causes.add(Cause::TokenUnanswered, 2);
        let mut lost_once = caller(2, 2, 0);
        lost_once.causes.add(Cause::TokenUnanswered, 1);
        for (caller, outlook) in [
            (caller(0, 0, 0), Outlook::NeverCalled),
            (caller(0, 3, 0), Outlook::V2Only),
            (caller(0, 3, 1), Outlook::Unknown),
            (caller(1, 0, 0), Outlook::V1Only),
            (caller(1, 0, 1), Outlook::Unknown),
            (caller(1, 5, 0), Outlook::Unknown),
            (rejected, Outlook::TurnsToV2),
            (stuck, Outlook::Unknown),
            (not_each, Outlook::Unknown),
            (lost, Outlook::TokenLost),
            (lost_once, Outlook::Unknown),
        ] {
            assert_eq!(of_caller(&caller), outlook, "{caller:?}");
        }
    }

    #[test]
    fn rules_are_as_published() {
        golden("report/testdata/rules.txt", &rules());
    }

    #[test]
    fn spans_are_short() {
        let words = [0, 59 * HOUR / 60, HOUR, 90 * HOUR / 60, DAY, 50 * HOUR].map(span);
        assert_eq!(words, ["0 min", "59 min", "1 h", "1 h 30 min", "1 d", "2 d 2 h"]);
    }
}
