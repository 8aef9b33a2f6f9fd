//! What the analyzer says about itself.

use super::summary::Summary;

/// A record that is not a request.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// Heads the output.
    Start {
        /// Release of the running kernel.
        kernel: &'a str,
        hooks: &'a [Hook<'a>],
    },
    /// What was lost since the last notice of this kind, by kind.
    Loss { counts: &'a [(&'a str, u64)] },
    /// Ends the output; `loss` is all that was lost.
    Summary {
        summary: &'a Summary,
        loss: &'a [(&'a str, u64)],
    },
}

/// A hook in the kernel that was considered.
#[derive(Clone, Copy, Debug)]
pub struct Hook<'a> {
    pub name: &'a str,
    pub attached: bool,
    /// Why it is used, or why not.
    pub reason: &'a str,
}
