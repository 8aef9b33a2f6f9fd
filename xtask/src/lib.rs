//! The part of xtask that the end-to-end tests use too.

pub mod fleet;
