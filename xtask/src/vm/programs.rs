//! The guests in which each test program runs. Each file of `tests/tests` names them itself, in a line at its top:
//! `//! guests: <word> ...`. These are the words:
//!
//! ```text
//! none          on this machine only: an initramfs is too little of a system for it
//! full          only if everything is run: its result depends on no kernel
//! quickest      in the guest whose tests take the shortest time
//! oldest        in the oldest kernel with the wire tap: it has the least that the program needs; the host's is newer
//! every-kernel  in each guest
//! hooks         in each guest, and with each further owner hook in the oldest kernel with the wire tap, or else the newest
//! every-hook    in each guest with each owner hook
//! load          only if everything is run, in each guest, with the hook that is the guest's own for load tests
//! send-tap      with the send tap: in addition to the other places, or as the only one
//! packets       with the wire tap of the object for old kernels: in addition to the other places, or as the only one
//! no-storage    in the guest without socket storage, too
//! modern        never with the object for old kernels
//! whole-load    with as many processes as on the host, with each hook once, if everything is run
//! ```
//!
//! A line `//! not-legacy: <test> ...` lists tests that are not for the object for old kernels. A line
//! `//! not-send-tap: <test> ...` lists tests that are not for its send tap.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};

/// The sources, from the workspace's folder.
const SOURCES: &str = "tests/tests";

/// A test program.
#[derive(Debug, Default)]
pub(crate) struct Program {
    pub(crate) name: String,
    /// How many tests are in it.
    pub(crate) tests: usize,
    /// Where it runs with the wire tap; `None` if it does not.
    pub(crate) place: Option<Place>,
    pub(crate) send_tap: bool,
    pub(crate) packets: bool,
    pub(crate) no_storage: bool,
    pub(crate) whole_load: bool,
    /// Not for the object for old kernels.
    pub(crate) modern: bool,
    /// Tests that are not for the object for old kernels.
    pub(crate) not_legacy: Vec<String>,
    /// Tests that are not for the send tap.
    pub(crate) not_send_tap: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Host,
    Full,
    Quickest,
    Oldest,
    EveryKernel,
    Hooks,
    EveryHook,
    Load,
}

/// All programs, by name.
pub(crate) fn all() -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for entry in fs::read_dir(SOURCES).with_context(|| format!("cannot read {SOURCES}"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            programs.push(program(&path).with_context(|| path.display().to_string())?);
        }
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

fn program(path: &Path) -> Result<Program> {
    let name = path.file_stem().context("no name")?.to_string_lossy().into_owned();
    parse(name, &fs::read_to_string(path)?)
}

fn parse(name: String, text: &str) -> Result<Program> {
    let words = |key: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("//! ")?.strip_prefix(key));
        line.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    };
    let mut program = Program {
        name,
        tests: text.matches("#[test]").count(),
        not_legacy: words("not-legacy:").unwrap_or_default(),
        not_send_tap: words("not-send-tap:").unwrap_or_default(),
        ..Program::default()
    };
    for test in program.not_legacy.iter().chain(&program.not_send_tap) {
        ensure!(text.contains(&format!("fn {test}(")), "there is no test {test}");
    }
    for word in words("guests:").context("no line `//! guests:`")? {
        let place = match word.as_str() {
            "none" => Place::Host,
            "full" => Place::Full,
            "quickest" => Place::Quickest,
            "oldest" => Place::Oldest,
            "every-kernel" => Place::EveryKernel,
            "hooks" => Place::Hooks,
            "every-hook" => Place::EveryHook,
            "load" => Place::Load,
            other => {
                *match other {
                    "send-tap" => &mut program.send_tap,
                    "packets" => &mut program.packets,
                    "no-storage" => &mut program.no_storage,
                    "whole-load" => &mut program.whole_load,
                    "modern" => &mut program.modern,
                    _ => bail!("there are no guests {other}"),
                } = true;
                continue;
            }
        };
        ensure!(program.place.is_none(), "two places: {word}");
        program.place = Some(place);
    }
    ensure!(
        program.place.is_some() || program.send_tap || program.packets,
        "it runs nowhere"
    );
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_a_program_runs() {
        let text = "//! What it is about.\n//!\n//! guests: hooks send-tap\n//! not-legacy: first second\n\
                    use std::fs;\nfn first() {}\nfn second() {}\n";
        let program = parse("name".to_owned(), text).expect("understood");
        assert_eq!(program.place, Some(Place::Hooks));
        assert!(program.send_tap && !program.packets);
        assert_eq!(program.not_legacy, ["first", "second"]);

        let only = parse("name".to_owned(), "//! guests: packets\n").expect("understood");
        assert_eq!(only.place, None);

        for wrong in [
            "//! What it is about.\n",
            "//! guests:\n",
            "//! guests: everywhere\n",
            "//! guests: oldest hooks\n",
            "//! guests: no-storage\n",
            "//! guests: oldest\n//! not-legacy: first\n",
        ] {
            parse("name".to_owned(), wrong).expect_err(wrong);
        }
    }

    #[test]
    fn every_file_has_its_line() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(SOURCES);
        for entry in fs::read_dir(sources).expect("the tests") {
            let path = entry.expect("an entry").path();
            let program = program(&path);
            assert!(program.is_ok(), "{}: {program:?}", path.display());
        }
    }
}
