//! Metrics as Prometheus and node_exporter read them, and clients that read badly.
//!
//! guests: none

#![expect(clippy::print_stdout, reason = "figures and reasons are for whoever reads the log")]

use std::{
    collections::VecDeque,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{
    Service, StopAtEnd, curl, free_port, lab_with_imds, process, run_to_end, sample, serve, tap, until,
};
use serde_json::Value;

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/prometheus");

/// The exit code and the output of `promtool` with `text` on its stdin.
fn promtool(args: &[&str], text: &str) -> (Option<i32>, String) {
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(text.as_bytes())
        .expect("written");
    let output = child.wait_with_output().expect("promtool");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// What a fleet is asked: the file and the metric follow the log.
#[test]
fn the_verdict_of_this_host() {
    let lab = Lab::routed().expect("lab");
    let _server = serve(&lab);
    let port = free_port();
    let service = with_metrics(port);
    let path = service.dir.path().join("run/verdict.json");
    let verdict = || {
        let text = fs::read_to_string(&path).ok()?;
        let report: Value = serde_json::from_str(&text).expect("JSON, whole");
        Some(report["verdict"].as_str().expect("a word").to_owned())
    };
    let has_metric = |word: &str| {
        let text = service.scrape(port);
        let series: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("imds_analyzer_ready{"))
            .collect();
        series == [format!("imds_analyzer_ready{{verdict=\"{word}\"}} 0")]
    };
    until("not watched for long enough", || {
        verdict().as_deref() == Some("unproven")
    });
    until("as a metric", || has_metric("unproven"));
    curl(&lab, "/latest/meta-data/verdict");
    until("a call without a token", || verdict().as_deref() == Some("not-ready"));
    until("as a metric", || has_metric("not-ready"));
    let mode = fs::metadata(&path).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}

fn with_metrics(port: u16) -> Service {
    Service::start(&format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n"))
}

#[test]
fn the_text_is_as_prometheus_wants_it() {
    let (lab, _server) = lab_with_imds();
    let port = free_port();
    let mut service = with_metrics(port);
    curl(&lab, "/latest/meta-data/metrics?token=no-argument-is-shown");
    until("the call is counted", || {
        sample(
            &service.scrape(port),
            "imds_analyzer_caller_requests_total",
            &["curl", "version=\"v1\""],
        ) > 0
    });
    let text = service.scrape(port);
    let (code, said) = promtool(&["check", "metrics"], &text);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{text}");
    assert!(!text.contains("no-argument-is-shown"), "{text}");
    // 128 KiB of metrics at most, however many callers there were.
    assert!(text.len() < 128 << 10);
    service.stop();
}

#[test]
fn rules_are_right() {
    for (command, file) in [
        ("check", "imds-analyzer.rules.yml"),
        ("test", "imds-analyzer.rules.test.yml"),
    ] {
        let mut promtool = Command::new("promtool");
        let output = run_to_end(promtool.args([command, "rules"]).arg(Path::new(RULES).join(file)));
        assert_eq!(output.code, Some(0), "{output:#?}");
    }
}

/// The metrics in the rules and the dashboard exist.
#[test]
fn dashboards_and_rules_name_metrics_there_are() {
    let port = free_port();
    let service = with_metrics(port);
    let documented = include_str!("../../docs/metrics.md");
    let text = service.scrape(port);
    for name in text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
    {
        assert!(
            documented.contains(&format!("`{name}`")),
            "{name} is not in docs/metrics.md"
        );
    }
    let dashboard = include_str!("../../packaging/grafana/imds-analyzer.json");
    serde_json::from_str::<Value>(dashboard).expect("JSON");
    let rules = fs::read_to_string(Path::new(RULES).join("imds-analyzer.rules.yml")).expect("rules");
    for source in [dashboard, &rules] {
        for name in source.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            if name.starts_with("imds_analyzer_") {
                assert!(
                    documented.contains(&format!("`{name}`")),
                    "{name} is not in docs/metrics.md"
                );
            }
        }
    }
}

struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A real server scrapes a real daemon, and the alert fires on a v1 call.
#[test]
fn the_alert_fires() {
    let lab = Lab::routed().expect("lab");
    let _server = serve(&lab);
    let (port, prometheus_port) = (free_port(), free_port());
    let mut service = with_metrics(port);
    let dir = tempfile::tempdir().expect("a directory");
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{RULES}/imds-analyzer.rules.yml]\n\
         scrape_configs:\n- job_name: imds\n  static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n"
    );
    fs::write(dir.path().join("prometheus.yml"), config).expect("written");
    let server = Command::new("prometheus")
        .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{prometheus_port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus");
    let _server = Prometheus(server);
    let ask = |path: &str| {
        let url = format!("http://127.0.0.1:{prometheus_port}/api/v1/{path}");
        let output = run_to_end(Command::new("curl").args(["-sm5", &url]));
        serde_json::from_str::<Value>(&output.stdout).unwrap_or_default()
    };
    until("it is scraped", || {
        let up = ask("query?query=up");
        up["data"]["result"][0]["value"][1] == "1"
    });
    curl(&lab, "/latest/meta-data/alert");
    until("the alert fires", || {
        let alerts = ask("alerts");
        alerts["data"]["alerts"].as_array().is_some_and(|alerts| {
            alerts.iter().any(|alert| {
                let labels = &alert["labels"];
                let caller = labels["caller"].as_str().unwrap_or_default();
                alert["state"] == "firing" && labels["alertname"] == "ImdsV1CallerNew" && caller.contains("curl")
            })
        })
    });
    service.stop();
}

