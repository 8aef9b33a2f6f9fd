//! `config`: the daemon's configuration, printed or checked.

use std::{
    io::{self, Write as _},
    path::Path,
};

use crate::{
    cli::ConfigCommand,
    config::{self, Config},
    console::say,
    exit_code::ExitCode,
    judge::{Remedies, remedy},
    place::Trust,
};

pub(super) fn run(command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Print => io::stdout().write_all(config::DEFAULT.as_bytes())?,
        ConfigCommand::Check { file } => {
            if is_remedies(&file) {
                return Ok(match Remedies::built_in().with_file(&file) {
                    Ok(_) => {
                        say(format_args!("{}: ok", file.display()));
                        ExitCode::Ok
                    }
                    Err(error) => {
                        say(format_args!("{error}"));
                        ExitCode::Failed
                    }
                });
            }
            let checked = Config::read(&file)
                .map_err(|error| error.to_string())
                .and_then(|config| {
                    // The service runs as root, whoever runs this command.
                    let result = config.check_places(Trust::of_service());
                    result
                        .map(|()| config)
                        .map_err(|error| format!("{}: {error}", file.display()))
                });
            let config = match checked {
                Ok(config) => config,
                Err(error) => {
                    say(format_args!("{error}"));
                    return Ok(ExitCode::Failed);
                }
            };
            for warning in config.warnings() {
                say(format_args!("warning: {warning}"));
            }
            say(format_args!("{}: ok", file.display()));
        }
    }
    Ok(ExitCode::Ok)
}

/// True for the name of this program's other file in /etc (added remedies), which has a different format.
fn is_remedies(file: &Path) -> bool {
    file.file_name() == Path::new(remedy::ADDED).file_name()
}
