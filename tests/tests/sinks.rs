//! The failure of one sink does not affect the others, and every request is accounted for: sent = written + counted.
//!
//! guests: none

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by it; figures and reasons are for whoever reads the log"
)]

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{
    Ended, Journal, PYTHON, Service, binary, curl, free_port, imds_analyzer, lab_with_imds as lab, lack, needs,
    of_path, output, process, resident, run_to_end, sample, send, until, wake_ups,
};
use serde_json::Value;

/// So high that nothing is folded and nothing is over a budget.
const NO_LIMITS: &str =
    "[limits]\ncaller = 1000000\nplace = 1000000\nuser = 1000000\nuser_daily = 1000000\nkernel_rate = 0\n";

/// A small file system; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path, size: &str) -> Self {
        fs::create_dir_all(path).expect("made");
        let options = format!("size={size},mode=0750");
        let output = run_to_end(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(path),
        );
        assert_eq!(output.code, Some(0), "{output:#?}");
        Self(path.to_owned())
    }

    /// Fills the file system.
    fn fill(&self) {
        let mut zero = fs::File::open("/dev/zero").expect("zeroes").take(1 << 30);
        let mut file = fs::File::create(self.0.join("filler")).expect("a file");
        std::io::copy(&mut zero, &mut file).expect_err("full");
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run_to_end(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// The loss of this kind in the last summary.
fn lost(records: &[Value], kind: &str) -> u64 {
    let summary = records
        .iter()
        .rfind(|record| record["event"]["action"] == "imds-analyzer-summary");
    summary.expect("a summary")["imds"]["loss"][kind].as_u64().unwrap_or(0)
}

fn of_stdout(ended: &Ended, path: &str) -> usize {
    of_path(&ended.requests(), path)
}

/// The number of requests that the records stand for, one each or many.
fn accounted(records: &[Value]) -> u64 {
    records
        .iter()
        .map(|record| match record["event"]["action"].as_str() {
            Some("imds-request") => 1,
            Some("imds-analyzer-rate-limited") => {
                let calls = record["imds"]["calls"].as_object().expect("counts");
                calls.values().filter_map(Value::as_u64).sum()
            }
            _ => 0,
        })
        .sum()
}

/// The same for journal entries.
fn accounted_in_journal(entries: &[Value]) -> u64 {
    entries
        .iter()
        .map(|entry| match entry["IMDS_ACTION"].as_str() {
            Some("imds-request") => 1,
            Some("imds-analyzer-rate-limited") => ["V1", "V2", "OTHER", "UNKNOWN"]
                .iter()
                .filter_map(|version| entry[format!("IMDS_CALLS_{version}")].as_str()?.parse::<u64>().ok())
                .sum(),
            _ => 0,
        })
        .sum()
}

#[test]
fn a_full_disk_costs_the_log_alone_and_is_made_up_for() {
    const CALLS: usize = 3000;
    let (lab, _server) = lab();
    let dir = tempfile::tempdir().expect("a directory");
    let disk = SmallDisk::mount(&dir.path().join("log"), "16m");
    let port = free_port();
    let mut service = Service::start(&format!(
        "{NO_LIMITS}[stdout]\nformat = \"json\"\n[metrics]\nlisten = \"127.0.0.1:{port}\"\n[journald]\nenabled = false\n"
    ));
    let log = disk.0.join("events.jsonl");
    let config = fs::read_to_string(service.dir.path().join("config.toml")).expect("read");
    let old = format!("{}", service.log().display());
    fs::write(
        service.dir.path().join("config.toml"),
        config.replace(&old, log.to_str().expect("UTF-8")),
    )
    .expect("written");
    service.signal(libc::SIGHUP);
    until("the log has moved", || log.exists());
    send(&lab, "/latest/before", 10);
    let text = || fs::read_to_string(&log).expect("a log");
    until("what was sent before is there", || {
        text().matches("/latest/before\"").count() >= 20
    });

    disk.fill();
    for sent in (300..=CALLS).step_by(300) {
        send(&lab, "/latest/full", 300);
        // This test reads stdout, and may be slow.
        until("stdout has it", || {
            let text = service.scrape(port);
            sample(&text, "imds_analyzer_sink_records_total", &["sink=\"stdout\""]) as usize > sent
        });
    }
    until("the disk is found full", || {
        sample(&service.scrape(port), "imds_analyzer_sink_failing", &["sink=\"log\""]) == 1
    });
    // The log never ends in half a line.
    assert!(text().ends_with('\n'));
    disk.free();
    until("the log goes on by itself", || {
        sample(&service.scrape(port), "imds_analyzer_sink_failing", &["sink=\"log\""]) == 0
    });
    send(&lab, "/latest/after", 10);
    let ended = service.stop();
    let records: Vec<Value> = text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
        .collect();
    let written = of_path(&records, "/latest/full");
    let counted = lost(&records, "log_requests_lost") as usize;
    println!("full disk: {CALLS} sent, {written} written later, {counted} counted as lost");
    assert_eq!(written + counted, CALLS, "{ended:#?}");
    assert!(counted > 0, "more than there is room for");
    assert_eq!(
        of_path(&records, "/latest/before") + of_path(&records, "/latest/after"),
        20
    );
    assert_eq!(of_stdout(&ended, "/latest/full"), CALLS, "stdout is another sink");
}

#[test]
fn a_directory_that_is_not_there_yet() {
    let (lab, _server) = lab();
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().join("place");
    // A file is in the way, as before a file system is mounted.
    fs::write(&place, "").expect("written");
    let mut service = Service::start(&format!("[log]\n#\n{NO_LIMITS}"));
    let config = fs::read_to_string(service.dir.path().join("config.toml")).expect("read");
    let old = format!("{}", service.log().display());
    let log = place.join("events.jsonl");
    fs::write(
        service.dir.path().join("config.toml"),
        config.replace(&old, log.to_str().expect("UTF-8")),
    )
    .expect("written");
    service.signal(libc::SIGHUP);
    service.wait_for_said("reloaded");
    curl(&lab, "/latest/early");
    fs::remove_file(&place).expect("removed");
    until("the record is there", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("/latest/early"))
    });
    let text = fs::read_to_string(&log).expect("a log");
    assert!(
        text.lines()
            .next()
            .is_some_and(|line| line.contains("imds-analyzer-start")),
        "{text}"
    );
    service.stop();
}

