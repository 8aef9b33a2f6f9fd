mod arguments;
mod spellings;

use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

use super::{ArgsMode, mask_args, mask_path, mask_text, mask_truncated, mask_truncated_args};

/// A made-up token of the shape that IMDS issues.
const TOKEN: &str = "AQAAANjUxiJsVYLUBj_tOKENtOKENtOKENtOKENtOKENtOKENtOKEw==";
const EVERY_MODE: [ArgsMode; 3] = [ArgsMode::Full, ArgsMode::Redacted, ArgsMode::Executable];

fn masked(args: &[&str], mode: ArgsMode) -> Vec<String> {
    mask_args(args.iter().map(|arg| (*arg).to_owned()).collect(), mode)
}

fn redacted(args: &[&str]) -> String {
    masked(args, ArgsMode::Redacted).join(" ")
}

#[test]
fn token_header_is_masked_in_every_mode_however_it_is_written() {
    for secret in [TOKEN, "opaque"] {
        for args in [
            vec![
                "curl",
                "-H",
                &format!("X-aws-ec2-metadata-token: {secret}"),
                "http://169.254.169.254/",
            ],
            vec!["curl", "-H", &format!("x-AWS-ec2-Metadata-Token:{secret}")],
            vec!["curl", &format!("-HX-aws-ec2-metadata-token: {secret} ")],
            vec![
                "curl",
                "-H",
                "X-aws-ec2-metadata-token:",
                secret,
                "http://169.254.169.254/",
            ],
            vec!["curl", "-H", "X-aws-ec2-metadata-token", secret],
            vec!["http", &format!("--header=X-aws-ec2-metadata-token={secret}")],
            vec![
                "sh",
                "-c",
                &format!("curl -H \"X-aws-ec2-metadata-token: {secret}\" http://169.254.169.254/"),
            ],
            vec![
                "sh",
                "-c",
                &format!("curl -H 'X-aws-ec2-metadata-token:  {secret}' http://169.254.169.254/"),
            ],
            vec![
                "sh",
                "-c",
                &format!("bash -c \"curl -H \\\"X-aws-ec2-metadata-token: {secret}\\\" x\""),
            ],
            vec![
                "sh",
                "-c",
                &format!("curl -H X-aws-ec2-metadata-token:{secret} http://169.254.169.254/"),
            ],
            vec![
                "sh",
                "-c",
                &format!("curl -H X-aws-ec2-metadata-token:\\ {secret} http://169.254.169.254/"),
            ],
            vec![
                "python3",
                "-c",
                &format!("get(headers={{'X-aws-ec2-metadata-token': '{secret}'}})"),
            ],
            vec![
                "python3",
                "-c",
                &format!("get([(\"X-aws-ec2-metadata-token\", \"{secret}\")])"),
            ],
            vec!["ruby", "-e", &format!("get('X-aws-ec2-metadata-token' => '{secret}')")],
            vec!["app", &format!("{{\"X-aws-ec2-metadata-token\":\"{secret}\"}}")],
            vec![
                "app",
                &format!("http://169.254.169.254/?X-aws-ec2-metadata-token={secret}&a=b"),
            ],
            vec![
                "app",
                &format!("http://169.254.169.254/?h=X%2Daws%2Dec2%2Dmetadata%2Dtoken%3A%20{secret}&a=b"),
            ],
            vec!["env", &format!("HTTP_X_AWS_EC2_METADATA_TOKEN={secret}")],
            vec![&format!("nginx: X-aws-ec2-metadata-token: {secret}")],
        ] {
            for mode in EVERY_MODE {
                let text = masked(&args, mode).join(" ");
                assert!(!text.contains(secret), "{mode:?}: {args:?} became {text}");
            }
        }
    }
}

