//! The system's name service (nsswitch.conf(5)), for names that no file on this host has. It may ask a directory over the
//! network and take as long as it likes: it is asked on a thread of its own, and not waited for long.

use std::{
    ffi::CStr,
    io,
    mem::MaybeUninit,
    num::NonZeroUsize,
    ptr,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use lru::LruCache;

/// How long an answer is waited for; one that comes later is there for the next question.
const PATIENCE: Duration = Duration::from_millis(50);
/// Answers remembered, that there is no such user too.
const KNOWN: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Bytes of an entry at most.
const ENTRY_MAX: usize = 16 << 10;

type Answer = (u32, Option<String>);

/// Asks, and remembers what was answered.
#[derive(Debug)]
pub(super) struct NameService {
    questions: SyncSender<u32>,
    answers: Receiver<Answer>,
    /// A question is on its way.
    asking: bool,
    known: LruCache<u32, Option<String>>,
}

impl NameService {
    /// Starts the thread, which ends some time after this is dropped.
    pub(super) fn start() -> io::Result<Self> {
        Self::with(|uid| name_of(uid).inspect_err(|error| tracing::debug!(%error, uid, "asking the name service")))
    }

    fn with(look_up: impl Fn(u32) -> io::Result<Option<String>> + Send + 'static) -> io::Result<Self> {
        let (questions, to_answer) = sync_channel(1);
        // Never full: there is one question at a time.
        let (answer, answers) = sync_channel(1);
        thread::Builder::new().name("name-service".to_owned()).spawn(move || {
            for uid in to_answer {
                let name = look_up(uid).unwrap_or_default();
                if answer.send((uid, name)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self {
            questions,
            answers,
            asking: false,
            known: LruCache::new(KNOWN),
        })
    }

    /// The name, if it is known, or comes to be known soon. While an answer is overdue nobody is asked for.
    pub(super) fn name(&mut self, uid: u32) -> Option<String> {
        if self.asking
            && let Ok(answer) = self.answers.try_recv()
        {
            self.take(answer);
        }
        if let Some(name) = self.known.get(&uid) {
            return name.clone();
        }
        if self.asking || self.questions.try_send(uid).is_err() {
            return None;
        }
        self.asking = true;
        let answer = self.answers.recv_timeout(PATIENCE).ok()?;
        self.take(answer);
        self.known.get(&uid)?.clone()
    }

    fn take(&mut self, (uid, name): Answer) {
        self.asking = false;
        self.known.put(uid, name);
    }
}

/// getpwuid_r(3); `None` where there is no such user.
fn name_of(uid: u32) -> io::Result<Option<String>> {
    let mut entry = MaybeUninit::<libc::passwd>::uninit();
    let mut text = vec![0; ENTRY_MAX];
    let mut found = ptr::null_mut();
    // SAFETY: all pointers are to locals, the buffer with its length.
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
    // SAFETY: a terminated string in `text`, which is still there.
    let name = unsafe { CStr::from_ptr(name) };
    Ok(Some(super::users::shown(name.to_bytes())))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

    use std::time::Instant;

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
        })
        .unwrap();
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
        let mut service = NameService::with(move |uid| {
            let _ = hang.recv();
            Ok(Some(format!("user-{uid}")))
        })
        .unwrap();
        assert_eq!(service.name(1), None);
        let begun = Instant::now();
        for uid in 1..1000 {
            assert_eq!(service.name(uid), None);
        }
        assert!(begun.elapsed() < 10 * PATIENCE, "{:?}", begun.elapsed());
        drop(release);
        let deadline = Instant::now() + Duration::from_secs(10);
        while service.name(1).as_deref() != Some("user-1") {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
    }
}
