//! The host, as this process sees it.

pub(crate) mod capabilities;
pub(crate) mod clock;
pub(crate) mod file;
pub(crate) mod mounts;
pub(crate) mod namespace;
pub(crate) mod netlink;
pub(crate) mod proc;
pub(crate) mod syslog;
pub(crate) mod waiting;
