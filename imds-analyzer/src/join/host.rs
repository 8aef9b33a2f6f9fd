//! Processes and older sockets of this host.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use imds_analyzer_ebpf::abi::{Request, Task, request_flags};
use lru::LruCache;

use super::Lookup;
use crate::{
    event::Process,
    host::clock::{Now, nanoseconds},
    loss::{Kind, Ledger},
    process::{
        Resolver,
        sockets::{ExistingSocket, ExistingSockets, find_existing},
    },
};

/// Maximum number of older sockets, and of sockets that were not found.
const SOCKETS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Minimum interval of searches, each of which reads all of /proc.
const SEARCH_AGAIN: Duration = Duration::from_secs(10);

/// Look-ups on this host.
pub struct Host {
    resolver: Resolver,
    older: Older,
}

impl Host {
    pub fn new(resolver: Resolver) -> Self {
        Self {
            resolver,
            older: Older::new(),
        }
    }

    pub fn resolver(&mut self) -> &mut Resolver {
        &mut self.resolver
    }

    /// Finds sockets that are already connected to IMDS. Call it after attaching the hooks, so that none is missed in
    /// between.
    pub fn find_older_sockets(&mut self, now: Now) {
        self.older.search(now, find_existing);
    }

    /// Disables searches, because the process can no longer enter network namespaces.
    pub fn forbid_searches(&mut self) {
        self.older.forbidden = true;
    }

    /// Failed look-ups. A process that may not be read is common: a failed search counts only if a request is
    /// `ownerless`.
    pub fn loss(&self, ownerless: bool) -> Ledger {
        let resolver = self.resolver.counters();
        let mut ledger = Ledger::default();
        if ownerless {
            ledger.add(Kind::SocketSearchFailures, self.older.failures);
        }
        ledger.add(Kind::ProcessReadFailures, resolver.failures);
        ledger.add(Kind::ProcessesUnannounced, resolver.unannounced);
        ledger.add(Kind::ContainerNamesOverdue, resolver.container_names_overdue);
        ledger.add(Kind::UserNamesOverdue, resolver.user_names_overdue);
        ledger
    }
}

impl Lookup for Host {
    fn process(&mut self, task: &Task) -> Option<Arc<Process>> {
        self.resolver.resolve(task)
    }

    fn holder(&mut self, now: Now, request: &Request) -> Option<Arc<Process>> {
        let holder = self.older.holder(now, request, find_existing)?;
        self.resolver.from_pid_at(holder.pid, holder.since_boot)
    }

    fn host_net_ns(&self) -> Option<u32> {
        self.resolver.host_net_ns()
    }
}

/// A socket by its cookie. Before 5.11 (commit 92acdc58ab11) a cookie is unique only within its network namespace. The
/// namespace is 0 if it is not known.
type Name = (u64, u32);

/// A process that held a socket at `since_boot`, in nanoseconds since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holder {
    pid: u32,
    since_boot: u64,
}

/// Owners of sockets that the hooks did not see connect.
struct Older {
    holders: LruCache<Name, Holder>,
    missing: LruCache<Name, ()>,
    /// Nanoseconds since boot.
    next_search: u64,
    forbidden: bool,
    /// Number of failed look-ups.
    failures: u64,
}

impl Older {
    fn new() -> Self {
        Self {
            holders: LruCache::new(SOCKETS),
            missing: LruCache::new(SOCKETS),
            next_search: 0,
            forbidden: false,
            failures: 0,
        }
    }

    /// A process that holds the request's socket. Searches again if the last search was long enough ago.
    fn holder(
        &mut self,
        now: Now,
        request: &Request,
        find: impl FnOnce() -> anyhow::Result<ExistingSockets>,
    ) -> Option<Holder> {
        // The send tap numbers connections instead of using cookies.
        if request.cookie == 0 || request.flags & request_flags::SEND_TAP != 0 {
            return None;
        }
        let name = (request.cookie, request.net_ns);
        if let Some(holder) = self.holders.get(&name) {
            return Some(*holder);
        }
        if self.forbidden || self.missing.get(&name).is_some() || now.since_boot < self.next_search {
            return None;
        }
        self.search(now, find);
        let found = self.holders.get(&name).copied();
        if found.is_none() {
            self.missing.put(name, ());
        }
        found
    }

    /// A process that starts during the search is not found, because it starts after `now`.
    fn search(&mut self, now: Now, find: impl FnOnce() -> anyhow::Result<ExistingSockets>) {
        self.next_search = now.since_boot.saturating_add(nanoseconds(SEARCH_AGAIN));
        match find() {
            Ok(found) => {
                self.failures += found.failures;
                for socket in found.sockets {
                    self.add(&socket, now);
                }
            }
            Err(error) => {
                self.failures += 1;
                tracing::warn!("cannot find the owners of sockets that were already open: {error:#}");
            }
        }
    }

