//! What `/proc/<pid>/cgroup` says about who runs a process: systemd unit, container, pod or task. Pure.
//!
//! A line is `hierarchy:controllers:path` (cgroups(7)); cgroup v2 is `0::path`, systemd's own v1 hierarchy has
//! `name=systemd` for its controllers. On hybrid hosts both exist. Names that are not known for certain to be a
//! container's, a pod's or a task's are left out.

mod container;
#[cfg(test)]
mod tests;

use crate::event::{Container, Orchestrator};

/// Where a process stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The innermost service, else the innermost scope, as systemd names it; of what a user's own manager runs, that
    /// manager.
    pub unit: Option<String>,
    /// The innermost slice.
    pub slice: Option<String>,
    /// As `unit` and `slice`, below a user's own manager.
    pub user_unit: Option<String>,
    pub user_slice: Option<String>,
    /// Id of the login session, from its scope.
    pub session: Option<String>,
    /// The innermost container.
    pub container: Option<Container>,
    pub orchestrator: Option<Orchestrator>,
}

/// Reads the text of `/proc/<pid>/cgroup`; what it does not know is left out.
pub fn parse(text: &str) -> Placement {
    let of_hierarchy = |wanted: &str| {
        let mut lines = text.lines().filter_map(line);
        lines
            .find(|(controllers, _)| *controllers == wanted)
            .map(|(_, path)| path)
    };
    let units = [of_hierarchy("name=systemd"), of_hierarchy("")];
    let units = units.into_iter().flatten().map(units_of);
    let mut placement = units.into_iter().find(|found| found.unit.is_some()).unwrap_or_default();
    let containers = || text.lines().filter_map(line).map(|(_, path)| path);
    placement.container = containers().find_map(container::innermost);
    placement.orchestrator = containers().find_map(container::orchestrator);
    placement
}

/// Reads one path, of the hierarchy that everything is in.
pub fn parse_path(path: &str) -> Placement {
    Placement {
        container: container::innermost(path),
        orchestrator: container::orchestrator(path),
        ..units_of(path)
    }
}

/// True if the text may be that of a process that has exited: of v1 hierarchies /proc then shows the root, whatever cgroup
/// the process is in until it is waited for (`proc_cgroup_show`). It need not be in all of them: the process may have
/// exited while the text was made, and the line of systemd's own hierarchy is the last one of v1.
pub fn may_be_of_exited(text: &str) -> bool {
    let lines = || {
        text.lines()
            .filter_map(line)
            .filter(|(controllers, _)| !controllers.is_empty())
    };
    let of_units = lines().find(|(controllers, _)| *controllers == "name=systemd");
    of_units
        .or_else(|| lines().next_back())
        .is_some_and(|(_, path)| path == "/")
}

impl Placement {
    /// With what `other` knows of the same process where this one knows nothing. A container belongs to what placed it, and
    /// a user's unit to that user's manager: they are taken together.
    pub fn or(self, other: Self) -> Self {
        let is_placed = self.container.is_some() || self.orchestrator.is_some();
        let has_units = self.unit.is_some() || self.slice.is_some() && other.unit.is_none();
        let (container, orchestrator) = if is_placed {
            (self.container.clone(), self.orchestrator.clone())
        } else {
            (other.container.clone(), other.orchestrator.clone())
        };
        Self {
            container,
            orchestrator,
            ..if has_units { self } else { other }
        }
    }
}

/// Controllers and path. That of a cgroup which is gone has a mark behind it.
fn line(line: &str) -> Option<(&str, &str)> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    Some((controllers, path.strip_suffix(" (deleted)").unwrap_or(path)))
}

fn names(path: &str) -> std::str::Split<'_, char> {
    path.split('/')
}

fn units_of(path: &str) -> Placement {
    let names: Vec<&str> = names(path).collect();
    let manager = names
        .iter()
        .position(|name| name.starts_with("user@") && name.ends_with(".service"));
    let (system, user) = match manager {
        Some(at) => names.split_at(at + 1),
        None => (names.as_slice(), [].as_slice()),
    };
    let session = innermost(system, ".scope");
    let session = session.as_deref().and_then(|scope| scope.strip_prefix("session-"));
    Placement {
        unit: unit(system),
        slice: innermost(system, ".slice"),
        user_unit: unit(user),
        user_slice: innermost(user, ".slice"),
        session: session.and_then(|id| id.strip_suffix(".scope")).map(str::to_owned),
        ..Placement::default()
    }
}

fn unit(names: &[&str]) -> Option<String> {
    innermost(names, ".service").or_else(|| innermost(names, ".scope"))
}

fn innermost(names: &[&str], suffix: &str) -> Option<String> {
    let found = names
        .iter()
        .rev()
        .find(|name| name.len() > suffix.len() && name.ends_with(suffix));
    // systemd puts `_` before a name that would clash with the kernel's own files.
    found.map(|unit| unit.strip_prefix('_').unwrap_or(unit).to_owned())
}
