//! What is made of a call: why it had no token, which client made it, what to change, and what is risky about it.

use std::sync::Arc;

use crate::vocabulary::vocabulary;

/// What is said of a call beside its facts. Nothing of it is guessed: what is not known is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    pub cause: Option<Cause>,
    /// Status of the answer to the caller's last request for a token, with [`Cause::TokenRefused`].
    pub token_status: Option<u16>,
    /// TTL of the last answer to anybody's request for a token, with [`Cause::TokenUnanswered`]: what the instance's
    /// hop limit leaves when it arrives.
    pub token_hop_limit: Option<u8>,
    pub client: Option<Client>,
    pub remedy: Option<Advice>,
    pub risks: Vec<Risk>,
}

/// What to change, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    pub id: Arc<str>,
    pub text: Arc<str>,
}

vocabulary! {
    /// Where `imds.client` is known from, `imds.client.source`.
    pub enum ClientSource {
        UserAgent = "user-agent",
        GoBuildInfo = "go-buildinfo",
        DistInfo = "dist-info",
        PackageJson = "package.json",
        Jar = "jar",
        Gem = "gem",
    }
}

/// A client and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// As the remedies name it.
    pub name: &'static str,
    pub version: Option<String>,
    pub source: ClientSource,
    /// The file that says so.
    pub path: Option<String>,
}

vocabulary! {
    /// `imds.cause`.
    pub enum Cause {
        /// The caller asked for a token, and no answer came.
        TokenUnanswered = "token-unanswered",
        /// The caller asked for a token, and was refused.
        TokenRefused = "token-refused",
        /// The caller got a token and sent the call without it.
        TokenUnused = "token-unused",
        /// The arguments name the token header, and the call has none.
        EmptyVariable = "empty-variable",
        /// The caller never asked for a token, as long as it was watched.
        NoTokenRequest = "no-token-request",
        /// The token is none, or not one any more (401).
        TokenRejected = "token-rejected",
        /// The request for a token came through a proxy (403 with X-Forwarded-For).
        Forwarded = "forwarded",
        /// The lifetime asked for is none (400).
        TtlInvalid = "ttl-invalid",
    }
}

impl Cause {
    /// One sentence, for people.
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
    /// What it means, and what it does not, for people.
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