#[test]
fn the_rest_of_a_command_line_stays_readable() {
    for (args, expected) in [
        (
            vec![
                "curl",
                "-H",
                "X-aws-ec2-metadata-token: AQ",
                "http://169.254.169.254/latest/",
            ],
            "curl -H X-aws-ec2-metadata-token: *** http://169.254.169.254/latest/",
        ),
        (
            vec![
                "sh",
                "-c",
                "curl -H \"X-aws-ec2-metadata-token: AQ\" http://169.254.169.254/latest/",
            ],
            "sh -c curl -H \"X-aws-ec2-metadata-token: ***\" http://169.254.169.254/latest/",
        ),
        (
            vec!["sh", "-c", "PGPASSWORD=x psql -h db; TOKEN=$(curl -X PUT u)"],
            "sh -c PGPASSWORD=*** psql -h db; TOKEN=$(curl -X PUT u)",
        ),
        (
            vec!["curl", "-H", "X-aws-ec2-metadata-token:", "http://169.254.169.254/"],
            "curl -H X-aws-ec2-metadata-token: http://169.254.169.254/",
        ),
        (
            vec!["curl", "-u", "me:secret", "https://h/"],
            "curl -u me:*** https://h/",
        ),
        (vec!["curl", "-u", "me", "https://h/"], "curl -u me https://h/"),
        (vec!["curl", "https://me:s3c@h/p?a=b"], "curl https://me:***@h/p?a=b"),
        (
            vec!["app", "https://h/p?api_key=abc%20def&a=b"],
            "app https://h/p?api_key=***&a=b",
        ),
    ] {
        assert_eq!(redacted(&args), expected);
    }
}

#[test]
fn authorization_is_masked_in_every_mode() {
    for args in [
        vec!["curl", "-H", "Authorization: Basic bWU6c2VjcmV0"],
        vec!["curl", "-H", "Proxy-Authorization: Bearer bWU6c2VjcmV0"],
        vec!["curl", "-H", "authorization:", "Bearer", "bWU6c2VjcmV0"],
        vec!["curl", "-H", "Authorization: Bearer", "bWU6c2VjcmV0"],
        vec![
            "sh",
            "-c",
            "curl -H 'Authorization: Digest username=\"me\", response=\"bWU6c2VjcmV0\"' u",
        ],
        vec!["app", "{\"Authorization\": \"Basic bWU6c2VjcmV0\"}"],
    ] {
        for mode in EVERY_MODE {
            let text = masked(&args, mode).join(" ");
            assert!(!text.contains("bWU6c2VjcmV0"), "{mode:?}: {args:?} became {text}");
        }
    }
}

#[test]
fn secrets_of_other_programs_are_masked_by_default_and_shown_in_full() {
    for args in [
        vec!["app", "--password", "s3cr3t"],
        vec!["app", "--password=s3cr3t two words"],
        vec!["app", "-password", "s3cr3t"],
        vec!["env", "PASSWORD=s3cr3t", "app"],
        vec!["env", "AWS_SECRET_ACCESS_KEY=s3cr3t", "app"],
        vec!["app", "--secret-key", "s3cr3t"],
        vec!["app", "--api-key", "s3cr3t"],
        vec!["app", "--key", "s3cr3t"],
        vec!["app", "apikey=s3cr3t"],
        vec!["app", "-Ddb.password=s3cr3t"],
        vec!["app", "{\"sessionToken\": \"s3cr3t two\"}"],
        vec!["app", "Server=h;Password=s3cr3t;Database=d"],
        vec!["app", "redis://:s3cr3t@h:6379/0"],
        vec!["app", "https://h/?key=s3cr3t&a=b"],
        vec!["mysql", "-uroot", "-ps3cr3t"],
        vec!["sudo", "/usr/bin/mysqldump", "-ps3cr3t"],
        vec!["sh", "-c", "mysql -uroot -ps3cr3t db"],
        vec!["sshpass", "-p", "s3cr3t", "ssh", "h"],
        vec!["sh", "-c", "curl -u me:s3cr3t http://h/"],
        vec!["aws", "AKIAs3cr3t", "--secret-access-key", "s3cr3t"],
    ] {
        let text = redacted(&args);
        assert!(
            !text.replace("AKIAs3cr3t", "").contains("s3cr3t"),
            "{args:?} became {text}"
        );
        assert_eq!(masked(&args, ArgsMode::Full), args);
    }
    assert_eq!(redacted(&["app", "AKIAIOSFODNN7EXAMPLE"]), "app ***");
}

