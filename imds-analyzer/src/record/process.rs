//! `process`: who sent the request, and what started it.

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::{Joined, Seconds, User};
use crate::event::{self, Ancestor, Source};

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Process<'a> {
    pid: u32,
    name: &'a str,
    /// Where the facts come from: read in the kernel while the process connected or sent, or in /proc afterwards.
    #[schemars(extend("enum" = [Source::Kernel.as_str(), Source::Proc.as_str()]))]
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<&'a str>,
    /// The process is in a user namespace of its own, in which root can make the kernel name any file as the executable.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    executable_claimed: bool,
    /// Secrets are masked.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    args: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    command_line: Option<CommandLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Seconds>,
    /// As of when the process was announced.
    #[serde(skip_serializing_if = "Option::is_none")]
    working_directory: Option<&'a str>,
    /// The thread that sent, where it is not the main one.
    #[serde(skip_serializing_if = "Option::is_none")]
    thread: Option<Thread<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Parent<'a>>,
    /// From the parent to pid 1.
    #[serde(skip_serializing_if = "Ancestors::is_empty")]
    ancestors: Ancestors<'a>,
}

impl<'a> Process<'a> {
    pub(super) fn new(process: &'a event::Process, thread: Option<&'a event::Thread>) -> Self {
        Self {
            pid: process.pid,
            name: &process.name,
            source: process.source.as_str(),
            executable: process.executable.as_deref(),
            executable_claimed: process.executable_claimed,
            args: &process.args,
            command_line: CommandLine::new(&process.args),
            start: process.start.map(Seconds),
            working_directory: process.working_directory.as_deref(),
            thread: thread.map(|thread| Thread {
                id: thread.id,
                name: &thread.name,
            }),
            parent: process.ancestors.first().map(|parent| Parent {
                pid: parent.pid,
                name: &parent.name,
                executable: parent.executable.as_deref(),
                command_line: CommandLine::new(&parent.args),
            }),
            ancestors: Ancestors(&process.ancestors),
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Thread<'a> {
    id: u32,
    name: &'a str,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Parent<'a> {
    pid: u32,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command_line: Option<CommandLine<'a>>,
}

/// One of `process.ancestors`.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Ancestor")]
struct AncestorFields<'a> {
    pid: u32,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command_line: Option<CommandLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<User<'a>>,
}

impl<'a> AncestorFields<'a> {
    fn new(ancestor: &'a Ancestor) -> Self {
        Self {
            pid: ancestor.pid,
            name: &ancestor.name,
            executable: ancestor.executable.as_deref(),
            command_line: CommandLine::new(&ancestor.args),
            user: User::new(ancestor.user_id, None),
        }
    }
}

#[derive(JsonSchema)]
#[schemars(transparent)]
struct Ancestors<'a>(#[schemars(with = "Vec<AncestorFields<'a>>")] &'a [Ancestor]);

impl Ancestors<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Ancestors<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(AncestorFields::new))
    }
}

/// The arguments, joined by spaces.
#[derive(JsonSchema)]
#[schemars(transparent)]
struct CommandLine<'a>(#[schemars(with = "String")] &'a [String]);

impl<'a> CommandLine<'a> {
    fn new(args: &'a [String]) -> Option<Self> {
        (!args.is_empty()).then_some(Self(args))
    }
}

impl Serialize for CommandLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Joined(self.0))
    }
}
