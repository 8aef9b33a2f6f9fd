//! `report`: reads logs and says whether tokens can be required.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{
    choice::{ReportCondition, ReportFormat},
    cli::ReportArgs,
    config::Config,
    console::{self, say},
    exit_code::ExitCode,
    report::{
        Report, build,
        cloudwatch::Metrics,
        filter::Filter,
        fold::micros,
        input::{self, Progress, Source},
        render,
        verdict::{self, Verdict},
    },
    sink::Style,
};

pub(super) fn run(args: ReportArgs) -> anyhow::Result<ExitCode> {
    if args.rules {
        console::print(&verdict::rules())?;
        return Ok(ExitCode::Ok);
    }
    let sources = sources(&args.paths)?;
    let mut metrics = Metrics::default();
    for path in &args.cloudwatch {
        metrics.read(path)?;
    }
    let question = build::Question {
        filter: Filter {
            since: args.since.map(micros),
            until: args.until.map(micros),
            hosts: args.host,
            accounts: args.account,
            callers: args.caller,
            units: args.unit,
        },
        window: args.window,
    };
    let report = report(&sources, &metrics, &question, !args.quiet);
    if !args.quiet {
        match &args.output {
            Some(path) => write_file(&report, args.format, path)?,
            None => {
                let mut out = io::BufWriter::new(io::stdout().lock());
                let style = Style::of(io::stdout(), args.color, false);
                render::write(&report, args.format, style, &mut out)?;
                out.flush()?;
            }
        }
    }
    Ok(exit_code(&report, args.fail_on))
}

/// The given paths. Without any, the directory of the log in this host's configuration.
fn sources(paths: &[PathBuf]) -> anyhow::Result<Vec<Source>> {
    if paths.is_empty() {
        let log = Config::of_this_host()
            .context("cannot tell where the log is; name it")?
            .log
            .path;
        let directory = log.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
        anyhow::ensure!(
            directory.exists(),
            "{} does not exist, so the daemon has not run here; name the logs to read",
            directory.display()
        );
        return Ok(vec![Source::Path(directory)]);
    }
    let source = |path: &PathBuf| {
        if path.as_os_str() == "-" {
            Source::Stdin
        } else {
            Source::Path(path.clone())
        }
    };
    Ok(paths.iter().map(source).collect())
}

fn report(sources: &[Source], metrics: &Metrics, question: &build::Question, is_shown: bool) -> Report {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let progress = Progress::default();
    let (fold, input) = thread::scope(|scope| {
        if is_shown && io::stderr().is_terminal() {
            scope.spawn(|| show(&progress));
        }
        input::read(sources, &question.filter, threads, &progress)
    });
    build::build(fold, input, metrics, question)
}

/// Shows how far reading has come, on one line of stderr, until it is done.
fn show(progress: &Progress) {
    const STEP: Duration = Duration::from_millis(20);
    const SHOWN: Duration = Duration::from_millis(200);
    let started = Instant::now();
    let mut last = started;
    let mut is_shown = false;
    while !progress.is_done.load(Ordering::Relaxed) {
        thread::sleep(STEP);
        if last.elapsed() < SHOWN {
            continue;
        }
        last = Instant::now();
        let megabytes = progress.bytes.load(Ordering::Relaxed) / 1_000_000;
        let files = progress.files.load(Ordering::Relaxed);
        let rate = megabytes as f64 / started.elapsed().as_secs_f64();
        is_shown = true;
        // If nobody reads it there is nobody to tell.
        let _ = write!(
            io::stderr(),
            "\r\x1b[Kread {megabytes} MB of {files} files, {rate:.0} MB/s"
        );
    }
    if is_shown {
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
}

/// Writes beside the file and renames, so that the file is never half a report.
fn write_file(report: &Report, format: ReportFormat, path: &Path) -> anyhow::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = PathBuf::from(beside);
    let style = Style {
        color: false,
        width: None,
        verbose: false,
    };
    let written = fs::File::create(&beside).and_then(|file| {
        let mut out = io::BufWriter::new(file);
        render::write(report, format, style, &mut out)?;
        out.into_inner()?.sync_all()?;
        fs::rename(&beside, path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written.with_context(|| format!("cannot write {}", path.display()))?;
    say(format_args!(
        "{}: written to {}",
        build::title(&report.verdict),
        path.display()
    ));
    Ok(())
}

fn exit_code(report: &Report, fail_on: Option<ReportCondition>) -> ExitCode {
    let matches = match (fail_on, report.verdict.known()) {
        (Some(ReportCondition::NotReady), verdict) => verdict == Some(Verdict::NotReady),
        (Some(ReportCondition::Unproven), verdict) => verdict != Some(Verdict::Ready),
        (None, _) => false,
    };
    if matches { ExitCode::FailOn } else { ExitCode::Ok }
}
