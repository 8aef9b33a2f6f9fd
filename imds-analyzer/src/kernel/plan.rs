//! From what a host has to what will be done: a pure function, printed by `check`.

use imds_analyzer_ebpf::abi::{OwnerHook, Settings};

use super::features::{Feature, Features, NOT_LOOKED_AT};

/// What to load, and why it is this.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Written into the programs before load.
    pub offsets: Settings,
    /// The sender hooks to try, the best first; `Connect` stands for none.
    pub owners: Vec<OwnerHook>,
    /// In words, in the order of decision.
    pub reasons: Vec<String>,
}

/// This host cannot run the tool.
#[derive(Clone, Debug, thiserror::Error)]
#[error("this host cannot run it:\n{}", .obstacles.iter().map(|it| format!("  {it}")).collect::<Vec<_>>().join("\n"))]
pub struct Impossible {
    pub obstacles: Vec<Obstacle>,
}

/// One missing thing.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {why} ({})", .feature.name(), .feature.remedy())]
pub struct Obstacle {
    pub feature: Feature,
    pub why: String,
}

/// The sender hooks, the best first: what each needs, and how it is called.
pub(super) const SENDERS: [(OwnerHook, Feature); 3] = [
    (OwnerHook::Fentry, Feature::Fentry),
    (OwnerHook::TpBtf, Feature::TpBtf),
    (OwnerHook::Kprobe, Feature::Kprobe),
];

/// Decides. `owner` forces a hook, `None` takes the best there is.
pub fn plan(features: &Features, owner: Option<OwnerHook>) -> Result<Plan, Impossible> {
    let forced = SENDERS
        .iter()
        .find(|(hook, _)| Some(*hook) == owner)
        .map(|(_, feature)| *feature);
    let obstacles: Vec<Obstacle> = [
        Feature::Privileges,
        Feature::KernelReads,
        Feature::Cgroup2,
        Feature::Btf,
        Feature::RingBuffer,
    ]
    .into_iter()
    .chain(forced)
    .filter_map(|feature| {
        let why = features.get(feature).err()?.to_owned();
        // What could not be looked at is not in the way; what kept from looking is.
        (why != NOT_LOOKED_AT).then_some(Obstacle { feature, why })
    })
    .collect();
    let (Some(offsets), true) = (features.offsets, obstacles.is_empty()) else {
        return Err(Impossible { obstacles });
    };

    let mut reasons = vec!["wire tap: cgroup_skb egress at the root of cgroup2".to_owned()];
    let owners = match owner {
        Some(owner) => {
            reasons.push(format!("owner: {}, as asked for", owner.as_str()));
            vec![owner]
        }
        None => {
            let mut owners = Vec::new();
            for (hook, feature) in SENDERS {
                match features.get(feature) {
                    Ok(_) => {
                        let rank = if owners.is_empty() { "" } else { ", if that is refused" };
                        reasons.push(format!("owner: {}, the sender's own context{rank}", feature.name()));
                        owners.push(hook);
                    }
                    Err(why) => reasons.push(format!("owner: not {}: {why}", feature.name())),
                }
            }
            reasons.push("owner where nothing else is known: the connecting process".to_owned());
            owners.push(OwnerHook::Connect);
            owners
        }
    };
    Ok(Plan {
        offsets,
        owners,
        reasons,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed assertion is the point of a test")]

    use super::{super::features::Probe, *};

    fn host(missing: &[Feature]) -> Features {
        let probes = Feature::ALL
            .into_iter()
            .map(|feature| Probe {
                feature,
                result: if missing.contains(&feature) {
                    Err("missing".to_owned())
                } else {
                    Ok("there".to_owned())
                },
            })
            .collect();
        let offsets = (!missing.contains(&Feature::Btf)).then(Settings::default);
        Features {
            kernel: "6.18".to_owned(),
            probes,
            offsets,
            lockdown: None,
        }
    }

    #[test]
    fn what_follows_from_what_a_host_has() {
        use Feature::{Btf, Cgroup2, KernelReads, Privileges, RingBuffer};
        use OwnerHook::{Connect, Fentry, Kprobe, TpBtf};
        for (missing, owner, expected) in [
            (&[][..], None, Ok(vec![Fentry, TpBtf, Kprobe, Connect])),
            (&[], Some(Connect), Ok(vec![Connect])),
            (&[], Some(TpBtf), Ok(vec![TpBtf])),
            (&[Feature::TpBtf], None, Ok(vec![Fentry, Kprobe, Connect])),
            (
                &[Feature::Fentry, Feature::TpBtf, Feature::Kprobe],
                None,
                Ok(vec![Connect]),
            ),
            (&[Feature::TpBtf], Some(TpBtf), Err(vec![Feature::TpBtf])),
            (&[Feature::Kprobe], Some(Kprobe), Err(vec![Feature::Kprobe])),
            (&[Privileges], None, Err(vec![Privileges])),
            (&[Btf, Cgroup2], None, Err(vec![Cgroup2, Btf])),
            (&[RingBuffer], None, Err(vec![RingBuffer])),
            (&[KernelReads], None, Err(vec![KernelReads])),
        ] {
            let decided = plan(&host(missing), owner).map(|plan| plan.owners).map_err(|error| {
                error
                    .obstacles
                    .iter()
                    .map(|obstacle| obstacle.feature)
                    .collect::<Vec<_>>()
            });
            assert_eq!(decided, expected, "{missing:?} {owner:?}");
        }
    }

    #[test]
    fn an_obstacle_names_its_remedy() {
        let error = plan(&host(&[Feature::Privileges]), None).unwrap_err();
        assert!(error.to_string().contains("sudo"), "{error}");
    }
}
