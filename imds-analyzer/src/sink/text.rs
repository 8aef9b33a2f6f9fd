//! Text output: one line per request, and with `--verbose` a block of everything known about it.

use std::{
    fmt::{self, Write as _},
    io::{self, Write},
    iter,
    time::SystemTime,
};

use imds_analyzer_ebpf::classify::Verdict;

use self::marks::marks;
use super::{
    Output, Sink, Style,
    layout::{ALARM, CAUTION, DOUBT, FAINT, GOOD, PLAIN, STRONG, columns, fit, foreign, foreign_path, pad, paint},
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
/// Ancestors that a line of the usual width shows.
const NEAREST: usize = 2;
/// Narrower terminals show times without milliseconds.
const MILLIS_WIDTH: usize = 100;

/// Writes requests as lines of text.
pub struct TextSink<W: Write, S: Fn() -> Style> {
    output: Output<W>,
    /// The style at this moment: a terminal may be resized.
    style: S,
    /// Buffer for a line or block, reused.
    text: String,
}

impl<W: Write, S: Fn() -> Style> TextSink<W, S> {
    pub fn new(output: Output<W>, style: S) -> Self {
        Self {
            output,
            style,
            text: String::new(),
        }
    }
}

impl<W: Write, S: Fn() -> Style> Sink for TextSink<W, S> {
    fn write(&mut self, event: &Event) -> io::Result<()> {
        let style = (self.style)();
        self.text.clear();
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "{}", line(event, style));
        if style.verbose {
            let _ = write!(self.text, "{}", details::block(event, style));
        }
        self.output.write_line(self.text.as_bytes())
    }

    /// Text output reports losses and the summary on stderr instead.
    fn notice(&mut self, _: SystemTime, notice: &Notice<'_>) -> io::Result<()> {
        let Notice::Attempt(attempt) = notice else {
            return Ok(());
        };
        self.text.clear();
        let _ = writeln!(self.text, "{}", attempt::line(attempt, (self.style)()));
        self.output.write_line(self.text.as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// The line of `event`, without a line end.
pub fn line(event: &Event, style: Style) -> impl fmt::Display + '_ {
    fmt::from_fn(move |f| {
        let line = Line {
            time: event.time,
            label: label(event.verdict),
            status: status(event),
            what: What::of(event),
            process: event.process.as_deref(),
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
    what: What<'a>,
    process: Option<&'a Process>,
    marks: Vec<(anstyle::Style, String)>,
}

/// What a process asked for, or tried.
struct What<'a> {
    /// The method, or all there is.
    word: String,
    path: Option<&'a str>,
}

/// The parts of a line that vary with its length.
struct Widths {
    line: usize,
    /// Columns of the request. A longer one takes what the caller does not need.
    request: usize,
    /// The longest request.
    request_max: usize,
    millis: bool,
}

impl Widths {
    fn of(width: Option<usize>) -> Self {
        match width {
            Some(width) => Self {
                line: width,
                request: (width * 2 / 5).clamp(24, 60),
                request_max: usize::MAX,
                millis: width >= MILLIS_WIDTH,
            },
            None => Self {
                line: usize::MAX,
                request: 52,
                request_max: 200,
                millis: true,
            },
        }
    }
}

impl Line<'_> {
    /// Writes the line without a line end. The request and the process's name come before the rest of the caller, its
    /// ancestors, and the marks: each is written as far as there is room for whole parts of it.
    fn write(self, f: &mut fmt::Formatter<'_>, style: Style) -> fmt::Result {
        let color = style.color;
        let widths = Widths::of(style.width);
        let time = time(self.time, widths.millis);
        let (label, label_style) = self.label;
        let (status, status_style) = self.status;
        let mut caller = caller(self.process).into_iter();
        let name = caller.next().unwrap_or_default();

        let taken = columns(&time) + 1 + VERDICT_WIDTH + 1 + STATUS_WIDTH + 1 + 2 + columns(&name);
        let room = widths.line.saturating_sub(taken).min(widths.request_max);
        let what = pad(&self.what.fit(room), widths.request.min(room));
        let mut left = widths.line.saturating_sub(taken + columns(&what));

        let label = paint(color, label_style, format_args!("{label:VERDICT_WIDTH$}")).to_string();
        let status = paint(color, status_style, format_args!("{status:>STATUS_WIDTH$}")).to_string();
        write!(f, "{} {label} {status} {what}  ", paint(color, FAINT, time))?;
        let mut text = name;
        for part in caller.take_while(|part| take(&mut left, columns(part) + 1)) {
            text = text + " " + &part;
        }
        write!(f, "{}", paint(color, STRONG, text))?;
        if let Some(process) = self.process {
            let chain = chain(&process.ancestors, left);
            left = left.saturating_sub(columns(&chain));
            write!(f, "{}", paint(color, FAINT, chain))?;
        }
        write_marks(f, &self.marks, color, left)
    }
}

/// Takes `columns` from `left` if they are there.
fn take(left: &mut usize, columns: usize) -> bool {
    let rest = left.checked_sub(columns);
    *left = rest.unwrap_or(*left);
    rest.is_some()
}

/// The first marks that fit. `…` stands for the others, if there is room for it.
fn write_marks(
    f: &mut fmt::Formatter<'_>,
    marks: &[(anstyle::Style, String)],
    color: bool,
    mut left: usize,
) -> fmt::Result {
    for (index, (style, text)) in marks.iter().enumerate() {
        let gap = if index == 0 { "  " } else { " " };
        let is_last = index + 1 == marks.len();
        let more = if is_last { 0 } else { " …".chars().count() };
        let needed = gap.len() + columns(text);
        if needed.saturating_add(more) > left {
            return if left > gap.len() {
                write!(f, "{gap}{}", paint(color, FAINT, "…"))
            } else {
                Ok(())
            };
        }
        left -= needed;
        write!(f, "{gap}{}", paint(color, *style, text))?;
    }
    Ok(())
}

/// `2026-11-22T09:10:11.123Z` without date and zone.
fn time(time: SystemTime, millis: bool) -> String {
    let time = humantime::format_rfc3339_millis(writable(time)).to_string();
    let end = if millis { 23 } else { 19 };
    time.get(11..end).unwrap_or(&time).to_owned()
}

/// The verdict, abbreviated. The details have the full word.
pub(crate) fn label(verdict: Verdict) -> (&'static str, anstyle::Style) {
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

impl<'a> What<'a> {
    fn of(event: &'a Event) -> Self {
        let http = &event.http;
        Self {
            word: foreign(http.method.as_deref().unwrap_or("-"), METHOD_WIDTH),
            path: http.path.as_deref().or(http.target.as_deref()),
        }
    }

    fn fit(&self, width: usize) -> String {
        match self.path {
            Some(path) => {
                let room = width.saturating_sub(columns(&self.word) + 1);
                format!("{} {}", self.word, foreign_path(path, room))
            }
            None => fit(&self.word, width).into_owned(),
        }
    }
}

/// The process, and what is known of its program, in the order of importance.
fn caller(process: Option<&Process>) -> Vec<String> {
    let Some(process) = process else {
        return vec!["unknown process".to_owned()];
    };
    let mut parts = vec![format!("{}[{}]", foreign(&process.name, NAME_WIDTH), process.pid)];
    parts.extend(program(process).map(|program| foreign(program, NAME_WIDTH)));
    parts.extend(run_by(process).map(|run_by| format!("by {}", foreign(run_by, NAME_WIDTH))));
    parts
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

/// The script that runs the tool, unless one of the nearest ancestors has its name.
fn run_by(process: &Process) -> Option<&str> {
    let run_by = last_name(process.run_by.as_deref()?);
    let shown = process.ancestors.iter().take(NEAREST);
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
    let whole = match ancestors {
        [first @ .., last] if first.len() >= CHAIN => format!("{} < …{}", links(&first[..CHAIN - 1]), link(last)),
        all => links(all),
    };
    let shorter = (0..ancestors.len().min(CHAIN)).rev();
    let shorter = shorter.map(|count| format!("{} < …", links(&ancestors[..count])));
    let mut all = iter::once(whole).chain(shorter);
    all.find(|text| columns(text) <= room).unwrap_or_default()
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
            let mut sink = TextSink::new(output, || style);
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
            caller(Some(&process)).join(" ")
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
        for width in [80, 100, 120, 160] {
            let style = Style {
                width: Some(width),
                ..PLAIN_STYLE
            };
            golden(&format!("lines-{width}.txt"), &write_all(&samples(), style));
        }
    }

    #[test]
    fn no_line_is_longer_than_the_terminal() {
        let mut wide = full_event();
        wide.http.path = Some("/latest/監視/監視監視監視監視監視監視監視監視監視監視監視監視監視監視".to_owned());
        let mut process = wide.process.as_deref().cloned().expect("a process");
        process.name = "監視監視監".to_owned();
        process.args = vec!["監視".repeat(200), "x".repeat(500)];
        process
            .ancestors
            .iter_mut()
            .for_each(|ancestor| ancestor.name = "監視監視監".to_owned());
        wide.process = Some(process.into());
        let events = [samples(), vec![wide]].concat();
        for (width, verbose) in (80..200).flat_map(|width| [(width, false), (width, true)]) {
            let style = Style {
                color: false,
                width: Some(width),
                verbose,
            };
            let text = write_all(&events, style);
            let long: Vec<_> = text.lines().filter(|line| columns(line) > width).collect();
            assert_eq!(long, [""; 0], "{width}");
        }
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
