//! The command line as clap parses it. [`crate::settings`] turns it into settings.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, Parser, Subcommand, builder::NonEmptyStringValueParser};

use crate::{
    choice::{
        ColorChoice, Format, Guard, ObjectChoice, OwnerChoice, ReportCondition, ReportFormat, SchemaOf, StdoutFormat,
    },
    exit_code::ExitCode,
    lab::Tokens,
    secrets::ArgsMode,
};

mod generate;
mod live;

pub use self::{
    generate::{completions, man},
    live::{FilterArgs, TapArgs, TopArgs, WatchArgs},
};

/// The daemon's configuration, unless told otherwise.
pub const CONFIG: &str = "/etc/imds-analyzer/config.toml";

const EXAMPLES: &str = "\
Examples:
  imds-analyzer watch                        Show every call to IMDS and who made it
  imds-analyzer watch --v1 --duration 10m    Show only calls without a token, for ten minutes
  imds-analyzer watch --fail-on v1 -- CMD    Run CMD and fail if it makes v1 calls
  imds-analyzer top                          Show a live table of the callers
  imds-analyzer daemon                       Run as a service
  imds-analyzer report                       Can tokens be required here? Reads the service's log
  imds-analyzer rehearse --all --for 10m     Refuse calls without a token, to see what breaks
  imds-analyzer check                        Show what this host supports
  imds-analyzer lab                          Try it without EC2";

const WATCH_EXAMPLES: &str = "\
Examples:
  imds-analyzer watch --v1 --duration 10m
      Who still calls IMDS without a token?
  imds-analyzer watch --path security-credentials --format json
      Who fetches credentials? Prints one JSON object per line
  imds-analyzer watch --duration 5m --fail-on v1,unknown --quiet
      In a pipeline: exit with 3 on a v1 call or a call that could not be judged
  imds-analyzer watch --fail-on v1 -- aws s3 ls
      Run a command and watch only that command and its children";

const TOP_EXAMPLES: &str = "\
Examples:
  imds-analyzer top
      Who calls IMDS at this moment? Press ? for the keys
  imds-analyzer top --follow /var/log/imds-analyzer/events.jsonl
      What the service has seen and sees
  imds-analyzer top --replay events.jsonl.000007.gz --speed 60
      A saved log, an hour in a minute";

const REPORT_EXAMPLES: &str = "\
Examples:
  imds-analyzer report
      Can tokens be required on this host? Reads the daemon's log
  imds-analyzer report /srv/logs --format html --output report.html
      The same for a fleet, as a page
  imds-analyzer report /srv/logs --account 123456789012 --format commands
      A script that requires tokens on the hosts of an account that are ready
  imds-analyzer report --fail-on not-ready --quiet
      In a pipeline: exit with 3 if something still makes v1 calls";

const REHEARSE_EXAMPLES: &str = "\
Examples:
  imds-analyzer rehearse --unit app --for 10m --dry-run
      Which calls of app.service would be refused? Changes nothing
  imds-analyzer rehearse --unit app --for 10m --reason 'change 4711'
      Refuse them for ten minutes, and show what breaks
  imds-analyzer rehearse --all --percent 10 --for 1m
      Refuse one in ten calls without a token, of every process but those that the host depends on";

const REHEARSE_NOTES: &str = "\
This is the only command that touches traffic. A refused call never reaches IMDS: it gets the answer that IMDS gives \
where tokens are required, 401 Unauthorized, and its connection is closed. Calls with a token, and all other traffic, \
are left alone. It undoes itself at the end of --for, on Ctrl-C, and if this process is stopped or killed.";

const DAEMON_SIGNALS: &str = "\
Signals:
  SIGHUP   reload the configuration and reopen the log file, without missing a call
  SIGTERM  write queued records and a summary, then exit";

