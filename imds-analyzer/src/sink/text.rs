//! Text output: one line per request, and with `--verbose` a block of everything known about it.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
    time::SystemTime,
};

use imds_analyzer_ebpf::classify::Verdict;

use self::marks::marks;
use super::{
    Output, Sink, Style,
    layout::{ALARM, CAUTION, DOUBT, FAINT, GOOD, PLAIN, STRONG, columns, foreign, foreign_path, paint},
};
use crate::{
    event::{Ancestor, Answer, Event, Process},
    notice::Notice,
    record::writable,
};

mod attempt;
mod details;
mod marks;
pub mod table;

/// Columns of the verdict: the longest of [`label`].
const VERDICT_WIDTH: usize = 8;
/// Columns of the answer's status.
const STATUS_WIDTH: usize = 3;
/// Maximum columns of names, users and similar values.
const NAME_WIDTH: usize = 32;
const METHOD_WIDTH: usize = 10;
/// Maximum number of ancestors on a line. The middle of a longer chain is left out.
const CHAIN: usize = 4;
/// Minimum number of ancestors on a line, however narrow the terminal.
const CHAIN_MIN: usize = 2;

/// Writes requests as lines of text.
pub struct TextSink<W: Write> {
    output: Output<W>,
    style: Style,
    /// Buffer for a line or block, reused.
    text: String,
}

impl<W: Write> TextSink<W> {
    pub fn new(output: Output<W>, style: Style) -> Self {
        Self {
            output,
            style,
            text: String::new(),
        }
    }
}

impl<W: Write> Sink for TextSink<W> {
    fn write(&mut self, event: &Event) -> io::Result<()> {
        self.text.clear();
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "{}", line(event, self.style));
        if self.style.verbose {
            let _ = write!(self.text, "{}", details::block(event, self.style));
        }
        self.output.write_line(self.text.as_bytes())
    }

    /// Text output reports losses and the summary on stderr instead.
    fn notice(&mut self, _: SystemTime, notice: &Notice<'_>) -> io::Result<()> {
        let Notice::Attempt(attempt) = notice else {
            return Ok(());
        };
        self.text.clear();
        let _ = writeln!(self.text, "{}", attempt::line(attempt, self.style));
        self.output.write_line(self.text.as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The line of `event`, without a line end.
pub fn line(event: &Event, style: Style) -> impl fmt::Display + '_ {
    fmt::from_fn(move |f| {
        let (_, request_max) = request_widths(style.width);
        let process = event.process.as_deref();
        let line = Line {
            time: event.time,
            label: label(event.verdict),
            status: status(event),
            what: request(event, request_max),
            process,
            marks: marks(event),
        };
        line.write(f, style)
    })
}

/// The parts of a line for a request or an attempt.
struct Line<'a> {
    time: SystemTime,
    label: (&'static str, anstyle::Style),
    status: (String, anstyle::Style),
    what: String,
    process: Option<&'a Process>,
    marks: Vec<(anstyle::Style, String)>,
}

impl Line<'_> {
    /// Writes the line without a line end.
    fn write(self, f: &mut fmt::Formatter<'_>, style: Style) -> fmt::Result {
        let color = style.color;
        let (label, label_style) = self.label;
        let (status, status_style) = self.status;
        let (time, what, caller) = (time(self.time), self.what, caller(self.process));
        let (width, _) = request_widths(style.width);
        let taken =
            columns(&time) + VERDICT_WIDTH + STATUS_WIDTH + 1 + columns(&what).max(width) + columns(&caller) + 4;
        let taken = taken + self.marks.iter().map(|(_, text)| columns(text) + 1).sum::<usize>() + 1;
        let room = style.width.map_or(usize::MAX, |width| width.saturating_sub(taken));

        let label = paint(color, label_style, format_args!("{label:VERDICT_WIDTH$}")).to_string();
        let status = paint(color, status_style, format_args!("{status:>STATUS_WIDTH$}")).to_string();
        write!(f, "{} {label} {status} ", paint(color, FAINT, time))?;
        write!(f, "{what:width$}  {}", paint(color, STRONG, caller))?;
        if let Some(process) = self.process {
            write!(f, "{}", paint(color, FAINT, chain(&process.ancestors, room)))?;
        }
        for (index, (style, text)) in self.marks.into_iter().enumerate() {
            let gap = if index == 0 { "  " } else { " " };
            write!(f, "{gap}{}", paint(color, style, text))?;
        }
        Ok(())
    }
}

