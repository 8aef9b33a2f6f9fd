//! Parses, runs, and ends with the exit code.

use std::process::ExitCode;

use clap::Parser;
use imds_analyzer::{cli::Cli, command};

fn main() -> ExitCode {
    // What passes through this process - other processes' argv with tokens in it - must not end in a core file, nor be
    // read by a debugger of the same user. If the kernel refuses, there is no less to protect.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    command::run(Cli::parse()).into()
}
