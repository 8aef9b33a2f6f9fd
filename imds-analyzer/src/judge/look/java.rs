//! Java: the jars that a virtual machine keeps open, and what is in them: an application may be one jar with all others
//! inside, as they are or unpacked.

use std::fs::File;

use rawzip::{RECOMMENDED_BUFFER_SIZE, ZipArchive};

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

/// Maximum number of jars to look into, and of entries in each.
const JARS_MAX: usize = 16;
const ENTRIES_MAX: usize = 64 << 10;
/// Entries of jars into which the SDK was unpacked, and their clients.
const UNPACKED: [(&str, &str); 2] = [
    (
        "META-INF/maven/com.amazonaws/aws-java-sdk-core/pom.properties",
        "aws-sdk-java",
    ),
    (
        "META-INF/maven/software.amazon.awssdk/imds/pom.properties",
        "aws-sdk-java-v2",
    ),
];

pub(super) fn find(process: &Directory) -> Option<Client> {
    let files = process.numbers("fd").ok()?.take(FILES_MAX);
    let (numbers, paths): (Vec<u32>, Vec<String>) = files
        .filter_map(|number| {
            let number = number.ok()?;
            let path = String::from_utf8(process.link(&format!("fd/{number}")).ok()?).ok()?;
            path.ends_with(".jar").then_some((number, path))
        })
        .unzip();
    of_paths(&paths).or_else(|| {
        let jars = numbers.into_iter().zip(&paths).take(JARS_MAX);
        jars.into_iter()
            .find_map(|(number, path)| of_jar(process.file(&format!("fd/{number}")).ok()?, path))
    })
}

/// The SDK inside a jar. Reads its directory only.
pub(super) fn of_jar(jar: File, path: &str) -> Option<Client> {
    if !jar.metadata().ok()?.is_file() {
        return None;
    }
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let archive = ZipArchive::from_file(jar, &mut buffer).ok()?;
    let mut entries = archive.entries(&mut buffer);
    for _ in 0..ENTRIES_MAX {
        let entry = entries.next_entry().ok()??;
        let Ok(name) = std::str::from_utf8(entry.file_path().as_bytes()) else {
            continue;
        };
        let unpacked = || {
            let (_, client) = UNPACKED.into_iter().find(|(entry, _)| *entry == name)?;
            Some((client, None))
        };
        if let Some((client, version)) = of_name(name).or_else(unpacked) {
            let path = format!("{path}!/{name}");
            return Some(self::client(client, version, &path));
        }
    }
    None
}

pub(super) fn of_paths(paths: &[String]) -> Option<Client> {
    paths.iter().find_map(|path| {
        let (name, version) = of_name(path)?;
        Some(client(name, version, path))
    })
}

/// The client that a jar with this path is of, and its version.
fn of_name(path: &str) -> Option<(&'static str, Option<String>)> {
    JARS.into_iter().find_map(|(beginning, name)| {
        let version = last_name(path).strip_prefix(beginning)?.strip_suffix(".jar")?;
        let version = version_of(version)?;
        // Other projects use these jar names, too.
        let is_sdk = name == "aws-sdk-java" || version.starts_with("2.");
        is_sdk.then_some((name, Some(version)))
    })
}

fn client(name: &'static str, version: Option<String>, path: &str) -> Client {
    Client {
        name,
        version,
        source: ClientSource::Jar,
        path: Some(sanitize::bounded(secrets::mask_path(path), PATH_MAX)),
    }
}
