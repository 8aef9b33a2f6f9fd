//! What a server sends back, and connections that carried no request.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Header, Request};

/// The event that an [`Answer`] reports; the discriminants are the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum News {
    /// The request at `index` is answered.
    Answer = 1,
    /// Which answer belongs to the request at `index`, and to any behind it, cannot be told.
    Lost = 2,
    /// The connection ended: the request at `index`, and any behind it, has no answer.
    End = 3,
}

impl News {
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Answer,
            2 => Self::Lost,
            3 => Self::End,
            _ => return None,
        })
    }
}

/// News of the answers on one connection.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Answer {
    /// For an answer, its time is when the first byte of the status line arrived.
    pub header: Header,
    pub sock: u64,
    pub cookie: u64,
    /// [`Request::index`].
    pub index: u32,
    /// HTTP status code; 0 if the event is no answer.
    pub status: u16,
    /// TTL of the IP packet in which the status line began, or its hop limit.
    pub hop_limit: u8,
    /// A [`News`].
    pub news: u8,
}

/// A connection that ended without a byte of a request.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Attempt {
    /// The process and both addresses; the fields about a head are not used.
    pub request: Request,
    /// When it was begun, as the header's time.
    pub started: u64,
    /// An [`Outcome`].
    pub outcome: u8,
    pub reserved: [u8; 7],
}

/// How such a connection ended, `imds.attempt`; the discriminants are the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// A reset came back.
    Refused = 1,
    /// The kernel gave up at once, or within [`UNREACHABLE_MAX`]: no route, no neighbour, an ICMP error.
    Unreachable = 2,
    /// Nothing came back until the kernel or the process gave up.
    Timeout = 3,
    /// It was established, and closed.
    Closed = 4,
}

/// How soon the kernel gives up when it knows why, in ns: a neighbour that does not answer takes three seconds; without
/// any answer it waits for two minutes (`tcp_syn_retries` of 6).
pub const UNREACHABLE_MAX: u64 = 7_000_000_000;

impl Outcome {
    pub const ALL: [Self; 4] = [Self::Refused, Self::Unreachable, Self::Timeout, Self::Closed];

    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Refused,
            2 => Self::Unreachable,
            3 => Self::Timeout,
            4 => Self::Closed,
            _ => return None,
        })
    }

    /// The contract's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
        }
    }
}

const _: () = {
    assert!(size_of::<Answer>() == 16 + 16 + 8);
    assert!(size_of::<Attempt>() == size_of::<Request>() + 16);
};
