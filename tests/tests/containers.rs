//! A real container: its id is in the record, and its name and image where a runtime has left them on this host.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{self, Stdio},
};

use imds_analyzer_tests::{PYTHON, Stage, is_legacy, wait};
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

/// A cgroup in both v1 hierarchies that say where a process runs, gone when this is dropped.
struct V1Cgroup(Vec<PathBuf>);

impl V1Cgroup {
    /// `None` on hosts without them.
    fn new(path: &str) -> Option<Self> {
        let roots = ["pids", "systemd"].map(|name| Path::new("/sys/fs/cgroup").join(name));
        if !roots.iter().all(|root| root.join("cgroup.procs").exists()) {
            return None;
        }
        let cgroups = roots.map(|root| root.join(path));
        for cgroup in &cgroups {
            fs::create_dir_all(cgroup).expect("a cgroup");
        }
        Some(Self(cgroups.to_vec()))
    }
}

impl Drop for V1Cgroup {
    fn drop(&mut self) {
        for cgroup in &self.0 {
            let _ = fs::remove_dir(cgroup);
            // Its parent too, if nobody else is in there.
            let _ = cgroup.parent().map(fs::remove_dir);
        }
    }
}

/// A v1 hierarchy shows the root for whoever waits to be waited for.
#[test]
fn a_process_that_nobody_has_waited_for_is_where_it_was() {
    let id = format!("{:064x}", process::id());
    let unit = format!("e2e-{}.service", process::id());
    let task = format!("{:032x}", process::id());
    for (path, field, expected) in [
        (format!("e2e.slice/{unit}"), "/systemd/unit", unit.as_str()),
        (format!("e2e.slice/docker-{id}.scope"), "/container/id", id.as_str()),
        (format!("ecs/{task}/{id}"), "/orchestrator/resource/id", task.as_str()),
    ] {
        let scene = Stage::new(&[]);
        let Some(cgroup) = V1Cgroup::new(&path) else {
            println!("no cgroups of v1 here");
            return;
        };
        let script = "import os, sys\n\
            for path in sys.argv[2:]: open(path + '/cgroup.procs', 'w').write(str(os.getpid()))\n\
            child = os.fork()\n\
            if child == 0: os.execvp('curl', ['curl', '-sm10', '-o', '/dev/null', sys.argv[1]])\n\
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)\n\
            print('exited', flush=True)\n\
            sys.stdin.read()\n";
        let signal = |signal| {
            let pid = scene.analyzer.pid().try_into().expect("a pid");
            // SAFETY: no pointers are passed; the process is a child of ours that was not waited for.
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        };
        signal(libc::SIGSTOP);
        let mut command = scene.command(PYTHON, &["-c", script, &scene.url()]);
        command.args(&cgroup.0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut parent = command.spawn().expect("python");
        let mut line = String::new();
        let mut output = BufReader::new(parent.stdout.take().expect("piped"));
        output.read_line(&mut line).expect("its output");
        signal(libc::SIGCONT);
        assert_eq!(line, "exited\n");
        let mut scene = scene;
        scene.analyzer.wait_for_count(1);
        drop(parent.stdin.take());
        assert!(wait(&mut parent).success());
        let record = scene.record();
        // Without the kernel's path nothing is known of it.
        if !is_legacy() {
            assert_eq!(record.pointer(field), Some(&json!(expected)), "{path}: {record:#}");
        }
    }
}
