//! `process`: the process that sent the request, and its ancestors.

use std::{fmt, ops::Not};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    List, Text, Word,
    envelope::User,
    value::{Id, Seconds},
};
use crate::event::{self, Source};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Process<'a> {
    pub pid: u32,
    pub name: Text<'a>,
    /// Where the facts come from: read in the kernel while the process connected or sent, or in /proc afterwards.
    // Absent in the first lines of this schema.
    #[schemars(required)]
    pub source: Option<Word<'a, Source>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<Text<'a>>,
    /// The process is in a user namespace of its own, in which root can make the kernel name any file as the executable.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub executable_claimed: bool,
    /// Secrets are masked.
    #[serde(default, skip_serializing_if = "List::is_empty")]
    pub args: List<'a, String, Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_line: Option<CommandLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Seconds>,
    /// As of when the process was announced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<Text<'a>>,
    /// The thread that sent, where it is not the main one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<Thread<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent<'a>>,
    /// From the parent to pid 1.
    #[serde(default, skip_serializing_if = "List::is_empty")]
    pub ancestors: List<'a, event::Ancestor, Ancestor<'a>>,
}

impl<'a> Process<'a> {
    pub(super) fn new(process: &'a event::Process, thread: Option<&'a event::Thread>) -> Self {
        Self {
            pid: process.pid,
            name: (&process.name).into(),
            source: Some(process.source.into()),
            executable: process.executable.as_ref().map(Text::from),
            executable_claimed: process.executable_claimed,
            args: List::Live(&process.args),
            command_line: CommandLine::new(&process.args),
            start: process.start.map(Seconds::new),
            working_directory: process.working_directory.as_ref().map(Text::from),
            thread: thread.map(|thread| Thread {
                id: thread.id,
                name: (&thread.name).into(),
            }),
            parent: process.ancestors.first().map(|parent| Parent {
                pid: parent.pid,
                name: (&parent.name).into(),
                executable: parent.executable.as_ref().map(Text::from),
                command_line: CommandLine::new(&parent.args),
            }),
            ancestors: List::Live(&process.ancestors),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Thread<'a> {
    pub id: u32,
    pub name: Text<'a>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Parent<'a> {
    pub pid: u32,
    pub name: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_line: Option<CommandLine<'a>>,
}

/// One of `process.ancestors`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Ancestor<'a> {
    pub pid: u32,
    pub name: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_line: Option<CommandLine<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<User<'a>>,
}

impl<'a> From<&'a event::Ancestor> for Ancestor<'a> {
    fn from(ancestor: &'a event::Ancestor) -> Self {
        Self {
            pid: ancestor.pid,
            name: (&ancestor.name).into(),
            executable: ancestor.executable.as_ref().map(Text::from),
            command_line: CommandLine::new(&ancestor.args),
            user: ancestor.user_id.map(|id| User {
                id: Some(Id(id)),
                name: None,
            }),
        }
    }
}

/// The arguments, joined by spaces.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(with = "String")]
pub enum CommandLine<'a> {
    Live(&'a [String]),
    Read(Text<'a>),
}

impl<'a> CommandLine<'a> {
    fn new(args: &'a [String]) -> Option<Self> {
        (!args.is_empty()).then_some(Self::Live(args))
    }
}

impl PartialEq for CommandLine<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Live(one), Self::Live(other)) => one == other,
            (Self::Read(one), Self::Read(other)) => one == other,
            (Self::Live(args), Self::Read(text)) | (Self::Read(text), Self::Live(args)) => {
                event::command_line(args).to_string() == text.as_str()
            }
        }
    }
}

impl fmt::Display for CommandLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live(args) => write!(f, "{}", event::command_line(args)),
            Self::Read(text) => f.write_str(text),
        }
    }
}

impl Serialize for CommandLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for CommandLine<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Text::deserialize(deserializer).map(Self::Read)
    }
}
