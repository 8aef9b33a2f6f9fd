//! Finds the client library inside a caller and the package that its program is from: looks at the files that the
//! caller itself sees, once per caller.
//!
//! Looks at names first, because a directory's entry has library and version at once, and reads a file only if its name
//! does not. The files may belong to another user: everything is bounded, nothing waits, and anything not found is
//! `None`.

mod files;
mod go;
mod java;
mod node;
mod program;
mod python;
mod ruby;
mod rust;
#[cfg(test)]
mod tests;

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;

use self::files::Files;
use super::last_name;
use crate::{
    event::{Client, Process, Program},
    host::proc::{Directory, Proc},
    process::helper::{Helper, PATIENCE},
};

/// Maximum number of callers remembered, including those without a client.
const KNOWN: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Looks into callers and remembers the results.
#[derive(Debug)]
pub(super) struct Looks {
    /// Answers `None` if the process no longer exists: a later one of the same caller may.
    helper: Helper<Question, Option<Found>>,
    known: LruCache<u64, Found>,
}

/// The result of a look.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) client: Option<Client>,
    pub(super) program: Option<Arc<Program>>,
}

struct Question {
    /// Hash of the caller.
    caller: u64,
    /// Start of the process, in nanoseconds since boot.
    start: u64,
    process: Arc<Process>,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self {
            helper: Helper::new("clients", PATIENCE, |question: &Question| {
                look(&question.process, question.start)
            }),
            known: LruCache::new(KNOWN),
        }
    }

    /// Looks into a process that makes a call. Finds nothing if that takes too long.
    pub(super) fn find(&mut self, caller: u64, start: u64, process: &Arc<Process>) -> Found {
        if let Some((question, Some(found))) = self.helper.late_answer() {
            self.known.put(question.caller, found);
        }
        if let Some(found) = self.known.get(&caller) {
            return found.clone();
        }
        let question = Question {
            caller,
            start,
            process: Arc::clone(process),
        };
        let Some((question, Some(found))) = self.helper.ask(question) else {
            return Found::default();
        };
        self.known.put(question.caller, found.clone());
        found
    }
}

/// Looks into a process that started at `start`, if it still exists.
fn look(process: &Process, start: u64) -> Option<Found> {
    let found = Proc::find(process.pid, start).ok()?;
    let directory = found.directory();
    let root = directory.file("root").ok()?;
    Some(Found {
        client: client(&mut Files::new(root.try_clone().ok()?), directory, process),
        program: program::of(root, process).map(Arc::new),
    })
}

fn client(files: &mut Files, directory: &Directory, process: &Process) -> Option<Client> {
    let program = process.executable.as_deref().map(last_name)?;
    let is = |names: &[&str]| names.iter().any(|name| program.starts_with(name));
    if is(&["python", "pypy"]) {
        python::find(files, process)
    } else if is(&["node"]) {
        node::find(files, process)
    } else if is(&["ruby"]) {
        ruby::find(files)
    } else if is(&["java"]) {
        java::find(directory)
    } else {
        let (executable, path) = (directory.file("exe").ok()?, process.executable.as_deref());
        go::find(&executable, path).or_else(|| rust::find(&executable, path))
    }
}

/// The first argument that is not an option: an interpreter's script, as an absolute path.
fn script(process: &Process) -> Option<String> {
    let script = process.args.iter().skip(1).find(|arg| !arg.starts_with('-'))?;
    if script.starts_with('/') {
        return Some(script.clone());
    }
    let directory = process.working_directory.as_deref()?;
    Some(format!("{directory}/{}", script.trim_start_matches("./")))
}
