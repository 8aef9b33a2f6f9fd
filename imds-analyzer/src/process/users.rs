//! User names from `/etc/passwd` and, on request, from the name service.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::PathBuf,
    time::SystemTime,
};

use super::name_service::NameService;
use crate::{event::User, sanitize};

/// Maximum number of bytes to read from the file.
const FILE_MAX: u64 = 4 << 20;
/// Maximum length of a user's name, in bytes.
const NAME_MAX: usize = 64;

/// Names by numeric user id, as of the file's last change.
#[derive(Debug)]
pub(super) struct Users {
    path: PathBuf,
    names: HashMap<u32, String>,
    modified: Option<SystemTime>,
    name_service: Option<NameService>,
}

impl Users {
    /// Reads nothing yet. Names missing from the file are left to the name service, if given.
    pub(super) fn new(path: PathBuf, name_service: Option<NameService>) -> Self {
        Self {
            path,
            names: HashMap::new(),
            modified: None,
            name_service,
        }
    }

    /// Reads the file again if it has changed. Keeps the known names if it cannot be read.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        let modified = std::fs::metadata(&self.path)?.modified()?;
        if self.modified != Some(modified) {
            let mut text = Vec::new();
            File::open(&self.path)?.take(FILE_MAX).read_to_end(&mut text)?;
            self.names = parse(&String::from_utf8_lossy(&text));
            self.modified = Some(modified);
        }
        Ok(())
    }

    /// Number of names without an answer from the name service in time.
    pub(super) fn overdue(&self) -> u64 {
        self.name_service.as_ref().map_or(0, NameService::overdue)
    }

    pub(super) fn user(&mut self, uid: u32) -> User {
        let name = self.names.get(&uid).cloned();
        User {
            id: Some(uid),
            name: name.or_else(|| self.name_service.as_mut()?.name(uid)),
        }
    }
}

/// Bounds a name.
pub(super) fn shown(name: &[u8]) -> String {
    sanitize::lossy(name, NAME_MAX)
}

/// Parses passwd(5): `name:password:uid:...`. The first of two names with one id counts, as in getpwuid(3).
fn parse(text: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with(['#', '+', '-']));
        let uid = fields.nth(1).and_then(|uid| uid.parse().ok());
        if let Some((name, uid)) = name.zip(uid) {
            names.entry(uid).or_insert_with(|| shown(name.as_bytes()));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

    use std::time::Duration;

    use super::{SystemTime, Users, parse};

    #[test]
    fn names_by_id_and_the_first_of_two_counts() {
        let names =
            parse("root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\n#no:x:7:\n+nis::8:\nbroken\n:x:9:\napp:x:1000:\n");
        assert_eq!(names.len(), 2);
        assert_eq!(names.get(&0).unwrap(), "root");
        assert_eq!(names.get(&1000).unwrap(), "app");
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_lost_one_forgets_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "old:x:1:\n").unwrap();
        let mut users = Users::new(file.path().to_owned(), None);
        users.refresh().unwrap();
        assert_eq!(users.user(1).name.as_deref(), Some("old"));

        std::fs::write(file.path(), "new:x:1:\n").unwrap();
        file.as_file()
            .set_modified(SystemTime::now() + Duration::from_secs(5))
            .unwrap();
        users.refresh().unwrap();
        assert_eq!(users.user(1).name.as_deref(), Some("new"));

        file.close().unwrap();
        users.refresh().unwrap_err();
        assert_eq!(users.user(1).name.as_deref(), Some("new"));
    }
}