/// Finds processes that call the EC2 instance metadata service (IMDS) without a session token (IMDSv1).
#[derive(Clone, Debug, Parser)]
#[command(version, after_help = format!("{EXAMPLES}\n\n{}", ExitCode::help()), max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show calls to IMDS live, and a summary at the end
    #[command(after_help = format!("{WATCH_EXAMPLES}\n\n{}", ExitCode::help()))]
    Watch(WatchArgs),
    /// Show a live table of the callers of IMDS, on a terminal
    #[command(after_help = format!("{TOP_EXAMPLES}\n\n{}", ExitCode::help()))]
    Top(TopArgs),
    /// Run as a service that writes to a log file, the journal and Prometheus
    #[command(after_help = format!("{DAEMON_SIGNALS}\n\n{}", ExitCode::help()))]
    Daemon(DaemonArgs),
    /// Show what this host supports, what would be used, and how to get what is missing
    #[command(after_help = ExitCode::help())]
    Check(CheckArgs),
    /// Try the tool without EC2: run sample clients against a built-in IMDS in a private network namespace
    #[command(after_help = ExitCode::help())]
    Lab(LabArgs),
    /// Read logs and say whether tokens can be required, on which hosts, and if not, who has to change what
    #[command(after_help = format!("{REPORT_EXAMPLES}\n\n{}", ExitCode::help()))]
    Report(ReportArgs),
    /// Refuse callers' calls without a token for a while, as if tokens were required
    #[command(after_help = format!("{REHEARSE_NOTES}\n\n{REHEARSE_EXAMPLES}\n\n{}", ExitCode::help()))]
    #[command(override_usage = "imds-analyzer rehearse <WHOSE CALLS>... --for <TIME> [OPTIONS]")]
    #[command(group = clap::ArgGroup::new("selectors").required(true).multiple(true)
        .args(["unit", "container", "uid", "comm", "caller", "all"]))]
    Rehearse(RehearseArgs),
    /// Explain a remedy, cause, risk or verdict, and what to change
    #[command(after_help = ExitCode::help())]
    Explain(ExplainArgs),
    /// Print the daemon's default configuration, or check a configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the JSON Schema of the records, or of the report
    Schema(SchemaArgs),
    /// Print a shell completion script
    Completions(CompletionsArgs),
    /// Print the manual page, or write all manual pages to a directory
    Man(ManArgs),
}

/// Flags override environment variables, which override the configuration file.
#[derive(Args, Clone, Debug)]
pub struct DaemonArgs {
    /// Configuration file [default: /etc/imds-analyzer/config.toml]
    #[arg(long, value_name = "FILE", env = "IMDS_ANALYZER_CONFIG")]
    pub config: Option<PathBuf>,

    /// Write a log file
    #[arg(
        long,
        value_name = "BOOL",
        env = "IMDS_ANALYZER_LOG",
        help_heading = "Where records go"
    )]
    pub log: Option<bool>,

    /// Path of the log file
    #[arg(
        long,
        value_name = "FILE",
        env = "IMDS_ANALYZER_LOG_FILE",
        help_heading = "Where records go"
    )]
    pub log_file: Option<PathBuf>,

    /// Write to the journal
    #[arg(
        long,
        value_name = "BOOL",
        env = "IMDS_ANALYZER_JOURNALD",
        help_heading = "Where records go"
    )]
    pub journald: Option<bool>,

    /// Write records to stdout
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        env = "IMDS_ANALYZER_STDOUT",
        help_heading = "Where records go"
    )]
    pub stdout: Option<StdoutFormat>,

    /// Serve Prometheus metrics on this address, such as 127.0.0.1:9254
    #[arg(
        long,
        value_name = "ADDRESS",
        value_parser = parse_address,
        env = "IMDS_ANALYZER_METRICS_LISTEN",
        help_heading = "Where records go"
    )]
    pub metrics_listen: Option<SocketAddr>,

    /// Write metrics to a file for node_exporter's textfile collector
    #[arg(
        long,
        value_name = "FILE",
        env = "IMDS_ANALYZER_METRICS_TEXTFILE",
        help_heading = "Where records go"
    )]
    pub metrics_textfile: Option<PathBuf>,

    /// eBPF object to load; auto picks modern where the kernel supports it
    #[arg(
        long,
        value_enum,
        value_name = "OBJECT",
        env = "IMDS_ANALYZER_OBJECT",
        help_heading = "How it works"
    )]
    pub object: Option<ObjectChoice>,

    /// Hook that identifies the sender; auto picks the best available
    #[arg(
        long,
        value_enum,
        value_name = "HOOK",
        env = "IMDS_ANALYZER_OWNER",
        help_heading = "How it works"
    )]
    pub owner: Option<OwnerChoice>,

    /// How much of a command line to show; tokens are always masked
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        env = "IMDS_ANALYZER_ARGS",
        help_heading = "How it works"
    )]
    pub args: Option<ArgsMode>,

    /// Log progress to stderr
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the default configuration, with a comment on each key
    Print,
    /// Check a configuration file
    #[command(after_help = ExitCode::help())]
    Check {
        /// Configuration file
        #[arg(default_value = CONFIG)]
        file: PathBuf,
    },
}

#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// Hook that identifies the sender, as for watch
    #[arg(long, value_enum, default_value_t, value_name = "HOOK")]
    pub owner: OwnerChoice,

    /// eBPF object to load, as for watch
    #[arg(long, value_enum, default_value_t, value_name = "OBJECT")]
    pub object: ObjectChoice,
}

#[derive(Args, Clone, Debug)]
pub struct LabArgs {
    /// Keep the lab running until interrupted, to send calls by hand
    #[arg(long)]
    pub keep: bool,

    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// When to use colour; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,

    /// Whether the lab's IMDS requires tokens, like the HttpTokens option of an instance
    #[arg(long, value_enum, default_value_t)]
    pub tokens: Tokens,

    /// Give the lab's IMDS an address of the clients' own host, like a proxy or a mock, instead of a place beyond a link
    #[arg(long)]
    pub local: bool,

