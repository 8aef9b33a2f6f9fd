//! The programs of the fleet, and what each does when it runs.

mod good;
mod other;

pub(super) use self::{good::GOOD, other::OTHERS};

/// A program in its place.
#[derive(Debug)]
pub(super) struct Spec {
    /// `imds.caller`.
    pub(super) caller: &'static str,
    pub(super) executable: &'static str,
    pub(super) args: &'static [&'static str],
    pub(super) directory: &'static str,
    pub(super) user: User,
    pub(super) place: Place,
    pub(super) agent: &'static str,
    /// Name, version, and where both are known from.
    pub(super) client: Option<(&'static str, &'static str, &'static str)>,
    /// Why its v1 calls have no token, and what to change: id and text.
    pub(super) advice: Option<(&'static str, &'static str, &'static str)>,
    /// Programs between the place and this one: arguments, from the parent upwards.
    pub(super) parents: &'static [&'static [&'static str]],
    pub(super) steps: &'static [Step],
    pub(super) role: Role,
    pub(super) way: Way,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum User {
    Root,
    /// A user that is the same on all hosts.
    System(u32, &'static str),
    /// User 1000, whose name depends on the host's image.
    Login,
    /// Of a container: without a name.
    Id(u32),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Unit(&'static str),
    /// Name and image.
    Docker(&'static str, &'static str),
    /// Namespace, name and image.
    Pod(&'static str, &'static str, &'static str),
    /// `~/...`: a login.
    Session,
}

/// When a caller runs, and on which hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// On all kinds of hosts.
    Good,
    /// On all kinds of hosts, while they start.
    Boot,
    V1,
    V1Boot,
    Rejected,
    /// A token request without an answer, and a v1 call after it.
    Fallback,
    /// The same without the v1 call.
    Silent,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Real,
    /// The peer is an address of the host.
    Local,
    /// It repeats the call of a rootless container.
    Relay,
    /// The process is not known.
    Nobody,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Token,
    TokenUnanswered,
    V2(&'static str),
    V1(&'static str),
    /// 401, because tokens are required.
    V1Rejected(&'static str),
    /// 404.
    V1Failed(&'static str),
    /// Its answer was not seen.
    V1Unseen(&'static str),
    Other(&'static str),
    /// With the reason.
    Unknown(&'static str),
}

pub(super) const ZONE: &str = "/latest/meta-data/placement/availability-zone";
pub(super) const ID: &str = "/latest/meta-data/instance-id";
pub(super) const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";
pub(super) const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
pub(super) const ROLE: &str = "/latest/meta-data/iam/security-credentials/fleet-node";
pub(super) const USER_DATA: &str = "/latest/user-data";
pub(super) const SPOT: &str = "/latest/meta-data/spot/instance-action";

/// `imds.path_class`.
pub(super) fn class(path: &str) -> &'static str {
    match path {
        ROLES | ROLE => "credential",
        DOCUMENT => "identity",
        USER_DATA => "user-data",
        SPOT => "lifecycle",
        _ if path.starts_with("/computeMetadata") || path.starts_with("/metadata") => "not-imds",
        _ => "plain",
    }
}

impl User {
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::System(id, _) | Self::Id(id) => id,
            Self::Login => 1000,
        }
    }

    /// `login` is the name of user 1000.
    pub(super) fn name(self, login: &'static str) -> Option<&'static str> {
        match self {
            Self::Root => Some("root"),
            Self::System(_, name) => Some(name),
            Self::Login => Some(login),
            Self::Id(_) => None,
        }
    }
}

impl Spec {
    /// The name of the process.
    pub(super) fn name(&self) -> &str {
        let name = self.executable.rsplit('/').next().unwrap_or_default();
        name.get(..15).unwrap_or(name)
    }

    /// True if it is one long-running process.
    pub(super) fn is_resident(&self) -> bool {
        self.parents.is_empty()
    }
}
