//! The page of `report --format html` in a browser: it works, and what others wrote does nothing in it.
//!
//! guests: none

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use imds_analyzer_tests::{Lack, Output, binary, lack, needs, run_to_end};
use serde_json::{Value, json};
use tempfile::TempDir;

fn chromium() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    env::split_paths(&path)
        .flat_map(|directory| names.map(|name| directory.join(name)))
        .find(|program| program.is_file())
}

fn no_chromium() -> Option<Lack> {
    lack("chromium", chromium().is_some(), "there is no chromium in the path")
}

/// The page at `path` after it was loaded and its scripts ran, and what the browser said.
fn load(path: &Path) -> Output {
    let profile = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(chromium().expect("a browser"));
    // Its sandbox does not start as root; the page is ours.
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]);
    command.args(["--disable-background-networking", "--disable-component-update"]);
    command.args(["--enable-logging=stderr", "--v=0", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("file://{}", path.display()));
    run_to_end(&mut command)
}

/// Lines of the page's console: errors, and what its policy refused.
fn console(output: &Output) -> Vec<&str> {
    output.stderr.lines().filter(|line| line.contains("CONSOLE")).collect()
}

fn title(output: &Output) -> &str {
    let (_, rest) = output.stdout.split_once("<title>").expect("a title");
    rest.split_once("</title>").expect("its end").0
}

/// Counts requests for `/leak`.
struct Leaks {
    address: String,
    count: Arc<AtomicUsize>,
}

impl Leaks {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = [0; 1024];
                let length = stream.read(&mut head).unwrap_or_default();
                if head[..length].starts_with(b"GET /leak") {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
            }
        });
        Self { address, count }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Text that changes the title and asks for `/leak`, wherever it is markup.
    fn hostile(&self) -> String {
        let address = &self.address;
        format!(
            "\"'--></title></style></script></code></svg><script>document.title='owned'</script>\
             <img src=\"http://{address}/leak\" onerror=\"document.title='owned'\">\
             <style>@import url(http://{address}/leak);</style><svg onload=\"document.title='owned'\">"
        )
    }
}

/// Records of two callers whose every text is `text`, and one of a caller named `lonely`.
fn records(text: &str) -> Vec<Value> {
    let record = |caller: &str, version: &str, second: u32| {
        json!({
            "@timestamp": format!("2026-11-22T09:10:{second:02}.000000Z"),
            "log": { "level": "warn" },
            "ecs": { "version": "8.11" },
            "event": {
                "kind": "event", "category": ["network"], "type": ["access"], "action": "imds-request",
                "dataset": "imds.request", "outcome": "success",
            },
            "agent": { "type": "imds-analyzer", "version": "0.1.0" },
            "imds": {
                "schema": 1, "caller": caller, "version": version, "verdict": version, "path_class": "credential",
                "endpoint": "ipv4", "tap": "wire", "owner": "tp_btf", "netns": "host", "local": false,
                "forwarded": false, "cause": "no-token-request",
                "client": { "name": text, "version": text },
                "remedy": { "id": text, "text": text },
            },
            "process": {
                "pid": 7, "name": "x", "source": "kernel", "executable": text, "args": [text], "command_line": text,
            },
            "user": { "id": "0", "name": text },
            "systemd": { "unit": text },
            "http": { "request": { "method": "GET" }, "version": "1.1" },
            "url": { "original": text, "path": text },
            "user_agent": { "original": text },
            "source": { "ip": "10.0.0.5", "port": 40000 },
            "destination": { "ip": "169.254.169.254", "port": 80 },
            "host": { "name": text },
            "cloud": {
                "provider": "aws", "instance": { "id": text }, "account": { "id": text }, "region": text,
                "machine": { "type": text },
            },
        })
    };
    vec![
        record(text, "v1", 1),
        record("lonely", "v1", 2),
        record("lonely", "v1", 3),
        record(&format!("2 {text}"), "v2", 4),
    ]
}

/// The page on hostile records, in a directory of its own.
fn page(text: &str) -> (TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let lines: Vec<String> = records(text).iter().map(Value::to_string).collect();
    fs::write(directory.path().join("log.jsonl"), lines.join("\n") + "\n").expect("a log");
    let mut command = Command::new(binary());
    command
        .args(["report", "--format", "html"])
        .arg(directory.path().join("log.jsonl"));
    let output = run_to_end(&mut command);
    assert!(
        output.stdout.contains("4 records"),
        "{}{}",
        output.stdout,
        output.stderr
    );
    (directory, output.stdout)
}

#[test]
fn text_of_others_does_nothing_in_a_browser() {
    needs!(no_chromium());
    let leaks = Leaks::new();
    let text = leaks.hostile();
    let (directory, page) = page(&text);
    let load = |name: &str, page: &str| {
        let path = directory.path().join(name);
        fs::write(&path, page).expect("a page");
        load(&path)
    };

    let loaded = load("page.html", &page);
    assert_eq!(title(&loaded), "IMDSv2: NOT READY", "{}", loaded.stderr);
    assert_eq!(console(&loaded), Vec::<&str>::new());
    assert_eq!(leaks.count(), 0);
    assert!(!loaded.stdout.contains("<img"), "{}", loaded.stdout);
    // Its own script ran: there are buttons, and a field to find callers.
    assert!(loaded.stdout.contains("<button type=\"button\">Caller</button>"));
    assert!(!loaded.stdout.contains("role=\"search\" hidden"));

    // Were the text markup after all, the policy would refuse it, and say so.
    let (before, after) = page.split_once("</main>").expect("a main part");
    let loaded = load("markup.html", &format!("{before}{text}</main>{after}"));
    assert_eq!(title(&loaded), "IMDSv2: NOT READY");
    assert!(
        console(&loaded)
            .iter()
            .any(|line| line.contains("Content Security Policy")),
        "{}",
        loaded.stderr
    );
    assert_eq!(leaks.count(), 0);

    // Without escapes and policy it does harm, and is seen here.
    let loaded = load("harm.html", &format!("<title>harmless</title><main>{text}</main>"));
    assert_eq!(title(&loaded), "owned", "{}", loaded.stderr);
    assert!(leaks.count() > 0);
}

/// Works the page like a person does, and writes what it finds into the title.
const PERSON: &str = r##"<script>
const names = () => [...document.querySelectorAll("#callers table.groups")[0].tBodies].filter((it) => !it.hidden)
  .map((it) => (it.rows[0].cells[0].textContent.startsWith("lonely") ? "lonely" : "other")).join("+");
const said = [names()];
const head = [...document.querySelectorAll("#callers th")].find((it) => it.textContent === "v1 calls");
head.querySelector("button").click();
said.push(names(), head.getAttribute("aria-sort"));
head.querySelector("button").click();
said.push(names(), head.getAttribute("aria-sort"));
const field = document.getElementById("search");
field.value = " LONELY";
field.dispatchEvent(new Event("input", { bubbles: true }));
said.push(names(), document.getElementById("found").textContent);
document.title = said.join(" ");
</script>"##;

#[test]
fn columns_are_sorted_and_callers_are_found() {
    needs!(no_chromium());
    let (directory, page) = page("text");
    let (before, after) = page
        .split_once("http-equiv=\"Content-Security-Policy\"")
        .expect("a policy");
    let (after, _) = after.split_once("</body>").expect("a body");
    let path = directory.path().join("page.html");
    fs::write(&path, format!("{before}{after}{PERSON}</body></html>")).expect("a page");
    let loaded = load(&path);
    assert_eq!(
        title(&loaded),
        "lonely+other lonely+other descending other+lonely ascending lonely 2 found",
        "{}",
        loaded.stderr
    );
}
