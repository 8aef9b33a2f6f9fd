//! Tokens in every place where clients put them, whole and cut: no part of one is in any output.
//!
//! guests: full packets

#![expect(clippy::panic, reason = "a test fails by it")]

use std::{
    io::Write as _,
    net::{Shutdown, TcpStream},
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use imds_analyzer::lab::{Lab, NetNs};
use imds_analyzer_tests::{
    Analyzer, Ended, IMDS_V4, Service, Turn, binary, cgroup2, connect, exchange, free_port, is_legacy, output,
    put_token, read_response, serve, set_option, until,
};

const URL: &str = "http://169.254.169.254/latest/user-data";
const HEADER: &str = "X-aws-ec2-metadata-token";
/// The number of characters that give a token away.
const PART: usize = 20;

/// Arguments of `watch`.
const OUTPUTS: [&[&str]; 6] = [
    &[],
    &["--verbose"],
    &["--format", "json"],
    &["--format", "json", "--args", "full"],
    &["--verbose", "--args", "full"],
    &["--verbose", "--owner", "connect"],
];

/// The outputs that the object in use supports: the legacy object knows only senders.
fn outputs() -> impl Iterator<Item = &'static [&'static str]> {
    let legacy = is_legacy();
    OUTPUTS
        .into_iter()
        .filter(move |args| !(legacy && args.contains(&"connect")))
}

/// A fresh token.
fn token(namespace: &NetNs) -> String {
    put_token(&mut connect(namespace, IMDS_V4))
}

fn watch(turn: Turn, args: &[&str]) -> Analyzer {
    let mut command = Command::new(binary());
    command.arg("watch").args(args);
    Analyzer::start_in(turn, command)
}

/// Fails if any part of a token is in the analyzer's output, or if the output has fewer than `lines` lines and so
/// proves nothing.
fn assert_no_token(ended: &Ended, tokens: &[String], lines: usize) {
    assert!(ended.stdout.len() >= lines, "{ended:#?}");
    let everything = ended.everything();
    assert!(!tokens.is_empty());
    for token in tokens {
        for at in 0..=token.len() - PART {
            if let Some(found) = everything.find(&token[at..at + PART]) {
                let line = everything[..found].matches('\n').count();
                panic!("{at} of {token}: {:?}", everything.lines().nth(line));
            }
        }
    }
}

/// Runs `clients` in a lab under each of [`OUTPUTS`]; they make at least `count` requests, not counting those for
/// tokens.
fn under_every_output(count: usize, clients: impl Fn(&Lab)) {
    for args in outputs() {
        let analyzer = watch(Turn::take(), args);
        let lab = Lab::local().expect("lab");
        let server = serve(&lab);
        clients(&lab);
        assert_no_token(&analyzer.stop(), &server.tokens(), count);
    }
}

fn curl(lab: &Lab, args: &[&str]) {
    let mut command = lab.client.command("curl");
    command.args(["-s", "-o", "/dev/null", "--max-time", "10"]).args(args);
    output(command);
}

#[test]
fn tokens_in_arguments_of_real_clients() {
    under_every_output(10, |lab| {
        let token = || token(&lab.client);
        curl(lab, &["-H", &format!("{HEADER}: {}", token()), URL]);
        curl(lab, &[&format!("-H{HEADER}:{}", token()), URL]);
        curl(lab, &["-H", &format!("Authorization: Bearer {}", token()), URL]);
        curl(lab, &["-H", &format!("Authorization: {}", token()), URL]);
        curl(lab, &["-H", &format!("X-Vault-Token: {}", token()), URL]);
        curl(lab, &["-b", &format!("t={}", token()), URL]);
        curl(lab, &["-A", &format!("agent/{}", token()), URL]);
        curl(lab, &["-u", &format!("user:{}", token()), URL]);
        // The shell is the parent, and its script is in its arguments.
        let script = format!("T='{}'; curl -s -o /dev/null -H \"{HEADER}: $T\" {URL}; true", token());
        let mut shell = lab.client.command("sh");
        shell.args(["-c", &script]);
        output(shell);
        let code = "import os,sys,urllib.request as u\n\
                    for t in sys.argv[1],os.environ['T']: u.urlopen(u.Request(sys.argv[2],headers={'X-aws-ec2-metadata-token':t}))";
        let mut python = lab.client.command("python3");
        python.args(["-c", code, &token(), URL]).env("T", token());
        output(python);
    });
}

#[test]
fn tokens_in_request_targets() {
    under_every_output(8, |lab| {
        for form in [
            "?token=T",
            "?X-aws-ec2-metadata-token=T",
            "?a=b&c=T&d=e",
            "/T",
            "/T/x",
            "#T",
            "?T",
            ";t=T",
        ] {
            curl(lab, &[&format!("{URL}{}", form.replace('T', &token(&lab.client)))]);
        }
    });
}

