//! Remedies: the entries of `packaging/remedies.toml`, which is built in, and of `/etc/imds-analyzer/remedies.toml`.

use std::{cmp::Ordering, fmt, io, path::Path};

use imds_analyzer_ebpf::classify::Verdict;
use serde::Deserialize;

use super::{client, last_name, version::Scheme};
use crate::{
    config::{self, ConfigError},
    event::{Advice, Cause, Client, Event, Judgement, NetNs, Process},
    vocabulary::Vocabulary as _,
};

/// The built-in entries.
pub const BUILT_IN: &str = include_str!("../../../packaging/remedies.toml");
/// The file with additional entries.
pub const ADDED: &str = "/etc/imds-analyzer/remedies.toml";

/// All entries, in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub struct Remedies(Vec<Remedy>);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remedy {
    pub id: String,
    #[serde(default)]
    client: Vec<String>,
    #[serde(default)]
    scheme: Scheme,
    #[serde(default)]
    affected: Vec<Range>,
    #[serde(default)]
    program: Vec<String>,
    #[serde(default)]
    image: Vec<String>,
    #[serde(default)]
    cause: Vec<String>,
    netns: Option<String>,
    pub text: String,
    pub since: Option<String>,
    pub setting: Option<String>,
    pub source: String,
    /// Built from the fields above.
    #[serde(skip)]
    advice: Option<Advice>,
    #[serde(skip)]
    advice_without_version: Option<Advice>,
}

/// Versions from `introduced` up to, but without, `fixed`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    introduced: Option<String>,
    fixed: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    remedy: Vec<Remedy>,
}

/// The result of comparing a version with the ranges of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    /// The version is unknown.
    Unknown,
}

impl Remedies {
    /// The built-in entries.
    pub fn built_in() -> Self {
        // A test checks that the built-in file is valid.
        Self(parse(BUILT_IN).unwrap_or_default())
    }

