//! The daemon's configuration, `/etc/imds-analyzer/config.toml`, typed and checked.
//!
//! The binary contains the file `packaging/config.toml`, which `config print` prints and which equals
//! [`Config::default`]. Flags override environment variables, which override the file.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    choice::{ObjectChoice, OwnerChoice, StdoutFormat},
    cli::{self, DaemonArgs},
    host::file,
    identity::{Facts, Identity},
    kernel::budget::KernelBudget,
    secrets::ArgsMode,
};

mod error;
mod path;
mod pattern;
mod places;
#[cfg(test)]
mod tests;
mod units;

pub(crate) use self::error::explain;
pub use self::{error::ConfigError, pattern::Pattern};

/// The default configuration, with a comment on each key.
pub const DEFAULT: &str = include_str!("../../packaging/config.toml");

/// The daemon's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub object: ObjectChoice,
    pub owner: OwnerChoice,
    pub answers: bool,
    pub args: ArgsMode,
    pub name_service: bool,
    pub runtime_dir: PathBuf,
    /// What is given here counts for more than what files of the host say.
    pub host: Facts,
    pub labels: BTreeMap<String, String>,
    pub log: Log,
    pub journald: Journald,
    pub stdout: Stdout,
    pub metrics: Metrics,
    pub limits: Limits,
    pub ignore: Vec<Pattern>,
    pub expect: Vec<Pattern>,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub enabled: bool,
    pub path: PathBuf,
    /// Bytes.
    #[serde(deserialize_with = "units::size")]
    pub max_size: u64,
    #[serde(deserialize_with = "units::duration")]
    pub max_age: Duration,
    /// Bytes.
    #[serde(deserialize_with = "units::size")]
    pub max_total: u64,
    pub compress: bool,
}

/// `[journald]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journald {
    pub enabled: bool,
    pub socket: PathBuf,
}

/// `[stdout]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stdout {
    pub format: StdoutFormat,
}

/// `[metrics]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    pub listen: Option<SocketAddr>,
    pub textfile: Option<PathBuf>,
    #[serde(deserialize_with = "units::duration")]
    pub textfile_interval: Duration,
    pub max_callers: usize,
}

/// `[limits]`: records per window.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    #[serde(deserialize_with = "units::duration")]
    pub window: Duration,
    pub caller: u32,
    pub place: u32,
    pub user: u32,
    pub user_daily: u32,
    /// Requests per second.
    pub kernel_rate: u32,
    pub kernel_burst: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            object: ObjectChoice::default(),
            owner: OwnerChoice::default(),
            answers: true,
            args: ArgsMode::default(),
            name_service: false,
            runtime_dir: "/run/imds-analyzer".into(),
            host: Facts::default(),
            labels: BTreeMap::new(),
            log: Log::default(),
            journald: Journald::default(),
            stdout: Stdout::default(),
            metrics: Metrics::default(),
            limits: Limits::default(),
            ignore: Vec::new(),
            expect: Vec::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            enabled: true,
            path: "/var/log/imds-analyzer/events.jsonl".into(),
            max_size: 32 << 20,
            max_age: Duration::from_secs(24 * 60 * 60),
            max_total: 256 << 20,
            compress: true,
        }
    }
}

impl Default for Journald {
    fn default() -> Self {
        Self {
            enabled: false,
            socket: "/run/systemd/journal/socket".into(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: None,
            textfile: None,
            textfile_interval: Duration::from_secs(60),
            max_callers: 100,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let kernel = KernelBudget::default();
        Self {
            window: Duration::from_secs(60),
            caller: 20,
            place: 200,
            user: 500,
            user_daily: 20_000,
            kernel_rate: kernel.rate,
            kernel_burst: kernel.burst,
        }
    }
}

impl Config {
    /// The configuration from `args` (flags and environment) and the file that they name.
    ///
    /// # Errors
    ///
    /// When the file is invalid or unreadable. A missing file is an error only if `args` names it.
    pub fn load(args: &DaemonArgs) -> Result<Self, ConfigError> {
        let mut config = match &args.config {
            Some(path) => Self::read(path)?,
            None => Self::of_this_host()?,
        };
        config.override_by(args);
        config.check().map_err(ConfigError::Senseless)?;
        Ok(config)
    }

    /// The configuration file of this host or, without one, the defaults.
    ///
    /// # Errors
    ///
    /// When the file is invalid or unreadable.
    pub fn of_this_host() -> Result<Self, ConfigError> {
        match Self::read(Path::new(cli::CONFIG)) {
            Err(ConfigError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            result => result,
        }
    }

    /// The file at `path` alone.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        let config = Self::parse(&text).map_err(|why| ConfigError::Parse {
            path: path.to_owned(),
            why,
        })?;
        config.check().map_err(|why| ConfigError::Parse {
            path: path.to_owned(),
            why,
        })?;
        Ok(config)
    }

