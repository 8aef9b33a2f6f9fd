//! Settings in a map: kernels before 5.2 know no global data.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use imds_analyzer_ebpf::abi::send::SendSettings;

#[btf_map]
static SETTINGS: Array<SendSettings, 1> = Array::new();

/// What user space wrote.
#[inline(always)]
pub(super) fn settings() -> Option<&'static SendSettings> {
    SETTINGS.get(0)
}
