//! The commands and their exit codes.

use std::io;

use crate::{
    choice::SchemaOf,
    cli::{self, Cli, Command},
    console::{self, say},
    exit_code::ExitCode,
    kernel::budget::KernelBudget,
    record,
    session::StartError,
    sink,
};

mod check;
mod config;
mod daemon;
pub(crate) mod explain;
mod lab;
mod lock;
mod rehearse;
mod report;
mod signals;
mod top;
mod watch;

/// Runs the command that was given on the command line.
pub fn run(cli: Cli) -> ExitCode {
    let verbose = match &cli.command {
        Command::Watch(args) => args.verbose,
        Command::Daemon(args) => args.verbose,
        Command::Lab(args) => args.verbose,
        Command::Rehearse(args) => args.verbose,
        _ => false,
    };
    // A screen shows them as plain text.
    let color = !matches!(cli.command, Command::Top(_));
    console::diagnostics(verbose, color);
    dispatch(cli.command).unwrap_or_else(|error| {
        let code = code_of(&error);
        if code != ExitCode::Ok {
            say(format_args!("imds-analyzer: {error:#}"));
        }
        if code == ExitCode::CannotRun {
            say(format_args!(
                "Run `imds-analyzer check` to see what this host supports and what is missing."
            ));
        }
        code
    })
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Watch(args) => watch::run(args),
        Command::Top(args) => top::run(args),
        Command::Daemon(args) => daemon::run(&args),
        Command::Check(args) => check::run(
            args.format,
            args.object.wanted(args.owner, true, KernelBudget::default()),
        ),
        Command::Lab(args) => lab::run(&args),
        Command::Explain(args) => explain::run(args.word.as_deref()),
        Command::Config(command) => config::run(command),
        Command::Report(args) => report::run(args),
        Command::Rehearse(args) => rehearse::run(args),
        Command::Schema(args) => written(match args.of {
            SchemaOf::Record => record::schema::write(&mut io::stdout()),
            SchemaOf::Report => record::schema::print(&crate::report::schema(), &mut io::stdout()),
        }),
        Command::Completions(args) => written(cli::completions(args.shell, &mut io::stdout())),
        Command::Man(args) => written(cli::man(args.dir.as_deref(), &mut io::stdout())),
    }
}

fn written(result: io::Result<()>) -> anyhow::Result<ExitCode> {
    Ok(result.map(|()| ExitCode::Ok)?)
}

/// The exit code of a command that failed. A reader that closes the output early is not a failure.
fn code_of(error: &anyhow::Error) -> ExitCode {
    let start = error.downcast_ref();
    let output = match start {
        Some(StartError::Output(error)) => Some(error),
        _ => error.downcast_ref(),
    };
    match start {
        _ if output.is_some_and(sink::is_closed) => ExitCode::Ok,
        Some(StartError::Impossible(_) | StartError::Refused(_)) => ExitCode::CannotRun,
        _ => ExitCode::Failed,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::kernel::plan::Impossible;

    #[test]
    fn the_code_follows_from_the_error() {
        let io = |kind: io::ErrorKind| io::Error::from(kind);
        let (closed, full) = (io::ErrorKind::BrokenPipe, io::ErrorKind::StorageFull);
        let impossible = Impossible {
            rehearsal: false,
            obstacles: Vec::new(),
        };
        let cases = [
            (anyhow!(io(closed)), ExitCode::Ok),
            (anyhow!(StartError::Output(io(closed))), ExitCode::Ok),
            (anyhow!(io(full)), ExitCode::Failed),
            (anyhow!(StartError::Output(io(full))), ExitCode::Failed),
            (anyhow!(StartError::Impossible(impossible)), ExitCode::CannotRun),
            (anyhow!(StartError::Refused(anyhow!("no"))), ExitCode::CannotRun),
            // A "closed" error from the kernel does not mean that the reader closed the output.
            (anyhow!(StartError::Refused(anyhow!(io(closed)))), ExitCode::CannotRun),
            (anyhow!("anything else"), ExitCode::Failed),
        ];
        for (error, expected) in cases {
            assert_eq!(code_of(&error), expected, "{error:#}");
            assert_eq!(code_of(&error.context("while it was tried")), expected);
        }
    }
}
