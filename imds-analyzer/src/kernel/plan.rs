//! From the features of a host to a plan: a pure function, whose result `check` prints.

use imds_analyzer_ebpf::abi::{Budget, Offsets, OwnerHook, legacy::Settings, rehearsal::Rehearsal};

use super::{
    budget::KernelBudget,
    features::{Feature, Features, Probe},
};
use crate::event::Tap;

/// The objects to load, and the reasons.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The best first; the next one is used if the kernel rejects the tap although it seems to have the features.
    pub taps: Vec<TapPlan>,
    /// Why the wire tap is not in `taps`; empty if it is, or was not requested.
    pub not_wire: Vec<Obstacle>,
    /// The decisions in words, in order.
    pub reasons: Vec<String>,
}

/// An object to load, with its settings.
#[derive(Clone, Debug)]
pub enum TapPlan {
    /// The wire tap, whose programs classify packets in the kernel.
    Modern {
        /// Written into the programs before load.
        offsets: Offsets,
        budget: Budget,
        /// Follow connections to see answers.
        answers: bool,
        /// The sender hooks to try, the best first; `Connect` means no sender hook.
        owners: Vec<OwnerHook>,
        /// Load the programs of a rehearsal, with these settings.
        rehearsal: Option<Rehearsal>,
    },
    /// The send tap, which reads the senders' memory; with `packets` the wire tap, which forwards packets to user
    /// space.
    Legacy {
        /// `None` if calibration must learn them.
        settings: Option<Settings>,
        packets: bool,
        /// Read the status of answers in the readers' memory.
        answers: bool,
    },
}

/// One of the two eBPF objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// For kernels with a ring buffer and BTF.
    Modern,
    /// For Linux 4.14 and later.
    Legacy,
}

/// The user's request; `None` means the best available.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub object: Option<Object>,
    /// Which tap of the legacy object to use, as it has both. The default is the send tap, because it leaves nothing
    /// behind.
    pub tap: Option<Tap>,
    pub owner: Option<OwnerHook>,
    /// Do not follow connections to see answers.
    pub without_answers: bool,
    /// Only the modern object enforces the budget. The send tap cannot: its records are not yet requests of anybody.
    pub budget: KernelBudget,
    /// Refuse calls. Only the modern object can.
    pub rehearsal: Option<Rehearsal>,
}

/// The features that this host lacks to run the tool, or a rehearsal.
#[derive(Clone, Debug, thiserror::Error)]
#[error("this host cannot {}:\n{}", if *.rehearsal { "rehearse" } else { "run it" }, .obstacles.iter().map(|it| format!("  {it}")).collect::<Vec<_>>().join("\n"))]
pub struct Impossible {
    pub rehearsal: bool,
    pub obstacles: Vec<Obstacle>,
}

/// A missing feature.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {why} ({})", .feature.name(), .feature.remedy())]
pub struct Obstacle {
    pub feature: Feature,
    pub why: String,
}

/// The sender hooks, the best first, with the feature that each needs.
pub(super) const SENDERS: [(OwnerHook, Feature); 3] = [
    (OwnerHook::Fentry, Feature::Fentry),
    (OwnerHook::TpBtf, Feature::TpBtf),
    (OwnerHook::Kprobe, Feature::Kprobe),
];

/// Plans the wire tap, and the send tap where the wire tap is not available.
pub fn plan(features: &Features, wanted: Wanted) -> Result<Plan, Impossible> {
    let mut plan = Plan {
        taps: Vec::new(),
        not_wire: Vec::new(),
        reasons: Vec::new(),
    };
    let mut obstacles = Vec::new();
    if matches!(wanted.object, None | Some(Object::Modern)) {
        match modern(features, wanted, &mut plan.reasons) {
            Ok(tap) => plan.taps.push(tap),
            Err(missing) => obstacles = missing,
        }
    }
    // The legacy object has a single owner hook, which always sees the sender.
    if wanted.object != Some(Object::Modern) && matches!(wanted.owner, None | Some(OwnerHook::Kprobe)) {
        let packets = wanted.object == Some(Object::Legacy) && wanted.tap == Some(Tap::Wire);
        match legacy(features, wanted, packets) {
            Ok(tap) => {
                if plan.taps.is_empty() {
                    plan.reasons.extend(
                        obstacles
                            .iter()
                            .map(|Obstacle { feature, why }| format!("no wire tap: {}: {why}", feature.name())),
                    );
                    explain_legacy(&tap, "", &mut plan.reasons);
                    if wanted.object.is_none() && features.get(Feature::Cgroup2).is_present() {
                        plan.reasons.push(PACKETS_NOT_ASKED_FOR.to_owned());
                    }
                } else {
                    explain_legacy(&tap, ", if the kernel rejects the wire tap", &mut plan.reasons);
                }
                plan.taps.push(tap);
            }
            Err(missing) => {
                let new = |obstacle: &Obstacle| {
                    obstacles
                        .iter()
                        .all(|known: &Obstacle| known.feature != obstacle.feature)
                };
                let missing: Vec<_> = missing.into_iter().filter(new).collect();
                obstacles.extend(missing);
            }
        }
    } else if wanted.object == Some(Object::Legacy) {
        obstacles.push(Obstacle {
            feature: Feature::KprobeEvents,
            why: "the legacy object supports no other owner hook".to_owned(),
        });
    }
    if plan.taps.is_empty() {
        return Err(Impossible {
            rehearsal: wanted.rehearsal.is_some(),
            obstacles,
        });
    }
    if !plan.taps.iter().any(|tap| matches!(tap, TapPlan::Modern { .. })) {
        plan.not_wire = obstacles;
    }
    Ok(plan)
}

