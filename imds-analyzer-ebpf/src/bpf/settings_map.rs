//! Settings in a map: kernels before 5.2 know no global data.

use aya_ebpf::{macros::map, maps::Array};
use imds_analyzer_ebpf::abi::send::SendSettings;

#[map]
static SETTINGS: Array<SendSettings> = Array::with_max_entries(1, 0);

/// What user space wrote.
#[inline(always)]
pub(super) fn settings() -> Option<&'static SendSettings> {
    SETTINGS.get(0)
}
