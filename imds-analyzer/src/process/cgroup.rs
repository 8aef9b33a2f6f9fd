//! Reads systemd unit, container, pod and task from `/proc/<pid>/cgroup`. Pure.
//!
//! A line is `hierarchy:controllers:path` (cgroups(7)). cgroup v2 is `0::path`; systemd's own v1 hierarchy has
//! `name=systemd` as its controllers. On hybrid hosts both exist. Names that are not certain to be a container's, pod's
//! or task's are left out, and so are names that a user chose ([`Hierarchies`]).

mod container;
mod hierarchies;
#[cfg(test)]
mod tests;

pub use self::hierarchies::Hierarchies;
use crate::{
    event::{Container, Orchestrator},
    secrets,
};

/// The placement of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The innermost service, else scope, as named by systemd. For processes of a user's own manager, the manager's
    /// unit.
    pub unit: Option<String>,
    /// Like `unit`, but only of this host's systemd, not inside a container.
    pub system_unit: Option<String>,
    /// The innermost slice.
    pub slice: Option<String>,
    /// Like `unit` and `slice`, below a user's own manager or another cgroup that belongs to a user.
    pub user_unit: Option<String>,
    pub user_slice: Option<String>,
    /// Id of the login session, from its scope.
    pub session: Option<String>,
    /// The innermost container named by the system.
    pub container: Option<Container>,
    pub orchestrator: Option<Orchestrator>,
    /// If there is no `container`, the container that names chosen by a user claim.
    pub user_container: Option<Container>,
}

/// Parses `/proc/<pid>/cgroup` by names alone. Unknown names are left out.
pub fn parse(text: &str) -> Placement {
    parse_in(text, &Hierarchies::default())
}

/// Parses one path, of the unified hierarchy, by names alone.
pub fn parse_path(path: &str) -> Placement {
    parse_path_in(path, &Hierarchies::default())
}

/// [`parse`] with this host's hierarchies.
pub fn parse_in(text: &str, hierarchies: &Hierarchies) -> Placement {
    let lines: Vec<_> = text.lines().filter_map(line).collect();
    let of_hierarchy = |wanted: &str| lines.iter().copied().find(|(controllers, _)| *controllers == wanted);
    let of_units = [of_hierarchy("name=systemd"), of_hierarchy("")];
    parse_lines(of_units.into_iter().flatten(), &lines, hierarchies)
}

/// [`parse_path`] with this host's hierarchies.
pub fn parse_path_in(path: &str, hierarchies: &Hierarchies) -> Placement {
    let line = (hierarchies.of_kernel(), path);
    parse_lines([line], &[line], hierarchies)
}

/// `of_units`: the lines that may be systemd's own, best first.
fn parse_lines<'a>(
    of_units: impl IntoIterator<Item = (&'a str, &'a str)>,
    lines: &[(&'a str, &'a str)],
    hierarchies: &Hierarchies,
) -> Placement {
    let mut units = of_units
        .into_iter()
        .map(|(controllers, path)| units_of(path, hierarchies.system_part(controllers, path)));
    let is_known = |found: &Placement| found.unit.is_some() || found.user_unit.is_some() || lines.len() == 1;
    let container = trusted(lines, hierarchies, container::innermost);
    let user_container = match container {
        Some(_) => None,
        None => lines.iter().find_map(|(_, path)| container::innermost(path)),
    };
    Placement {
        container,
        user_container,
        orchestrator: trusted(lines, hierarchies, container::orchestrator),
        ..units.find(is_known).unwrap_or_default()
    }
}

/// Reads the names that the system chose. Owners of directories are looked up only if the path has a known name.
fn trusted<T>(lines: &[(&str, &str)], hierarchies: &Hierarchies, read: fn(&str) -> Option<T>) -> Option<T> {
    lines
        .iter()
        .filter(|(_, path)| read(path).is_some())
        .find_map(|(controllers, path)| read(hierarchies.system_part(controllers, path)))
}

/// True if the process may have exited. /proc then shows the root for v1 hierarchies, whatever the zombie's cgroup
/// (`proc_cgroup_show`). The root need not be in all lines: the process may have exited while the text was made, and
/// systemd's own hierarchy is the last line of v1.
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
    /// Fills in what `other` knows about the same process. A container is taken together with its pod or task, and a
    /// user's unit together with the user's manager.
    pub fn or(self, other: Self) -> Self {
        let is_placed = self.container.is_some() || self.orchestrator.is_some() || self.user_container.is_some();
        let has_units = self.unit.is_some() || self.slice.is_some() && other.unit.is_none();
        let of = if is_placed { &self } else { &other };
        let (container, user_container) = (of.container.clone(), of.user_container.clone());
        let orchestrator = of.orchestrator.clone();
        Self {
            container,
            user_container,
            orchestrator,
            ..if has_units { self } else { other }
        }
    }
}

/// Controllers and path, without the mark of a deleted cgroup.
fn line(line: &str) -> Option<(&str, &str)> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    Some((controllers, path.strip_suffix(" (deleted)").unwrap_or(path)))
}

fn names(path: &str) -> std::str::Split<'_, char> {
    path.split('/')
}

/// `system`: the beginning of `path`, named by the system.
fn units_of(path: &str, system: &str) -> Placement {
    let names: Vec<&str> = names(path).collect();
    let system = self::names(system).count().min(names.len());
    let (of_system, _) = names.split_at(system);
    // Processes in a container have units of that container, including a user's manager there.
    let container = container::outermost(of_system);
    let manager = names.iter().position(|name| hierarchies::is_manager(name));
    let own = match manager.filter(|at| *at < system || container.is_some()) {
        Some(at) => at + 1,
        None if container.is_some() => names.len(),
        None => system,
    };
    let (own, user) = names.split_at(own);
    let (outside, _) = names.split_at(container.map_or(system, |at| system.min(at + 1)));
    let session = innermost(own, ".scope");
    let session = session.as_deref().and_then(|scope| scope.strip_prefix("session-"));
    Placement {
        unit: unit(own),
        system_unit: unit(outside),
        slice: innermost(own, ".slice"),
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
    // systemd prefixes `_` to a name that would clash with the kernel's files.
    // The creator of a cgroup chooses its name, which may contain a token.
    found.map(|unit| secrets::mask_path(unit.strip_prefix('_').unwrap_or(unit)))
}
