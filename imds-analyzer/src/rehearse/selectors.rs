//! Whose calls are refused, and whose never are. Pure.

use std::fmt;

use imds_analyzer_ebpf::abi::{
    COMM_LEN,
    rehearsal::{Choice, choice},
};

use crate::{
    choice::Guard,
    event::{Container, Process},
};

/// The callers that were named: each selector adds to them.
#[derive(Clone, Debug, Default)]
pub struct Selectors {
    pub units: Vec<String>,
    pub containers: Vec<String>,
    pub uids: Vec<u32>,
    pub comms: Vec<String>,
    pub callers: Vec<String>,
    pub all: bool,
    /// The guards that are lifted.
    pub even: Vec<Guard>,
}

/// What a guard stands for.
trait Guarding {
    fn comms(self) -> &'static [&'static str];
    fn keys(self) -> Vec<Choice>;
    fn guards(self, process: &Process) -> bool;
    fn guards_name(self, comm: &str) -> bool;
}

impl Guarding for Guard {
    /// The names of its processes, which the kernel cuts to 15 bytes. Pid 1 may have any name.
    fn comms(self) -> &'static [&'static str] {
        match self {
            Self::Sshd => &["sshd", "sshd-session", "sshd-auth"],
            Self::Systemd => &[],
            Self::SsmAgent => &[
                "amazon-ssm-agent",
                "ssm-agent-worker",
                "ssm-document-worker",
                "ssm-session-worker",
            ],
            Self::CloudInit => &["cloud-init"],
        }
    }

    fn keys(self) -> Vec<Choice> {
        let mut keys: Vec<_> = self.comms().iter().map(|comm| name(comm)).collect();
        if self == Self::Systemd {
            keys.push(Choice::process(1, 0));
        }
        keys
    }

    fn guards(self, process: &Process) -> bool {
        self.guards_name(&process.name) || self == Self::Systemd && process.pid == 1
    }

    fn guards_name(self, comm: &str) -> bool {
        self.comms().iter().any(|guarded| is_comm(guarded, comm))
    }
}

/// A process that is chosen by name, although a guard stands for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{comm}: this host may depend on {guard}: add --even {guard} to refuse its calls all the same", guard = .guard.name())]
pub struct Guarded {
    comm: String,
    guard: Guard,
}

impl Selectors {
    /// # Errors
    ///
    /// If a guarded process is named.
    pub fn check(&self) -> Result<(), Guarded> {
        for comm in &self.comms {
            if let Some(guard) = self.guards().find(|guard| guard.guards_name(comm)) {
                return Err(Guarded {
                    comm: comm.clone(),
                    guard,
                });
            }
        }
        Ok(())
    }

    fn guards(&self) -> impl Iterator<Item = Guard> {
        Guard::ALL.into_iter().filter(|guard| !self.even.contains(guard))
    }

    /// Names of the programs that are never refused.
    pub fn spared(&self) -> String {
        let names: Vec<_> = self.guards().map(Guard::name).collect();
        if names.is_empty() {
            "nobody".to_owned()
        } else {
            names.join(", ")
        }
    }

    /// The keys that are known from the beginning, with their values.
    pub(super) fn keys(&self) -> Vec<(Choice, u64)> {
        let users = self.uids.iter().map(|uid| (Choice::user(*uid), choice::CHOSEN));
        let names = self.comms.iter().map(|comm| (name(comm), choice::CHOSEN));
        let spared = self.guards().flat_map(Guarding::keys).map(|key| (key, choice::SPARED));
        // A spared name replaces a chosen one.
        users.chain(names).chain(spared).collect()
    }

    /// True if a unit, a container or a caller that was named is this process's: the kernel side knows it only by its id.
    pub(super) fn names(&self, process: &Process) -> bool {
        self.callers.contains(&process.caller) || self.is_placed(process)
    }

    fn is_placed(&self, process: &Process) -> bool {
        let units = [&process.unit, &process.system_unit, &process.user_unit];
        let containers = [&process.container, &process.user_container];
        units.into_iter().flatten().any(|unit| self.has_unit(unit))
            || containers
                .into_iter()
                .flatten()
                .any(|container| self.has_container(container))
    }

    pub(super) fn has_unit(&self, unit: &str) -> bool {
        self.units.iter().any(|wanted| unit_name(wanted) == unit)
    }

    pub(super) fn has_container(&self, container: &Container) -> bool {
        self.containers.iter().any(|wanted| {
            container.name.as_ref() == Some(wanted)
                || wanted.len() >= ID_MIN && container.id.starts_with(wanted.as_str())
        })
    }

    /// True if units or containers were named, whose cgroups may come and go.
    pub(super) fn have_places(&self) -> bool {
        !self.units.is_empty() || !self.containers.is_empty()
    }

