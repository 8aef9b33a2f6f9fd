//! Arguments as bytes, from the kernel or /proc, and how they are shown.

use crate::{
    host::proc::CMDLINE_MAX,
    sanitize,
    secrets::{self, ArgsMode},
};

/// Bytes of a process's arguments that are shown at most.
pub(super) const SHOWN: usize = 4096;
/// Arguments that are shown at most: empty ones have no bytes to be counted.
const COUNT_SHOWN: usize = 512;

/// NUL-separated arguments.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Argv<'a> {
    pub(super) bytes: &'a [u8],
    /// There is more, that was not read.
    pub(super) cut: bool,
}

impl<'a> Argv<'a> {
    /// What `/proc/<pid>/cmdline` held.
    pub(super) fn of_cmdline(cmdline: &'a [u8]) -> Self {
        Self {
            bytes: cmdline,
            cut: cmdline.len() >= CMDLINE_MAX,
        }
    }

    /// Whether /proc shows the same arguments, as far as both were read.
    pub(super) fn agrees_with(&self, cmdline: &[u8]) -> bool {
        self.bytes.starts_with(cmdline) || cmdline.starts_with(self.bytes)
    }

    /// These, or those of /proc where these are their beginning only.
    pub(super) fn or_longer(self, cmdline: &'a [u8]) -> Self {
        let cut_short = (self.cut || self.bytes.is_empty()) && cmdline.starts_with(self.bytes);
        if cut_short { Self::of_cmdline(cmdline) } else { self }
    }

    /// The arguments, masked, in `max` bytes; and whether some are missing.
    pub(super) fn shown(&self, mode: ArgsMode, max: usize) -> (Vec<String>, bool) {
        let args = self.split();
        let args = match self.cut {
            true => secrets::mask_truncated_args(args, mode),
            false => secrets::mask_args(args, mode),
        };
        let (mut room, count) = (max, args.len());
        let mut shown = Vec::with_capacity(count.min(COUNT_SHOWN));
        let mut cut = false;
        for arg in args.into_iter().take(COUNT_SHOWN) {
            cut = arg.len() > room;
            let arg = sanitize::bounded(arg, room);
            room -= arg.len();
            shown.push(arg);
            if cut {
                break;
            }
        }
        // Only the first was asked for: nothing of it is missing.
        let missing = self.cut && mode != ArgsMode::Executable || count > COUNT_SHOWN;
        if missing
            && !cut
            && let Some(last) = shown.last_mut()
        {
            // What was never read, or has no room, is marked as what was cut here is.
            let marked = format!("{last}{}", sanitize::CUT);
            *last = sanitize::bounded(marked, last.len() + room);
        }
        (shown, cut || missing)
    }

    /// A program that rewrites its title leaves the rest of the old one as NULs, which are no arguments. One NUL ends
    /// the last argument, two are an empty last one.
    fn split(&self) -> Vec<String> {
        let nuls = self.bytes.iter().rev().take_while(|byte| **byte == 0).count();
        let ended = if nuls > 2 { nuls } else { nuls.min(1) };
        match self.bytes.get(..self.bytes.len() - ended) {
            Some(args) if !self.bytes.is_empty() => args
                .split(|byte| *byte == 0)
                .map(|arg| String::from_utf8_lossy(arg).into_owned())
                .collect(),
            _ => Vec::new(),
        }
    }
}
