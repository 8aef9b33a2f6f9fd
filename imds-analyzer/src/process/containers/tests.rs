#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{Mutex, mpsc::sync_channel},
    thread,
    time::Instant,
};

use super::*;
use crate::event::Platform;

const ID: &str = "3726184226f5d3147c25fdeab5b60097e378e8a720503a5e19ecfdf29f869860";

/// Longer than a busy machine takes to read a file.
const LONG: Duration = Duration::from_secs(10);

/// A host with one state file.
struct Host {
    root: tempfile::TempDir,
    path: PathBuf,
}

impl Host {
    fn with(path: &str, text: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        Self { root, path }
    }

    /// The names found for a container and its pod or task, and the number of failed reads.
    fn look(&self, runtime: Option<Runtime>) -> (Container, Orchestrator, u64) {
        let owner = fs::metadata(self.root.path()).unwrap().uid();
        let mut container = Container {
            id: ID.to_owned(),
            runtime,
            ..Container::default()
        };
        let mut orchestrator = Orchestrator::new(Platform::Kubernetes, "uid".to_owned());
        let mut counters = Counters::default();
        let mut containers = Containers::below(self.root.path().to_owned(), owner, LONG);
        containers.add_names(&mut container, Some(&mut orchestrator), &mut counters);
        (container, orchestrator, counters.failures)
    }
}

fn docker_path() -> String {
    format!("var/lib/docker/containers/{ID}/config.v2.json")
}

#[test]
fn docker() {
    let text = r#"{"ID":"x","State":{"Pid":7},"Image":"sha256:00","Name":"/web",
        "Config":{"Hostname":"h","Image":"nginx:1.25","Env":["PASSWORD=x"],"Labels":{"a":"b"}}}"#;
    let (container, orchestrator, failures) = Host::with(&docker_path(), text).look(Some(Runtime::Docker));
    assert_eq!(container.name.as_deref(), Some("web"));
    assert_eq!(container.image.as_deref(), Some("nginx:1.25"));
    assert_eq!((orchestrator.name, failures), (None, 0));
}

/// The labels of aws/amazon-ecs-agent (agent/api/container, docker labels).
#[test]
fn amazon_ecs() {
    let text = r#"{"Name":"/ecs-web-3-app-f8a1","Config":{"Image":"1.dkr.ecr.eu-west-1.amazonaws.com/app:7","Labels":{
        "com.amazonaws.ecs.cluster":"prod","com.amazonaws.ecs.container-name":"app",
        "com.amazonaws.ecs.task-definition-family":"web","com.amazonaws.ecs.task-definition-version":"3"}}}"#;
    let (container, orchestrator, _) = Host::with(&docker_path(), text).look(Some(Runtime::Docker));
    assert_eq!(container.name.as_deref(), Some("app"));
    assert_eq!(
        container.image.as_deref(),
        Some("1.dkr.ecr.eu-west-1.amazonaws.com/app:7")
    );
    assert_eq!(orchestrator.name.as_deref(), Some("web"));
    assert_eq!(orchestrator.cluster.as_deref(), Some("prod"));
}

/// containerd/containerd#5002 and #4922.
#[test]
fn containerd() {
    let path = format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json");
    let text = r#"{"ociVersion":"1.0.2","process":{"args":["x"]},"annotations":{
        "io.kubernetes.cri.container-name":"app","io.kubernetes.cri.container-type":"container",
        "io.kubernetes.cri.image-name":"docker.io/library/app:1.2","io.kubernetes.cri.sandbox-id":"00",
        "io.kubernetes.cri.sandbox-name":"app-7c9d-x2x","io.kubernetes.cri.sandbox-namespace":"prod"}}"#;
    for runtime in [Some(Runtime::Containerd), None] {
        let (container, orchestrator, failures) = Host::with(&path, text).look(runtime);
        assert_eq!(container.name.as_deref(), Some("app"), "{runtime:?}");
        assert_eq!(container.image.as_deref(), Some("docker.io/library/app:1.2"));
        assert_eq!(orchestrator.name.as_deref(), Some("app-7c9d-x2x"));
        assert_eq!(orchestrator.namespace.as_deref(), Some("prod"));
        assert_eq!(failures, 0);
    }
}

/// The annotations that CRI-O writes (containers/podman pkg/annotations).
#[test]
fn crio() {
    let path = format!("run/containers/storage/overlay-containers/{ID}/userdata/config.json");
    let text = r#"{"annotations":{"io.kubernetes.container.name":"app","io.kubernetes.pod.name":"app-0",
        "io.kubernetes.pod.namespace":"prod","io.kubernetes.cri-o.ImageName":"quay.io/app:1"}}"#;
    let (container, orchestrator, _) = Host::with(&path, text).look(Some(Runtime::CriO));
    assert_eq!(container.name.as_deref(), Some("app"));
    assert_eq!(container.image.as_deref(), Some("quay.io/app:1"));
    assert_eq!(orchestrator.name.as_deref(), Some("app-0"));
}

