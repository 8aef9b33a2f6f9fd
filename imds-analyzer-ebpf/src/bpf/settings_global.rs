//! Settings as a global: read-only data that user space writes before load, known constants to the verifier.

use imds_analyzer_ebpf::abi::Settings;

#[unsafe(no_mangle)]
// SAFETY: integers alone, for which zeroes are valid.
static SETTINGS: Settings = unsafe { core::mem::zeroed() };

/// One field of the settings.
macro_rules! setting {
    ($field:ident) => {
        $crate::bpf::settings_global::load(|settings| &raw const settings.$field)
    };
}
pub(super) use setting;

/// Loads a field where it is used: the compiler must not fold the zeroes above.
#[inline(always)]
pub(super) fn load(field: impl FnOnce(&Settings) -> *const u32) -> u64 {
    // SAFETY: a reference to a static's field is valid to read.
    let value = unsafe { core::ptr::read_volatile(field(&SETTINGS)) };
    value as u64
}
