//! `[[ignore]]` and what it matches: callers choose names of executables, cgroups and paths, and no such name hides a
//! call.
//!
//! guests: full

#![expect(clippy::print_stderr, reason = "figures and reasons are for whoever reads the log")]

use std::{
    env, fs, io,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::{
        fd::AsRawFd as _,
        unix::fs::{PermissionsExt as _, chown},
    },
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{Service, get, imds_analyzer, lab_with_imds, of_path, wait};
use serde_json::{Value, json};

const NOBODY: u32 = 65534;
const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// Runs a program inside the lab to its end; it must succeed.
fn run(lab: &Lab, command: &[&str]) {
    let mut child = lab.client.command(command[0]);
    let mut child = child
        .args(&command[1..])
        .stdout(process::Stdio::null())
        .spawn()
        .expect("started");
    assert!(wait(&mut child).success(), "{command:?}");
}

/// A daemon with these rules, in which no other calls on this machine use up a budget.
fn start(rules: &str) -> Service {
    Service::start(&format!("{rules}\n{LIMITS}"))
}

const LIMITS: &str = "[limits]\ncaller = 100000\nplace = 100000\nuser = 100000\nuser_daily = 1000000\n";

/// A path of this test's own; the server has nothing there.
fn path(name: &str) -> String {
    format!("/latest/meta-data/e2e-rules-{}-{name}", process::id())
}

/// Returns how many records each path has. First it makes a call that no rule matches, so that all calls before it were
/// decided.
fn written(service: &Service, lab: &Lab, paths: &[String]) -> Vec<usize> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let last = path(&format!("last-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    run(lab, &["curl", "-sm10", &format!("http://169.254.169.254{last}")]);
    let records = service.wait_for("the last call", |records| of_path(records, &last) > 0);
    paths.iter().map(|path| of_path(&records, path)).collect()
}

fn record(service: &Service, path: &str) -> Value {
    let of_path = |record: &Value| record["event"]["action"] == "imds-request" && record["url"]["path"] == path;
    let records = service.wait_for("the call", |records| records.iter().any(of_path));
    records.into_iter().find(of_path).expect("it was there")
}

/// A script for bash: makes one call for `$1`, then stays until its input ends.
const CALL_AND_STAY: &str = "exec 3<>/dev/tcp/169.254.169.254/80; printf 'GET %s HTTP/1.1\\r\\nHost: imds\\r\\n\\r\\n' \"$1\" >&3; \
                             read -r _ <&3; read -r _ || true";

/// The record of a call by a process that is still there when it is described.
fn record_of(service: &Service, command: &mut process::Command, path: &str) -> Value {
    command.stdin(process::Stdio::piped()).stdout(process::Stdio::null());
    let mut child = command.spawn().expect("started");
    let record = record(service, path);
    drop(child.stdin.take());
    assert!(wait(&mut child).success(), "{command:?}");
    record
}

/// A program that root owns and everybody may run, in a directory of the same kind. In namespaces of their own, users
/// may put another program there.
struct Agent {
    dir: tempfile::TempDir,
}

impl Agent {
    /// A copy of `program`.
    fn new(program: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("readable");
        fs::create_dir(dir.path().join("bin")).expect("a directory");
        let agent = Self { dir };
        fs::copy(program, agent.path()).expect("copied");
        agent
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("bin/e2e-agent")
    }

    fn text(&self) -> String {
        self.path().to_str().expect("UTF-8").to_owned()
    }
}

#[test]
fn an_executable_counts_only_as_a_file_of_roots_in_the_hosts_namespaces() {
    let agent = Agent::new("/usr/bin/curl");
    let at = agent.text();
    let glob = at.replace("/bin/", "*/");
    let service = start(&format!(
        "[[ignore]]\nexecutable = \"{at}\"\npath = \"/latest/meta-data/e2e-*\"\n[[ignore]]\nexecutable = \"{glob}\""
    ));
    let (lab, _server) = lab_with_imds();
    let bin = format!("{}/bin", agent.dir.path().display());
    let mounted = agent.dir.path().join("mounted");
    fs::create_dir(&mounted).expect("a directory");
    let mounted = mounted.to_str().expect("UTF-8");
    let call = "\"$2\" -sm10 -o /dev/null \"http://169.254.169.254$1\"";
    // Each trick is in namespaces of its own, as an unprivileged user; $0 is the agent's directory, $2 the agent, $3 an
    // empty directory.
    let tricks = [
        (
            "bind",
            "mkdir \"$3/b\"; cp /usr/bin/curl \"$3/b/e2e-agent\"; mount --bind \"$3/b\" \"$0\"",
        ),
        ("tmpfs", "mount -t tmpfs none \"$0\"; cp /usr/bin/curl \"$2\""),
        ("file", "cp /usr/bin/curl \"$3/c\"; mount --bind \"$3/c\" \"$2\""),
        ("unshared", "true"),
    ];
    let mut hidden = Vec::new();
    for (name, trick) in tricks {
        let path = path(name);
        let script = format!("mount -t tmpfs none \"$3\"; {trick}; {call}");
        let command = ["unshare", "-Urm", "sh", "-ec", &script, &bin, &path, &at, mounted];
        run(&lab, &[&AS_NOBODY[..], &command].concat());
        hidden.push(path);
    }
    // A process with a root of its own.
    let chrooted = path("chroot");
    let script = "d=$3 && mount -t tmpfs none $d && for i in usr bin lib lib64 etc; do \
                  if [ -e /$i ]; then mkdir $d/$i; mount --rbind /$i $d/$i; fi; done && mkdir -p \"$d$0\" && \
                  cp /usr/bin/curl \"$d$2\" && chroot $d \"$2\" -sm10 \"http://169.254.169.254$1\"";
    run(
        &lab,
        &[
            &AS_NOBODY[..],
            &["unshare", "-Urm", "sh", "-ec", script, &bin, &chrooted, &at, mounted],
        ]
        .concat(),
    );
    hidden.push(chrooted);
    // A file of the user's own by that name, and one of root's that others may write.
    let copied = path("copy");
    let script = "mkdir -p \"$4\" && cp /usr/bin/curl \"$4/e2e-agent\" && \"$4/e2e-agent\" -sm10 -o /dev/null \
                  \"http://169.254.169.254$1\"";
    let own = agent.dir.path().join("own");
    fs::create_dir(&own).expect("a directory");
    chown(&own, Some(NOBODY), None).expect("owned");
    let own = own.to_str().expect("UTF-8");
    run(
        &lab,
        &[&AS_NOBODY[..], &["sh", "-ec", script, &bin, &copied, &at, "", own]].concat(),
    );
    hidden.push(copied);
    for mode in [0o775, 0o757] {
        let open = path(&format!("{mode:o}"));
        let beside = agent.dir.path().join("own").join("writable");
        fs::create_dir_all(&beside).expect("a directory");
        let file = beside.join("e2e-agent");
        fs::copy("/usr/bin/curl", &file).expect("copied");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("writable");
        let url = format!("http://169.254.169.254{open}");
        run(
            &lab,
            &[
                &AS_NOBODY[..],
                &[file.to_str().expect("UTF-8"), "-sm10", "-o", "/dev/null", &url],
            ]
            .concat(),
        );
        hidden.push(open);
    }
    assert_eq!(written(&service, &lab, &hidden), vec![1; hidden.len()], "{hidden:?}");
    // The rule applies to the agent itself, as root and as another user. If only /proc vouches for the agent, the
    // process may be gone too soon.
    for user in [&[][..], &AS_NOBODY[..]] {
        let mut count = 0;
        imds_analyzer_tests::until("a call of the agent is left out", || {
            count += 1;
            let path = path(&format!("real-{}-{count}", user.len()));
            let url = format!("http://169.254.169.254{path}");
            run(&lab, &[user, &[&at, "-sm10", "-o", "/dev/null", &url]].concat());
            written(&service, &lab, &[path]) == [0]
        });
    }
}

/// Not a test: [`an_executable_that_is_forged_is_marked_and_matches_no_rule`] runs it in a process of its own. Makes
/// the kernel name another file as its executable, like CRIU, then makes a call.
#[test]
#[ignore = "run by another test"]
fn forge() {
    let (Some(path), Some(file)) = (env::var_os("FORGE_PATH"), env::var_os("FORGE_FILE")) else {
        return;
    };
    let path = path.into_string().expect("UTF-8");
    // SAFETY: the child only makes system calls and allocates, and no other thread of the parent holds the allocator's
    // lock.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let result = forged_call(&path, Path::new(&file));
        if let Err(error) = &result {
            eprintln!("forge: {error}");
        }
        // SAFETY: ends the child without running anything of the harness.
        unsafe { libc::_exit(i32::from(result.is_err())) };
    }
    let mut status = 0;
    // SAFETY: the status lives for the call.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// `struct prctl_mm_map`, include/uapi/linux/prctl.h.
#[repr(C)]
struct MemoryMap {
    addresses: [u64; 11],
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

fn forged_call(path: &str, file: &Path) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::setresgid(NOBODY, NOBODY, NOBODY) }.into())?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) }.into())?;
    // SAFETY: takes no pointers; this process has one thread.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into())?;
    let exe = fs::read_link("/proc/self/exe")?;
    let exe = exe.to_str().unwrap_or_default();
    let maps = fs::read_to_string("/proc/self/maps")?;
    for line in maps.lines().filter(|line| line.ends_with(exe)) {
        remap(line)?;
    }
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse().unwrap_or_default())
        .collect();
    // By their numbers in proc(5); the skipped part ends with the third.
    let field = |number: usize| fields.get(number - 4).copied().unwrap_or_default();
    // SAFETY: takes no pointers.
    let brk = unsafe { libc::syscall(libc::SYS_brk, 0) };
    let exe = fs::File::open(file)?;
    let map = MemoryMap {
        addresses: [
            field(26),
            field(27),
            field(45),
            field(46),
            field(47),
            brk.unsigned_abs(),
            field(28),
            field(48),
            field(49),
            field(50),
            field(51),
        ],
        auxv: 0,
        auxv_size: 0,
        exe_fd: exe.as_raw_fd().unsigned_abs(),
    };
    const PR_SET_MM_MAP: libc::c_ulong = 14;
    let size = size_of::<MemoryMap>();
    // SAFETY: the structure is the one that the kernel expects, of the size given, and lives for the call.
    let result = unsafe { libc::prctl(libc::PR_SET_MM, PR_SET_MM_MAP, &raw const map, size, 0) };
    check(result.into())?;
    let mut stream = TcpStream::connect("169.254.169.254:80")?;
    stream.write_all(get(path).as_bytes())?;
    stream.read_exact(&mut [0; 12])?;
    // Stay until the call was described.
    io::stdin().read_to_end(&mut Vec::new()).map(drop)
}