/// containers/storage containers.go, containers/podman libpod/storage.go.
#[test]
fn podman() {
    let path = "var/lib/containers/storage/overlay-containers/containers.json";
    let text = format!(
        r#"[{{"id":"00","names":["other"]}},{{"id":"{ID}","names":["web"],"image":"11","layer":"22",
        "metadata":"{{\"image-name\":\"docker.io/library/nginx:latest\",\"image-id\":\"11\",\"name\":\"web\"}}"}}]"#
    );
    let (container, ..) = Host::with(path, &text).look(Some(Runtime::Podman));
    assert_eq!(container.name.as_deref(), Some("web"));
    assert_eq!(container.image.as_deref(), Some("docker.io/library/nginx:latest"));
}

#[test]
fn names_are_bounded_and_without_secrets() {
    let token = "AQAAANjUxiJsVYLUBj_tOKENtOKENtOKENtOKENtOKENtOKENtOKEw==";
    let text = format!(r#"{{"Name":"/{token}","Config":{{"Image":"{}"}}}}"#, "x".repeat(5000));
    let (container, ..) = Host::with(&docker_path(), &text).look(Some(Runtime::Docker));
    assert_eq!(container.name.as_deref(), Some("***"));
    assert_eq!(container.image.unwrap().len(), NAME_MAX);
}

#[test]
fn what_others_could_have_written_is_not_read() {
    let text = r#"{"Name":"/web"}"#;
    let nothing = |host: &Host, failures| {
        let (container, _, failed) = host.look(Some(Runtime::Docker));
        assert_eq!((container.name, failed), (None, failures));
    };
    let writable = Host::with(&docker_path(), text);
    fs::set_permissions(&writable.path, fs::Permissions::from_mode(0o666)).unwrap();
    nothing(&writable, 1);

    let link = Host::with(&docker_path(), text);
    let target = link.root.path().join("target");
    fs::rename(&link.path, &target).unwrap();
    std::os::unix::fs::symlink(&target, &link.path).unwrap();
    nothing(&link, 1);

    let large = Host::with(&docker_path(), text);
    let file = OpenOptions::new().write(true).open(&large.path).unwrap();
    file.set_len(FILE_MAX + 1).unwrap();
    nothing(&large, 1);

    nothing(&Host::with(&docker_path(), "{\"Name\":"), 1);
    nothing(&Host::with("elsewhere", ""), 0);
}

#[test]
fn a_name_that_is_no_id_makes_no_path() {
    let host = Host::with("var/lib/docker/containers/../x/config.v2.json", r#"{"Name":"/web"}"#);
    let mut containers = Containers::below(host.root.path().to_owned(), 0, LONG);
    let mut container = Container {
        id: "../x".to_owned(),
        runtime: Some(Runtime::Docker),
        ..Container::default()
    };
    let mut counters = Counters::default();
    containers.add_names(&mut container, None, &mut counters);
    assert_eq!((container.name, counters.failures), (None, 0));
}

fn container(id: &str, runtime: Option<Runtime>) -> Container {
    Container {
        id: id.to_owned(),
        runtime,
        ..Container::default()
    }
}

/// The files of one runtime hang: the names of others still arrive, and its own arrive later.
#[test]
fn a_file_system_that_hangs_costs_its_own_names_only() {
    let (release, hang) = sync_channel::<()>(0);
    let hang = Arc::new(Mutex::new(hang));
    let patience = Duration::from_millis(20);
    let mut containers = Containers::reading(patience, move |runtime, id| {
        if runtime == Store::Docker {
            let _ = hang.lock().unwrap().recv();
        }
        let names = Names {
            name: Some(format!("name-{}", &id[..2])),
            ..Names::default()
        };
        Found {
            names: Some(names),
            failures: 0,
        }
    });
    let mut name = |id: &str, runtime| {
        let mut container = container(id, runtime);
        containers.add_names(&mut container, None, &mut Counters::default());
        (container.name, containers.overdue())
    };
    let begun = Instant::now();
    for number in 0..500 {
        let id = format!("{number:064x}");
        assert_eq!(name(&id, Some(Runtime::Docker)), (None, number + 1));
    }
    assert!(begun.elapsed() < 50 * patience, "{:?}", begun.elapsed());
    // A busy machine may answer late, but it answers.
    let deadline = Instant::now() + LONG;
    for runtime in [
        Some(Runtime::Containerd),
        Some(Runtime::CriO),
        Some(Runtime::Podman),
        None,
    ] {
        while name(ID, runtime).0.as_deref() != Some("name-37") {
            assert!(Instant::now() < deadline, "{runtime:?}");
        }
    }
    drop(release);
    let first = format!("{:064x}", 0);
    while name(&first, Some(Runtime::Docker)).0.as_deref() != Some("name-00") {
        assert!(Instant::now() < deadline, "later answers are kept");
        thread::yield_now();
    }
}
