//! The kernel's files for creating kprobes. The send tap uses them because only there can it choose how many calls a
//! return probe tracks at once, and because before 4.17 there is no other way.
//!
//! An entry outlives its creator: the tool removes its own entries at the end, and those of killed predecessors at the
//! start.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::PathBuf,
};

use rustix::{
    fs::{Mode, OFlags, open, openat},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::LinkNameSpaceType,
};

use crate::host::{
    mounts::{self, Mount},
    namespace::{self, on_own_thread},
    proc,
};

/// The group of the entries of all instances of this tool.
const GROUP: &str = "imds_analyzer";
const EVENTS: &str = "kprobe_events";
/// The directory that the kernel creates for mounting tracefs (4.1).
const MOUNT_POINT: &str = "/sys/kernel/tracing";
/// How many calls a return probe tracks at once, the maximum: every blocked sender of the host is one.
const MAX_ACTIVE: u32 = 4096;

/// The open tracefs directory.
#[derive(Debug)]
pub struct Tracefs {
    root: OwnedFd,
    place: String,
}

/// A kprobe in the kernel. Removed when this is dropped; in use as long as a program is attached to it.
#[derive(Debug)]
pub struct Event {
    events: File,
    name: String,
    /// The id that perf uses for the kprobe.
    pub id: u64,
}

/// A tracepoint that the kernel has.
#[derive(Clone, Debug)]
pub struct Tracepoint {
    pub id: u64,
    /// The kernel's description of the record, one line per field.
    format: String,
}

/// The side of a function that a kprobe is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Entry,
    Return,
}

impl Tracefs {
    /// Finds the mount in mountinfo, or creates a private mount.
    pub fn open() -> io::Result<Self> {
        let (root, place) = match find(mounts::read()?) {
            Some(path) => (directory(&path)?, path.display().to_string()),
            None => (
                private()?,
                "a private mount (this host has not mounted tracefs)".to_owned(),
            ),
        };
        let tracefs = Self { root, place };
        tracefs.file(EVENTS, OFlags::RDONLY)?;
        Ok(tracefs)
    }

    /// The path of the mount, for people.
    pub fn describe(&self) -> &str {
        &self.place
    }

