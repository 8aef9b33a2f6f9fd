//! Records about the answers of a server, and about connections that carried no request.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Header, Request};

/// The event that an [`Answer`] reports; the discriminants are the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum News {
    /// The request at `index` is answered.
    Answer = 1,
    /// It is unknown which answers belong to the request at `index` and to all later ones.
    Lost = 2,
    /// The connection ended: the request at `index` and all later ones have no answer.
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
    /// HTTP status code; 0 if the event is not an answer.
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
    /// When the connection was begun, on the clock of the header's time.
    pub started: u64,
    /// An [`Outcome`].
    pub outcome: u8,
    pub reserved: [u8; 7],
}

/// How a connection without a request ended, `imds.attempt`; the discriminants are the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// A reset came back.
    Refused = 1,
    /// The kernel gave up at once, or within [`UNREACHABLE_MAX`]: no route, no neighbour, an ICMP error.
    Unreachable = 2,
    /// Nothing came back until the kernel or the process gave up.
    Timeout = 3,
    /// The connection was established, and closed.
    Closed = 4,
}

/// The time in ns within which the kernel gives up if it knows why: a neighbour that does not answer takes three
/// seconds. Without any answer the kernel waits for two minutes (`tcp_syn_retries` of 6).
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

    /// The value of `imds.attempt`.
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
