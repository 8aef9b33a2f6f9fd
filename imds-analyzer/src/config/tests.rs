use std::{fs, os::unix::net::UnixListener, sync::Arc};

use clap::Parser as _;
use imds_analyzer_ebpf::classify::{PathClass, path_class};
use proptest::prelude::*;

use super::*;
use crate::{
    cli::{Cli, Command},
    event::HttpVersion,
    sink::tests::full_event,
};

fn daemon_args(args: &str) -> DaemonArgs {
    let args = ["imds-analyzer", "daemon"].into_iter().chain(args.split_whitespace());
    let command = Cli::try_parse_from(args).expect("flags").command;
    let Command::Daemon(args) = command else {
        unreachable!("the daemon was asked for");
    };
    args
}

#[test]
fn the_printed_default_is_the_default() {
    assert_eq!(Config::parse(DEFAULT), Ok(Config::default()));
    assert_eq!(Config::parse(""), Ok(Config::default()));
    assert_eq!(Config::default().check(), Ok(()));
}

/// Commented-out keys are valid too, and every key is listed.
#[test]
fn the_printed_default_has_every_key() {
    let open: Vec<_> = DEFAULT
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with("[[") || rest.contains(" = ") => rest,
            _ => line,
        })
        .collect();
    let config = Config::parse(&open.join("\n")).expect("a configuration");
    assert!(config.metrics.listen.is_some() && config.metrics.textfile.is_some());
    assert_eq!((config.ignore.len(), config.expect.len()), (1, 1));
    for (section, known) in [
        ("", "surprise = 1"),
        ("host", "[host]\nsurprise = 1"),
        ("log", "[log]\nsurprise = 1"),
        ("journald", "[journald]\nsurprise = 1"),
        ("metrics", "[metrics]\nsurprise = 1"),
        ("limits", "[limits]\nsurprise = 1"),
    ] {
        let error = Config::parse(known).expect_err("no such key");
        let expected = error.rsplit_once("expected ").expect(section).1.to_owned();
        for key in expected.split('`').skip(1).step_by(2) {
            let named = open
                .iter()
                .any(|line| line.starts_with(&format!("{key} = ")) || line.contains(&format!("[{key}]")));
            assert!(named, "{section}: {key} is not in the default file");
        }
    }
}

