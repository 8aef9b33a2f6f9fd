//! Metrics as a file, for hosts where no port may be opened: node_exporter's textfile collector reads it.

use std::{
    ffi::OsString,
    fs::{self, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Replaces the file at `path`; whoever reads it sees the old text or the new one.
pub(super) fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut name = OsString::from(path);
    // Not *.prom, which alone is read.
    name.push(".tmp");
    let unfinished = PathBuf::from(name);
    let result = (|| {
        let mut file = File::create(&unfinished)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(text)?;
        fs::rename(&unfinished, path)
    })();
    if result.is_err() {
        // It may not even have been made.
        let _ = fs::remove_file(&unfinished);
    }
    result
}
