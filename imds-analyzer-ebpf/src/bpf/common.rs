//! Code that the programs of both objects share, and items that every object needs.

pub(super) mod counters;
pub(super) mod read;
pub(super) mod skb;

/// A dual licence that the kernel takes as GPL-compatible: `license_is_gpl_compatible` lists these words.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // VERIFIER: unreachable; if it were reachable, the verifier would reject the program at load.
    loop {}
}
