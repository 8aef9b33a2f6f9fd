//! Tests of features that this machine lacks: they count as skipped, and neither pass nor end silently.

use std::{
    env,
    io::{self, Write as _},
};

/// A feature that this machine lacks.
#[derive(Debug)]
pub struct Lack {
    /// Its name in the table of kernels, such as `tun`.
    pub what: &'static str,
    /// The evidence.
    pub proof: String,
}

/// Ends a test here if this machine lacks a feature: `needs!(kprobes())`, with a function that returns an
/// `Option<`[`Lack`]`>`.
///
/// `cargo xtask test` counts the test as skipped. In a guest the test fails, unless the table of kernels says that the
/// guest lacks the feature.
#[macro_export]
macro_rules! needs {
    ($lack:expr) => {
        if let Some(lack) = $lack {
            $crate::skipped(&lack, std::any::type_name_of_val(&|| ()));
            return;
        }
    };
}

/// Reports that a test is skipped; `place` is the type name of something in it.
pub fn skipped(lack: &Lack, place: &str) {
    let test = place.trim_end_matches("::{{closure}}");
    let proof = lack.proof.trim().replace(['\n', '\t'], " ");
    // Only guests have this variable.
    if let Ok(known) = env::var("LACKS") {
        assert!(
            known.split(' ').any(|it| it == lack.what),
            "{} is available here, according to the table of kernels: {proof}",
            lack.what
        );
    }
    // Not `println!`, which libtest does not show once the test is over. libtest has already begun a line.
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "\n@skipped\t{test}\t{}\t{proof}", lack.what).expect("stdout");
}

/// The lack of `what`, with its `proof`, unless `there` is true.
pub fn lack(what: &'static str, there: bool, proof: impl Into<String>) -> Option<Lack> {
    (!there).then(|| Lack {
        what,
        proof: proof.into(),
    })
}
