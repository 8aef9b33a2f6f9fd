//! Entries of `[[ignore]]` and `[[expect]]`.
//!
//! Callers choose many of their own names, so these keys use names that the system gives: `unit` is a unit of the
//! system's manager, `container` is outside users' own cgroups, `executable` is a file that belongs to root in the
//! host's namespaces. Keys that a caller can satisfy at will are useful only together with one of those, or with
//! `user`: [`Pattern::weakness`] reports entries without.

use std::fmt;

use imds_analyzer_ebpf::classify::path_class;
use serde::Deserialize;

use super::path;
use crate::event::{Event, HttpVersion, Process};

/// All given keys must match. An entry without keys is an error, because it would match everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Fields")]
pub struct Pattern(Fields);

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    unit: Option<String>,
    user_unit: Option<String>,
    executable: Option<String>,
    container: Option<String>,
    user: Option<String>,
    caller: Option<String>,
    ancestor: Option<String>,
    path: Option<String>,
}

impl TryFrom<Fields> for Pattern {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        if fields == Fields::default() {
            return Err("an entry without a key would match every call");
        }
        Ok(Self(fields))
    }
}

/// Units in which users run programs of their choice: their manager and sessions, scheduled jobs, and logins without a
/// session.
const UNITS_OF_ANYBODY: [&str; 10] = [
    "user@1000.service",
    "session-1.scope",
    "session-c1.scope",
    "cron.service",
    "crond.service",
    "atd.service",
    "ssh.service",
    "sshd.service",
    "sshd@1-10.0.0.1:22-10.0.0.2:50000.service",
    "run-u1.service",
];
/// Programs that run what their caller tells them to.
const TOOLS: [&str; 27] = [
    "ash", "aws", "awk", "bash", "busybox", "curl", "dash", "dotnet", "gawk", "java", "ksh", "lua", "mawk", "nc",
    "ncat", "node", "openssl", "perl", "php", "python", "ruby", "sh", "socat", "tclsh", "telnet", "wget", "zsh",
];
/// Minimum number of characters, besides stars, for an id or name to identify a container.
const CONTAINER_MIN: usize = 3;
/// HTTP/0.9 targets up to this length are kept whole.
const TARGET_WHOLE: usize = 900;

impl Pattern {
    pub fn matches(&self, event: &Event) -> bool {
        let process = event.process.as_deref();
        let fits = |wanted: &Option<String>, value: Option<&str>| {
            wanted
                .as_deref()
                .is_none_or(|wanted| value.is_some_and(|value| fits(wanted, value)))
        };
        let user = |wanted: &str| {
            process.is_some_and(|process| {
                process
                    .user
                    .name
                    .as_deref()
                    .is_some_and(|name| self::fits(wanted, name))
                    || process.user.id.is_some_and(|id| wanted == id.to_string())
            })
        };
        let Fields {
            unit,
            user_unit,
            executable,
            container,
            user: wanted_user,
            caller,
            ancestor,
            path,
        } = &self.0;
        let place = process.and_then(|process| process.container.as_ref());
        let trusted = process.filter(|process| process.executable_trusted);
        fits(unit, process.and_then(|process| process.system_unit.as_deref()))
            && fits(user_unit, process.and_then(|process| process.user_unit.as_deref()))
            && fits(executable, trusted.and_then(|process| process.executable.as_deref()))
            && (fits(container, place.map(|it| it.id.as_str()))
                || fits(container, place.and_then(|it| it.name.as_deref())))
            && wanted_user.as_deref().is_none_or(user)
            && fits(caller, Some(event.caller()))
            && ancestor
                .as_deref()
                .is_none_or(|wanted| process.is_some_and(|process| descends(process, wanted)))
            && path.as_deref().is_none_or(|wanted| fits_path(wanted, event))
    }

