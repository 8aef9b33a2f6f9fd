//! The file that a caller runs, its state, and the package that it is from, by dpkg's lists.

use std::fs::File;

use super::{
    super::last_name,
    files::{Files, Limits},
    script,
};
use crate::event::{FileState, Package, Process, Program};

const LISTS: &str = "/var/lib/dpkg/info";
const STATUS: &str = "/var/lib/dpkg/status";
/// Bytes of a list of files, and of the status of all packages: several times those of a large desktop.
const LIST_MAX: u64 = 4 << 20;
const STATUS_MAX: u64 = 16 << 20;

/// A host with 2,000 packages has 20 MiB of lists, in the page cache since its last upgrade.
const LIMITS: Limits = Limits {
    names: 64 << 10,
    bytes: 64 << 20,
};

/// The kernel appends this to the path of an executable without a name.
const DELETED: &str = " (deleted)";
const IN_MEMORY: &str = "/memfd:";

/// Interpreters whose script is the program.
const INTERPRETERS: [&str; 11] = [
    "python", "pypy", "node", "ruby", "perl", "php", "bash", "dash", "sh", "zsh", "ksh",
];

pub(super) fn of(root: File, process: &Process) -> Option<Program> {
    let executable = process.executable.as_deref()?;
    let mut files = Files::with(root, LIMITS);
    if let Some(path) = executable.strip_suffix(DELETED) {
        let in_memory = path.starts_with(IN_MEMORY);
        return Some(Program {
            path: path.to_owned(),
            package: None,
            states: vec![if in_memory {
                FileState::InMemory
            } else {
                FileState::Deleted
            }],
        });
    }
    let name = last_name(executable);
    let is_interpreter = INTERPRETERS.iter().any(|it| name.starts_with(it));
    let own_script = || script(process).filter(|path| files.access(path).is_some());
    let path = is_interpreter.then(own_script).flatten();
    let path = path.unwrap_or_else(|| executable.to_owned());
    let is_open = files.access(&path).is_some_and(|access| access.is_open_to_others());
    Some(Program {
        package: package(&mut files, &path),
        states: is_open.then_some(FileState::WritableByOthers).into_iter().collect(),
        path,
    })
}

/// The package that has the file at `path`.
fn package(files: &mut Files, path: &str) -> Option<Package> {
    let mut lists = files.names(LISTS);
    lists.retain(|name| name.ends_with(".list"));
    // A package often is named after its program.
    let likely = last_name(path).split(['.', ':']).next().unwrap_or_default().to_owned();
    lists.sort_by_key(|list| !list.starts_with(&likely));
    // Lists from before the merge of /bin into /usr/bin have the old path.
    let old = path.strip_prefix("/usr").unwrap_or(path);
    let list = lists.iter().find(|list| {
        let text = files.read(&format!("{LISTS}/{list}"), LIST_MAX).unwrap_or_default();
        let mut lines = text.split(|byte| *byte == b'\n');
        lines.any(|line| line == path.as_bytes() || line == old.as_bytes())
    })?;
    let name = list.strip_suffix(".list")?.split(':').next()?;
    Some(Package {
        version: version(files, name).filter(|version| is_plain(version)),
        name: is_plain(name).then(|| name.to_owned())?,
    })
}

/// True for a text that may be a name or a version (deb-control(5)): the lists of a container are its own.
fn is_plain(text: &str) -> bool {
    const LENGTH_MAX: usize = 128;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.:~_".contains(&byte);
    (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

fn version(files: &mut Files, package: &str) -> Option<String> {
    let status = files.read(STATUS, STATUS_MAX)?;
    let status = std::str::from_utf8(&status).ok()?;
    let first = format!("Package: {package}\n");
    let stanza = status
        .split("\n\n")
        .find(|stanza| stanza.trim_start().starts_with(&first))?;
    let version = stanza.lines().find_map(|line| line.strip_prefix("Version: "))?;
    Some(version.to_owned())
}
