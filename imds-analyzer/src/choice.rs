//! Values that flags, environment variables and configuration keys share.

use std::fmt;

use clap::ValueEnum;
use imds_analyzer_ebpf::abi::OwnerHook;
use serde::Deserialize;

use crate::{
    event::Tap,
    kernel::{
        budget::KernelBudget,
        plan::{Object, Wanted},
    },
};

/// `--format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// Colour on a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    Always,
    Never,
}

impl ColorChoice {
    /// True if a stream should be coloured.
    pub const fn enabled(self, is_terminal: bool, no_color: bool) -> bool {
        match self {
            Self::Auto => is_terminal && !no_color,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Format of the daemon's stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum StdoutFormat {
    #[default]
    None,
    Text,
    Json,
}

/// `--owner`: the hook that identifies the sender of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OwnerChoice {
    /// The best hook available.
    #[default]
    Auto,
    /// The process that connected, by the connect hooks alone.
    Connect,
    /// The sending process, by fentry.
    Fentry,
    /// The sending process, by a BTF tracepoint.
    #[value(name = "tp_btf")]
    #[serde(rename = "tp_btf")]
    TpBtf,
    /// The sending process, by a kprobe.
    Kprobe,
}

impl From<OwnerChoice> for Option<OwnerHook> {
    fn from(choice: OwnerChoice) -> Self {
        match choice {
            OwnerChoice::Auto => None,
            OwnerChoice::Connect => Some(OwnerHook::Connect),
            OwnerChoice::Fentry => Some(OwnerHook::Fentry),
            OwnerChoice::TpBtf => Some(OwnerHook::TpBtf),
            OwnerChoice::Kprobe => Some(OwnerHook::Kprobe),
        }
    }
}

/// `--object`: the eBPF object to load, and which of its taps to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectChoice {
    /// Modern where the kernel supports it, else legacy.
    #[default]
    Auto,
    /// Reads packets. Needs a ring buffer and BTF (Linux 5.8).
    Modern,
    /// Reads the sender's memory. Linux 4.14 and later.
    Legacy,
    /// Reads packets with the legacy object. Linux 5.4 and later; before 5.7 a program stays attached if this tool is
    /// killed, until its next start.
    LegacyWire,
}

impl ObjectChoice {
    /// What a plan is to be made for, with the sender hook, whether to look at answers, and the budget.
    pub fn wanted(self, owner: OwnerChoice, answers: bool, budget: KernelBudget) -> Wanted {
        let (object, tap) = match self {
            Self::Auto => (None, None),
            Self::Modern => (Some(Object::Modern), Some(Tap::Wire)),
            Self::Legacy => (Some(Object::Legacy), Some(Tap::Send)),
            Self::LegacyWire => (Some(Object::Legacy), Some(Tap::Wire)),
        };
        Wanted {
            object,
            tap,
            owner: owner.into(),
            without_answers: !answers,
            budget,
            rehearsal: None,
        }
    }
}

/// One of `--fail-on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailCondition {
    /// A v1 call to the metadata service.
    V1,
    /// A v1 call to an address of this host, such as a proxy or a mock.
    V1Local,
    /// A call to the metadata service that was rejected (401).
    Rejected,
    /// A call to the metadata service that was not answered.
    Unanswered,
    /// A call to the metadata service that could not be judged.
    Unknown,
}

/// `--even` of `rehearse`: programs that a host cannot do without. Their calls are refused only if the program is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Guard {
    /// Logins over SSH
    Sshd,
    /// The system's own manager, pid 1
    Systemd,
    /// The agent of AWS Systems Manager, and its sessions
    #[value(name = "amazon-ssm-agent")]
    SsmAgent,
    /// The set-up at boot
    CloudInit,
}

impl Guard {
    pub const ALL: [Self; 4] = [Self::Sshd, Self::Systemd, Self::SsmAgent, Self::CloudInit];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Sshd => "sshd",
            Self::Systemd => "systemd",
            Self::SsmAgent => "amazon-ssm-agent",
            Self::CloudInit => "cloud-init",
        }
    }
}

/// `--format` of `report`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people, in the width of the terminal.
    #[default]
    Text,
    /// For a ticket.
    Markdown,
    /// Everything; `imds-analyzer schema report` prints its schema.
    Json,
    /// A row for each host and caller that has to change.
    Csv,
    /// A page that needs no network.
    Html,
    /// Variables for Terraform, as JSON: accounts and instances still using IMDSv1.
    Tfvars,
    /// A shell script that requires tokens on the hosts that are ready, and undoes it.
    Commands,
}

/// `--fail-on` of `report`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportCondition {
    NotReady,
    Unproven,
}

/// The argument of `schema`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// The records, one a line.
    #[default]
    Record,
    /// The output of `report --format json`.
    Report,
}

impl fmt::Display for FailCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value()
            .map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

#[cfg(test)]
mod tests {
    use super::ColorChoice;

    #[test]
    fn color() {
        assert!(ColorChoice::Auto.enabled(true, false));
        assert!(!ColorChoice::Auto.enabled(true, true));
        assert!(!ColorChoice::Auto.enabled(false, false));
        assert!(ColorChoice::Always.enabled(false, true));
        assert!(!ColorChoice::Never.enabled(true, false));
    }
}
