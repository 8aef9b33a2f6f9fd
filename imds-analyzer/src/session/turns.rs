//! The loop, separate from the session it drives, so that its tests need no kernel.

use std::{convert::Infallible, future, io, pin::pin};

use super::Flow;

/// The thing that the loop drives: a [`Session`](super::Session), or a log that is read in its place.
pub trait Turns {
    /// True if records may be available without waiting.
    fn is_busy(&self) -> bool;

    /// Waits for records and handles some of them. Cancel safe.
    fn next(&mut self) -> impl Future<Output = io::Result<Flow>>;
}

/// A command's work beside the records: a service answers scrapes and reads its configuration again, a live view draws.
/// [`Self::tick`] has the session to itself.
///
/// Nothing runs while nothing is due. Periodic work waits on a timer, and has no timer while there is nothing to do. A
/// live view, for example, starts its timer in [`Self::handled`] and stops it when it has drawn.
pub trait Tick<S> {
    /// A piece of work.
    type Due;

    /// Called after records were handled.
    fn handled(&mut self, session: &mut S) {
        let _ = session;
    }

    /// Waits until there is work. Cancel safe: the loop drops the future when records come first, and creates a new
    /// one.
    fn due(&mut self) -> impl Future<Output = Self::Due>;

    /// Does the work.
    ///
    /// # Errors
    ///
    /// An error ends the loop.
    fn tick(&mut self, due: Self::Due, session: &mut S) -> io::Result<()>;
}

/// No work beside the records.
impl<S> Tick<S> for () {
    type Due = Infallible;

    fn due(&mut self) -> impl Future<Output = Infallible> {
        future::pending()
    }

