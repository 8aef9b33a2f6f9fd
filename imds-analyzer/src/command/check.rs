//! `check`: what this host supports, what the analyzer would use and why, and the remedies for what is missing.

use std::io::{self, Write};

use serde::Serialize;

use super::rehearse;
use crate::{
    choice::Format,
    console,
    exit_code::ExitCode,
    kernel::{
        features::{Feature, Features},
        load::{self, Hook},
        plan::{self, Plan, Wanted},
    },
    sanitize::escape,
    session::StartError,
    sink::layout::{hang, width_of},
};

/// The report, with its parts in the order in which they are printed.
#[derive(Debug, Serialize)]
struct Report {
    /// True if `watch` would work here.
    usable: bool,
    kernel: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lockdown: Option<String>,
    features: Vec<Finding>,
    /// The decisions of the plan, in order.
    plan: Vec<String>,
    programs: Vec<ProgramFinding>,
    /// Findings from loading and attaching the programs.
    findings: Vec<String>,
    /// Obstacles that prevent the analyzer from running, each with its remedy.
    obstacles: Vec<String>,
    rehearse: Rehearse,
}

/// The result of a rehearsal of the analyzer's own call.
#[derive(Debug, Serialize)]
struct Rehearse {
    /// True if `rehearse` would work here.
    usable: bool,
    /// How long the answer took, or why there was none.
    detail: String,
}

impl Rehearse {
    fn try_here() -> Self {
        match rehearse::try_here() {
            Ok(elapsed) => Self {
                usable: true,
                detail: format!("its own call was refused in {:.1} ms", elapsed.as_secs_f64() * 1e3),
            },
            Err(error) => Self {
                usable: false,
                detail: match error.downcast_ref() {
                    Some(StartError::Impossible(impossible)) => {
                        let obstacles: Vec<_> = impossible.obstacles.iter().map(ToString::to_string).collect();
                        obstacles.join("; ")
                    }
                    _ => format!("{error:#}"),
                },
            },
        }
    }
}

#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    available: bool,
    detail: String,
    since: &'static str,
    /// How to get the feature if it is missing.
    remedy: &'static str,
}

#[derive(Debug, Serialize)]
struct ProgramFinding {
    name: &'static str,
    attached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_instructions: Option<u32>,
    load_ms: f64,
}

/// Prints the report. Loads and attaches the programs briefly: nothing else shows that the kernel accepts them.
pub(super) fn run(format: Format, wanted: Wanted) -> anyhow::Result<ExitCode> {
    let trying = console::doing("trying what this kernel can do", true);
    let features = Features::probe();
    let plan = plan::plan(&features, wanted);
    let mut obstacles = Vec::new();
    let mut programs = Vec::new();
    let mut steps = Vec::new();
    let mut found = Vec::new();
    match plan {
        Ok(plan) => {
            match load::load(&plan) {
                Ok(loaded) => {
                    programs = loaded.hooks.iter().map(program_finding).collect();
                    found = loaded.refused.iter().map(|why| format!("rejected: {why}")).collect();
                    found.extend(loaded.findings);
                }
                Err(error) => obstacles.push(format!("{error:#}")),
            }
            let Plan { reasons, .. } = plan;
            steps = reasons;
        }
        Err(impossible) => obstacles.extend(impossible.obstacles.iter().map(ToString::to_string)),
    }
    drop(trying);
    let report = Report {
        usable: obstacles.is_empty(),
        features: findings(&features),
        kernel: features.kernel,
        lockdown: features.lockdown,
        plan: steps,
        programs,
        findings: found,
        obstacles,
        rehearse: Rehearse::try_here(),
    };
    let mut out = io::stdout().lock();
    match format {
        Format::Text => text(&report, width_of(io::stdout()), &mut out)?,
        Format::Json => {
            serde_json::to_writer(&mut out, &report).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    }
    out.flush()?;
    Ok(if report.usable {
        ExitCode::Ok
    } else {
        ExitCode::CannotRun
    })
}

fn findings(features: &Features) -> Vec<Finding> {
    Feature::ALL
        .into_iter()
        .map(|feature| (feature, features.get(feature)))
        .map(|(feature, probe)| Finding {
            name: feature.name(),
            available: probe.is_present(),
            detail: probe.detail().to_owned(),
            since: feature.since(),
            remedy: feature.remedy(),
        })
        .collect()
}

fn program_finding(hook: &Hook) -> ProgramFinding {
    ProgramFinding {
        name: hook.program,
        attached: hook.error.is_none(),
        error: hook.error.clone(),
        verified_instructions: hook.verified_instructions,
        load_ms: (hook.load.as_secs_f64() * 1e4).round() / 10.0,
    }
}

fn text(report: &Report, width: Option<usize>, out: &mut impl Write) -> io::Result<()> {
    let hang = |text: &str, indent| hang(&escape(text), indent, width);
    let mark = |good: bool| if good { "ok" } else { "--" };
    writeln!(out, "kernel    {}", escape(&report.kernel))?;
    if let Some(lockdown) = &report.lockdown {
        writeln!(out, "lockdown  {}", escape(lockdown))?;
    }
    writeln!(out, "\nThis host supports")?;
    for finding in &report.features {
        writeln!(
            out,
            "  {}  {:<26} {}",
            mark(finding.available),
            finding.name,
            hang(&finding.detail, 33)
        )?;
        if !finding.available {
            let remedy = format!("(kernel {}) {}", finding.since, finding.remedy);
            writeln!(out, "      {}", hang(&remedy, 6))?;
        }
    }
    if !report.plan.is_empty() {
        writeln!(out, "\nIt would use")?;
        for step in &report.plan {
            writeln!(out, "  {}", hang(step, 2))?;
        }
    }
    if !report.programs.is_empty() {
        writeln!(out, "\nPrograms (loaded and attached as a test)")?;
        for program in &report.programs {
            let cost = match program.verified_instructions {
                Some(count) => format!("{count:>7} instructions verified in {:.1} ms", program.load_ms),
                None => format!("loaded in {:.1} ms", program.load_ms),
            };
            writeln!(out, "  {}  {:<26} {cost}", mark(program.attached), program.name)?;
            if let Some(error) = &program.error {
                writeln!(out, "      {}", hang(error, 6))?;
            }
        }
    }
    for finding in &report.findings {
        writeln!(out, "  {}", hang(finding, 2))?;
    }
    for obstacle in &report.obstacles {
        writeln!(out, "\nMissing: {}", hang(obstacle, 9))?;
    }
    writeln!(
        out,
        "\n{}",
        if report.usable {
            "imds-analyzer works here."
        } else {
            "imds-analyzer cannot run here."
        }
    )?;
    let Rehearse { usable, detail } = &report.rehearse;
    let verb = if *usable { "works" } else { "cannot run" };
    let sentence = format!("imds-analyzer rehearse {verb} here: {detail}");
    writeln!(out, "{}", hang(&sentence, 0))
}
