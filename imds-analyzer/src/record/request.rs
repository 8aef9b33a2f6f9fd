//! The record of one request.

use std::net::{IpAddr, SocketAddr};

use imds_analyzer_ebpf::{
    abi::OwnerHook,
    classify::{PathClass, Reason, Verdict, Version},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use super::{
    Action, Category, Dataset, Envelope, EventFields, Host, Id, Kind, Level, Outcome, SCHEMA, Type, User, action_is,
    process::Process,
};
use crate::event::{self, Event, Login};

/// A request to the metadata service, its verdict and its caller.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, transform = action_is("imds-request"))]
pub(in crate::sink) struct RequestRecord<'a> {
    #[serde(flatten)]
    envelope: Envelope,
    imds: Imds<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<Process<'a>>,
    /// Who the process ran as.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<ProcessUser<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<User<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    systemd: Option<Systemd<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<Container<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    orchestrator: Option<Orchestrator<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes: Option<Kubernetes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<Http<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<Url<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<UserAgent<'a>>,
    source: Address,
    /// The socket's peer.
    destination: Address,
    host: Host<'a>,
}

impl<'a> RequestRecord<'a> {
    pub(in crate::sink) fn new(event: &'a Event, host: &'a str) -> Self {
        let process = event.process.as_deref();
        let orchestrator = process.and_then(|process| process.orchestrator.as_ref());
        let http = &event.http;
        Self {
            envelope: envelope(event),
            imds: Imds::new(event),
            process: process.map(|process| Process::new(process, event.thread.as_ref())),
            user: process.map(ProcessUser::new),
            group: process.and_then(|process| User::new(process.group_id, None)),
            systemd: process.and_then(Systemd::new),
            container: process
                .and_then(|process| process.container.as_ref())
                .map(Container::new),
            orchestrator: orchestrator.map(Orchestrator::new),
            kubernetes: orchestrator.and_then(|orchestrator| Some(Kubernetes { qos: orchestrator.qos? })),
            http: Http::new(http),
            url: http.target.as_deref().map(|original| Url {
                original,
                path: http.path.as_deref(),
            }),
            user_agent: http.user_agent.as_deref().map(|original| UserAgent { original }),
            source: Address::new(event.source),
            destination: Address::new(event.destination),
            host: Host { name: host },
        }
    }
}

fn envelope(event: &Event) -> Envelope {
    let (level, outcome) = match event.verdict.version() {
        Version::V1 => (Level::Warn, Outcome::Success),
        Version::Unknown => (Level::Error, Outcome::Unknown),
        Version::V2 | Version::Other => (Level::Info, Outcome::Success),
    };
    let fields = EventFields {
        kind: Kind::Event,
        category: [Category::Network],
        r#type: [Type::Access],
        action: Action::Request,
        dataset: Dataset::Request,
        outcome,
    };
    Envelope::new(event.time, level, fields)
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Imds<'a> {
    schema: u32,
    /// What callers are told apart by, the same from one run to the next: the program, and where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
    #[schemars(schema_with = "versions")]
    version: &'static str,
    #[schemars(schema_with = "verdicts")]
    verdict: &'static str,
    /// Why the verdict is `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "reasons")]
    reason: Option<&'static str>,
    #[schemars(schema_with = "path_classes")]
    path_class: &'static str,
    #[schemars(extend("enum" = ["ipv4", "ipv6"]))]
    endpoint: &'static str,
    /// How the bytes were seen.
    #[schemars(extend("enum" = [event::Tap::Wire.as_str(), event::Tap::Send.as_str()]))]
    tap: &'static str,
    /// Where `process` comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "owners")]
    owner: Option<&'static str>,
    /// The socket's network namespace.
    #[schemars(extend("enum" = [event::NetNs::Host.as_str(), event::NetNs::Other.as_str()]))]
    netns: &'static str,
    /// The peer is an address of this host itself.
    local: bool,
    /// It repeats a request that has a record of its own: a rootless network helper sends a container's request again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    relay: bool,
    /// X-Forwarded-For is present.
    forwarded: bool,
    /// The head breaks the grammar of HTTP.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    malformed: bool,
    /// Bytes of the head were in memory that the sender could still change (MSG_ZEROCOPY, splice, sendfile).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sender_pages: bool,
    /// What the packet said, where netfilter rewrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    packet_destination: Option<Address>,
}

impl<'a> Imds<'a> {
    fn new(event: &'a Event) -> Self {
        Self {
            schema: SCHEMA,
            caller: event.process.as_deref().map(|process| process.caller.as_str()),
            version: event.verdict.version().as_str(),
            verdict: event.verdict.as_str(),
            reason: event
                .reason
                .filter(|_| event.verdict == Verdict::Unknown)
                .map(Reason::as_str),
            path_class: event.path_class.as_str(),
            endpoint: event.endpoint(),
            tap: event.tap.as_str(),
            owner: event.owner.map(OwnerHook::as_str),
            netns: event.net_ns.as_str(),
            local: event.local,
            relay: event.relay,
            forwarded: event.forwarded,
            malformed: event.malformed,
            sender_pages: event.sender_pages,
            packet_destination: event.packet_destination.map(Address::new),
        }
    }
}

