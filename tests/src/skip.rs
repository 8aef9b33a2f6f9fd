//! Tests that are left out where this machine lacks what they are about: skipped, and neither passed nor silent.

use std::{
    env,
    io::{self, Write as _},
};

/// What this machine lacks.
#[derive(Debug)]
pub struct Lack {
    /// A word, by which guests know it: `tun`.
    pub what: &'static str,
    /// What showed it.
    pub proof: String,
}

/// Ends a test here if what it needs is missing: `needs!(kprobes())`, of a function that returns an `Option<`[`Lack`]`>`.
///
/// `cargo xtask test` counts it as skipped. In guests it fails the test, unless the table of kernels has it that they lack it.
#[macro_export]
macro_rules! needs {
    ($lack:expr) => {
        if let Some(lack) = $lack {
            $crate::skipped(&lack, std::any::type_name_of_val(&|| ()));
            return;
        }
    };
}

/// Says that a test is skipped; `place` is a name of something in it.
pub fn skipped(lack: &Lack, place: &str) {
    let test = place.trim_end_matches("::{{closure}}");
    let proof = lack.proof.trim().replace(['\n', '\t'], " ");
    // Guests have this variable.
    if let Ok(known) = env::var("LACKS") {
        assert!(
            known.split(' ').any(|it| it == lack.what),
            "{} is available here, according to the table of kernels: {proof}",
            lack.what
        );
    }
    // Not `println!`, of which libtest shows nothing when the test is over. It has begun a line already.
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "\n@skipped\t{test}\t{}\t{proof}", lack.what).expect("stdout");
}

/// The lack of `what`, with its `proof`, unless it is `there`.
pub fn lack(what: &'static str, there: bool, proof: impl Into<String>) -> Option<Lack> {
    (!there).then(|| Lack {
        what,
        proof: proof.into(),
    })
}