#[test]
fn rotation_in_the_middle_of_traffic() {
    const CALLS: usize = 4000;
    let (lab, _server) = lab();
    let mut service = Service::start(&format!(
        "[log]\nmax_size = \"256KiB\"\nmax_total = \"64MiB\"\n{NO_LIMITS}"
    ));
    send(&lab, "/latest/rotated", CALLS);
    service.stop();
    assert_eq!(of_path(&service.records(), "/latest/rotated"), CALLS);
    let files = fs::read_dir(service.log().parent().expect("a directory")).expect("a directory");
    let mut names: Vec<_> = files
        .map(|file| file.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.ends_with(".tmp"))
        .map(|name| name.trim_end_matches(".gz").to_owned())
        .collect();
    names.sort();
    names.dedup();
    assert!(names.len() > 4, "{names:?}");
    // Each file has a start record, so that it stands alone.
    let starts = service.of_kind("imds-analyzer-start").len();
    assert_eq!(starts, names.len(), "{names:?}");
}

#[test]
fn a_consumer_that_empties_the_file() {
    let (lab, _server) = lab();
    let mut service = Service::start("");
    curl(&lab, "/latest/first");
    service.wait_for("the first", |records| of_path(records, "/latest/first") == 1);
    fs::File::create(service.log()).expect("emptied");
    curl(&lab, "/latest/second");
    service.wait_for("the second", |records| of_path(records, "/latest/second") == 1);
    // The file has no hole where the old text was.
    assert!(fs::read(service.log()).expect("a log").iter().all(|byte| *byte != 0));
    service.stop();
}