#[test]
fn those_who_never_read_harm_nobody() {
    let (lab, _server) = lab_with_imds();
    let port = free_port();
    let mut service = with_metrics(port);
    let connect = || TcpStream::connect(("127.0.0.1", port)).expect("metrics");
    // Some clients say nothing, some ask and never read, some send without end.
    let mut idle: Vec<_> = (0..40).map(|_| connect()).collect();
    for stream in &mut idle[20..] {
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("write");
    }
    let mut endless = connect();
    endless.write_all(b"GET /metrics HTTP/1.1\r\n").expect("write");
    let endless = thread::spawn(move || {
        let mut sent = 0;
        while let Ok(count) = endless.write(&[b'a'; 1024]) {
            sent += count;
            if sent > 16 << 20 {
                break;
            }
        }
        sent
    });
    curl(&lab, "/latest/meta-data/crowded");
    service.wait_for("records go on", |records| {
        records
            .iter()
            .any(|record| record["url"]["path"] == "/latest/meta-data/crowded")
    });
    let files = fs::read_dir(format!("/proc/{}/fd", service.pid()))
        .expect("a process")
        .count();
    assert!(files < 80, "{files} open files");
    // A client that asks is served soon, and those that do not ask are counted.
    let asked = Instant::now();
    assert!(service.scrape(port).contains("imds_analyzer_build_info"));
    println!("served after {:?} among 41 who are slow", asked.elapsed());
    until("the slow ones are counted", || {
        sample(&service.scrape(port), "imds_analyzer_scrapes_total", &["timed-out"]) >= 1
    });
    assert!(
        endless.join().expect("a thread") < 16 << 20,
        "a request without end was read"
    );
    drop(idle);
    service.stop();
}

/// At any time there are more idle clients than places and room in the kernel's queue.
#[test]
fn a_scrape_gets_through_a_crowd_of_idle_clients() {
    let port = free_port();
    let mut service = with_metrics(port);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for kind in 0..3 {
            let stop = &stop;
            scope.spawn(move || {
                let mut idle = VecDeque::new();
                while !stop.load(Ordering::Relaxed) {
                    let address = ([127, 0, 0, 1], port).into();
                    if let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
                        // Nothing; half a head; a head byte by byte.
                        let _ = stream.write_all([&b""[..], b"GET /met", b"G"][kind]);
                        idle.push_back(stream);
                    }
                    if idle.len() > 80 {
                        idle.pop_front();
                    }
                    for stream in idle.iter_mut().filter(|_| kind == 2) {
                        let _ = stream.set_nonblocking(true);
                        let _ = stream.write(b"E");
                    }
                }
            });
        }
        thread::sleep(Duration::from_millis(500));
        for _ in 0..3 {
            let asked = Instant::now();
            assert!(service.scrape(port).contains("imds_analyzer_build_info"));
            println!("served after {:?}", asked.elapsed());
        }
    });
    until("they are counted", || {
        sample(&service.scrape(port), "imds_analyzer_scrapes_total", &["timed-out"]) > 0
    });
    service.stop();
}

