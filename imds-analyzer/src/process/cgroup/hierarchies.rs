//! Decides which names of a cgroup's path the system chose, and which a user.
//!
//! The owner of a cgroup's directory names all cgroups below it. systemd delegates directories to the managers of users
//! (`user@<uid>.service`, `capsule@<name>.service`), which are recognised by name, and to services with `Delegate=`
//! that run as another user; container runtimes delegate them to containers with their own user ids. Those are
//! recognised by the owner of the directory: one stat(2) per name, from the top, until one does not belong to root.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FsWord, statfs};

use crate::host::mounts;

/// Mounts of the cgroup hierarchies. Without mounts, names alone decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hierarchies {
    mounts: Vec<Mount>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// Controllers of a v1 hierarchy; `None` for v2.
    options: Option<String>,
    /// The cgroup that is mounted.
    root: String,
    point: PathBuf,
}

impl Hierarchies {
    /// # Errors
    ///
    /// When the mounts cannot be read.
    pub fn of_this_host() -> io::Result<Self> {
        let mut found = Self::of(mounts::read()?);
        // A mount that is covered by another has no visible directories.
        found.mounts.retain(|mount| is_cgroup(&mount.point));
        Ok(found)
    }

    fn of(mounts: impl IntoIterator<Item = mounts::Mount>) -> Self {
        let mounts = mounts.into_iter().filter_map(|mount| {
            Some(Mount {
                options: match mount.system.as_str() {
                    "cgroup" => Some(mount.options),
                    "cgroup2" => None,
                    _ => return None,
                },
                root: mount.root,
                point: mount.point,
            })
        });
        Self {
            mounts: mounts.collect(),
        }
    }

    /// Controllers of the hierarchy whose paths the kernel side reads: v1's `pids` if it exists, and v2.
    pub(super) fn of_kernel(&self) -> &'static str {
        const PIDS: &str = "pids";
        if self.mounts.iter().any(|mount| mount.holds(PIDS)) {
            PIDS
        } else {
            ""
        }
    }

    /// The beginning of `path` that the system named, up to and including the first directory that a user owns.
    pub fn system_part<'a>(&self, controllers: &str, path: &'a str) -> &'a str {
        let path = by_name(path);
        let found = self.mounts.iter().filter(|mount| mount.holds(controllers));
        // Without a mount there is nothing to check. `..` is not visible from here.
        let mut below = found.filter_map(|mount| Some((mount, mount.below(path)?)));
        let Some((mount, below)) = below.next().filter(|_| !path.split('/').any(|name| name == "..")) else {
            return path;
        };
        let mut directory = mount.point.clone();
        let mut end = path.len() - below.len();
        for name in below.split_inclusive('/') {
            end += name.len();
            let name = name.trim_end_matches('/');
            if name.is_empty() {
                continue;
            }
            directory.push(name);
            if !is_of_root(&directory) {
                return path.get(..end).unwrap_or(path).trim_end_matches('/');
            }
        }
        path
    }
}

impl Mount {
    fn holds(&self, controllers: &str) -> bool {
        match &self.options {
            None => controllers.is_empty(),
            Some(options) => {
                !controllers.is_empty()
                    && controllers
                        .split(',')
                        .all(|wanted| options.split(',').any(|option| option == wanted))
            }
        }
    }

    /// The part of `path` below the mounted cgroup.
    fn below<'a>(&self, path: &'a str) -> Option<&'a str> {
        let below = path.strip_prefix(self.root.trim_end_matches('/'))?;
        (below.is_empty() || below.starts_with('/')).then_some(below)
    }
}

/// True if only root can name cgroups below. A deleted directory may have belonged to anybody, but its own name was
/// chosen by the owner of the directory above.
fn is_of_root(directory: &Path) -> bool {
    const WRITABLE_BY_GROUP: u32 = 0o020;
    const WRITABLE_BY_OTHERS: u32 = 0o002;
    fs::symlink_metadata(directory).is_ok_and(|data| {
        let by_group = data.gid() != 0 && data.mode() & WRITABLE_BY_GROUP != 0;
        data.uid() == 0 && !by_group && data.mode() & WRITABLE_BY_OTHERS == 0
    })
}

/// The path up to the outermost manager of a user.
fn by_name(path: &str) -> &str {
    let mut end = 0;
    for name in path.split_inclusive('/') {
        end += name.len();
        if is_manager(name.trim_end_matches('/')) {
            return path.get(..end).unwrap_or(path).trim_end_matches('/');
        }
    }
    path
}

/// True for the unit of a user's systemd, or of a capsule.
pub(super) fn is_manager(unit: &str) -> bool {
    (unit.starts_with("user@") || unit.starts_with("capsule@")) && unit.ends_with(".service")
}