/// The missing features of `needed`. An unprobed feature is no obstacle; whatever prevented the probe is.
fn missing(features: &Features, needed: impl IntoIterator<Item = Feature>) -> Vec<Obstacle> {
    needed
        .into_iter()
        .filter_map(|feature| match features.get(feature) {
            Probe::Missing(why) => Some(Obstacle {
                feature,
                why: why.to_owned(),
            }),
            Probe::Present(_) | Probe::Unprobed => None,
        })
        .collect()
}

/// Plans the modern object. A requested owner hook is required; otherwise the best available one is used.
fn modern(features: &Features, wanted: Wanted, reasons: &mut Vec<String>) -> Result<TapPlan, Vec<Obstacle>> {
    let owner = wanted.owner;
    let forced = SENDERS
        .iter()
        .find(|(hook, _)| Some(*hook) == owner)
        .map(|(_, feature)| *feature);
    let needed = [
        Feature::Privileges,
        Feature::KernelReads,
        Feature::Cgroup2,
        Feature::Btf,
        Feature::RingBuffer,
    ];
    let obstacles = missing(features, needed.into_iter().chain(forced));
    let (&Ok(offsets), true) = (&features.btf, obstacles.is_empty()) else {
        return Err(obstacles);
    };
    reasons.push("wire tap: cgroup_skb egress at the root of cgroup2".to_owned());
    let owners = match owner {
        Some(owner) => {
            reasons.push(format!("owner: {}, as requested", owner.as_str()));
            vec![owner]
        }
        None => {
            let mut owners = Vec::new();
            for (hook, feature) in SENDERS {
                let probe = features.get(feature);
                if probe.is_present() {
                    let rank = if owners.is_empty() {
                        ""
                    } else {
                        ", if the kernel rejects that"
                    };
                    reasons.push(format!("owner: {}, the sender's own context{rank}", feature.name()));
                    owners.push(hook);
                } else {
                    reasons.push(format!("owner: not {}: {}", feature.name(), probe.detail()));
                }
            }
            reasons.push("owner otherwise: the process that connected".to_owned());
            owners.push(OwnerHook::Connect);
            owners
        }
    };
    reasons.push(
        if wanted.without_answers {
            ANSWERS_NOT_WANTED
        } else {
            "answers: cgroup_skb ingress at the root of cgroup2"
        }
        .to_owned(),
    );
    reasons.push(wanted.budget.describe());
    Ok(TapPlan::Modern {
        offsets,
        budget: wanted.budget.in_kernel(),
        answers: !wanted.without_answers,
        owners,
        rehearsal: wanted.rehearsal,
    })
}

/// Plans the legacy object: its wire tap with `packets`, else its send tap.
fn legacy(features: &Features, wanted: Wanted, packets: bool) -> Result<TapPlan, Vec<Obstacle>> {
    let needed = [Feature::Privileges, Feature::KernelReads, Feature::KprobeEvents];
    let obstacles = missing(features, needed.into_iter().chain(packets.then_some(Feature::Cgroup2)));
    if !obstacles.is_empty() {
        return Err(obstacles);
    }
    Ok(TapPlan::Legacy {
        settings: features.legacy_settings,
        packets,
        answers: !packets && !wanted.without_answers,
    })
}

const ANSWERS_NOT_WANTED: &str = "answers: not followed, as requested";
const ANSWERS_RECEIVED: &str = "answers: kprobes on tcp_recvmsg and tcp_cleanup_rbuf, which read the status in the \
    reader's memory; tried on a test connection";
const NO_ANSWERS: &str =
    "answers: not seen with the wire tap of the legacy object; every request has imds.answer unseen";

/// A reason given when the send tap is used.
const PACKETS_NOT_ASKED_FOR: &str = "no wire tap of the legacy object: request it with --object legacy-wire (Linux 5.4 \
    and later); before 5.7 a killed tool leaves its program at the root of cgroup2 until it starts again";

