//! What a rehearsal tells its programs, and what they tell user space: the modern object's second set of programs, which
//! is loaded for `imds-analyzer rehearse` alone.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{COMM_LEN, Header};

/// The settings of a rehearsal, written before load; all zeroes refuse nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rehearsal {
    /// When it ends at the latest, in ns since boot, whatever user space promises.
    pub end: u64,
    /// The percentage of calls that are refused.
    pub percent: u32,
    /// Not 0 if every caller is chosen, except those that are spared.
    pub all: u32,
    /// Not 0 if calls are only reported, and every packet passes.
    pub dry: u32,
    pub reserved: u32,
}

/// A key of the map [`super::map::CHOICE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Choice {
    /// A [`ChoiceKind`].
    kind: u64,
    value: [u64; 2],
}

/// The kind of a [`Choice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum ChoiceKind {
    Lease = 1,
    Namespace = 2,
    User = 3,
    Name = 4,
    Cgroup = 5,
    Process = 6,
    Freed = 7,
    Begun = 8,
}

impl Choice {
    /// The time, in ns since boot, until which user space promises to answer: without a later promise, all packets pass.
    pub const LEASE: Self = Self::new(ChoiceKind::Lease, 0, 0);

    /// Has a value once all callers are chosen and spared: before, only calls of the rehearsal's own test are refused.
    pub const BEGUN: Self = Self::new(ChoiceKind::Begun, 0, 0);

    const fn new(kind: ChoiceKind, first: u64, second: u64) -> Self {
        Self {
            kind: kind as u64,
            value: [first, second],
        }
    }

    /// A socket, by its cookie, whose call user space cannot answer: what was kept back leaves.
    pub const fn freed(cookie: u64) -> Self {
        Self::new(ChoiceKind::Freed, cookie, 0)
    }

    /// A network namespace by its inode number: [`namespace`] says what is special about it.
    pub const fn namespace(inode: u32) -> Self {
        Self::new(ChoiceKind::Namespace, inode as u64, 0)
    }

    /// A real user id.
    pub const fn user(uid: u32) -> Self {
        Self::new(ChoiceKind::User, uid as u64, 0)
    }

    /// A process's name: its bytes up to the first NUL.
    #[inline(always)]
    pub const fn name(comm: &[u8; COMM_LEN]) -> Self {
        let mut words = [0_u64; 2];
        let mut ended = 0_u64;
        let mut at = 0;
        while at < COMM_LEN {
            // All ones once a NUL was met: the kernel may leave the rest of a former name behind it.
            ended |= ((comm[at] == 0) as u64).wrapping_neg();
            words[at / 8] |= (comm[at] as u64 & !ended) << (at % 8 * 8);
            at += 1;
        }
        Self::new(ChoiceKind::Name, words[0], words[1])
    }

    /// The id of a cgroup v2.
    pub const fn cgroup(id: u64) -> Self {
        Self::new(ChoiceKind::Cgroup, id, 0)
    }

    /// A process by its id and start time, [`super::Task::start`], which is rounded as /proc rounds it.
    #[inline(always)]
    pub const fn process(tgid: u32, start: u64) -> Self {
        Self::new(ChoiceKind::Process, tgid as u64, start / TICK)
    }
}

/// ns of a clock tick in /proc: `USER_HZ` is 100 on every architecture that this tool runs on.
const TICK: u64 = 10_000_000;

/// Values in the map [`super::map::CHOICE`] for users, names, cgroups and processes.
pub mod choice {
    /// Calls of the caller are refused.
    pub const CHOSEN: u64 = 1;
    /// Calls of the caller are never refused, whatever else chooses it.
    pub const SPARED: u64 = 2;
}

/// Values in the map [`super::map::CHOICE`] for network namespaces.
pub mod namespace {
    /// User space cannot answer there.
    pub const UNANSWERABLE: u64 = 1;
    /// Every v1 call is refused, even if its peer is an address of this host: the namespace of the rehearsal's own test.
    pub const TEST: u64 = 2;
}

/// News of a connection in a rehearsal; the discriminants are the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RefusalNews {
    /// A v1 call was kept back and waits for its answer; nothing else is due on the connection.
    Refused = 1,
    /// A v1 call was kept back; earlier calls on the connection are not answered yet.
    Queued = 2,
    /// All calls before the one that was kept back are answered.
    Due = 3,
    /// The caller has closed the socket.
    Closed = 4,
    /// A v1 call of a chosen caller was let through for a [`Passed`] reason.
    Passed = 5,
}

