//! `cargo xtask`: sets up, builds, shows and tests imds-analyzer.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what it says is for whoever runs it"
)]

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use xtask::fleet::Plan;

mod bench;
mod checks;
mod circles;
mod dist;
mod docs;
mod guest;
mod lab;
mod object;
mod repo;
mod setup;
mod step;
mod toolchain;
mod vm;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Sets up, builds, shows and tests imds-analyzer"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what compiling the eBPF object takes; the other tasks do it themselves
    Setup,
    /// Build the release binary
    Build,
    /// Build and run `imds-analyzer lab`: the whole tool against an IMDS of its own
    Lab {
        /// Arguments of `imds-analyzer lab`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run every check: format, lints, tests, end-to-end tests, the eBPF object, other kernels in QEMU
    Test {
        /// Ignored tests, 20 times as many random cases, documentation and a minute of fuzzing too; the other
        /// architecture and old kernels, and all tests in every guest
        #[arg(long)]
        full: bool,
    },
    /// Boot other kernels in QEMU and run the end-to-end tests in each
    Vm {
        /// Kernels by name, such as 6.1 or 6.12-arm64; without, those of this machine's architecture
        kernels: Vec<String>,
        /// All kernels, and all tests in each of them, with the send tap too
        #[arg(long)]
        full: bool,
        /// Look for newer kernel packages than those at hand
        #[arg(long)]
        update: bool,
        /// Run this command in each instead, and show what it prints
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Look for circles among modules
    Circles,
    /// Write docs/kernels.md and the tables in other documents anew, from the code
    Docs,
    /// Build what is released into target/dist: programs against an old glibc, packages, checksums
    Dist {
        /// x86_64 or arm64; without, both
        architectures: Vec<String>,
    },
    /// Make a signed APT and a signed YUM repository of target/dist in target/repo, to be served as they are
    Repo {
        /// The key to sign with, as gpg finds it; without, one for tests
        #[arg(long)]
        key: Option<String>,
        /// Where they will be served
        #[arg(long, default_value = "http://127.0.0.1:8000")]
        url: String,
    },
    /// Install, use, upgrade and remove the packages in systemd guests and in an RPM root
    Packages {
        /// bullseye, bookworm, trixie, bionic, bookworm-arm64 or rpm; without, all
        systems: Vec<String>,
    },
    /// Write the logs of a fleet that does not exist into DIR/logs, and what is true of it into DIR/truth.json
    Fleet {
        #[arg(long, default_value_t = 2000)]
        hosts: usize,
        #[arg(long, default_value_t = 14)]
        days: u64,
        /// Requests of each host and day, about
        #[arg(long, default_value_t = 250)]
        per_day: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Compress rotated files
        #[arg(long)]
        gzip: bool,
        /// A new directory, or an empty one
        directory: PathBuf,
    },
    /// Measure what the hooks cost sends that are not for IMDS (as root)
    Bench,
    /// Fuzz the request classifier and the masking of secrets, each for so long (needs cargo-fuzz and a nightly)
    Fuzz {
        #[arg(default_value_t = 60)]
        seconds: u32,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let workspace = workspace();
    let started_in = env::current_dir().context("the working directory is gone")?;
    env::set_current_dir(&workspace).with_context(|| format!("cannot enter {}", workspace.display()))?;
    match task {
        Task::Setup => setup::toolchain().map(|()| ExitCode::SUCCESS),
        Task::Build => {
            setup::toolchain()?;
            lab::build()?;
            println!("{}", lab::binary().display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Lab { args } => {
            setup::toolchain()?;
            lab::build()?;
            // Returns only if it fails.
            Err(lab::exec(&args))
        }
        Task::Test { full } => {
            setup::toolchain()?;
            setup::test_tools()?;
            setup::vm_tools()?;
            checks::run(&workspace, full)
        }
        Task::Vm {
            kernels,
            full,
            update,
            command,
        } => {
            setup::toolchain()?;
            setup::test_tools()?;
            setup::vm_tools()?;
            vm::run(&kernels, depth(full), update, &command)
        }
        Task::Circles => circles::run(&workspace).map(|()| ExitCode::SUCCESS),
        Task::Docs => {
            setup::toolchain()?;
            lab::build()?;
            docs::write().map(|()| ExitCode::SUCCESS)
        }
        Task::Dist { architectures } => {
            setup::toolchain()?;
            dist::run(&architectures).map(|()| ExitCode::SUCCESS)
        }
        Task::Repo { key, url } => repo::run_task(key, &url).map(|()| ExitCode::SUCCESS),
        Task::Packages { systems } => {
            setup::toolchain()?;
            guest::run(&systems)
        }
        Task::Fleet {
            hosts,
            days,
            per_day,
            seed,
            gzip,
            directory,
        } => {
            let plan = Plan {
                hosts,
                days,
                per_day,
                seed,
                gzip,
            };
            fleet(plan, &started_in.join(directory))
        }
        Task::Bench => {
            setup::toolchain()?;
            lab::build()?;
            bench::run()
        }
        Task::Fuzz { seconds } => checks::fuzz(seconds),
    }
}

fn fleet(plan: Plan, directory: &Path) -> Result<ExitCode> {
    let started = Instant::now();
    let written = xtask::fleet::generate(plan, directory)?;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{} records, {:.1} MB in {seconds:.1} s: {}",
        written.records,
        written.bytes as f64 / 1e6,
        written.logs.display()
    );
    println!("the truth: {}", written.truth.display());
    Ok(ExitCode::SUCCESS)
}

fn depth(full: bool) -> vm::Depth {
    if full { vm::Depth::Full } else { vm::Depth::Usual }
}

/// The workspace in which this was compiled: `cargo xtask` also runs it there.
fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}

/// The cargo that runs this.
fn cargo() -> std::process::Command {
    std::process::Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// True if this process is root, as far as `/proc` is concerned.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|proc| proc.uid() == 0)
}
