//! Text of others: it comes from arguments, headers and names of files, so whoever runs a program chooses it.

use super::{
    Account, Client, Example, HostCaller, Outlook, Problem, Reason, Remedy, Report, ReportFormat, Verdict, answers,
    blocking, counts, finding, host, rendered, sample, some,
};

/// What would do something in one of the formats, with characters that hide or reorder text.
const HOSTILE: &str = "=cmd()\"onmouseover=\"x' <script>document.title='owned'</script>]]>--></style><img src=//x.test/y>\
                       |`a` [b](http://x.test)\u{202e}\u{200b}\u{1b}[31m\n\0$(id)";

/// A report in which every text is hostile.
pub(super) fn hostile(text: &str) -> Report {
    let it = || some(text);
    let mut report = sample();
    let mut bad = host(
        text,
        "i-0; rm -rf /",
        Verdict::NotReady,
        vec![finding(Reason::V1, 1, "1 call")],
    );
    (bad.account, bad.region, bad.machine, bad.image) = (it(), it(), it(), it());
    bad.callers = vec![HostCaller {
        caller: it(),
        user: it(),
        outlook: Outlook::V1Only.into(),
        calls: counts(1, 0, 0),
        v1_answers: answers(1, 0),
    }];
    let mut ready = host(text, "i-0; rm -rf /", Verdict::Ready, Vec::new());
    ready.region = it();
    let mut shell = host("ready", "i-0000000000000000c", Verdict::Ready, Vec::new());
    shell.region = some("eu-central-1; rm -rf /");
    report.hosts = vec![bad, ready, shell];
    let mut caller = blocking(text, text);
    (caller.program, caller.place, caller.on) = (it(), it(), vec![text.to_owned(); 3]);
    caller.clients = vec![Client {
        name: text.to_owned(),
        version: it(),
        calls: 1,
    }];
    caller.remedy = Some(Remedy {
        id: text.to_owned(),
        text: text.to_owned(),
    });
    caller.example = Some(Example {
        path: it(),
        executable: it(),
        command_line: it(),
    });
    let mut local = caller.clone();
    local.local = true;
    report.callers = vec![caller, local];
    report.accounts = vec![Account {
        id: it(),
        ..report.accounts.remove(0)
    }];
    report.input.problems = vec![Problem {
        file: text.to_owned(),
        line: None,
        why: text.to_owned(),
    }];
    report
}

#[test]
fn nothing_hidden_is_in_any_format_for_people() {
    let report = hostile(HOSTILE);
    for format in [
        ReportFormat::Csv,
        ReportFormat::Text,
        ReportFormat::Markdown,
        ReportFormat::Commands,
        ReportFormat::Html,
    ] {
        let text = rendered(&report, format);
        let found = text.chars().find(|it| it.is_control() && *it != '\n');
        let line = found.and_then(|found| text.lines().find(|line| line.contains(found)));
        assert_eq!(line, None, "{format:?}");
        let is_hidden = |character: char| matches!(character, '\u{202e}' | '\u{200b}');
        assert!(!text.contains(is_hidden), "{format:?}");
    }
}

#[test]
fn a_page_has_only_its_own_markup() {
    let text = rendered(&hostile(HOSTILE), ReportFormat::Html);
    assert_eq!(text.matches("<script").count(), 1);
    assert_eq!(text.matches("<style").count(), 1);
    assert_eq!(text.matches("</style").count(), 1);
    assert!(!text.contains("<img"), "an element of others");
    assert!(!text.contains("\"onmouseover"), "a quote of others");
    assert!(
        text.contains("&#60;script&#62;document.title="),
        "text is shown as it is"
    );
    assert!(
        text.contains("\\u{202e}\\u{200b}\\x1b[31m\\n\\x00"),
        "what hides is shown"
    );
    assert!(!text.contains("explain ="), "an id that no shell should see");
}

#[test]
fn a_table_of_markdown_has_only_its_own_markup() {
    let text = rendered(&hostile(HOSTILE), ReportFormat::Markdown);
    assert!(!text.contains("<script") && !text.contains("<img"), "{text}");
    assert!(!text.replace("\\]", "").contains("]("), "a link: {text}");
    let mut columns = 0;
    for line in text.lines() {
        let line = line.replace("\\|", "");
        let bars = line.matches('|').count();
        columns = if line.starts_with('|') && columns == 0 {
            bars
        } else {
            columns
        };
        assert!(bars == 0 || bars == columns, "{line}");
        columns = if bars == 0 { 0 } else { columns };
        assert!(!line.replace("\\`", "").contains('`'), "{line}");
    }
}

#[test]
fn no_cell_of_csv_is_a_formula() {
    let text = rendered(&hostile(HOSTILE), ReportFormat::Csv);
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    let mut cells = 0;
    for row in rows.records() {
        for cell in &row.expect("a row") {
            assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']), "{cell}");
            cells += usize::from(cell.starts_with("'="));
        }
    }
    assert!(cells > 10, "{cells}");
}

#[test]
fn what_is_no_id_is_in_no_command() {
    let report = hostile(HOSTILE);
    for format in [ReportFormat::Commands, ReportFormat::Tfvars] {
        let text = rendered(&report, format);
        assert!(!text.contains("rm -rf"), "{text}");
        assert!(!text.contains("$(id)"), "{text}");
    }
    let script = rendered(&report, ReportFormat::Commands);
    let required = script.lines().filter(|line| line.trim_start().starts_with("require "));
    assert_eq!(required.count(), 0, "{script}");
}
