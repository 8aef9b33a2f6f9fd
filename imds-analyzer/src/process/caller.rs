//! The identity of callers: program and place, stable between runs.
//!
//! The program is the executable, or the script of an interpreter (`python3 /opt/app/run.py` is run.py). The place is
//! the container's image, or else the unit. Both use only what may be shown: arguments are already masked, and with
//! `args = executable` they contain no script.

mod fold;
mod interpreter;
#[cfg(test)]
mod tests;

use self::interpreter::Runs;
use super::{cgroup::Placement, network_helper, paths::DELETED};
use crate::{
    event::{Ancestor, Container, Runtime},
    sanitize,
};

/// Maximum length of a caller's key, in bytes.
const CALLER_MAX: usize = 256;
/// Maximum length of the part before ` > `, in bytes.
const RUN_BY_MAX: usize = 128;
/// Maximum length of a path to analyse, in bytes.
const PATH_MAX: usize = 1024;
/// Maximum number of ancestors to search for the program that runs a tool.
const ANCESTORS_ASKED: usize = 16;

/// Tools that do what others tell them. The program that runs a tool is more useful than the tool.
const TOOLS: [&str; 31] = [
    "aria2c",
    "aws",
    "aws_completer",
    "axel",
    "busybox",
    "curl",
    "curlie",
    "ec2-metadata",
    "ec2metadata",
    "fetch",
    "gawk",
    "gron",
    "GET",
    "http",
    "httpie",
    "https",
    "jq",
    "links",
    "lwp-request",
    "lynx",
    "nc",
    "nc.openbsd",
    "nc.traditional",
    "ncat",
    "netcat",
    "openssl",
    "socat",
    "telnet",
    "wget",
    "xh",
    "yq",
];
/// Tools that are modules: `python -m awscli`.
const TOOL_MODULES: [&str; 3] = ["awscli", "httpie", "urllib"];
/// Programs that only run another program, such as `env` and `timeout`.
const WRAPPERS: [&str; 42] = [
    "catatonit",
    "chroot",
    "chrt",
    "chronic",
    "doas",
    "docker-init",
    "dumb-init",
    "env",
    "find",
    "flock",
    "gosu",
    "ionice",
    "ip",
    "logsave",
    "ltrace",
    "nice",
    "nohup",
    "nsenter",
    "numactl",
    "parallel",
    "pkexec",
    "prlimit",
    "run-one",
    "run-parts",
    "runuser",
    "script",
    "setarch",
    "setpriv",
    "setsid",
    "setuidgid",
    "stdbuf",
    "strace",
    "su",
    "su-exec",
    "sudo",
    "taskset",
    "time",
    "timeout",
    "tini",
    "unshare",
    "watch",
    "xargs",
];
/// Programs that start others for a person, a schedule or a unit. Unit and container are more useful than their names.
const STARTERS: [&str; 36] = [
    "agetty",
    "amazon-ssm-agent",
    "anacron",
    "atd",
    "conmon",
    "containerd-shim",
    "containerd-shim-runc-v1",
    "containerd-shim-runc-v2",
    "cron",
    "crond",
    "crun",
    "docker-containerd-shim",
    "dockerd",
    "dropbear",
    "fcron",
    "gnome-terminal-server",
    "in.telnetd",
    "init",
    "login",
    "lxc-start",
    "mosh-server",
    "podman",
    "runc",
    "runsv",
    "s6-supervise",
    "screen",
    "ssm-document-worker",
    "ssm-session-worker",
    "sshd",
    "sshd-auth",
    "sshd-session",
    "systemd",
    "systemd-executor",
    "systemd-nspawn",
    "tmux",
    "xterm",
];

/// Facts about a process known so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) name: &'a str,
    pub(super) executable: Option<&'a str>,
    /// Masked, as they are shown.
    pub(super) args: &'a [String],
    pub(super) working_directory: Option<&'a str>,
}

/// A program, and the program that runs it if it is a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// `program`, or `script > tool`.
    pub(super) text: String,
    /// The part before ` > `.
    pub(super) run_by: Option<String>,
}

/// A program's part in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A program in its own right.
    Own,
    /// One of [`TOOLS`].
    Tool,
    /// An interpreter with inline text, such as `sh -c`.
    Text,
    /// An interpreter that reads standard input: a person's commands, or part of a script.
    Input,
    /// One of [`WRAPPERS`], or a network helper.
    Wrapper,
    /// One of [`STARTERS`].
    Starter,
}