    /// The error has line, column and text of the line, and suggests a name for an unknown key.
    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| explain(&error))
    }

    fn override_by(&mut self, args: &DaemonArgs) {
        fn set<T: Clone>(to: &mut T, from: Option<&T>) {
            if let Some(from) = from {
                to.clone_from(from);
            }
        }
        set(&mut self.object, args.object.as_ref());
        set(&mut self.owner, args.owner.as_ref());
        set(&mut self.args, args.args.as_ref());
        set(&mut self.log.enabled, args.log.as_ref());
        set(&mut self.log.path, args.log_file.as_ref());
        set(&mut self.journald.enabled, args.journald.as_ref());
        set(&mut self.stdout.format, args.stdout.as_ref());
        self.metrics.listen = args.metrics_listen.or(self.metrics.listen);
        if args.metrics_textfile.is_some() {
            self.metrics.textfile.clone_from(&args.metrics_textfile);
        }
    }

    /// Checks values that depend on each other.
    fn check(&self) -> Result<(), String> {
        let Self {
            log, metrics, limits, ..
        } = self;
        let paths = [
            ("runtime_dir", Some(&self.runtime_dir)),
            ("log.path", Some(&log.path)),
            ("journald.socket", Some(&self.journald.socket)),
            ("metrics.textfile", metrics.textfile.as_ref()),
        ];
        for (key, path) in paths {
            let Some(path) = path else { continue };
            let bytes = path.as_os_str().as_encoded_bytes();
            if !path.is_absolute() || path.file_name().is_none() {
                return Err(format!("{key} must be an absolute path"));
            }
            if bytes.contains(&0) {
                return Err(format!("{key} must not contain NUL"));
            }
            if key != "runtime_dir" && (bytes.ends_with(b"/") || bytes.ends_with(b"/.")) {
                return Err(format!("{key} must name a file, not a directory"));
            }
        }
        if log.max_size < 64 << 10 {
            return Err("log.max_size must be at least 64KiB".to_owned());
        }
        if log.max_total < 2 * log.max_size {
            return Err("log.max_total must be at least twice log.max_size".to_owned());
        }
        if metrics.max_callers > 10_000 {
            return Err("metrics.max_callers must be at most 10000".to_owned());
        }
        for (key, time) in [
            ("log.max_age", log.max_age),
            ("metrics.textfile_interval", metrics.textfile_interval),
            ("limits.window", limits.window),
        ] {
            if time < Duration::from_secs(1) {
                return Err(format!("{key} must be at least 1s"));
            }
        }
        if limits.kernel_rate > 0 && limits.kernel_burst < limits.kernel_rate {
            return Err("limits.kernel_burst must be at least limits.kernel_rate".to_owned());
        }
        Ok(())
    }

    /// This host: what the configuration says of it, else what its files say.
    pub fn identity(&self) -> Identity {
        Identity::of_this_host(self.host.clone(), self.labels.clone())
    }

    /// Warnings about valid rules that do not do what they seem to, each with the remedy.
    pub fn warnings(&self) -> Vec<String> {
        let lists = [("ignore", &self.ignore), ("expect", &self.expect)];
        let entries = lists
            .into_iter()
            .flat_map(|(list, rules)| (1..).zip(rules).map(move |(number, rule)| (list, number, rule)));
        entries
            .filter_map(|(list, number, rule)| {
                let weakness = rule.weakness()?;
                Some(format!("[[{list}]] entry {number} ({rule}): {weakness}"))
            })
            .collect()
    }

    /// Keys that differ in `next` but need a restart.
    pub fn needs_restart(&self, next: &Self) -> Vec<&'static str> {
        let keys = self.read_at_start(next).into_iter();
        keys.filter_map(|(key, differs)| differs.then_some(key)).collect()
    }

    /// The keys that need a restart, and whether they differ in `next`. Every key must be listed here or below.
    pub(crate) fn read_at_start(&self, next: &Self) -> [(&'static str, bool); 10] {
        let Self {
            object,
            owner,
            answers,
            args,
            name_service,
            runtime_dir,
            host,
            labels,
            limits,
            // The following keys take effect at once.
            log: _,
            journald: _,
            stdout: _,
            metrics: _,
            ignore: _,
            expect: _,
        } = self;
        let Limits {
            kernel_rate,
            kernel_burst,
            window: _,
            caller: _,
            place: _,
            user: _,
            user_daily: _,
        } = limits;
        [
            ("object", *object != next.object),
            ("owner", *owner != next.owner),
            ("answers", *answers != next.answers),
            ("args", *args != next.args),
            ("name_service", *name_service != next.name_service),
            ("runtime_dir", *runtime_dir != next.runtime_dir),
            ("host", *host != next.host),
            ("labels", *labels != next.labels),
            ("limits.kernel_rate", *kernel_rate != next.limits.kernel_rate),
            ("limits.kernel_burst", *kernel_burst != next.limits.kernel_burst),
        ]
    }
}

/// Reads a file of configuration.
///
/// # Errors
///
/// When it cannot be read.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigError> {
    let text = file::text(path, 0).map_err(|error| ConfigError::Read {
        path: path.to_owned(),
        error,
    })?;
    Ok(text.0)
}
