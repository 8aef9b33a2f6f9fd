//! Keeps the settings in a map: kernels before 5.2 have no global data.

use aya_ebpf::{macros::map, maps::Array};
use imds_analyzer_ebpf::abi::legacy::Settings;

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// The settings that user space wrote.
#[inline(always)]
pub(super) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}
