//! What is wrong with a configuration, so that it can be put right.

use std::{io, path::PathBuf};

/// Names less alike than this are no suggestion.
const ALIKE: f64 = 0.75;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}: {why}", path.display())]
    Parse { path: PathBuf, why: String },
    /// The file is well by itself, but not with the flags and the environment.
    #[error("{0}")]
    Senseless(String),
}

/// TOML's own words, which have line and column, and the name that was probably meant.
pub(super) fn explain(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let text = text.trim_end();
    match suggestion(error.message()) {
        Some(name) => format!("{text}\ndid you mean `{name}`?"),
        None => text.to_owned(),
    }
}

/// Of the names in a message of serde's, "unknown field `a`, expected one of `b`, `c`", the one most like the first.
fn suggestion(message: &str) -> Option<&str> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let typed = names.next()?;
    names
        .map(|name| (strsim::jaro_winkler(typed, name), name))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}
