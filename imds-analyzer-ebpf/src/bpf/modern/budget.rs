//! Limits how much of the ring buffer one user may fill. Records over the budget are only counted, and counted exactly.
//! Without a budget none of this code is left in the programs.
//!
//! Half of the ring buffer is reserved for users who have used little of their budget, so that a flood leaves room for
//! the records of others even if it is within its user's budget.

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};

use super::{constants, task, transport};

/// The user of a connection that no hook saw connect and whose sender is unknown.
pub(super) const NOBODY: u32 = u32::MAX;

/// Kinds of records. Each has its own budget, so that no kind uses up the budget of another.
#[derive(Clone, Copy)]
pub(super) enum Class {
    Request = 0,
    /// Requests for credentials.
    Credential = 1,
    Pending = 2,
    Owner = 3,
}

/// How many records of a [`Class`] at once count as little use. Records of announced processes are the largest.
#[inline(always)]
const fn light(class: u32) -> u64 {
    if class == Class::Owner as u32 { 100 } else { 400 }
}

/// When a user's budget of one class will be full again, in ns since boot. The map evicts the least recently active
/// users first, which refills their budgets.
#[btf_map]
static BUDGETS: LruHashMap<u64, u64, 4096> = LruHashMap::new();

/// Takes one record of a [`Class`] from the budget of `uid`. Returns 1 if the budget had one left, else 0. Two CPUs may
/// take the same one at once: budgets are approximate, but the count of records over them is exact.
// VERIFIER: a global function, like `imds_announce`.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn imds_allows(uid: u32, class: u32) -> u32 {
    let (cost, depth) = constants::budget();
    let (cost, depth) = (cost * 1000, depth * 1000);
    if cost == 0 {
        return 1;
    }
    let key = (uid as u64) << 8 | class as u64;
    let now = task::now();
    let Some(full_at) = BUDGETS.get_ptr_mut(key) else {
        // If there is no room for the entry, the record is sent anyway.
        let _ = BUDGETS.insert(key, now + cost, 0);
        return 1;
    };
    // SAFETY: a map's value, an aligned word; races are described above.
    let value = unsafe { *full_at };
    let begin = if value > now { value } else { now };
    let used = begin - now;
    if used > depth || used > cost * light(class) && transport::is_half_full() {
        return 0;
    }
    // SAFETY: as above.
    unsafe { *full_at = begin + cost };
    1
}
