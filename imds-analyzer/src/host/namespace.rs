//! Namespaces (namespaces(7)): where this process runs, and network namespaces of its own.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    panic,
    path::PathBuf,
    process::{self, Command},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, anyhow};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::{netlink::Netlink, proc::Directory};

/// True if /proc has the same process ids as the kernel side.
pub(crate) fn in_first_pid_namespace() -> bool {
    /// `PROC_PID_INIT_INO`, include/linux/proc_ns.h.
    const FIRST: u32 = 0xeffffffc;
    Directory::own()
        .and_then(|own| own.namespace("ns/pid"))
        .is_ok_and(|inode| inode == FIRST)
}

/// Inode number of the host's namespace of a kind (`net`): the one of pid 1. Without ptrace rights over pid 1 it is
/// this process's own, which is then the best guess.
pub(crate) fn of_host(kind: &str) -> io::Result<u32> {
    let path = format!("ns/{kind}");
    let first = Directory::open(1).and_then(|first| first.namespace(&path));
    first.or_else(|_denied| Directory::own()?.namespace(&path))
}

/// Runs `f` on a thread of its own, which ends with `f`: what `f` changes in its thread affects no other code.
pub(crate) fn on_own_thread<T: Send>(name: &str, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, f)?;
        thread.join().or_else(|panic| panic::resume_unwind(panic))
    })
}

/// Moves the calling thread into a new namespace of this kind, for good.
pub(crate) fn leave(kind: LinkNameSpaceType) -> io::Result<()> {
    let flags = UnshareFlags::from_bits_retain(kind as u32);
    // SAFETY: the flag only names a namespace, so the thread still shares its descriptors with the other threads.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// Moves the calling thread into a network namespace, for good.
pub(crate) fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?)
}

const NETNS_THREAD: &str = "netns";

/// A private network namespace. It has no name under /run/netns, so nothing is left to clean up. Clones share the
/// namespace; it disappears with its last clone, socket and process.
#[derive(Clone, Debug)]
pub struct NetNs {
    handle: Arc<OwnedFd>,
}

impl NetNs {
    /// Creates a namespace that contains only `lo`, which is up. The caller stays in its own namespace.
    pub fn new() -> anyhow::Result<Self> {
        // Needs a thread of its own, because unshare moves the calling thread. The descriptor keeps the namespace alive
        // when the thread ends.
        let handle = on_own_thread(NETNS_THREAD, || {
            leave(LinkNameSpaceType::Network).map_err(explain)?;
            Netlink::open()
                .and_then(|mut netlink| netlink.link_up("lo"))
                .context("cannot bring lo up")?;
            fs::File::open("/proc/thread-self/ns/net")
                .context("cannot open /proc/thread-self/ns/net (is /proc mounted?)")
        })??;
        Ok(Self {
            handle: Arc::new(handle.into()),
        })
    }

    /// Runs `f` on a thread inside the namespace. Sockets opened there stay in it, wherever they are used later.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        on_own_thread(NETNS_THREAD, || {
            enter_network(self.as_fd()).context("cannot enter the network namespace")?;
            Ok(f())
        })?
    }

    /// A command that will run inside the namespace. Don't set `uid` on it: std drops privileges before the child
    /// enters the namespace, which needs them. `setpriv` drops them after.
    pub fn command(&self, program: &str) -> Command {
        let handle = Arc::clone(&self.handle);
        let mut command = Command::new(program);
        // No proxy is reachable from inside.
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(move || enter_network(handle.as_fd())) };
        command
    }

    /// A path for `nsenter --net=<path>`, valid as long as this process lives. A descriptor of a namespace appears in
    /// `/proc/<pid>/fd` as a magic link: opening it opens the namespace itself, so no name has to be created and
    /// removed. Only root may follow it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", process::id(), self.handle.as_raw_fd()))
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

fn explain(error: io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            anyhow!("cannot create a network namespace: run as root (sudo) with CAP_SYS_ADMIN, outside a container")
        }
        Some(libc::EINVAL) => anyhow!("this kernel has no network namespaces: it needs CONFIG_NET_NS"),
        Some(libc::ENOSPC) => {
            anyhow!("cannot create another network namespace: raise /proc/sys/user/max_net_namespaces")
        }
        _ => anyhow!(error).context("cannot create a network namespace"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_and_commands_run_inside_and_the_caller_stays_outside() -> anyhow::Result<()> {
        let namespace = NetNs::new()?;
        let own = fs::read_link("/proc/thread-self/ns/net")?;
        let inside = namespace.run(|| fs::read_link("/proc/thread-self/ns/net"))??;
        assert_ne!(own, inside);
        assert_eq!(own, fs::read_link("/proc/thread-self/ns/net")?);

        let seen = namespace.command("readlink").arg("/proc/self/ns/net").output()?;
        assert_eq!(String::from_utf8(seen.stdout)?.trim(), inside.to_string_lossy());
        let net = format!("--net={}", namespace.path().display());
        let seen = Command::new("nsenter")
            .args([&net, "readlink", "/proc/self/ns/net"])
            .output()?;
        assert_eq!(String::from_utf8(seen.stdout)?.trim(), inside.to_string_lossy());
        Ok(())
    }
}
