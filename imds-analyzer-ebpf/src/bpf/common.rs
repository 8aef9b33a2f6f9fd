//! What the programs of both objects use, and what every object has.

pub(super) mod counters;
pub(super) mod read;
pub(super) mod skb;

/// The kernel takes these two words of a dual licence, as `license_is_gpl_compatible` lists them.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // VERIFIER: unreachable, and rejected at load if it ever were not.
    loop {}
}
