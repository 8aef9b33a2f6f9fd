//! Asks slow questions on a thread of its own, with a bounded wait. A file system or a user directory may hang.

use std::{
    fmt,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Maximum time to wait for an answer. A late answer is kept for the next question.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);

type LookUp<Q, A> = Arc<dyn Fn(&Q) -> A + Send + Sync>;

/// Asks one question at a time. Its thread starts with the first question, with the privileges of that moment.
pub(crate) struct Helper<Q, A> {
    name: &'static str,
    patience: Duration,
    look_up: LookUp<Q, A>,
    thread: Option<Thread<Q, A>>,
    /// A question is waiting for its answer.
    asking: bool,
    /// The last answer was late, so there is no wait for the next one.
    slow: bool,
    /// Number of questions without an answer in time.
    overdue: u64,
}

struct Thread<Q, A> {
    questions: SyncSender<Q>,
    answers: Receiver<Answer<Q, A>>,
}

struct Answer<Q, A> {
    question: Q,
    answer: A,
    took: Duration,
}

impl<Q, A> fmt::Debug for Helper<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Helper")
            .field("name", &self.name)
            .field("asking", &self.asking)
            .field("overdue", &self.overdue)
            .finish_non_exhaustive()
    }
}

impl<Q: Send + 'static, A: Send + 'static> Helper<Q, A> {
    /// `name`: name of the thread.
    pub(crate) fn new(
        name: &'static str,
        patience: Duration,
        look_up: impl Fn(&Q) -> A + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            patience,
            look_up: Arc::new(look_up),
            thread: None,
            asking: false,
            slow: false,
            overdue: 0,
        }
    }

    /// A late answer, with its question.
    pub(crate) fn late_answer(&mut self) -> Option<(Q, A)> {
        if !self.asking {
            return None;
        }
        match self.thread.as_ref()?.answers.try_recv() {
            Ok(answer) => Some(self.take(answer)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.lose_thread();
                None
            }
        }
    }

    /// The answer, if it comes in time. Asks nothing while an older answer is overdue. Call [`Self::late_answer`]
    /// first.
    pub(crate) fn ask(&mut self, question: Q) -> Option<(Q, A)> {
        let answer = self.try_ask(question);
        self.overdue += u64::from(answer.is_none());
        answer
    }

    fn try_ask(&mut self, question: Q) -> Option<(Q, A)> {
        if self.asking {
            return None;
        }
        if self.thread.is_none() {
            match self.start() {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => tracing::debug!(%error, "no thread for {}", self.name),
            }
        }
        let thread = self.thread.as_ref()?;
        if thread.questions.try_send(question).is_err() {
            self.lose_thread();
            return None;
        }
        self.asking = true;
        if self.slow {
            return None;
        }
        match thread.answers.recv_timeout(self.patience) {
            Ok(answer) => Some(self.take(answer)),
            Err(RecvTimeoutError::Timeout) => {
                self.slow = true;
                None
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.lose_thread();
                None
            }
        }
    }

    pub(crate) fn overdue(&self) -> u64 {
        self.overdue
    }

    fn take(&mut self, answer: Answer<Q, A>) -> (Q, A) {
        self.asking = false;
        self.slow = answer.took >= self.patience;
        (answer.question, answer.answer)
    }

    fn lose_thread(&mut self) {
        self.thread = None;
        self.asking = false;
    }

    /// The thread ends some time after this is dropped.
    fn start(&self) -> std::io::Result<Thread<Q, A>> {
        let (questions, to_answer) = sync_channel(1);
        // Never full, because there is one question at a time.
        let (answer, answers) = sync_channel(1);
        let look_up = Arc::clone(&self.look_up);
        thread::Builder::new().name(self.name.to_owned()).spawn(move || {
            for question in to_answer {
                let begun = Instant::now();
                let found = look_up(&question);
                let found = Answer {
                    question,
                    answer: found,
                    took: begun.elapsed(),
                };
                if answer.send(found).is_err() {
                    return;
                }
            }
        })?;
        Ok(Thread { questions, answers })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

    use std::sync::Mutex;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn there_is_no_thread_before_the_first_question() {
        let mut helper = Helper::new("test-helper", LONG, |question: &u32| question + 1);
        assert!(helper.thread.is_none() && helper.late_answer().is_none());
        assert_eq!(helper.ask(1), Some((1, 2)));
        assert_eq!((helper.ask(2), helper.overdue()), (Some((2, 3)), 0));
    }

    #[test]
    fn one_that_hangs_is_waited_for_once_and_answers_later() {
        let (release, hang) = sync_channel::<()>(0);
        let hang = Mutex::new(hang);
        let patience = Duration::from_millis(20);
        let mut helper = Helper::new("test-helper", patience, move |question: &u32| {
            let _ = hang.lock().unwrap().recv();
            *question
        });
        let begun = Instant::now();
        for question in 0..1000 {
            assert_eq!(helper.ask(question), None);
        }
        assert!(begun.elapsed() < 50 * patience, "{:?}", begun.elapsed());
        assert_eq!(helper.overdue(), 1000);
        drop(release);
        let deadline = Instant::now() + LONG;
        let late = loop {
            assert!(Instant::now() < deadline);
            if let Some(late) = helper.late_answer() {
                break late;
            }
            thread::yield_now();
        };
        assert_eq!(late, (0, 0));
        // After a slow answer there is no wait for the next one. If the next answer arrives at once, waiting resumes.
        if helper.ask(7).is_none() {
            while helper.late_answer().is_none() {
                assert!(Instant::now() < deadline);
                thread::yield_now();
            }
        }
        assert!(!helper.slow);
    }

    #[test]
    fn a_thread_that_is_lost_is_started_again() {
        let mut helper = Helper::new("test-helper", LONG, |question: &u32| {
            assert_ne!(*question, 1, "a defect, for this test");
            *question
        });
        assert_eq!(helper.ask(1), None);
        let deadline = Instant::now() + LONG;
        while helper.ask(2).is_none() {
            assert!(Instant::now() < deadline);
        }
    }
}