    fn tick(&mut self, due: Infallible, _: &mut S) -> io::Result<()> {
        match due {}
    }
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End<T> {
    /// `stop` became ready, with this result.
    Stopped(T),
    /// The count of `--count` is reached.
    Enough,
    /// The reader has closed the output.
    Closed,
}

/// Handles records until `stop` is ready, the count is reached, or the output is closed. Runs `tick` when something is
/// due.
pub async fn run<S: Turns, T>(
    session: &mut S,
    stop: impl Future<Output = T>,
    tick: &mut impl Tick<S>,
) -> io::Result<End<T>> {
    let mut stop = pin!(stop);
    let mut gave_way = false;
    loop {
        // In a flood of records, yield once so that other work gets a turn; then the records get theirs.
        let next = async {
            if session.is_busy() && !std::mem::replace(&mut gave_way, true) {
                tokio::task::yield_now().await;
            }
            session.next().await
        };
        tokio::select! {
            flow = next => {
                gave_way = false;
                match flow? {
                    Flow::Continue => tick.handled(session),
                    Flow::Enough => return Ok(End::Enough),
                    Flow::Closed => return Ok(End::Closed),
                }
            }
            due = tick.due() => tick.tick(due, session)?,
            stopped = &mut stop => return Ok(End::Stopped(stopped)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

    use std::{collections::VecDeque, time::Duration};

    use tokio::{sync::mpsc, time};

    use super::*;

    /// Stands for a session: plays back `flows`, then waits for ever, or continues for ever if `flood`.
    #[derive(Default)]
    struct Script {
        flows: VecDeque<io::Result<Flow>>,
        flood: bool,
        turns: u32,
        ticks: Vec<u32>,
    }

    impl Script {
        fn of(flows: impl IntoIterator<Item = Flow>) -> Self {
            Self {
                flows: flows.into_iter().map(Ok).collect(),
                ..Self::default()
            }
        }
    }

    impl Turns for Script {
        fn is_busy(&self) -> bool {
            self.flood
        }

        async fn next(&mut self) -> io::Result<Flow> {
            let flow = match self.flows.pop_front() {
                Some(flow) => flow,
                None if self.flood => Ok(Flow::Continue),
                None => future::pending().await,
            };
            self.turns += 1;
            flow
        }
    }

    /// Receives messages as work, and counts.
    struct Inbox {
        receiver: mpsc::Receiver<u32>,
        waits: u32,
        handled: u32,
    }

    fn inbox(messages: &[u32]) -> (mpsc::Sender<u32>, Inbox) {
        let (sender, receiver) = mpsc::channel(8);
        for message in messages {
            sender.try_send(*message).unwrap();
        }
        let inbox = Inbox {
            receiver,
            waits: 0,
            handled: 0,
        };
        (sender, inbox)
    }

    impl Tick<Script> for Inbox {
        type Due = u32;

        fn handled(&mut self, _: &mut Script) {
            self.handled += 1;
        }

        async fn due(&mut self) -> u32 {
            self.waits += 1;
            self.receiver.recv().await.unwrap()
        }

        fn tick(&mut self, due: u32, session: &mut Script) -> io::Result<()> {
            session.ticks.push(due);
            if due == 0 {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                Ok(())
            }
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn it_ends_when_the_count_is_reached_or_the_output_is_closed() {
        for (last, expected) in [(Flow::Enough, End::Enough), (Flow::Closed, End::Closed)] {
            let mut session = Script::of([Flow::Continue, Flow::Continue, last, Flow::Continue]);
            let end = block_on(run(&mut session, future::pending::<()>(), &mut ())).unwrap();
            assert_eq!((end, session.turns), (expected, 3));
        }
    }

    #[test]
    fn an_error_of_either_side_ends_it() {
        let mut session = Script {
            flows: [Ok(Flow::Continue), Err(io::ErrorKind::StorageFull.into())].into(),
            ..Script::default()
        };
        let error = block_on(run(&mut session, future::pending::<()>(), &mut ())).unwrap_err();
        assert_eq!((error.kind(), session.turns), (io::ErrorKind::StorageFull, 2));

        let (_sender, mut tick) = inbox(&[1, 0, 2]);
        let mut session = Script::default();
        let error = block_on(run(&mut session, future::pending::<()>(), &mut tick)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(session.ticks, [1, 0]);
    }

    #[test]
    fn a_flood_of_records_holds_up_neither_what_is_due_nor_the_end() {
        let mut session = Script {
            flood: true,
            ..Script::default()
        };
        let (sender, mut tick) = inbox(&[1, 2, 3]);
        let stop = async {
            while sender.capacity() < sender.max_capacity() {
                tokio::task::yield_now().await;
            }
            "stopped"
        };
        let end = block_on(run(&mut session, stop, &mut tick)).unwrap();
        assert_eq!(end, End::Stopped("stopped"));
        assert_eq!(tick.handled, session.turns);
        assert_eq!(session.ticks, [1, 2, 3]);
    }

    #[test]
    fn a_flood_of_what_is_due_holds_up_no_records() {
        struct Busy;
        impl Tick<Script> for Busy {
            type Due = ();
            async fn due(&mut self) {}
            fn tick(&mut self, (): (), session: &mut Script) -> io::Result<()> {
                session.ticks.push(1);
                Ok(())
            }
        }
        let mut session = Script::of(std::iter::repeat_n(Flow::Continue, 100).chain([Flow::Enough]));
        session.flood = true;
        let end = block_on(run(&mut session, future::pending::<()>(), &mut Busy)).unwrap();
        assert_eq!((end, session.turns), (End::Enough, 101));
        assert!(!session.ticks.is_empty());
    }

    /// The budget of an idle host: nothing wakes up.
    #[test]
    fn nothing_runs_while_there_is_nothing_to_do() {
        let mut session = Script::of([Flow::Continue, Flow::Continue]);
        let (_sender, mut tick) = inbox(&[7]);
        let stop = async { time::sleep(Duration::from_millis(200)).await };
        let end = block_on(run(&mut session, stop, &mut tick)).unwrap();
        assert_eq!(end, End::Stopped(()));
        assert_eq!((session.turns, session.ticks.as_slice()), (2, &[7][..]));
        // At most one wait after each of the two turns and the tick, and one more for the rest of the time.
        assert!(tick.waits <= 4, "{}", tick.waits);
    }
}
