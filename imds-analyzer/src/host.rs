//! The host as the kernel shows it to this process.

pub(crate) mod capabilities;
pub(crate) mod clock;
pub(crate) mod file;
pub(crate) mod mounts;
pub(crate) mod namespace;
pub(crate) mod netlink;
pub(crate) mod proc;
