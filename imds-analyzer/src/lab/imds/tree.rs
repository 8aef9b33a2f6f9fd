//! The metadata of a fixed instance, with values that are recognisably the lab's.

/// The versions that EC2 serves, all with the same tree.
const VERSIONS: &str = "1.0
2007-01-19
2007-03-01
2007-08-29
2007-10-10
2007-12-15
2008-02-01
2008-09-01
2009-04-04
2011-01-01
2011-05-01
2012-01-12
2014-02-25
2014-11-05
2015-10-20
2016-04-19
2016-06-30
2016-09-02
2018-03-28
2018-08-17
2018-09-24
2019-10-01
2020-10-27
2021-01-03
2021-03-23
latest";

enum Node {
    Text(&'static str),
    /// Listed one name per line, directories with a slash.
    Directory(&'static [(&'static str, Node)]),
}

use Node::{Directory, Text};

const ROOT: Node = Directory(&[
    ("dynamic", DYNAMIC),
    ("meta-data", META_DATA),
    ("user-data", Text(USER_DATA)),
]);

const USER_DATA: &str = "#!/bin/sh\n# user-data of the imds-analyzer lab\n";

const DYNAMIC: Node = Directory(&[(
    "instance-identity",
    Directory(&[
        ("document", Text(DOCUMENT)),
        ("pkcs7", Text("lab-no-signature")),
        ("signature", Text("lab-no-signature")),
    ]),
)]);

const DOCUMENT: &str = r#"{
  "accountId" : "000000000000",
  "architecture" : "x86_64",
  "availabilityZone" : "us-east-1a",
  "imageId" : "ami-00000000000001ab0",
  "instanceId" : "i-00000000000001ab0",
  "instanceType" : "t3.micro",
  "pendingTime" : "2026-01-01T00:00:00Z",
  "privateIp" : "10.0.0.5",
  "region" : "us-east-1",
  "version" : "2017-09-30"
}"#;

const META_DATA: Node = Directory(&[
    ("ami-id", Text("ami-00000000000001ab0")),
    ("ami-launch-index", Text("0")),
    ("hostname", Text("ip-10-0-0-5.ec2.internal")),
    ("iam", IAM),
    ("instance-action", Text("none")),
    ("instance-id", Text("i-00000000000001ab0")),
    ("instance-life-cycle", Text("on-demand")),
    ("instance-type", Text("t3.micro")),
    ("local-hostname", Text("ip-10-0-0-5.ec2.internal")),
    ("local-ipv4", Text("10.0.0.5")),
    ("mac", Text("02:00:00:00:1a:b0")),
    (
        "network",
        Directory(&[(
            "interfaces",
            Directory(&[("macs", Directory(&[("02:00:00:00:1a:b0", INTERFACE)]))]),
        )]),
    ),
    (
        "placement",
        Directory(&[
            ("availability-zone", Text("us-east-1a")),
            ("availability-zone-id", Text("use1-az1")),
            ("region", Text("us-east-1")),
        ]),
    ),
    (
        "public-keys",
        Directory(&[(
            "0=lab-key",
            Directory(&[("openssh-key", Text("ssh-ed25519 LAB-NOT-A-KEY lab-key"))]),
        )]),
    ),
    ("reservation-id", Text("r-00000000000001ab0")),
    ("security-groups", Text("lab")),
    (
        "services",
        Directory(&[("domain", Text("amazonaws.com")), ("partition", Text("aws"))]),
    ),
    (
        "tags",
        Directory(&[("instance", Directory(&[("Name", Text("imds-analyzer lab"))]))]),
    ),
]);

const INTERFACE: Node = Directory(&[
    ("device-number", Text("0")),
    ("local-ipv4s", Text("10.0.0.5")),
    ("mac", Text("02:00:00:00:1a:b0")),
    ("subnet-id", Text("subnet-00000000000001ab0")),
    ("vpc-id", Text("vpc-00000000000001ab0")),
]);