    fn add(&mut self, socket: &ExistingSocket, now: Now) {
        if let Some(&pid) = socket.holders.first() {
            let holder = Holder {
                pid,
                since_boot: now.since_boot,
            };
            // Also without the namespace, for records that have none.
            self.holders.put((socket.cookie, 0), holder);
            self.holders.put((socket.cookie, socket.net_ns), holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, SocketAddr},
        time::SystemTime,
    };

    use zerocopy::FromZeros as _;

    use super::*;

    fn at(seconds: u64) -> Now {
        Now {
            since_boot: seconds * 1_000_000_000,
            wall: SystemTime::UNIX_EPOCH,
        }
    }

    fn request(cookie: u64, net_ns: u32) -> Request {
        let mut request = Request::new_zeroed();
        (request.cookie, request.net_ns) = (cookie, net_ns);
        request
    }

    fn found(sockets: &[(u64, u32, u32)]) -> anyhow::Result<ExistingSockets> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        let sockets = sockets.iter().map(|&(cookie, net_ns, pid)| ExistingSocket {
            cookie,
            net_ns,
            source: address,
            destination: address,
            inode: 1,
            holders: vec![pid],
        });
        Ok(ExistingSockets {
            sockets: sockets.collect(),
            failures: 0,
        })
    }

    fn no_search() -> anyhow::Result<ExistingSockets> {
        unreachable!("a search")
    }

    #[test]
    fn what_was_looked_for_in_vain_is_not_looked_for_again() {
        let mut older = Older::new();
        let mut searches = 0;
        // Two sockets without an owner, alternately, for ten minutes.
        for second in 0..600 {
            for cookie in [1, 2] {
                let holder = older.holder(at(100 + second), &request(cookie, 7), || {
                    searches += 1;
                    found(&[])
                });
                assert_eq!(holder, None);
            }
        }
        assert_eq!(searches, 2);
    }

    #[test]
    fn many_new_sockets_of_nobody_are_a_search_now_and_then() {
        let mut older = Older::new();
        let mut searches = 0;
        for number in 0..10_000 {
            older.holder(at(100 + number / 100), &request(number + 1, 7), || {
                searches += 1;
                found(&[])
            });
        }
        assert_eq!(searches, 10, "100 s");
        assert!(older.missing.len() <= SOCKETS.get());
    }

    #[test]
    fn a_cookie_counts_in_its_namespace() {
        let mut older = Older::new();
        older.search(at(1), || found(&[(5, 7, 70), (5, 8, 80)]));
        assert_eq!(
            older.holder(at(2), &request(5, 7), no_search).map(|it| it.pid),
            Some(70)
        );
        assert_eq!(
            older.holder(at(2), &request(5, 8), no_search).map(|it| it.pid),
            Some(80)
        );
        assert_eq!(older.holder(at(2), &request(5, 9), no_search), None);
        assert!(older.holder(at(2), &request(5, 0), no_search).is_some());
    }

    #[test]
    fn searches_that_cannot_succeed_are_not_made() {
        let mut older = Older::new();
        older.search(at(1), || found(&[(5, 7, 70)]));
        older.forbidden = true;
        assert_eq!(older.holder(at(500), &request(6, 7), no_search), None);
        assert_eq!(
            older.holder(at(500), &request(5, 7), no_search).map(|it| it.pid),
            Some(70)
        );

        let mut older = Older::new();
        let mut of_send_tap = request(6, 7);
        of_send_tap.flags = request_flags::SEND_TAP;
        assert_eq!(older.holder(at(500), &of_send_tap, no_search), None);
        assert_eq!(older.holder(at(500), &request(0, 7), no_search), None);
    }

    #[test]
    fn what_was_found_is_bounded() {
        let mut older = Older::new();
        let sockets: Vec<_> = (1..20_000).map(|cookie| (cookie, 7, 70)).collect();
        older.search(at(1), || found(&sockets));
        assert_eq!(older.holders.len(), SOCKETS.get());
        assert_eq!(
            older.holder(at(2), &request(19_999, 7), no_search).map(|it| it.pid),
            Some(70)
        );
    }

    #[test]
    fn a_search_that_fails_is_counted() {
        let mut older = Older::new();
        assert_eq!(
            older.holder(at(500), &request(6, 7), || Err(anyhow::anyhow!("no /proc"))),
            None
        );
        assert_eq!(older.failures, 1);
    }
}
