//! The user side of the legacy object: turns pieces of sends, or packets, into judged heads, with the same `Classifier`
//! that the modern object runs in the kernel.
//!
//! Token values exist nowhere else in user space: only the classifier's masked capture leaves this module.

mod follow;
mod lineage;
mod packets;
mod proc;
mod replies;
mod sends;
mod tap;
mod urgent;

use std::num::NonZeroUsize;

use imds_analyzer_ebpf::abi::{RecordKind, Request};

pub use self::{lineage::Lineage, tap::LegacyTap};

/// Maximum number of connections followed at once; above it, the one that was idle for longest is given up.
const STREAMS_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Receives the record of a request, in the form that the modern object would have sent, and its capture.
pub trait Report: FnMut(RecordKind, &Request, &[u8]) {}
impl<F: FnMut(RecordKind, &Request, &[u8])> Report for F {}
