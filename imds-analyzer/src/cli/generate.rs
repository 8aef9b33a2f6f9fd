//! Completions and manual pages, made from the very definition of the command line.

use std::{
    io::{self, Write},
    path::Path,
};

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;

/// Writes the completion script of `shell`.
pub fn completions(shell: Shell, out: &mut impl Write) -> io::Result<()> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    // Generated in memory: clap_complete panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    out.write_all(&script)
}

/// Writes the manual page to `out`, or those of all commands to `dir`, which is made if it isn't there.
pub fn man(dir: Option<&Path>, out: &mut impl Write) -> io::Result<()> {
    match dir {
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            clap_mangen::generate_to(Cli::command(), dir)
        }
        None => clap_mangen::Man::new(Cli::command()).render(out),
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn completions_name_the_flags() {
        for &shell in Shell::value_variants() {
            let mut script = Vec::new();
            completions(shell, &mut script).expect("no I/O");
            assert!(String::from_utf8_lossy(&script).contains("fail-on"), "{shell}");
        }
    }

    #[test]
    fn a_page_for_each_command() {
        let dir = tempfile::tempdir().expect("a directory");
        let pages = dir.path().join("man1");
        man(Some(&pages), &mut io::sink()).expect("can be written");
        assert!(pages.join("imds-analyzer.1").exists());
        assert!(pages.join("imds-analyzer-watch.1").exists());

        let mut page = Vec::new();
        man(None, &mut page).expect("no I/O");
        assert!(String::from_utf8_lossy(&page).contains("Exit codes"));
    }
}