impl RefusalNews {
    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::Refused,
            2 => Self::Queued,
            3 => Self::Due,
            4 => Self::Closed,
            5 => Self::Passed,
            _ => return None,
        })
    }
}

/// Why a v1 call of a chosen caller was let through; the discriminants are the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Passed {
    /// It left in one packet with bytes of an earlier call.
    SharedPacket = 1,
    /// It left with the SYN (TCP Fast Open).
    FastOpen = 2,
    /// User space cannot answer in the socket's network namespace.
    Namespace = 3,
    /// The socket is bound to a device, which the answer would not come from.
    Device = 4,
    /// Multipath TCP.
    Multipath = 5,
    /// netfilter rewrites the addresses of the connection.
    Rewritten = 6,
    /// The connection is older than the rehearsal, or its answers cannot be counted.
    Uncounted = 7,
    /// The kernel side did not know yet that its caller is chosen, or user space had stopped renewing its promise. Only
    /// user space finds this out.
    NotInTime = 8,
}

impl Passed {
    pub const ALL: [Self; 8] = [
        Self::SharedPacket,
        Self::FastOpen,
        Self::Namespace,
        Self::Device,
        Self::Multipath,
        Self::Rewritten,
        Self::Uncounted,
        Self::NotInTime,
    ];

    /// The key in `imds.rehearsal.let_through`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SharedPacket => "shared-packet",
            Self::FastOpen => "fast-open",
            Self::Namespace => "namespace",
            Self::Device => "device",
            Self::Multipath => "multipath",
            Self::Rewritten => "rewritten",
            Self::Uncounted => "uncounted",
            Self::NotInTime => "not-in-time",
        }
    }

    pub const fn from_raw(raw: u8) -> Option<Self> {
        Some(match raw {
            1 => Self::SharedPacket,
            2 => Self::FastOpen,
            3 => Self::Namespace,
            4 => Self::Device,
            5 => Self::Multipath,
            6 => Self::Rewritten,
            7 => Self::Uncounted,
            8 => Self::NotInTime,
            _ => return None,
        })
    }
}

/// A record of kind [`super::RecordKind::Refusal`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Refusal {
    pub header: Header,
    pub cookie: u64,
    /// Inode number of the socket's network namespace.
    pub net_ns: u32,
    /// Sequence number that the answer begins with: what the caller expects next.
    pub answer_seq: u32,
    /// Sequence number of the first byte that never left: what the answer acknowledges. 0 if a call that was kept back
    /// had been reported before.
    pub acknowledge: u32,
    /// The connection's ports and addresses, in the form of [`super::Request`].
    pub source_port: u16,
    pub destination_port: u16,
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub family: u8,
    /// A [`RefusalNews`].
    pub news: u8,
    /// A [`Passed`], or 0.
    pub passed: u8,
    pub reserved: u8,
    /// Id of the process that sent the call, which is in the socket's network namespace in nearly every case; 0 if it
    /// was reported before.
    pub tgid: u32,
}

const _: () = {
    assert!(size_of::<Rehearsal>() == 24);
    assert!(size_of::<Choice>() == 24);
    assert!(size_of::<Refusal>() == 16 + 8 + 16 + 32 + 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_at_its_first_nul() {
        assert_eq!(
            Choice::name(b"sshd\0leftovers\0\0"),
            Choice::name(b"sshd\0\0\0\0\0\0\0\0\0\0\0\0")
        );
        assert_ne!(
            Choice::name(b"sshd\0leftovers\0\0"),
            Choice::name(b"sshe\0leftovers\0\0")
        );
        assert_ne!(Choice::name(b"abcdefghijklmno\0"), Choice::name(b"abcdefghijklmnp\0"));
    }

    #[test]
    fn news_and_reasons_come_back_as_they_were() {
        for raw in 0..=u8::MAX {
            assert!(RefusalNews::from_raw(raw).is_none_or(|news| news as u8 == raw));
            assert!(Passed::from_raw(raw).is_none_or(|passed| passed as u8 == raw));
        }
        assert!(
            Passed::ALL
                .iter()
                .all(|passed| Passed::from_raw(*passed as u8) == Some(*passed))
        );
    }
}
