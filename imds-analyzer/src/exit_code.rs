//! Exit codes. Scripts rely on them.

/// The exit status of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Success. A reader that closes the output early is success too.
    Ok = 0,
    /// A failure, explained on stderr.
    Failed = 1,
    /// Wrong arguments. Clap uses the same code.
    Usage = 2,
    /// `--fail-on` matched.
    FailOn = 3,
    /// This host cannot run the tool; `check` explains why.
    CannotRun = 4,
}

impl ExitCode {
    pub const ALL: [Self; 5] = [Self::Ok, Self::Failed, Self::Usage, Self::FailOn, Self::CannotRun];

    /// Meaning in help pages and documents.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "success",
            Self::Failed => "failure",
            Self::Usage => "wrong usage",
            Self::FailOn => "--fail-on matched",
            Self::CannotRun => "this host cannot run it; imds-analyzer check explains why",
        }
    }

    /// The list of exit codes at the end of a help page.
    pub fn help() -> String {
        let codes = Self::ALL.map(|code| format!("\n  {}  {}", code as u8, code.meaning()));
        format!("Exit codes:{}", codes.concat())
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}
