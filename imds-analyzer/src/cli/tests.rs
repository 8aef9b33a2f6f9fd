use clap::{CommandFactory, error::ErrorKind};

use super::*;
use crate::golden::golden;

fn error(args: &str) -> clap::Error {
    let args = std::iter::once("imds-analyzer").chain(args.split_whitespace());
    Cli::try_parse_from(args).expect_err("wrong usage")
}

#[test]
fn definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn usage_errors_name_the_flag() {
    for (args, kind, flag) in [
        ("watch --duration 10", ErrorKind::ValueValidation, "--duration"),
        ("watch --duration 0s", ErrorKind::ValueValidation, "--duration"),
        ("watch --count 0", ErrorKind::ValueValidation, "--count"),
        ("watch --fail-on v2", ErrorKind::InvalidValue, "--fail-on"),
        ("watch --path=", ErrorKind::InvalidValue, "--path"),
        ("watch -q -v", ErrorKind::ArgumentConflict, "--quiet"),
        ("watch --owner ebpf", ErrorKind::InvalidValue, "--owner"),
        ("watch ls", ErrorKind::UnknownArgument, "ls"),
        (
            "daemon --metrics-listen 9254",
            ErrorKind::ValueValidation,
            "--metrics-listen",
        ),
        ("daemon --log maybe", ErrorKind::InvalidValue, "--log"),
    ] {
        let error = error(args);
        assert_eq!(error.kind(), kind, "{args}");
        assert!(error.to_string().contains(flag), "{error}");
        assert_eq!(error.exit_code(), ExitCode::Usage as i32, "{args}");
    }
}

/// Every command with its full name and its parents, such as `imds-analyzer config check`.
fn commands() -> Vec<clap::Command> {
    fn add(command: &clap::Command, commands: &mut Vec<clap::Command>) {
        commands.push(command.clone());
        command
            .get_subcommands()
            .filter(|command| command.get_name() != "help")
            .for_each(|command| add(command, commands));
    }
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut commands = Vec::new();
    add(&root, &mut commands);
    commands
}

#[test]
fn help_is_golden_and_fits_a_terminal() {
    let names: Vec<_> = commands()
        .into_iter()
        .map(|command| {
            let mut command = command.term_width(100);
            let name = command.get_bin_name().unwrap_or(command.get_name()).replace(' ', "-");
            let short = command.render_help().to_string();
            let long = command.render_long_help().to_string();
            for help in [&short, &long] {
                assert!(help.lines().all(|line| line.len() <= 100), "{help}");
            }
            golden(&format!("cli/testdata/{name}.short.txt"), &short);
            golden(&format!("cli/testdata/{name}.txt"), &long);
            name
        })
        .collect();
    assert_eq!(names.len(), 15, "{names:?}");
}

#[test]
fn usage_errors_say_what_to_write() {
    let errors = [
        "",
        "look",
        "watch --duration 10",
        "watch --duration 0s",
        "watch --count 0",
        "watch --fail-on v2",
        "watch --path=",
        "watch -q -v",
        "watch --owner ebpf",
        "watch --object old",
        "watch ls",
        "top --follow events.jsonl --v1",
        "top --follow events.jsonl --owner kprobe",
        "top --replay events.jsonl --follow events.jsonl",
        "top --speed 60",
        "top --replay events.jsonl --speed fast",
        "daemon --metrics-listen 9254",
        "daemon --log maybe",
    ];
    let text: String = errors
        .iter()
        .map(|args| format!("$ imds-analyzer {args}\n{}\n", error(args)))
        .collect();
    golden("cli/testdata/errors.txt", &text);
}