    /// A warning if calls by any user can match the entry, or if nothing can, with the remedy.
    pub fn weakness(&self) -> Option<&'static str> {
        let Fields {
            unit,
            user_unit: _,
            executable,
            container,
            user,
            caller: _,
            ancestor: _,
            path,
        } = &self.0;
        if path
            .as_deref()
            .is_some_and(|path| path.starts_with('/') && !is_normal(path))
        {
            return Some(
                "no call matches: write the path without empty and dot segments, percent-encoding, query and fragment",
            );
        }
        if user.as_deref().is_some_and(|user| !is_anything(user)) {
            return None;
        }
        let of_anybody = |unit: &str| UNITS_OF_ANYBODY.iter().any(|other| fits(unit, other));
        if unit.as_deref().is_some_and(|unit| !of_anybody(unit))
            || container.as_deref().is_some_and(|it| literals(it) >= CONTAINER_MIN)
            || executable.as_deref().is_some_and(is_one_program)
        {
            return None;
        }
        let any_program = "any user can run a matching program and make calls with it; add user, unit or container, or \
                           give the full path of a program that does one thing";
        let any_call = "callers choose these values, so calls by any user can match; add user, or a system unit, \
                        container or executable";
        Some(if executable.is_some() { any_program } else { any_call })
    }
}

impl fmt::Display for Pattern {
    /// The entry as in the file, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fields {
            unit,
            user_unit,
            executable,
            container,
            user,
            caller,
            ancestor,
            path,
        } = &self.0;
        let keys = [
            ("unit", unit),
            ("user_unit", user_unit),
            ("executable", executable),
            ("container", container),
            ("user", user),
            ("caller", caller),
            ("ancestor", ancestor),
            ("path", path),
        ];
        let mut separator = "";
        for (key, value) in keys {
            if let Some(value) = value {
                write!(f, "{separator}{key} = {value:?}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// True if an ancestor has this executable or name.
fn descends(process: &Process, wanted: &str) -> bool {
    process.ancestors.iter().any(|ancestor| {
        fits(wanted, &ancestor.name)
            || ancestor
                .executable
                .as_deref()
                .is_some_and(|executable| fits(wanted, executable))
    })
}

/// Compares the path in normal form, with and without a trailing slash.
fn fits_path(wanted: &str, event: &Event) -> bool {
    let Some(target) = event.http.target.as_deref() else {
        return false;
    };
    let path = path::normal(target);
    is_whole(target, event)
        && (fits(wanted, &path) || fits(wanted, &format!("{}/", path.strip_suffix('/').unwrap_or(&path))))
}

/// True if the target was kept whole. If only the beginning was kept, the rest may change the path.
fn is_whole(target: &str, event: &Event) -> bool {
    let ends = match event.http.version {
        None => false,
        // Nothing follows such a target, and masking only makes it shorter.
        Some(HttpVersion::Http09) => target.len() <= TARGET_WHOLE && !target.contains("***"),
        Some(_) => true,
    };
    ends && path_class(target.as_bytes()) == event.path_class
}

fn is_normal(path: &str) -> bool {
    let written = path.strip_suffix('/').filter(|it| !it.is_empty()).unwrap_or(path);
    path::normal(written) == written
}

fn is_anything(pattern: &str) -> bool {
    literals(pattern) == 0
}

/// Number of characters that are not stars.
fn literals(pattern: &str) -> usize {
    pattern.chars().filter(|&character| character != '*').count()
}

/// True for a full path that is neither an interpreter nor a tool. A bare name does not count, because users choose
/// names of files in their own directories.
fn is_one_program(pattern: &str) -> bool {
    let Some((directory, file)) = pattern.rsplit_once('/') else {
        return false;
    };
    // `python3.11` and `python*` count as python.
    let family = file.trim_end_matches(|last: char| last.is_ascii_digit() || "*.-".contains(last));
    !directory.contains('*')
        && pattern.starts_with('/')
        && !is_anything(file)
        && !TOOLS.iter().any(|tool| fits(file, tool) || family == *tool)
}

/// True if `text` matches `pattern`, in which `*` matches any text. Taking the first match for each part is safe,
/// except for the last part, which must match at the end.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}
