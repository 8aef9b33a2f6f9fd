//! What can be typed. [`crate::settings`] says what it means.

use std::{ffi::OsString, net::SocketAddr, num::NonZeroU64, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, builder::NonEmptyStringValueParser};

use crate::{
    choice::{ColorChoice, FailCondition, Format, ObjectChoice, OwnerChoice, StdoutFormat},
    exit_code::ExitCode,
    kernel::budget::KernelBudget,
    lab::Tokens,
    secrets::ArgsMode,
};

mod generate;

pub use self::generate::{completions, man};

/// The daemon's configuration, unless told otherwise.
pub const CONFIG: &str = "/etc/imds-analyzer/config.toml";

const EXAMPLES: &str = "\
Examples:
  imds-analyzer watch                        Show every call to IMDS and who made it
  imds-analyzer watch --v1 --duration 10m    Only calls without a token, for ten minutes
  imds-analyzer watch --fail-on v1 -- CMD    Fail if CMD still makes v1 calls
  imds-analyzer daemon                       Do so as a service
  imds-analyzer check                        Say what this host supports
  imds-analyzer lab                          Try it without EC2";

const WATCH_EXAMPLES: &str = "\
Examples:
  imds-analyzer watch --v1 --duration 10m
      Who still calls IMDS without a token?
  imds-analyzer watch --path security-credentials --format json
      Who fetches credentials? One JSON object a line, for jq or a log
  imds-analyzer watch --duration 5m --fail-on v1,unknown --quiet
      In a pipeline: exit code 3 if a v1 call, or one that could not be judged, was made
  imds-analyzer watch --fail-on v1 -- aws s3 ls
      Run a command and watch only what it and its children send";

const DAEMON_SIGNALS: &str = "\
Signals:
  SIGHUP   read the configuration again and open the log file anew; nothing is missed
  SIGTERM  write what is there and end";

/// Finds the processes that still talk to the EC2 Instance Metadata Service without a session token (IMDSv1).
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = format!("{EXAMPLES}\n\n{}", ExitCode::help()), max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show the calls to IMDS as they are made, and a summary at the end
    #[command(after_help = format!("{WATCH_EXAMPLES}\n\n{}", ExitCode::help()))]
    Watch(WatchArgs),
    /// Run as a service: to a log file, the journal and Prometheus, as the configuration says
    #[command(after_help = format!("{DAEMON_SIGNALS}\n\n{}", ExitCode::help()))]
    Daemon(DaemonArgs),
    /// Say what this host supports, what would be used and why, and what to do about what is missing
    #[command(after_help = ExitCode::help())]
    Check(CheckArgs),
    /// Run the whole tool against an IMDS of its own in a private network namespace
    #[command(after_help = ExitCode::help())]
    Lab(LabArgs),
    /// Print or check the configuration of the daemon
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the JSON Schema of the records
    Schema,
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write all of them to a directory
    Man(ManArgs),
}

#[derive(Args, Clone, Debug)]
pub struct WatchArgs {
    /// How to write the calls: text for people, JSON for programs
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// When to use colour; auto means on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,

    /// Show all that is known of each call
    #[arg(short, long)]
    pub verbose: bool,

    /// Write no calls, only the summary
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Only v1 calls
    #[arg(long, help_heading = "Which calls")]
    pub v1: bool,

    /// Only calls of these processes
    #[arg(long, value_delimiter = ',', help_heading = "Which calls")]
    pub pid: Vec<u32>,

    /// Only calls of processes of this name, as ps -o comm shows it
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), help_heading = "Which calls")]
    pub comm: Vec<String>,

    /// Only calls of these users
    #[arg(long, value_delimiter = ',', help_heading = "Which calls")]
    pub uid: Vec<u32>,

    /// Only calls whose path contains this text, such as security-credentials
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new(), help_heading = "Which calls")]
    pub path: Vec<String>,

    /// Stop after this time, such as 90s or 10m
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "When to stop")]
    pub duration: Option<Duration>,

    /// Stop after this many calls
    #[arg(long, value_name = "N", help_heading = "When to stop")]
    pub count: Option<NonZeroU64>,

    /// End with exit code 3 if such a call was seen
    ///
    /// Filters apply first. v1 and unknown mean calls to the metadata service itself; a v1 call to an address of this
    /// host (a proxy or a mock) is v1-local.
    #[arg(
        long,
        value_enum,
        value_name = "KIND",
        value_delimiter = ',',
        help_heading = "When to stop"
    )]
    pub fail_on: Vec<FailCondition>,

    /// What says who sent a call: auto takes the best this kernel has
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "HOOK",
        help_heading = "How it works"
    )]
    pub owner: OwnerChoice,

    /// Which eBPF object is loaded: modern reads packets; legacy, for old kernels, reads what is sent from memory, or
    /// packets as legacy-wire
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "OBJECT",
        help_heading = "How it works"
    )]
    pub object: ObjectChoice,

    /// How much of command lines to show; tokens are masked always, redacted masks passwords and keys too
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "MODE",
        help_heading = "How it works"
    )]
    pub args: ArgsMode,

    /// Ask the name service for users that /etc/passwd does not have: it may ask the network
    #[arg(long, help_heading = "How it works")]
    pub name_service: bool,

    /// Calls a second of one user that are shown, five times as many at once; what is more is counted, and the
    /// summary says how many. 0 is no limit
    #[arg(long, value_name = "N", default_value_t = KernelBudget::default().rate, help_heading = "How it works")]
    pub kernel_rate: u32,

    /// Run this command, watch only it and its children, and stop when it ends
    #[arg(last = true)]
    pub command: Vec<OsString>,
}

