//! What is lost is counted, one slot a kind.

use core::arch::asm;

use aya_ebpf::{macros::map, maps::PerCpuArray};
use imds_analyzer_ebpf::abi::Loss;

// Both objects have it, and kernels before 4.18 refuse a map that is described by BTF.
#[map]
static LOSS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// Adds `amount` to the counter of `loss`.
#[inline(always)]
pub(super) fn add(loss: Loss, amount: u64) {
    if let Some(counter) = LOSS.get_ptr_mut(loss as u32) {
        // A run that interrupts this one adds to the same slot. The library has no atomic addition for this target; without
        // use of the sum it is an instruction of every kernel since 3.18.
        // SAFETY: the slot is aligned, and the map keeps it for as long as the program runs.
        unsafe { asm!("lock *(u64 *)({slot} + 0) += {amount}", slot = in(reg) counter, amount = in(reg) amount) };
    }
}