    fn file(&self, path: &str, flags: OFlags) -> io::Result<File> {
        Ok(openat(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    fn read(&self, path: &str) -> io::Result<String> {
        let mut text = String::new();
        self.file(path, OFlags::RDONLY)?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Opens the list of kprobes. Never truncates it: that would remove everyone's entries.
    fn events(&self) -> io::Result<File> {
        self.file(EVENTS, OFlags::WRONLY | OFlags::APPEND)
    }

    /// Removes the entries of dead predecessors; returns how many.
    pub fn sweep(&self) -> io::Result<usize> {
        let mut removed = 0;
        for name in abandoned(&self.read(EVENTS)?, proc::exists) {
            // The kernel does not remove an entry that is in use (EBUSY): its owner is in another pid namespace.
            removed += usize::from(self.events()?.write_all(format!("-:{GROUP}/{name}").as_bytes()).is_ok());
        }
        Ok(removed)
    }

    /// Creates a kprobe on `function`, for the program `label`.
    pub fn add(&self, function: &str, side: Side, label: &str) -> io::Result<Event> {
        let name = format!("p{}_{label}_{function}", std::process::id());
        let kind = match side {
            Side::Entry => "p".to_owned(),
            Side::Return => format!("r{MAX_ACTIVE}"),
        };
        let mut events = self.events()?;
        events.write_all(format!("{kind}:{GROUP}/{name} {function}").as_bytes())?;
        let mut event = Event { events, name, id: 0 };
        event.id = self.id(&format!("{GROUP}/{}", event.name))?;
        Ok(event)
    }

    fn id(&self, event: &str) -> io::Result<u64> {
        let id = self.read(&format!("events/{event}/id"))?;
        id.trim().parse().map_err(io::Error::other)
    }

    /// The tracepoint `name`, with its group: `sched/sched_process_fork`.
    pub fn tracepoint(&self, name: &str) -> io::Result<Tracepoint> {
        Ok(Tracepoint {
            id: self.id(name)?,
            format: self.read(&format!("events/{name}/format"))?,
        })
    }

    /// Runs of this process's kprobes that the kernel skipped (`kprobe_profile`: event, hits, misses).
    pub fn misses(&self) -> io::Result<u64> {
        Ok(misses(&self.read("kprobe_profile")?, std::process::id()))
    }
}

impl Tracepoint {
    /// Offset of a four-byte field in the record.
    pub fn offset(&self, field: &str) -> Option<u32> {
        self.format.lines().find_map(|line| {
            let mut parts = line.split(';').map(str::trim);
            let declared = parts.next()?.strip_prefix("field:")?;
            (declared.rsplit(' ').next() == Some(field)).then_some(())?;
            let offset = parts.next()?.strip_prefix("offset:")?.parse().ok()?;
            (parts.next() == Some("size:4")).then_some(offset)
        })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Err(error) = self.events.write_all(format!("-:{GROUP}/{}", self.name).as_bytes()) {
            tracing::debug!("{EVENTS}: cannot remove {}: {error}", self.name);
        }
    }
}

/// Mount point of tracefs, which may be inside debugfs.
fn find(mounts: impl IntoIterator<Item = Mount>) -> Option<PathBuf> {
    let found = mounts.into_iter().find(|mount| mount.system == "tracefs")?;
    Some(found.point)
}

/// Mounts tracefs in a mount namespace that ends with the thread; the descriptor keeps the mount alive.
fn private() -> io::Result<OwnedFd> {
    on_own_thread("tracefs", || {
        namespace::leave(LinkNameSpaceType::Mount)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount("tracefs", MOUNT_POINT, "tracefs", MountFlags::empty(), None)?;
        directory(MOUNT_POINT.as_ref())
    })?
}

fn directory(path: &std::path::Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// Entries of our group whose process no longer exists.
fn abandoned(events: &str, is_alive: impl Fn(u32) -> bool) -> Vec<String> {
    events
        .lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let name = rest.strip_prefix(GROUP)?.strip_prefix('/')?.split(' ').next()?;
            let pid = name.strip_prefix('p')?.split('_').next()?.parse().ok()?;
            (!is_alive(pid)).then(|| name.to_owned())
        })
        .collect()
}

fn misses(profile: &str, pid: u32) -> u64 {
    let prefix = format!("p{pid}_");
    profile
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            fields.next()?.starts_with(&prefix).then_some(())?;
            fields.nth(1)?.parse::<u64>().ok()
        })
        .sum()
}

/// Makes a program run at the event or tracepoint `id`, on every CPU, as long as the descriptor is open.
pub fn attach(program: std::os::fd::BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    /// Length in words of the first version of `perf_event_attr` (`PERF_ATTR_SIZE_VER0`): type and size, config,
    /// sample_period, and fields that stay 0.
    const WORDS: usize = 8;
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    const PERF_FLAG_FD_CLOEXEC: u64 = 8;
    const PERF_EVENT_IOC_ENABLE: libc::Ioctl = 0x2400;
    const PERF_EVENT_IOC_SET_BPF: libc::Ioctl = 0x4004_2408;
    let first = [PERF_TYPE_TRACEPOINT, (WORDS * 8) as u32];
    let mut attributes = [0_u64; WORDS];
    attributes[0] = u64::from_ne_bytes(zerocopy::transmute!(first));
    attributes[1] = id;
    attributes[2] = 1;
    let (any_process, first_cpu, no_group) = (-1, 0, -1);
    // SAFETY: the size in the attributes is their real size.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            any_process,
            first_cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nothing else owns it.
    let perf = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    // SAFETY: both descriptors are open, and the request takes a descriptor by value.
    let set = unsafe { libc::ioctl(fd, PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()) };
    // SAFETY: the descriptor is open, and the request takes a number by value.
    if set < 0 || unsafe { libc::ioctl(perf.as_fd().as_raw_fd(), PERF_EVENT_IOC_ENABLE, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(perf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount() {
        let mounts = "24 1 0:22 / /sys rw - sysfs sysfs rw\n35 24 0:11 / /sys/kernel/tracing rw - tracefs tracefs rw";
        assert_eq!(find(mounts::parse(mounts)), Some("/sys/kernel/tracing".into()));
        assert_eq!(find(mounts::parse("24 1 0:22 / /sys rw - sysfs sysfs rw")), None);
    }

    #[test]
    fn only_our_own_dead_are_swept() {
        let events = "p:imds_analyzer/p7_imds_send_tcp_sendmsg_locked tcp_sendmsg_locked\n\
                      r4096:imds_analyzer/p8_imds_sent_tcp_sendmsg_locked tcp_sendmsg_locked\n\
                      p:kprobes/p7_other do_exit\n\
                      p:imds_analyzer2/p7_other do_exit\n\
                      p:imds_analyzer/odd do_exit\n";
        assert_eq!(abandoned(events, |pid| pid != 7), ["p7_imds_send_tcp_sendmsg_locked"]);
        assert_eq!(abandoned(events, |_| false).len(), 2);
    }

    #[test]
    fn a_field_of_a_tracepoint() {
        let tracepoint = Tracepoint {
            id: 1,
            format: "name: sched_process_fork\nID: 312\nformat:\n\
                \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
                \tfield:char parent_comm[16];\toffset:8;\tsize:16;\tsigned:1;\n\
                \tfield:pid_t parent_pid;\toffset:24;\tsize:4;\tsigned:1;\n\
                \tfield:pid_t child_pid;\toffset:44;\tsize:4;\tsigned:1;\n\n\
                print fmt: \"comm=%s pid=%d child_pid=%d\", REC->parent_comm, REC->parent_pid, REC->child_pid\n"
                .to_owned(),
        };
        assert_eq!(tracepoint.offset("child_pid"), Some(44));
        assert_eq!(tracepoint.offset("pid"), None);
        assert_eq!(tracepoint.offset("common_type"), None);
    }

    #[test]
    fn misses_of_our_own_are_added_up() {
        let profile =
            "  p7_imds_send_f      12     3\n  p7_imds_sent_f      12     4\n  p77_x   1    50\n  other  1  60\n";
        assert_eq!(misses(profile, 7), 7);
    }
}
