//! Directories that the daemon writes to, and other users who can change them.
//!
//! A user who can write to a directory, or to one above it, can put a link, a pipe or a directory in the place of a
//! file at any moment. So every step of a path is checked, and a link is not followed if such a user could have created
//! it.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fmt, io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags, Stat, fstat, open, openat, readlinkat},
    io::Errno,
    process::geteuid,
};

/// Maximum number of links, like the kernel's `MAXSYMLINKS`.
const LINKS_MAX: usize = 40;
const ROOT: u32 = 0;
const WRITABLE_BY_GROUP: u32 = 0o020;
const WRITABLE_BY_ALL: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Users whose directories and files are trusted: root, and one more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trust {
    user: u32,
}

/// A step of a path that another user can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Distrust {
    path: PathBuf,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Owner(u32),
    Group(u32),
    Everybody,
}

/// Result of a walk along a path.
#[derive(Debug)]
pub(crate) struct Place {
    /// The directory (`O_PATH`), or the error.
    pub(crate) directory: io::Result<OwnedFd>,
    /// The first step that another user can change.
    pub(crate) distrust: Option<Distrust>,
}

impl Trust {
    /// Root and the user of this process.
    pub(crate) fn of_this_process() -> Self {
        Self {
            user: geteuid().as_raw(),
        }
    }

    /// Only root, which is the user of the service.
    pub(crate) fn of_service() -> Self {
        Self { user: ROOT }
    }

    pub(crate) fn has(self, user: u32) -> bool {
        user == ROOT || user == self.user
    }

    /// `last`: files are created in this directory. Above it, the sticky bit protects names, and a group with write
    /// permission is the system's (on Ubuntu, group syslog for /var/log).
    fn why_not(self, directory: &Stat, last: bool) -> Option<Why> {
        let mode = directory.st_mode;
        if !self.has(directory.st_uid) {
            return Some(Why::Owner(directory.st_uid));
        }
        if mode & WRITABLE_BY_ALL != 0 && (last || mode & STICKY == 0) {
            return Some(Why::Everybody);
        }
        (last && mode & WRITABLE_BY_GROUP != 0 && directory.st_gid != ROOT).then_some(Why::Group(directory.st_gid))
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.why {
            Why::Owner(user) => write!(f, "{path} belongs to user {user}"),
            Why::Group(group) => write!(f, "{path} is writable by group {group}"),
            Why::Everybody => write!(f, "{path} is writable by everyone"),
        }
    }
}

/// Walks to the directory at the absolute `path`. Follows a link only if no other user can change it or any step before
/// it.
pub(crate) fn walk(path: &Path, trust: Trust) -> Place {
    let mut distrust = None;
    let directory = try_walk(path, trust, &mut distrust);
    Place { directory, distrust }
}

fn try_walk(path: &Path, trust: Trust, distrust: &mut Option<Distrust>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = || open("/", flags, Mode::empty());
    let mut here = root()?;
    let mut shown = PathBuf::from("/");
    let mut steps = steps_of(path);
    let mut links = 0;
    let mut judge = |found: &Stat, shown: &Path, last: bool| {
        if distrust.is_none() {
            *distrust = trust.why_not(found, last).map(|why| Distrust {
                path: shown.to_owned(),
                why,
            });
        }
        distrust.is_some()
    };
    judge(&fstat(&here)?, &shown, steps.is_empty());
    while let Some(step) = steps.pop_front() {
        let next = openat(&here, step.as_os_str(), flags, Mode::empty())?;
        let found = fstat(&next)?;
        shown.push(&step);
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Symlink => {
                // A link cannot be written, but its owner can replace it.
                let mut link = found;
                link.st_mode = 0;
                if judge(&link, &shown, false) {
                    return Err(Errno::PERM.into());
                }
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP.into());
                }
                let target = readlinkat(&next, "", Vec::new())?.into_bytes();
                let target = PathBuf::from(OsString::from_vec(target));
                if target.is_absolute() {
                    here = root()?;
                    shown = PathBuf::from("/");
                } else {
                    shown.pop();
                }
                for step in steps_of(&target).into_iter().rev() {
                    steps.push_front(step);
                }
            }
            FileType::Directory => {
                judge(&found, &shown, steps.is_empty());
                here = next;
            }
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    Ok(here)
}

