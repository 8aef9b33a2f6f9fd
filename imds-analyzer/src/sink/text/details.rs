//! The block of details with `--verbose`.

use std::{fmt, net::SocketAddr};

use super::{
    FAINT, Style, columns, foreign,
    marks::{user_name, workload},
    pad, paint, writable,
};
use crate::{
    event::{Answer, Event, Judgement, Process, Reply, command_line},
    sanitize,
    sink::layout::hang,
};

const INDENT: usize = 2;
const KEY_WIDTH: usize = 11;
/// Maximum columns of a value: `--verbose` asks for long arguments.
const VALUE_MAX: usize = 480;

/// The block of `event`, with line ends.
pub(super) fn block(event: &Event, style: Style) -> impl fmt::Display + '_ {
    fmt::from_fn(move |f| {
        let mut block = Block { f, style };
        block.field("verdict", event.verdict.as_str())?;
        block.field("class", event.path_class.as_str())?;
        block.field("answer", &answer(event.answer))?;
        if let Some(target) = event
            .http
            .target
            .as_ref()
            .filter(|&target| event.http.path.as_ref() != Some(target))
        {
            block.field("target", target)?;
        }
        if let Some(process) = event.process.as_deref() {
            block.process(event, process)?;
        }
        if let Some(user_agent) = &event.http.user_agent {
            block.field("user agent", user_agent)?;
        }
        block.field("socket", &socket(event))?;
        let owner = event.owner.map_or("nobody", |owner| owner.as_str());
        let source = event
            .process
            .as_deref()
            .map(|process| format!(", from {}", process.source.as_str()));
        let source = source.unwrap_or_default();
        block.field("seen by", &format!("{} (caller: {owner}{source})", event.tap.as_str()))?;
        block.judgement(&event.judgement)?;
        if event.forwarded {
            block.field("forwarded", "X-Forwarded-For is present")?;
        }
        Ok(())
    })
}

struct Block<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    style: Style,
}

impl Block<'_, '_> {
    fn field(&mut self, key: &str, value: &str) -> fmt::Result {
        let key = paint(self.style.color, FAINT, format_args!("{key:KEY_WIDTH$}")).to_string();
        let value = foreign(value, VALUE_MAX);
        let value = hang(&value, INDENT + KEY_WIDTH + 1, self.style.width);
        writeln!(self.f, "{:INDENT$}{key} {value}", "")
    }

    fn process(&mut self, event: &Event, process: &Process) -> fmt::Result {
        self.field("caller", &process.caller)?;
        if let Some(executable) = &process.executable {
            self.field("executable", executable)?;
        }
        if !process.args.is_empty() {
            let marked = process.args.last().is_some_and(|arg| arg.ends_with(sanitize::CUT));
            let rest = if process.args_truncated && !marked { " …" } else { "" };
            self.field("arguments", &format!("{}{rest}", command_line(&process.args)))?;
        }
        if let Some(directory) = &process.working_directory {
            self.field("directory", directory)?;
        }
        if let Some(start) = process.start {
            self.field(
                "started",
                &humantime::format_rfc3339_seconds(writable(start)).to_string(),
            )?;
        }
        if let Some(thread) = &event.thread {
            self.field("thread", &format!("{}[{}]", thread.name, thread.id))?;
        }
        self.identity(process)?;
        let width = process
            .ancestors
            .iter()
            .map(|ancestor| columns(&ancestor.name))
            .max()
            .unwrap_or(0);
        for (index, ancestor) in process.ancestors.iter().enumerate() {
            let key = if index == 0 { "parent" } else { "" };
            let name = format!("{}[{}]", ancestor.name, ancestor.pid);
            let user = ancestor.user_id.map(|id| format!("uid {id}")).unwrap_or_default();
            let command = command_line(&ancestor.args);
            let text = format!("{} {user:9} {command}", pad(&name, width.min(super::NAME_WIDTH) + 9));
            self.field(key, text.trim_end())?;
        }
        Ok(())
    }

