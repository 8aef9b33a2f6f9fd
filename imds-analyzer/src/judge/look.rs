//! Finds the client library inside a caller if its User-Agent does not name it: looks at the files that the caller
//! itself sees, once per caller.
//!
//! Looks at names first, because a directory's entry has library and version at once, and reads a file only if its name
//! does not. The files may belong to another user: everything is bounded, nothing waits, and anything not found is
//! `None`.

mod files;
mod go;
mod java;
mod node;
mod python;
mod ruby;
#[cfg(test)]
mod tests;

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;

use self::files::Files;
use super::last_name;
use crate::{
    event::{Client, Process},
    host::proc::Proc,
    process::helper::{Helper, PATIENCE},
};

/// Maximum number of callers remembered, including those without a client.
const KNOWN: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Looks into callers and remembers the results.
#[derive(Debug)]
pub(super) struct Looks {
    helper: Helper<Question, Option<Client>>,
    known: LruCache<u64, Option<Client>>,
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

    /// The client inside a process that makes a call. Also `None` if it is not found in time.
    pub(super) fn client(&mut self, caller: u64, start: u64, process: &Arc<Process>) -> Option<Client> {
        if let Some((question, client)) = self.helper.late_answer() {
            self.known.put(question.caller, client);
        }
        if let Some(client) = self.known.get(&caller) {
            return client.clone();
        }
        let question = Question {
            caller,
            start,
            process: Arc::clone(process),
        };
        let (question, client) = self.helper.ask(question)?;
        self.known.put(question.caller, client.clone());
        client
    }
}

/// Looks into a process that started at `start`, if it still exists.
fn look(process: &Process, start: u64) -> Option<Client> {
    let found = Proc::find(process.pid, start).ok()?;
    let directory = found.directory();
    let mut files = Files::new(directory.file("root").ok()?);
    let program = process.executable.as_deref().map(last_name)?;
    let is = |names: &[&str]| names.iter().any(|name| program.starts_with(name));
    if is(&["python", "pypy"]) {
        python::find(&mut files, process)
    } else if is(&["node"]) {
        node::find(&mut files, process)
    } else if is(&["ruby"]) {
        ruby::find(&mut files)
    } else if is(&["java"]) {
        java::find(directory)
    } else {
        go::find(&directory.file("exe").ok()?, process.executable.as_deref())
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