/// `2026-11-22T09:10:11.123Z` without date and zone.
fn time(time: SystemTime) -> String {
    let time = humantime::format_rfc3339_millis(writable(time)).to_string();
    time.get(11..23).unwrap_or(&time).to_owned()
}

/// The verdict, abbreviated. The details have the full word.
fn label(verdict: Verdict) -> (&'static str, anstyle::Style) {
    match verdict {
        Verdict::V1 => ("v1", ALARM),
        Verdict::Unknown => ("unknown", DOUBT),
        Verdict::V2 => ("v2", GOOD),
        Verdict::V2TokenRequest => ("v2 token", GOOD),
        Verdict::V2EmptyToken => ("v2 empty", CAUTION),
        Verdict::InvalidTokenRequest => ("v2 bad", CAUTION),
        Verdict::OtherCloud => ("other", FAINT),
    }
}

/// The answer's status; `-` if no answer came; empty if that is unknown.
fn status(event: &Event) -> (String, anstyle::Style) {
    match event.answer {
        Answer::Answered(reply) => {
            let style = if reply.is_success() { FAINT } else { CAUTION };
            (reply.status.to_string(), style)
        }
        Answer::None => ("-".to_owned(), CAUTION),
        Answer::Unseen => (String::new(), PLAIN),
    }
}

/// Minimum and maximum columns of the request. Without a terminal the request may be longer.
fn request_widths(width: Option<usize>) -> (usize, usize) {
    match width {
        Some(width) => {
            let columns = (width * 2 / 7).clamp(24, 72);
            (columns, columns)
        }
        None => (52, 200),
    }
}

fn request(event: &Event, width: usize) -> String {
    let http = &event.http;
    let Some(target) = http.path.as_deref().or(http.target.as_deref()) else {
        return http
            .method
            .as_deref()
            .map_or("-".to_owned(), |method| foreign(method, width));
    };
    let method = foreign(http.method.as_deref().unwrap_or("-"), METHOD_WIDTH);
    let target = foreign_path(target, width.saturating_sub(columns(&method) + 1));
    format!("{method} {target}")
}

fn caller(process: Option<&Process>) -> String {
    let Some(process) = process else {
        return "unknown process".to_owned();
    };
    let mut text = format!("{}[{}]", foreign(&process.name, NAME_WIDTH), process.pid);
    // Writing to a String does not fail.
    if let Some(program) = program(process) {
        let _ = write!(text, " {}", foreign(program, NAME_WIDTH));
    }
    if let Some(run_by) = run_by(process) {
        let _ = write!(text, " by {}", foreign(run_by, NAME_WIDTH));
    }
    text
}

/// The program without its directory, if the process's name does not show it (`MainThread`, `python3` for a script).
fn program(process: &Process) -> Option<&str> {
    let executable = process.executable.as_deref()?;
    let program = match &process.run_by {
        Some(run_by) => process.program.strip_prefix(run_by.as_str())?.strip_prefix(" > ")?,
        None => process.program.as_str(),
    };
    let told = last_name(program);
    // The process may be named after its call (`sh` for dash) or its applet (`wget` for `busybox wget`).
    let called = process
        .args
        .first()
        .map(|arg| last_name(arg.strip_prefix('-').unwrap_or(arg)));
    let applet = told.rsplit(' ').next();
    // Compares the part before the first folded name.
    let is_executable = program
        .split('*')
        .next()
        .is_some_and(|start| executable.starts_with(start));
    let is_called_so = called.is_some_and(|called| is_named(&process.name, called));
    let is_told = is_named(&process.name, told)
        || applet.is_some_and(|applet| is_named(&process.name, applet))
        || is_executable && (is_called_so || is_named(&process.name, last_name(executable)));
    (!is_told).then_some(told)
}

/// The script that runs the tool, unless one of the ancestors that are always shown has its name.
fn run_by(process: &Process) -> Option<&str> {
    let run_by = last_name(process.run_by.as_deref()?);
    let shown = process.ancestors.iter().take(CHAIN_MIN);
    let mut names = shown.map(|ancestor| ancestor.name.as_str());
    (!names.any(|name| is_named(name, run_by.trim_matches(['[', ']'])))).then_some(run_by)
}

/// Compares names, given that the kernel keeps only 15 bytes of a process's name.
fn is_named(name: &str, program: &str) -> bool {
    const NAME_MAX: usize = 15;
    name == program || name.len() == NAME_MAX && program.starts_with(name)
}

