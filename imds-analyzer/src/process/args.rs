//! Arguments as bytes, from the kernel or /proc, and their display.

use crate::{
    host::proc::CMDLINE_MAX,
    sanitize,
    secrets::{self, ArgsMode},
};

/// Maximum length of a process's arguments, in bytes.
pub(super) const SHOWN: usize = 4096;
/// Maximum number of arguments, because empty arguments add no bytes.
const COUNT_SHOWN: usize = 512;

/// NUL-separated arguments.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Argv<'a> {
    pub(super) bytes: &'a [u8],
    /// More arguments exist that were not read.
    pub(super) cut: bool,
}

impl<'a> Argv<'a> {
    /// Contents of `/proc/<pid>/cmdline`.
    pub(super) fn of_cmdline(cmdline: &'a [u8]) -> Self {
        Self {
            bytes: cmdline,
            cut: cmdline.len() >= CMDLINE_MAX,
        }
    }

    /// True if /proc shows the same arguments, as far as both were read.
    pub(super) fn agrees_with(&self, cmdline: &[u8]) -> bool {
        self.bytes.starts_with(cmdline) || cmdline.starts_with(self.bytes)
    }

    /// These arguments, or those of /proc if these are only their beginning.
    pub(super) fn or_longer(self, cmdline: &'a [u8]) -> Self {
        let cut_short = (self.cut || self.bytes.is_empty()) && cmdline.starts_with(self.bytes);
        if cut_short { Self::of_cmdline(cmdline) } else { self }
    }

    /// The masked arguments, in at most `max` bytes; and true if some are missing.
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
        // Only the first argument was requested, and it is complete.
        let missing = self.cut && mode != ArgsMode::Executable || count > COUNT_SHOWN;
        if missing
            && !cut
            && let Some(last) = shown.last_mut()
        {
            // Arguments that were not read, or do not fit, are marked like arguments that are cut here.
            let marked = format!("{last}{}", sanitize::CUT);
            *last = sanitize::bounded(marked, last.len() + room);
        }
        (shown, cut || missing)
    }

    /// Removes the NULs that a program leaves when it rewrites its title. One NUL ends the last argument; two make an
    /// empty last argument.
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