    /// Show everything known about each call
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Args, Clone, Debug)]
pub struct ReportArgs {
    /// Logs, directories of logs, or - for standard input [default: the configured log's directory]
    ///
    /// Rotated and compressed files (gzip, zstd), and the lines of log collectors with a record inside, are read too.
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,

    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: ReportFormat,

    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// When to use colour; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,

    /// Print nothing; the exit code tells
    #[arg(short, long, conflicts_with_all = ["output", "format"])]
    pub quiet: bool,

    /// Only records from this time on: 2026-11-01, 2026-11-01T12:00:00Z, or 7d for seven days ago
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Which records")]
    pub since: Option<SystemTime>,

    /// Only records before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Which records")]
    pub until: Option<SystemTime>,

    /// Only these hosts: names, or ids of instances
    #[arg(long, value_name = "HOST", value_parser = NonEmptyStringValueParser::new(), help_heading = "Which records")]
    pub host: Vec<String>,

    /// Only these accounts
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new(), help_heading = "Which records")]
    pub account: Vec<String>,

    /// Only callers that contain this text
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new(), help_heading = "Which records")]
    pub caller: Vec<String>,

    /// Only callers of these systemd units
    #[arg(long, value_name = "UNIT", value_parser = NonEmptyStringValueParser::new(), help_heading = "Which records")]
    pub unit: Vec<String>,

    /// How long a host must have been watched to be ready
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "7d", help_heading = "Verdict")]
    pub window: Duration,

    /// Compare with what CloudWatch counted: the output of aws cloudwatch get-metric-data, see the runbook
    #[arg(long, value_name = "FILE", help_heading = "Verdict")]
    pub cloudwatch: Vec<PathBuf>,

    /// Exit with 3 on this verdict; unproven includes not-ready
    #[arg(long, value_enum, value_name = "VERDICT", help_heading = "Verdict")]
    pub fail_on: Option<ReportCondition>,

    /// Print the rules of the verdict, and read nothing
    #[arg(long, help_heading = "Verdict", exclusive = true)]
    pub rules: bool,
}

#[derive(Args, Clone, Debug)]
pub struct RehearseArgs {
    /// Refuse calls of these systemd units
    #[arg(long, value_name = "UNIT", value_parser = NonEmptyStringValueParser::new(), help_heading = "Whose calls")]
    pub unit: Vec<String>,

    /// Refuse calls of these containers: names, or at least twelve digits of their ids
    #[arg(long, value_name = "CONTAINER", value_parser = NonEmptyStringValueParser::new(), help_heading = "Whose calls")]
    pub container: Vec<String>,

    /// Refuse calls of these user ids
    #[arg(long, value_delimiter = ',', help_heading = "Whose calls")]
    pub uid: Vec<u32>,

    /// Refuse calls of processes with this name, as in ps -o comm
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), help_heading = "Whose calls")]
    pub comm: Vec<String>,

    /// Refuse calls of this caller, as in imds.caller; the first call of a new process may pass
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new(), help_heading = "Whose calls")]
    pub caller: Vec<String>,

    /// Refuse calls of every process
    #[arg(long, help_heading = "Whose calls")]
    pub all: bool,

    /// Refuse calls even of this program, which is left alone otherwise
    #[arg(
        long,
        value_enum,
        value_name = "PROGRAM",
        value_delimiter = ',',
        help_heading = "Whose calls"
    )]
    pub even: Vec<Guard>,

    /// End after this time, such as 90s or 10m
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration, help_heading = "How much")]
    pub duration: Duration,

    /// Refuse only this many of a hundred calls, at random
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "How much")]
    pub percent: u32,

    /// Refuse nothing: show which calls would be refused
    #[arg(long, help_heading = "How much")]
    pub dry_run: bool,

    /// Why you do this, for the system log
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub reason: Option<String>,

    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// When to use colour; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,

    /// Show everything known about each call
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Args, Clone, Debug)]
pub struct SchemaArgs {
    /// The output whose schema is printed
    #[arg(value_enum, default_value_t)]
    pub of: SchemaOf,
}

#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// Id of a remedy, a word of imds.cause, imds.risk or imds.verdict, or the path of a program, whose package is looked
    /// up; without it, all words are listed
    pub word: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Write the pages of all commands to this directory
    pub dir: Option<PathBuf>,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("must be more than 0".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it like 90s, 10m or 1h")),
    }
}

fn parse_time(text: &str) -> Result<SystemTime, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return SystemTime::now()
            .checked_sub(ago)
            .ok_or_else(|| "is too long ago".to_owned());
    }
    let midnight = format!("{text} 00:00:00");
    humantime::parse_rfc3339_weak(text)
        .or_else(|_error| humantime::parse_rfc3339_weak(&midnight))
        .map_err(|_error| "write it like 2026-11-01, 2026-11-01T12:00:00Z or 7d".to_owned())
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_error| "must be an address and a port, like 127.0.0.1:9254".to_owned())
}

#[cfg(test)]
mod tests;