/// Changes that others may make to the log file. The service reports each once, with the path, and writes a start
/// record before what follows.
#[test]
fn a_log_that_is_changed_by_others_is_noticed() {
    let (lab, _server) = lab();
    let mut service = Service::start("");
    let log = service.log();
    let directory = log.parent().expect("a directory").to_owned();
    let starts = |text: &str| text.matches("imds-analyzer-start").count();
    let text = || fs::read_to_string(&log).unwrap_or_default();
    let call = |name: &str| {
        let path = format!("/latest/{name}");
        curl(&lab, &path);
        until(name, || text().contains(&path));
    };
    call("first");
    // Replaced by a copy, as some editors do.
    let copy = service.dir.path().join("copy");
    fs::copy(&log, &copy).expect("copied");
    fs::rename(&copy, &log).expect("renamed");
    call("replaced");
    assert_eq!(starts(&text()), 2);
    // The same, found when the configuration is reloaded.
    fs::copy(&log, &copy).expect("copied");
    fs::rename(&copy, &log).expect("renamed");
    service.signal(libc::SIGHUP);
    call("replaced-before-a-reload");
    assert_eq!(starts(&text()), 3);
    // The file is unchanged, so a reload makes no difference.
    service.signal(libc::SIGHUP);
    call("untouched");
    assert_eq!(starts(&text()), 3);
    fs::File::create(&log).expect("emptied");
    call("emptied");
    assert_eq!(starts(&text()), 1);
    let file = fs::OpenOptions::new().write(true).open(&log).expect("a log");
    file.set_len(text().len() as u64 - 10).expect("cut");
    call("cut");
    assert_eq!(starts(&text()), 2);
    fs::rename(&log, directory.join("elsewhere")).expect("moved");
    call("moved");
    assert_eq!(starts(&text()), 1);
    {
        let _disk = SmallDisk::mount(&directory, "1m");
        call("mounted");
        assert_eq!(starts(&text()), 1);
    }
    call("unmounted");
    assert_eq!(starts(&text()), 2);
    let said = service.stop().stderr;
    for (what, times) in [
        ("was replaced by another file", 2),
        ("(reported once)", 1),
        ("was removed or moved", 1),
        ("a file system was mounted or unmounted at", 2),
    ] {
        assert_eq!(said.matches(what).count(), times, "{what}: {said}");
    }
    assert_eq!(said.matches(log.to_str().expect("UTF-8")).count(), 7, "{said}");
}

#[test]
fn text_on_stdout_has_the_levels_that_systemd_reads() {
    let (lab, _server) = lab();
    let as_systemd = "export JOURNAL_STREAM=$(stat -Lc %d:%i /proc/$$/fd/1); exec \"$0\" \"$@\"";
    let inherited = "export JOURNAL_STREAM=8:1; exec \"$0\" \"$@\"";
    for (script, prefix) in [(as_systemd, "<4>"), (inherited, "")] {
        let config = "[stdout]\nformat = \"text\"\n[log]\nenabled = false\n";
        let mut service = Service::start_with(config, |command| {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", script])
                .arg(command.get_program())
                .args(command.get_args());
            *command = shell;
        });
        curl(&lab, "/latest/meta-data/text");
        until("the call is shown", || {
            let lines = service.stdout();
            lines
                .iter()
                .any(|line| line.contains("/latest/meta-data/text") && !line.contains("first "))
        });
        let lines = service.stdout();
        let line = lines.iter().find(|line| line.contains("/latest/meta-data/text"));
        assert!(
            line.is_some_and(|line| line.starts_with('<') != prefix.is_empty() && line.starts_with(prefix)),
            "{lines:#?}"
        );
    }
}