#[test]
fn what_is_no_secret_is_left_alone() {
    for args in [
        vec![
            "curl",
            "-X",
            "PUT",
            "-H",
            "X-aws-ec2-metadata-token-ttl-seconds: 21600",
            "http://169.254.169.254/latest/api/token",
        ],
        vec![
            "kube-apiserver",
            "--authorization-mode=Node,RBAC",
            "--service-account-key-file=/etc/kubernetes/pki/sa.pub",
        ],
        vec![
            "controller",
            "--horizontal-pod-autoscaler-downscale-stabilization=5m0s",
            "--token-ttl",
            "5",
        ],
        vec!["llm", "--max-tokens", "100", "--tokenizer=bpe"],
        vec!["app", "--password-file", "/run/secrets/db", "--secret-name=prod/db"],
        vec![
            "docker",
            "run",
            "-u",
            "1000:1000",
            "-p",
            "80:80",
            "PWD=/srv",
            "image@sha256:0123456789abcdef",
        ],
        vec![
            "containerd-shim",
            "-id",
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        ],
        vec![
            "find",
            "/usr/lib/x86_64-linux-gnu/perl5/5.36/auto/Compress/Raw/Zlib",
            "-name",
            "*.so",
        ],
        vec!["sort", "keys", "monkey=1", "bypass=2"],
        vec![],
        vec![""],
    ] {
        for mode in [ArgsMode::Full, ArgsMode::Redacted] {
            assert_eq!(masked(&args, mode), args);
        }
    }
    for text in [
        "/latest/meta-data/iam/security-credentials/app-role",
        "Boto3/1.9.0 Python/3.8.10 Linux/5.4.0-1060-aws",
        "100%",
    ] {
        assert_eq!(mask_text(text), text);
    }
}

#[test]
fn targets_lose_their_query_s_secrets() {
    assert_eq!(
        mask_text("/latest/meta-data/?token=abc&x=1"),
        "/latest/meta-data/?token=***&x=1"
    );
    assert_eq!(mask_text(&format!("/latest/{TOKEN}/x")), "/***/x");
    assert_eq!(mask_text(&format!("/?q={}", TOKEN.replace('=', "%3D"))), "/?q=***");
    assert_eq!(
        mask_text("curl/8 X-aws-ec2-metadata-token: abc"),
        "curl/8 X-aws-ec2-metadata-token: ***"
    );
    assert_eq!(
        mask_text("/?X-Amz-Security-Token=a%20b&X-Amz-Signature=c"),
        "/?X-Amz-Security-Token=***&X-Amz-Signature=***"
    );
    assert_eq!(mask_text("/?password=$ABC"), "/?password=***");
}

#[test]
fn paths_lose_tokens_only() {
    assert_eq!(mask_path(&format!("/opt/{TOKEN}/curl")), "/opt/***/curl");
    for path in [
        "/opt/password=1/a b",
        "/home/authorization/key",
        "/nix/store/0123456789abcdefghijklmnopqrstuv-curl/bin/curl",
    ] {
        assert_eq!(mask_path(path), path);
    }
}

#[test]
fn executable_keeps_the_program_only() {
    assert_eq!(
        masked(&["/usr/bin/app", "--password", "x"], ArgsMode::Executable),
        ["/usr/bin/app"]
    );
    assert_eq!(
        masked(&["app --password x"], ArgsMode::Executable),
        ["app --password ***"]
    );
}

