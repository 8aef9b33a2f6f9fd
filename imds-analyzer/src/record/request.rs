//! The record of one request.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Not,
};

use imds_analyzer_ebpf::{
    abi::OwnerHook,
    classify::{PathClass, Reason, Verdict, Version},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    SCHEMA, Text, Word,
    envelope::{Host, User},
    process::Process,
    value::Id,
};
use crate::{
    event::{
        self, Advice, AnswerWord, Cause, ClientSource, Endpoint, Event, FileState, HttpVersion, Login, NetNs, Platform,
        Qos, Risk, Runtime, Tap, Workload,
    },
    identity::Identity,
    summary::Call,
};

/// A request to the metadata service, its verdict and its caller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Request<'a> {
    pub imds: Imds<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process<'a>>,
    /// Who the process ran as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<ProcessUser<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub systemd: Option<Systemd<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Container<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orchestrator: Option<Orchestrator<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Http<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Url<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<UserAgent<'a>>,
    pub source: Address,
    /// The socket's peer.
    pub destination: Address,
    pub host: Host<'a>,
}

impl<'a> Request<'a> {
    /// The status of the answer.
    pub fn status(&self) -> Option<u16> {
        Some(self.http.as_ref()?.response?.status_code)
    }

    pub(super) fn new(event: &'a Event, host: &'a Identity) -> Self {
        let process = event.process.as_deref();
        let orchestrator = process.and_then(|process| process.orchestrator.as_ref());
        let http = &event.http;
        Self {
            imds: Imds::new(event),
            process: process.map(|process| Process::new(process, event.thread.as_ref())),
            user: process.map(ProcessUser::new),
            group: process.and_then(|process| User::new(process.group_id, None)),
            systemd: process.and_then(Systemd::new),
            container: process
                .and_then(|process| process.container.as_ref())
                .map(Container::new),
            orchestrator: orchestrator.map(Orchestrator::new),
            kubernetes: orchestrator.and_then(Kubernetes::new),
            http: Http::new(http, event.answer.status()),
            url: http.target.as_ref().map(|original| Url {
                original: original.into(),
                path: http.path.as_ref().map(Text::from),
            }),
            user_agent: http.user_agent.as_ref().map(|original| UserAgent {
                original: original.into(),
            }),
            source: Address::new(event.source),
            destination: Address::new(event.destination),
            host: Host::new(host),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Imds<'a> {
    pub schema: u32,
    /// What callers are told apart by, the same from one run to the next: the program, and where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Text<'a>>,
    pub version: Word<'a, Version>,
    pub verdict: Word<'a, Verdict>,
    /// Why the verdict is `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Word<'a, Reason>>,
    pub path_class: Word<'a, PathClass>,
    pub endpoint: Word<'a, Endpoint>,
    /// How the bytes were seen.
    pub tap: Word<'a, Tap>,
    /// Where `process` comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Word<'a, OwnerHook>>,
    /// The socket's network namespace.
    pub netns: Word<'a, NetNs>,
    /// The peer is an address of this host itself.
    pub local: bool,
    /// It repeats a request that has a record of its own: a rootless network helper sends a container's request again.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub relay: bool,
    /// X-Forwarded-For is present.
    pub forwarded: bool,
    /// The head breaks the grammar of HTTP.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub malformed: bool,
    /// Bytes of the head were in memory that the sender could still change (MSG_ZEROCOPY, splice, sendfile).
    #[serde(default, skip_serializing_if = "Not::not")]
    pub sender_pages: bool,
    /// `imds-analyzer rehearse` answered it in place of the metadata service.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub rehearsed: bool,
    /// What the packet said, where netfilter rewrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet_destination: Option<Address>,
    /// What came back; `none`: nothing in 5 seconds, or before the connection ended; `unseen`: cannot be told.
    // Absent in the first lines of this schema.
    #[schemars(required)]
    pub answer: Option<Word<'a, AnswerWord>>,
    /// TTL of the IP packet with the status line, or its hop limit, as it arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop_limit: Option<u8>,
    /// Why it had no token, or why its token was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Word<'a, Cause>>,
    /// Status of the answer to the caller's last request for a token, with `token-refused`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_status: Option<u16>,
    /// TTL of the last answer to anybody's request for a token, with `token-unanswered`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_hop_limit: Option<u8>,
    /// The library or program inside the caller that makes its calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Client<'a>>,
    /// The file that the caller runs: its executable or, for an interpreter, its script.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<Program<'a>>,
    /// What to change: see `imds-analyzer explain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy<'a>>,
    /// Signs that the call is more than untidy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub risk: Vec<Word<'a, Risk>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Client<'a> {
    pub name: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Text<'a>>,
    /// Where both are known from.
    pub source: Word<'a, ClientSource>,
    /// The file that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Text<'a>>,
}

impl<'a> Client<'a> {
    fn new(client: &'a event::Client) -> Self {
        Self {
            name: client.name.into(),
            version: client.version.as_ref().map(Text::from),
            source: client.source.into(),
            path: client.path.as_ref().map(Text::from),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Program<'a> {
    pub path: Text<'a>,
    /// The package that the file is from, by dpkg's lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package: Option<Package<'a>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<Word<'a, FileState>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Package<'a> {
    pub name: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Text<'a>>,
}

impl<'a> Program<'a> {
    fn new(program: &'a event::Program) -> Self {
        let package = program.package.as_ref().map(|package| Package {
            name: Text::from(&package.name),
            version: package.version.as_ref().map(Text::from),
        });
        Self {
            path: Text::from(&program.path),
            package,
            state: program.states.iter().copied().map(Word::Known).collect(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Remedy<'a> {
    pub id: Text<'a>,
    pub text: Text<'a>,
}

impl<'a> Remedy<'a> {
    fn new(advice: &'a Advice) -> Self {
        Self {
            id: advice.id.as_ref().into(),
            text: advice.text.as_ref().into(),
        }
    }
}

impl<'a> Imds<'a> {
    fn new(event: &'a Event) -> Self {
        let reason = event.reason.filter(|_| event.verdict == Verdict::Unknown);
        let judgement = &event.judgement;
        Self {
            schema: SCHEMA,
            caller: event.process.as_deref().map(|process| Text::from(&process.caller)),
            version: event.verdict.version().into(),
            verdict: event.verdict.into(),
            reason: reason.map(Word::Known),
            path_class: event.path_class.into(),
            endpoint: event.endpoint().into(),
            tap: event.tap.into(),
            owner: event.owner.map(Word::Known),
            netns: event.net_ns.into(),
            local: event.local,
            relay: event.relay,
            forwarded: event.forwarded,
            malformed: event.malformed,
            sender_pages: event.sender_pages,
            rehearsed: event.is_rehearsed(),
            packet_destination: event.packet_destination.map(Address::new),
            answer: Some(event.answer.word().into()),
            hop_limit: event.answer.reply().and_then(|reply| reply.hop_limit),
            cause: judgement.cause.map(Word::Known),
            token_status: judgement.token_status,
            token_hop_limit: judgement.token_hop_limit,
            client: judgement.client.as_ref().map(Client::new),
            program: judgement.program.as_deref().map(Program::new),
            remedy: judgement.remedy.as_ref().map(Remedy::new),
            risk: judgement.risks.iter().copied().map(Word::Known).collect(),
        }
    }
}

/// ECS `user`, and who logged in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct ProcessUser<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
    /// Who logged in, through sudo and su, as the kernel's audit has it; absent outside of logins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit<'a>>,
}

impl<'a> ProcessUser<'a> {
    pub(super) fn new(process: &'a event::Process) -> Self {
        Self {
            id: process.user.id.map(Id),
            name: process.user.name.as_ref().map(Text::from),
            audit: process.login.as_ref().map(Audit::new),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Audit<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
    /// Number of the audit session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Id>,
}

impl<'a> Audit<'a> {
    fn new(login: &'a Login) -> Self {
        Self {
            id: login.user.id.map(Id),
            name: login.user.name.as_ref().map(Text::from),
            session: login.session.map(Id),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Systemd<'a> {
    /// The innermost service, else the innermost scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slice: Option<Text<'a>>,
    /// Below a user's own systemd, whose unit is `unit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_unit: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_slice: Option<Text<'a>>,
    /// The container that a user's names say it is: the id may be that of any other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_container: Option<Container<'a>>,
    /// Id of the login session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Text<'a>>,
}

impl<'a> Systemd<'a> {
    /// `None` without a unit or slice.
    pub(super) fn new(process: &'a event::Process) -> Option<Self> {
        let text = |name: &'a Option<String>| name.as_ref().map(Text::from);
        let fields = Self {
            unit: text(&process.unit),
            slice: text(&process.slice),
            user_unit: text(&process.user_unit),
            user_slice: text(&process.user_slice),
            user_container: process.user_container.as_ref().map(Container::new),
            session: text(&process.session),
        };
        let known = fields.unit.is_some() || fields.slice.is_some();
        (known || fields.user_unit.is_some() || fields.user_container.is_some()).then_some(fields)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Container<'a> {
    pub id: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Word<'a, Runtime>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Named<'a>>,
}

impl<'a> Container<'a> {
    pub(super) fn new(container: &'a event::Container) -> Self {
        Self {
            id: (&container.id).into(),
            runtime: container.runtime.map(Word::Known),
            name: container.name.as_ref().map(Text::from),
            image: container.image.as_ref().map(Named::new),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Named<'a> {
    pub name: Text<'a>,
}

impl<'a> Named<'a> {
    fn new(name: &'a String) -> Self {
        Self { name: name.into() }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Orchestrator<'a> {
    // Absent in the first lines of this schema, like `resource.type`.
    #[schemars(required)]
    pub r#type: Option<Word<'a, Platform>>,
    pub resource: Resource<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Text<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Named<'a>>,
}

impl<'a> Orchestrator<'a> {
    pub(super) fn new(orchestrator: &'a event::Orchestrator) -> Self {
        Self {
            r#type: Some(orchestrator.platform.into()),
            resource: Resource {
                id: (&orchestrator.id).into(),
                r#type: Some(orchestrator.platform.workload().into()),
                name: orchestrator.name.as_ref().map(Text::from),
            },
            namespace: orchestrator.namespace.as_ref().map(Text::from),
            cluster: orchestrator.cluster.as_ref().map(Named::new),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Resource<'a> {
    /// Uid of the pod, or id of the task.
    pub id: Text<'a>,
    #[schemars(required)]
    pub r#type: Option<Word<'a, Workload>>,
    /// Of the pod; of a task, its family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Text<'a>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Kubernetes<'a> {
    /// Quality of service class of the pod.
    pub qos: Word<'a, Qos>,
}

impl Kubernetes<'_> {
    pub(super) fn new(orchestrator: &event::Orchestrator) -> Option<Self> {
        Some(Self {
            qos: orchestrator.qos?.into(),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Http<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<HttpRequest<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<HttpResponse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Word<'a, HttpVersion>>,
}

impl<'a> Http<'a> {
    fn new(http: &'a event::HttpRequest, status: Option<u16>) -> Option<Self> {
        let method = http.method.as_ref();
        (method.is_some() || http.version.is_some() || status.is_some()).then(|| Self {
            request: method.map(|method| HttpRequest { method: method.into() }),
            response: status.map(|status_code| HttpResponse { status_code }),
            version: http.version.map(Word::Known),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct HttpResponse {
    pub status_code: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct HttpRequest<'a> {
    pub method: Text<'a>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Url<'a> {
    /// The request target as sent, with secrets masked.
    pub original: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Text<'a>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct UserAgent<'a> {
    pub original: Text<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Address {
    pub ip: IpAddr,
    pub port: u16,
}

impl Address {
    /// Writes an IPv4-mapped address as IPv4.
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            ip: address.ip().to_canonical(),
            port: address.port(),
        }
    }
}

impl<'a> From<&'a Request<'_>> for Call<'a> {
    fn from(request: &'a Request<'_>) -> Self {
        let imds = &request.imds;
        Self {
            version: imds.version.known().unwrap_or(Version::Unknown),
            local: imds.local,
            relay: imds.relay,
            // The first lines of this schema have no answer.
            answer: imds.answer.as_ref().and_then(Word::known).unwrap_or(AnswerWord::Unseen),
            status: request.status(),
            remedy: imds.remedy.as_ref().map(|it| (it.id.as_str(), it.text.as_str())),
            who: request.who(),
            path: request.url.as_ref().and_then(|url| url.path.as_deref()),
        }
    }
}
