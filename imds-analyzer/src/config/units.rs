//! Sizes and times in readable units.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// `64KiB`, `16MiB`, `1GiB`: bytes.
pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    parse_size(&text)
        .ok_or_else(|| D::Error::custom(format!("{text:?} is not a size: write it like 64KiB, 16MiB or 1GiB")))
}

pub(super) fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Parses a duration with humantime. At most a hundred years, so that no deadline overflows.
pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    const MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    let text = String::deserialize(from)?;
    match humantime::parse_duration(&text) {
        Ok(duration) if duration <= MAX => Ok(duration),
        Ok(_) => Err(D::Error::custom(format!("{text:?} is longer than a hundred years"))),
        Err(error) => Err(D::Error::custom(format!(
            "{text:?}: {error}; write it like 30s, 10m, 1h or 7d"
        ))),
    }
}