/// Four clients scrape as fast as they can: the answers per second are limited, and records do not have to wait.
#[test]
fn a_flood_of_scrapes_costs_little() {
    let (lab, _server) = lab_with_imds();
    let port = free_port();
    let mut service = with_metrics(port);
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let ticks = |pid| {
        let stat = process(pid).stat().expect("a process");
        stat.utime + stat.stime
    };
    let before = ticks(service.pid());
    thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("metrics");
                    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("write");
                    let mut answer = Vec::new();
                    stream.read_to_end(&mut answer).expect("an answer");
                }
            });
        }
        for round in 0..5 {
            let path = format!("/latest/meta-data/flooded-{round}");
            curl(&lab, &path);
            service.wait_for("the call", |records| {
                records.iter().any(|record| record["url"]["path"] == path.as_str())
            });
            thread::sleep(Duration::from_millis(300));
        }
    });
    let time = begun.elapsed();
    let text = service.scrape(port);
    let answered = sample(&text, "imds_analyzer_scrapes_total", &["answered"]);
    let used = ticks(service.pid()) - before;
    println!("{answered} scrapes in {time:?}, {used} ticks of CPU time");
    // A burst, and a hundred a second.
    assert!(
        answered as f64 <= 120.0 + 110.0 * time.as_secs_f64(),
        "{answered} in {time:?}"
    );
    assert!(sample(&text, "imds_analyzer_scrapes_delayed_total", &[]) > 0, "{text}");
    service.stop();
}

#[test]
fn the_tap_in_use_is_named() {
    let port = free_port();
    let mut service = with_metrics(port);
    let tap = format!("tap=\"{}\"", tap());
    let text = service.scrape(port);
    assert_eq!(sample(&text, "imds_analyzer_capture_info", &[&tap]), 1, "{text}");
    assert_eq!(sample(&text, "imds_analyzer_capture_info", &[]), 1, "{text}");
    service.stop();
}

/// The owner of the directory may put anything at any name in it, at any time.
#[test]
fn a_textfile_in_a_directory_of_another_users() {
    const SERVICE: &str = "[metrics]\ntextfile = \"{dir}/tf/imds.prom\"\ntextfile_interval = \"1s\"\n";
    let nobody = |script: &str, dir: &Path| {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "sh",
            "-c",
            script,
            "sh",
        ]);
        let output = run_to_end(command.arg(dir));
        assert_eq!(output.code, Some(0), "{output:#?}");
    };
    for (what, script) in [
        (
            "links",
            "ln -s ../victim $1/imds.prom.tmp; ln -s ../victim $1/imds.prom",
        ),
        (
            "a FIFO at the old name",
            "mkfifo $1/imds.prom.tmp; ln -s imds.prom.tmp $1/imds.prom",
        ),
        ("a FIFO at the name itself", "mkfifo $1/imds.prom"),
        ("a directory at the old name", "mkdir -p $1/imds.prom.tmp/x"),
        (
            "a dangling link",
            "ln -s ../new-file $1/imds.prom; ln -s ../new-file $1/imds.prom.tmp",
        ),
    ] {
        let mut service = Service::start_with(SERVICE, |command| {
            let config = Path::new(command.get_args().last().expect("a path"));
            let top = config.parent().expect("a directory");
            let dir = top.join("tf");
            fs::set_permissions(top, fs::Permissions::from_mode(0o755)).expect("ours");
            fs::create_dir(&dir).expect("made");
            chown(&dir, Some(65534), None).expect("root");
            fs::write(top.join("victim"), "only root may read this").expect("written");
            fs::set_permissions(top.join("victim"), fs::Permissions::from_mode(0o600)).expect("ours");
            nobody(script, &dir);
        });
        let top = service.dir.path().to_owned();
        let file = top.join("tf/imds.prom");
        let text = || match fs::symlink_metadata(&file) {
            Ok(found) if found.is_file() => fs::read_to_string(&file).unwrap_or_default(),
            _ => String::new(),
        };
        until(what, || text().contains("imds_analyzer_build_info"));
        assert_eq!(
            fs::read_to_string(top.join("victim")).expect("there"),
            "only root may read this",
            "{what}"
        );
        let mode = fs::metadata(top.join("victim")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{what}");
        assert!(!top.join("new-file").exists(), "{what}");
        // Put there once more while the service runs.
        nobody("rm -rf $1/imds.prom* && mkfifo $1/imds.prom", &top.join("tf"));
        until(what, || text().contains("imds_analyzer_build_info"));
        let ended = Instant::now();
        service.stop();
        assert!(ended.elapsed() < Duration::from_secs(10), "{what}");
    }
}

