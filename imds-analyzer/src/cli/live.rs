//! The commands that show calls live.

use std::{ffi::OsString, num::NonZeroU64, path::PathBuf, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser};

use super::parse_duration;
use crate::{
    choice::{ColorChoice, FailCondition, Format, ObjectChoice, OwnerChoice},
    kernel::budget::KernelBudget,
    secrets::ArgsMode,
};

#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// When to use colour; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,

    /// Show everything known about each call
    #[arg(short, long)]
    pub verbose: bool,

    /// Show only the summary
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    #[command(flatten)]
    pub filter: FilterArgs,

    /// Stop after this time, such as 90s or 10m
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "When to stop")]
    pub duration: Option<Duration>,

    /// Stop after this many calls
    #[arg(long, value_name = "N", value_parser = parse_count, help_heading = "When to stop")]
    pub count: Option<NonZeroU64>,

    /// Exit with 3 if such a call was seen
    ///
    /// Only calls that pass the filters count.
    #[arg(
        long,
        value_enum,
        value_name = "KIND",
        value_delimiter = ',',
        help_heading = "When to stop"
    )]
    pub fail_on: Vec<FailCondition>,

    #[command(flatten)]
    pub tap: TapArgs,

    /// Run this command, watch only it and its children, and stop when it exits
    #[arg(last = true)]
    pub command: Vec<OsString>,
}

#[derive(Args, Clone, Debug)]
pub struct TopArgs {
    /// When to use colour; auto: unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,

    /// Read the service's log and go on as it grows, instead of watching
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["replay", "FilterArgs", "TapArgs"],
        help_heading = "Logs"
    )]
    pub follow: Option<PathBuf>,

    /// Read a saved log, which may be compressed (gzip, zstd), as fast as its calls were made
    #[arg(long, value_name = "FILE", conflicts_with_all = ["FilterArgs", "TapArgs"], help_heading = "Logs")]
    pub replay: Option<PathBuf>,

    /// Replay N times as fast; 0: without waiting
    #[arg(
        long,
        value_name = "N",
        requires = "replay",
        value_parser = parse_speed,
        default_value_t = 1,
        help_heading = "Logs"
    )]
    pub speed: u32,

    #[command(flatten)]
    pub filter: FilterArgs,

    #[command(flatten)]
    pub tap: TapArgs,
}

/// Which calls a live command shows.
#[derive(Args, Clone, Debug, Default)]
pub struct FilterArgs {
    /// Show only v1 calls
    #[arg(long, help_heading = "Which calls")]
    pub v1: bool,

    /// Show only calls by these process ids
    #[arg(long, value_delimiter = ',', help_heading = "Which calls")]
    pub pid: Vec<u32>,

    /// Show only calls by processes with this name, as in ps -o comm
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), help_heading = "Which calls")]
    pub comm: Vec<String>,

    /// Show only calls by these user ids
    #[arg(long, value_delimiter = ',', help_heading = "Which calls")]
    pub uid: Vec<u32>,

    /// Show only calls whose path contains this text, such as security-credentials
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new(), help_heading = "Which calls")]
    pub path: Vec<String>,
}

/// How a live command sees calls.
#[derive(Args, Clone, Debug)]
pub struct TapArgs {
    /// Hook that identifies the sender; auto picks the best available
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "HOOK",
        help_heading = "How it works"
    )]
    pub owner: OwnerChoice,

    /// eBPF object to load; auto picks modern where the kernel supports it
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "OBJECT",
        help_heading = "How it works"
    )]
    pub object: ObjectChoice,

    /// How much of a command line to show; tokens are always masked
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "MODE",
        help_heading = "How it works"
    )]
    pub args: ArgsMode,

    /// Look up users missing from /etc/passwd in the name service, which may use the network
    #[arg(long, help_heading = "How it works")]
    pub name_service: bool,

    /// Show at most N calls per second of one user, in bursts of 5 N; the rest is only counted. 0: no limit
    #[arg(long, value_name = "N", default_value_t = KernelBudget::default().rate, help_heading = "How it works")]
    pub kernel_rate: u32,

    /// Do not look at answers: no status, and no record of connections without a call
    #[arg(long, help_heading = "How it works")]
    pub no_answers: bool,
}

fn parse_count(text: &str) -> Result<NonZeroU64, String> {
    text.parse()
        .map_err(|_error| "must be a whole number above 0".to_owned())
}

fn parse_speed(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_error| "must be a whole number".to_owned())
}