/// The system log says who refused calls, and why.
#[test]
fn a_rehearsal_is_in_the_system_log() {
    needs!(lack(
        "journald",
        Journal::is_there(),
        "systemd-journald is not installed"
    ));
    let dir = tempfile::tempdir().expect("a directory");
    let journal = Journal::start(dir.path());
    // This /dev has only the files that the analyzer opens.
    let dev = dir.path().join("dev");
    fs::create_dir(&dev).expect("made");
    fs::write(dev.join("null"), "").expect("made");
    fs::write(dev.join("log"), "").expect("made");
    let script = "mount --bind /dev/null \"$0/null\" && mount --bind \"$1\" \"$0/log\" && mount --rbind \"$0\" /dev && \
                  shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(&dev)
        .arg(journal.socket().with_file_name("dev-log"))
        .arg(binary())
        .args(["rehearse", "--uid", "61999999", "--for", "1s", "--percent", "7"])
        .args(["--reason", "change 4711\nsshd[1]: Accepted password for root"]);
    let ended = run_to_end(&mut command);
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let lines = || {
        let entries = journal.entries(&["SYSLOG_IDENTIFIER=imds-analyzer"]);
        entries
            .iter()
            .map(|entry| entry["MESSAGE"].as_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };
    until("both lines are there", || lines().len() == 2);
    for (line, what) in lines().iter().zip(["begins", "ended"]) {
        assert!(line.starts_with(&format!("rehearsal {what}: 7 % of")), "{line}");
        assert!(line.contains("uid 61999999"), "{line}");
        assert!(line.contains("by uid 0"), "{line}");
        assert!(line.contains("reason: change 4711\\nsshd[1]"), "{line}");
    }
}

#[test]
fn the_journal_has_fields() {
    needs!(lack(
        "journald",
        Journal::is_there(),
        "systemd-journald is not installed"
    ));
    let (lab, _server) = lab();
    let dir = tempfile::tempdir().expect("a directory");
    let journal = Journal::start(dir.path());
    let config = format!(
        "{NO_LIMITS}[journald]\nenabled = true\nsocket = {:?}\n",
        journal.socket()
    );
    let mut service = Service::start(&config);
    let pid = curl(&lab, "/latest/meta-data/journal");
    until("the call is in the journal", || {
        journal.entries(&["IMDS_VERSION=v1"]).len() == 1
    });
    let entry = &journal.entries(&["IMDS_VERSION=v1"])[0];
    for (field, expected) in [
        ("IMDS_PATH", "/latest/meta-data/journal"),
        ("IMDS_PID", &pid.to_string()),
        ("IMDS_VERDICT", "v1"),
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", "imds-analyzer"),
        ("IMDS_UID", "0"),
    ] {
        assert_eq!(entry[field], expected, "{field} in {entry:#}");
    }
    assert_eq!(journal.entries(&["IMDS_ACTION=imds-analyzer-first-seen"]).len(), 1);
    service.stop();
    assert_eq!(journal.entries(&["IMDS_ACTION=imds-analyzer-summary"]).len(), 1);
    // The report reads an export.
    let export = dir.path().join("export.json");
    let entries = journal
        .entries(&[])
        .iter()
        .map(|entry| format!("{entry}\n"))
        .collect::<String>();
    fs::write(&export, &entries).expect("a file");
    let report = imds_analyzer(&["report", export.to_str().expect("UTF-8"), "--format", "json"]);
    let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
    assert_eq!(report["observed"]["local_calls"]["v1"], 1, "{report:#}");
    assert_eq!(report["input"]["unreadable"], 0, "{report:#}");
    // Without `--all`, long fields are null.
    let short = entries.lines().map(|line| {
        let mut entry: Value = serde_json::from_str(line).expect("JSON");
        entry["IMDS_RECORD"] = Value::Null;
        format!("{entry}\n")
    });
    fs::write(&export, short.collect::<String>()).expect("a file");
    let report = imds_analyzer(&["report", export.to_str().expect("UTF-8")]);
    assert!(
        report.stdout.contains("UNPROVEN") && report.stdout.contains("--all"),
        "{report:#?}"
    );
}

/// The CPU time of a process in ticks, user and system.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = process(pid).stat().expect("a process");
    stat.utime + stat.stime
}

/// A user of this test's own, because others on this machine may call IMDS, too.
fn own_user() -> u32 {
    100_000 + std::process::id() % 100_000
}

/// Makes v1 and credential calls, by short-lived programs and on one long connection. Returns how many.
fn traffic(lab: &Lab, calls: usize) -> u64 {
    const CALLS: &str = r#"
import socket, sys
s = socket.create_connection(("169.254.169.254", 80), timeout=10)
for _ in range(int(sys.argv[1])):
    s.sendall(b"GET /latest/meta-data/mixed HTTP/1.1\r\nHost: imds\r\n\r\n")
    assert s.recv(65536)
"#;
    let user = own_user();
    let run = |args: &[&str]| {
        let mut command = lab.client.command("setpriv");
        command.args([&format!("--reuid={user}"), "--regid=65534", "--clear-groups"]);
        command.args(args).stdin(Stdio::null());
        output(command);
    };
    run(&[PYTHON, "-c", CALLS, &calls.to_string()]);
    let url = "http://169.254.169.254/latest/meta-data/iam/security-credentials/mixed";
    for _ in 0..calls / 200 {
        run(&["curl", "-sm10", url]);
    }
    (calls + calls / 200) as u64
}

