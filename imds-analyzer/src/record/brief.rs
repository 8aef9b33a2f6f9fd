//! The fields of a line that counting needs, without the rest: reading a log of a fleet is mostly the cost of what is read
//! of each line.

use std::borrow::Cow;

use imds_analyzer_ebpf::{
    abi::exchange::Outcome,
    classify::{PathClass, Reason, Verdict, Version},
};
use serde::Deserialize;

use super::{
    Action, LINE_MAX, Text, Unreadable, Word,
    envelope::{Cloud, Image, User},
    read,
    value::{Id, Micros},
    who,
};
use crate::{
    event::{AnswerWord, Cause, NetNs, Risk},
    loss::Ledger,
    summary::{Answers, Call, Counts, Who},
};

mod reader;

pub use self::reader::{Memory, Reader};

/// The fields of any record, present as far as its kind has them.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct Brief<'a> {
    #[serde(rename = "@timestamp")]
    pub timestamp: Micros,
    pub event: EventBrief<'a>,
    pub imds: Cow<'a, ImdsBrief<'a>>,
    pub host: Cow<'a, HostBrief<'a>>,
    pub cloud: Option<Cow<'a, Cloud<'a>>>,
    pub process: Option<Cow<'a, ProcessBrief<'a>>>,
    pub user: Option<Cow<'a, User<'a>>>,
    pub systemd: Option<Cow<'a, SystemdBrief<'a>>>,
    pub container: Option<Cow<'a, ContainerBrief<'a>>>,
    pub http: Option<HttpBrief>,
    pub url: Option<UrlBrief<'a>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct EventBrief<'a> {
    pub action: Word<'a, Action>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct ImdsBrief<'a> {
    pub schema: u32,
    pub caller: Option<Text<'a>>,
    pub version: Option<Word<'a, Version>>,
    pub verdict: Option<Word<'a, Verdict>>,
    pub reason: Option<Word<'a, Reason>>,
    pub path_class: Option<Word<'a, PathClass>>,
    pub netns: Option<Word<'a, NetNs>>,
    #[serde(default)]
    pub local: bool,
    #[serde(default)]
    pub relay: bool,
    pub answer: Option<Word<'a, AnswerWord>>,
    pub hop_limit: Option<u8>,
    pub cause: Option<Word<'a, Cause>>,
    pub client: Option<ClientBrief<'a>>,
    pub remedy: Option<RemedyBrief<'a>>,
    #[serde(default)]
    pub risk: Vec<Word<'a, Risk>>,
    pub attempt: Option<Word<'a, Outcome>>,
    /// Of `imds-analyzer-start`.
    pub attached: Option<Micros>,
    /// Of `imds-analyzer-rate-limited` and `imds-analyzer-watching`.
    pub calls: Option<Counts>,
    /// Of `imds-analyzer-rate-limited`.
    #[serde(default)]
    pub local_calls: Counts,
    #[serde(default)]
    pub v1_answers: Answers,
    #[serde(default)]
    pub credential_calls: u64,
    /// Of `imds-analyzer-watching`.
    pub ignored: Option<Counts>,
    /// Of `imds-analyzer-loss` and `imds-analyzer-summary`.
    pub loss: Option<Ledger>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct ClientBrief<'a> {
    pub name: Text<'a>,
    pub version: Option<Text<'a>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct RemedyBrief<'a> {
    pub id: Text<'a>,
    pub text: Text<'a>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct HostBrief<'a> {
    pub name: Text<'a>,
    pub image: Option<Image<'a>>,
    pub boot: Option<BootBrief<'a>>,
    /// Seconds since the host was started.
    pub uptime: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct BootBrief<'a> {
    pub id: Text<'a>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct ProcessBrief<'a> {
    pub name: Text<'a>,
    pub executable: Option<Text<'a>>,
    pub command_line: Option<Text<'a>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct SystemdBrief<'a> {
    pub unit: Option<Text<'a>>,
    pub user_unit: Option<Text<'a>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct ContainerBrief<'a> {
    pub id: Text<'a>,
    pub name: Option<Text<'a>>,
    pub image: Option<ImageBrief<'a>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct ImageBrief<'a> {
    pub name: Text<'a>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct HttpBrief {
    pub response: Option<super::request::HttpResponse>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub struct UrlBrief<'a> {
    pub path: Option<Text<'a>>,
}

impl<'a> Brief<'a> {
    /// Reads one line, without its end.
    ///
    /// # Errors
    ///
    /// As [`read`](super::read()).
    pub fn read(text: &'a str) -> Result<Self, Unreadable> {
        if text.len() > LINE_MAX {
            return Err(Unreadable::TooLong);
        }
        let brief = serde_json::from_str::<Self>(text).map_err(|error| read::why(text, &error))?;
        read::check(&brief.event.action, brief.imds.schema)?;
        Ok(brief)
    }

    /// The key of the host: the id of the instance or, while it is not known, the name.
    pub fn host_key(&self) -> &str {
        let instance = self.cloud.as_ref().and_then(|cloud| cloud.instance.as_ref());
        instance.map_or(&self.host.name, |instance| &instance.id)
    }

    /// A word of a later version means `unknown`.
    pub fn version(&self) -> Version {
        self.imds
            .version
            .as_ref()
            .and_then(Word::known)
            .unwrap_or(Version::Unknown)
    }

    pub fn status(&self) -> Option<u16> {
        self.http.and_then(|http| Some(http.response?.status_code))
    }

    /// True if the record is about a caller, even if that is not known.
    pub fn is_about_caller(&self) -> bool {
        let known = self.event.action.known();
        known.is_some_and(|action| {
            matches!(
                action,
                Action::Request | Action::Attempt | Action::RateLimited | Action::FirstSeen
            )
        })
    }

    /// The caller, as a summary tells callers apart; `None` if no process is known.
    pub fn who(&self) -> Option<Who<'_>> {
        let process = self.process.as_ref();
        let user = self.user.as_ref();
        let systemd = self.systemd.as_ref();
        let facts = who::Facts {
            caller: self.imds.caller.as_deref(),
            program: process.map(|process| process.executable.as_ref().unwrap_or(&process.name).as_str()),
            user_id: user.and_then(|user| user.id).map(|Id(id)| id),
            user_name: user.and_then(|user| user.name.as_deref()),
            unit: systemd.and_then(|systemd| systemd.user_unit.as_deref().or(systemd.unit.as_deref())),
            container: self.container.as_ref().map(|container| container.image()),
            is_placed: self.container.is_some() || systemd.is_some(),
        };
        facts.who()
    }
}

impl ContainerBrief<'_> {
    fn image(&self) -> &str {
        let image = self.image.as_ref().map(|image| image.name.as_str());
        who::container(image, self.name.as_deref(), &self.id)
    }
}

impl<'a> From<&'a Brief<'_>> for Call<'a> {
    fn from(brief: &'a Brief<'_>) -> Self {
        Self {
            version: brief.version(),
            local: brief.imds.local,
            relay: brief.imds.relay,
            // The first lines of this schema have no answer.
            answer: brief
                .imds
                .answer
                .as_ref()
                .and_then(Word::known)
                .unwrap_or(AnswerWord::Unseen),
            status: brief.status(),
            remedy: brief
                .imds
                .remedy
                .as_ref()
                .map(|remedy| (remedy.id.as_str(), remedy.text.as_str())),
            who: brief.process.as_ref().and_then(|_| brief.who()),
            path: brief.url.as_ref().and_then(|url| url.path.as_deref()),
        }
    }
}
