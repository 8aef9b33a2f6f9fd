//! What is lost is counted, one slot a kind.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use imds_analyzer_ebpf::abi::Loss;

#[btf_map]
static LOSS: PerCpuArray<u64, { Loss::ALL.len() }> = PerCpuArray::new();

/// Adds `amount` to the counter of `loss`.
#[inline(always)]
pub(super) fn add(loss: Loss, amount: u64) {
    if let Some(counter) = LOSS.get_ptr_mut(loss as u32) {
        // SAFETY: this CPU's slot, which the map keeps for as long as the program runs. A run that interrupts this one
        // between the load and the store may lose one count, never memory safety.
        unsafe { *counter += amount };
    }
}