fn steps_of(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| matches!(component, Component::Normal(_) | Component::ParentDir))
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    };

    use super::*;

    /// A directory with `mode` below a temporary one.
    fn directory(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("place");
        fs::create_dir(&path).expect("made");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("ours");
        (dir, path)
    }

    fn why(path: &Path) -> Option<Why> {
        walk(path, Trust::of_this_process()).distrust.map(|it| it.why)
    }

    #[test]
    fn a_directory_is_trusted_if_nobody_else_can_write_it() {
        for (mode, trusted) in [(0o700, true), (0o755, true), (0o777, false), (0o1777, false)] {
            let (_dir, path) = directory(mode);
            assert_eq!(why(&path).is_none(), trusted, "{mode:o}");
            // The same applies to paths below it, except that the sticky bit protects them.
            assert_eq!(
                why(&path.join("not/yet")).is_none(),
                mode & 0o002 == 0 || mode & 0o1000 != 0
            );
        }
        assert_eq!(why(Path::new("/")), None);
    }

    #[test]
    fn others_own_directories_at_any_height() {
        let (_dir, path) = directory(0o755);
        let below = path.join("a/b");
        fs::create_dir_all(&below).expect("made");
        if chown(&path, Some(65534), None).is_err() {
            // Only root can change the owner.
            return;
        }
        assert_eq!(why(&path), Some(Why::Owner(65534)));
        assert_eq!(why(&below), Some(Why::Owner(65534)));
        assert_eq!(
            walk(&below, Trust::of_this_process())
                .distrust
                .expect("another's")
                .to_string(),
            format!("{} belongs to user 65534", path.display())
        );
        // A group may write to directories above, but not where files are created.
        chown(&path, Some(0), Some(65534)).expect("root");
        fs::set_permissions(&path, Permissions::from_mode(0o775)).expect("ours");
        assert_eq!(why(&path), Some(Why::Group(65534)));
        assert_eq!(why(&below), None);
    }

    #[test]
    fn links_are_followed_where_they_are_ours() {
        let (dir, path) = directory(0o755);
        let link = dir.path().join("link");
        symlink("place/../place", &link).expect("linked");
        let place = walk(&link, Trust::of_this_process());
        assert_eq!(place.distrust, None);
        let found = fstat(place.directory.expect("a directory")).expect("open");
        assert_eq!(found.st_ino, fs::metadata(&path).expect("there").ino());

        let circle = dir.path().join("circle");
        symlink("circle", &circle).expect("linked");
        assert!(walk(&circle, Trust::of_this_process()).directory.is_err());
        if std::os::unix::fs::lchown(&link, Some(65534), None).is_err() {
            // Only root can change the owner.
            return;
        }
        let place = walk(&link, Trust::of_this_process());
        assert!(place.distrust.is_some() && place.directory.is_err());
        // A link that belongs to root in another user's directory may have been placed by that user.
        chown(&path, Some(65534), None).expect("root");
        let inner = path.join("inner");
        symlink("/etc", &inner).expect("linked");
        assert!(walk(&inner, Trust::of_this_process()).directory.is_err());
    }

    #[test]
    fn what_is_not_there_is_an_error_and_not_distrusted() {
        let (_dir, path) = directory(0o755);
        let place = walk(&path.join("not/yet"), Trust::of_this_process());
        assert_eq!(place.directory.expect_err("absent").kind(), io::ErrorKind::NotFound);
        assert_eq!(place.distrust, None);
        fs::write(path.join("file"), "").expect("written");
        assert!(walk(&path.join("file/x"), Trust::of_this_process()).directory.is_err());
    }
}
