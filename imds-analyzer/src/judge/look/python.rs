//! Python: `botocore-1.12.253.dist-info` beside the interpreter, or in the environment of the script.

use super::{Files, script};
use crate::event::{Client, ClientSource, Process};

/// Packages, the most informative first: boto3 calls botocore, which makes the calls.
const PACKAGES: [&str; 3] = ["botocore", "boto3", "boto"];

pub(super) fn find(files: &mut Files, process: &Process) -> Option<Client> {
    let script = script(process);
    let paths = [
        script.as_deref(),
        process.args.first().map(String::as_str),
        process.executable.as_deref(),
    ];
    // From `/opt/venv/bin/python`, for example, the prefix `/opt/venv`.
    let mut prefixes: Vec<&str> = Vec::new();
    for prefix in paths
        .into_iter()
        .flatten()
        .filter_map(prefix)
        .chain(["/usr/local", "/usr"])
    {
        if !prefixes.contains(&prefix) {
            prefixes.push(prefix);
        }
        if is_isolated(files, prefix) {
            break;
        }
    }
    let directories: Vec<String> = prefixes
        .into_iter()
        .flat_map(|prefix| of_prefix(files, prefix))
        .collect();
    directories.iter().find_map(|directory| of_directory(files, directory))
}

/// True for a virtual environment that does not use the packages of the system (PEP 405).
fn is_isolated(files: &mut Files, prefix: &str) -> bool {
    const CONFIG_MAX: u64 = 16 << 10;
    let Some(config) = files.read(&format!("{prefix}/pyvenv.cfg"), CONFIG_MAX) else {
        return false;
    };
    let config = String::from_utf8_lossy(&config).to_ascii_lowercase();
    let mut settings = config.lines().filter_map(|line| line.split_once('='));
    !settings.any(|(key, value)| key.trim() == "include-system-site-packages" && value.trim() == "true")
}

fn prefix(path: &str) -> Option<&str> {
    let (directory, _) = path.rsplit_once('/')?;
    directory.strip_suffix("/bin").filter(|prefix| !prefix.is_empty())
}

/// The directories below `prefix` that may have packages.
fn of_prefix(files: &mut Files, prefix: &str) -> Vec<String> {
    let lib = format!("{prefix}/lib");
    let versions = files.names(&lib).into_iter().filter(|name| name.starts_with("python"));
    versions
        .flat_map(|version| ["site-packages", "dist-packages"].map(|kind| format!("{lib}/{version}/{kind}")))
        .collect()
}

fn of_directory(files: &mut Files, directory: &str) -> Option<Client> {
    let names = files.names(directory);
    PACKAGES.into_iter().find_map(|package| {
        let (version, name) = names.iter().find_map(|name| Some((version(name, package)?, name)))?;
        Some(Client {
            name: package,
            version: Some(version.to_owned()),
            source: ClientSource::DistInfo,
            path: Some(format!("{directory}/{name}")),
        })
    })
}

/// `1.12.253` from `botocore-1.12.253.dist-info` or `botocore-1.12.253-py3.6.egg-info`.
fn version<'a>(name: &'a str, package: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(package)?.strip_prefix('-')?;
    let version = match rest.strip_suffix(".dist-info") {
        Some(version) => version,
        None => rest.strip_suffix(".egg-info")?.split("-py").next()?,
    };
    version
        .starts_with(|char: char| char.is_ascii_digit())
        .then_some(version)
}
