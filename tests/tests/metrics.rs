//! Metrics as Prometheus and node_exporter read them, and those who read them badly.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use imds_analyzer::lab::Lab;
use imds_analyzer_tests::{Service, curl, free_port, lab_with_imds, run_to_end, sample, serve, until};
use serde_json::Value;

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/prometheus");

/// What `promtool` says to `text` on its stdin.
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

/// What the rules and the dashboard ask for exists.
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
    // Some say nothing, some ask and never read, some send for ever.
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
    // After a few seconds there is room again.
    assert!(service.scrape(port).contains("imds_analyzer_build_info"));
    assert!(
        endless.join().expect("a thread") < 16 << 20,
        "a request without end was read"
    );
    drop(idle);
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
    assert!(said.contains("no metrics on"), "{said}");
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
    // Whole at any time.
    for _ in 0..200 {
        let text = read();
        assert!(
            text.ends_with('\n') && text.contains("process_start_time_seconds "),
            "{text}"
        );
        thread::sleep(Duration::from_millis(10));
    }
    service.stop();
}
