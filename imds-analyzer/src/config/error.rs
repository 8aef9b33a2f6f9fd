//! Errors of a configuration.

use std::{io, path::PathBuf};

/// Minimum similarity for a suggestion.
const ALIKE: f64 = 0.75;

/// A configuration error.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}: {why}", path.display())]
    Parse { path: PathBuf, why: String },
    /// The file is valid on its own, but not together with flags and environment.
    #[error("{0}")]
    Senseless(String),
}

/// TOML's message with line and column, and a suggested name.
pub(crate) fn explain(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let text = text.trim_end();
    match suggestion(error.message()) {
        Some(name) => format!("{text}\ndid you mean `{name}`?"),
        None => text.to_owned(),
    }
}

/// From serde's message "unknown field `a`, expected one of `b`, `c`", the expected name that is most similar to the
/// first.
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