fn versions(_: &mut SchemaGenerator) -> Schema {
    one_of(&[Version::V1, Version::V2, Version::Other, Version::Unknown].map(Version::as_str))
}

fn verdicts(_: &mut SchemaGenerator) -> Schema {
    one_of(&Verdict::ALL.map(Verdict::as_str))
}

fn reasons(_: &mut SchemaGenerator) -> Schema {
    one_of(&Reason::ALL.map(Reason::as_str))
}

fn path_classes(_: &mut SchemaGenerator) -> Schema {
    one_of(&PathClass::ALL.map(PathClass::as_str))
}

fn owners(_: &mut SchemaGenerator) -> Schema {
    one_of(&OwnerHook::ALL.map(OwnerHook::as_str))
}

fn one_of(names: &[&str]) -> Schema {
    json_schema!({ "type": "string", "enum": names })
}

/// ECS `user`, and who logged in.
#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ProcessUser<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// Who logged in, through sudo and su, as the kernel's audit has it; absent outside of logins.
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<Audit<'a>>,
}

impl<'a> ProcessUser<'a> {
    fn new(process: &'a event::Process) -> Self {
        Self {
            id: process.user.id.map(Id),
            name: process.user.name.as_deref(),
            audit: process.login.as_ref().map(Audit::new),
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Audit<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// Number of the audit session.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<Id>,
}

impl<'a> Audit<'a> {
    fn new(login: &'a Login) -> Self {
        Self {
            id: login.user.id.map(Id),
            name: login.user.name.as_deref(),
            session: login.session.map(Id),
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Systemd<'a> {
    /// The innermost service, else the innermost scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slice: Option<&'a str>,
    /// Below a user's own systemd, whose unit is `unit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_slice: Option<&'a str>,
    /// The container that a user's names say it is: the id may be that of any other.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_container: Option<Container<'a>>,
    /// Id of the login session.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
}

impl<'a> Systemd<'a> {
    /// `None` outside of units and slices.
    fn new(process: &'a event::Process) -> Option<Self> {
        let fields = Self {
            unit: process.unit.as_deref(),
            slice: process.slice.as_deref(),
            user_unit: process.user_unit.as_deref(),
            user_slice: process.user_slice.as_deref(),
            user_container: process.user_container.as_ref().map(Container::new),
            session: process.session.as_deref(),
        };
        let known = fields.unit.is_some() || fields.slice.is_some();
        (known || fields.user_unit.is_some() || fields.user_container.is_some()).then_some(fields)
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Container<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<Named<'a>>,
}

impl<'a> Container<'a> {
    fn new(container: &'a event::Container) -> Self {
        Self {
            id: &container.id,
            runtime: container.runtime.as_deref(),
            name: container.name.as_deref(),
            image: container.image.as_deref().map(|name| Named { name }),
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Named<'a> {
    name: &'a str,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Orchestrator<'a> {
    #[schemars(extend("enum" = ["kubernetes", "ecs"]))]
    r#type: &'static str,
    resource: Resource<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Named<'a>>,
}

impl<'a> Orchestrator<'a> {
    fn new(orchestrator: &'a event::Orchestrator) -> Self {
        let (platform, resource) = orchestrator.platform.names();
        Self {
            r#type: platform,
            resource: Resource {
                id: &orchestrator.id,
                r#type: resource,
                name: orchestrator.name.as_deref(),
            },
            namespace: orchestrator.namespace.as_deref(),
            cluster: orchestrator.cluster.as_deref().map(|name| Named { name }),
        }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Resource<'a> {
    /// Uid of the pod, or id of the task.
    id: &'a str,
    #[schemars(extend("enum" = ["pod", "task"]))]
    r#type: &'static str,
    /// Of the pod; of a task, its family.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Kubernetes {
    /// Quality of service class of the pod.
    #[schemars(extend("enum" = ["guaranteed", "burstable", "besteffort"]))]
    qos: &'static str,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Http<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<HttpRequest<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
}

impl<'a> Http<'a> {
    fn new(http: &'a event::HttpRequest) -> Option<Self> {
        let method = http.method.as_deref();
        (method.is_some() || http.version.is_some()).then(|| Self {
            request: method.map(|method| HttpRequest { method }),
            version: http.version,
        })
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct HttpRequest<'a> {
    method: &'a str,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Url<'a> {
    /// The request target as sent, with secrets masked.
    original: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct UserAgent<'a> {
    original: &'a str,
}

#[derive(Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Address {
    ip: IpAddr,
    port: u16,
}

impl Address {
    /// A mapped IPv4 address is written as the IPv4 address it is.
    fn new(address: SocketAddr) -> Self {
        Self {
            ip: address.ip().to_canonical(),
            port: address.port(),
        }
    }
}
