//! Files that the program prints about itself, and changelogs.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{NAME, Release, package};
use crate::vm::packages::run;

/// Writes the files into `release.made`; `program` prints the man pages and the completions.
pub(crate) fn write(program: &Path, release: &Release) -> Result<()> {
    let (man, completions) = (release.made.join("man"), release.made.join("completions"));
    for folder in [&man, &completions] {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
    }
    let mut pages = Command::new(program);
    pages.arg("man").arg(&man);
    run(pages)?;
    for page in fs::read_dir(&man)? {
        let page = page?.path();
        gzip(&fs::read(&page)?, &page.with_extension("1.gz"))?;
        fs::remove_file(page)?;
    }
    for shell in ["bash", "fish", "zsh"] {
        let mut script = Command::new(program);
        script.args(["completions", shell]);
        fs::write(completions.join(shell), run(script)?)?;
    }
    gzip(&fs::read("CHANGELOG.md")?, &release.made.join("changelog.gz"))?;
    gzip(
        debian_changelog(release)?.as_bytes(),
        &release.made.join("changelog.Debian.gz"),
    )
}

/// A changelog as in deb-changelog(5), which refers to the other one for the changes.
fn debian_changelog(release: &Release) -> Result<String> {
    let mut date = Command::new("date");
    date.args(["--utc", "--rfc-email", "--date", &format!("@{}", release.epoch)])
        .env("LC_ALL", "C");
    Ok(format!(
        "{NAME} ({}) unstable; urgency=medium\n\n  * Release of version {}: see changelog.gz.\n\n -- {}  {}",
        package::deb_version(release),
        release.version,
        package::MAINTAINER,
        run(date)?
    ))
}

/// Compresses `content` without a time or a name, so that the same content gives the same bytes.
fn gzip(content: &[u8], to: &Path) -> Result<()> {
    let plain = to.with_extension("plain");
    fs::write(&plain, content)?;
    let output = Command::new("gzip")
        .args(["-9", "--no-name", "--stdout"])
        .arg(&plain)
        .output()
        .context("cannot run gzip")?;
    fs::write(to, output.stdout)?;
    fs::remove_file(plain)?;
    Ok(())
}
