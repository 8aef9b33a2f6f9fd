//! `cargo xtask test`: every check. Steps that compile run beside steps that wait: on two CPUs these take most of the
//! time.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::{
    cargo, docs, is_root,
    object::{self, For},
    setup,
    step::{self, Beside, Outcome, Row, Tests},
    toolchain::{self, Core, Host, Toolchain},
    vm::{
        self,
        result::{self, GuestResult},
    },
};

/// Random cases per property with `--full`; 256 is proptest's own number.
const FULL_CASES: &str = "5120";
const FULL_FUZZ_SECONDS: u32 = 60;

pub(crate) fn run(workspace: &Path, full: bool) -> Result<ExitCode> {
    let started = Instant::now();
    let mut rows = vec![step::run("format", cargo_with(&["fmt", "--check"]), shown)?];
    // The two profiles share nothing, and the linker of the release build uses only one CPU.
    let objects = thread::scope(|scope| {
        let kernels = scope.spawn(|| vm::fetch(crate::depth(full)));
        let release = scope.spawn(release_build);
        rows.push(step::run("unit, property and lab tests", tests(full), shown)?);
        rows.push(step::run(
            "build of the end-to-end tests",
            end_to_end(&["--no-run"]),
            shown,
        )?);
        let (release, objects) = joined(release)?;
        rows.push(release.show());
        if let Err(error) = joined(kernels) {
            println!("the kernels of the guests are not all here, and will be asked for again: {error:#}");
        }
        anyhow::Ok(objects)
    })?;
    // Guests take the CPU time that is left: tests on this machine wait more than they compute.
    let guests = thread::scope(|scope| {
        let guests = scope.spawn(|| {
            vm::check(crate::depth(full)).unwrap_or_else(|error| {
                println!("no guest could be started: {error:#}");
                // The empty table counts as a failure.
                Vec::new()
            })
        });
        rows.extend(on_this_machine(workspace, full, &objects)?);
        guests.join().map_err(|_| anyhow!("a step panicked"))
    })?;
    Ok(report(&rows, &guests, started.elapsed()))
}

