//! Checks of packaging/ that need no package.

use std::{fs, path::Path, process::Command};

fn read(path: &str) -> String {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    fs::read_to_string(workspace.join(path)).expect(path)
}

const UNIT: &str = "packaging/systemd/imds-analyzer.service";
const SCRIPTS: [&str; 6] = [
    "packaging/deb/postinst",
    "packaging/deb/prerm",
    "packaging/deb/postrm",
    "packaging/rpm/post",
    "packaging/rpm/preun",
    "packaging/rpm/postun",
];

#[test]
fn unit_starts_before_what_calls_imds_and_delays_nobody() {
    let unit = read(UNIT);
    let values = |key: &str| -> Vec<&str> {
        let lines = unit
            .lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.flat_map(|value| value.split(' ')).collect()
    };
    assert_eq!(values("Type"), ["notify"]);
    assert_eq!(values("DefaultDependencies"), ["no"]);
    assert_eq!(values("TimeoutStartSec"), ["20s"]);
    assert!(values("Before").contains(&"cloud-init-local.service"));
    // The keys below would order the unit after something that comes after cloud-init or waits for file systems.
    assert_eq!(
        values("After"),
        ["systemd-journald.socket", "systemd-remount-fs.service"]
    );
    for key in ["PrivateTmp", "RequiresMountsFor", "Requires", "RequiredBy", "Wants"] {
        assert!(values(key).is_empty(), "{key}");
    }
    assert_eq!(values("WantedBy"), ["multi-user.target"]);
    // If systemd does not know a group of system calls, almost nothing is allowed.
    assert!(values("SystemCallFilter").is_empty());
}

#[test]
fn every_line_of_the_unit_has_a_comment_above_it_or_says_it_itself() {
    const PLAIN: [&str; 14] = [
        "Description",
        "Documentation",
        "Before",
        "Type",
        "ExecStart",
        "ExecReload",
        "RestartSec",
        "Restart",
        "WantedBy",
        "TasksMax",
        "OOMScoreAdjust",
        "LockPersonality",
        "RestrictRealtime",
        "RestrictSUIDSGID",
    ];
    const WITH_THE_ONE_ABOVE: [&str; 3] = ["After", "ProtectKernelLogs", "ProtectClock"];
    let unit = read(UNIT);
    let mut above = "";
    for line in unit.lines() {
        if let Some((key, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            let said = PLAIN.contains(&key) || WITH_THE_ONE_ABOVE.contains(&key) || above.starts_with('#');
            assert!(said, "{line}");
        }
        above = line;
    }
}

#[test]
fn scripts_are_shell_and_neither_enable_nor_start() {
    for path in SCRIPTS {
        let script = read(path);
        let parsed = Command::new("sh")
            .args(["-n", "-c", &script])
            .status()
            .expect("sh runs");
        assert!(parsed.success(), "{path}");
        for line in script.lines().filter(|line| line.trim_start().starts_with("systemctl")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(
                !words
                    .iter()
                    .any(|word| ["start", "enable", "preset", "restart"].contains(word)),
                "{path}: {line}"
            );
        }
    }
}
