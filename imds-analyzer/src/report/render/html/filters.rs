//! Filters of the template.

#![expect(
    unreachable_pub,
    reason = "the attribute makes functions that are more public than ours"
)]

use std::fmt::Display;

use super::minutes;
use crate::{record::value::Micros, sink::layout::foreign};

/// Text of others in at most `width` characters, with nothing hidden in it. It is not safe yet: askama escapes it.
#[askama::filter_fn]
pub(super) fn text(value: impl Display, _: &dyn askama::Values, width: usize) -> askama::Result<String> {
    Ok(foreign(&value.to_string(), width))
}

/// A number in groups of three digits.
#[askama::filter_fn]
pub(super) fn number(value: impl Display, _: &dyn askama::Values) -> askama::Result<String> {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    Ok(text)
}

/// A time in minutes (UTC).
#[askama::filter_fn]
pub(super) fn minute(value: &Micros, _: &dyn askama::Values) -> askama::Result<String> {
    Ok(minutes(*value))
}

/// The same; empty if there is none.
#[askama::filter_fn]
pub(super) fn time(value: &Option<Micros>, _: &dyn askama::Values) -> askama::Result<String> {
    Ok(value.map(minutes).unwrap_or_default())
}
