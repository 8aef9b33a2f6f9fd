//! The words of a verdict.

/// `imds.verdict`; the discriminants are part of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verdict {
    Unknown = 1,
    V2TokenRequest = 2,
    InvalidTokenRequest = 3,
    V2 = 4,
    V2EmptyToken = 5,
    OtherCloud = 6,
    V1 = 7,
}

/// `imds.version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    V1,
    V2,
    Other,
    Unknown,
}

impl Verdict {
    pub const ALL: [Self; 7] = [
        Self::Unknown,
        Self::V2TokenRequest,
        Self::InvalidTokenRequest,
        Self::V2,
        Self::V2EmptyToken,
        Self::OtherCloud,
        Self::V1,
    ];

    /// The verdict on a complete head, if all readers agree on whether it has a token; the first rule that fits
    /// decides.
    #[inline(always)]
    pub const fn of(method: Method, path_class: PathClass, facts: u16) -> Self {
        let put_token = matches!(method, Method::Put) && matches!(path_class, PathClass::Token);
        if put_token {
            return if facts & (facts::TTL | facts::FORWARDED) == facts::TTL {
                Self::V2TokenRequest
            } else {
                Self::InvalidTokenRequest
            };
        }
        if facts & facts::TOKEN_VALUE != 0 {
            return Self::V2;
        }
        if facts & facts::TOKEN != 0 {
            return Self::V2EmptyToken;
        }
        if facts & facts::TTL != 0 {
            return Self::InvalidTokenRequest;
        }
        if facts & facts::CLOUD_PATH != 0 {
            return Self::OtherCloud;
        }
        Self::V1
    }

    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Unknown,
            2 => Self::V2TokenRequest,
            3 => Self::InvalidTokenRequest,
            4 => Self::V2,
            5 => Self::V2EmptyToken,
            6 => Self::OtherCloud,
            7 => Self::V1,
            _ => return None,
        })
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::V2TokenRequest => "v2-token-request",
            Self::InvalidTokenRequest => "invalid-token-request",
            Self::V2 => "v2",
            Self::V2EmptyToken => "v2-empty-token",
            Self::OtherCloud => "other-cloud",
            Self::V1 => "v1",
        }
    }

    pub const fn version(self) -> Version {
        match self {
            Self::Unknown => Version::Unknown,
            Self::V2TokenRequest | Self::InvalidTokenRequest | Self::V2 | Self::V2EmptyToken => Version::V2,
            Self::OtherCloud => Version::Other,
            Self::V1 => Version::V1,
        }
    }
}

impl Version {
    pub const ALL: [Self; 4] = [Self::V1, Self::V2, Self::Other, Self::Unknown];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Other => "other",
            Self::Unknown => "unknown",
        }
    }
}

/// `imds.reason`: why a verdict is `unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reason {
    /// The stream does not begin like an HTTP/1 request.
    NotHttp = 1,
    /// The head breaks the grammar, and has a token or TTL header in at least one reading.
    Malformed = 2,
    /// The head is over 16 KiB.
    TooLong = 3,
    /// The head was found where a body may be in another reading of the framing.
    Framing = 4,
    /// Bytes of the stream were not seen.
    Gap = 5,
    /// The connection was open before the tool was, and was joined in the middle of a head.
    Midstream = 6,
    /// The connection ended inside the head.
    Closed = 7,
    /// The head was unfinished for 30 s.
    Timeout = 8,
    /// The bytes were not the same when they were seen again: the sender's memory changed while it was being read (send
    /// tap), or between two transmissions (wire tap).
    Changed = 9,
    /// The head was unfinished when the tool stopped watching it.
    Unfinished = 10,
    /// The bytes are not in the sender's memory: sendfile, splice (send tap).
    Unreadable = 11,
    /// An urgent byte (`MSG_OOB`) was sent inside the head: servers disagree on whether that byte belongs to it.
    Urgent = 12,
    /// There was no memory left for the state of its connection.
    NoState = 13,
}

