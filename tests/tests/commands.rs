//! `check`, `schema`, `completions`, `man`, and hosts that refuse: no root, no capabilities, no visible cgroup2.
//!
//! guests: full
//! not-legacy: nobody_may_not_watch_and_is_told_what_helps check_as_nobody_explains without_the_capabilities_root_is_not_enough with_the_capabilities_that_it_names_it_runs_without_root with_the_capabilities_that_it_names_but_one_it_cannot_prove_itself

#![expect(clippy::print_stdout, reason = "figures and reasons are for whoever reads the log")]

use std::{fs, process::Command};

use imds_analyzer_tests::{Output, Stage, binary, imds_analyzer, run_to_end as run, tap};
use serde_json::Value;

/// Runs the analyzer below a program such as `setpriv`, with backtraces switched on.
///
/// Runs a copy, because the folder of the binary may be closed to others.
fn below(before: &[&str], args: &[&str]) -> Output {
    let dir = tempfile::Builder::new()
        .prefix("e2e-")
        .tempdir_in("/tmp")
        .expect("a directory");
    let program = dir.path().join("imds-analyzer");
    fs::copy(binary(), &program).expect("a copy");
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(dir.path(), all).expect("open to all");
    let mut command = Command::new(before[0]);
    command.args(&before[1..]).arg(program).args(args);
    run(command.env("RUST_BACKTRACE", "1").current_dir("/"))
}

const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

fn plain_words(output: &Output) {
    let all = format!("{}{}", output.stdout, output.stderr);
    for word in ["panicked", "backtrace", "Error {", "Os {", "RUST_", "\u{1b}"] {
        assert!(!all.contains(word), "{word} in {all}");
    }
}

#[test]
fn nobody_may_not_watch_and_is_told_what_helps() {
    for args in [&["watch"][..], &["watch", "--format", "json"], &["watch", "--", "true"]] {
        let output = below(&NOBODY, args);
        assert_eq!(output.code, Some(4), "{output:#?}");
        assert!(output.stderr.contains("sudo"), "{}", output.stderr);
        assert!(output.stderr.contains("imds-analyzer check"), "{}", output.stderr);
        assert_eq!(output.stdout, "");
        plain_words(&output);
    }
    // The lab needs more rights than the hooks, for its namespace.
    let output = below(&NOBODY, &["lab"]);
    assert_eq!(output.code, Some(4), "{output:#?}");
    assert!(output.stderr.contains("sudo"), "{}", output.stderr);
    plain_words(&output);
}

#[test]
fn check_as_nobody_explains() {
    let output = below(&NOBODY, &["check"]);
    assert_eq!(output.code, Some(4), "{output:#?}");
    assert!(
        output.stdout.contains("imds-analyzer cannot run here"),
        "{}",
        output.stdout
    );
    assert!(output.stdout.contains("sudo"), "{}", output.stdout);
    plain_words(&output);

    let output = below(&NOBODY, &["check", "--format", "json"]);
    assert_eq!(output.code, Some(4), "{output:#?}");
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(report["usable"], false);
    assert!(!report["obstacles"].as_array().expect("obstacles").is_empty());
}

#[test]
fn without_the_capabilities_root_is_not_enough() {
    let all_of_them = "-bpf,-sys_admin,-perfmon,-net_admin";
    let some = "-bpf,-sys_admin";
    for bounding in [all_of_them, some] {
        let bound = ["setpriv", &format!("--bounding-set={bounding}"), "--inh-caps=-all"];
        let output = below(&bound, &["watch"]);
        assert_eq!(output.code, Some(4), "{bounding}: {output:#?}");
        assert!(output.stderr.contains("CAP_BPF"), "{bounding}: {}", output.stderr);
        plain_words(&output);
        let output = below(&bound, &["check"]);
        assert_eq!(output.code, Some(4), "{bounding}: {output:#?}");
        assert!(output.stdout.contains("CAP_BPF"), "{bounding}: {}", output.stdout);
    }
}

/// Runs the analyzer without root, with capabilities.
fn with_capabilities(names: &str, args: &[&str]) -> Output {
    let (ambient, inheritable) = (format!("--ambient-caps={names}"), format!("--inh-caps={names}"));
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        &inheritable,
        &ambient,
    ];
    below(&nobody, args)
}