/// Heads with the token in an odd place, or with only a part of it. `T` is the token, `[` and `]` its halves.
const HEADS: &[&str] = &[
    "GET / HTTP/1.1\r\nX-aws-ec2-metadata-token:\r\n T\r\n\r\n",
    "GET / HTTP/1.1\r\nX-aws-ec2-metadata-token: a\r\n T\r\nX-aws-ec2-metadata-token: T\r\n\r\n",
    "GET / HTTP/1.1\r\nUser-Agent: T\r\nHost: T\r\nCookie: T\r\nX-Forwarded-For: T\r\n\r\n",
    "GET / HTTP/1.1\r\nUser-Agent: a\r\n T\r\n\r\n",
    "GET / HTTP/1.1\r\nX-aws-ec2-metadata-token T\r\n\r\n",
    "GET / HTTP/1.1\r\nT\r\n\r\n",
    "GET / HTTP/1.1\r\nX-aws-ec2-metadata-token: T",
    "GET / HTTP/1.1\r\nX-aws-ec2-metadata-token: [",
    "GET / HTTP/1.1\r\nAuthorization: Bearer [",
    "GET / HTTP/1.1\r\nUser-Agent: [",
    "GET /?t=[",
    "GET /?t=T HTT",
    "T / HTTP/1.1\r\n\r\n",
    "T\r\n\r\n",
    "X-aws-ec2-metadata-token: T\r\n\r\n",
    "GET /T\r\n",
    "GET / T\r\n\r\n",
    "GET / HTTP/1.1\r\nContent-Length: 200\r\n\r\nX-aws-ec2-metadata-token: T\r\nGET /?t=T HTTP/1.1\r\n\r\n",
    "PUT / HTTP/1.1\r\nContent-Length: 200\r\n\r\nX-aws-ec2-metadata-token: T\r\nGET /?t=T HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n99\r\nT GET /x HTTP/1.1\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\r\nT",
];

#[test]
fn tokens_in_heads_of_every_shape() {
    under_every_output(HEADS.len() - 2, |lab| {
        for head in HEADS {
            let token = token(&lab.client);
            let (first, _) = token.split_at(40);
            let bytes = fill(head, &token, first);
            for size in [bytes.len(), 1, 33] {
                exchange(connect(&lab.client, IMDS_V4), bytes.as_bytes().chunks(size));
            }
        }
    });
}

/// Replaces each `T` that is not part of a word with the token, and each `[` with the part.
fn fill(head: &str, token: &str, part: &str) -> String {
    let mut filled = String::new();
    for (at, character) in head.char_indices() {
        let next_to_letter = |other: Option<char>| other.is_some_and(|other| other.is_ascii_alphabetic());
        let alone = !next_to_letter(head[..at].chars().last()) && !next_to_letter(head[at + 1..].chars().next());
        match character {
            'T' if alone => filled += token,
            '[' => filled += part,
            other => filled.push(other),
        }
    }
    filled
}

