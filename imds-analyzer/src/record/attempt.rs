//! The record of a connection that ended without a request.

use imds_analyzer_ebpf::abi::{OwnerHook, exchange::Outcome};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    SCHEMA, Text, Word,
    envelope::{Host, User},
    process::Process,
    request::{Address, Container, Kubernetes, Orchestrator, ProcessUser, Systemd},
};
use crate::{
    event::{self, Endpoint, NetNs},
    identity::Identity,
};

/// A connection to the metadata service that ended without a byte of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields)]
pub struct Attempt<'a> {
    pub imds: AttemptFields<'a>,
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
    /// Absent if no address was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Address>,
    pub destination: Address,
    pub host: Host<'a>,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(attempt: &'a event::Attempt, host: &'a Identity) -> Self {
        let process = attempt.process.as_deref();
        let orchestrator = process.and_then(|process| process.orchestrator.as_ref());
        Self {
            imds: AttemptFields {
                schema: SCHEMA,
                caller: process.map(|process| Text::from(&process.caller)),
                attempt: attempt.outcome.into(),
                endpoint: attempt.endpoint().into(),
                owner: attempt.owner.map(Word::Known),
                netns: attempt.net_ns.into(),
                local: attempt.local,
            },
            process: process.map(|process| Process::new(process, attempt.thread.as_ref())),
            user: process.map(ProcessUser::new),
            group: process.and_then(|process| User::new(process.group_id, None)),
            systemd: process.and_then(Systemd::new),
            container: process
                .and_then(|process| process.container.as_ref())
                .map(Container::new),
            orchestrator: orchestrator.map(Orchestrator::new),
            kubernetes: orchestrator.and_then(Kubernetes::new),
            source: attempt.source.map(Address::new),
            destination: Address::new(attempt.destination),
            host: Host::new(host),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(bound(deserialize = "'de: 'a"))]
#[schemars(deny_unknown_fields, rename = "AttemptImds")]
pub struct AttemptFields<'a> {
    pub schema: u32,
    /// As `imds.caller` of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Text<'a>>,
    /// What became of the connection.
    pub attempt: Word<'a, Outcome>,
    pub endpoint: Word<'a, Endpoint>,
    /// Where `process` comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Word<'a, OwnerHook>>,
    /// The socket's network namespace.
    pub netns: Word<'a, NetNs>,
    /// The peer is an address of this host itself.
    pub local: bool,
}