    /// The built-in entries and those of `/etc`, if that file exists.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is invalid.
    pub fn of_this_host() -> Result<Self, ConfigError> {
        let path = Path::new(ADDED);
        match config::read_text(path) {
            Err(ConfigError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(Self::built_in()),
            text => Self::built_in().with(path, &text?),
        }
    }

    /// Adds the entries of a file. An entry replaces the one with the same id; new entries are tried first.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is invalid.
    pub fn with_file(self, path: &Path) -> Result<Self, ConfigError> {
        self.with(path, &config::read_text(path)?)
    }

    fn with(mut self, path: &Path, text: &str) -> Result<Self, ConfigError> {
        let added = parse(text).map_err(|why| ConfigError::Parse {
            path: path.to_owned(),
            why,
        })?;
        let mut first = Vec::new();
        for entry in added {
            match self.0.iter_mut().find(|known| known.id == entry.id) {
                Some(known) => *known = entry,
                None => first.push(entry),
            }
        }
        first.append(&mut self.0);
        Ok(Self(first))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Remedy> {
        self.0.iter()
    }

    pub fn get(&self, id: &str) -> Option<&Remedy> {
        self.iter().find(|remedy| remedy.id == id)
    }

    /// True if no entry wants another version of this client, though there are entries for other versions.
    pub(super) fn is_capable(&self, client: &Client) -> bool {
        let mut with_versions = self
            .iter()
            .filter(|remedy| !remedy.affected.is_empty() && remedy.is_of(client))
            .peekable();
        with_versions.peek().is_some() && with_versions.all(|remedy| remedy.fit(client.version.as_deref()) == Fit::No)
    }

    /// The first matching entry for a call that needs one: a call without a token, or a rejected one.
    pub(super) fn find(&self, event: &Event, judgement: &Judgement) -> Option<Advice> {
        if event.verdict != Verdict::V1 && judgement.cause.is_none() {
            return None;
        }
        self.iter().find_map(|remedy| remedy.advice(event, judgement))
    }
}

/// Parses the entries in `text`. The error has line and column.
fn parse(text: &str) -> Result<Vec<Remedy>, String> {
    let file: File = toml::from_str(text).map_err(|error| config::explain(&error))?;
    let mut entries = file.remedy;
    for (at, entry) in entries.iter().enumerate() {
        entry
            .check()
            .map_err(|why| format!("remedy {}, {:?}: {why}", at + 1, entry.id))?;
        if entries.iter().take(at).any(|before| before.id == entry.id) {
            return Err(format!("remedy {}: there are two {:?}", at + 1, entry.id));
        }
    }
    entries.iter_mut().for_each(Remedy::make_advice);
    Ok(entries)
}

impl Remedy {
    /// True if the entry lists `cause`.
    pub fn is_for(&self, cause: &str) -> bool {
        self.cause.iter().any(|word| word == cause)
    }

    fn check(&self) -> Result<(), String> {
        let is_word = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if !is_word(&self.id) {
            return Err("id must be lower-case letters, digits and -".to_owned());
        }
        if let Some(name) = self
            .client
            .iter()
            .find(|name| !client::names().any(|known| known == **name))
        {
            return Err(format!("there is no client {name:?}"));
        }
        if let Some(word) = self.cause.iter().find(|word| Cause::of_word(word).is_none()) {
            return Err(format!("there is no cause {word:?}"));
        }
        if let Some(word) = &self.netns
            && NetNs::of_word(word).is_none()
        {
            return Err(format!("netns must be host or other, not {word:?}"));
        }
        if !self.affected.is_empty() && self.client.is_empty() {
            return Err("affected needs a client".to_owned());
        }
        if let Some(range) = self.affected.iter().find(|range| !range.has_bound()) {
            return Err(format!("affected needs introduced or fixed, as versions: {range:?}"));
        }
        if self.text.trim().is_empty() || self.text.contains('\n') {
            return Err("text must be one line".to_owned());
        }
        Ok(())
    }

    fn make_advice(&mut self) {
        let advice = |text: &str| Advice {
            id: self.id.as_str().into(),
            text: text.into(),
        };
        self.advice = Some(advice(&self.text));
        let text = self.text.trim_end_matches('.');
        self.advice_without_version = Some(advice(&format!("{text}; the version in use could not be read.")));
    }

    /// The entry's advice for a call, if all conditions of the entry hold.
    fn advice(&self, event: &Event, judgement: &Judgement) -> Option<Advice> {
        let process = event.process.as_deref();
        let is_cause = self.cause.is_empty()
            || judgement
                .cause
                .is_some_and(|cause| self.cause.iter().any(|word| word == cause.as_str()));
        let is_net_ns = self.netns.as_ref().is_none_or(|word| word == event.net_ns.as_str());
        if !is_cause || !is_net_ns || !self.is_place(process) {
            return None;
        }
        if self.client.is_empty() {
            return self.advice.clone();
        }
        let client = judgement.client.as_ref().filter(|client| self.is_of(client))?;
        match self.fit(client.version.as_deref()) {
            Fit::Yes => self.advice.clone(),
            Fit::Unknown => self.advice_without_version.clone(),
            Fit::No => None,
        }
    }

    fn is_of(&self, client: &Client) -> bool {
        self.client.iter().any(|name| name == client.name)
    }

    /// True if the entry names the program or the image, or names neither kind.
    fn is_place(&self, process: Option<&Process>) -> bool {
        if self.program.is_empty() && self.image.is_empty() {
            return true;
        }
        let Some(process) = process else { return false };
        let program = last_name(&process.program);
        let image = process
            .container
            .as_ref()
            .and_then(|container| container.image.as_deref());
        self.program.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => program.starts_with(beginning),
            None => program == pattern,
        }) || image.is_some_and(|image| self.image.iter().any(|part| image.contains(part)))
    }

    fn fit(&self, version: Option<&str>) -> Fit {
        if self.affected.is_empty() {
            return Fit::Yes;
        }
        let Some(version) = version else {
            return Fit::Unknown;
        };
        let is_in = |range: &Range| {
            let compare = |bound: &Option<String>| bound.as_deref().map(|bound| self.scheme.compare(version, bound));
            compare(&range.introduced) != Some(Ordering::Less)
                && matches!(compare(&range.fixed), None | Some(Ordering::Less))
        };
        if self.affected.iter().any(is_in) {
            Fit::Yes
        } else {
            Fit::No
        }
    }
}

impl Range {
    fn has_bound(&self) -> bool {
        let bounds = [&self.introduced, &self.fixed];
        let is_version = |bound: &&Option<String>| {
            bound
                .as_ref()
                .is_none_or(|version| version.starts_with(|char: char| char.is_ascii_digit()))
        };
        bounds.iter().all(is_version) && bounds.iter().any(|bound| bound.is_some())
    }
}

/// The format of `explain`.
impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.id)?;
        writeln!(f, "  {}", self.text)?;
        if !self.client.is_empty() {
            writeln!(f, "  client   {}", self.client.join(", "))?;
        }
        if !self.program.is_empty() {
            writeln!(f, "  program  {}", self.program.join(", "))?;
        }
        if !self.cause.is_empty() {
            writeln!(f, "  cause    {}", self.cause.join(", "))?;
        }
        if let Some(since) = &self.since {
            writeln!(f, "  since    {since}")?;
        }
        for (at, line) in self.setting.iter().flat_map(|setting| setting.lines()).enumerate() {
            let key = if at == 0 { "setting" } else { "" };
            writeln!(f, "  {key:8} {line}")?;
        }
        writeln!(f, "  source   {}", self.source)
    }
}

#[cfg(test)]
mod tests;
