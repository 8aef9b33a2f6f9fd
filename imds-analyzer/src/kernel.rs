//! The kernel side of the tool, seen from user space: what this kernel has ([`features`]), the decision that follows
//! ([`plan`]), the object in the kernel ([`load`]), and the records it produces ([`stream`]).

pub mod btf;
pub mod budget;
pub mod calibrate;
pub mod cgroup;
pub mod constants;
pub mod diagnostics;
pub mod features;
pub mod load;
pub mod offsets;
pub mod plan;
pub mod selftest;
pub mod stream;
pub mod tracefs;
