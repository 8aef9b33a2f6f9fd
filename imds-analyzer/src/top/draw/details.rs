//! One caller: who it is, what to change, and its last calls.

use super::{Line, head::clock, table::sparkline};
use crate::{
    event::AnswerWord,
    record::{self, Body, Word, process, request},
    sink::{
        layout::{ALARM, CAUTION, FAINT, PLAIN, STRONG, columns, foreign, foreign_path, pad, wrap},
        text::label,
    },
    summary::Counts,
    top::{
        rows::Row,
        state::State,
        trail::{CALLS, Entry, Rates, Trail, What},
    },
};

/// Columns of the labels.
const LABEL: usize = 12;
/// Lines of one fact. Only extremely long arguments need more.
const FACT_LINES: usize = 8;

/// All lines. A value that is too long for a line continues on the next.
pub(super) fn lines(state: &State, width: usize) -> Vec<Line> {
    let Some(row) = state.opened() else {
        return vec![vec![("This caller is gone: q leads back.".to_owned(), FAINT)]];
    };
    let mut page = Page {
        lines: Vec::new(),
        width,
    };
    page.sums(&row, state);
    page.change(&row);
    match record::read(&row.trail.record).map(|record| record.body) {
        Ok(Body::Request(request)) => page.request(&request),
        Ok(Body::Attempt(it)) => page.process(
            it.process.as_ref(),
            it.user.as_ref(),
            it.systemd.as_ref(),
            it.container.as_ref(),
        ),
        _ if row.trail.calls.is_empty() => page.fact("process", "not in the log: its calls were only counted"),
        _ => page.fact(
            "process",
            "not kept: its record is extremely long; `imds-analyzer watch --verbose` shows it",
        ),
    }
    page.calls(row.trail);
    page.lines
}

struct Page {
    lines: Vec<Line>,
    width: usize,
}

impl Page {
    fn fact(&mut self, label: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        let room = self.width.saturating_sub(LABEL).max(8);
        let mut label = label;
        for line in broken(&foreign(value, FACT_LINES * room), room) {
            self.lines.push(vec![(format!("{label:LABEL$}"), FAINT), (line, PLAIN)]);
            label = "";
        }
    }

    fn head(&mut self, text: &str) {
        self.lines.push(Line::new());
        self.lines.push(vec![(text.to_owned(), STRONG)]);
    }

    fn sums(&mut self, row: &Row<'_>, state: &State) {
        let caller = row.caller;
        let name = caller.key.as_deref().unwrap_or_else(|| row.name());
        for line in broken(&foreign(name, 2 * self.width), self.width) {
            self.lines.push(vec![(line, STRONG)]);
        }
        let Counts { v1, v2, other, unknown } = caller.counts;
        let answers = row.answers();
        let answers = if answers.is_empty() {
            answers
        } else {
            format!("   v1 answers: {answers}")
        };
        self.lines.push(vec![
            (format!("v1 {v1}"), if v1 > 0 { ALARM } else { STRONG }),
            (format!("  v2 {v2}  other {other}  unknown {unknown}{answers}"), PLAIN),
        ]);
        if caller.local {
            self.fact(
                "local",
                "its calls went to an address of this host itself, such as a proxy or a mock",
            );
        }
        let cells = Rates::CELLS.min(self.width.saturating_sub(LABEL));
        let minutes = Rates::CELL.as_secs() * cells as u64 / 60;
        let rates = sparkline(&row.trail.rates, state, cells);
        if !rates.trim().is_empty() {
            self.lines.push(vec![
                (format!("{:LABEL$}", format!("{minutes} minutes")), FAINT),
                (rates, PLAIN),
            ]);
        }
        if caller.attempts > 0 {
            self.fact("connections", &format!("{} ended without a call", caller.attempts));
        }
        if row.trail.only_counted > 0 {
            self.fact(
                "only counted",
                &format!("{} of its calls, by the limits of the service", row.trail.only_counted),
            );
        }
    }

    fn change(&mut self, row: &Row<'_>) {
        let causes = row.trail.causes.iter();
        for (cause, count) in causes {
            self.fact(
                "cause",
                &format!("{} ({count}): {}", cause.as_str(), cause.meaning().replace('`', "")),
            );
        }
        if let Some((id, text)) = &row.caller.remedy {
            self.fact("change", &format!("{text} (imds-analyzer explain {id})"));
        }
    }

