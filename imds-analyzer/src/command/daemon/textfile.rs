//! Metrics as a file for node_exporter's textfile collector, for hosts where no port may be opened.
//!
//! The directory may belong to another user, who can put anything at any name in it at any time. So this module never
//! opens a file that is already there: it writes the text to a new file with an unpredictable name, and then renames it
//! over whatever has the final name.

use std::{
    collections::hash_map::RandomState,
    ffi::{OsStr, OsString},
    fs::File,
    hash::{BuildHasher as _, Hasher as _},
    io::{self, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, fchmod, openat, renameat, statat, unlinkat},
    io::Errno,
    process::geteuid,
};

use crate::place::{self, Trust};

const MODE: u32 = 0o644;
/// The collector reads only *.prom.
const UNFINISHED: &str = ".tmp";
/// Length of the random part of a name.
const DIGITS: usize = 16;
/// A random name that exists was put there by another user, or by chance.
const ATTEMPTS: usize = 4;

/// Replaces the file at `path`. A reader sees either the old text or the new one. If `first`, removes unfinished files
/// of earlier runs.
pub(super) fn write(path: &Path, text: &[u8], first: bool) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    let place = place::walk(directory, Trust::of_this_process());
    let directory = place.directory.map_err(|error| match place.distrust {
        Some(distrust) if error.kind() == io::ErrorKind::PermissionDenied => {
            io::Error::new(error.kind(), format!("not following a link: {distrust}"))
        }
        _ => error,
    })?;
    if first {
        remove_leftovers(&directory, name)?;
    }
    let (file, unfinished) = make(&directory, name)?;
    let result = fill(file, text).and_then(|()| Ok(renameat(&directory, &unfinished, &directory, name)?));
    if result.is_err() {
        remove(&directory, &unfinished)?;
    }
    result
}

/// Creates a new file. Returns it with its name.
fn make(directory: &OwnedFd, name: &OsStr) -> io::Result<(File, OsString)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    for _ in 0..ATTEMPTS {
        let random = RandomState::new().build_hasher().finish();
        let mut unfinished = OsString::from(".");
        unfinished.push(name);
        unfinished.push(format!(".{random:0width$x}{UNFINISHED}", width = DIGITS));
        match openat(directory, &unfinished, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => return Ok((file.into(), unfinished)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EXIST.into())
}

fn fill(mut file: File, text: &[u8]) -> io::Result<()> {
    fchmod(&file, MODE.into())?;
    file.write_all(text)
}

/// Removes regular files with our kind of name that belong to this user. No other run is active.
fn remove_leftovers(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Opens the directory again: the given descriptor cannot be read from.
    for entry in Dir::new(openat(directory, ".", flags, Mode::empty())?)? {
        let entry = entry?;
        let entry = OsStr::from_bytes(entry.file_name().to_bytes());
        if !is_unfinished(entry, name) {
            continue;
        }
        let ours = statat(directory, entry, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|found| {
            FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_uid == geteuid().as_raw()
        });
        if ours {
            remove(directory, entry)?;
        }
    }
    Ok(())
}

/// True for the names we use now, and for `<name>.tmp` of older versions.
fn is_unfinished(entry: &OsStr, name: &OsStr) -> bool {
    let (entry, name) = (entry.as_bytes(), name.as_bytes());
    let without = |entry: &[u8]| entry.strip_suffix(UNFINISHED.as_bytes()).map(<[u8]>::to_vec);
    if without(entry).is_some_and(|rest| rest == name) {
        return true;
    }
    let random = entry
        .strip_prefix(b".")
        .and_then(|rest| rest.strip_prefix(name)?.strip_prefix(b"."))
        .and_then(without);
    random.is_some_and(|digits| digits.len() == DIGITS && digits.iter().all(u8::is_ascii_hexdigit))
}

/// Succeeds if the file no longer exists.
fn remove(directory: impl AsFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("a directory");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn fifo(path: &Path) {
        rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, 0o666.into(), 0).expect("a FIFO");
    }

    #[test]
    fn whatever_is_there_is_replaced_and_not_opened() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("imds.prom");
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").expect("written");
        fs::set_permissions(&victim, Permissions::from_mode(0o600)).expect("ours");
        let put: [(&str, &dyn Fn()); 6] = [
            ("nothing", &|| {}),
            ("a file", &|| fs::write(&path, "old").expect("written")),
            ("a link", &|| symlink(&victim, &path).expect("linked")),
            ("a dangling link", &|| symlink("/nowhere/x", &path).expect("linked")),
            ("a hard link", &|| fs::hard_link(&victim, &path).expect("linked")),
            ("a FIFO", &|| fifo(&path)),
        ];
        for (what, put) in put {
            let _ = fs::remove_file(&path);
            put();
            write(&path, b"text\n", true).expect(what);
            let found = fs::symlink_metadata(&path).expect(what);
            assert!(found.is_file() && found.permissions().mode() & 0o7777 == MODE, "{what}");
            assert_eq!(fs::read_to_string(&path).expect(what), "text\n");
            assert_eq!(fs::read_to_string(&victim).expect(what), "precious");
            let mode = fs::metadata(&victim).expect(what).permissions().mode();
            assert_eq!(mode & 0o7777, 0o600, "{what}");
        }
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        assert!(write(&path, b"text\n", false).is_err());
        assert_eq!(names(dir.path()), ["imds.prom", "victim"], "nothing is left");
    }

    #[test]
    fn leftovers_of_ours_go_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("imds.prom");
        let at = |name: &str| dir.path().join(name);
        for name in [
            ".imds.prom.0123456789abcdef.tmp",
            "imds.prom.tmp",
            ".imds.prom.0123.tmp",
            ".imds.prom.0123456789abcdeg.tmp",
            ".other.prom.0123456789abcdef.tmp",
        ] {
            fs::write(at(name), "half").expect("written");
        }
        fifo(&at(".imds.prom.1111111111111111.tmp"));
        symlink("/etc/passwd", at(".imds.prom.2222222222222222.tmp")).expect("linked");
        fs::create_dir(at(".imds.prom.3333333333333333.tmp")).expect("made");
        write(&path, b"1\n", false).expect("written");
        assert_eq!(names(dir.path()).len(), 9);
        write(&path, b"2\n", true).expect("written");
        assert_eq!(
            names(dir.path()),
            [
                ".imds.prom.0123.tmp",
                ".imds.prom.0123456789abcdeg.tmp",
                ".imds.prom.1111111111111111.tmp",
                ".imds.prom.2222222222222222.tmp",
                ".imds.prom.3333333333333333.tmp",
                ".other.prom.0123456789abcdef.tmp",
                "imds.prom",
            ]
        );
    }

    #[test]
    fn no_way_leads_there_by_another_users_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
        fs::create_dir(&theirs).expect("made");
        fs::create_dir(&ours).expect("made");
        symlink(&ours, theirs.join("link")).expect("linked");
        if std::os::unix::fs::chown(&theirs, Some(65534), None).is_err() {
            // Only root can give the directory to another user.
            return;
        }
        write(&theirs.join("imds.prom"), b"text\n", true).expect("the directory itself may be theirs");
        let error = write(&theirs.join("link/imds.prom"), b"text\n", true).expect_err("a link");
        assert!(error.to_string().contains("user 65534"), "{error}");
        assert_eq!(names(&ours), [""; 0]);
        // A link that belongs to root is followed.
        symlink(&ours, dir.path().join("link")).expect("linked");
        write(&dir.path().join("link/imds.prom"), b"text\n", true).expect("written");
        assert_eq!(names(&ours), ["imds.prom"]);
    }
}
