//! Reads the configuration again while the service runs.

use std::{sync::mpsc::sync_channel, thread, time::Duration};

use crate::{cli::DaemonArgs, config::Config, place::Trust};

/// How long a reload waits for the check of the directories in the configuration: a file system may hang.
const LOOK: Duration = Duration::from_millis(200);

/// The current configuration, or why it was rejected.
pub(super) fn read(args: &DaemonArgs) -> Result<Config, String> {
    Config::load(args)
        .map_err(|error| error.to_string())
        .and_then(with_places_of_ours)
}

/// Returns `config`, or why the daemon cannot write to the places it names. If the check takes too long, `config` is
/// accepted: each place is checked again when it is written.
fn with_places_of_ours(config: Config) -> Result<Config, String> {
    let (result, wait) = sync_channel(1);
    let looked_at = config.clone();
    let look = thread::Builder::new().name("look-at-places".to_owned()).spawn(move || {
        // The receiver may have stopped waiting.
        let _ = result.send(looked_at.check_places(Trust::of_this_process()));
    });
    if let Err(error) = look {
        tracing::debug!("cannot start a thread: {error}");
    }
    match wait.recv_timeout(LOOK) {
        Ok(Err(error)) => Err(error),
        _ => Ok(config),
    }
}
