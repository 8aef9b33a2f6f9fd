//! The report for a terminal.

use std::fmt::{self, Write as _};

use super::{counted, left_out, minutes};
use crate::{
    report::{
        Caller, Host, Report,
        build::title,
        verdict::{Verdict, plural},
    },
    sink::layout::{ALARM, CAUTION, FAINT, GOOD, STRONG, fit, foreign, paint, wrap},
    summary::{Answers, Counts},
};

/// More are in the other formats.
const CALLERS: usize = 20;
const HOSTS: usize = 20;
const INDENT: usize = 4;

/// The report in lines of at most `width` columns.
pub(super) fn render(report: &Report, width: usize, color: bool) -> String {
    let mut page = Page {
        text: String::new(),
        width,
        color,
    };
    // Writing to a String does not fail.
    let _ = page.write(report);
    page.text
}

struct Page {
    text: String,
    width: usize,
    color: bool,
}

impl Page {
    fn write(&mut self, report: &Report) -> fmt::Result {
        let observed = &report.observed;
        let verdict = report.verdict.known().unwrap_or(Verdict::Unproven);
        writeln!(
            self.text,
            "{}",
            paint(self.color, style(verdict), title(&report.verdict))
        )?;
        let verdicts = observed.verdicts;
        self.paragraph(
            0,
            &format!(
                "{}: {} not ready, {} unproven, {} ready.",
                plural(observed.hosts, "host", "hosts"),
                verdicts.not_ready,
                verdicts.unproven,
                verdicts.ready
            ),
        )?;
        if let (Some(since), Some(until)) = (observed.since, observed.until) {
            self.paragraph(
                0,
                &format!(
                    "{} to {} UTC, {} with records. {}{} {}",
                    minutes(since),
                    minutes(until),
                    plural(observed.hours, "hour", "hours"),
                    calls(observed.calls),
                    answers(observed.v1_answers),
                    observed.loss
                ),
            )?;
        }
        if !observed.local_calls.is_empty() {
            self.paragraph(
                0,
                &format!(
                    "To the hosts themselves (a proxy or a mock), which decides nothing: {}",
                    calls(observed.local_calls)
                ),
            )?;
        }
        if report.report.filtered {
            self.paragraph(0, "Only the hosts and callers that were asked for.")?;
        }
        if !report.reasons.is_empty() {
            self.head("Why")?;
            for finding in &report.reasons {
                self.paragraph(2, &format!("{}: {}", finding.reason.as_str(), finding.text))?;
            }
        }
        self.callers(report)?;
        self.hosts(report)?;
        self.input(report)?;
        self.next(report, verdict)
    }

    fn callers(&mut self, report: &Report) -> fmt::Result {
        let blocking: Vec<&Caller> = report.callers.iter().filter(|caller| caller.is_blocking()).collect();
        if blocking.is_empty() {
            return Ok(());
        }
        self.head("Who has to change")?;
        for caller in blocking.iter().take(CALLERS) {
            self.caller(caller)?;
        }
        self.more(blocking.len(), CALLERS, "callers")
    }

    fn caller(&mut self, caller: &Caller) -> fmt::Result {
        let name = foreign(caller.caller.as_deref().unwrap_or("unknown process"), usize::MAX);
        let style = if caller.v1_answers.rejected > 0 { ALARM } else { STRONG };
        let name = fit(&name, self.width.saturating_sub(2)).into_owned();
        writeln!(self.text, "  {}", paint(self.color, style, name))?;
        let mut facts = format!("{}{}", calls(caller.calls), answers(caller.v1_answers));
        if let Some(user) = &caller.user {
            facts.push_str(&format!(" User {}.", foreign(user, 64)));
        }
        if caller.hosts > 1 {
            facts.push_str(&format!(" On {} hosts.", caller.hosts));
        }
        if let Some(last) = caller.last_v1 {
            facts.push_str(&format!(" Last v1 call {} UTC.", minutes(last)));
        }
        self.paragraph(INDENT, &facts)?;
        let clients = caller
            .clients
            .iter()
            .map(|client| (foreign(&client.to_string(), 64), &client.calls));
        let outlook = caller.outlook.known().map_or("unknown", |outlook| outlook.title());
        for (what, value) in [
            ("if tokens are required", outlook.to_owned()),
            ("cause", counted(&caller.causes)),
            ("could not be judged", counted(&caller.unknown_reasons)),
            (
                "paths",
                counted(if caller.v1_paths.is_empty() {
                    &caller.paths
                } else {
                    &caller.v1_paths
                }),
            ),
            ("statuses", counted(&caller.v1_statuses)),
            ("client", counted(clients)),
            ("risk", counted(&caller.risks)),
        ] {
            if !value.is_empty() {
                self.paragraph(INDENT, &format!("{what}: {value}"))?;
            }
        }
        if let Some(remedy) = &caller.remedy {
            let id = foreign(&remedy.id, 64);
            let remedy = format!(
                "change: {} (imds-analyzer explain {id})",
                foreign(&remedy.text, usize::MAX)
            );
            self.paragraph(INDENT, &remedy)?;
        }
        Ok(())
    }