impl Role {
    fn of(name: &str) -> Self {
        let plain = interpreter::without_version(name);
        let is_of = |names: &[&str]| names.contains(&name) || names.contains(&plain);
        if is_of(&TOOLS) {
            Self::Tool
        } else if is_of(&WRAPPERS) || network_helper::is_named_so(name) {
            Self::Wrapper
        } else if is_of(&STARTERS) {
            Self::Starter
        } else {
            Self::Own
        }
    }
}

/// The program of one process.
struct Known {
    text: String,
    role: Role,
    /// The interpreter, if the program is a script.
    script_of: Option<String>,
}

impl Known {
    /// The script, module or main class of an interpreter, the applet of a multi-call program, or the executable; in
    /// brackets what the process claims, if the executable is not known.
    fn of(facts: &Facts<'_>) -> Self {
        // A program whose file was replaced by an upgrade is still the same program.
        let executable = facts.executable.map(|path| path.strip_suffix(DELETED).unwrap_or(path));
        let first = || Some(facts.args.first()?.as_str());
        let file = base_name(executable.or_else(first).unwrap_or(facts.name));
        let (mut file, mut runs, mut applet) = (file, interpreter::runs(file, facts.args), None);
        // For `busybox sh script` it is the script.
        if let Some(Runs::Applet(name, args)) = runs {
            (file, applet) = (name, Some(name));
            runs = interpreter::runs(name, args).filter(|runs| !matches!(runs, Runs::Applet(..)));
        }
        let mut script_of = None;
        let (found, role) = match runs {
            Some(Runs::Script(path)) => {
                script_of = Some(file.to_owned());
                let path = absolute(path, facts.working_directory);
                let role = match Role::of(base_name(&path)) {
                    Role::Tool => Role::Tool,
                    _ => Role::Own,
                };
                (Some(fold::path(&path)), role)
            }
            Some(Runs::Named(kind, what)) => {
                let package = what.split('.').next().unwrap_or(what);
                let is_tool = TOOL_MODULES.contains(&package);
                let role = if is_tool { Role::Tool } else { Role::Own };
                (Some(format!("{kind} {what}")), role)
            }
            Some(Runs::Text) => (None, Role::Text),
            Some(Runs::Input) => (None, Role::Input),
            Some(Runs::Applet(..)) | None => (None, Role::of(file)),
        };
        let text = match (found, executable) {
            (Some(found), Some(_)) => found,
            (Some(claimed), None) => marked(&claimed),
            (None, Some(path)) => {
                let path = fold::path(&sanitize::bounded(path.to_owned(), PATH_MAX));
                match applet {
                    Some(applet) => format!("{path} {applet}"),
                    None => path,
                }
            }
            (None, None) => marked(facts.name),
        };
        Self { text, role, script_of }
    }
}

/// A claim of a process that the kernel does not confirm, in brackets, so that it looks neither like an executable nor
/// like a tool that another program runs.
fn marked(claimed: &str) -> String {
    let claimed = claimed.replace(['[', ']', '>', '(', ')'], "_");
    format!("[{}]", fold::path(&sanitize::bounded(claimed, RUN_BY_MAX)))
}

/// The program of a process whose ancestors are `ancestors`, the parent first.
pub(super) fn program(facts: &Facts<'_>, ancestors: &[Ancestor]) -> Program {
    let known = Known::of(facts);
    let run_by = run_by(known.role, ancestors).map(|text| sanitize::bounded(text, RUN_BY_MAX));
    let text = match &run_by {
        Some(run_by) => format!("{run_by} > {}", known.text),
        None => known.text,
    };
    Program {
        text: sanitize::bounded(text, CALLER_MAX),
        run_by,
    }
}

/// For a tool, the nearest ancestor that is a script or a program in its own right. Skips programs in between that only
/// do what it says, such as `sh -c` and `timeout`. `None` if a person, a schedule or a unit runs the tool, which the
/// unit shows.
fn run_by(role: Role, ancestors: &[Ancestor]) -> Option<String> {
    if !matches!(role, Role::Tool | Role::Text | Role::Input) {
        return None;
    }
    // An interpreter reads part of a shell script (`bash <<EOF`) or what a person types. Only in the first case is its
    // parent a shell script.
    let mut input = role == Role::Input;
    for ancestor in ancestors.iter().take(ANCESTORS_ASKED) {
        if ancestor.pid == 1 {
            return None;
        }
        let known = of_ancestor(ancestor)?;
        let is_script = known.script_of.is_some();
        match known.role {
            Role::Own | Role::Tool if input => {
                let of_shell = known.script_of.as_deref().is_some_and(interpreter::is_shell);
                return of_shell.then_some(known.text);
            }
            Role::Own => return Some(known.text),
            Role::Tool if is_script => return Some(known.text),
            Role::Tool | Role::Text | Role::Wrapper => {}
            Role::Input => input = true,
            Role::Starter => return None,
        }
    }
    None
}

