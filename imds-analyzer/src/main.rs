//! Parses the command line, runs the command and exits with its code.

use std::process::ExitCode;

use clap::Parser;
use imds_analyzer::{cli::Cli, command};

fn main() -> ExitCode {
    // This process holds other processes' arguments, some with tokens in them. They must not end up in a core file or be
    // read by a debugger of the same user. If the kernel refuses, the tool still works, so the error is ignored.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    command::run(Cli::parse()).into()
}
