//! Hosts with something missing or in the way: a clear line in `check`, and never a wrong record.
//!
//! guests: full
//! not-legacy: renamed_field

use std::{fs, path::Path, process::Command};

use imds_analyzer_tests::{Analyzer, Output, Stage, binary, run_to_end, sees_senders, sender_hook};
use serde_json::Value;

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Runs the analyzer with `btf` as the kernel's BTF.
fn with_btf(btf: &[u8], args: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("vmlinux");
    fs::write(&file, btf).expect("a file");
    let script = format!("mount --bind \"$0\" {BTF} && exec \"$@\"");
    run_to_end(
        Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .arg(file)
            .arg(binary())
            .args(args),
    )
}

/// Checks that the analyzer cannot use `btf`, that `check` says why, and that `watch` does what `check` says.
fn refused(btf: &[u8], why: &str) {
    let check = with_btf(btf, &["check"]);
    assert!(check.stdout.contains(why), "{why}: {check:#?}");
    assert!(!check.stderr.contains("panicked"), "{check:#?}");
    let watch = with_btf(btf, &["watch", "--owner", "auto", "--duration", "100ms"]);
    assert_eq!(watch.code, check.code, "{check:#?} {watch:#?}");
    if watch.code != Some(0) {
        assert_eq!(watch.code, Some(4), "{watch:#?}");
        assert!(watch.stderr.contains(why), "{why}: {watch:#?}");
    }
}

#[test]
fn no_btf() {
    refused(b"", "BTF");
}

#[test]
fn truncated_btf() {
    let btf = fs::read(BTF).expect("BTF");
    for len in [10, 24, 1000, btf.len() / 2, btf.len() - 1] {
        refused(&btf[..len], "BTF");
    }
}

/// A kernel update that renames a field that is read.
#[test]
fn renamed_field() {
    let mut btf = fs::read(BTF).expect("BTF");
    let name = b"\0write_seq\0";
    let place = btf
        .windows(name.len())
        .position(|bytes| bytes == name)
        .expect("the name");
    btf[place + 1..][..9].copy_from_slice(b"wrote_seq");
    refused(&btf, "write_seq");
}

/// Another tracer is at the same hooks: both see each request, with its owner.
#[test]
fn another_tracer_on_the_same_function() {
    let stage = Stage::of_senders();
    let mut command = Command::new(binary());
    command
        .args(["watch", "--format", "json", "--path", &stage.path])
        .args(["--owner", &sender_hook()]);
    let mut other = Analyzer::start_another(command);
    let pid = stage.curl(&[]);
    other.wait_for_count(1);
    for record in [&other.stop().requests()[..], &stage.records()[..]].concat() {
        assert_eq!(record["process"]["pid"], pid, "{record:#}");
        assert_eq!(record["imds"]["owner"], sender_hook(), "{record:#}");
    }
}

/// If the kernel refuses a hook, the next one replaces it, and `check` says so.
#[test]
fn a_refused_hook_is_replaced() {
    let output = imds_analyzer_tests::imds_analyzer(&["check", "--format", "json"]);
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let programs = report["programs"].as_array().expect("programs");
    let senders: Vec<_> = programs
        .iter()
        .filter(|program| {
            ["imds_fentry", "imds_tp_btf", "imds_kprobe"].contains(&program["name"].as_str().expect("a name"))
        })
        .collect();
    // Each was tried until one held.
    if let [refused @ .., last] = senders.as_slice() {
        assert!(
            refused.iter().all(|program| program["error"].is_string()),
            "{senders:?}"
        );
        let held = last["attached"] == true;
        assert!(held || !sees_senders(), "{senders:?}");
    }
    if fs::read_to_string(Path::new("/sys/kernel/security/lockdown")).is_ok_and(|modes| modes.contains("[integrity]")) {
        assert!(
            senders.iter().any(|program| program["name"] != "imds_fentry"),
            "{senders:?}"
        );
    }
}
