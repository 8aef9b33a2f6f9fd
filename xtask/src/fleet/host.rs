//! The hosts of the fleet.

use super::{
    callers::{GOOD, OTHERS, Role, Spec, Way},
    random::Random,
};

/// What is special about a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ready,
    V1,
    Rejected,
    /// A token request got no answer, and the caller fell back.
    Unanswered,
    /// A token request got no answer.
    Silent,
    Unknown,
    Lossy,
    /// The analyzer was killed, and started hours later.
    Gap,
    /// Watched for some days only.
    Short,
    /// The analyzer was installed long after the boot.
    NoBoot,
    /// The host was off for a while.
    Rebooted,
    /// The ignore list kept v1 calls out of the log.
    Ignored,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::V1,
        Self::Rejected,
        Self::Unanswered,
        Self::Silent,
        Self::Unknown,
        Self::Lossy,
        Self::Gap,
        Self::Short,
        Self::NoBoot,
        Self::Rebooted,
        Self::Ignored,
        Self::Ready,
    ];

    /// The kind of the host with this number: each kind is among 40 hosts in a row, most of which are ready or v1.
    fn of(index: usize) -> Self {
        let place = index % 40;
        let usual = if place.is_multiple_of(4) { Self::V1 } else { Self::Ready };
        Self::ALL.get(place).copied().unwrap_or(usual)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::V1 => "v1",
            Self::Rejected => "rejected",
            Self::Unanswered => "unanswered",
            Self::Silent => "silent",
            Self::Unknown => "unknown",
            Self::Lossy => "lossy",
            Self::Gap => "gap",
            Self::Short => "short",
            Self::NoBoot => "no-boot",
            Self::Rebooted => "rebooted",
            Self::Ignored => "ignored",
        }
    }

    /// True if callers with this role are on such a host.
    fn has(self, role: Role) -> bool {
        match role {
            Role::Good | Role::Boot => true,
            Role::V1 | Role::V1Boot => self == Self::V1,
            Role::Rejected => self == Self::Rejected,
            Role::Fallback => self == Self::Unanswered,
            Role::Silent => self == Self::Silent,
            Role::Unknown => self == Self::Unknown,
        }
    }
}

/// A host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) kind: Kind,
    pub(super) name: String,
    /// Some hosts do not know their instance.
    pub(super) instance: Option<String>,
    pub(super) account: String,
    pub(super) region: &'static str,
    pub(super) machine: &'static str,
    pub(super) image: String,
    pub(super) kernel: &'static str,
    /// The name of user 1000.
    pub(super) login: &'static str,
    pub(super) address: String,
    pub(super) callers: Vec<&'static Spec>,
}

impl Host {
    pub(super) fn new(index: usize, random: &mut Random) -> Self {
        let kind = Kind::of(index);
        let (high, low) = (index / 250 % 250, index % 250);
        let mut good: Vec<&Spec> = Vec::new();
        for spec in GOOD {
            // The first ones are everywhere, the others on some hosts.
            if good.len() < 3 || random.one_in(if spec.way == Way::Real { 2 } else { 6 }) {
                good.push(spec);
            }
        }
        let others = OTHERS.iter().filter(|spec| kind.has(spec.role));
        let mut others: Vec<&Spec> = others.collect();
        while others.len() > 2 && random.one_in(2) {
            others.remove(random.below(others.len() as u64) as usize);
        }
        Self {
            kind,
            name: format!("ip-10-{}-{high}-{low}", 20 + index / 62_500),
            instance: (index % 20 != 19).then(|| format!("i-{:017x}", random.next() >> 4)),
            account: format!("{:012}", 111_122_223_333 + 1_000_001 * (index as u64 % 7)),
            region: random.pick(["eu-central-1", "us-east-1", "us-west-2", "ap-southeast-2"]),
            machine: random.pick(["t3.medium", "m6i.large", "m7g.xlarge", "c6i.2xlarge", "r6i.4xlarge"]),
            image: format!("ami-{:017x}", 0x0abc_def0_1234 + random.below(9) * 0x1_0001),
            kernel: random.pick([
                "6.8.0-1021-aws",
                "6.1.102-111.182.amzn2023.x86_64",
                "5.10.0-32-cloud-amd64",
            ]),
            login: random.pick(["ubuntu", "ec2-user", "admin"]),
            address: format!("10.{}.{high}.{low}", 20 + index / 62_500),
            callers: good.into_iter().chain(others).collect(),
        }
    }
}
