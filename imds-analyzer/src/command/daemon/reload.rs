//! The configuration, read again while the service runs.

use std::{sync::mpsc::sync_channel, thread, time::Duration};

use crate::{cli::DaemonArgs, config::Config, place::Trust};

/// How long a reload waits for a look at the directories it names: a file system may hang.
const LOOK: Duration = Duration::from_millis(200);

/// The configuration as it is now, or why it is not taken.
pub(super) fn read(args: &DaemonArgs) -> Result<Config, String> {
    Config::load(args)
        .map_err(|error| error.to_string())
        .and_then(with_places_of_ours)
}

/// `config`, or why the places it names cannot be written to. Where a look takes long nothing is said against them here: each is
/// looked at again when it is written.
fn with_places_of_ours(config: Config) -> Result<Config, String> {
    let (result, wait) = sync_channel(1);
    let looked_at = config.clone();
    let look = thread::Builder::new().name("look-at-places".to_owned()).spawn(move || {
        // Nobody waits any more.
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
