//! The report: can tokens be required, on which hosts, and if not, who has to change what.
//!
//! ```text
//! input    files and streams -> lines            find      our record inside of another tool's line
//! fold     records -> facts by host and caller   watched   when a host was watched
//! verdict  facts -> verdict (the rules)          build     everything -> Report
//! render   Report -> text, Markdown, JSON, CSV, HTML, tfvars, commands
//! ```

use std::{collections::BTreeMap, fmt};

use schemars::{JsonSchema, transform::RecursiveTransform};
use serde::Serialize;

pub mod build;
pub mod cloudwatch;
pub mod filter;
pub(crate) mod find;
pub mod fold;
pub mod input;
pub mod render;
pub mod verdict;
pub mod watched;

use self::verdict::{Finding, Outlook, Verdict};
use crate::{
    event::AnswerWord,
    loss::Ledger,
    record::{Word, schema::without_null, value::Micros},
    summary::{Answers, Counts},
};

/// The version of the report's JSON. It rises when a field changes its meaning or is removed.
pub const SCHEMA: u32 = 1;

/// What a log says. Nothing in it is computed again by a writer.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Report {
    pub report: Head,
    pub verdict: Word<'static, Verdict>,
    /// Why the verdict is not `ready`; `count` is a number of hosts, except where the text says otherwise.
    pub reasons: Vec<Finding>,
    pub observed: Observed,
    /// Those with the most urgent verdict first.
    pub hosts: Vec<Host>,
    /// Callers of all hosts: the same program in the same place as the same user is one. Those to change first.
    pub callers: Vec<Caller>,
    pub accounts: Vec<Account>,
    /// Calls over time.
    pub series: Vec<Point>,
    pub input: Input,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "ReportHead")]
pub struct Head {
    pub schema: u32,
    /// Version of the tool that made it.
    pub version: &'static str,
    /// What was asked for: the window, and the limits of time, if any.
    pub window_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Micros>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Micros>,
    /// Only some hosts, accounts, callers or units were asked for.
    pub filtered: bool,
}

/// All hosts together.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Observed {
    /// The first and the last record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Micros>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Micros>,
    pub hosts: u64,
    /// Hosts by verdict.
    pub verdicts: Verdicts,
    /// Clock hours with a record, of all hosts together.
    pub hours: u64,
    /// Calls to the metadata service.
    pub calls: Counts,
    /// What came back of its v1 calls.
    pub v1_answers: Answers,
    /// Calls to an address of the host itself.
    pub local_calls: Counts,
    /// Connections without a call.
    pub attempts: u64,
    pub loss: Ledger,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Verdicts {
    pub not_ready: u64,
    pub unproven: u64,
    pub ready: u64,
}

impl Verdicts {
    pub fn add(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::NotReady => &mut self.not_ready,
            Verdict::Unproven => &mut self.unproven,
            Verdict::Ready => &mut self.ready,
        } += 1;
    }

    pub fn sum(self) -> u64 {
        self.not_ready + self.unproven + self.ready
    }
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "ReportHost")]
pub struct Host {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// The image that the instance was started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    pub verdict: Word<'static, Verdict>,
    pub reasons: Vec<Finding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Micros>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Micros>,
    /// Clock hours with a record.
    pub hours: u64,
    pub boots: u64,
    pub calls: Counts,
    pub v1_answers: Answers,
    pub local_calls: Counts,
    /// Hop limit that the callers in containers need, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop_limit: Option<u8>,
    /// Callers that keep the host from being ready.
    pub callers: Vec<HostCaller>,
}

/// A caller on one host: further facts are with the same `caller` and `user` in the report's `callers`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct HostCaller {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub outlook: Word<'static, Outlook>,
    pub calls: Counts,
    pub v1_answers: Answers,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "ReportCaller")]
pub struct Caller {
    /// As `imds.caller` of records; absent where nobody is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Name of the user or, without one, the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Unit, or image of the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Its calls went to an address of the host itself.
    pub local: bool,
    /// What would become of it if tokens were required.
    pub outlook: Word<'static, Outlook>,
    pub hosts: u64,
    /// Names of some of these hosts.
    pub on: Vec<String>,
    pub calls: Counts,
    pub v1_answers: Answers,
    /// v1 calls by the status that came back.
    pub v1_statuses: BTreeMap<u16, u64>,
    /// v1 calls by class of path.
    pub v1_paths: BTreeMap<&'static str, u64>,
    /// Calls by class of path.
    pub paths: BTreeMap<&'static str, u64>,
    /// Why calls had no token.
    pub causes: BTreeMap<&'static str, u64>,
    /// Why calls could not be judged.
    pub unknown_reasons: BTreeMap<&'static str, u64>,
    pub risks: BTreeMap<&'static str, u64>,
    /// What became of connections without a call.
    pub attempts: BTreeMap<&'static str, u64>,
    /// Requests for a token by what came back: `answered`, `none`, `unseen`.
    pub token_requests: BTreeMap<&'static str, u64>,
    /// Lowest TTL of an answer to its requests for a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop_limit: Option<u8>,
    /// Libraries and their versions.
    pub clients: Vec<Client>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Micros>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Micros>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_v1: Option<Micros>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_v1: Option<Micros>,
    /// Its last v1 call or, without one, its last call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub example: Option<Example>,
    /// Calls that were only counted, by the limits of the configuration.
    pub rate_limited: u64,
}

impl Caller {
    /// True if it keeps a host from being ready.
    pub fn is_blocking(&self) -> bool {
        !self.local
            && (self.calls.v1 > 0
                || self.calls.unknown > 0
                || self.token_requests.contains_key(AnswerWord::None.as_str()))
    }
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "ReportClient")]
pub struct Client {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub calls: u64,
}

/// The name and, if it is known, the version.
impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.version {
            Some(version) => write!(f, " {version}"),
            None => Ok(()),
        }
    }
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "ReportRemedy")]
pub struct Remedy {
    pub id: String,
    pub text: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Example {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_line: Option<String>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Account {
    /// Absent for hosts whose account is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub verdict: Word<'static, Verdict>,
    pub verdicts: Verdicts,
    pub calls: Counts,
    pub v1_answers: Answers,
}

/// The calls of an hour or, over a longer time, of a day (UTC).
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Point {
    pub time: Micros,
    pub seconds: u64,
    pub calls: Counts,
}

/// What was read.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Input {
    pub files: u64,
    pub lines: u64,
    /// Lines that are records of ours.
    pub records: u64,
    /// Lines of other programs.
    pub foreign: u64,
    /// Lines that may be ours and could not be read.
    pub unreadable: u64,
    /// Lines, and files, that had been read already.
    pub duplicate_lines: u64,
    pub duplicate_files: u64,
    /// Files that are no logs, in directories.
    pub skipped_files: u64,
    /// Files that could not be read, or not to their ends.
    pub failed_files: u64,
    /// Records of a kind that this version does not know.
    pub unknown_kinds: u64,
    /// The first things that could not be read.
    pub problems: Vec<Problem>,
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Problem {
    pub file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    pub why: String,
}

/// The JSON Schema of the report (draft 2020-12).
pub fn schema() -> schemars::Schema {
    schemars::generate::SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(RecursiveTransform(without_null))
        .into_generator()
        .into_root_schema_for::<Report>()
}