/// Everything that does not run in guests, except what the builds have already done.
fn on_this_machine(workspace: &Path, full: bool, objects: &[(PathBuf, For)]) -> Result<Vec<Row>> {
    let mut rows = end_to_end_rows(full)?;
    rows.push(object_checks(workspace, objects)?);
    rows.push(documents());
    rows.extend(lints(workspace)?);
    if full {
        let mut doc = cargo_with(&[
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
            "--locked",
        ]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        rows.push(step::run("documentation", doc, shown)?);
        match fuzz_commands(FULL_FUZZ_SECONDS) {
            Ok(commands) => {
                for command in commands {
                    rows.push(step::run("fuzzing", command, shown)?);
                }
            }
            Err(_) => rows.push(Row::skipped("fuzzing", "needs fuzz/, cargo-fuzz and a nightly")),
        }
    }
    Ok(rows)
}

/// The result of a step that ran beside others.
fn joined<T>(step: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    step.join().map_err(|_| anyhow!("a step panicked"))?
}

/// The lints of the host's side, and those of the kernel's side.
fn lints(workspace: &Path) -> Result<Vec<Row>> {
    let mut clippy = cargo_with(&["clippy", "--workspace", "--all-targets", "--locked"]);
    clippy.args(["--", "-D", "warnings"]);
    let clippy = Beside::run("lints", step::patient(&clippy), shown)?.show();
    Ok(vec![clippy, kernel_lints(workspace)?])
}

/// `cargo xtask fuzz`.
pub(crate) fn fuzz(seconds: u32) -> Result<ExitCode> {
    for mut command in fuzz_commands(seconds)? {
        let status = command.status().context("cannot run cargo-fuzz")?;
        ensure!(status.success(), "fuzzing stopped with a finding, see above");
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(_: &str) -> bool {
    false
}

fn cargo_with<A: AsRef<std::ffi::OsStr>>(args: &[A]) -> Command {
    let mut command = cargo();
    command.args(args);
    command
}

/// Lints the kernel side, compiled for BPF: clippy for the host sees none of the modules for that target.
fn kernel_lints(workspace: &Path) -> Result<Row> {
    const NAME: &str = "lints of the kernel side";
    const DRIVER: &str = "/usr/bin/clippy-driver";
    let host = Host::current();
    let toolchain = match Toolchain::find(&host, setup::target()) {
        Ok(toolchain) => toolchain,
        Err(missing) => bail!("{missing}"),
    };
    if toolchain.core != Core::Precompiled || !Path::new(DRIVER).is_file() {
        return Ok(Row::skipped(NAME, "no clippy for the compiler that builds it"));
    }
    let mut command = toolchain.cargo("check", &host, workspace, setup::target(), std::env::consts::ARCH);
    command
        .args(["--quiet", "--locked", "--profile", "bpf", "--package", "imds-analyzer-ebpf"])
        .arg("--target-dir")
        .arg(toolchain::bpf_target_dir(&vm::target(), std::env::consts::ARCH))
        // `cargo clippy` sets these variables too, but knows only its own driver.
        .env("RUSTC_WORKSPACE_WRAPPER", DRIVER)
        .env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
    Ok(Beside::run(NAME, step::patient(&command), shown)?.show())
}

/// Everything but the end-to-end tests, which have a step of their own.
fn tests(full: bool) -> Command {
    let mut command = cargo_with(&["test", "--workspace", "--exclude", "imds-analyzer-tests", "--locked"]);
    command.args(["--no-fail-fast"]);
    if full {
        command
            .env("PROPTEST_CASES", FULL_CASES)
            .args(["--", "--include-ignored"]);
    }
    command
}

fn end_to_end(args: &[&str]) -> Command {
    let mut command = cargo_with(&["test", "--package", "imds-analyzer-tests", "--locked"]);
    command.args(args);
    command
}

/// Runs the tests one at a time and as root: they attach to the host's cgroup and make network namespaces.
fn run_end_to_end(full: bool) -> Command {
    let mut command = end_to_end(&["--no-fail-fast"]);
    if !is_root() && Host::current().program("sudo").is_some() {
        // Compiled as this user, run as root.
        command.args(["--config", &format!("target.'cfg(unix)'.runner = {:?}", ["sudo", "-E"])]);
    }
    command.args(["--", "--test-threads=1"]);
    if full {
        command.arg("--include-ignored");
    }
    command
}

/// The end-to-end tests share this machine with whatever else runs on it. If only a few fail, they are run once more:
/// those that pass then are reported as flaky, and do not fail the step.
fn end_to_end_rows(full: bool) -> Result<Vec<Row>> {
    const FEW: usize = 3;
    let mut first = step::run("end-to-end tests", run_end_to_end(full), shown)?;
    let failed = first.failed.len();
    // A program that died failed without naming a test.
    if failed == 0 || failed > FEW || first.tests.failed != failed as u64 {
        return Ok(vec![first]);
    }
    let mut again = run_end_to_end(full);
    again.arg("--exact").args(&first.failed);
    let again = step::run("end-to-end tests, once more", again, shown)?;
    if again.outcome == Outcome::Passed && again.tests.passed == first.tests.failed {
        first.outcome = Outcome::Flaky;
        first.tests.failed = 0;
    }
    Ok(vec![first, again])
}

/// The eBPF objects: the variable that holds the path, and the kernels that must accept the object.
const OBJECTS: [(&str, For); 2] = [
    ("IMDS_MODERN_OBJECT", For::AnyKernel),
    ("IMDS_LEGACY_OBJECT", For::OldKernels),
];

/// Builds the release binary beside other steps. Also returns the paths of the eBPF objects in it.
fn release_build() -> Result<(Beside, Vec<(PathBuf, For)>)> {
    let mut objects = Vec::new();
    let command = cargo_with(&[
        "build",
        "--release",
        "--locked",
        "--package",
        "imds-analyzer",
        "--message-format=json-render-diagnostics",
    ]);
    let step = Beside::run("release build with the eBPF objects", command, |line| {
        for (variable, kernels) in OBJECTS {
            objects.extend(object_in_message(line, variable).map(|path| (path, kernels)));
        }
        line.starts_with('{')
    })?;
    Ok((step, objects))
}

/// The path that `variable` has in a line of cargo's messages about the build script of imds-analyzer.
fn object_in_message(line: &str, variable: &str) -> Option<PathBuf> {
    let (_, rest) = line.split_once(&format!(r#"["{variable}",""#))?;
    let (path, _) = rest.split_once('"')?;
    Some(PathBuf::from(path))
}

fn object_checks(workspace: &Path, objects: &[(PathBuf, For)]) -> Result<Row> {
    const NAME: &str = "object checks";
    if objects.is_empty() {
        return Ok(Row::skipped(NAME, "there is no object"));
    }
    println!("\n== {NAME}");
    let started = Instant::now();
    let cargo_home = Host::current().cargo_home;
    let machine_paths: Vec<&Path> = std::iter::once(workspace).chain(cargo_home.as_deref()).collect();
    let mut outcome = Outcome::Passed;
    for (path, kernels) in objects {
        match object::check(path, *kernels, &machine_paths) {
            Ok(summary) => print!("{}: {summary}", path.file_name().unwrap_or_default().display()),
            Err(error) => {
                println!("{}: {error:#}", path.display());
                outcome = Outcome::Failed;
            }
        }
    }
    Ok(Row {
        name: NAME,
        outcome,
        tests: Tests::default(),
        failed: Vec::new(),
        elapsed: started.elapsed(),
    })
}

/// Checks that the documents written from the code are up to date.
fn documents() -> Row {
    const NAME: &str = "documents written from the code";
    println!("\n== {NAME}");
    let started = Instant::now();
    let outcome = match docs::check() {
        Ok(()) => Outcome::Passed,
        Err(error) => {
            println!("{error:#}");
            Outcome::Failed
        }
    };
    Row {
        name: NAME,
        outcome,
        tests: Tests::default(),
        failed: Vec::new(),
        elapsed: started.elapsed(),
    }
}

/// One command for each target.
fn fuzz_commands(seconds: u32) -> Result<Vec<Command>> {
    ensure!(Path::new("fuzz/Cargo.toml").is_file(), "there is no fuzz/ here");
    let host = Host::current();
    ensure!(
        host.program("cargo-fuzz").is_some(),
        "cargo-fuzz is not here: `cargo install cargo-fuzz` brings it"
    );
    let Some(rustup) = host.program("rustup") else {
        bail!("cargo-fuzz needs a nightly compiler, and rustup is not here");
    };
    let targets = Path::new("fuzz/fuzz_targets")
        .read_dir()
        .context("fuzz/ has no fuzz_targets/")?;
    let mut targets: Vec<String> = targets
        .filter_map(Result::ok)
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    targets.sort();
    ensure!(!targets.is_empty(), "fuzz/fuzz_targets/ is empty");
    let command = |target: &String| {
        let mut command = Command::new(&rustup);
        command
            .args(["run", "nightly", "cargo", "fuzz", "run", target, "--"])
            .arg(format!("-dict=fuzz/{target}.dict"))
            .arg(format!("-max_total_time={seconds}"));
        command
    };
    Ok(targets.iter().map(command).collect())
}

/// Prints the table and, alone on the last line, the total.
fn report(rows: &[Row], guests: &[GuestResult], elapsed: Duration) -> ExitCode {
    let mut total = Tests::default();
    println!(
        "\n{:<36} {:<8} {:>7} {:>7} {:>8} {:>8} {:>8}",
        "step", "result", "passed", "failed", "skipped", "ignored", "seconds"
    );
    for row in rows {
        total.add(row.total());
        let result = match row.outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Flaky => "FLAKY",
            Outcome::Skipped(_) => "skipped",
        };
        let count = |number: u64| {
            if number == 0 {
                "-".to_owned()
            } else {
                number.to_string()
            }
        };
        println!(
            "{:<36} {:<8} {:>7} {:>7} {:>8} {:>8} {:>8.1}",
            row.name,
            result,
            count(row.tests.passed),
            count(row.tests.failed),
            count(row.tests.skipped),
            count(row.tests.ignored),
            row.elapsed.as_secs_f64()
        );
    }
    println!("{:<36} {:>50.1}", "all, with the guests", elapsed.as_secs_f64());
    let (of_guests, guests_ok) = result::table(guests);
    total.add(of_guests);
    let failed = !guests_ok || rows.iter().any(|row| row.outcome == Outcome::Failed);
    if total.passed == 0 {
        println!("\nno test ran");
    }
    for row in rows {
        let word = if row.outcome == Outcome::Flaky {
            "flaky"
        } else {
            "failed"
        };
        for test in &row.failed {
            println!("\n{word}: {}: {test}", row.name);
        }
    }
    for test in guests.iter().flat_map(GuestResult::failed) {
        println!("\nfailed: {test}");
    }
    println!(
        "\n{} skipped, {} ignored\n{} passed, {} failed",
        total.skipped, total.ignored, total.passed, total.failed
    );
    if failed || total.failed > 0 || total.passed == 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn object_path_is_read_from_cargos_message() {
        let message = r#"{"reason":"build-script-executed","cfgs":[],"env":[["IMDS_MODERN_OBJECT","/t/out/modern"]]}"#;
        assert_eq!(
            object_in_message(message, "IMDS_MODERN_OBJECT"),
            Some(PathBuf::from("/t/out/modern"))
        );
        assert_eq!(
            object_in_message(r#"{"reason":"build-finished","success":true}"#, "IMDS_MODERN_OBJECT"),
            None
        );
    }
}
