//! Files that another user may have put in place.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// Maximum size of a file that [`text`] reads, in bytes.
pub(crate) const FILE_MAX: u64 = 1 << 20;

/// Opens a regular file for reading. Rejects a pipe or device instead of blocking on it. `flags` are additional flags for
/// open(2).
pub(crate) fn regular(path: &Path, flags: i32) -> io::Result<(File, Metadata)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | flags)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, metadata))
}

/// The text of a regular file of at most 1 MiB, opened like [`regular`].
pub(crate) fn text(path: &Path, flags: i32) -> io::Result<(String, Metadata)> {
    let (file, metadata) = regular(path, flags)?;
    let mut text = String::new();
    file.take(FILE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    Ok((text, metadata))
}
