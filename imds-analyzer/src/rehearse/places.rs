//! The cgroups of units and containers, which come and go: the kernel side knows them by id.

use std::{
    collections::BTreeSet,
    fs, future, io,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::inotify::WatchFlags;

use super::Selectors;
use crate::{host::waiting::Changes, kernel::cgroup::Root, process::cgroup};

/// Deepest cgroup looked at.
const DEPTH_MAX: usize = 16;
/// Maximum number of cgroups that are chosen.
const CHOSEN_MAX: usize = 8192;

/// Shortest time between two looks: users who may create cgroups must not keep this process busy.
const PAUSE: Duration = Duration::from_millis(10);

/// The cgroup v2 hierarchy, and the ids that are known already.
#[derive(Debug)]
pub(super) struct Places {
    root: PathBuf,
    known: BTreeSet<u64>,
    /// `None` if not all cgroups can be watched.
    changes: Option<Changes>,
    looked: Option<Instant>,
}

impl Places {
    /// `None` if the host has not mounted cgroup2: then the processes of a unit are chosen one by one.
    pub(super) fn of_this_host() -> Option<Self> {
        match Root::open() {
            Ok(Root::Mounted(root, _)) => Some(Self {
                changes: Changes::new().inspect_err(explain).ok(),
                ..Self::at(root)
            }),
            _ => None,
        }
    }

    fn at(root: PathBuf) -> Self {
        Self {
            root,
            known: BTreeSet::new(),
            changes: None,
            looked: None,
        }
    }

    /// Waits until a cgroup is created. Cancel safe.
    pub(super) async fn created(&mut self) {
        if let Some(left) = self.looked.and_then(|looked| PAUSE.checked_sub(looked.elapsed())) {
            tokio::time::sleep(left).await;
        }
        let result = match &self.changes {
            Some(changes) => changes.wait().await,
            None => future::pending().await,
        };
        if let Err(error) = result {
            explain(&error);
            self.changes = None;
        }
    }

    /// The ids of cgroups of the selected units and containers that were not there before.
    pub(super) fn new_of(&mut self, selectors: &Selectors) -> Vec<u64> {
        let mut new = Vec::new();
        let mut left = vec![(self.root.clone(), 0)];
        while let Some((directory, depth)) = left.pop() {
            self.watch(&directory);
            // A cgroup that has gone meanwhile has no process any more.
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|it| it.is_dir()) {
                    continue;
                }
                let path = entry.path();
                if self.is_of(selectors, &path) && self.known.len() < CHOSEN_MAX {
                    // The id of a cgroup is its inode number (cgroup_id, include/linux/cgroup.h).
                    let id = fs::metadata(&path).map_or(entry.ino(), |it| it.ino());
                    if self.known.insert(id) {
                        new.push(id);
                    }
                }
                if depth < DEPTH_MAX {
                    left.push((path, depth + 1));
                }
            }
        }
        self.looked = Some(Instant::now());
        new
    }

    /// Before the directory is read, so that no cgroup is missed between the two.
    fn watch(&mut self, directory: &Path) {
        let Some(changes) = &self.changes else { return };
        match changes.add(directory, WatchFlags::CREATE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                explain(&error);
                self.changes = None;
            }
            _ => {}
        }
    }

    fn is_of(&self, selectors: &Selectors, path: &Path) -> bool {
        let Ok(inside) = path.strip_prefix(&self.root) else {
            return false;
        };
        let placement = cgroup::parse_path(&format!("/{}", inside.display()));
        let units = [placement.unit, placement.system_unit, placement.user_unit];
        let containers = [placement.container, placement.user_container];
        units.iter().flatten().any(|unit| selectors.has_unit(unit))
            || containers.iter().flatten().any(|it| selectors.has_container(it))
    }
}

fn explain(error: &io::Error) {
    tracing::warn!(
        "cannot watch for new cgroups: {error}; calls pass in the first quarter of a second of a new one \
         (fs.inotify limits how many can be watched)"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_of_a_unit_are_found_when_they_appear() {
        let root = tempfile::tempdir().expect("a directory");
        let make = |path: &str| fs::create_dir_all(root.path().join(path)).expect("created");
        let id = |path: &str| fs::metadata(root.path().join(path)).expect("there").ino();
        make("system.slice/app.service/worker");
        make("system.slice/other.service");
        let selectors = Selectors {
            units: vec!["app".to_owned(), "late".to_owned()],
            ..Selectors::default()
        };
        let mut places = Places::at(root.path().to_owned());
        let mut found = places.new_of(&selectors);
        let mut expected = vec![id("system.slice/app.service"), id("system.slice/app.service/worker")];
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(places.new_of(&selectors), [0; 0]);
        make("system.slice/late.service");
        assert_eq!(places.new_of(&selectors), [id("system.slice/late.service")]);
    }

    #[test]
    fn cgroups_of_a_container_are_found_by_its_id() {
        let root = tempfile::tempdir().expect("a directory");
        let full = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let path = format!("system.slice/docker-{full}.scope");
        fs::create_dir_all(root.path().join(&path)).expect("created");
        let selectors = Selectors {
            containers: vec![full[..12].to_owned()],
            ..Selectors::default()
        };
        let found = Places::at(root.path().to_owned()).new_of(&selectors);
        assert_eq!(found, [fs::metadata(root.path().join(path)).expect("there").ino()]);
    }
}
