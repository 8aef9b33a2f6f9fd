//! Counts losses, one slot per kind.

use core::arch::asm;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use imds_analyzer_ebpf::abi::Loss;

// Not a BTF map: both objects have this map, and kernels before 4.18 reject a map that is described by BTF.
#[map]
static LOSS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// Adds `amount` to the counter of `loss`.
#[inline(always)]
pub(crate) fn add(loss: Loss, amount: u64) {
    if let Some(counter) = LOSS.get_ptr_mut(loss as u32) {
        // One instruction, because a program can interrupt another one on its CPU; the compiler offers no such
        // operation for this target.
        // SAFETY: this CPU's slot, an aligned word that the map keeps for as long as the program runs.
        unsafe { asm!("lock *(u64 *)({counter} + 0) += {amount}", counter = in(reg) counter, amount = in(reg) amount) };
    }
}
