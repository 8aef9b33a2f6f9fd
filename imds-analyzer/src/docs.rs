//! The parts of documents that are made from the code. In a document each stands between `<!-- generated: NAME -->` and
//! `<!-- end -->`; the test below compares them, and `cargo xtask docs` writes them anew.

use std::{collections::BTreeSet, path::Path};

use crate::{exit_code::ExitCode, golden::golden_at};

mod events;
mod metrics;
mod runbook;

/// A generated block: its name in the document, and its text.
type Block = (&'static str, String);

/// The documents with generated blocks, below the workspace.
fn documents() -> [(&'static str, Vec<Block>); 4] {
    [
        ("README.md", vec![("exit codes", exit_codes())]),
        ("docs/events.md", events::blocks()),
        ("docs/metrics.md", metrics::blocks()),
        ("docs/runbook.md", runbook::blocks()),
    ]
}

fn exit_codes() -> String {
    let rows = ExitCode::ALL.map(|exit_code| [(exit_code as u8).to_string(), exit_code.meaning().to_owned()]);
    table(["exit code", "meaning"], rows)
}

/// A table in Markdown.
fn table<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line = |cells: &[String]| {
        assert!(
            cells.iter().all(|cell| !cell.contains(['|', '\n'])),
            "a cell would break the table: {cells:?}"
        );
        format!("| {} |\n", cells.join(" | "))
    };
    let mut text = line(&heads.map(str::to_owned)) + &line(&heads.map(|_| "---".to_owned()));
    text.extend(rows.into_iter().map(|row| line(&row)));
    text
}

fn code(name: &str) -> String {
    format!("`{name}`")
}

const END: &str = "<!-- end -->";

fn start(name: &str) -> String {
    format!("<!-- generated: {name} -->\n")
}

/// `document` with `text` in the block called `name`.
fn with_block(document: &str, (name, text): &Block) -> String {
    let start = start(name);
    let (before, rest) = document.split_once(&start).expect("the document has the block");
    let (_, after) = rest.split_once(END).expect("the block has an end");
    format!("{before}{start}{text}{END}{after}")
}

/// The names of the blocks in `document`.
fn names(document: &str) -> BTreeSet<&str> {
    let starts = document.split("<!-- generated: ").skip(1);
    starts.filter_map(|rest| Some(rest.split_once(" -->")?.0)).collect()
}

#[test]
fn documents_are_what_the_code_says() {
    for (document, blocks) in documents() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
        let text = std::fs::read_to_string(&path).expect("a document");
        let known: BTreeSet<_> = blocks.iter().map(|(name, _)| *name).collect();
        assert_eq!(names(&text), known, "blocks of {document}, and what generates them");
        golden_at(&path, &blocks.iter().fold(text, |text, block| with_block(&text, block)));
    }
}

#[test]
fn a_block_is_replaced_and_nothing_else() {
    let document = "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n<!-- generated: y -->\n<!-- end -->\n";
    assert_eq!(names(document), BTreeSet::from(["x", "y"]));
    assert_eq!(
        with_block(document, &("x", "new\n".to_owned())),
        document.replace("old", "new")
    );
    assert_eq!(
        table(["a", "b"], [["1".to_owned(), "2".to_owned()]]),
        "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    );
}