/// Replaces a mapping of the executable, a line of `/proc/self/maps`, with an anonymous copy.
#[expect(clippy::multiple_unsafe_ops_per_block, reason = "nothing may come between them")]
fn remap(line: &str) -> io::Result<()> {
    let mut words = line.split_whitespace();
    let (range, rights) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (start, end) = range.split_once('-').unwrap_or_default();
    let address = |text: &str| usize::from_str_radix(text, 16).map_err(io::Error::other);
    let (start, end) = (address(start)?, address(end)?);
    let right = |letter, bit| if rights.contains(letter) { bit } else { 0 };
    let rights = right('r', libc::PROT_READ) | right('w', libc::PROT_WRITE) | right('x', libc::PROT_EXEC);
    let (read_write, private) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping, nowhere in particular.
    let copy = unsafe { libc::mmap(std::ptr::null_mut(), end - start, read_write, private, -1, 0) };
    if copy == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let to: *mut libc::c_void = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: both are mapped and of that size, and the copy holds the same bytes when it takes the place of the
    // original.
    unsafe {
        std::ptr::copy_nonoverlapping(to.cast_const().cast::<u8>(), copy.cast::<u8>(), end - start);
        check(libc::mprotect(copy, end - start, rights).into())?;
        let moved = libc::mremap(
            copy,
            end - start,
            end - start,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            to,
        );
        if moved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[test]
fn an_executable_that_is_forged_is_marked_and_matches_no_rule() {
    let agent = Agent::new("/bin/bash");
    let service = start(&format!("[[ignore]]\nexecutable = \"{}\"", agent.text()));
    let (lab, _server) = lab_with_imds();
    let (forged, unshared) = (path("forged"), path("user-ns"));
    let this = env::current_exe().expect("this test");
    let mut command = lab.client.command(this.to_str().expect("UTF-8"));
    command
        .args(["--exact", "forge", "--ignored", "--nocapture", "--test-threads=1"])
        .env("FORGE_PATH", &forged)
        .env("FORGE_FILE", agent.path());
    let forged = record_of(&service, &mut command, &forged);
    // The real agent in a user namespace of its own: nothing tells it from a forged one.
    let mut command = lab.client.command(AS_NOBODY[0]);
    let agents = agent.text();
    command.args(&AS_NOBODY[1..]);
    command.args(["unshare", "-U", &agents, "-c", CALL_AND_STAY, "agent", &unshared]);
    let unshared = record_of(&service, &mut command, &unshared);
    for record in [&forged, &unshared] {
        assert_eq!(record["process"]["executable"], json!(agent.text()), "{record:#}");
        assert_eq!(record["process"]["executable_claimed"], true, "{record:#}");
    }
    // Other callers are not marked.
    let plain = path("plain");
    run(
        &lab,
        &[
            "curl",
            "-sm10",
            "-o",
            "/dev/null",
            &format!("http://169.254.169.254{plain}"),
        ],
    );
    assert!(record(&service, &plain)["process"]["executable_claimed"].is_null());
}

/// Cgroups in the hierarchy that has units; removed when dropped.
struct Cgroups {
    made: Vec<PathBuf>,
    top: PathBuf,
}

impl Cgroups {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let mount = |wanted: &str| {
            let line = mounts.lines().find(|line| line.contains(wanted))?;
            line.split(' ').nth(4).map(PathBuf::from)
        };
        let mount = mount("name=systemd").or_else(|| mount(" - cgroup2 ")).expect("cgroups");
        Self {
            made: Vec::new(),
            top: mount.join(format!("e2e-{}.slice", process::id())),
        }
    }

    /// Makes a cgroup below the top, and those above it.
    fn make(&mut self, path: &str) -> PathBuf {
        let mut directory = self.top.clone();
        for name in std::iter::once("").chain(path.split('/')) {
            directory.push(name);
            if fs::create_dir(&directory).is_ok() {
                self.made.push(directory.clone());
            }
        }
        directory
    }

    /// A shell in the cgroup `path` that becomes `command` as an unprivileged user.
    fn command(&mut self, lab: &Lab, path: &str, command: &[&str]) -> process::Command {
        let procs = self.make(path).join("cgroup.procs");
        let script = "echo $$ >\"$0\"; exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
        let mut shell = lab.client.command("sh");
        shell
            .args(["-ec", script, procs.to_str().expect("UTF-8")])
            .args(command);
        shell
    }

    /// The record of one call from the cgroup `path`.
    fn record(&mut self, service: &Service, lab: &Lab, path: &str, url_path: &str) -> Value {
        let mut command = self.command(lab, path, &["bash", "-c", CALL_AND_STAY, "bash", url_path]);
        record_of(service, &mut command, url_path)
    }

    /// Makes calls from the cgroup `path` until one is left out.
    fn until_left_out(&mut self, service: &Service, lab: &Lab, path: &str) {
        let mut count = 0;
        imds_analyzer_tests::until("a call is left out", || {
            count += 1;
            let url_path = self::path(&format!("real-{}-{count}", path.len()));
            let url = format!("http://169.254.169.254{url_path}");
            let mut command = self.command(lab, path, &["curl", "-sm10", "-o", "/dev/null", &url]);
            assert!(wait(&mut command.spawn().expect("started")).success());
            written(service, lab, &[url_path]) == [0]
        });
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for directory in self.made.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// The state that containerd keeps of a container; removed when dropped.
struct Victim {
    id: String,
    made: Vec<PathBuf>,
}

impl Victim {
    fn new() -> Self {
        let id = format!("{:064x}", u64::from(process::id()) << 32 | 0xab);
        let mut victim = Self { id, made: Vec::new() };
        let mut directory = PathBuf::from("/run");
        for name in [
            "containerd",
            "io.containerd.runtime.v2.task",
            "default",
            &victim.id.clone(),
        ] {
            directory.push(name);
            if fs::create_dir(&directory).is_ok() {
                victim.made.push(directory.clone());
            }
        }
        let config =
            json!({ "annotations": { "nerdctl/name": "victim", "nerdctl/image-ref": "registry.test/victim:1.0" } });
        fs::write(directory.join("config.json"), config.to_string()).expect("written");
        victim
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        for directory in self.made.iter().rev() {
            let _ = fs::remove_file(directory.join("config.json"));
            let _ = fs::remove_dir(directory);
        }
    }
}

#[test]
fn no_name_that_a_user_gives_a_cgroup_borrows_from_the_system() {
    let victim = Victim::new();
    let id = &victim.id;
    let prefix = &id[..60];
    let service = start(&format!(
        "[[ignore]]\nunit = \"e2e-agent.service\"\n[[ignore]]\ncontainer = \"{prefix}*\"\n[[ignore]]\ncontainer = \"victim\"",
    ));
    let (lab, _server) = lab_with_imds();
    let mut cgroups = Cgroups::new();
    let names = [
        "e2e-agent.service".to_owned(),
        format!("nerdctl-{id}.scope"),
        format!("docker-{id}.scope"),
        format!("libpod-{id}.scope/container"),
        format!("kubepods-burstable-pod12345678_1234_1234_1234_123456789abc.slice/cri-containerd-{id}.scope"),
        "lxc.payload.victim".to_owned(),
        "machine.slice/systemd-nspawn@victim.service".to_owned(),
        "user@0.service/e2e-agent.service".to_owned(),
    ];
    // A user's own manager, a service with `Delegate=` that runs as a user, and a cgroup that somebody got.
    let parents = [
        "user-65534.slice/user@65534.service",
        "e2e-app.service",
        "session-3.scope/own",
    ];
    let mut paths = Vec::new();
    for (at, parent) in parents.iter().enumerate() {
        let directory = cgroups.make(parent);
        chown(directory, Some(NOBODY), Some(NOBODY)).expect("delegated");
        for (number, name) in names.iter().enumerate() {
            let path = path(&format!("cgroup-{at}-{number}"));
            let record = cgroups.record(&service, &lab, &format!("{parent}/{name}"), &path);
            assert_eq!(
                (&record["container"], &record["orchestrator"]),
                (&Value::Null, &Value::Null),
                "{record:#}"
            );
            assert_eq!(
                record["systemd"]["unit"],
                *["user@65534.service", "e2e-app.service", "session-3.scope"]
                    .get(at)
                    .expect("a unit")
            );
            let caller = record["imds"]["caller"].as_str().expect("a caller");
            assert!(!caller.contains("registry.test"), "{caller}");
            let outer = ["(user@65534.service", "(e2e-app.service", "(~/"]
                .get(at)
                .expect("a place");
            assert!(caller.contains(outer), "{caller}");
            paths.push(path);
        }
    }
    // In the system's own cgroups, where the same user runs the same program, the rules apply and the names are known.
    assert_eq!(written(&service, &lab, &paths), vec![1; paths.len()]);
    cgroups.until_left_out(&service, &lab, "e2e-agent.service");
    cgroups.until_left_out(&service, &lab, &format!("nerdctl-{id}.scope"));
    drop(service);
    let service = start("");
    let record = cgroups.record(&service, &lab, &format!("nerdctl-{id}.scope"), &path("real-name"));
    assert_eq!(
        record["container"]["image"]["name"], "registry.test/victim:1.0",
        "{record:#}"
    );
    let caller = record["imds"]["caller"].as_str().expect("a caller");
    assert!(caller.ends_with(" (registry.test/victim:1.0)"), "{caller}");
}

#[test]
fn an_ignored_path_is_the_one_that_is_meant() {
    let wanted = path("meant");
    let service = start(&format!("[[ignore]]\npath = \"{wanted}\""));
    let (lab, _server) = lab_with_imds();
    let name = wanted.strip_prefix("/latest/meta-data/").expect("below");
    let ways = [
        wanted.clone(),
        format!("{wanted}?x=1"),
        format!("/{wanted}"),
        format!("/latest/./meta-data//{name}"),
        format!("{wanted}/"),
        format!("/latest/user-data/../meta-data/{name}"),
        format!("/latest/meta%2Ddata/%65{}", &name[1..]),
    ];
    for way in &ways {
        run(
            &lab,
            &[
                "curl",
                "-sm10",
                "--path-as-is",
                "-o",
                "/dev/null",
                &format!("http://169.254.169.254{way}"),
            ],
        );
    }
    // With the URL in absolute form.
    let url = format!("http://169.254.169.254{wanted}");
    run(
        &lab,
        &[
            "curl",
            "-sm10",
            "-o",
            "/dev/null",
            "--request-target",
            &url,
            "http://169.254.169.254/",
        ],
    );
    let others = [
        format!("{wanted}/../user-data"),
        format!("{wanted}-not"),
        // The end of these paths, beyond the part that is kept, leads elsewhere.
        format!("{wanted}/{}../iam/security-credentials/x", "./".repeat(600)),
        format!("{wanted}/{}../local-hostname", "./".repeat(600)),
    ];
    for other in &others {
        run(
            &lab,
            &[
                "curl",
                "-sm10",
                "--path-as-is",
                "-o",
                "/dev/null",
                &format!("http://169.254.169.254{other}"),
            ],
        );
    }
    written(&service, &lab, &[]);
    let mut records = service.of_kind("imds-request");
    records.retain(|record| {
        record["url"]["original"]
            .as_str()
            .is_some_and(|target| target.contains(name))
    });
    let targets: Vec<_> = records.iter().map(|it| &it["url"]["original"]).collect();
    assert_eq!(records.len(), others.len(), "{targets:#?}");
}

#[test]
fn the_first_credential_call_of_a_caller_is_written_though_a_rule_has_it() {
    let service = start("[[ignore]]\npath = \"/latest/meta-data/iam/*\"");
    let (lab, _server) = lab_with_imds();
    let role = format!("/latest/meta-data/iam/security-credentials/e2e-{}", process::id());
    let url = format!("http://169.254.169.254{role}");
    for user in [&[][..], &AS_NOBODY[..]] {
        for _ in 0..3 {
            run(&lab, &[user, &["curl", "-sm10", "-o", "/dev/null", &url]].concat());
        }
    }
    assert_eq!(written(&service, &lab, &[role]), [2], "one for each user");
    let users: Vec<Value> = service
        .of_kind("imds-analyzer-first-seen")
        .into_iter()
        .filter(|record| record["imds"]["first"].to_string().contains("credential"))
        .map(|record| record["user"]["id"].clone())
        .collect();
    assert_eq!(users, [json!("0"), json!("65534")]);
}

#[test]
fn rules_name_callers_and_ancestors() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("e2e-nightly.sh");
    fs::write(&script, "#!/bin/sh\n/usr/bin/curl -sm10 -o /dev/null \"$1\"\ntrue\n").expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("executable");
    let script = script.to_str().expect("UTF-8");
    let service = start(
        "[[ignore]]\nuser = \"root\"\nancestor = \"e2e-nightly.sh\"\n[[ignore]]\nuser = \"65534\"\ncaller = \"*curl*\"",
    );
    let (lab, _server) = lab_with_imds();
    let paths = [path("ancestor"), path("caller"), path("neither")];
    let url = |path: &String| format!("http://169.254.169.254{path}");
    run(&lab, &[script, &url(&paths[0])]);
    run(
        &lab,
        &[&AS_NOBODY[..], &["curl", "-sm10", "-o", "/dev/null", &url(&paths[1])]].concat(),
    );
    run(&lab, &["curl", "-sm10", "-o", "/dev/null", &url(&paths[2])]);
    assert_eq!(written(&service, &lab, &paths), [0, 0, 1]);
}

#[test]
fn a_rule_that_anybody_can_satisfy_is_said() {
    const WEAK: &str = "[[ignore]]\npath = \"/latest/meta-data/instance-id\"\n[[expect]]\nunit = \"app.service\"\n[[expect]]\ncontainer = \"*\"\n";
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("config.toml");
    fs::write(&file, WEAK).expect("written");
    let output = imds_analyzer(&["config", "check", file.to_str().expect("UTF-8")]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    let said = |text: &str, rule: &str| text.contains(rule) && text.contains("add user");
    let (first, second) = (
        "[[ignore]] entry 1 (path = \"/latest/meta-data/instance-id\")",
        "[[expect]] entry 2 (container = \"*\")",
    );
    assert!(
        said(&output.stderr, first) && said(&output.stderr, second),
        "{output:#?}"
    );
    assert!(
        output.stderr.contains(": ok") && !output.stderr.contains("app.service"),
        "{output:#?}"
    );

    let mut service = start("[[ignore]]\nuser_unit = \"sync.service\"");
    let (lab, _server) = lab_with_imds();
    service.configure(&format!("{WEAK}{LIMITS}"));
    service.signal(libc::SIGHUP);
    let ignored = "/latest/meta-data/instance-id";
    imds_analyzer_tests::until("the configuration is read", || {
        let before = of_path(&service.records(), ignored);
        run(
            &lab,
            &[
                "curl",
                "-sm10",
                "-o",
                "/dev/null",
                &format!("http://169.254.169.254{ignored}"),
            ],
        );
        written(&service, &lab, &[]);
        of_path(&service.records(), ignored) == before
    });
    let ended = service.stop();
    let text = ended.stderr;
    assert!(
        said(&text, "[[ignore]] entry 1 (user_unit = \"sync.service\")"),
        "at the start: {text}"
    );
    assert!(
        said(&text, first) && said(&text, second),
        "when it is read again: {text}"
    );
}
