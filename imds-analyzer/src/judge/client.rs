//! Identifies the client library or program that makes a call, by its User-Agent.

use crate::event::{Client, ClientSource};

/// Maximum length of a version, in bytes.
const VERSION_MAX: usize = 32;

/// Lower-case beginnings of products in a User-Agent, and their clients. An SDK also names the runtime and other
/// libraries: the first match in this list counts.
const PRODUCTS: [(&str, &str); 45] = [
    ("aws-cli/", "aws-cli"),
    ("botocore/", "botocore"),
    ("boto3/", "boto3"),
    ("boto/", "boto"),
    ("aws-sdk-go-v2/", "aws-sdk-go-v2"),
    ("aws-sdk-go/", "aws-sdk-go"),
    ("aws-sdk-java/2", "aws-sdk-java-v2"),
    ("aws-sdk-java/", "aws-sdk-java"),
    ("aws-sdk-nodejs/", "aws-sdk-js"),
    ("aws-sdk-js/", "aws-sdk-js-v3"),
    ("aws-sdk-php/", "aws-sdk-php"),
    ("aws-sdk-ruby3/", "aws-sdk-ruby"),
    ("aws-sdk-ruby2/", "aws-sdk-ruby"),
    ("aws-sdk-cpp/", "aws-sdk-cpp"),
    ("aws-sdk-rust/", "aws-sdk-rust"),
    ("aws-sdk-dotnet", "aws-sdk-net"),
    ("aws-sdk-kotlin/", "aws-sdk-kotlin"),
    ("aws-sdk-swift/", "aws-sdk-swift"),
    ("aws-sdk-python", "aws-sdk-python"),
    ("minio-go/", "minio-go"),
    ("s3cmd/", "s3cmd"),
    ("s3fs/", "s3fs"),
    ("rclone/", "rclone"),
    ("cloud-init/", "cloud-init"),
    ("amazon-ec2-net-utils/", "amazon-ec2-net-utils"),
    ("datadog", "datadog-agent"),
    ("newrelic-", "newrelic-agent"),
    ("curl/", "curl"),
    ("wget/", "wget"),
    ("python-requests/", "python-requests"),
    ("python-urllib/", "python-urllib"),
    ("python-urllib3/", "python-urllib3"),
    ("aiohttp/", "aiohttp"),
    ("go-http-client/", "go-http-client"),
    ("apache-httpclient/", "apache-httpclient"),
    ("okhttp/", "okhttp"),
    ("axios/", "axios"),
    ("undici", "undici"),
    ("node", "node"),
    ("excon/", "excon"),
    ("ruby", "ruby"),
    ("http-tiny/", "http-tiny"),
    ("libwww-perl/", "libwww-perl"),
    ("perl", "perl"),
    ("java/", "java"),
];

/// Products whose number is not their own: Go's is the version of HTTP (`src/net/http/request.go`).
const WITHOUT_VERSION: [&str; 1] = ["go-http-client"];

/// All names, in no particular order.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    PRODUCTS.iter().map(|(_, name)| *name)
}

/// The client that a User-Agent names.
pub(super) fn of_user_agent(user_agent: &str) -> Option<Client> {
    let products: Vec<String> = user_agent.split_whitespace().map(str::to_ascii_lowercase).collect();
    PRODUCTS.iter().find_map(|(beginning, name)| {
        let product = products.iter().find(|product| product.starts_with(beginning))?;
        // `aws-sdk-java/2` is the name and a part of the version.
        let version = product.split_once('/').and_then(|(_, version)| version_of(version));
        let version = version.filter(|_| !WITHOUT_VERSION.contains(name));
        Some(Client {
            name,
            version,
            source: ClientSource::UserAgent,
            path: None,
        })
    })
}

/// The version at the beginning of `text`: it starts with a digit. A leading `v` is dropped.
pub(super) fn version_of(text: &str) -> Option<String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text
        .find(|char: char| !char.is_ascii_alphanumeric() && !".+-_~".contains(char))
        .unwrap_or(text.len())
        .min(VERSION_MAX);
    let version = &text[..end];
    version
        .starts_with(|char: char| char.is_ascii_digit())
        .then(|| version.to_owned())
}