    fn request(&mut self, request: &request::Request<'_>) {
        let user = request.user.as_ref();
        self.process(
            request.process.as_ref(),
            user,
            request.systemd.as_ref(),
            request.container.as_ref(),
        );
        if let Some(client) = &request.imds.client {
            let version = client.version.as_deref().unwrap_or_default();
            self.fact(
                "client",
                &format!("{} {version} (by {})", client.name.as_str(), client.source.as_str()),
            );
        }
        if let Some(agent) = &request.user_agent {
            self.fact("user agent", &agent.original);
        }
        let risks: Vec<&str> = request.imds.risk.iter().map(Word::as_str).collect();
        self.fact("risk", &risks.join(", "));
    }

    fn process(
        &mut self,
        process: Option<&process::Process<'_>>,
        user: Option<&request::ProcessUser<'_>>,
        systemd: Option<&request::Systemd<'_>>,
        container: Option<&request::Container<'_>>,
    ) {
        let Some(process) = process else {
            self.fact("process", "unknown");
            return;
        };
        let executable = process
            .executable
            .as_deref()
            .map(|path| format!(" {path}"))
            .unwrap_or_default();
        self.fact(
            "process",
            &format!("{}[{}]{executable}", process.name.as_str(), process.pid),
        );
        if let Some(command_line) = &process.command_line {
            self.fact("command", &command_line.to_string());
        }
        let chain: Vec<String> = process
            .ancestors
            .iter()
            .map(|ancestor| format!("{}({})", ancestor.name.as_str(), ancestor.pid))
            .collect();
        self.fact("started by", &chain.join(" < "));
        if let Some(directory) = &process.working_directory {
            self.fact("directory", directory);
        }
        if let Some(user) = user {
            let id = user.id.map(|id| format!("uid {}", id.0)).unwrap_or_default();
            let text = user
                .name
                .as_ref()
                .map_or_else(|| id.clone(), |name| format!("{} ({id})", name.as_str()));
            self.fact("user", &text);
        }
        if let Some(systemd) = systemd {
            let units = [&systemd.unit, &systemd.user_unit, &systemd.slice];
            let units: Vec<&str> = units.into_iter().flatten().map(|unit| unit.as_str()).collect();
            self.fact("unit", &units.join(", "));
        }
        if let Some(container) = container {
            let image = container
                .image
                .as_ref()
                .map(|image| format!(" of {}", image.name.as_str()));
            let name = container.name.as_ref().map(|name| format!("{} ", name.as_str()));
            self.fact(
                "container",
                &format!(
                    "{}{}{}",
                    name.unwrap_or_default(),
                    container.id.as_str(),
                    image.unwrap_or_default()
                ),
            );
        }
    }

    fn calls(&mut self, trail: &Trail) {
        match trail.calls.len() {
            0 => {}
            CALLS => self.head(&format!("Last {CALLS} calls (UTC)")),
            count => self.head(&format!("Last calls (UTC): {count}")),
        }
        for entry in trail.calls.iter().rev() {
            let line = call(entry, self.width);
            self.lines.push(line);
        }
    }
}

/// `12:00:00 v2 token 200 PUT /latest/api/token`, and the process.
fn call(entry: &Entry, width: usize) -> Line {
    const VERDICT: usize = 8;
    let pid = entry.pid.map(|pid| format!("  pid {pid}")).unwrap_or_default();
    let mut line = vec![(format!("{} ", clock(entry.time)), FAINT)];
    match &entry.what {
        What::Call {
            verdict,
            answer,
            status,
            method,
            path,
        } => {
            let (word, style) = label(*verdict);
            line.push((format!("{word:VERDICT$} "), style));
            let status = match (answer, status) {
                (AnswerWord::Answered, Some(status)) => status.to_string(),
                (AnswerWord::None, _) => "-".to_owned(),
                _ => String::new(),
            };
            line.push((
                format!("{status:>3} "),
                if status.starts_with('2') { FAINT } else { CAUTION },
            ));
            let method = format!("{} ", foreign(method, 10));
            let taken: usize = line.iter().map(|(text, _)| columns(text)).sum();
            let room = width.saturating_sub(taken + columns(&pid));
            let path = foreign_path(path, room.saturating_sub(columns(&method)));
            line.push((pad(&(method + &path), room), PLAIN));
        }
        What::Attempt(outcome) => {
            let outcome = outcome.map_or("unknown", |outcome| outcome.as_str());
            line.push((
                format!("{:VERDICT$}     connection without a call: {outcome}", "attempt"),
                CAUTION,
            ));
        }
    }
    line.push((pid, FAINT));
    line
}

/// Lines of at most `width` columns: broken at blanks, and longer words wherever that is.
fn broken(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in wrap(text, width) {
        let characters: Vec<char> = line.chars().collect();
        let parts = characters
            .chunks(width.max(1))
            .map(|part| part.iter().collect::<String>());
        lines.extend(parts);
    }
    lines
}
