//! The system's name service (nsswitch.conf(5)), for names that are in no file on this host. It may query a directory
//! over the network, so it runs on a thread of its own, with a bounded wait.

use std::{ffi::CStr, io, mem::MaybeUninit, num::NonZeroUsize, ptr};

use lru::LruCache;

use super::helper::{Helper, PATIENCE};
use crate::sanitize;

/// Maximum number of answers remembered, including negative ones.
const KNOWN: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Maximum size of an entry, in bytes.
const ENTRY_MAX: usize = 16 << 10;
/// Maximum length of a user's name, in bytes.
const NAME_MAX: usize = 64;

/// Asks the name service, and remembers the answers.
#[derive(Debug)]
pub(super) struct NameService {
    helper: Helper<u32, Option<String>>,
    known: LruCache<u32, Option<String>>,
}

impl NameService {
    pub(super) fn new() -> Self {
        Self::with(|uid| name_of(uid).inspect_err(|error| tracing::debug!(%error, uid, "asking the name service")))
    }

    fn with(look_up: impl Fn(u32) -> io::Result<Option<String>> + Send + Sync + 'static) -> Self {
        Self {
            helper: Helper::new("name-service", PATIENCE, move |uid: &u32| {
                look_up(*uid).unwrap_or_default()
            }),
            known: LruCache::new(KNOWN),
        }
    }

    /// The name, if it is known or the name service answers in time. Asks nothing while an answer is overdue.
    pub(super) fn name(&mut self, uid: u32) -> Option<String> {
        if let Some((uid, name)) = self.helper.late_answer() {
            self.known.put(uid, name);
        }
        if let Some(name) = self.known.get(&uid) {
            return name.clone();
        }
        let (uid, name) = self.helper.ask(uid)?;
        self.known.put(uid, name.clone());
        name
    }

    /// Number of names without an answer in time.
    pub(super) fn overdue(&self) -> u64 {
        self.helper.overdue()
    }
}

/// getpwuid_r(3); `None` if there is no such user.
fn name_of(uid: u32) -> io::Result<Option<String>> {
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut text = vec![0; ENTRY_MAX];
    let mut found = ptr::null_mut();
    // SAFETY: all pointers point to locals, and the length is that of the buffer.
    let error = unsafe { libc::getpwuid_r(uid, entry.as_mut_ptr(), text.as_mut_ptr(), text.len(), &raw mut found) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    if found.is_null() {
        return Ok(None);
    }
    // SAFETY: `found` points to `entry`, which was filled in.
    let name = unsafe { (*found).pw_name };
    if name.is_null() {
        return Ok(None);
    }
    // SAFETY: `name` points to a NUL-terminated string in `text`, which is still alive.
    let name = unsafe { CStr::from_ptr(name) };
    Ok(Some(shown(name.to_bytes())))
}

/// Bounds and sanitizes a user's name.
pub(super) fn shown(name: &[u8]) -> String {
    sanitize::lossy(name, NAME_MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

    use std::{
        sync::{Mutex, mpsc::sync_channel},
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn the_system_knows_root_and_not_everybody() {
        assert_eq!(name_of(0).unwrap().as_deref(), Some("root"));
        assert_eq!(name_of(4_000_000_000).unwrap(), None);
    }

    #[test]
    fn answers_are_remembered_and_errors_too() {
        let (asked, count) = sync_channel(10);
        let mut service = NameService::with(move |uid| {
            asked.send(uid).unwrap();
            match uid {
                7 => Ok(Some("seven".to_owned())),
                _ => Err(io::ErrorKind::TimedOut.into()),
            }
        });
        // A busy machine may answer late, but it answers.
        let deadline = Instant::now() + Duration::from_secs(10);
        while service.name(7).as_deref() != Some("seven") {
            assert!(Instant::now() < deadline);
        }
        while service.known.get(&8).is_none() {
            assert_eq!(service.name(8), None);
            assert!(Instant::now() < deadline);
        }
        assert_eq!((service.name(7).as_deref(), service.name(8)), (Some("seven"), None));
        assert_eq!(count.try_iter().collect::<Vec<_>>(), [7, 8]);
    }

    #[test]
    fn a_name_service_that_hangs_holds_nobody_up_twice() {
        let (release, hang) = sync_channel::<()>(0);
        let hang = Mutex::new(hang);
        let mut service = NameService::with(move |uid| {
            let _ = hang.lock().unwrap().recv();
            Ok(Some(format!("user-{uid}")))
        });
        assert_eq!(service.name(1), None);
        let begun = Instant::now();
        for uid in 1..1000 {
            assert_eq!(service.name(uid), None);
        }
        assert!(begun.elapsed() < 10 * PATIENCE, "{:?}", begun.elapsed());
        assert_eq!(service.overdue(), 1000);
        drop(release);
        let deadline = Instant::now() + Duration::from_secs(10);
        while service.name(1).as_deref() != Some("user-1") {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
    }
}
