//! Calls as they are made.

use std::{io, time::SystemTime};

use super::Source;
use crate::{
    console, event::Event, host::clock::Now, identity::Identity, notice::Notice, record::Record, session::Session,
    sink::Sink, top::State,
};

/// Adds up what the session sees.
pub(super) struct Live {
    pub(super) state: State,
    host: Identity,
}

impl Live {
    pub(super) fn new(color: bool) -> Self {
        Self {
            state: State::new(String::new(), color),
            host: console::this_host(),
        }
    }
}

impl Sink for Live {
    fn write(&mut self, event: &Event) -> io::Result<()> {
        self.state
            .apply(&Record::of_request(event, &self.host), Now::read().wall);
        Ok(())
    }

    fn notice(&mut self, time: SystemTime, notice: &Notice<'_>) -> io::Result<()> {
        self.state
            .apply(&Record::of_notice(time, notice, &self.host), Now::read().wall);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Session<Live> {
    fn state(&mut self) -> &mut State {
        let loss = self.loss();
        let state = &mut self.sink().state;
        state.set_loss(loss);
        state.advance(Now::read().wall);
        state
    }
}