/// Flags come before the environment, and both before the file.
#[derive(Args, Clone, Debug)]
pub struct DaemonArgs {
    /// The configuration [default: /etc/imds-analyzer/config.toml]
    #[arg(long, value_name = "FILE", env = "IMDS_ANALYZER_CONFIG")]
    pub config: Option<PathBuf>,

    /// Whether to write a log file
    #[arg(
        long,
        value_name = "BOOL",
        env = "IMDS_ANALYZER_LOG",
        help_heading = "Where records go"
    )]
    pub log: Option<bool>,

    /// The log file
    #[arg(
        long,
        value_name = "FILE",
        env = "IMDS_ANALYZER_LOG_FILE",
        help_heading = "Where records go"
    )]
    pub log_file: Option<PathBuf>,

    /// Whether to write to the journal
    #[arg(
        long,
        value_name = "BOOL",
        env = "IMDS_ANALYZER_JOURNALD",
        help_heading = "Where records go"
    )]
    pub journald: Option<bool>,

    /// What to write to stdout
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        env = "IMDS_ANALYZER_STDOUT",
        help_heading = "Where records go"
    )]
    pub stdout: Option<StdoutFormat>,

    /// Serve metrics to Prometheus here, such as 127.0.0.1:9254
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "IMDS_ANALYZER_METRICS_LISTEN",
        help_heading = "Where records go"
    )]
    pub metrics_listen: Option<SocketAddr>,

    /// Write metrics for node_exporter's textfile collector
    #[arg(
        long,
        value_name = "FILE",
        env = "IMDS_ANALYZER_METRICS_TEXTFILE",
        help_heading = "Where records go"
    )]
    pub metrics_textfile: Option<PathBuf>,

    /// What says who sent a call: auto takes the best this kernel has
    #[arg(
        long,
        value_enum,
        value_name = "HOOK",
        env = "IMDS_ANALYZER_OWNER",
        help_heading = "How it works"
    )]
    pub owner: Option<OwnerChoice>,

    /// How much of command lines to show; tokens are masked always, redacted masks passwords and keys too
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        env = "IMDS_ANALYZER_ARGS",
        help_heading = "How it works"
    )]
    pub args: Option<ArgsMode>,

    /// Say on stderr what is done
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the default configuration, with a word on each key
    Print,
    /// Say whether a configuration is right
    #[command(after_help = ExitCode::help())]
    Check {
        /// The file
        #[arg(default_value = CONFIG)]
        file: PathBuf,
    },
}

#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// How to write the findings
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// What is to say who sent a call, as for watch
    #[arg(long, value_enum, default_value_t, value_name = "HOOK")]
    pub owner: OwnerChoice,

    /// Which eBPF object is to be loaded, as for watch
    #[arg(long, value_enum, default_value_t, value_name = "OBJECT")]
    pub object: ObjectChoice,
}

#[derive(Args, Clone, Debug)]
pub struct LabArgs {
    /// Leave the lab running until interrupted, to send calls by hand
    #[arg(long)]
    pub keep: bool,

    /// How to write the calls: text for people, JSON for programs
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// When to use colour; auto means on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,

    /// Whether the lab's IMDS answers v1 calls (optional) or refuses them (required)
    #[arg(long, value_enum, default_value_t)]
    pub tokens: Tokens,

    /// Show all that is known of each call
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Write the pages of all commands here
    pub dir: Option<PathBuf>,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be more than 0".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it like 90s, 10m or 1h")),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn error(args: &str) -> clap::Error {
        let args = std::iter::once("imds-analyzer").chain(args.split_whitespace());
        Cli::try_parse_from(args).expect_err("wrong usage")
    }

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_errors_name_the_flag() {
        for (args, kind, flag) in [
            ("watch --duration 10", ErrorKind::ValueValidation, "--duration"),
            ("watch --duration 0s", ErrorKind::ValueValidation, "--duration"),
            ("watch --count 0", ErrorKind::ValueValidation, "--count"),
            ("watch --fail-on v2", ErrorKind::InvalidValue, "--fail-on"),
            ("watch --path=", ErrorKind::InvalidValue, "--path"),
            ("watch -q -v", ErrorKind::ArgumentConflict, "--quiet"),
            ("watch --owner ebpf", ErrorKind::InvalidValue, "--owner"),
            ("watch ls", ErrorKind::UnknownArgument, "ls"),
            (
                "daemon --metrics-listen 9254",
                ErrorKind::ValueValidation,
                "--metrics-listen",
            ),
            ("daemon --log maybe", ErrorKind::InvalidValue, "--log"),
        ] {
            let error = error(args);
            assert_eq!(error.kind(), kind, "{args}");
            assert!(error.to_string().contains(flag), "{error}");
            assert_eq!(error.exit_code(), ExitCode::Usage as i32, "{args}");
        }
    }

    #[test]
    fn help_fits_a_terminal() {
        let mut command = Cli::command();
        command.build();
        for command in std::iter::once(&command).chain(command.get_subcommands()) {
            let help = command.clone().term_width(100).render_help().to_string();
            assert!(help.lines().all(|line| line.len() <= 100), "{help}");
        }
    }
}
