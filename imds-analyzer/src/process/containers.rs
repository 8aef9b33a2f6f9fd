//! Reads names and images of containers from the state files of their runtimes on this host. It contacts no daemon and
//! reads nothing that a container or another user could have written. The files may be on a file system that hangs, so
//! each runtime has its own thread, with a bounded wait.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, Read as _},
    num::NonZeroUsize,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lru::LruCache;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Counters,
    helper::{Helper, PATIENCE},
};
use crate::{
    event::{Container, Orchestrator, Runtime},
    sanitize, secrets,
};

/// Maximum size of a state file, in bytes.
const FILE_MAX: u64 = 4 << 20;
/// Maximum length of a name, in bytes.
const NAME_MAX: usize = 256;
/// Maximum number of containers remembered.
const KNOWN: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Looks up the names of containers, and remembers them.
#[derive(Debug)]
pub(super) struct Containers {
    readers: [(Store, Helper<String, Found>); 5],
    known: LruCache<String, Names>,
}

/// The runtime whose files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Docker,
    Containerd,
    CriO,
    Podman,
    /// A bare id: a Kubernetes container of any runtime, with the cgroupfs driver.
    Any,
}

/// Result of a look-up.
#[derive(Debug)]
struct Found {
    names: Option<Names>,
    /// Number of files that could not be read.
    failures: u64,
}

/// Facts from state files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    name: Option<String>,
    image: Option<String>,
    /// Name of the pod, or family of the task.
    workload: Option<String>,
    namespace: Option<String>,
    cluster: Option<String>,
}

type Labels = HashMap<String, String>;

/// Docker's `config.v2.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerContainer {
    name: Option<String>,
    config: Option<DockerConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    image: Option<String>,
    labels: Option<Labels>,
}

/// `config.json` of an OCI bundle.
#[derive(Deserialize)]
struct Bundle {
    annotations: Option<Labels>,
}

/// An entry of `containers.json` of containers/storage.
#[derive(Deserialize)]
struct StoredContainer {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    /// JSON inside a string.
    metadata: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct StoredMetadata {
    image_name: Option<String>,
}

impl Containers {
    pub(super) fn new() -> Self {
        Self::below(PathBuf::from("/"), 0, PATIENCE)
    }

    /// `root` is `/` and `owner` is root, except in tests.
    fn below(root: PathBuf, owner: u32, patience: Duration) -> Self {
        let root: Arc<Path> = root.into();
        Self::reading(patience, move |runtime, id| {
            let mut counters = Counters::default();
            let files = Files { root: &root, owner };
            let names = files.find(runtime, id, &mut counters);
            Found {
                names,
                failures: counters.failures,
            }
        })
    }

    fn reading(patience: Duration, read: impl Fn(Store, &str) -> Found + Clone + Send + Sync + 'static) -> Self {
        let reader = |runtime, name| {
            let read = read.clone();
            (
                runtime,
                Helper::new(name, patience, move |id: &String| read(runtime, id)),
            )
        };
        Self {
            // Thread names have at most 15 bytes.
            readers: [
                reader(Store::Docker, "names-docker"),
                reader(Store::Containerd, "names-containrd"),
                reader(Store::CriO, "names-cri-o"),
                reader(Store::Podman, "names-podman"),
                reader(Store::Any, "names-any"),
            ],
            known: LruCache::new(KNOWN),
        }
    }

    /// Number of containers without a name in time.
    pub(super) fn overdue(&self) -> u64 {
        self.readers.iter().map(|(_, reader)| reader.overdue()).sum()
    }

    /// Adds the names to a container and its pod or task.
    pub(super) fn add_names(
        &mut self,
        container: &mut Container,
        orchestrator: Option<&mut Orchestrator>,
        counters: &mut Counters,
    ) {
        let is_id = container.id.len() == 64 && container.id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_id {
            // Its id is already its name, and only ids become part of a path.
            return;
        }
        let Some(names) = self.names(container, counters) else {
            return;
        };
        (container.name, container.image) = (names.name, names.image);
        if let Some(orchestrator) = orchestrator {
            (orchestrator.name, orchestrator.namespace) = (names.workload, names.namespace);
            orchestrator.cluster = names.cluster;
        }
    }

    /// Does not remember missing files, because a runtime may write them after the first process has run.
    fn names(&mut self, container: &Container, counters: &mut Counters) -> Option<Names> {
        let runtime = Store::of(container)?;
        let (_, reader) = self.readers.iter_mut().find(|(of, _)| *of == runtime)?;
        let late = reader.late_answer();
        let asked = match &late {
            // The overdue answer has arrived, and is about this container.
            Some((id, _)) if *id == container.id => None,
            _ if self.known.contains(&container.id) => None,
            _ => reader.ask(container.id.clone()),
        };
        for (id, found) in late.into_iter().chain(asked) {
            counters.failures += found.failures;
            if let Some(names) = found.names {
                self.known.put(id, names);
            }
        }
        self.known.get(&container.id).cloned()
    }
}

impl Store {
    fn of(container: &Container) -> Option<Self> {
        Some(match container.runtime {
            Some(Runtime::Docker) => Self::Docker,
            Some(Runtime::Containerd) => Self::Containerd,
            Some(Runtime::CriO) => Self::CriO,
            Some(Runtime::Podman) => Self::Podman,
            Some(Runtime::Lxc | Runtime::Nspawn) => return None,
            None => Self::Any,
        })
    }
}

/// State directories of runtimes.
struct Files<'a> {
    root: &'a Path,
    /// Required owner of the files.
    owner: u32,
}