fn is_cgroup(point: &Path) -> bool {
    const CGROUP: FsWord = 0x0027_e0eb;
    const CGROUP2: FsWord = 0x6367_7270;
    statfs(point).is_ok_and(|it| matches!(it.f_type, CGROUP | CGROUP2))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;
    use crate::process::cgroup::parse_in;

    const ID: &str = "abababababababababababababababababababababababababababababababab";

    /// A v2 hierarchy with `paths`, of which those in `owned` belong to another user.
    fn hierarchy(directory: &Path, paths: &[&str], owned: &[&str]) -> Hierarchies {
        for path in paths {
            fs::create_dir_all(directory.join(path)).expect("a directory");
        }
        for path in owned {
            chown(directory.join(path), Some(65534), None).expect("owned");
        }
        Hierarchies {
            mounts: vec![Mount {
                options: None,
                root: "/".to_owned(),
                point: directory.to_owned(),
            }],
        }
    }

    #[test]
    fn mounts() {
        let text = r"25 24 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
26 25 0:23 /docker/1\0402 /mnt/a\134x2db rw shared:7 - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / / rw - ext4 /dev/root rw
28 25 0:25 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
nonsense - cgroup";
        let found = Hierarchies::of(mounts::parse(text));
        let [unified, cpu, systemd] = found.mounts.as_slice() else {
            unreachable!("{found:?}")
        };
        assert!(unified.holds("") && !unified.holds("cpu"));
        assert!(cpu.holds("cpu,cpuacct") && cpu.holds("cpu") && !cpu.holds("") && !cpu.holds("pids"));
        assert!(systemd.holds("name=systemd") && !systemd.holds("name=elogind"));
        assert_eq!(
            (cpu.root.as_str(), cpu.point.to_str()),
            ("/docker/1 2", Some(r"/mnt/a\x2db"))
        );
        assert_eq!(cpu.below("/docker/1 2/x"), Some("/x"));
        assert_eq!(cpu.below("/docker/1 23"), None);
        assert_eq!(unified.below("/x/y"), Some("/x/y"));
    }

    #[test]
    fn what_is_below_a_users_own_manager_is_the_users() {
        let names_only = Hierarchies::default();
        for (path, part) in [
            ("/", "/"),
            ("/system.slice/app.service", "/system.slice/app.service"),
            (
                "/user.slice/user-7.slice/user@7.service/app.slice/x.service",
                "/user.slice/user-7.slice/user@7.service",
            ),
            ("/a/user@7.service/user@0.service/b", "/a/user@7.service"),
            (
                "/capsule.slice/capsule@x.service/y.scope",
                "/capsule.slice/capsule@x.service",
            ),
            ("/a/user@7.service", "/a/user@7.service"),
            ("/a/user@7.service.d/b", "/a/user@7.service.d/b"),
        ] {
            assert_eq!(names_only.system_part("", path), part);
        }
    }

    #[test]
    fn what_is_below_a_users_directory_is_the_users() {
        let directory = tempfile::tempdir().expect("a directory");
        let found = hierarchy(
            directory.path(),
            &["system.slice/app.service/a/b", "system.slice/own.service/a", "open/a"],
            &["system.slice/app.service", "system.slice/app.service/a"],
        );
        fs::set_permissions(
            directory.path().join("open"),
            std::os::unix::fs::PermissionsExt::from_mode(0o777),
        )
        .expect("open");
        for (path, part) in [
            ("/system.slice/app.service/a/b", "/system.slice/app.service"),
            ("/system.slice/app.service", "/system.slice/app.service"),
            ("/system.slice/own.service/a", "/system.slice/own.service/a"),
            // Deleted: root chose its name, but the owner of what was below is unknown.
            ("/system.slice/gone.service/a/b", "/system.slice/gone.service"),
            ("/open/a", "/open"),
            ("/../system.slice/app.service/a", "/../system.slice/app.service/a"),
            ("", ""),
        ] {
            assert_eq!(found.system_part("", path), part);
        }
        // No such hierarchy is mounted.
        let path = "/system.slice/app.service/a";
        assert_eq!(found.system_part("pids", path), path);
    }

    /// Every form of container, pod and task names, below directories of a user.
    #[test]
    fn no_name_of_a_user_s_is_a_container_of_the_system_s() {
        let directory = tempfile::tempdir().expect("a directory");
        let found = hierarchy(
            directory.path(),
            &[
                "system.slice/app.service",
                "user.slice/user-7.slice/session-3.scope/own",
                "user.slice/user-7.slice/user@7.service",
                "capsule.slice",
                "user/al/0",
            ],
            &[
                "system.slice/app.service",
                "user.slice/user-7.slice/session-3.scope/own",
                "user/al/0",
            ],
        );
        let names = [
            format!("docker-{ID}.scope"),
            format!("docker/{ID}"),
            format!("libpod-{ID}.scope/container"),
            format!("crio-{ID}.scope"),
            format!("ecs/0123456789abcdef0123456789abcdef/{ID}"),
            format!("ecstasks-0123456789abcdef0123456789abcdef.slice/docker-{ID}.scope"),
            format!(
                "kubepods.slice/kubepods-burstable-pod12345678_1234_1234_1234_123456789abc.slice/cri-containerd-{ID}.scope"
            ),
            format!("kubepods-burstable-pod12345678_1234_1234_1234_123456789abc.slice:cri-containerd:{ID}"),
            "lxc.payload.victim".to_owned(),
            "lxc/victim".to_owned(),
            "machine.slice/machine-victim.scope/payload".to_owned(),
            "machine.slice/systemd-nspawn@victim.service".to_owned(),
            ID.to_owned(),
            "user@0.service/amazon-ssm-agent.service".to_owned(),
        ];
        for (parent, unit) in [
            ("/user.slice/user-7.slice/user@7.service", Some("user@7.service")),
            (
                "/user.slice/user-7.slice/user@7.service/app.slice/run-u3.scope",
                Some("user@7.service"),
            ),
            ("/capsule.slice/capsule@x.service", Some("capsule@x.service")),
            ("/system.slice/app.service", Some("app.service")),
            ("/user.slice/user-7.slice/session-3.scope/own", Some("session-3.scope")),
            ("/user/al/0", None),
        ] {
            for name in &names {
                let path = format!("0::{parent}/{name}");
                let placement = parse_in(&path, &found);
                assert_eq!(
                    (&placement.container, &placement.orchestrator),
                    (&None, &None),
                    "{path}"
                );
                assert_eq!(placement.unit.as_deref(), unit, "{path}");
                assert_eq!(placement.system_unit.as_deref(), unit, "{path}");
            }
            // A unit's name is not a unit of the system there either.
            let path = format!("0::{parent}/amazon-ssm-agent.service");
            let placement = parse_in(&path, &found);
            assert_eq!(placement.system_unit.as_deref(), unit, "{path}");
            if unit.is_some() {
                assert_eq!(
                    placement.user_unit.as_deref(),
                    Some("amazon-ssm-agent.service"),
                    "{path}"
                );
            }
        }
    }

    /// A runtime makes a container with its own user ids the owner of the container's directory.
    #[test]
    fn a_container_that_owns_its_directory_is_still_the_system_s() {
        let directory = tempfile::tempdir().expect("a directory");
        let (docker, lxc) = (format!("system.slice/docker-{ID}.scope"), "lxc.payload.focal");
        let found = hierarchy(directory.path(), &[&docker, lxc], &[&docker, lxc]);
        let forged = "kubepods.slice/lxc.payload.victim/amazon-ssm-agent.service";
        for (place, id, unit) in [
            (docker.as_str(), ID, Some(format!("docker-{ID}.scope"))),
            (lxc, "focal", None),
        ] {
            let placement = parse_in(&format!("0::/{place}/{forged}"), &found);
            assert_eq!(placement.container.map(|it| it.id).as_deref(), Some(id));
            assert_eq!(placement.system_unit, unit);
            assert_eq!(
                placement.unit.as_deref(),
                Some("amazon-ssm-agent.service"),
                "as the container has it"
            );
            assert_eq!(placement.user_unit, None);
        }
    }

    /// In v1 each hierarchy has its own directories, and a user may own one in only one of the hierarchies.
    #[test]
    fn a_users_directory_in_one_hierarchy_of_v1_says_nothing_for_the_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let unified = hierarchy(
            directory.path(),
            &["freezer/user/al", "systemd/system.slice"],
            &["freezer/user/al"],
        );
        let mount = |options: &str, at: &str| Mount {
            options: Some(options.to_owned()),
            root: "/".to_owned(),
            point: unified.mounts[0].point.join(at),
        };
        let found = Hierarchies {
            mounts: vec![mount("rw,freezer", "freezer"), mount("rw,name=systemd", "systemd")],
        };
        let text = format!("2:freezer:/user/al/docker/{ID}\n1:name=systemd:/system.slice/cron.service\n");
        let placement = parse_in(&text, &found);
        assert_eq!(
            (placement.container, placement.system_unit.as_deref()),
            (None, Some("cron.service"))
        );
        assert_eq!(placement.user_container.map(|it| it.id).as_deref(), Some(ID));
    }
}
