//! Capabilities (capabilities(7)) of the calling thread.

use std::io;

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
        set_capabilities, set_no_new_privs,
    },
};

/// Upper bound of capability numbers: the sets have 64 bits.
const NUMBERS: u32 = u64::BITS;

pub(crate) fn effective() -> io::Result<CapabilitySet> {
    Ok(capabilities(None)?.effective)
}

pub(crate) fn permitted() -> io::Result<CapabilitySet> {
    Ok(capabilities(None)?.permitted)
}

/// Sets the effective and permitted sets, and empties the inheritable one.
pub(crate) fn set(effective: CapabilitySet, permitted: CapabilitySet) -> io::Result<()> {
    let sets = CapabilitySets {
        effective,
        permitted,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// Drops all capabilities but `kept`, and the ways to regain them: sets no_new_privs, clears the ambient set and, as
/// far as this thread may, the bounding set.
pub(crate) fn keep_only(kept: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    let permitted = permitted()?;
    if permitted.contains(CapabilitySet::SETPCAP) {
        set(kept | CapabilitySet::SETPCAP, permitted)?;
        for number in 0..NUMBERS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if kept.contains(capability) {
                continue;
            }
            match remove_capability_from_bounding_set(capability) {
                // The kernel does not know this capability, so it is not in the set either.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    set(kept, kept)
}