impl Files<'_> {
    fn find(&self, runtime: Store, id: &str, counters: &mut Counters) -> Option<Names> {
        let docker = || format!("var/lib/docker/containers/{id}/config.v2.json");
        let containerd =
            |namespace: &str| format!("run/containerd/io.containerd.runtime.v2.task/{namespace}/{id}/config.json");
        let crio = || format!("run/containers/storage/overlay-containers/{id}/userdata/config.json");
        let stored = || "var/lib/containers/storage/overlay-containers/containers.json".to_owned();
        let (docker_names, bundle_names) = (Names::of_docker, Names::of_bundle);
        match runtime {
            Store::Docker => self.read(&docker(), counters).map(docker_names),
            Store::Containerd => ["k8s.io", "default"]
                .iter()
                .find_map(|namespace| self.read(&containerd(namespace), counters))
                .map(bundle_names),
            Store::CriO => self.read(&crio(), counters).map(bundle_names),
            Store::Podman => Names::of_stored(self.read(&stored(), counters)?, id),
            Store::Any => (self.read(&containerd("k8s.io"), counters).map(bundle_names))
                .or_else(|| self.read(&docker(), counters).map(docker_names))
                .or_else(|| self.read(&crio(), counters).map(bundle_names)),
        }
    }

    /// Reads JSON from a file. Returns `None` if it cannot, and counts the error unless the file is missing.
    fn read<T: DeserializeOwned>(&self, path: &str, counters: &mut Counters) -> Option<T> {
        let text = counters.note(read_trusted(&self.root.join(path), self.owner))?;
        let parsed = serde_json::from_slice(&text).map_err(io::Error::other);
        counters.note(parsed)
    }
}

/// Reads a regular file that only `owner` can write.
fn read_trusted(path: &Path, owner: u32) -> io::Result<Vec<u8>> {
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let data = file.metadata()?;
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    if !data.is_file() || data.uid() != owner || data.mode() & WRITABLE_BY_OTHERS != 0 || data.len() > FILE_MAX {
        return Err(io::Error::other(format!("{} is not trusted", path.display())));
    }
    let mut text = Vec::new();
    file.take(FILE_MAX).read_to_end(&mut text)?;
    Ok(text)
}

impl Names {
    fn of_docker(container: DockerContainer) -> Self {
        let (image, labels) = match container.config {
            Some(config) => (config.image, config.labels.unwrap_or_default()),
            None => (None, Labels::default()),
        };
        // Names generated by an orchestrator change from run to run; the label has the given name.
        let given = label(
            &labels,
            &["io.kubernetes.container.name", "com.amazonaws.ecs.container-name"],
        );
        let own = || shown(container.name.as_deref()?.trim_start_matches('/'));
        Self {
            name: given.or_else(own),
            image: image.as_deref().and_then(shown),
            workload: label(
                &labels,
                &["io.kubernetes.pod.name", "com.amazonaws.ecs.task-definition-family"],
            ),
            namespace: label(&labels, &["io.kubernetes.pod.namespace"]),
            cluster: label(&labels, &["com.amazonaws.ecs.cluster"]),
        }
    }

    /// Annotations of containerd's CRI plugin, CRI-O and nerdctl.
    fn of_bundle(bundle: Bundle) -> Self {
        let labels = bundle.annotations.unwrap_or_default();
        Self {
            name: label(
                &labels,
                &[
                    "io.kubernetes.cri.container-name",
                    "io.kubernetes.container.name",
                    "nerdctl/name",
                ],
            ),
            image: label(
                &labels,
                &[
                    "io.kubernetes.cri.image-name",
                    "io.kubernetes.cri-o.ImageName",
                    "nerdctl/image-ref",
                ],
            ),
            workload: label(&labels, &["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]),
            namespace: label(
                &labels,
                &["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"],
            ),
            cluster: None,
        }
    }

    fn of_stored(containers: Vec<StoredContainer>, id: &str) -> Option<Self> {
        let found = containers.into_iter().find(|container| container.id == id)?;
        let metadata: Option<StoredMetadata> = serde_json::from_str(found.metadata.as_deref()?).ok();
        Some(Self {
            name: found.names.first().and_then(|name| shown(name)),
            image: metadata.and_then(|metadata| shown(&metadata.image_name?)),
            ..Self::default()
        })
    }
}

/// The value of the first existing key.
fn label(labels: &Labels, keys: &[&str]) -> Option<String> {
    keys.iter().find_map(|key| shown(labels.get(*key)?))
}

/// Bounds and masks a name, because users choose the names of containers.
fn shown(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| sanitize::bounded(secrets::mask_text(text), NAME_MAX))
}
