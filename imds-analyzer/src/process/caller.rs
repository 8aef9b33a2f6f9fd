//! What callers are told apart by: the program and the place it runs in, the same from one run to the next.
//!
//! The program is the executable, or what an interpreter runs (`python3 /opt/app/run.py` is run.py). The place is the
//! container's image, or else the unit. Both are made of what may be shown: arguments are masked before they come here,
//! and with `args = executable` there is no script among them.

mod interpreter;
#[cfg(test)]
mod tests;

use self::interpreter::Runs;
use super::cgroup::Placement;
use crate::{event::Container, sanitize};

/// Bytes of a caller's key at most.
const CALLER_MAX: usize = 256;
/// What readlink of `/proc/<pid>/exe` puts behind the path of a file that is gone.
pub(super) const DELETED: &str = " (deleted)";

/// What is known of a process by now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) name: &'a str,
    pub(super) executable: Option<&'a str>,
    /// As they are shown.
    pub(super) args: &'a [String],
    pub(super) working_directory: Option<&'a str>,
}

/// The script, the module or main class of an interpreter, the applet of a multi-call program, or the executable; the
/// process's name where that is not known.
pub(super) fn program(facts: &Facts<'_>) -> String {
    // An upgrade replaces a running program's file: it is still the same program.
    let executable = facts.executable.map(|path| path.strip_suffix(DELETED).unwrap_or(path));
    let file = base_name(executable.or_else(|| Some(facts.args.first()?)).unwrap_or(facts.name));
    let found = match interpreter::runs(file, facts.args) {
        Some(Runs::Script(path)) => Some(absolute(path, facts.working_directory)),
        Some(Runs::Named(kind, what)) => Some(format!("{kind} {what}")),
        Some(Runs::Applet(applet)) => Some(format!("{} {applet}", executable.unwrap_or(file))),
        None => None,
    };
    let program = found.or(executable.map(str::to_owned));
    sanitize::bounded(program.unwrap_or_else(|| facts.name.to_owned()), CALLER_MAX)
}

/// `program (place)`, or the program alone.
pub(super) fn key(program: &str, placement: &Placement) -> String {
    match place(placement) {
        Some(place) => sanitize::bounded(format!("{program} ({place})"), CALLER_MAX),
        None => program.to_owned(),
    }
}

/// What stays the same when the process is started again. A container's id and a pod's do not; without a name
/// there is only the runtime to name. Neither do sessions and scopes, nor the units that systemd-run makes up.
fn place(placement: &Placement) -> Option<String> {
    if let Some(container) = &placement.container {
        return Some(container_place(container));
    }
    if let Some(place) = users_place(placement) {
        return Some(place);
    }
    let lasting = |unit: &&String| unit.ends_with(".service") && !is_made_up(unit);
    let unit = placement.user_unit.as_ref().filter(lasting);
    unit.or(placement.unit.as_ref().filter(lasting)).cloned()
}

/// A name that a user chose, behind the system's for where that user's names begin: no system's unit or image has a slash
/// behind a unit's name.
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
        let runtime = container.runtime.as_deref().unwrap_or("unknown");
        format!("{runtime} container")
    })
}

/// `run-u12.service`, `run-r<hex>.service`, `run-p<pid>-i<number>.service`: names that systemd-run makes up.
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

/// As the process meant it; as it was written where the working directory is not known.
fn absolute(path: &str, directory: Option<&str>) -> String {
    let Some(directory) = directory.filter(|_| !path.starts_with('/')) else {
        return path.to_owned();
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
