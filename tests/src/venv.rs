//! Python packages from PyPI, for tests that compare with other programs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Lack, PYTHON, lack};

/// A Python of its own below the target folder, with packages.
#[derive(Debug)]
pub struct Venv {
    pub python: PathBuf,
    failure: Option<String>,
}

impl Venv {
    /// The environment with this name. The first use installs `packages`, each with its version; the next one finds them.
    pub fn new(name: &str, packages: &[&str]) -> Self {
        let test = env::current_exe().expect("this test's own path");
        // <target>/<profile>/deps/<test>
        let target = test.ancestors().nth(3).expect("a test below a target folder");
        let directory = target.join("python").join(name);
        Self {
            python: directory.join("bin/python3"),
            failure: install(&directory, packages).err(),
        }
    }

    /// What keeps the packages from being used here, if anything does.
    pub fn lack(&self) -> Option<Lack> {
        let failure = self.failure.as_deref().unwrap_or_default();
        lack("packages of PyPI", self.failure.is_none(), failure)
    }
}

fn install(directory: &Path, packages: &[&str]) -> Result<(), String> {
    let done = directory.join("installed");
    let wanted = packages.join("\n");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    run(Command::new(PYTHON).args(["-m", "venv", "--clear"]).arg(directory))?;
    let mut pip = Command::new(directory.join("bin/pip"));
    pip.args(["install", "--quiet", "--retries", "1", "--timeout", "20"]);
    run(pip.arg("--disable-pip-version-check").args(packages))?;
    fs::write(done, wanted).map_err(|error| error.to_string())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().next_back().unwrap_or_default();
    output.status.success().then_some(()).ok_or_else(|| last.to_owned())
}
