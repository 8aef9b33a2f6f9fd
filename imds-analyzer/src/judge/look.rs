//! Which client library is inside a caller, where its User-Agent does not say so: by the files that the caller itself sees,
//! once for each caller.
//!
//! Names come first, for a directory's entry says library and version at once; a file is read only where its name does not.
//! Whatever is looked at may be another user's: everything is bounded, nothing is waited for, and what is not found is
//! absent.

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

/// Callers remembered, those without a client too.
const KNOWN: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Looks into callers, and remembers what was found.
#[derive(Debug)]
pub(super) struct Looks {
    helper: Helper<Question, Option<Client>>,
    known: LruCache<u64, Option<Client>>,
}

struct Question {
    /// Digest of the caller.
    caller: u64,
    /// Start of the process, in ns since boot.
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

    /// The client inside a process that makes a call; `None` too where it is not found in time.
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

/// Looks into a process that started at `start`, if it is still there.
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

/// The first argument that is no option: an interpreter's script, absolute.
fn script(process: &Process) -> Option<String> {
    let script = process.args.iter().skip(1).find(|arg| !arg.starts_with('-'))?;
    if script.starts_with('/') {
        return Some(script.clone());
    }
    let directory = process.working_directory.as_deref()?;
    Some(format!("{directory}/{}", script.trim_start_matches("./")))
}
