//! The code and types that the kernel side and user space of imds-analyzer share.
//!
//! This library half is pure: `no_std`, no helper calls, no allocation, no `unsafe`. The same code runs inside the
//! eBPF programs, in the user-space loader and in host tests.
//!
//! # The ABI
//! The kernel side sends records through a ring buffer, or through perf buffers on kernels without one. Every record
//! starts with an [`abi::Header`] whose `kind` names the rest: an [`abi::Owner`] announces a process (with its
//! ancestors, paths and argv) before it can vanish, an [`abi::Request`] is one judged request head, and a pending
//! request is a head that a packet left unfinished. [`abi::rehearsal`] is for `imds-analyzer rehearse` alone. All integers are in host byte order, addresses in network byte
//! order. Times are in nanoseconds of `CLOCK_BOOTTIME`, those of the send tap ([`abi::legacy`]) of `CLOCK_MONOTONIC`.
//!
//! Read in this order: [`target`] (what counts as IMDS), [`follow`] (packets to a stream), [`classify`] (bytes to
//! verdict), [`answer`] (answers to the requests), [`abi`] (the records that are sent).
#![no_std]

pub mod abi;
pub mod answer;
pub mod classify;
pub mod follow;
pub mod target;