/// `None` if the program cannot be determined.
fn of_ancestor(ancestor: &Ancestor) -> Option<Known> {
    let facts = Facts {
        name: &ancestor.name,
        executable: ancestor.executable.as_deref(),
        args: &ancestor.args,
        working_directory: None,
    };
    let is_interpreter = |path: &str| interpreter::runs(base_name(path), &[]).is_some();
    let unknown = ancestor.args.is_empty() && facts.executable.is_none_or(is_interpreter);
    if !unknown {
        return Some(Known::of(&facts));
    }
    // The kernel names a process after the script that it executes; an interpreter's own name is no help.
    let role = Role::of(&ancestor.name);
    (!is_interpreter(&ancestor.name)).then(|| Known {
        text: marked(&ancestor.name),
        role,
        script_of: None,
    })
}

/// `program (place)`, or only the program.
pub(super) fn key(program: &str, placement: &Placement) -> String {
    match place(placement) {
        Some(place) => sanitize::bounded(format!("{program} ({place})"), CALLER_MAX),
        None => program.to_owned(),
    }
}

/// The program of a [`key`] with a place; without a place the key is the program. A truncated key is returned as it is.
pub(crate) fn program_of(key: &str) -> &str {
    // No place contains a blank before a parenthesis. A report does this for each line: searching for one character is
    // quicker than searching for both.
    let parentheses = key.strip_suffix(')').map(|key| key.rmatch_indices('('));
    let program = parentheses.and_then(|mut at| at.find_map(|(at, _)| key.get(..at)?.strip_suffix(' ')));
    program.unwrap_or(key)
}

/// The part of the placement that is stable when the process is started again. Ids of containers and pods are not, so
/// without a name only the runtime is left. Sessions, scopes and units made by systemd-run are not stable either.
fn place(placement: &Placement) -> Option<String> {
    if let Some(container) = &placement.container {
        return Some(container_place(container));
    }
    if let Some(place) = users_place(placement) {
        return Some(place);
    }
    let lasting = |unit: &&String| unit.ends_with(".service") && !is_made_up(unit);
    let unit = placement.user_unit.as_ref().filter(lasting);
    unit.or(placement.unit.as_ref().filter(lasting))
        .map(|unit| fold::unit(unit))
}

/// A name that a user chose, after the system's name of the place where the user's names begin. No system unit or image
/// has a slash after a unit's name.
fn users_place(placement: &Placement) -> Option<String> {
    let lasting = |unit: &&String| unit.ends_with(".service") && !is_made_up(unit);
    let chosen = match &placement.user_container {
        Some(container) => container_place(container),
        None => placement.user_unit.as_ref().filter(lasting)?.clone(),
    };
    let system = placement.unit.as_ref().filter(lasting).map_or("~", String::as_str);
    Some(format!("{system}/{chosen}"))
}

fn container_place(container: &Container) -> String {
    let named = container.image.as_ref().or(container.name.as_ref());
    named.cloned().unwrap_or_else(|| {
        let runtime = container.runtime.map_or("unknown", Runtime::as_str);
        format!("{runtime} container")
    })
}

/// True for names made by systemd-run: `run-u12.service`, `run-r<hex>.service`, `run-p<pid>-i<number>.service`.
fn is_made_up(unit: &str) -> bool {
    let name = unit.strip_prefix("run-").and_then(|unit| unit.strip_suffix(".service"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.is_some_and(|name| match name.split_at_checked(1) {
        Some(("u", number)) => is_number(number),
        Some(("r", id)) => id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        Some(("p", numbers)) => numbers
            .split_once("-i")
            .is_some_and(|(pid, inode)| is_number(pid) && is_number(inode)),
        _ => false,
    })
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Resolves a path against the working directory, if that is known.
fn absolute(path: &str, directory: Option<&str>) -> String {
    let path = path.get(..path.floor_char_boundary(PATH_MAX)).unwrap_or(path);
    let Some(directory) = directory.filter(|_| !path.starts_with('/')) else {
        return path.trim_start_matches("./").to_owned();
    };
    let directory = directory.strip_suffix(DELETED).unwrap_or(directory);
    let mut names: Vec<&str> = directory.split('/').filter(|name| !name.is_empty()).collect();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}
