//! Copies the kernel structs of a send that user space made itself, so that user space can learn where their fields
//! are.

use aya_ebpf::{
    helpers::generated::{bpf_get_current_comm, bpf_get_current_task},
    macros::map,
    maps::Array,
};
use imds_analyzer_ebpf::abi::legacy::{SLOT, Settings, slot};

use super::{current::thread, settings::settings};
use crate::bpf::common::read;

#[map]
static CALIBRATION: Array<[u8; SLOT]> = Array::with_max_entries(slot::LEN, 0);

/// Bytes of a msghdr and of its segments that are copied: their memory may end after these.
const SHORT: usize = 128;

/// Dumps the structs that the send of `message` on `sock` uses, if user space waits for them.
#[inline(always)]
pub(super) fn dump(sock: u64, message: u64) {
    let Some(settings) = settings() else { return };
    if settings.calibrate == 0 {
        return;
    }
    let mut name = [0_u64; 2];
    // SAFETY: the helper writes as many bytes as it is told.
    unsafe { bpf_get_current_comm(name.as_mut_ptr().cast(), size_of_val(&name) as u32) };
    if name[0] != settings.calibrate {
        return;
    }
    if let Some(to) = CALIBRATION.get_ptr_mut(slot::NUMBERS) {
        // SAFETY: a map's value, for this one thread.
        unsafe { *to.cast() = [thread(), sock] };
    }
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    macro_rules! pieces {
        ($($i:literal)*) => {$( show(slot::TASK + $i, task + $i * SLOT as u64); )*};
    }
    pieces!(0 1 2 3 4 5 6 7 8 9 10 11);
    show(slot::SOCK, sock);
    show_short(slot::MSGHDR, message);
    show_short(slot::IOVEC, pointer(message, settings.iter_segments));
    show(slot::NET, pointer(sock, settings.offsets.sock_net));
    show(slot::DUMP, settings.dump[0]);
    show(slot::DUMP + 1, settings.dump[1]);
    show(slot::DUMP + 2, settings.dump[2]);
    show(slot::DUMP + 3, settings.dump[3]);
}

#[inline(always)]
fn pointer(address: u64, offset: u32) -> u64 {
    read::kernel(address + offset as u64).unwrap_or(0)
}

/// Copies [`SLOT`] bytes. A struct may end where the kernel's memory ends, so a failed read is ignored.
#[inline(always)]
fn show(index: u32, address: u64) {
    if let Some(to) = CALIBRATION.get_ptr_mut(index) {
        // SAFETY: a map's value, for this one thread.
        read::kernel_into(unsafe { &mut *to }, address);
    }
}

#[inline(always)]
fn show_short(index: u32, address: u64) {
    if let Some(to) = CALIBRATION.get_ptr_mut(index) {
        // SAFETY: as above; the first part of the value.
        read::kernel_into(unsafe { &mut *to.cast::<[u8; SHORT]>() }, address);
    }
}

const _: () = assert!(size_of::<Settings>() < SLOT);