proptest! {
    #[test]
    fn no_token_survives_wherever_it_stands(args in argv(), token in token(), index: prop::sample::Index, at: prop::sample::Index) {
        let args = with_inserted(args, &token, index, at);
        for mode in EVERY_MODE {
            let text = mask_args(args.clone(), mode).join("\n");
            prop_assert!(!shows(&text, &token), "{mode:?}: {args:?} became {text:?}");
        }
        for arg in &args {
            prop_assert!(!shows(&mask_text(arg), &token), "{arg:?}");
        }
    }

    #[test]
    fn no_cut_token_survives_at_the_end(args in argv(), token in token(), index: prop::sample::Index, cut in 16_usize..56) {
        let mut args = args;
        let index = index.index(args.len());
        args.truncate(index + 1);
        args[index].push_str(&token[..cut]);
        for mode in EVERY_MODE {
            let text = mask_truncated_args(args.clone(), mode).join("\n");
            prop_assert!(!shows(&text, &token), "{mode:?}: {args:?} became {text:?}");
        }
        prop_assert!(!shows(&mask_truncated(&args[index]), &token));
    }

    #[test]
    fn masking_again_shows_nothing(args in argv(), token in token(), index: prop::sample::Index, at: prop::sample::Index) {
        let args = with_inserted(args, &token, index, at);
        for mode in EVERY_MODE {
            let once = mask_args(args.clone(), mode);
            let twice = mask_args(once.clone(), mode);
            prop_assert_eq!(once.len(), twice.len());
            prop_assert!(!shows(&twice.join("\n"), &token), "from {args:?}");
        }
    }

    #[test]
    fn text_without_secrets_is_unchanged(args in prop::collection::vec("[a-z/.:@ -]{0,30}|[0-9a-f]{64}|é{0,4}", 0..6)) {
        let names = ["token", "secret", "pass", "pw", "key", "auth", "sig", "cookie", "curl", "-c", "://"];
        if !args.iter().any(|arg| names.iter().any(|name| arg.contains(name))) {
            prop_assert_eq!(mask_args(args.clone(), ArgsMode::Redacted), args);
        }
    }

    #[test]
    fn any_text_is_taken(args in prop::collection::vec(any::<String>(), 0..6)) {
        prop_assert_eq!(mask_args(args.clone(), ArgsMode::Redacted).len(), args.len());
    }
}

/// True if 16 consecutive characters of the token are readable.
fn shows(text: &str, token: &str) -> bool {
    token
        .as_bytes()
        .windows(16)
        .any(|part| text.as_bytes().windows(16).any(|window| window == part))
}

fn token() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_-]{54}=="
}

fn argv() -> impl Strategy<Value = Vec<String>> {
    let fragment = prop::sample::select(vec![
        "curl",
        "-H",
        "-c",
        "X-aws-ec2-metadata-token",
        "X-aws-ec2-metadata-token-ttl-seconds",
        "Authorization",
        "Bearer",
        "--password",
        "password",
        "key",
        "mysql",
        "-p",
        "-u",
        "http://169.254.169.254/latest/",
        "://",
        ":",
        "=",
        "==",
        " ",
        "\"",
        "'",
        "\\",
        "`",
        "&",
        ";",
        "?",
        "%",
        "%3",
        "%3D",
        "%22",
        "@",
        "/",
        "\n",
        "$",
        "{",
        "***",
        "é",
        "abc",
        "AKIA",
        "1",
        "0123456789abcdef0123456789abcdef",
    ]);
    let arg = prop::collection::vec(fragment, 0..8).prop_map(|fragments| fragments.concat());
    prop::collection::vec(arg, 1..6)
}

fn with_inserted(
    mut args: Vec<String>,
    token: &str,
    index: prop::sample::Index,
    at: prop::sample::Index,
) -> Vec<String> {
    let index = index.index(args.len());
    let mut at = at.index(args[index].len() + 1);
    while !args[index].is_char_boundary(at) {
        at -= 1;
    }
    args[index].insert_str(at, token);
    args
}
