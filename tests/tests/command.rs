//! `watch -- COMMAND`: only what it and its children send, and how it ends.
//!
//! guests: full

use std::process::Command;

use imds_analyzer_tests::{Output, Stage, binary, run_to_end as run, wait};
use serde_json::{Value, json};

/// Runs `watch` with these arguments and a shell script. In the script, `$LAB` enters the lab's network namespace, and
/// `$URL` is a URL in it.
fn watch(stage: &Stage, args: &[&str], script: &str) -> Output {
    let mut command = Command::new(binary());
    command.args(["watch", "--format", "json"]).args(args);
    command.args(["--", "sh", "-c", script]);
    command.env("LAB", format!("nsenter --net={}", stage.lab.client.path().display()));
    command.env("URL", stage.url());
    run(&mut command)
}

fn requests(output: &Output) -> Vec<Value> {
    let records = output
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    records
        .filter(|record: &Value| record["event"]["action"] == "imds-request")
        .collect()
}

#[test]
fn only_the_commands_tree_with_its_orphans() {
    let stage = Stage::shared();
    // The stranger is no child of the command, though it runs while the command does.
    let running = tempfile::NamedTempFile::new().expect("a file");
    let path = running.path().to_str().expect("UTF-8");
    let script = "while [ -e \"$1\" ]; do curl -sm10 -A stranger \"$0\"; sleep 0.02; done";
    let mut stranger = stage.start("sh", &["-c", script, &stage.url(), path]);
    // The orphan is forked twice: its parent is gone before it calls, and the command waits until the orphan's output
    // ends.
    let script = r#"
        $LAB curl -sm10 -A child $URL
        ($LAB sh -c 'curl -sm10 -A grandchild $URL; true')
        orphan='
            parent() { read -r _ _ _ parent _ </proc/$$/stat; echo $parent; }
            first=$(parent)
            for i in $(seq 100); do [ $(parent) = $first ] || break; sleep 0.01; done
            $LAB curl -sm10 -A orphan $URL'
        end=$( (sh -c "$orphan" &); true )
    "#;
    let output = watch(&stage, &[], script);
    // Not killed: its last call would go on without it, and end after the test.
    drop(running);
    assert!(wait(&mut stranger).success());
    assert_eq!(output.code, Some(0), "{output:#?}");
    let agents: Vec<_> = requests(&output)
        .iter()
        .map(|it| it["user_agent"]["original"].clone())
        .collect();
    assert_eq!(agents, ["child", "grandchild", "orphan"]);
    let seen = stage.records();
    assert!(seen.iter().any(|it| it["user_agent"]["original"] == "stranger"));
}

#[test]
fn its_output_does_not_mix_with_the_records() {
    let stage = Stage::shared();
    let output = watch(
        &stage,
        &[],
        "echo to-stdout; echo to-stderr >&2; $LAB curl -sm10 $URL; echo '{\"forged\":1}'",
    );
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert_eq!(requests(&output).len(), 1);
    assert!(
        output.stdout.lines().all(|line| line.starts_with("{\"@timestamp\"")),
        "{}",
        output.stdout
    );
    assert!(
        output.stderr.contains("to-stdout\n") && output.stderr.contains("to-stderr\n"),
        "{}",
        output.stderr
    );
}

#[test]
fn exit_codes() {
    let stage = Stage::shared();
    let call = "$LAB curl -sm10 $URL;";
    for (args, script, expected) in [
        (&[][..], "true", 0),
        (&[], "exit 7", 1),
        (&[], "kill -KILL $$", 1),
        (&["--fail-on", "v1-local"], "true", 0),
        (&["--fail-on", "v1-local"], &format!("{call} true"), 3),
        (&["--fail-on", "v1-local"], &format!("{call} exit 7"), 3),
        (&["--fail-on", "v1-local"], "exit 7", 1),
    ] {
        let output = watch(&stage, args, script);
        assert_eq!(output.code, Some(expected), "{args:?} {script}: {output:#?}");
        let said = output.stderr.contains("the command failed");
        assert_eq!(
            said,
            script.contains("exit") || script.contains("kill"),
            "{}",
            output.stderr
        );
    }
}

#[test]
fn a_command_that_cannot_be_started() {
    let output = run(Command::new(binary()).args(["watch", "--", "/no/such/program"]));
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert!(output.stderr.contains("/no/such/program"), "{}", output.stderr);
    assert!(output.stderr.contains("No such file"), "{}", output.stderr);
}

/// Every orphan becomes the analyzer's child, so the analyzer must wait for it: otherwise it stays as a zombie.
#[test]
fn orphans_that_end_are_not_left_as_zombies() {
    let stage = Stage::shared();
    let script = "for i in 1 2 3 4 5; do (true &); done
        n=0
        while ps -o stat= --ppid $PPID | grep -q Z; do
            n=$((n+1)); [ $n -gt 200 ] && exit 9
            sleep 0.01
        done";
    let output = watch(&stage, &[], script);
    assert_eq!(output.code, Some(0), "{output:#?}");
}

#[test]
fn filters_apply_within_the_tree() {
    let stage = Stage::shared();
    let script = "$LAB curl -sm10 -H 'X-aws-ec2-metadata-token: none' $URL; $LAB curl -sm10 $URL/second";
    let output = watch(&stage, &["--v1"], script);
    let [record] = requests(&output).try_into().expect("one record");
    assert_eq!(record["url"]["path"], json!(format!("{}/second", stage.path)));
}
