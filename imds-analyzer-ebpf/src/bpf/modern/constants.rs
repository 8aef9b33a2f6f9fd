//! Constants of the object: read-only data that user space writes before load, so the verifier knows the values.

use imds_analyzer_ebpf::abi::{Budget, Offsets, rehearsal::Rehearsal};

#[unsafe(no_mangle)]
// SAFETY: the struct has only integers, for which zeroes are valid.
static OFFSETS: Offsets = unsafe { core::mem::zeroed() };

#[unsafe(no_mangle)]
static BUDGET: Budget = Budget { cost: 0, depth: 0 };

#[unsafe(no_mangle)]
static ANSWERS: u32 = 0;

#[unsafe(no_mangle)]
static DIGEST_KEY: u32 = 0;

#[unsafe(no_mangle)]
static REHEARSAL: Rehearsal = Rehearsal {
    end: 0,
    percent: 0,
    all: 0,
    dry: 0,
    reserved: 0,
};

/// The offset of one field.
macro_rules! offset {
    ($field:ident) => {
        $crate::bpf::modern::constants::load_offset(|offsets| &offsets.$field)
    };
}
pub(super) use offset;

/// Implements [`offset!`].
#[inline(always)]
pub(super) fn load_offset(field: impl FnOnce(&Offsets) -> &u32) -> u64 {
    load(field(&OFFSETS))
}

/// The cost of one record, and the most that a user can save up, both in us.
#[inline(always)]
pub(super) fn budget() -> (u64, u64) {
    (load(&BUDGET.cost), load(&BUDGET.depth))
}

/// True if the programs follow the answers on connections.
#[inline(always)]
pub(super) fn answers() -> bool {
    load(&ANSWERS) != 0
}

/// The point at which digests of payload are evaluated.
#[inline(always)]
pub(super) fn digest_key() -> u64 {
    load(&DIGEST_KEY)
}

/// When the rehearsal ends, in ns since boot.
#[inline(always)]
pub(super) fn rehearsal_end() -> u64 {
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::read_volatile(&REHEARSAL.end) }
}

/// The percentage of calls that the rehearsal refuses.
#[inline(always)]
pub(super) fn rehearsal_percent() -> u64 {
    load(&REHEARSAL.percent)
}

/// True if the rehearsal chooses every caller.
#[inline(always)]
pub(super) fn rehearses_all() -> bool {
    load(&REHEARSAL.all) != 0
}

/// True if the rehearsal only reports.
#[inline(always)]
pub(super) fn is_dry() -> bool {
    load(&REHEARSAL.dry) != 0
}

/// Loads a constant at run time: the compiler must not fold the zeroes above.
#[inline(always)]
fn load(constant: &u32) -> u64 {
    // SAFETY: a reference is valid to read.
    let value = unsafe { core::ptr::read_volatile(constant) };
    value as u64
}
