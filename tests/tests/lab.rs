//! The `lab` command, end to end.
//!
//! guests: full

#![expect(clippy::panic, reason = "a test fails by it")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use imds_analyzer_tests::{
    Analyzer, Lack, Output, binary, imds_analyzer, lack, needs, programs_in_the_kernel, run_to_end as run,
};
use serde_json::{Value, json};

/// The lack of a client of the tour, if there is one.
fn clients() -> Option<Lack> {
    let missing = ["curl", "wget", "python3", "setpriv"].into_iter().find(|client| {
        let mut client = Command::new(client);
        client.arg("--help").stdout(Stdio::null()).status().is_err()
    });
    lack(
        "clients",
        missing.is_none(),
        format!("{} cannot be run", missing.unwrap_or_default()),
    )
}

fn records(output: &Output) -> Vec<Value> {
    let records = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    records.collect()
}

/// The requests of the tour's clients; others on this machine may call at the same time.
fn own(records: &[Value], pid: u32) -> Vec<&Value> {
    let is_own = |it: &&Value| {
        let ancestors = it["process"]["ancestors"].as_array();
        it["event"]["action"] == "imds-request" && ancestors.is_some_and(|all| all.iter().any(|one| one["pid"] == pid))
    };
    records.iter().filter(is_own).collect()
}

fn lab(args: &[&str]) -> (Output, u32) {
    let mut command = Command::new("sh");
    // The shell's pid becomes the analyzer's.
    command
        .args(["-c", "echo pid $$ >&2; exec \"$@\"", "sh"])
        .arg(binary())
        .arg("lab")
        .args(args);
    let output = run(&mut command);
    let pid = output
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("pid ")?.parse().ok());
    (output, pid.expect("a pid"))
}

fn versions(requests: &[&Value]) -> Vec<usize> {
    ["v1", "v2", "other", "unknown"]
        .map(|version| requests.iter().filter(|it| it["imds"]["version"] == version).count())
        .to_vec()
}

