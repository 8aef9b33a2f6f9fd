//! Node.js: `package.json` of an SDK in a `node_modules` above the script.

use serde::Deserialize;

use super::{super::client::version_of, Files, script};
use crate::event::{Client, ClientSource, Process};

/// Packages of SDKs, the likeliest first, and their clients. The first is a part of each client of version 3 and has its
/// number; `@smithy/credential-provider-imds`, which makes the calls, has numbers of its own.
const PACKAGES: [(&str, &str); 4] = [
    ("@aws-sdk/credential-provider-node", "aws-sdk-js-v3"),
    ("@aws-sdk/credential-providers", "aws-sdk-js-v3"),
    ("@aws-sdk/credential-provider-imds", "aws-sdk-js-v3"),
    ("aws-sdk", "aws-sdk-js"),
];
/// Maximum number of directories above a script to look into.
const DEPTH: usize = 16;
const FILE_MAX: u64 = 64 << 10;

#[derive(Deserialize)]
struct Package {
    version: String,
}

pub(super) fn find(files: &mut Files, process: &Process) -> Option<Client> {
    let script = script(process)?;
    let mut directory = script.as_str();
    for _ in 0..DEPTH {
        directory = directory.rsplit_once('/')?.0;
        for (package, name) in PACKAGES {
            let path = format!("{directory}/node_modules/{package}/package.json");
            let Some(text) = files.read(&path, FILE_MAX) else {
                continue;
            };
            let Ok(package) = serde_json::from_slice::<Package>(&text) else {
                continue;
            };
            return Some(Client {
                name,
                version: version_of(&package.version),
                source: ClientSource::PackageJson,
                path: Some(path),
            });
        }
    }
    None
}
