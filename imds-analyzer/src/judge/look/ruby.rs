//! Ruby: gem specifications in the directories of installed gems.

use super::{super::client::version_of, Files};
use crate::event::{Client, ClientSource};

/// Directories with `specifications`, or with subdirectories that have them.
const GEMS: [&str; 5] = [
    "/usr/local/bundle",
    "/usr/local/lib/ruby/gems",
    "/var/lib/gems",
    "/usr/lib/ruby/gems",
    "/usr/share/rubygems-integration",
];
const PACKAGE: &str = "aws-sdk-core-";

pub(super) fn find(files: &mut Files) -> Option<Client> {
    GEMS.into_iter().find_map(|gems| {
        let versions = files.names(gems);
        let nested = versions
            .iter()
            .map(|version| format!("{gems}/{version}/specifications"));
        let directories: Vec<String> = std::iter::once(format!("{gems}/specifications"))
            .chain(nested)
            .collect();
        directories.iter().find_map(|directory| of_directory(files, directory))
    })
}

fn of_directory(files: &mut Files, directory: &str) -> Option<Client> {
    files.names(directory).iter().find_map(|name| {
        let version = name.strip_prefix(PACKAGE)?.strip_suffix(".gemspec")?;
        Some(Client {
            name: "aws-sdk-ruby",
            version: Some(version_of(version)?),
            source: ClientSource::Gem,
            path: Some(format!("{directory}/{name}")),
        })
    })
}
