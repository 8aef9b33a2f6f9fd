//! The HTML page: its policy, what it may refer to, and its size.

use super::{Caller, Host, Reason, ReportFormat, Verdict, blocking, finding, host, hostile::hostile, rendered, sample};

/// What stands between `before` and `after`.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| unreachable!("no {before}"));
    rest.split_once(after).unwrap_or_else(|| unreachable!("no {after}")).0
}

/// SHA-256 as a policy has it.
fn hash(text: &str) -> String {
    use sha2::Digest as _;
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digest = sha2::Sha256::digest(text.as_bytes());
    let mut base64: String = String::new();
    for bytes in digest.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|index| u32::from(bytes.get(index).copied().unwrap_or_default()));
        let bits = a << 16 | b << 8 | c;
        for (index, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let is_there = index <= bytes.len();
            base64.push(if is_there {
                char::from(DIGITS[(bits >> shift & 63) as usize])
            } else {
                '='
            });
        }
    }
    format!("sha256-{base64}")
}

#[test]
fn the_policy_allows_the_one_script_and_the_one_style_sheet() {
    let page = rendered(&sample(), ReportFormat::Html);
    let policy = between(&page, "http-equiv=\"Content-Security-Policy\" content=\"", "\"");
    assert_eq!(
        policy,
        format!(
            "default-src 'none'; style-src '{}'; script-src '{}'; base-uri 'none'; form-action 'none'",
            hash(between(&page, "<style>", "</style>")),
            hash(between(&page, "<script>", "</script>"))
        ),
        "change CSS_HASH and SCRIPT_HASH to the values on the right"
    );
    assert_eq!(hash("abc"), "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
}

#[test]
fn a_page_refers_to_nothing_but_itself() {
    for report in [sample(), hostile("javascript:alert(1) http://x.test/ data:x")] {
        let page = rendered(&report, ReportFormat::Html);
        for attribute in [
            " style=",
            " src=",
            " srcset=",
            " action=",
            " data=",
            " onclick=",
            "url(",
            "@import",
        ] {
            assert!(!page.contains(attribute), "{attribute}");
        }
        for (at, _) in page.match_indices("href=") {
            let target = between(&page[at..], "\"", "\"");
            let id = target.strip_prefix('#').expect("a place on the page");
            assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
        }
    }
}

#[test]
fn the_same_report_is_the_same_page() {
    assert_eq!(
        rendered(&sample(), ReportFormat::Html),
        rendered(&sample(), ReportFormat::Html)
    );
}

#[test]
fn a_page_without_anything_is_whole() {
    let mut report = sample();
    report.hosts.clear();
    report.callers.clear();
    report.accounts.clear();
    report.series.clear();
    report.reasons.clear();
    let page = rendered(&report, ReportFormat::Html);
    assert!(page.contains("No calls were seen."), "{page}");
    assert!(page.trim_end().ends_with("</html>"), "{page}");
}

/// 2,000 hosts of 300 callers each, 600,000 in all if none is the same on two hosts; a page has the first ones.
#[test]
fn the_page_of_a_fleet_is_bounded() {
    let fleet = |text: &dyn Fn(usize) -> String| {
        let mut report = hostile(&text(0));
        let callers: Vec<Caller> = (0..300).map(|number| blocking(&text(number), "app")).collect();
        let own = report.hosts[0].callers.remove(0);
        report.hosts = (0..2000)
            .map(|number| Host {
                callers: (0..300)
                    .map(|caller| super::HostCaller {
                        caller: Some(text(caller)),
                        ..own.clone()
                    })
                    .collect(),
                ..host(
                    &text(number),
                    "i-0000000000000000a",
                    Verdict::NotReady,
                    vec![finding(Reason::V1, 1, "v1")],
                )
            })
            .collect();
        let quiet = callers.iter().map(|it| Caller {
            local: true,
            ..it.clone()
        });
        report.callers = callers.iter().cloned().chain(quiet).collect();
        rendered(&report, ReportFormat::Html)
    };
    let page = fleet(&|number| format!("/opt/services/team-{number}/bin/worker (worker-{number}.service)"));
    assert!(page.len() < 1_500_000, "{}", page.len());
    for more in [
        "and 100 more (--format csv has all)",
        "and 1,500 more (--format csv has all)",
        "and 297 more",
    ] {
        assert!(page.contains(more), "{more}");
    }
    // Each character is written as six.
    let page = fleet(&|number| format!("{}{number}", "\"\u{202e}".repeat(400)));
    assert!(page.len() < 5_000_000, "{}", page.len());
}