/// The accelerated life of a service: `rounds` of traffic with rotation, reloads, a full disk and a dead journal.
fn mixed(rounds: usize, calls: usize) {
    let (lab, _server) = lab();
    let dir = tempfile::tempdir().expect("a directory");
    let disk = SmallDisk::mount(&dir.path().join("disk"), "24m");
    let mut journal = Journal::is_there().then(|| Journal::start(dir.path()));
    let journald = journal.as_ref().map_or(String::new(), |journal| {
        format!("[journald]\nenabled = true\nsocket = {:?}\n", journal.socket())
    });
    let port = free_port();
    let config = format!(
        "[log]\nmax_size = \"1MiB\"\nmax_total = \"1GiB\"\n{journald}[metrics]\nlisten = \"127.0.0.1:{port}\"\n\
         [limits]\nwindow = \"1s\"\ncaller = 600\nplace = 1000\nuser = 2000\nuser_daily = 1000000\n\
         kernel_rate = 0\n"
    );
    // Move the log's directory to the small disk.
    let mut service = Service::start(&config);
    let pid = service.pid();
    let path = service.dir.path().join("config.toml");
    let old = service.log().parent().expect("a directory").to_owned();
    let text = fs::read_to_string(&path).expect("read");
    fs::write(
        &path,
        text.replace(old.to_str().expect("UTF-8"), disk.0.to_str().expect("UTF-8")),
    )
    .expect("written");
    service.signal(libc::SIGHUP);
    until("the log has moved", || disk.0.join("events.jsonl").exists());

    let mut sent = traffic(&lab, calls);
    thread::sleep(Duration::from_millis(1500));
    let memory = resident(pid);
    let (ticks, sent_before) = (cpu_ticks(pid), sent);
    let queue_is_empty = |service: &Service| {
        let failing = sample(&service.scrape(port), "imds_analyzer_sink_failing", &[]);
        failing == 0
    };
    for round in 0..rounds {
        service.signal(libc::SIGHUP);
        sent += traffic(&lab, calls);
        disk.fill();
        sent += traffic(&lab, calls);
        service.signal(libc::SIGHUP);
        disk.free();
        until("the log goes on", || queue_is_empty(&service));
        if journal.is_some() {
            // The kernel drops what a killed journal has not read, so nothing may be on its way when it dies.
            thread::sleep(Duration::from_millis(1500));
            drop(journal.take());
            sent += traffic(&lab, calls);
            if round % 2 == 0 {
                // More than the queue holds.
                sent += traffic(&lab, calls);
            }
            journal = Some(Journal::start(dir.path()));
            until("the journal is written again", || queue_is_empty(&service));
        }
    }
    let used = cpu_ticks(pid) - ticks;
    thread::sleep(Duration::from_millis(2500));
    let idle = wake_ups(pid, Duration::from_secs(3));
    let memory_after = resident(pid);
    println!(
        "VmRSS {memory} KiB at the beginning, {memory_after} KiB at the end; {idle} wake-ups in 3 idle seconds; {:.1} ms \
         of CPU for 1,000 requests",
        used as f64 * 10_000.0 / (sent - sent_before) as f64
    );
    assert!(memory_after < 32 << 10);
    let text = service.scrape(port);
    let uid = format!("uid=\"{}\"", own_user());
    let own = sample(&text, "imds_analyzer_caller_requests_total", &[&uid]);
    assert_eq!(own, sent, "{text}");
    service.stop();

    // The files from both directories: the first second's is in the service's own.
    let mut records = service.records();
    let moved = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(&disk.0).expect("a directory").flatten() {
        fs::create_dir_all(moved.path().join("log")).expect("made");
        fs::copy(entry.path(), moved.path().join("log").join(entry.file_name())).expect("copied");
    }
    service.dir = moved;
    records.extend(service.records());
    // Losses include the requests of others on this machine, and so do these sums.
    let summary = records
        .iter()
        .rfind(|record| record["event"]["action"] == "imds-analyzer-summary");
    let summary = &summary.expect("a summary")["imds"]["summary"];
    let seen: u64 = ["total", "local_total"]
        .iter()
        .flat_map(|total| summary[total].as_object().expect("counts").values())
        .filter_map(Value::as_u64)
        .sum();
    let in_log = accounted(&records);
    let lost_by_log = lost(&records, "log_requests_lost");
    println!("sent {sent}, seen with those of others {seen}: {in_log} in the log, {lost_by_log} lost by it");
    assert_eq!(in_log + lost_by_log, seen);
    if let Some(journal) = journal {
        let in_journal = accounted_in_journal(&journal.entries(&["SYSLOG_IDENTIFIER=imds-analyzer"]));
        let lost_by_journal = lost(&records, "journald_requests_lost");
        println!("{in_journal} in the journal, {lost_by_journal} lost by it");
        assert_eq!(in_journal + lost_by_journal, seen);
    }
}

#[test]
fn everything_goes_wrong_once() {
    mixed(1, 1000);
}

#[test]
#[ignore = "minutes"]
fn everything_goes_wrong_for_minutes() {
    mixed(20, 4000);
}
