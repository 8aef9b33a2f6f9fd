//! The host as the kernel shows it to this process.

pub(crate) mod namespace;
pub(crate) mod netlink;
pub(crate) mod proc;