/// node_exporter refuses metrics with names that it has itself: there must be none.
#[test]
fn node_exporter_takes_the_textfile() {
    let mut service = Service::start("[metrics]\ntextfile = \"{dir}/tf.prom\"\ntextfile_interval = \"1s\"\n");
    let file = service.dir.path().join("tf.prom");
    until("the textfile is there", || file.exists());
    let text = fs::read_to_string(&file).expect("metrics");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("imds_analyzer_"), "{line}");
    }
    let port = free_port();
    let exporter = Command::new("prometheus-node-exporter")
        .args(["--collector.disable-defaults", "--collector.textfile"])
        .arg(format!(
            "--collector.textfile.directory={}",
            service.dir.path().display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("prometheus-node-exporter");
    let mut exporter = Prometheus(exporter);
    let url = format!("http://127.0.0.1:{port}/metrics");
    let mut scraped = String::new();
    until("it is scraped", || {
        scraped = run_to_end(Command::new("curl").args(["-sm5", &url])).stdout;
        scraped.contains("imds_analyzer_build_info")
    });
    assert_eq!(sample(&scraped, "node_textfile_scrape_error", &[]), 0, "{scraped}");
    let _ = exporter.0.kill();
    let mut said = String::new();
    let mut stderr = exporter.0.stderr.take().expect("piped");
    stderr.read_to_string(&mut said).expect("messages");
    assert!(!said.contains("error gathering"), "{said}");
    service.stop();
}

#[test]
fn other_requests_are_answered() {
    let port = free_port();
    let _service = with_metrics(port);
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
        ("\0\r\n\r\n", "400"),
        ("HEAD /metrics HTTP/1.0\r\n\r\n", "200"),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("metrics");
        stream.write_all(request.as_bytes()).expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:?}: {answer}"
        );
    }
}

#[test]
fn a_port_that_is_taken_costs_the_metrics_alone() {
    let (lab, _server) = lab_with_imds();
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("bound").port();
    let mut service = with_metrics(port);
    curl(&lab, "/latest/meta-data/no-port");
    service.wait_for("the call", |records| {
        records
            .iter()
            .any(|record| record["url"]["path"] == "/latest/meta-data/no-port")
    });
    drop(other);
    service.signal(libc::SIGHUP);
    until("the port is had", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    assert!(service.scrape(port).contains("imds_analyzer_requests_total"));
    let said = service.stop().stderr;
    assert!(said.contains("cannot serve metrics on"), "{said}");
}

#[test]
fn a_textfile_for_node_exporter() {
    let (lab, _server) = lab_with_imds();
    let mut service = Service::start("[metrics]\ntextfile = \"{dir}/imds.prom\"\ntextfile_interval = \"1s\"\n");
    let path = service.dir.path().join("imds.prom");
    curl(&lab, "/latest/meta-data/textfile");
    let read = || fs::read_to_string(&path).unwrap_or_default();
    until("the call is counted", || {
        sample(&read(), "imds_analyzer_requests_total", &[]) > 0
    });
    let (code, said) = promtool(&["check", "metrics"], &read());
    assert_eq!((code, said.as_str()), (Some(0), ""));
    // The file is whole at any time.
    for _ in 0..200 {
        let text = read();
        assert!(
            text.ends_with('\n') && text.contains("imds_analyzer_sink_records_total"),
            "{text}"
        );
        thread::sleep(Duration::from_millis(10));
    }
    service.stop();
}