const IAM: Node = Directory(&[
    (
        "info",
        Text(
            r#"{
  "Code" : "Success",
  "LastUpdated" : "2026-01-01T00:00:00Z",
  "InstanceProfileArn" : "arn:aws:iam::000000000000:instance-profile/lab-role",
  "InstanceProfileId" : "AIPALABNOTAREALVALUE"
}"#,
        ),
    ),
    ("security-credentials", Directory(&[("lab-role", Text(CREDENTIALS))])),
]);

/// Shaped like SDKs expect them, but accepted by no service. They do not expire, so SDKs cache them like on EC2.
const CREDENTIALS: &str = r#"{
  "Code" : "Success",
  "LastUpdated" : "2026-01-01T00:00:00Z",
  "Type" : "AWS-HMAC",
  "AccessKeyId" : "ASIALABNOTAREALVALUE",
  "SecretAccessKey" : "lab-secret-not-a-real-value",
  "Token" : "lab-session-token-not-a-real-value",
  "Expiration" : "2099-12-31T23:59:59Z"
}"#;

/// The text at the percent-decoded `path`, or the listing below it.
pub(super) fn look_up(path: &str) -> Option<String> {
    // EC2 does not document double slashes; here they count as one.
    let mut names = path.split('/').filter(|name| !name.is_empty());
    let Some(version) = names.next() else {
        return Some(VERSIONS.to_owned());
    };
    if !VERSIONS.lines().any(|known| known == version) {
        return None;
    }
    let mut depth = 0;
    let node = names.try_fold(&ROOT, |node, name| {
        depth += 1;
        let Directory(entries) = node else { return None };
        // Listed as `0=lab-key` and requested as `0`.
        entries
            .iter()
            .find(|(entry, _)| entry.split('=').next() == Some(name))
            .map(|(_, node)| node)
    })?;
    match node {
        Text(text) => Some((*text).to_owned()),
        Directory(entries) => Some(list(entries, depth > 0)),
    }
}

/// EC2 lists directories directly below a version, and public keys, without a slash.
fn list(entries: &[(&str, Node)], slashes: bool) -> String {
    let name = |(name, node): &(&str, Node)| {
        let slash = slashes && matches!(node, Directory(_)) && !name.contains('=');
        format!("{name}{}", if slash { "/" } else { "" })
    };
    entries.iter().map(name).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_as_ec2_does() {
        for root in ["latest", "2021-01-03/", "1.0//"] {
            assert_eq!(
                look_up(&format!("/{root}")).as_deref(),
                Some("dynamic\nmeta-data\nuser-data"),
                "{root}"
            );
        }
        assert!(look_up("/").is_some_and(|versions| versions.starts_with("1.0\n") && versions.ends_with("\nlatest")));
        assert_eq!(
            look_up("/latest/meta-data/iam").as_deref(),
            Some("info\nsecurity-credentials/")
        );
        assert_eq!(
            look_up("/latest/meta-data/iam/security-credentials/").as_deref(),
            Some("lab-role")
        );
        assert_eq!(look_up("/latest/meta-data/public-keys/").as_deref(), Some("0=lab-key"));
        assert_eq!(
            look_up("/latest/meta-data/public-keys/0").as_deref(),
            Some("openssh-key")
        );
    }

    #[test]
    fn absent_paths_are_absent() {
        for path in [
            "/x",
            "/2099-01-01/",
            "/latest/meta-data/spot/instance-action",
            "/latest/user-data/x",
            "/latest/.",
        ] {
            assert_eq!(look_up(path), None, "{path}");
        }
    }

    #[test]
    fn json_is_json() -> anyhow::Result<()> {
        for path in [
            "dynamic/instance-identity/document",
            "meta-data/iam/info",
            "meta-data/iam/security-credentials/lab-role",
        ] {
            let text = look_up(&format!("/latest/{path}")).unwrap_or_default();
            assert!(serde_json::from_str::<serde_json::Value>(&text)?.is_object(), "{path}");
        }
        Ok(())
    }
}