/// The analyzer starts while the token is on its way.
#[test]
fn a_connection_joined_inside_a_token() {
    for args in outputs() {
        let turn = Turn::take();
        let lab = Lab::local().expect("lab");
        let server = serve(&lab);
        let mut streams: Vec<(TcpStream, String, &str)> = Vec::new();
        for (at, end) in [
            (5, "\r\n\r\n"),
            (20, "\r\nHost: imds\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
            (20, ""),
            (30, " / HTTP/1.1\r\n\r\n"),
            (0, "\r\n\r\n"),
            (0, " / HTTP/1.1\r\n"),
        ] {
            let mut stream = connect(&lab.client, IMDS_V4);
            let token = put_token(&mut stream);
            let before = format!("GET / HTTP/1.1\r\n{HEADER}: {}", &token[..at]);
            stream.write_all(before.as_bytes()).expect("write");
            streams.push((stream, token[at..].to_owned(), end));
        }
        let count = streams.len();
        let analyzer = watch(turn, args);
        for (mut stream, rest, end) in streams {
            // In two, so that there is a time at which only the middle of the token is known.
            let (middle, last) = rest.split_at(rest.len() - 2);
            for piece in [middle, last, end] {
                stream.write_all(piece.as_bytes()).expect("write");
            }
            let _ = stream.shutdown(Shutdown::Both);
        }
        assert_no_token(&analyzer.stop(), &server.tokens(), count);
    }
}

/// The connection ends in a reset, by the client, inside the token.
#[test]
fn a_connection_reset_inside_a_token() {
    under_every_output(2, |lab| {
        for head in ["GET / HTTP/1.1\r\nX-aws-ec2-metadata-token: [", "GET /?t=["] {
            let mut stream = connect(&lab.client, IMDS_V4);
            let token = put_token(&mut stream);
            stream
                .write_all(fill(head, &token, &token[..50]).as_bytes())
                .expect("write");
            let linger = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            set_option(&stream, libc::SOL_SOCKET, libc::SO_LINGER, linger);
        }
    });
}

/// Arguments are cut somewhere: wherever that is, the part of a token before the cut is not shown.
#[test]
fn a_token_where_the_arguments_are_cut() {
    let limits = [512, 1024, 2048, 4096, 8192];
    for args in outputs() {
        let analyzer = watch(Turn::take(), args);
        let lab = Lab::local().expect("lab");
        let server = serve(&lab);
        let token = token(&lab.client);
        let mut stream = connect(&lab.client, IMDS_V4);
        let mut count = 0;
        for limit in limits {
            // The token begins `before` bytes before the limit.
            for before in [22, 26, 40, 55] {
                let script = "printf 'GET / HTTP/1.1\\r\\n\\r\\n'";
                let used = ["sh", "-c", script, "x", ""]
                    .map(|arg| arg.len() + 1)
                    .iter()
                    .sum::<usize>();
                let padding = ". ".repeat((limit - before - used) / 2) + &".".repeat((limit - before - used) % 2);
                let socket = OwnedFd::from(stream.try_clone().expect("dup"));
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", script, "x", &padding, &token])
                    .stdout(Stdio::from(socket));
                assert!(shell.status().expect("sh").success());
                assert_eq!(read_response(&mut stream), 200);
                count += 1;
            }
        }
        assert_no_token(&analyzer.stop(), &server.tokens(), count);
    }
}

/// Heads are cut, too, both when they are kept and when they are shown.
#[test]
fn a_token_where_the_head_is_cut() {
    under_every_output(144, |lab| {
        let token = token(&lab.client);
        let mut stream = connect(&lab.client, IMDS_V4);
        for limit in [256, 512, 768, 1024] {
            // A shorter part of a token is of no use, and looks like any text.
            for before in (PART + 1..56 + 10).step_by(4) {
                for (head, text) in [
                    ("GET /latest/?t=", ""),
                    ("GET /latest/", "?t="),
                    ("GET / HTTP/1.1\r\nUser-Agent: ", ""),
                ] {
                    let padding = "x/".repeat((limit - before - head.len() - text.len()) / 2);
                    let end = if head.contains("User-Agent") { "" } else { " HTTP/1.1" };
                    write!(stream, "{head}{padding}{text}{token}{end}\r\n\r\n").expect("write");
                    let _ = read_response(&mut stream);
                }
            }
        }
    });
}

/// The directory and the name of a process are text that others choose, too.
#[test]
fn tokens_in_names_of_files() {
    under_every_output(1, |lab| {
        let token = token(&lab.client);
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join(&token);
        std::fs::create_dir(&place).expect("a folder");
        let program = place.join(format!("curl{token}"));
        std::fs::copy("/usr/bin/curl", &program).expect("a copy");
        let mut command = lab.client.command(program.to_str().expect("UTF-8"));
        command.args(["-s", "-o", "/dev/null", URL]).current_dir(&place);
        output(command);
    });
}

#[test]
fn what_check_says() {
    let turn = Turn::take();
    let lab = Lab::local().expect("lab");
    let server = serve(&lab);
    let token = token(&lab.client);
    let mut shell = lab.client.command("sh");
    shell.args([
        "-c",
        &format!("curl -s -o /dev/null -H '{HEADER}: {token}' {URL}; \"$0\" check"),
    ]);
    shell.arg(binary());
    let said = shell.output().expect("sh");
    let ended = Ended {
        code: said.status.code(),
        stdout: String::from_utf8_lossy(&said.stdout)
            .lines()
            .map(str::to_owned)
            .collect(),
        stderr: String::from_utf8_lossy(&said.stderr).into_owned(),
    };
    assert_no_token(&ended, &server.tokens(), 3);
    drop(turn);
}

/// Makes a call; the test looks at the arguments that follow.
const CALLER: &str = "import urllib.request as u; u.urlopen('http://169.254.169.254/latest/user-data').read()";
/// The text that stands for a secret in the arguments below.
const SECRET: &str = "s3cr3tV4lueOfNobody";

/// Arguments as programs write them, separated by `|`.
const SPELLINGS: &[&str] = &[
    "curl|-H|Authorization:|Splunk|§",
    "curl|-H|Authorization|:||Custom|§",
    "python3|-c|h = {'Authorization': 'Bearer ' + '§'}",
    "python3|-c|h = {'Authorization': 'Basic {}'.format('§')}",
    "python3|-c|h[\"Authorization\"] = \"§\"",
    "sh|-c|curl -H Authorization:\\ Digest\\ username=\\\"bob\\\",\\ response=\\\"§\\\" u",
    "nginx|-g|proxy_set_header Authorization Basic\\ §;",
    "app|{\"name\":\"Authorization\",\"value\":\"§\"}",
    "app|http://h/?h=Authorization%253A%2520Basic%2520§",
    "curl|-H|X-aws-ec2-metadata-token|:|§",
    "curl|-H|X-aws-ec2-metadata-token||§",
    "python3|-c|h['X-aws-ec2-metadata-token'] = '' + '§'",
    "app|X-aws-ec2-metadata-token\\u003d§",
];

/// The same, but shown with `--args full`.
const SECRETS: &[&str] = &[
    "aws|configure|set|aws_secret_access_key|§",
    "curl|-sume:§|u",
    "curl|-su|me:§|u",
    "app|--password|--§",
    "app|Server=h;PWD=§;",
    "app|me:§@tcp(h)/d",
    "app|<password>§</password>",
    "docker|login|-p|§",
    "openssl|enc|-k|§",
];

#[test]
fn secrets_in_arguments_of_every_spelling() {
    for (args, lines) in [
        (["--format", "json"].as_slice(), [SPELLINGS, SECRETS].concat()),
        (&["--verbose"], [SPELLINGS, SECRETS].concat()),
        (&["--format", "json", "--args", "full"], SPELLINGS.to_vec()),
    ] {
        let analyzer = watch(Turn::take(), args);
        let lab = Lab::local().expect("lab");
        let _server = serve(&lab);
        for line in &lines {
            let mut python = lab.client.command("python3");
            python.args(["-c", CALLER]).args(line.replace('§', SECRET).split('|'));
            output(python);
        }
        let ended = analyzer.stop();
        assert!(ended.stdout.len() >= lines.len(), "{ended:#?}");
        let everything = ended.everything();
        let shown: Vec<&str> = everything.lines().filter(|line| line.contains(SECRET)).collect();
        assert!(shown.is_empty() && everything.contains("***"), "{args:?}: {shown:#?}");
    }
}

/// Whoever makes a cgroup or a process chooses its name: the log and the metrics show nothing but text.
#[test]
fn tokens_and_odd_text_in_names() {
    let root = cgroup2().expect("cgroup2");
    let lab = Lab::local().expect("lab");
    let server = serve(&lab);
    let token = token(&lab.client);
    let port = free_port();
    let mut service = Service::start(&format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n"));
    let names = [
        format!("{token}.service"),
        format!("{}.service", token.replace('=', "\\x3d").replace('-', "\\x2d")),
        format!("systemd-nspawn@{token}.service"),
        format!("lxc.payload.{token}"),
        format!("user@65534.service.d-{token}.slice"),
        "esc\u{1b}[2Jx.service".to_owned(),
        "rtl\u{202e}\u{2066}.service".to_owned(),
        "csi\u{9b}31m\u{85}\u{7f}\u{200b}\u{ad}.service".to_owned(),
        "mark\u{34f}\u{fe0f}\u{e0041}.service".to_owned(),
    ];
    for (number, name) in names.iter().enumerate() {
        let cgroup = format!("{root}/{name}");
        std::fs::create_dir(&cgroup).expect("a cgroup");
        let script = "echo $$ >\"$0/cgroup.procs\" && exec python3 -c \"$1\" \"$2\"";
        let mut shell = lab.client.command("sh");
        shell.args(["-c", script, &cgroup, CALLER, "arg\u{9b}\u{202e}\u{7f}"]);
        output(shell);
        service.wait_for("a record", |records| {
            records
                .iter()
                .filter(|record| record["url"]["path"] == "/latest/user-data")
                .count()
                > number
        });
        until("the cgroup is empty", || std::fs::remove_dir(&cgroup).is_ok());
    }
    let log = service.text();
    let metrics = service.scrape(port);
    service.stop();
    for text in [&log, &metrics] {
        for token in server.tokens() {
            let shown = (0..=token.len() - PART).any(|at| text.contains(&token[at..at + PART]));
            assert!(!shown, "{text}");
        }
        let odd = |character: char| {
            character.is_control() && character != '\n'
                || "\u{202e}\u{2066}\u{200b}\u{ad}\u{34f}\u{fe0f}\u{e0041}".contains(character)
        };
        assert_eq!(text.chars().find(|character| odd(*character)), None, "{text}");
    }
    assert!(log.contains("\"***.service\"") && log.contains("\\u009b31m"), "{log}");
    assert!(
        metrics.contains("*.service)") && metrics.contains("x1b[2Jx.service"),
        "{metrics}"
    );
}
