//! The user side of the legacy object: pieces of sends, or packets, become judged heads, by the same `Classifier` that the
//! modern object runs in the kernel.
//!
//! Token values are here and nowhere else in user space: what leaves is the classifier's masked capture.

mod follow;
mod lineage;
mod packets;
mod proc;
mod sends;
mod tap;
mod urgent;

use std::num::NonZeroUsize;

use imds_analyzer_ebpf::abi::{RecordKind, Request};

pub use self::{lineage::Lineage, tap::LegacyTap};

/// Connections followed at once; beyond that the one that was quiet longest is given up.
const STREAMS_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// What comes out: a record of a request, as the modern object would have sent it, and its capture.
pub trait Report: FnMut(RecordKind, &Request, &[u8]) {}
impl<F: FnMut(RecordKind, &Request, &[u8])> Report for F {}
