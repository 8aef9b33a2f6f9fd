//! The contents of BPF maps.

use std::{
    fs, io,
    net::TcpStream,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
};

use aya::maps::MapType;

/// `enum bpf_cmd` of include/uapi/linux/bpf.h.
mod command {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const NEXT_KEY: u32 = 4;
    pub(crate) const FD_BY_ID: u32 = 14;
}

/// The attributes of commands on elements: descriptor, key, and value or next key.
#[repr(C)]
struct Element {
    fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// All that is in the maps of programs whose names begin with `prefix`: keys and values, what ring buffers hold, and the
/// storage of these sockets.
pub fn maps_of(prefix: &str, sockets: &[TcpStream]) -> Vec<u8> {
    let programs = aya::programs::loaded_programs().filter_map(Result::ok);
    let ids: std::collections::BTreeSet<u32> = programs
        .filter(|program| program.name_as_str().is_some_and(|name| name.starts_with(prefix)))
        .filter_map(|program| program.map_ids().ok().flatten())
        .flatten()
        .collect();
    let maps = aya::maps::loaded_maps().filter_map(Result::ok);
    let mut all = Vec::new();
    for map in maps.filter(|map| ids.contains(&map.id())) {
        // A program may end meanwhile.
        let Ok(fd) = open(map.id()) else { continue };
        let (key_size, mut value_size) = (map.key_size() as usize, map.value_size() as usize);
        let kind = map.map_type().expect("a known type");
        match kind {
            MapType::RingBuf => all.extend(ring(&fd, map.max_entries() as usize)),
            MapType::SkStorage => {
                for socket in sockets {
                    let key = socket.as_raw_fd().to_ne_bytes();
                    all.extend(lookup(&fd, &key, value_size).unwrap_or_default());
                }
            }
            _ => {
                if matches!(
                    kind,
                    MapType::PerCpuArray | MapType::PerCpuHash | MapType::LruPerCpuHash
                ) {
                    value_size = value_size.next_multiple_of(8) * possible_cpus();
                }
                let mut key = None;
                while let Some(next) = next_key(&fd, key.as_deref(), key_size) {
                    all.extend(&next);
                    // Maps of programs have no values to look up.
                    all.extend(lookup(&fd, &next, value_size).unwrap_or_default());
                    key = Some(next);
                }
            }
        }
    }
    all
}

fn open(id: u32) -> io::Result<OwnedFd> {
    let fd = bpf(command::FD_BY_ID, &[id, 0, 0])?;
    // SAFETY: a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn lookup(map: &OwnedFd, key: &[u8], value_size: usize) -> Option<Vec<u8>> {
    let mut value = vec![0; value_size];
    let element = Element {
        fd: map.as_raw_fd() as u32,
        reserved: 0,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    bpf(command::LOOKUP, &element).ok()?;
    Some(value)
}

fn next_key(map: &OwnedFd, key: Option<&[u8]>, key_size: usize) -> Option<Vec<u8>> {
    let mut next = vec![0; key_size];
    let element = Element {
        fd: map.as_raw_fd() as u32,
        reserved: 0,
        key: key.map_or(0, |key| key.as_ptr() as u64),
        value: next.as_mut_ptr() as u64,
        flags: 0,
    };
    bpf(command::NEXT_KEY, &element).ok()?;
    Some(next)
}

/// The data pages of a ring buffer, which stay as they are until they are written over.
fn ring(map: &OwnedFd, size: usize) -> Vec<u8> {
    let page = rustix::param::page_size();
    // Behind the page of the consumer's position and that of the producer's.
    // SAFETY: a new mapping, for reading.
    let data = unsafe {
        rustix::mm::mmap(
            ptr::null_mut(),
            size,
            rustix::mm::ProtFlags::READ,
            rustix::mm::MapFlags::SHARED,
            map,
            2 * page as u64,
        )
    };
    let data = data.expect("a ring buffer");
    // SAFETY: `size` bytes are mapped. The kernel may write to them meanwhile; any bytes are valid.
    let copy = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), size) }.to_vec();
    // SAFETY: the mapping made above, which nothing refers to any more.
    unsafe { rustix::mm::munmap(data, size) }.expect("mapped");
    copy
}

/// How many values a per-CPU element has.
fn possible_cpus() -> usize {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible").expect("sysfs");
    let last = text.trim().rsplit(['-', ',']).next().expect("a number");
    last.parse::<usize>().expect("a number") + 1
}

fn bpf<T>(command: u32, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes are a struct of that size, and its addresses are of buffers of the sizes that the map has.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
}
