//! The judgement of a call: why it had no token, which client made it, what to change, and its risks.

use std::sync::Arc;

use crate::vocabulary::vocabulary;

/// Conclusions about a call. Nothing is guessed: anything unknown is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    pub cause: Option<Cause>,
    /// Status of the answer to the caller's last request for a token, with [`Cause::TokenRefused`].
    pub token_status: Option<u16>,
    /// With [`Cause::TokenUnanswered`]: TTL of the last answer to a token request of any caller, as it arrived. It is
    /// the rest of the instance's hop limit.
    pub token_hop_limit: Option<u8>,
    pub client: Option<Client>,
    pub program: Option<Arc<Program>>,
    pub remedy: Option<Advice>,
    pub risks: Vec<Risk>,
}

/// A short text on what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    pub id: Arc<str>,
    pub text: Arc<str>,
}

vocabulary! {
    /// The source of `imds.client`, `imds.client.source`.
    pub enum ClientSource {
        UserAgent = "user-agent",
        GoBuildInfo = "go-buildinfo",
        DistInfo = "dist-info",
        PackageJson = "package.json",
        Jar = "jar",
        Gem = "gem",
        Strings = "strings",
    }
}

/// A client and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The name that the remedies use.
    pub name: &'static str,
    pub version: Option<String>,
    pub source: ClientSource,
    /// The file that names the client.
    pub path: Option<String>,
}

vocabulary! {
    /// `imds.program.state`.
    pub enum FileState {
        /// The file no longer has a name: it was removed or replaced since it was started.
        Deleted = "deleted",
        /// It never was a file of a file system (memfd_create).
        InMemory = "in-memory",
        /// Everybody can write it, or a group that is not root's.
        WritableByOthers = "writable-by-others",
    }
}

/// The file that a caller runs: its executable or, for an interpreter, its script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    pub path: String,
    pub package: Option<Package>,
    pub states: Vec<FileState>,
}

/// A package of the distribution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: Option<String>,
}

vocabulary! {
    /// `imds.cause`.
    pub enum Cause {
        /// The caller asked for a token, and no answer came.
        TokenUnanswered = "token-unanswered",
        /// The caller asked for a token and got an error status.
        TokenRefused = "token-refused",
        /// The caller got a token and sent the call without it.
        TokenUnused = "token-unused",
        /// The arguments name the token header, but the call has none.
        EmptyVariable = "empty-variable",
        /// The caller never asked for a token while it was watched.
        NoTokenRequest = "no-token-request",
        /// The token is invalid or expired (401).
        TokenRejected = "token-rejected",
        /// The request for a token came through a proxy (403 with X-Forwarded-For).
        Forwarded = "forwarded",
        /// The requested lifetime is invalid (400).
        TtlInvalid = "ttl-invalid",
    }
}

impl Cause {
    /// One sentence for people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::TokenUnanswered => {
                "the caller asked for a token and got no answer, so it fell back to v1; from another network namespace that is the hop limit of the instance"
            }
            Self::TokenRefused => {
                "the caller asked for a token and was refused, so it fell back to v1; `imds.token_status` is the status"
            }
            Self::TokenUnused => "the caller got a token and sent this call without it",
            Self::EmptyVariable => {
                "the command line names the token header, but its value was empty: curl drops a header without a value"
            }
            Self::NoTokenRequest => "the caller did not ask for a token, as long as it was watched",
            Self::TokenRejected => "the call had a token that is wrong or has expired",
            Self::Forwarded => "the call came through a proxy that adds X-Forwarded-For, which IMDS refuses",
            Self::TtlInvalid => "the request for a token asked for a lifetime that is not 1 to 21600 seconds",
        }
    }
}

vocabulary! {
    /// `imds.risk`.
    pub enum Risk {
        CredentialV1 = "credential-v1",
        Forwarded = "forwarded",
        ServerChild = "server-child",
        NewCaller = "new-caller",
        OtherCloudHeader = "other-cloud-header",
    }
}

impl Risk {
    /// The meaning of the risk, and what it does not imply, for people.
    pub const fn meaning(self) -> (&'static str, &'static str) {
        match self {
            Self::CredentialV1 => (
                "credentials were fetched without a token: whoever makes this program fetch a URL gets them",
                "that anybody did",
            ),
            Self::Forwarded => (
                "X-Forwarded-For is present: something forwards requests to IMDS",
                "that it does so on purpose, or for strangers",
            ),
            Self::ServerChild => (
                "a web or application server, or a program it started, fetched credentials or user data: what requests forged through it and web shells look like",
                "that it was made to: an application that uses an AWS SDK inside of its server looks the same",
            ),
            Self::NewCaller => (
                "the first v1 call or call for credentials of this caller since the tool started",
                "that it is new on the host: when the tool starts, all are",
            ),
            Self::OtherCloudHeader => (
                "a header of another cloud's metadata service on a path of IMDS: a scanner that tries all of them, or a library that serves several clouds",
                "that it found anything",
            ),
        }
    }
}
