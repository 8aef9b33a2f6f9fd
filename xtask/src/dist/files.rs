//! The installed files, in one list for both formats.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

/// The source of a file in the list.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The workspace.
    Here(&'static str),
    /// The folder that `cargo xtask dist` writes, see [`super::contents`].
    Made(&'static str),
}
use Source::{Here, Made};

/// The package format. The formats have some of the files in different places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Deb,
    Rpm,
}
const BOTH: &[Format] = &[Format::Deb, Format::Rpm];
const DEB: &[Format] = &[Format::Deb];
const RPM: &[Format] = &[Format::Rpm];

/// What a package manager does with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Program,
    /// Kept as the administrator left it.
    Config,
    Document,
    Data,
}

struct Entry {
    source: Source,
    /// A path that ends with `/` is a folder: the files of a source folder go there.
    place: &'static str,
    kind: Kind,
    formats: &'static [Format],
}

const fn entry(source: Source, place: &'static str, kind: Kind, formats: &'static [Format]) -> Entry {
    Entry {
        source,
        place,
        kind,
        formats,
    }
}

const LIST: [Entry; 20] = [
    entry(Made("imds-analyzer"), "usr/bin/imds-analyzer", Kind::Program, BOTH),
    entry(
        Here("packaging/config.toml"),
        "etc/imds-analyzer/config.toml",
        Kind::Config,
        BOTH,
    ),
    // systemd reads this place whether or not /lib is a link.
    entry(
        Here("packaging/systemd/imds-analyzer.service"),
        "usr/lib/systemd/system/imds-analyzer.service",
        Kind::Data,
        BOTH,
    ),
    entry(Made("man"), "usr/share/man/man1/", Kind::Document, BOTH),
    entry(
        Made("completions/bash"),
        "usr/share/bash-completion/completions/imds-analyzer",
        Kind::Data,
        BOTH,
    ),
    entry(
        Made("completions/fish"),
        "usr/share/fish/vendor_completions.d/imds-analyzer.fish",
        Kind::Data,
        BOTH,
    ),
    entry(
        Made("completions/zsh"),
        "usr/share/zsh/vendor-completions/_imds-analyzer",
        Kind::Data,
        DEB,
    ),
    entry(
        Made("completions/zsh"),
        "usr/share/zsh/site-functions/_imds-analyzer",
        Kind::Data,
        RPM,
    ),
    entry(
        Here("README.md"),
        "usr/share/doc/imds-analyzer/README.md",
        Kind::Document,
        BOTH,
    ),
    entry(Here("docs"), "usr/share/doc/imds-analyzer/docs/", Kind::Document, BOTH),
    entry(
        Here("packaging/prometheus"),
        "usr/share/doc/imds-analyzer/examples/prometheus/",
        Kind::Document,
        BOTH,
    ),
    entry(
        Here("packaging/sql"),
        "usr/share/doc/imds-analyzer/examples/sql/",
        Kind::Document,
        BOTH,
    ),
    entry(
        Here("packaging/grafana"),
        "usr/share/doc/imds-analyzer/examples/grafana/",
        Kind::Document,
        BOTH,
    ),
    entry(
        Made("changelog.gz"),
        "usr/share/doc/imds-analyzer/changelog.gz",
        Kind::Document,
        DEB,
    ),
    entry(
        Made("changelog.Debian.gz"),
        "usr/share/doc/imds-analyzer/changelog.Debian.gz",
        Kind::Document,
        DEB,
    ),
    entry(
        Here("packaging/deb/copyright"),
        "usr/share/doc/imds-analyzer/copyright",
        Kind::Document,
        DEB,
    ),
    entry(
        Here("packaging/deb/lintian-overrides"),
        "usr/share/lintian/overrides/imds-analyzer",
        Kind::Data,
        DEB,
    ),
    entry(
        Here("CHANGELOG.md"),
        "usr/share/doc/imds-analyzer/CHANGELOG.md",
        Kind::Document,
        RPM,
    ),
    entry(
        Here("LICENSE-MIT"),
        "usr/share/licenses/imds-analyzer/LICENSE-MIT",
        Kind::Document,
        RPM,
    ),
    entry(
        Here("LICENSE-APACHE"),
        "usr/share/licenses/imds-analyzer/LICENSE-APACHE",
        Kind::Document,
        RPM,
    ),
];

/// A file to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) source: PathBuf,
    /// Below the root.
    pub(crate) place: String,
    pub(crate) kind: Kind,
}

impl Installed {
    pub(crate) fn mode(&self) -> &'static str {
        if self.kind == Kind::Program { "755" } else { "644" }
    }
}

/// The files of a format, sorted by place. `made` holds what [`Source::Made`] names.
pub(crate) fn list(workspace: &Path, made: &Path, format: Format) -> Result<Vec<Installed>> {
    let mut files = Vec::new();
    for entry in LIST.iter().filter(|entry| entry.formats.contains(&format)) {
        let source = match entry.source {
            Here(path) => workspace.join(path),
            Made(path) => made.join(path),
        };
        if !entry.place.ends_with('/') {
            ensure!(source.is_file(), "{} is not a file", source.display());
            files.push(Installed {
                source,
                place: entry.place.to_owned(),
                kind: entry.kind,
            });
            continue;
        }
        let folder = fs::read_dir(&source).with_context(|| format!("cannot read {}", source.display()))?;
        for found in folder {
            let found = found?;
            let name = found
                .file_name()
                .into_string()
                .ok()
                .context("a name that is not UTF-8")?;
            ensure!(found.file_type()?.is_file(), "{} is not a file", found.path().display());
            files.push(Installed {
                source: found.path(),
                place: format!("{}{name}", entry.place),
                kind: entry.kind,
            });
        }
    }
    files.sort_by(|a, b| a.place.cmp(&b.place));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_workspace_is_there_and_places_are_taken_once() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        for format in BOTH {
            let mut places = Vec::new();
            for entry in LIST.iter().filter(|entry| entry.formats.contains(format)) {
                places.push(entry.place);
                assert!(!entry.place.starts_with('/'), "{}", entry.place);
                if let Here(path) = entry.source {
                    let path = workspace.join(path);
                    assert_eq!(path.is_dir(), entry.place.ends_with('/'), "{}", path.display());
                    assert!(path.exists(), "{}", path.display());
                }
            }
            let all = places.len();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), all);
        }
    }
}