    /// True if the process's calls are refused.
    pub(super) fn choose(&self, process: &Process) -> bool {
        let is_named = self.all
            || self.names(process)
            || self.comms.iter().any(|comm| is_comm(comm, &process.name))
            || process.user.id.is_some_and(|uid| self.uids.contains(&uid));
        is_named && !self.guards().any(|guard| guard.guards(process))
    }
}

/// Shortest part of a container's id that names it: `docker ps` shows twelve digits.
const ID_MIN: usize = 12;

/// As systemctl reads it: a service, unless it says otherwise.
fn unit_name(typed: &str) -> String {
    if typed.contains('.') {
        typed.to_owned()
    } else {
        format!("{typed}.service")
    }
}

/// The key of a name, as much of it as the kernel keeps.
fn name(comm: &str) -> Choice {
    let mut bytes = [0; COMM_LEN];
    for (to, byte) in bytes.iter_mut().zip(comm.bytes().take(COMM_LEN - 1)) {
        *to = byte;
    }
    Choice::name(&bytes)
}

fn is_comm(typed: &str, comm: &str) -> bool {
    let kept = |name: &str| name.as_bytes().iter().copied().take(COMM_LEN - 1).collect::<Vec<_>>();
    kept(typed) == kept(comm)
}

/// `unit app, uid 1000`.
impl fmt::Display for Selectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |kind: &str, values: &[String]| values.iter().map(|it| format!("{kind} {it}")).collect::<Vec<_>>();
        let uids: Vec<_> = self.uids.iter().map(ToString::to_string).collect();
        let mut parts = Vec::new();
        if self.all {
            parts.push("every process".to_owned());
        }
        parts.extend(of("unit", &self.units));
        parts.extend(of("container", &self.containers));
        parts.extend(of("uid", &uids));
        parts.extend(of("process name", &self.comms));
        parts.extend(of("caller", &self.callers));
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::User;

    fn process(name: &str) -> Process {
        Process {
            pid: 100,
            name: name.to_owned(),
            caller: format!("/usr/bin/{name} app.service"),
            unit: Some("app.service".to_owned()),
            container: Some(Container {
                id: "0123456789abcdef".to_owned(),
                name: Some("web".to_owned()),
                ..Container::default()
            }),
            user: User {
                id: Some(1000),
                name: None,
            },
            ..Process::default()
        }
    }

    #[test]
    fn each_selector_adds_callers() {
        let one = |act: fn(&mut Selectors)| {
            let mut selectors = Selectors::default();
            act(&mut selectors);
            selectors.choose(&process("python3"))
        };
        assert!(!one(|_| {}));
        assert!(one(|it| it.all = true));
        assert!(one(|it| it.units = vec!["app".to_owned()]));
        assert!(one(|it| it.units = vec!["app.service".to_owned()]));
        assert!(!one(|it| it.units = vec!["app.scope".to_owned()]));
        assert!(one(|it| it.containers = vec!["web".to_owned()]));
        assert!(one(|it| it.containers = vec!["0123456789ab".to_owned()]));
        assert!(!one(|it| it.containers = vec!["0123".to_owned()]));
        assert!(one(|it| it.uids = vec![0, 1000]));
        assert!(one(|it| it.comms = vec!["python3".to_owned()]));
        assert!(one(|it| it.callers = vec!["/usr/bin/python3 app.service".to_owned()]));
        assert!(!one(|it| it.callers = vec!["/usr/bin/python3".to_owned()]));
    }

    #[test]
    fn what_the_host_depends_on_is_spared_unless_it_is_named() {
        let mut selectors = Selectors {
            all: true,
            ..Selectors::default()
        };
        for name in ["sshd", "amazon-ssm-agen", "ssm-session-wor", "cloud-init"] {
            assert!(!selectors.choose(&process(name)), "{name}");
        }
        let first = Process {
            pid: 1,
            ..process("init")
        };
        assert!(!selectors.choose(&first));
        selectors.even = Guard::ALL.to_vec();
        assert!(selectors.choose(&process("sshd")) && selectors.choose(&first));
        assert!(selectors.keys().is_empty());
    }

    #[test]
    fn a_guarded_name_is_a_mistake() {
        let mut selectors = Selectors {
            comms: vec!["curl".to_owned(), "ssm-document-worker".to_owned()],
            ..Selectors::default()
        };
        let error = selectors.check().expect_err("guarded").to_string();
        assert!(error.contains("--even amazon-ssm-agent"), "{error}");
        selectors.even = vec![Guard::SsmAgent];
        assert_eq!(selectors.check(), Ok(()));
    }

    #[test]
    fn they_are_told_in_words() {
        let selectors = Selectors {
            units: vec!["app".to_owned()],
            uids: vec![7],
            even: vec![Guard::Sshd, Guard::Systemd, Guard::CloudInit],
            ..Selectors::default()
        };
        assert_eq!(selectors.to_string(), "unit app, uid 7");
        assert_eq!(selectors.spared(), "amazon-ssm-agent");
    }
}
