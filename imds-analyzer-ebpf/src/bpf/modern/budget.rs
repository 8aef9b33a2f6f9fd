//! How much of the ring buffer one user may fill. What is over it is only counted, exactly; without a budget
//! none of this is left in the programs.
//!
//! Half of the ring buffer is for users who have used little of their budget: a flood, within its user's budget too, leaves
//! room for the records of others.

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};

use super::{constants, task, transport};

/// Stands for the user of a connection whose connecting nobody saw, and whose sender is not known.
pub(super) const NOBODY: u32 = u32::MAX;

/// What has a budget of its own, so that none uses up another's.
#[derive(Clone, Copy)]
pub(super) enum Class {
    Request = 0,
    /// Requests for credentials.
    Credential = 1,
    Pending = 2,
    Owner = 3,
}

/// So many records of a [`Class`] at once are little. Announced processes are the largest ones.
#[inline(always)]
const fn light(class: u32) -> u64 {
    if class == Class::Owner as u32 { 100 } else { 400 }
}

/// When a user's budget of one class would be full again, in ns since boot. The least recently active go first, which
/// fills their budgets.
#[btf_map]
static BUDGETS: LruHashMap<u64, u64, 4096> = LruHashMap::new();

/// Takes one record of a [`Class`] from the budget of `uid`: 1 if there was one left, else 0. Two CPUs at once may take the
/// same one: a budget is not exact, the count of what is over it is.
// VERIFIER: a global function, as `imds_announce`.
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
        // No room for the entry is no reason to keep silent.
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
