//! A real container: its id is in the record, and its name and image where a runtime has left them on this host.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use imds_analyzer_tests::Stage;
use serde_json::{Value, json};

/// A bundle where containerd has those of its namespace `default`, gone when this is dropped.
struct Bundle {
    id: String,
    path: PathBuf,
}

const TASKS: &str = "/run/containerd/io.containerd.runtime.v2.task/default";

impl Bundle {
    fn new(args: &[&str]) -> Self {
        let id = format!("{:064x}", process::id());
        let path = Path::new(TASKS).join(&id);
        fs::create_dir_all(path.join("rootfs")).expect("a bundle");
        let bundle = Self { id, path };
        let shared = ["usr", "bin", "lib", "lib64", "sbin", "etc"]
            .into_iter()
            .filter(|name| Path::new("/").join(name).exists());
        let mut mounts: Vec<Value> = shared
            .map(|name| {
                let at = format!("/{name}");
                json!({ "destination": at, "type": "bind", "source": at, "options": ["rbind", "ro"] })
            })
            .collect();
        mounts.push(json!({ "destination": "/proc", "type": "proc", "source": "proc" }));
        // No network namespace of its own: it has that of whoever starts it.
        let namespaces = ["pid", "mount", "ipc", "uts"].map(|kind| json!({ "type": kind }));
        let config = json!({
            "ociVersion": "1.0.2",
            "process": { "user": { "uid": 0, "gid": 0 }, "args": args, "cwd": "/usr", "env": ["PATH=/usr/bin:/bin"] },
            "root": { "path": "rootfs" },
            "hostname": "e2e",
            "mounts": mounts,
            "annotations": {
                "io.kubernetes.cri.container-name": "fetcher",
                "io.kubernetes.cri.image-name": "registry.test/fetcher:1.2",
            },
            "linux": { "namespaces": namespaces, "cgroupsPath": format!("/default/{}", bundle.id) },
        });
        fs::write(bundle.path.join("config.json"), config.to_string()).expect("a configuration");
        bundle
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        // Its parents too, if they are empty: then they were not there before.
        for parent in Path::new(TASKS).ancestors().take(3) {
            let _ = fs::remove_dir(parent);
        }
    }
}

#[test]
fn a_container_of_runc() {
    let scene = Stage::new(&[]);
    let bundle = Bundle::new(&["/usr/bin/curl", "-sm10", &scene.url()]);
    let root = tempfile::tempdir().expect("a directory");
    let [root, path] = [root.path(), &bundle.path].map(|path| path.to_str().expect("UTF-8"));
    let runc = scene.run("runc", &["--root", root, "run", "--bundle", path, &bundle.id]);
    let record = scene.record();
    assert_eq!(
        record["container"],
        json!({
            "id": bundle.id, "runtime": "containerd", "name": "fetcher",
            "image": { "name": "registry.test/fetcher:1.2" },
        }),
        "{record:#}"
    );
    assert_eq!(record["imds"]["caller"], "/usr/bin/curl (registry.test/fetcher:1.2)");
    let process = &record["process"];
    assert_eq!(
        process["executable"], "/usr/bin/curl",
        "as the container has it: {record:#}"
    );
    assert_eq!(process["working_directory"], "/usr");
    assert_ne!(process["pid"], 1, "as the host has it: {record:#}");
    let ancestors = process["ancestors"].as_array().expect("ancestors");
    assert!(
        ancestors.iter().any(|ancestor| ancestor["pid"] == runc),
        "runc[{runc}] started it: {record:#}"
    );
}
