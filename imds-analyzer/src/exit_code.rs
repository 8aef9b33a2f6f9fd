//! How the program ends; part of the contract.

/// The status that the shell sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// All went well; that the reader of the output went away is well too.
    Ok = 0,
    /// Something failed, as said on stderr.
    Failed = 1,
    /// The arguments make no sense. Clap uses the same code.
    Usage = 2,
    /// `--fail-on` matched.
    FailOn = 3,
    /// This host cannot run it; `check` explains.
    CannotRun = 4,
}

impl ExitCode {
    pub const ALL: [Self; 5] = [Self::Ok, Self::Failed, Self::Usage, Self::FailOn, Self::CannotRun];

    /// For help pages and documents.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "success",
            Self::Failed => "failure; stderr says what failed",
            Self::Usage => "wrong usage",
            Self::FailOn => "--fail-on matched",
            Self::CannotRun => "this host cannot run it; imds-analyzer check explains why",
        }
    }

    /// The paragraph at the end of a help page.
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