/// The capabilities that the remedy names must be enough.
#[test]
fn with_the_capabilities_that_it_names_it_runs_without_root() {
    let names = "-all,+bpf,+perfmon,+net_admin,+sys_ptrace,+sys_admin";
    let output = with_capabilities(names, &["watch", "--format", "json", "--duration", "200ms"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert!(output.stderr.contains("ready"), "{}", output.stderr);
    let output = with_capabilities(names, &["check"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert!(output.stdout.contains("self-test passed"), "{}", output.stdout);
}

/// Without a request of its own the analyzer does not report that it is ready.
#[test]
fn with_the_capabilities_that_it_names_but_one_it_cannot_prove_itself() {
    let output = with_capabilities("-all,+bpf,+perfmon,+net_admin,+sys_ptrace", &["watch"]);
    assert_eq!(output.code, Some(4), "{output:#?}");
    assert!(output.stderr.contains("CAP_SYS_ADMIN"), "{}", output.stderr);
    assert!(!output.stderr.contains("ready"), "{}", output.stderr);
    plain_words(&output);
}

/// If a container or an old host shows no cgroup2, the analyzer mounts it for itself alone.
#[test]
fn no_cgroup2_in_sight() {
    let stage = Stage::shared();
    let script = "
        awk '$(NF-2) == \"cgroup2\" { print $5 }' /proc/self/mountinfo | while read mount; do umount -l $mount; done
        grep -q cgroup2 /proc/self/mountinfo && exit 99
        exec \"$@\"";
    let unshare = ["unshare", "-m", "sh", "-c", script, "sh"];
    let output = below(&unshare, &["check"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert!(output.stdout.contains("private mount"), "{}", output.stdout);

    let lab = stage.lab.client.path();
    let net = format!("--net={}", lab.display());
    let url = stage.url();
    let watch = [
        "watch", "--format", "json", "--", "nsenter", &net, "curl", "-sm10", &url,
    ];
    let output = below(&unshare, &watch);
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert!(output.stdout.contains(&stage.path), "{output:#?}");
    assert_eq!(stage.records().len(), 1, "seen at the root by the other analyzer too");
}

/// In a cgroup namespace, as in a container, the hooks see only a part of the host, and the analyzer says so.
#[test]
fn a_cgroup_namespace_is_not_the_host() {
    let script = "
        root=$(awk '$(NF-2) == \"cgroup2\" && $4 == \"/\" { print $5; exit }' /proc/self/mountinfo)
        own=$root/imds-e2e-$$
        mkdir $own && trap 'echo $$ > $root/cgroup.procs; rmdir $own' EXIT
        echo $$ > $own/cgroup.procs
        unshare -Cm \"$@\"";
    let output = below(&["sh", "-c", script, "sh"], &["check"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert!(output.stdout.contains("running in a cgroup namespace"), "{output:#?}");
    let output = below(&["sh", "-c", script, "sh"], &["watch", "--duration", "100ms"]);
    assert!(output.stderr.contains("running in a cgroup namespace"), "{output:#?}");
    assert!(!imds_analyzer(&["check"]).stdout.contains("cgroup namespace"));
}

#[test]
fn check_in_words() {
    let output = imds_analyzer(&["check"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert_eq!(output.stderr, "");
    for text in [
        "This host supports",
        "It would use",
        if tap() == "send" { "imds_send" } else { "imds_egress" },
        // The number of instructions is there only since 5.16.
        " ms",
        "imds-analyzer works here.",
    ] {
        assert!(output.stdout.contains(text), "{text}: {}", output.stdout);
    }
    plain_words(&output);
}

#[test]
fn check_in_json() {
    let output = imds_analyzer(&["check", "--format", "json"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert_eq!(output.stdout.lines().count(), 1);
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(report["usable"], true);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    assert!(
        report["kernel"]
            .as_str()
            .is_some_and(|it| it.starts_with(release.trim_end())),
        "{report:#}"
    );
    // One sender hook is enough, and this kernel may refuse any of them; do_tcp_sendpages is gone since 6.5.
    let optional = ["imds_fentry", "imds_tp_btf", "imds_kprobe", "imds_pages"];
    for program in report["programs"].as_array().expect("programs") {
        println!("{program}");
        assert!(program["load_ms"].is_f64(), "{program}");
        let refused = optional.iter().any(|name| program["name"] == *name) && program["error"].is_string();
        assert!(program["attached"] == true || refused, "{program}");
    }
}

#[test]
fn schema_completions_and_manual() {
    let schema: Value = serde_json::from_str(&imds_analyzer(&["schema"]).stdout).expect("JSON");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");

    for shell in ["bash", "zsh", "fish"] {
        let output = imds_analyzer(&["completions", shell]);
        assert_eq!(output.code, Some(0), "{output:#?}");
        for word in ["watch", "check", "lab", "fail-on"] {
            assert!(output.stdout.contains(word), "{shell}: {word}");
        }
    }
    // Bash must accept the script, and complete with it.
    let script = "source <(\"$0\" completions bash) && COMP_WORDS=(imds-analyzer wat) COMP_CWORD=1 \
                  && _imds__analyzer imds-analyzer wat imds-analyzer && echo \"${COMPREPLY[@]}\"";
    let output = run(Command::new("bash").args(["-c", script]).arg(binary()));
    assert_eq!(output.stdout.trim(), "watch", "{output:#?}");

    let page = imds_analyzer(&["man"]);
    assert_eq!(page.code, Some(0));
    assert!(page.stdout.contains(".TH imds-analyzer"), "{}", page.stdout);
    let dir = tempfile::tempdir().expect("a directory");
    let pages = dir.path().join("pages");
    assert_eq!(imds_analyzer(&["man", pages.to_str().expect("UTF-8")]).code, Some(0));
    assert!(pages.join("imds-analyzer-watch.1").exists());
}
