//! Java: the jars that a virtual machine keeps open.

use super::super::{client::version_of, last_name};
use crate::{
    event::{Client, ClientSource},
    host::proc::Directory,
    sanitize, secrets,
};

/// Maximum number of open files to look at.
const FILES_MAX: usize = 4096;
const PATH_MAX: usize = 1024;
/// Beginnings of jar names, and their clients.
const JARS: [(&str, &str); 5] = [
    ("aws-java-sdk-core-", "aws-sdk-java"),
    ("aws-java-sdk-bundle-", "aws-sdk-java"),
    ("imds-", "aws-sdk-java-v2"),
    ("sdk-core-", "aws-sdk-java-v2"),
    ("bundle-", "aws-sdk-java-v2"),
];

pub(super) fn find(process: &Directory) -> Option<Client> {
    let files = process.numbers("fd").ok()?.take(FILES_MAX);
    let paths: Vec<String> = files
        .filter_map(|number| process.link(&format!("fd/{}", number.ok()?)).ok())
        .filter_map(|path| String::from_utf8(path).ok())
        .filter(|path| path.ends_with(".jar"))
        .collect();
    of_paths(&paths)
}

pub(super) fn of_paths(paths: &[String]) -> Option<Client> {
    JARS.into_iter().find_map(|(beginning, name)| {
        paths.iter().find_map(|path| {
            let version = last_name(path).strip_prefix(beginning)?.strip_suffix(".jar")?;
            let version = version_of(version)?;
            // Other projects use these jar names, too.
            let is_sdk = name == "aws-sdk-java" || version.starts_with("2.");
            is_sdk.then(|| Client {
                name,
                version: Some(version),
                source: ClientSource::Jar,
                path: Some(sanitize::bounded(secrets::mask_path(path), PATH_MAX)),
            })
        })
    })
}
