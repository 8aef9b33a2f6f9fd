//! What is lost is counted, one slot a kind.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use imds_analyzer_ebpf::abi::Loss;

// Both objects have it, and kernels before 4.18 refuse a map that is described by BTF.
#[map]
static LOSS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// Adds `amount` to the counter of `loss`.
#[inline(always)]
pub(super) fn add(loss: Loss, amount: u64) {
    if let Some(counter) = LOSS.get_ptr_mut(loss as u32) {
        // SAFETY: this CPU's slot, which the map keeps for as long as the program runs. A run that interrupts this one
        // between the load and the store may lose one count, never memory safety.
        unsafe { *counter += amount };
    }
}
