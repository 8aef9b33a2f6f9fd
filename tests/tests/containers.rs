//! A real container: its id is in the record, and its name and image where a runtime has left them on this host.
//!
//! guests: none

#![expect(clippy::print_stdout, reason = "figures and reasons are for whoever reads the log")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    time::{Duration, Instant},
};

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{
    Analyzer, PYTHON, Service, Stage, binary, cgroup2, curl, is_legacy, lab_with_imds, lack, needs, of_path, run,
    run_to_end, serve, until, wait,
};
use serde_json::{Value, json};

/// A bundle where containerd has those of its namespace `default`; removed when dropped.
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
        // Without a network namespace of its own: the container has that of the process that starts it.
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
        // Also remove the parents, if they are empty: then they were not there before.
        for parent in Path::new(TASKS).ancestors().take(3) {
            let _ = fs::remove_dir(parent);
        }
    }
}

#[test]
fn a_container_of_runc() {
    let stage = Stage::shared();
    let bundle = Bundle::new(&["/usr/bin/curl", "-sm10", &stage.url()]);
    let root = tempfile::tempdir().expect("a directory");
    let [root, path] = [root.path(), &bundle.path].map(|path| path.to_str().expect("UTF-8"));
    let runc = stage.run("runc", &["--root", root, "run", "--bundle", path, &bundle.id]);
    let record = stage.record();
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

/// A rehearsal for one container: its calls are refused from the first one on, those from outside are not.
#[test]
fn a_rehearsal_in_a_container_of_runc() {
    let lab = Lab::routed().expect("lab");
    let server = serve(&lab);
    let url = "http://169.254.169.254/latest/meta-data/";
    let call = ["/usr/bin/curl", "-sm10", "-o", "/dev/null", "-w", "%{http_code}", url];
    let bundle = Bundle::new(&call);
    let mut command = Command::new(binary());
    command.args(["rehearse", "--format", "json", "--for", "60s", "--container"]);
    command.arg(&bundle.id[..12]);
    let analyzer = Analyzer::start(command);
    let root = tempfile::tempdir().expect("a directory");
    let [root, path] = [root.path(), &bundle.path].map(|path| path.to_str().expect("UTF-8"));
    let runc = ["--root", root, "run", "--bundle", path, &bundle.id];
    let inside = run(&lab.client, "runc", &runc);
    assert_eq!(String::from_utf8_lossy(&inside.stdout), "401", "{inside:?}");
    let outside = run(&lab.client, call[0], &call[1..]);
    assert_eq!(String::from_utf8_lossy(&outside.stdout), "200", "{outside:?}");
    assert_eq!(server.answered().without_token, 1);
    let ended = analyzer.stop();
    let records = ended.requests();
    assert_eq!(records.len(), 1, "{ended:#?}");
    assert_eq!(records[0]["container"]["id"], bundle.id.as_str(), "{records:#?}");
}

/// Mounts a file system at the first argument that answers only the first request of the kernel, and says when it is
/// mounted.
const HUNG: &str = r#"
import ctypes, os, struct, sys, time
fd = os.open('/dev/fuse', os.O_RDWR)
options = b'fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other' % fd
assert ctypes.CDLL(None).mount(b'hung', sys.argv[1].encode(), b'fuse', 6, options) == 0
open(sys.argv[2], 'w').write('mounted')
r = os.read(fd, 1 << 20)
os.write(fd, struct.pack('<IiQIIIIHHIIHH', 76, 0, struct.unpack('<Q', r[8:16])[0], 7, 31, 65536, 0, 16, 12, 65536, 1, 256, 0) + bytes(28))
# What is not taken from the kernel can be given up by whoever waits, as with a server of files that is gone.
time.sleep(600)
"#;

/// Container state that hangs costs only names, and only for as long as it hangs: for callers in containers of each
/// runtime, for other callers, and for the end of the service.
#[test]
fn container_state_that_hangs_stops_nothing() {
    needs!(lack("fuse", Path::new("/dev/fuse").exists(), "/dev/fuse is not there"));
    let root = cgroup2().expect("cgroup2");
    let (lab, _server) = lab_with_imds();
    // In a mount namespace of its own; a file system ends with the process that serves it.
    let script = format!(
        "set -e; mount --make-rprivate /; top=$1; shift; mkdir $top/lib $top/lib/docker; \
         mkdir -p /run/containerd /var/lib; mount --bind $top/lib /var/lib; \
         for place in /var/lib/docker /run/containerd; do \
           {PYTHON} -c \"$HUNG\" $place $top/mounted >/dev/null 2>&1 & \
           until [ -e $top/mounted ]; do sleep 0.05; done; rm $top/mounted; \
         done; exec \"$@\""
    );
    let mut service = Service::start_with("", |command| {
        let top = Path::new(command.get_args().last().expect("a path"));
        let top = top.parent().expect("a directory").to_owned();
        let mut unshare = Command::new("unshare");
        unshare
            .args(["-m", "sh", "-c", &script, "sh"])
            .arg(top)
            .env("HUNG", HUNG);
        unshare.arg(command.get_program()).args(command.get_args());
        *command = unshare;
    });
    let _servers = Servers::of(service.pid());
    let written = |path: &str| {
        let path = path.to_owned();
        move |records: &[Value]| of_path(records, &path) == 1
    };
    let started = Instant::now();
    for (number, cgroup) in [
        "docker/ID",
        "system.slice/docker-ID.scope",
        "system.slice/cri-containerd-ID.scope",
        "kubepods/pod1/ID",
    ]
    .into_iter()
    .cycle()
    .take(12)
    .enumerate()
    {
        let id = format!("{:064x}", number + 1);
        let (cgroup, path) = (
            format!("{root}/{}", cgroup.replace("ID", &id)),
            format!("/latest/hung-{number}"),
        );
        let script = format!(
            "mkdir -p {cgroup} && echo $$ >{cgroup}/cgroup.procs && exec curl -sm10 -o /dev/null http://169.254.169.254{path}"
        );
        let output = run_to_end(lab.client.command("sh").args(["-c", &script]));
        assert_eq!(output.code, Some(0), "{output:#?}");
        service.wait_for("a call from a container", written(&path));
        until("the cgroup is empty", || fs::remove_dir(&cgroup).is_ok());
    }
    println!("twelve calls in {:?}", started.elapsed());
    let path = "/latest/not-in-a-container";
    curl(&lab, path);
    let records = service.wait_for("a call from outside", written(path));
    for record in records.iter().filter(|record| record["container"]["id"].is_string()) {
        assert!(record["container"]["name"].is_null(), "{record:#}");
    }
    let threads = fs::read_dir(format!("/proc/{}/task", service.pid()))
        .expect("a process")
        .count();
    assert!(threads <= 6, "{threads} threads");
    let ending = Instant::now();
    service.stop();
    assert!(ending.elapsed() < Duration::from_secs(10), "{:?}", ending.elapsed());
    let records = service.records();
    let summary = records.last().expect("a summary");
    let overdue = summary["imds"]["loss"]["container_names_overdue"].as_u64();
    assert!(overdue.is_some_and(|count| count >= 9), "{summary:#}");
    for directory in ["docker", "kubepods/pod1", "kubepods"] {
        // This fails if others have cgroups in it.
        let _ = fs::remove_dir(format!("{root}/{directory}"));
    }
}

/// The processes that serve the file systems, which the shell started before it became the service.
struct Servers(Vec<i32>);

impl Servers {
    fn of(pid: u32) -> Self {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a process");
        Self(children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for pid in &self.0 {
            // SAFETY: the test started these processes; they wait only for this signal.
            unsafe { libc::kill(*pid, libc::SIGKILL) };
        }
    }
}

/// A cgroup in both v1 hierarchies that say where a process runs; removed when dropped.
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
            // Also remove the parent, if nobody else is in there.
            let _ = cgroup.parent().map(fs::remove_dir);
        }
    }
}