/// The last name of a path, or the last two names if the last has no letter or digit, like `*`.
fn last_name(path: &str) -> &str {
    let at = path.rfind('/').map_or(0, |at| at + 1);
    let name = path.get(at..).unwrap_or(path);
    let says_nothing = name.trim_matches(|char: char| !char.is_alphanumeric()).is_empty();
    let above = path.get(..at.saturating_sub(1)).and_then(|above| above.rfind('/'));
    match above.filter(|_| says_nothing) {
        Some(at) => path.get(at + 1..).unwrap_or(path),
        None => name,
    }
}

/// As much of the chain as fits into `room`, starting with the parent. `…` marks the part left out.
fn chain(ancestors: &[Ancestor], room: usize) -> String {
    let link = |ancestor: &Ancestor| format!(" < {}({})", foreign(&ancestor.name, NAME_WIDTH), ancestor.pid);
    let links = |ancestors: &[Ancestor]| ancestors.iter().map(link).collect::<String>();
    let mut text = match ancestors {
        [first @ .., last] if first.len() >= CHAIN => format!("{} < …{}", links(&first[..CHAIN - 1]), link(last)),
        all => links(all),
    };
    for count in (CHAIN_MIN..ancestors.len().min(CHAIN)).rev() {
        if columns(&text) <= room {
            break;
        }
        text = format!("{} < …", links(&ancestors[..count]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::tests::{full_event, golden, minimal_event, samples, text_of, unknown_event};

    const PLAIN_STYLE: Style = Style {
        color: false,
        width: None,
        verbose: false,
    };

    fn write_all(events: &[Event], style: Style) -> String {
        text_of(|output| {
            let mut sink = TextSink::new(output, style);
            events
                .iter()
                .for_each(|event| sink.write(event).expect("a buffer takes all"));
            sink.flush().expect("a buffer takes all");
        })
    }

    #[test]
    fn a_line_names_the_program_where_the_name_says_nothing() {
        let of = |name: &str, executable: &str, command: &str, program: &str, run_by: &str| {
            let mut process = full_event().process.as_deref().cloned().expect("a process");
            (process.pid, process.name) = (7, name.to_owned());
            process.executable = Some(executable.to_owned()).filter(|path| !path.is_empty());
            process.args = command.split(' ').map(str::to_owned).collect();
            process.run_by = Some(run_by.to_owned()).filter(|text| !text.is_empty());
            process.program = match &process.run_by {
                Some(run_by) => format!("{run_by} > {program}"),
                None => program.to_owned(),
            };
            caller(Some(&process))
        };
        for (name, executable, command, program, run_by, expected) in [
            (
                "MainThread",
                "/usr/bin/node",
                "node",
                "/usr/bin/node",
                "",
                "MainThread[7] node",
            ),
            (
                "MainThread",
                "/usr/bin/node",
                "node a.js",
                "/srv/dist/server.js",
                "",
                "MainThread[7] server.js",
            ),
            (
                "node",
                "/usr/bin/node",
                "node a.js",
                "/srv/dist/server.js",
                "",
                "node[7] server.js",
            ),
            (
                "pool-1-thread-3",
                "/opt/agent/bin/agentd",
                "agentd -x",
                "/opt/agent/bin/agentd",
                "",
                "pool-1-thread-3[7] agentd",
            ),
            (
                "java",
                "/usr/lib/jvm/jdk-17/bin/java",
                "java -cp x Main",
                "java com.example.Main",
                "",
                "java[7] java com.example.Main",
            ),
            (
                "python3",
                "/usr/bin/python3.8",
                "python3 -m pkg",
                "python -m pkg",
                "",
                "python3[7] python -m pkg",
            ),
            (
                "python3",
                "/usr/bin/python3.8",
                "python3 x",
                "/tmp/tmp*/*",
                "",
                "python3[7] tmp*/*",
            ),
            (
                "gunicorn: worke",
                "/usr/bin/python3.8",
                "gunicorn: worker",
                "/usr/bin/python3.8",
                "",
                "gunicorn: worke[7] python3.8",
            ),
            // The process name is enough here.
            (
                "run.py",
                "/usr/bin/python3.8",
                "python3 ./run.py",
                "/srv/run.py",
                "",
                "run.py[7]",
            ),
            (
                "amazon-ssm-agen",
                "/snap/a/79/amazon-ssm-agent",
                "x",
                "/snap/a/*/amazon-ssm-agent",
                "",
                "amazon-ssm-agen[7]",
            ),
            ("sh", "/usr/bin/dash", "sh -c x", "/usr/bin/dash", "", "sh[7]"),
            ("sh", "/usr/bin/dash", "-sh", "/usr/bin/dash", "", "sh[7]"),
            (
                "nc",
                "/usr/bin/nc.openbsd",
                "nc 1 2",
                "/usr/bin/nc.openbsd",
                "",
                "nc[7]",
            ),
            ("wget", "/bin/busybox", "wget x", "/bin/busybox wget", "", "wget[7]"),
            (
                "fetcher",
                "/opt/fetcher (deleted)",
                "x",
                "/opt/fetcher",
                "",
                "fetcher[7]",
            ),
            ("nc", "", "", "[nc]", "", "nc[7]"),
            // The script that runs a tool is shown unless the chain has it.
            (
                "curl",
                "/usr/bin/curl",
                "curl x",
                "/usr/bin/curl",
                "/srv/deploy.sh",
                "curl[7] by deploy.sh",
            ),
            (
                "curl",
                "/usr/bin/curl",
                "curl x",
                "/usr/bin/curl",
                "/usr/bin/supervisord",
                "curl[7]",
            ),
            (
                "curl",
                "/usr/bin/curl",
                "curl x",
                "/usr/bin/curl",
                "[supervisord]",
                "curl[7]",
            ),
            (
                "sh",
                "/bin/busybox",
                "sh -c x",
                "/bin/busybox sh",
                "/srv/x.sh",
                "sh[7] by x.sh",
            ),
        ] {
            assert_eq!(of(name, executable, command, program, run_by), expected);
        }
        let long = of(
            "python3",
            "/usr/bin/python3",
            "python3 x",
            &format!("/srv/{}.py", "x".repeat(300)),
            "",
        );
        assert_eq!(columns(&long), "python3[7] ".len() + NAME_WIDTH, "{long}");
    }

    #[test]
    fn lines() {
        golden("lines.txt", &write_all(&samples(), PLAIN_STYLE));
        let width = Some(120);
        golden("lines-120.txt", &write_all(&samples(), Style { width, ..PLAIN_STYLE }));
    }

    #[test]
    fn details() {
        let style = Style {
            verbose: true,
            ..PLAIN_STYLE
        };
        let events = [full_event(), minimal_event(), unknown_event()];
        golden("details.txt", &write_all(&events, style));
    }

    #[test]
    fn color_changes_nothing_else() {
        for verbose in [false, true] {
            let style = |color| Style {
                color,
                verbose,
                ..PLAIN_STYLE
            };
            let colored = write_all(&samples(), style(true));
            assert!(colored.contains("\u{1b}[1m\u{1b}[31mv1"));
            let mut plain = String::new();
            let mut rest = colored.as_str();
            while let Some((before, after)) = rest.split_once('\u{1b}') {
                plain.push_str(before);
                rest = after.split_once('m').expect("an escape sequence").1;
            }
            plain.push_str(rest);
            assert_eq!(plain, write_all(&samples(), style(false)));
        }
    }

    #[test]
    fn others_forge_no_line() {
        let mut event = full_event();
        let evil = "x\n09:00:00.000  v2 \u{1b}[2J\r\u{9b}1m".to_owned();
        event.http.method = Some(evil.clone());
        event.http.path = Some(evil.clone());
        event.http.target = Some(format!("{evil}?"));
        event.http.user_agent = Some(evil.clone());
        if let Some(thread) = &mut event.thread {
            thread.name = evil.clone();
        }
        let mut process = event.process.as_deref().cloned().expect("a process");
        process.name = evil.clone();
        process.executable = Some(evil.clone());
        process.working_directory = Some(evil.clone());
        process.args = vec![evil.clone()];
        process.user.name = Some(evil.clone());
        process.unit = Some(evil.clone());
        process.caller = evil.clone();
        process.program = evil.clone();
        process.user_unit = Some(evil.clone());
        if let Some(orchestrator) = &mut process.orchestrator {
            orchestrator.id = evil.clone();
            orchestrator.name = Some(evil.clone());
            orchestrator.namespace = Some(evil.clone());
        }
        process.ancestors[0].name = evil.clone();
        process.ancestors[0].args = vec![evil.clone()];
        if let Some(container) = &mut process.container {
            container.id = evil.clone();
            container.name = Some(evil.clone());
            container.image = Some(evil);
        }
        event.process = Some(process.into());

        let style = Style {
            verbose: true,
            ..PLAIN_STYLE
        };
        let lines = write_all(&[full_event()], style).lines().count();
        let text = write_all(&[event], style);
        assert_eq!(text.lines().count(), lines, "{text}");
        assert!(!text.chars().any(|char| char.is_control() && char != '\n'), "{text:?}");
    }
}