#[test]
fn errors_say_where_and_what_was_meant() {
    for (text, expected) in [
        ("ownr = \"auto\"", &["line 1", "ownr", "did you mean `owner`?"][..]),
        (
            "owner = \"auto\"\n[metrics]\nlisten_addr = \"127.0.0.1:9254\"",
            &["line 3", "did you mean `listen`?"],
        ),
        ("[logs]", &["line 1", "did you mean `log`?"]),
        ("[log]\nmax_size = \"32MB\"", &["line 2", "32MB", "16MiB"]),
        ("[log]\nmax_size = 32", &["line 2", "string"]),
        ("[log]\nmax_age = \"soon\"", &["line 2", "10m"]),
        ("[limits]\nwindow = \"1000000000d\"", &["line 2"]),
        ("[metrics]\nlisten = \"9254\"", &["line 2"]),
        ("[stdout]\nformat = \"jsn\"", &["line 2", "did you mean `json`?"]),
        ("[[ignore]]", &["without a key"]),
        (
            "[[ignore]]\nexe = \"/bin/x\"",
            &["line 2", "did you mean `executable`?"],
        ),
        ("owner", &["line 1"]),
        ("a = [[[[[[[[[[", &["line 1"]),
    ] {
        let error = Config::parse(text).expect_err(text);
        for part in expected {
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

#[test]
fn values_that_make_no_sense_are_named() {
    for (text, key) in [
        ("runtime_dir = \"run\"", "runtime_dir"),
        ("[log]\npath = \"events.jsonl\"", "log.path"),
        ("[log]\npath = \"/\"", "log.path"),
        ("[log]\npath = \"/tmp/\"", "log.path must name a file"),
        ("[log]\npath = \"/tmp/.\"", "log.path must name a file"),
        ("[log]\npath = \"/tmp//\"", "log.path must name a file"),
        ("[log]\npath = \"/tmp/a\\u0000b\"", "NUL"),
        ("runtime_dir = \"/run/\\u0000\"", "NUL"),
        ("[metrics]\ntextfile = \"/tmp/\\u0000.prom\"", "NUL"),
        (
            "[metrics]\ntextfile = \"/var/lib/textfile/\"",
            "metrics.textfile must name a file",
        ),
        ("[log]\nmax_size = \"1KiB\"", "log.max_size"),
        ("[log]\nmax_total = \"33MiB\"", "log.max_total"),
        ("[limits]\nwindow = \"0s\"", "limits.window"),
        ("[limits]\nkernel_burst = 1", "limits.kernel_burst"),
        ("[metrics]\nmax_callers = 100000", "metrics.max_callers"),
    ] {
        let error = Config::parse(text).expect("well-formed").check().expect_err(text);
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn keys_that_are_read_at_start_only_are_named() {
    let config = |text: &str| Config::parse(text).expect(text);
    for (text, keys) in [
        ("object = \"legacy-wire\"", &["object"][..]),
        ("owner = \"connect\"", &["owner"]),
        ("args = \"full\"", &["args"]),
        ("name_service = true", &["name_service"]),
        ("runtime_dir = \"/run/x\"", &["runtime_dir"]),
        ("[limits]\nkernel_rate = 1", &["limits.kernel_rate"]),
        ("[limits]\nkernel_burst = 20000", &["limits.kernel_burst"]),
        (
            "[limits]\ncaller = 1\n[log]\nenabled = false\n[stdout]\nformat = \"json\"",
            &[],
        ),
        ("[metrics]\nlisten = \"127.0.0.1:1\"\n[journald]\nenabled = true", &[]),
    ] {
        assert_eq!(Config::default().needs_restart(&config(text)), keys, "{text}");
    }
    // The default file says so for the same keys. A comment applies to the keys directly below it.
    let (mut comment, mut keys) = (String::new(), Vec::new());
    let mut above = "";
    for line in DEFAULT.lines() {
        if !line.starts_with('#') {
            if let Some((key, _)) = line.split_once(" = ").filter(|_| comment.contains("at restart")) {
                keys.push(key);
            }
        } else if above.starts_with('#') {
            comment.push_str(line);
        } else {
            line.clone_into(&mut comment);
        }
        above = line;
    }
    assert_eq!(
        keys,
        [
            "object",
            "owner",
            "args",
            "name_service",
            "runtime_dir",
            "kernel_rate",
            "kernel_burst"
        ]
    );
}

#[test]
fn places_that_others_can_write_are_refused() {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use crate::place::Trust;

    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().to_str().expect("UTF-8");
    let check = |text: &str| {
        let text = format!("runtime_dir = \"{root}/run\"\n{}", text.replace("{root}", root));
        let config = Config::parse(&text).expect("well-formed");
        config
            .check()
            .and_then(|()| config.check_places(Trust::of_this_process()))
    };
    let log = "[log]\npath = \"{root}/log/e.jsonl\"";
    assert_eq!(check(log), Ok(()), "not there yet");
    fs::create_dir(dir.path().join("log")).expect("made");
    assert_eq!(check(log), Ok(()));
    for mode in [0o777, 0o1777, 0o757] {
        fs::set_permissions(dir.path().join("log"), fs::Permissions::from_mode(mode)).expect("ours");
        let error = check(log).expect_err("writable by all");
        assert!(error.starts_with("log.path: ") && error.contains("everyone"), "{error}");
    }
    assert_eq!(check("[log]\npath = \"{root}/log/e.jsonl\"\nenabled = false"), Ok(()));
    assert!(
        check("[log]\npath = \"/tmp/e.jsonl\"").is_err(),
        "the sticky bit protects what is there already"
    );
    fs::set_permissions(dir.path().join("log"), fs::Permissions::from_mode(0o755)).expect("ours");
    fs::create_dir(dir.path().join("log/e.jsonl")).expect("made");
    assert!(check(log).expect_err("a directory").contains("not a regular file"));
    fs::remove_dir(dir.path().join("log/e.jsonl")).expect("removed");
    symlink("/etc/passwd", dir.path().join("log/e.jsonl")).expect("linked");
    assert!(check(log).expect_err("a link").contains("not a regular file"));

    if chown(dir.path().join("log"), Some(65534), None).is_err() {
        // Only root can change the owner.
        return;
    }
    assert!(check(log).expect_err("another's").contains("user 65534"));
    assert!(check("[log]\npath = \"{root}/log/a/b/e.jsonl\"").is_err());
    // The textfile's directory may belong to another user, but no link on the way may.
    let log = "[log]\nenabled = false\n[metrics]\n";
    assert_eq!(check(&format!("{log}textfile = \"{{root}}/log/i.prom\"")), Ok(()));
    symlink("/etc", dir.path().join("log/link")).expect("linked");
    let error = check(&format!("{log}textfile = \"{{root}}/log/link/i.prom\"")).expect_err("a link of another's");
    assert!(error.starts_with("metrics.textfile: "), "{error}");
}

#[test]
fn flags_come_before_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config.toml");
    fs::write(
        &path,
        "args = \"full\"\n[log]\npath = \"/a/b\"\n[stdout]\nformat = \"text\"",
    )
    .expect("written");
    let flags = format!("--config {} --log-file /c/d --metrics-listen [::1]:1", path.display());
    let config = Config::load(&daemon_args(&flags)).expect("a configuration");
    assert_eq!(config.args, ArgsMode::Full);
    assert_eq!(config.stdout.format, StdoutFormat::Text);
    assert_eq!(config.log.path, Path::new("/c/d"));
    assert_eq!(config.metrics.listen, "[::1]:1".parse().ok());
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name| dir.path().join(name);
    fs::write(path("long"), vec![b'#'; file::FILE_MAX as usize + 1]).expect("written");
    fs::write(path("bytes"), [0xff, 0xfe]).expect("written");
    let _socket = UnixListener::bind(path("socket")).expect("a socket");
    for name in ["long", "bytes", "socket", ".", "absent"] {
        let error = Config::read(&path(name)).expect_err(name);
        assert!(error.to_string().contains(name), "{error}");
    }
    assert!(Config::read(Path::new("/dev/zero")).is_err());
}

fn rule(text: &str) -> Pattern {
    let config = Config::parse(&format!("[[ignore]]\n{text}")).expect(text);
    config.ignore[0].clone()
}

#[test]
fn patterns() {
    let event = full_event();
    for (pattern, matches) in [
        ("executable = \"/usr/bin/python3*\"", true),
        ("executable = \"/usr/bin/python3\"", false),
        ("unit = \"user@1001.service\"\nuser = \"app\"", true),
        ("unit = \"user@1001.service\"\nuser = \"root\"", false),
        ("unit = \"app.service\"", false),
        ("user_unit = \"app.service\"", true),
        ("user_unit = \"user@1001.service\"", false),
        ("user = \"1000\"", true),
        ("container = \"0123456789ab*\"", true),
        ("container = \"abcdabcd*\"", false),
        ("caller = \"/opt/app/run.py (docker.io/*)\"", true),
        ("caller = \"/opt/app/run.py\"", false),
        ("ancestor = \"supervisord\"", true),
        ("ancestor = \"/usr/bin/supervisord\"", true),
        ("ancestor = \"/usr/bin/*\"\nunit = \"user@*\"", true),
        ("ancestor = \"python3\"", false),
        ("path = \"*/security-credentials/*\"", true),
        ("path = \"/latest/user-data\"", false),
    ] {
        assert_eq!(rule(pattern).matches(&event), matches, "{pattern}");
    }
}

#[test]
fn an_executable_counts_where_the_kernel_vouches_for_it() {
    let mut event = full_event();
    let process = Arc::make_mut(event.process.as_mut().expect("a process"));
    process.executable_trusted = false;
    assert!(!rule("executable = \"/usr/bin/python3*\"").matches(&event));
    assert!(!rule("executable = \"*\"").matches(&event));
    assert!(rule("user = \"app\"").matches(&event));
}

#[test]
fn paths_are_compared_as_the_class_is_judged() {
    let matches = |pattern: &str, target: &str| {
        let mut event = full_event();
        event.path_class = path_class(target.as_bytes());
        event.http.target = Some(target.to_owned());
        rule(&format!("path = \"{pattern}\"")).matches(&event)
    };
    let id = "/latest/meta-data/instance-id";
    for target in [
        "/latest/meta-data/instance-id",
        "/latest/meta-data/instance-id?x=1",
        "//latest/meta-data/instance-id",
        "/latest/./meta-data/instance-id",
        "/latest/meta-data/instance-id/",
        "/latest/meta-data/x/../instance-id",
        "/latest/meta%2ddata/instance-id",
        "http://169.254.169.254/latest/meta-data/instance-id",
    ] {
        assert!(matches(id, target), "{target}");
        assert!(matches("/latest/*", target), "{target}");
        assert!(matches("/latest/meta-data/instance-id/", target), "{target}");
        assert!(matches("/latest/meta-data/instance-id/*", target), "{target}");
    }
    let credential = "/latest/meta-data/iam/security-credentials/x";
    for target in [
        credential,
        "latest/meta-data/instance-id",
        "/latest/meta-data/instance-id/../iam/security-credentials/x",
        "/latest/meta-data/instance-id/..%2fiam/security-credentials/x",
        "/latest/meta-data/instance-id%3f",
    ] {
        assert!(!matches(id, target), "{target}");
    }
    // Only the beginning of a long target is kept, and the rest may change the path.
    let mut event = full_event();
    event.http.target = Some(
        format!("{id}/{}", "./".repeat(600))
            .get(..1024)
            .expect("long")
            .to_owned(),
    );
    event.path_class = PathClass::Plain;
    event.http.version = None;
    assert!(!rule(&format!("path = \"{id}\"")).matches(&event), "cut");
    event.http.version = Some(HttpVersion::Http09);
    assert!(!rule(&format!("path = \"{id}\"")).matches(&event), "cut, HTTP/0.9");
    event.http.version = Some(HttpVersion::Http11);
    event.http.target = Some(id.to_owned());
    event.path_class = PathClass::Credential;
    assert!(!rule(&format!("path = \"{id}\"")).matches(&event), "cut by the capture");
}

#[test]
fn rules_that_anybody_can_satisfy_are_named_with_the_remedy() {
    for (text, warned) in [
        ("path = \"/latest/meta-data/instance-id\"", true),
        ("container = \"*\"", true),
        ("container = \"**\"\npath = \"/latest/user-data\"", true),
        ("container = \"abab*\"", false),
        ("container = \"web\"", false),
        ("user_unit = \"sync.service\"", true),
        ("caller = \"/usr/bin/x\"", true),
        ("ancestor = \"cron\"", true),
        (
            "ancestor = \"/usr/sbin/crond\"\ncaller = \"/opt/x\"\npath = \"/latest/*\"",
            true,
        ),
        ("unit = \"*\"", true),
        ("unit = \"*.service\"", true),
        ("unit = \"user@*.service\"", true),
        ("unit = \"session-*\"", true),
        ("unit = \"cron*.service\"", true),
        ("unit = \"amazon-ssm-agent.service\"", false),
        ("unit = \"cloud-init*.service\"", false),
        ("executable = \"/usr/bin/amazon-ssm-agent\"", false),
        ("executable = \"/opt/agent-1.*/bin/agent\"", true),
        ("executable = \"*/amazon-ssm-agent\"", true),
        ("executable = \"*\"", true),
        ("executable = \"/usr/bin/*\"", true),
        ("executable = \"/usr/bin/curl\"", true),
        ("executable = \"/usr/bin/python3.11\"", true),
        ("executable = \"/usr/bin/pyth*\"", true),
        ("executable = \"/usr/bin/ruby-2.7\"\npath = \"/latest/*\"", true),
        ("executable = \"/usr/bin/curl\"\nuser = \"backup\"", false),
        ("executable = \"/usr/bin/curl\"\nunit = \"backup.service\"", false),
        ("user = \"root\"", false),
        ("user = \"*\"", true),
        ("user = \"0\"\npath = \"/latest/meta-data/\"", false),
        ("user = \"0\"\npath = \"//latest/meta-data\"", true),
        ("user = \"0\"\npath = \"/latest/meta-data?x\"", true),
        ("user = \"0\"\npath = \"/\"", false),
    ] {
        let config = Config::parse(&format!("[[ignore]]\nuser = \"root\"\n[[expect]]\n{text}")).expect(text);
        let warnings = config.warnings();
        assert_eq!(!warnings.is_empty(), warned, "{text}: {warnings:?}");
        for warning in &warnings {
            let line = text.lines().next().expect("a key");
            assert!(warning.starts_with("[[expect]] entry 1 ("), "{warning}");
            assert!(
                warning.contains(line) && (warning.contains("add user") || warning.contains("write")),
                "{warning}"
            );
        }
        // They are only warnings: the rule applies.
        assert_eq!(config.check(), Ok(()));
    }
    assert_eq!(Config::default().warnings(), Vec::<String>::new());
}

#[test]
fn sizes() {
    for (text, size) in [
        ("64KiB", Some(64 << 10)),
        ("1 GiB", Some(1 << 30)),
        ("1.5GiB", None),
        ("GiB", None),
        ("10", None),
        ("99999999999GiB", None),
        ("-1MiB", None),
        ("", None),
    ] {
        assert_eq!(units::parse_size(text), size, "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_is_too_bad(text in "\\PC*") {
        if let Ok(config) = Config::parse(&text) {
            let _ = config.check();
        }
    }

    #[test]
    fn a_star_is_any_text(parts in prop::collection::vec("[ab]{0,3}", 1..4), fill in "[ab]{0,3}") {
        prop_assert!(pattern::fits(&parts.join("*"), &parts.join(&fill)));
    }
}

/// The messages of `config check` and of the service for a bad file.
#[test]
fn errors_say_what_to_write() {
    let bad = [
        "[log]\nmax_sizes = \"1MiB\"",
        "[logs]\nenabled = true",
        "[log]\nmax_size = \"32 M\"",
        "[log]\nmax_size = \"1KiB\"",
        "[log]\nmax_total = \"33MiB\"",
        "[log]\nmax_age = \"1\"",
        "[log]\nmax_age = \"200years\"",
        "[log]\npath = \"events.jsonl\"",
        "[log]\npath = \"/tmp/\"",
        "[limits]\nwindow = \"0s\"",
        "[limits]\nkernel_burst = 1",
        "[metrics]\nlisten = \"9254\"",
        "[metrics]\nmax_callers = 100000",
        "[[ignore]]",
        "[[ignore]]\nunits = \"app.service\"",
        "owner = \"ebpf\"",
        "args = full",
    ];
    let text: String = bad
        .iter()
        .map(|text| {
            let error = Config::parse(text).and_then(|config| config.check()).expect_err(text);
            format!("{text}\n=> {}\n\n", error.replace('\n', "\n   "))
        })
        .collect();
    crate::golden::golden("config/testdata/errors.txt", &text);
}