    fn judgement(&mut self, judgement: &Judgement) -> fmt::Result {
        if let Some(cause) = judgement.cause {
            let status = judgement.token_status.map(|status| format!(" ({status})"));
            let hops = judgement
                .token_hop_limit
                .map(|hops| format!(" (TTL of token answers: {hops})"));
            let (status, hops) = (status.unwrap_or_default(), hops.unwrap_or_default());
            self.field(
                "cause",
                &format!("{}{status}{hops}: {}", cause.as_str(), cause.meaning()),
            )?;
        }
        if let Some(client) = &judgement.client {
            let version = client.version.as_deref().map(|version| format!(" {version}"));
            let path = client.path.as_deref().map(|path| format!(" {path}"));
            let (version, path) = (version.unwrap_or_default(), path.unwrap_or_default());
            self.field(
                "client",
                &format!("{}{version} (by {}{path})", client.name, client.source.as_str()),
            )?;
        }
        if let Some(program) = &judgement.program {
            let package = program.package.as_ref().map(|package| {
                let version = package.version.as_deref().unwrap_or_default();
                format!("package {} {version}", package.name).trim_end().to_owned()
            });
            let states = program.states.iter().map(|state| state.as_str().to_owned());
            let notes: Vec<_> = package.into_iter().chain(states).collect();
            if !notes.is_empty() {
                self.field("program", &format!("{} ({})", program.path, notes.join(", ")))?;
            }
        }
        if let Some(remedy) = &judgement.remedy {
            self.field("remedy", &format!("{}: {}", remedy.id, remedy.text))?;
        }
        if !judgement.risks.is_empty() {
            let risks: Vec<_> = judgement.risks.iter().map(|risk| risk.as_str()).collect();
            self.field("risk", &risks.join(", "))?;
        }
        Ok(())
    }

    fn identity(&mut self, process: &Process) -> fmt::Result {
        if let Some(name) = user_name(&process.user) {
            let id = process.user.id.map(|id| format!(" uid {id}")).unwrap_or_default();
            let group = process.group_id.map(|id| format!(" gid {id}")).unwrap_or_default();
            self.field("user", &format!("{name}{id}{group}"))?;
        }
        if let Some(login) = &process.login {
            let name = user_name(&login.user).unwrap_or_default();
            let session = login.session.map(|id| format!(" session {id}")).unwrap_or_default();
            self.field("login", &format!("{name}{session}"))?;
        }
        let unit = process.unit.as_ref().or(process.slice.as_ref());
        if let Some(unit) = unit {
            let user = process.user_unit.as_ref().or(process.user_slice.as_ref());
            let user = user
                .map(|unit| format!(", of the user's own: {unit}"))
                .unwrap_or_default();
            self.field("unit", &format!("{unit}{user}"))?;
        }
        if let Some(container) = &process.container {
            let runtime = container.runtime.map(|runtime| format!(" ({})", runtime.as_str()));
            let image = container.image.as_ref().map(|image| format!(" of {image}"));
            let name = container
                .name
                .as_ref()
                .map(|name| format!("{name} "))
                .unwrap_or_default();
            let (runtime, image) = (runtime.unwrap_or_default(), image.unwrap_or_default());
            self.field("container", &format!("{name}{}{runtime}{image}", container.id))?;
        }
        if let Some(orchestrator) = &process.orchestrator {
            let kind = orchestrator.platform.workload().as_str();
            let name = workload(orchestrator)
                .map(|name| format!("{name} "))
                .unwrap_or_default();
            let qos = orchestrator
                .qos
                .map(|qos| format!(" ({})", qos.as_str()))
                .unwrap_or_default();
            self.field(kind, &format!("{name}{}{qos}", orchestrator.id))?;
        }
        Ok(())
    }
}

fn answer(answer: Answer) -> String {
    match answer {
        Answer::Answered(Reply {
            status,
            duration,
            hop_limit,
        }) => {
            let mut text = format!("{status} after {:.1} ms", duration.as_secs_f64() * 1e3);
            if let Some(hop_limit) = hop_limit {
                text += &format!(", TTL {hop_limit}");
            }
            text
        }
        Answer::None => "none".to_owned(),
        Answer::Unseen => "not seen".to_owned(),
    }
}

fn socket(event: &Event) -> String {
    // Shows a mapped IPv4 address as IPv4.
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let rewritten = event
        .packet_destination
        .map(|packet| format!(" (rewritten to {})", plain(packet)));
    format!(
        "{} -> {}{}",
        plain(event.source),
        plain(event.destination),
        rewritten.unwrap_or_default()
    )
}
