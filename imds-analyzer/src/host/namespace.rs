//! A network namespace that lives as long as somebody holds it: no name under /run/netns, nothing to clean up.

use std::{
    fs::File,
    io,
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

use super::netlink::Netlink;

/// A private network namespace. Clones are the same namespace; it disappears with the last clone, socket and process
/// in it.
#[derive(Clone, Debug)]
pub struct NetNs {
    handle: Arc<OwnedFd>,
}

impl NetNs {
    /// A new namespace with `lo` up and nothing else. The caller's own namespace is left as it is.
    pub fn new() -> anyhow::Result<Self> {
        // A thread of its own, because unshare moves the thread that calls it; the namespace outlives the thread
        // through the descriptor.
        let handle = on_thread(|| {
            // SAFETY: changes nothing but this thread's network namespace.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(explain(io::Error::last_os_error()));
            }
            Netlink::open()
                .and_then(|mut netlink| netlink.link_up("lo"))
                .context("lo cannot be brought up")?;
            File::open("/proc/thread-self/ns/net")
                .context("/proc/thread-self/ns/net cannot be opened (is /proc mounted?)")
        })??;
        Ok(Self {
            handle: Arc::new(handle.into()),
        })
    }

    /// Runs `f` on a thread inside the namespace. Sockets opened there stay in it, wherever they are used later.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        on_thread(|| {
            enter(self.as_fd()).context("the lab's network namespace cannot be entered")?;
            Ok(f())
        })?
    }

    /// A command that will run inside the namespace. Don't set `uid` on it: std drops privileges before the child
    /// enters the namespace, which needs them. `setpriv` drops them after.
    pub fn command(&self, program: &str) -> Command {
        let handle = Arc::clone(&self.handle);
        let mut command = Command::new(program);
        // No proxy can be reached from inside.
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(move || enter(handle.as_fd())) };
        command
    }

    /// What `nsenter --net=<path>` takes, as long as this process lives. A descriptor of a namespace appears in
    /// `/proc/<pid>/fd` as a magic link: opening it opens the namespace itself, so that no name has to be made and
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

/// Moves the calling thread for good.
fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed; only this thread moves.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs `f` on a thread that ends with it, so that a change of namespace stays with `f`.
fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("lab-netns".into()).spawn_scoped(scope, f)?;
        thread.join().or_else(|panic| panic::resume_unwind(panic))
    })
}

fn explain(error: io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            anyhow!("lab needs root (CAP_SYS_ADMIN) to make a network namespace: run it with sudo, outside a container")
        }
        Some(libc::EINVAL) => anyhow!("this kernel has no network namespaces (CONFIG_NET_NS)"),
        Some(libc::ENOSPC) => anyhow!("no more network namespaces allowed here: see /proc/sys/user/max_net_namespaces"),
        _ => anyhow!(error).context("a network namespace cannot be made"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        os::linux::fs::MetadataExt as _,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::lab::Lab;

    fn links() -> anyhow::Result<BTreeSet<String>> {
        fs::read_dir("/sys/class/net")?
            .map(|link| Ok(link?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// Is the namespace still that of a thread, or open, in any process?
    fn is_held(inode: u64) -> anyhow::Result<bool> {
        let is = |path: PathBuf| fs::metadata(path).is_ok_and(|it| it.st_ino() == inode);
        for process in fs::read_dir("/proc")?.flatten() {
            if !process
                .file_name()
                .to_string_lossy()
                .starts_with(|c: char| c.is_ascii_digit())
            {
                continue;
            }
            let open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
            if is(process.path().join("ns/net")) || open.map(|fd| fd.path()).any(is) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    #[test]
    fn nothing_is_left_behind() -> anyhow::Result<()> {
        let (links_before, names_before) = (links()?, names()?);
        let lab = Lab::routed()?;
        let inodes = [&lab.client, &lab.server].map(|it| fs::metadata(it.path()).map(|it| it.st_ino()));
        assert_eq!(links()?, links_before);
        drop(lab);
        for inode in inodes {
            let (inode, deadline) = (inode?, Instant::now() + Duration::from_secs(20));
            // The number may be given to another test's namespace at once: wait until it is seen free.
            while is_held(inode)? {
                assert!(Instant::now() < deadline, "network namespace {inode} is still held");
                thread::sleep(Duration::from_millis(20));
            }
        }
        assert_eq!((links()?, names()?), (links_before, names_before));
        Ok(())
    }

    /// What `ip netns list` would print.
    fn names() -> anyhow::Result<BTreeSet<PathBuf>> {
        match fs::read_dir("/run/netns") {
            Ok(names) => names.map(|name| Ok(name?.path())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error.into()),
        }
    }

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