impl Reason {
    pub const ALL: [Self; 13] = [
        Self::NotHttp,
        Self::Malformed,
        Self::TooLong,
        Self::Framing,
        Self::Gap,
        Self::Midstream,
        Self::Closed,
        Self::Timeout,
        Self::Changed,
        Self::Unfinished,
        Self::Unreadable,
        Self::Urgent,
        Self::NoState,
    ];

    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::NotHttp,
            2 => Self::Malformed,
            3 => Self::TooLong,
            4 => Self::Framing,
            5 => Self::Gap,
            6 => Self::Midstream,
            7 => Self::Closed,
            8 => Self::Timeout,
            9 => Self::Changed,
            10 => Self::Unfinished,
            11 => Self::Unreadable,
            12 => Self::Urgent,
            13 => Self::NoState,
            _ => return None,
        })
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotHttp => "not-http",
            Self::Malformed => "malformed",
            Self::TooLong => "too-long",
            Self::Framing => "framing",
            Self::Gap => "gap",
            Self::Midstream => "midstream",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Changed => "changed",
            Self::Unfinished => "unfinished",
            Self::Unreadable => "unreadable",
            Self::Urgent => "urgent",
            Self::NoState => "no-state",
        }
    }
}

/// The methods a verdict depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    /// The request line was not read.
    Unknown = 0,
    Get = 1,
    Head = 2,
    Put = 3,
    Other = 4,
}

impl Method {
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            0 => Self::Unknown,
            1 => Self::Get,
            2 => Self::Head,
            3 => Self::Put,
            4 => Self::Other,
            _ => return None,
        })
    }

    #[inline(always)]
    pub(super) const fn from_dfa(raw: u8) -> Self {
        match raw {
            1 => Self::Get,
            2 => Self::Head,
            3 => Self::Put,
            4 => Self::Other,
            _ => Self::Unknown,
        }
    }
}

/// `imds.path_class`; the discriminants are part of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PathClass {
    /// A path that IMDS does not serve.
    NotImds = 0,
    Credential = 1,
    UserData = 2,
    Identity = 3,
    Account = 4,
    Keys = 5,
    Tags = 6,
    Lifecycle = 7,
    Network = 8,
    Token = 9,
    Root = 10,
    Plain = 11,
}

impl PathClass {
    pub const ALL: [Self; 12] = [
        Self::NotImds,
        Self::Credential,
        Self::UserData,
        Self::Identity,
        Self::Account,
        Self::Keys,
        Self::Tags,
        Self::Lifecycle,
        Self::Network,
        Self::Token,
        Self::Root,
        Self::Plain,
    ];

    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            0 => Self::NotImds,
            1 => Self::Credential,
            2 => Self::UserData,
            3 => Self::Identity,
            4 => Self::Account,
            5 => Self::Keys,
            6 => Self::Tags,
            7 => Self::Lifecycle,
            8 => Self::Network,
            9 => Self::Token,
            10 => Self::Root,
            11 => Self::Plain,
            _ => return None,
        })
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotImds => "not-imds",
            Self::Credential => "credential",
            Self::UserData => "user-data",
            Self::Identity => "identity",
            Self::Account => "account",
            Self::Keys => "keys",
            Self::Tags => "tags",
            Self::Lifecycle => "lifecycle",
            Self::Network => "network",
            Self::Token => "token",
            Self::Root => "root",
            Self::Plain => "plain",
        }
    }
}

/// Bits for what a head holds.
pub mod facts {
    /// `X-aws-ec2-metadata-token`, and that it has a value.
    pub const TOKEN: u16 = 1;
    pub const TOKEN_VALUE: u16 = 1 << 1;
    /// `X-aws-ec2-metadata-token-ttl-seconds`.
    pub const TTL: u16 = 1 << 2;
    /// `X-Forwarded-For`.
    pub const FORWARDED: u16 = 1 << 3;
    /// A header of another cloud's metadata service.
    pub const FOREIGN_HEADER: u16 = 1 << 4;
    /// A path of another cloud's metadata service.
    pub const CLOUD_PATH: u16 = 1 << 5;
    pub const MALFORMED: u16 = 1 << 6;
    pub const HTTP_0_9: u16 = 1 << 7;
    pub const HTTP_1_0: u16 = 1 << 8;
    /// Content-Length: seen, seen without a digit yet, seen twice or with a value that is not a number.
    pub const LENGTH: u16 = 1 << 9;
    pub const LENGTH_EMPTY: u16 = 1 << 10;
    pub const LENGTH_INVALID: u16 = 1 << 11;
    /// Transfer-Encoding: seen, ends in chunked, names another coding.
    pub const ENCODING: u16 = 1 << 12;
    pub const CHUNKED: u16 = 1 << 13;
    pub const ENCODING_OTHER: u16 = 1 << 14;
    /// The name of the token header or TTL header, where only some readers see a header.
    pub const TOKEN_NAME: u16 = 1 << 15;
}