#[test]
fn the_tour_in_json() {
    needs!(clients());
    let (output, pid) = lab(&["--format", "json"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    let records = records(&output);
    let schema = imds_analyzer_tests::schema();
    assert!(records.iter().all(|record| schema.is_valid(record)));
    let requests = own(&records, pid);
    // The orphan makes a v1 call, too, but the analyzer is not among its ancestors.
    assert_eq!(versions(&requests), [6, 4, 1, 0], "{requests:#?}");
    let mut orphans = records
        .iter()
        .filter(|it| it["url"]["path"] == "/latest/dynamic/instance-identity/document");
    let orphan = orphans.next_back().expect("the orphan's call");
    assert_eq!(orphan["imds"]["verdict"], "v1");
    assert_eq!(orphan["process"]["args"][0], "curl");
    assert!(
        requests
            .iter()
            .all(|it| it["imds"]["local"] == false && it["imds"]["netns"] == "other")
    );
    assert_eq!(
        records.last().expect("a record")["event"]["action"],
        "imds-analyzer-summary"
    );
    // stderr holds headings, and no errors.
    assert!(
        !output.stderr.contains("failed") && !output.stderr.contains("WARN"),
        "{}",
        output.stderr
    );
}

#[test]
fn the_tour_in_words() {
    needs!(clients());
    let (output, pid) = lab(&[]);
    let parent = format!("imds-analyzer({pid})");
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert!(!output.stdout.contains('\u{1b}') && !output.stderr.contains('\u{1b}'));
    let line = |text: &str| {
        // Others may call at the same time.
        let mut own = output.stdout.lines().filter(|line| line.contains(&parent));
        let found = own.find(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("{text} in {}", output.stdout))
    };
    // Verdict, method and path, process and its parents, user.
    let credential = line("security-credentials");
    for part in [
        " v1 ",
        "GET /latest/meta-data/iam/",
        "python3[",
        " < imds-analyzer(",
        "credential",
        "user=root",
    ] {
        assert!(credential.contains(part), "{part} in {credential}");
    }
    assert!(line("user-data").contains("user=nobody"), "{}", line("user-data"));
    assert!(
        line("computeMetadata").contains(" other "),
        "{}",
        line("computeMetadata")
    );
    assert!(line("PUT /latest/api/token").contains(" v2 token "));
    assert!(output.stderr.contains("# curl without a token"), "{}", output.stderr);
    assert!(
        output.stderr.contains("Calls to the metadata service"),
        "{}",
        output.stderr
    );
    // The verdict on these records, and what to change.
    let (_, report) = output
        .stderr
        .split_once("What `imds-analyzer report` says")
        .expect("a report");
    for part in ["NOT READY", "Who has to change", "watched for 0 min of 7 d"] {
        assert!(report.contains(part), "{part} in {report}");
    }
}

#[test]
fn where_tokens_are_required() {
    needs!(clients());
    let (output, pid) = lab(&["--format", "json", "--tokens", "required", "--local"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    let records = records(&output);
    assert!(own(&records, pid).iter().all(|it| it["imds"]["local"] == true));
    // A refusal does not change what a call is.
    assert_eq!(versions(&own(&records, pid))[1], 4);
    assert!(versions(&own(&records, pid))[0] >= 6);
    assert!(output.stderr.contains("IMDS refused it"), "{}", output.stderr);
}

#[test]
fn kept_open_for_ones_own_calls() {
    let mut command = Command::new(binary());
    command.args(["lab", "--keep", "--format", "json"]);
    let mut analyzer = Analyzer::start(command);
    let net = format!("--net=/proc/{}/fd", analyzer.pid());
    // One of the analyzer's descriptors is the namespace.
    let deadline = Instant::now() + Duration::from_secs(20);
    let call = loop {
        assert!(Instant::now() < deadline, "no namespace");
        let fds = fs::read_dir(&net[6..]).into_iter().flatten().flatten();
        let found = fds
            .map(|fd| fd.path())
            .find(|fd| fs::read_link(fd).is_ok_and(|to| to.to_string_lossy().starts_with("net:")));
        if let Some(fd) = found {
            let net = format!("--net={}", fd.display());
            let url = "http://169.254.169.254/latest/meta-data/by-hand";
            break run(Command::new("nsenter").args([&net, "curl", "-sm10", url]));
        }
        thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(call.code, Some(0), "{call:#?}");
    let is_by_hand = |it: &Value| it["url"]["path"] == "/latest/meta-data/by-hand";
    let records = analyzer.wait_for(|records| records.iter().any(is_by_hand));
    assert!(records.iter().any(is_by_hand));
    // After the tour the analyzer says how to call, and goes on.
    let ended = analyzer.stop();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.of_kind("imds-analyzer-summary").len(), 1);
}

/// Network namespaces that the process holds open, by inode.
fn namespaces_of(pid: u32) -> BTreeSet<u64> {
    let inode = |path: String| fs::metadata(path).map(|it| it.ino());
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("net:")))
        .filter_map(|fd| inode(fd.path().display().to_string()).ok())
        .collect()
}

fn is_held(namespace: u64) -> bool {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let mut pids = processes.filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    pids.any(|pid| {
        namespaces_of(pid).contains(&namespace)
            || fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|it| it.ino() == namespace)
    })
}

/// The prefix of the names of our programs.
const OURS: &str = "imds_";

/// The programs of this analyzer in the kernel, from the descriptors that it holds. Before 4.18 these do not tell: then
/// the programs that have come since `before`.
fn programs_of(pid: u32, before: &BTreeSet<u64>) -> BTreeSet<u64> {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .into_iter()
        .flatten()
        .flatten();
    let held: BTreeSet<u64> = infos
        .filter_map(|info| fs::read_to_string(info.path()).ok())
        .filter_map(|info| {
            info.lines()
                .find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
        })
        .collect();
    if held.is_empty() {
        return programs_in_the_kernel(OURS).difference(before).copied().collect();
    }
    held
}

#[test]
fn nothing_is_left_behind_even_when_killed() {
    let links = || fs::read_dir("/sys/class/net").expect("links").flatten().count();
    let links_before = links();
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let mut command = Command::new(binary());
        command.args(["lab", "--keep", "--format", "json"]);
        let before = programs_in_the_kernel(OURS);
        let mut analyzer = Analyzer::start(command);
        // Mid-run: a client has called, and the tour is not over.
        analyzer.wait_for_count(1);
        let (namespaces, programs) = (namespaces_of(analyzer.pid()), programs_of(analyzer.pid(), &before));
        assert!(
            !namespaces.is_empty() && programs.len() >= 4,
            "{namespaces:?} {programs:?}"
        );
        assert!(programs.is_subset(&programs_in_the_kernel(OURS)));
        let ended = analyzer.stop_by(signal);
        assert_eq!(ended.code, (signal == libc::SIGINT).then_some(0));
        let deadline = Instant::now() + Duration::from_secs(20);
        // A client of the tour may outlive the analyzer for its own time limit.
        while namespaces.iter().any(|it| is_held(*it)) || !programs.is_disjoint(&programs_in_the_kernel(OURS)) {
            assert!(
                Instant::now() < deadline,
                "after signal {signal}: {namespaces:?} {programs:?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(links(), links_before);
    }
}

#[test]
fn check_leaves_nothing_behind() {
    // Other analyzers come and go: look only for programs that were not there before, and stay.
    let before = programs_in_the_kernel(OURS);
    assert_eq!(imds_analyzer(&["check"]).code, Some(0));
    let mut new: BTreeSet<_> = programs_in_the_kernel(OURS).difference(&before).copied().collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !new.is_empty() {
        assert!(Instant::now() < deadline, "{}", json!(new));
        thread::sleep(Duration::from_millis(20));
        new.retain(|it| programs_in_the_kernel(OURS).contains(it));
    }
}