fn explain_legacy(tap: &TapPlan, condition: &str, reasons: &mut Vec<String>) {
    let sender = imds_analyzer_ebpf::abi::program::SENDER;
    if let TapPlan::Legacy { packets: true, .. } = tap {
        reasons.push(
            "wire tap: cgroup_skb egress at the root of cgroup2, which forwards packets to user space".to_owned(),
        );
        reasons.push(format!("owner: kprobes on {sender}, the sender's own context"));
    } else {
        reasons.push(format!(
            "send tap: kprobes on {sender}, which read the sender's memory{condition}"
        ));
    }
    reasons.push(
        match tap {
            TapPlan::Legacy { packets: true, .. } => NO_ANSWERS,
            TapPlan::Legacy { answers: true, .. } => ANSWERS_RECEIVED,
            _ => ANSWERS_NOT_WANTED,
        }
        .to_owned(),
    );
    reasons.push(
        match tap {
            TapPlan::Legacy { settings: None, .. } => {
                "send tap offsets: those common to supported kernels, checked and completed on a test connection"
            }
            _ => "send tap offsets: this kernel's BTF, checked on a test connection",
        }
        .to_owned(),
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed assertion is the point of a test")]

    use super::*;

    fn host(missing: &[Feature]) -> Features {
        let probe = |feature| match missing.contains(&feature) {
            true => Probe::Missing("missing".to_owned()),
            false => Probe::Present("there".to_owned()),
        };
        let offsets = (!missing.contains(&Feature::Btf)).then(Offsets::default);
        Features {
            kernel: "6.18".to_owned(),
            privileges: probe(Feature::Privileges),
            kernel_reads: probe(Feature::KernelReads),
            cgroup2: probe(Feature::Cgroup2),
            btf: offsets.ok_or_else(|| "missing".to_owned()),
            legacy_settings: offsets.map(|offsets| Settings {
                offsets,
                ..Settings::default()
            }),
            ring_buffer: probe(Feature::RingBuffer),
            fentry: probe(Feature::Fentry),
            tp_btf: probe(Feature::TpBtf),
            kprobe: probe(Feature::Kprobe),
            kprobe_events: probe(Feature::KprobeEvents),
            lockdown: None,
        }
    }

    /// The planned taps, or the missing features.
    fn decide(missing: &[Feature], wanted: Wanted) -> Result<Vec<String>, Vec<Feature>> {
        let name = |tap: &TapPlan| match tap {
            TapPlan::Modern { owners, .. } => {
                let owners: Vec<_> = owners.iter().map(|owner| owner.as_str()).collect();
                format!("wire {}", owners.join(" "))
            }
            TapPlan::Legacy { settings, packets, .. } => {
                let tap = if *packets { "legacy wire" } else { "send" };
                let learnt = if settings.is_none() { " calibrated" } else { "" };
                format!("{tap}{learnt}")
            }
        };
        plan(&host(missing), wanted)
            .map(|plan| plan.taps.iter().map(name).collect())
            .map_err(|error| error.obstacles.iter().map(|obstacle| obstacle.feature).collect())
    }

    #[test]
    fn what_follows_from_what_a_host_has() {
        use Feature::{Btf, Cgroup2, Fentry, KernelReads, Kprobe, KprobeEvents, Privileges, RingBuffer, TpBtf};
        type Case<'a> = (&'a [Feature], Option<OwnerHook>, Result<&'a [&'a str], &'a [Feature]>);
        let cases: [Case<'_>; 17] = [
            (&[], None, Ok(&["wire fentry tp_btf kprobe connect", "send"])),
            (&[], Some(OwnerHook::Connect), Ok(&["wire connect"])),
            (&[], Some(OwnerHook::TpBtf), Ok(&["wire tp_btf"])),
            (&[], Some(OwnerHook::Kprobe), Ok(&["wire kprobe", "send"])),
            (&[TpBtf], None, Ok(&["wire fentry kprobe connect", "send"])),
            (&[KprobeEvents], None, Ok(&["wire fentry tp_btf kprobe connect"])),
            (&[Fentry, TpBtf, Kprobe, KprobeEvents], None, Ok(&["wire connect"])),
            (&[TpBtf], Some(OwnerHook::TpBtf), Err(&[TpBtf])),
            (
                &[Kprobe, KprobeEvents],
                Some(OwnerHook::Kprobe),
                Err(&[Kprobe, KprobeEvents]),
            ),
            (&[Privileges], None, Err(&[Privileges])),
            (&[KernelReads], None, Err(&[KernelReads])),
            (&[Cgroup2], None, Ok(&["send"])),
            (&[RingBuffer], None, Ok(&["send"])),
            (&[Btf], None, Ok(&["send calibrated"])),
            (&[Btf, Cgroup2], Some(OwnerHook::Connect), Err(&[Cgroup2, Btf])),
            (
                &[Btf, RingBuffer, KprobeEvents],
                None,
                Err(&[Btf, RingBuffer, KprobeEvents]),
            ),
            (&[Btf, Fentry, TpBtf], Some(OwnerHook::Kprobe), Ok(&["send calibrated"])),
        ];
        for (missing, owner, expected) in cases {
            let wanted = Wanted {
                owner,
                ..Wanted::default()
            };
            let decided = decide(missing, wanted);
            let expected = expected
                .map(|taps| taps.iter().map(|&tap| tap.to_owned()).collect())
                .map_err(<[Feature]>::to_vec);
            assert_eq!(decided, expected, "{missing:?} {owner:?}");
        }
    }

    #[test]
    fn an_object_that_is_asked_for_is_the_only_one() {
        let wanted = |object, owner| Wanted {
            object: Some(object),
            tap: None,
            owner,
            ..Wanted::default()
        };
        assert_eq!(
            decide(&[Feature::KprobeEvents], wanted(Object::Legacy, None)),
            Err(vec![Feature::KprobeEvents])
        );
        assert_eq!(
            decide(&[Feature::Btf], wanted(Object::Modern, None)),
            Err(vec![Feature::Btf])
        );
        assert_eq!(decide(&[], wanted(Object::Legacy, None)), Ok(vec!["send".to_owned()]));
        for tap in [None, Some(Tap::Send), Some(Tap::Wire)] {
            let connect = Wanted {
                tap,
                ..wanted(Object::Legacy, Some(OwnerHook::Connect))
            };
            assert_eq!(decide(&[], connect), Err(vec![Feature::KprobeEvents]));
        }
        let packets = Wanted {
            tap: Some(Tap::Wire),
            ..wanted(Object::Legacy, None)
        };
        assert_eq!(
            decide(&[Feature::RingBuffer], packets),
            Ok(vec!["legacy wire".to_owned()])
        );
        assert_eq!(
            decide(&[Feature::Btf], packets),
            Ok(vec!["legacy wire calibrated".to_owned()])
        );
        assert_eq!(decide(&[Feature::Cgroup2], packets), Err(vec![Feature::Cgroup2]));
    }

    #[test]
    fn packets_are_passed_on_only_if_asked_for() {
        let reasons = |missing: &[Feature], object| {
            let wanted = Wanted {
                object,
                ..Wanted::default()
            };
            plan(&host(missing), wanted).unwrap().reasons.join("\n")
        };
        let hint = "legacy-wire";
        assert!(reasons(&[Feature::RingBuffer], None).contains(hint));
        assert!(!reasons(&[Feature::RingBuffer, Feature::Cgroup2], None).contains(hint));
        assert!(!reasons(&[], None).contains(hint));
    }

    #[test]
    fn what_was_not_probed_is_no_obstacle_and_what_kept_from_probing_is() {
        let mut host = host(&[Feature::Privileges]);
        (host.ring_buffer, host.kprobe_events) = (Probe::Unprobed, Probe::Unprobed);
        let missing = |features: &Features| match plan(features, Wanted::default()) {
            Ok(_) => Vec::new(),
            Err(error) => error.obstacles.into_iter().map(|obstacle| obstacle.feature).collect(),
        };
        assert_eq!(missing(&host), [Feature::Privileges]);
        host.privileges = Probe::Present("there".to_owned());
        assert_eq!(missing(&host), []);
    }

    #[test]
    fn the_budget_is_planned_and_said() {
        for (budget, cost, said) in [
            (
                KernelBudget::default(),
                500,
                "budget: 2000 calls per second of one user, bursts of 10000",
            ),
            (KernelBudget::of_rate(0), 0, "budget: none"),
        ] {
            let wanted = Wanted {
                budget,
                ..Wanted::default()
            };
            let plan = plan(&host(&[]), wanted).unwrap();
            assert!(matches!(&plan.taps[..], [TapPlan::Modern { budget, .. }, _] if budget.cost == cost));
            assert!(
                plan.reasons.iter().any(|reason| reason.starts_with(said)),
                "{:?}",
                plan.reasons
            );
        }
        // The send tap has no budget, and promises none.
        let send = plan(&host(&[Feature::Btf]), Wanted::default()).unwrap();
        assert!(!send.reasons.iter().any(|reason| reason.starts_with("budget")));
    }

    #[test]
    fn an_obstacle_names_its_remedy() {
        let error = plan(&host(&[Feature::Privileges]), Wanted::default()).unwrap_err();
        assert!(error.to_string().contains("sudo"), "{error}");
    }
}
