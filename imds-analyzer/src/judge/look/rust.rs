//! Rust: programs have the paths of their crates' sources in the texts of panics, `.../aws-config-1.5.0/src/...`.

use std::{fs::File, os::unix::fs::FileExt as _};

use memchr::memmem::Finder;

use super::super::client::version_of;
use crate::event::{Client, ClientSource};

/// The crate that asks IMDS for the SDK, in the directory of a registry.
const CRATE: &str = "/aws-config-";
/// Bytes of the executable to look at, and at a time.
const PROGRAM_MAX: u64 = 128 << 20;
const PIECE: usize = 1 << 20;
/// Maximum length of a version.
const VERSION_MAX: usize = 32;

pub(super) fn find(executable: &File, path: Option<&str>) -> Option<Client> {
    if !executable.metadata().ok()?.is_file() {
        return None;
    }
    let finder = Finder::new(CRATE);
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < PROGRAM_MAX {
        let len = executable.read_at(&mut piece, at).ok().filter(|len| *len > 0)?;
        let bytes = piece.get(..len)?;
        if let Some(version) = finder
            .find_iter(bytes)
            .find_map(|at| version(bytes.get(at + CRATE.len()..)?))
        {
            return Some(Client {
                name: "aws-sdk-rust",
                version: Some(version),
                source: ClientSource::Strings,
                path: path.map(str::to_owned),
            });
        }
        // A text may continue in the next piece.
        let overlap = CRATE.len() + VERSION_MAX;
        at += len.saturating_sub(overlap).max(1) as u64;
        if len <= overlap {
            return None;
        }
    }
    None
}

/// A version that a slash ends.
fn version(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().take(VERSION_MAX).position(|byte| *byte == b'/')?;
    version_of(std::str::from_utf8(bytes.get(..end)?).ok()?)
}