    fn hosts(&mut self, report: &Report) -> fmt::Result {
        if report.hosts.len() < 2 && report.reasons.is_empty() {
            return Ok(());
        }
        self.head("Hosts")?;
        for host in report.hosts.iter().take(HOSTS) {
            self.host(host)?;
        }
        self.more(report.hosts.len(), HOSTS, "hosts")
    }

    fn host(&mut self, host: &Host) -> fmt::Result {
        let mut line = foreign(&host.name, 64);
        for part in [&host.instance, &host.account].into_iter().flatten() {
            if *part != host.name {
                line.push_str(&format!(" {}", foreign(part, 32)));
            }
        }
        let verdict = host.verdict.known().unwrap_or(Verdict::Unproven);
        let room = self.width.saturating_sub(2 + 9 + 2);
        let line = fit(&line, room).into_owned();
        writeln!(
            self.text,
            "  {:<9}  {line}",
            paint(self.color, style(verdict), verdict.title())
        )?;
        let reasons: Vec<&str> = host.reasons.iter().map(|finding| finding.text.as_str()).collect();
        if reasons.is_empty() {
            return Ok(());
        }
        self.paragraph(13, &reasons.join("; "))
    }

    fn input(&mut self, report: &Report) -> fmt::Result {
        let input = &report.input;
        let read = [
            (input.files, "file", "files"),
            (input.lines, "line", "lines"),
            (input.records, "record", "records"),
        ];
        let read = read.into_iter().filter(|(count, ..)| *count > 0);
        let read = read.map(|(count, one, many)| plural(count, one, many));
        let left_out = left_out(input)
            .into_iter()
            .map(|(count, what)| format!("{count} {what}"));
        let parts: Vec<String> = read.chain(left_out).collect();
        self.head("Read")?;
        let all = if parts.is_empty() {
            "nothing".to_owned()
        } else {
            parts.join(", ")
        };
        self.paragraph(2, &format!("{all}."))?;
        for problem in &input.problems {
            let line = problem.line.map(|line| format!(":{line}")).unwrap_or_default();
            self.paragraph(
                2,
                &format!(
                    "{}{line}: {}",
                    foreign(&problem.file, usize::MAX),
                    foreign(&problem.why, usize::MAX)
                ),
            )?;
        }
        Ok(())
    }

    fn next(&mut self, report: &Report, verdict: Verdict) -> fmt::Result {
        self.head("Next")?;
        let remedy = report
            .callers
            .iter()
            .find_map(|caller| caller.remedy.as_ref().filter(|_| caller.is_blocking()));
        match (verdict, remedy) {
            (Verdict::NotReady, Some(remedy)) => {
                self.paragraph(2, &format!("imds-analyzer explain {}", foreign(&remedy.id, 64)))?
            }
            (Verdict::NotReady, None) => {
                self.paragraph(2, "imds-analyzer report --format markdown   (for a ticket)")?
            }
            (Verdict::Unproven, _) => self.paragraph(
                2,
                "systemctl enable --now imds-analyzer   (keep watching; ask again later)",
            )?,
            (Verdict::Ready, _) => {}
        }
        if report.observed.verdicts.ready > 0 {
            self.paragraph(2, "imds-analyzer report --format commands --output require-tokens.sh")?;
        }
        Ok(())
    }

    fn head(&mut self, text: &str) -> fmt::Result {
        writeln!(self.text, "\n{}", paint(self.color, STRONG, text))
    }

    fn more(&mut self, count: usize, shown: usize, what: &str) -> fmt::Result {
        match count.checked_sub(shown) {
            Some(more @ 1..) => {
                let text = format!("and {more} more {what}: --format html, csv or json has all");
                writeln!(self.text, "  {}", paint(self.color, FAINT, text))
            }
            _ => Ok(()),
        }
    }

    /// `text` in lines that begin at column `indent`.
    fn paragraph(&mut self, indent: usize, text: &str) -> fmt::Result {
        let room = self.width.saturating_sub(indent).max(20);
        for line in wrap(text, room) {
            // A word that is longer than a line.
            writeln!(self.text, "{:indent$}{}", "", fit(&line, room))?;
        }
        Ok(())
    }
}

fn style(verdict: Verdict) -> anstyle::Style {
    match verdict {
        Verdict::NotReady => ALARM,
        Verdict::Unproven => CAUTION,
        Verdict::Ready => GOOD,
    }
}

fn calls(counts: Counts) -> String {
    let Counts { v1, v2, other, unknown } = counts;
    let parts = [(v1, "v1"), (v2, "v2"), (other, "other"), (unknown, "unknown")];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if parts.is_empty() {
        "No calls.".to_owned()
    } else {
        format!("Calls: {}.", parts.join(", "))
    }
}

/// What came back of v1 calls, if there were any.
fn answers(answers: Answers) -> String {
    let words = answers.in_words();
    if words.is_empty() {
        String::new()
    } else {
        format!(" Of v1: {words}.")
    }
}