/// A v1 hierarchy shows a process at the root while it waits to be reaped.
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
        let stage = Stage::watch(&[]);
        let cgroup = V1Cgroup::new(&path);
        needs!(lack(
            "cgroup-v1",
            cgroup.is_some(),
            "no hierarchy of cgroup v1 is mounted"
        ));
        let cgroup = cgroup.expect("there");
        let script = "import os, sys\n\
            for path in sys.argv[2:]: open(path + '/cgroup.procs', 'w').write(str(os.getpid()))\n\
            child = os.fork()\n\
            if child == 0: os.execvp('curl', ['curl', '-sm10', '-o', '/dev/null', sys.argv[1]])\n\
            os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)\n\
            print('exited', flush=True)\n\
            sys.stdin.read()\n";
        let signal = |signal| {
            let pid = stage.analyzer.pid().try_into().expect("a pid");
            // SAFETY: no pointers are passed; the process is a child of ours that was not waited for.
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        };
        signal(libc::SIGSTOP);
        let mut command = stage.command(PYTHON, &["-c", script, &stage.url()]);
        command.args(&cgroup.0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut parent = command.spawn().expect("python");
        let mut line = String::new();
        let mut output = BufReader::new(parent.stdout.take().expect("piped"));
        output.read_line(&mut line).expect("its output");
        signal(libc::SIGCONT);
        assert_eq!(line, "exited\n");
        let mut stage = stage;
        stage.analyzer.wait_for_count(1);
        drop(parent.stdin.take());
        assert!(wait(&mut parent).success());
        let record = stage.record();
        // Without the path from the kernel the analyzer knows nothing of it.
        if !is_legacy() {
            assert_eq!(record.pointer(field), Some(&json!(expected)), "{path}: {record:#}");
        }
    }
}
