//! The terminal: drawn on when something has changed, and given back as it was.

use std::{
    fs::{self, OpenOptions},
    future::pending,
    io::{self, Write as _, stdout},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    panic,
    path::{self, Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use anyhow::Context as _;
use ratatui::{
    DefaultTerminal,
    crossterm::{
        cursor::Show,
        execute,
        terminal::{EnterAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
    layout::Rect,
};
use rustix::process::{Signal as Kill, getpid, getppid, getsid, kill_current_process_group, kill_process};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::Source;
use crate::{
    console,
    host::{clock::Now, waiting},
    session::Tick,
    top::{
        State,
        draw::{draw, room},
        keys::{Action, Decoder, Key, action},
        save,
    },
};

/// Between two drawings while records come.
const PAUSE: Duration = Duration::from_millis(250);
/// Between two drawings while only time passes.
const STEP: Duration = Duration::from_secs(1);

/// The terminal while it shows the table.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    input: AsyncFd<OwnedFd>,
    decoder: Decoder,
    resized: Signal,
    stopped: Signal,
    continued: Signal,
    drawn: Instant,
    /// When to draw next; `None` while nothing changes.
    next: Option<Instant>,
    leave: Rc<Notify>,
}

/// What happened.
pub(super) enum Due {
    Keys(Vec<Key>),
    /// The terminal is gone.
    Closed,
    Resized,
    Stop,
    Continued,
    Draw,
}

impl Screen {
    /// `leave` is told when the user wants to leave. Dropping it gives the terminal back.
    pub(super) fn open(leave: Rc<Notify>) -> anyhow::Result<Self> {
        let (resized, stopped, continued) = (
            signal(SignalKind::window_change())?,
            signal(SignalKind::from_raw(libc::SIGTSTP))?,
            signal(SignalKind::from_raw(libc::SIGCONT))?,
        );
        let input = io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .and_then(waiting::readable)
            .context("cannot wait for the terminal")?;
        let terminal = ratatui::try_init()
            .inspect_err(|_| drop(ratatui::try_restore()))
            .context("cannot draw on the terminal")?;
        // The panic hook that it has set does not show the cursor.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let _ = execute!(stdout(), Show);
            hook(info);
        }));
        console::hold();
        Ok(Self {
            terminal,
            input,
            decoder: Decoder::default(),
            resized,
            stopped,
            continued,
            drawn: Instant::now(),
            next: None,
            leave,
        })
    }

    pub(super) fn draw(&mut self, source: &mut impl Source) -> io::Result<()> {
        let state = source.state();
        state.set_warning(console::last_held());
        self.terminal.draw(|frame| draw(state, frame)).map_err(cannot_draw)?;
        self.drawn = Instant::now();
        self.next = state.is_moving().then(|| self.drawn + STEP);
        Ok(())
    }

    /// Draws all cells, whatever the terminal shows.
    fn draw_anew(&mut self, source: &mut impl Source) -> io::Result<()> {
        let size = self.terminal.size()?;
        // Not clear(), which asks the terminal where its cursor is and waits for the answer.
        self.terminal.resize(Rect::from(size)).map_err(cannot_draw)?;
        self.draw(source)
    }

    fn press(&mut self, key: Key, source: &mut impl Source) -> io::Result<()> {
        let state = source.state();
        let Some(action) = action(key, state.mode()) else {
            return Ok(());
        };
        let size = self.terminal.size()?;
        let room = room(state, (size.width, size.height));
        state.act(action, room);
        match action {
            Action::Quit => self.leave.notify_one(),
            // To all processes of the job, as the terminal does it in other modes.
            Action::Suspend if can_continue() => kill_current_process_group(Kill::TSTP)?,
            Action::Suspend => state.say("no shell here could go on with it".to_owned()),
            Action::Redraw => self.draw_anew(source)?,
            Action::Write => {
                let message = match write(state) {
                    Ok(path) => format!("written to {}", path.display()),
                    Err(error) => format!("{error:#}"),
                };
                state.say(message);
            }
            _ => {}
        }
        Ok(())
    }

    /// Stops this process; it goes on when somebody continues it.
    fn stop(&mut self) -> io::Result<()> {
        if can_continue() {
            self.give_back();
            kill_process(getpid(), Kill::STOP)?;
        }
        Ok(())
    }

    /// Leaves the terminal as it was. If it is gone, there is nobody to tell.
    fn give_back(&mut self) {
        let _ = self.terminal.show_cursor();
        let _ = ratatui::try_restore();
    }

    /// Takes the terminal again: whoever had it meanwhile may have changed it.
    fn go_on(&mut self, source: &mut impl Source) -> io::Result<()> {
        disable_raw_mode()?;
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen)?;
        self.draw_anew(source)
    }
}

impl<S: Source> Tick<S> for Screen {
    type Due = Due;

    fn handled(&mut self, _: &mut S) {
        let due = self.drawn + PAUSE;
        self.next = Some(self.next.map_or(due, |next| next.min(due)));
    }

    async fn due(&mut self) -> Due {
        tokio::select! {
            read = keys(&self.input, &mut self.decoder) => read.map_or(Due::Closed, Due::Keys),
            _ = self.resized.recv() => Due::Resized,
            _ = self.stopped.recv() => Due::Stop,
            _ = self.continued.recv() => Due::Continued,
            () = until(self.next) => Due::Draw,
        }
    }

    fn tick(&mut self, due: Due, source: &mut S) -> io::Result<()> {
        match due {
            Due::Keys(keys) => {
                for key in keys {
                    self.press(key, source)?;
                }
                self.draw(source)
            }
            Due::Closed => {
                self.leave.notify_one();
                // Nobody sees it, and it may have no end.
                self.next = None;
                Ok(())
            }
            Due::Resized => self.draw_anew(source),
            Due::Stop => self.stop(),
            Due::Continued => self.go_on(source),
            Due::Draw => self.draw(source),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.give_back();
        console::release();
    }
}

/// The keys that were pressed; an error if the terminal is gone. Cancel safe.
///
/// Not by crossterm, which waits for the rest of a sequence, and never ends when the terminal is gone.
async fn keys(input: &AsyncFd<OwnedFd>, decoder: &mut Decoder) -> io::Result<Vec<Key>> {
    let mut keys = Vec::new();
    let mut bytes = [0; 1024];
    while keys.is_empty() {
        let mut ready = input.readable().await?;
        // Reading waits if there is nothing: the descriptor is shared with the shell, and so cannot be non-blocking.
        if rustix::io::ioctl_fionread(input.get_ref())? == 0 {
            ready.clear_ready();
            continue;
        }
        let count = rustix::io::read(input.get_ref(), &mut bytes)?;
        decoder.keys(bytes.get(..count).unwrap_or_default(), |key| keys.push(key));
    }
    Ok(keys)
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// True if somebody is there to continue this process after it was stopped: its parent, in the same session, as a shell is.
fn can_continue() -> bool {
    let own = getsid(None);
    own.is_ok() && getppid().is_some_and(|parent| getsid(Some(parent)) == own)
}

/// Writes the state to a new file in the working directory, which only its owner may read: it has command lines.
fn write(state: &State) -> anyhow::Result<PathBuf> {
    let now = Now::read().wall;
    let time = humantime::format_rfc3339_seconds(now)
        .to_string()
        .replace([':', '-'], "");
    let path = PathBuf::from(format!("imds-analyzer-top-{time}.json"));
    let text = save::document(state, now)?;
    let path = path::absolute(&path).unwrap_or(path);
    write_new(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

fn cannot_draw(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot draw on the terminal: {error}"))
}
