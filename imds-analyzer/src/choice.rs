//! The words that can be typed or configured where there is a choice: flags, variables and keys share them.

use std::fmt;

use clap::ValueEnum;
use imds_analyzer_ebpf::abi::OwnerHook;
use serde::Deserialize;

use crate::kernel::plan::Object;

/// `--format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    Always,
    Never,
}

impl ColorChoice {
    /// Whether to colour a stream.
    pub const fn enabled(self, is_terminal: bool, no_color: bool) -> bool {
        match self {
            Self::Auto => is_terminal && !no_color,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// What the daemon writes to stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum StdoutFormat {
    #[default]
    None,
    Text,
    Json,
}

/// `--owner`: which hook is to say who sent a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OwnerChoice {
    /// The best one this kernel has.
    #[default]
    Auto,
    /// The process that connected.
    Connect,
    /// The process that sent, by fentry.
    Fentry,
    /// The process that sent, by a BTF tracepoint.
    #[value(name = "tp_btf")]
    #[serde(rename = "tp_btf")]
    TpBtf,
    /// The process that sent, by a kprobe.
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

/// `--object`: which eBPF object is to be loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ObjectChoice {
    /// The modern one, or the legacy one where that cannot be had.
    #[default]
    Auto,
    /// For kernels with a ring buffer and BTF: reads what leaves.
    Modern,
    /// For any kernel since 4.14: reads what is sent from the sender's memory.
    Legacy,
    /// For kernels since 5.4: the legacy one reads what leaves. Before 5.7 a part of it stays if this tool is killed.
    LegacyWire,
}

impl From<ObjectChoice> for Option<Object> {
    fn from(choice: ObjectChoice) -> Self {
        match choice {
            ObjectChoice::Auto => None,
            ObjectChoice::Modern => Some(Object::Modern),
            ObjectChoice::Legacy => Some(Object::Legacy),
            ObjectChoice::LegacyWire => Some(Object::LegacyWire),
        }
    }
}

/// One of `--fail-on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailCondition {
    /// A v1 call to the metadata service.
    V1,
    /// A v1 call to an address of this host (a proxy or a mock).
    V1Local,
    /// A call to the metadata service that could not be judged.
    Unknown,
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
