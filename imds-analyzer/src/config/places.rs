//! Checks that the paths in a configuration are safe to write to.

use std::{fs, path::Path};

use super::Config;
use crate::place::{self, Trust};

impl Config {
    /// Checks the directories to write to as they are now. They are checked again before each write, because they may
    /// change.
    ///
    /// # Errors
    ///
    /// When another user could remove or replace files there; with the key and a remedy.
    pub(crate) fn check_places(&self, trust: Trust) -> Result<(), String> {
        only_ours("runtime_dir", &self.runtime_dir, trust)?;
        if self.log.enabled {
            if let Some(directory) = self.log.path.parent() {
                only_ours("log.path", directory, trust)?;
            }
            if fs::symlink_metadata(&self.log.path).is_ok_and(|found| !found.is_file()) {
                return Err(format!("log.path: {} is not a regular file", self.log.path.display()));
            }
        }
        let Some(textfile) = &self.metrics.textfile else {
            return Ok(());
        };
        // Its directory may belong to another user, such as node_exporter's: no link there is followed.
        let place = place::walk(textfile.parent().unwrap_or(textfile), trust);
        if let (Err(error), Some(distrust)) = (place.directory, place.distrust)
            && error.kind() == std::io::ErrorKind::PermissionDenied
        {
            return Err(format!(
                "metrics.textfile: {distrust}, who could redirect the path with a link; choose a path without links"
            ));
        }
        if fs::symlink_metadata(textfile).is_ok_and(|found| found.is_dir()) {
            return Err(format!("metrics.textfile: {} is a directory", textfile.display()));
        }
        Ok(())
    }
}

fn only_ours(key: &str, directory: &Path, trust: Trust) -> Result<(), String> {
    match place::walk(directory, trust).distrust {
        Some(distrust) => Err(format!(
            "{key}: {distrust}: other users could remove or replace files there; choose a directory that belongs to root \
             and that only root can write"
        )),
        None => Ok(()),
    }
}
