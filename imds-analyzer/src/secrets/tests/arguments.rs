//! Secrets in arguments, and how each mode writes them. `args = executable` writes only the first argument.

use super::{ArgsMode, TOKEN, masked};

/// A command line, and how `full` and `redacted` write it. Arguments have no blanks: `~` stands for a blank, `<token>`
/// for an IMDS session token.
const TABLE: &[(&str, &str, &str)] = &[
    // Credentials for IMDS itself are secret in every mode.
    (
        "curl -H X-aws-ec2-metadata-token:~<token> http://169.254.169.254/",
        "curl -H X-aws-ec2-metadata-token:~*** http://169.254.169.254/",
        "curl -H X-aws-ec2-metadata-token:~*** http://169.254.169.254/",
    ),
    (
        "wget --header=X-aws-ec2-metadata-token:~<token> u",
        "wget --header=X-aws-ec2-metadata-token:~*** u",
        "wget --header=X-aws-ec2-metadata-token:~*** u",
    ),
    ("app <token>", "app ***", "app ***"),
    (
        "curl -H Authorization:~Bearer~s3cr3t u",
        "curl -H Authorization:~*** u",
        "curl -H Authorization:~*** u",
    ),
    // Password-like flags.
    ("app --password s3cr3t", "app --password s3cr3t", "app --password ***"),
    ("app --password=s3cr3t", "app --password=s3cr3t", "app --password=***"),
    (
        "app --db-passwd s3cr3t",
        "app --db-passwd s3cr3t",
        "app --db-passwd ***",
    ),
    (
        "app -passphrase s3cr3t",
        "app -passphrase s3cr3t",
        "app -passphrase ***",
    ),
    (
        "app --client-secret s3cr3t",
        "app --client-secret s3cr3t",
        "app --client-secret ***",
    ),
    ("app --api-key=s3cr3t", "app --api-key=s3cr3t", "app --api-key=***"),
    (
        "app --auth-token s3cr3t",
        "app --auth-token s3cr3t",
        "app --auth-token ***",
    ),
    (
        "mysql -u root -ps3cr3t",
        "mysql -u root -ps3cr3t",
        "mysql -u root -p***",
    ),
    (
        "sshpass -p s3cr3t ssh h",
        "sshpass -p s3cr3t ssh h",
        "sshpass -p *** ssh h",
    ),
    ("curl -u me:s3cr3t u", "curl -u me:s3cr3t u", "curl -u me:*** u"),
    (
        "java -Ddb.password=s3cr3t Main",
        "java -Ddb.password=s3cr3t Main",
        "java -Ddb.password=*** Main",
    ),
    // Variables.
    (
        "env PGPASSWORD=s3cr3t psql",
        "env PGPASSWORD=s3cr3t psql",
        "env PGPASSWORD=*** psql",
    ),
    (
        "env AWS_SECRET_ACCESS_KEY=s3cr3t/+x aws",
        "env AWS_SECRET_ACCESS_KEY=s3cr3t/+x aws",
        "env AWS_SECRET_ACCESS_KEY=*** aws",
    ),
    (
        "env AWS_SESSION_TOKEN=s3cr3t aws",
        "env AWS_SESSION_TOKEN=s3cr3t aws",
        "env AWS_SESSION_TOKEN=*** aws",
    ),
    (
        "sh -c PASSWORD=s3cr3t~app~-x",
        "sh -c PASSWORD=s3cr3t~app~-x",
        "sh -c PASSWORD=***~app~-x",
    ),
    // Access keys.
    ("app AKIAIOSFODNN7EXAMPLE", "app AKIAIOSFODNN7EXAMPLE", "app ***"),
    (
        "app --id=ASIAIOSFODNN7EXAMPLE",
        "app --id=ASIAIOSFODNN7EXAMPLE",
        "app --id=***",
    ),
    // URLs.
    (
        "app https://me:s3cr3t@h/p",
        "app https://me:s3cr3t@h/p",
        "app https://me:***@h/p",
    ),
    (
        "app postgres://me:s3cr3t@h:5432/d",
        "app postgres://me:s3cr3t@h:5432/d",
        "app postgres://me:***@h:5432/d",
    ),
    (
        "app https://h/p?token=s3cr3t&a=b",
        "app https://h/p?token=s3cr3t&a=b",
        "app https://h/p?token=***&a=b",
    ),
    (
        "app https://h/p?X-Amz-Signature=s3cr3t&a=b",
        "app https://h/p?X-Amz-Signature=s3cr3t&a=b",
        "app https://h/p?X-Amz-Signature=***&a=b",
    ),
    // Files and names of secrets are not secrets.
    (
        "app --password-file /run/s --secret-name=prod/db",
        "app --password-file /run/s --secret-name=prod/db",
        "app --password-file /run/s --secret-name=prod/db",
    ),
];

#[test]
fn how_each_is_written() {
    for (command, full, redacted) in TABLE {
        let args: Vec<String> = command
            .split(' ')
            .map(|arg| arg.replace('~', " ").replace("<token>", TOKEN))
            .collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let first = args[..1].join(" ");
        for (mode, expected) in [
            (ArgsMode::Full, *full),
            (ArgsMode::Redacted, *redacted),
            (ArgsMode::Executable, first.as_str()),
        ] {
            let written = masked(&args, mode).join(" ");
            assert_eq!(written, expected.replace('~', " "), "{mode:?}: {command}");
        }
    }
}
