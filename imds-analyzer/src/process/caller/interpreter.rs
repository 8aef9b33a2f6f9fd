//! Finds the script among the arguments of an interpreter.

/// The program that an interpreter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs<'a> {
    /// A file, as written.
    Script(&'a str),
    /// A module or class, and its runner: `python -m pkg`, `java com.example.Main`.
    Named(&'static str, &'a str),
    /// An applet of a multi-call program, and the arguments from its name on.
    Applet(&'a str, &'a [String]),
    /// Text on the command line: `sh -c`, `python3 -c`.
    Text,
    /// Standard input, including a person's commands.
    Input,
}

/// The command-line syntax of an interpreter.
#[derive(Clone, Copy, Debug)]
struct Syntax {
    /// Short options whose value is the rest of the argument or the next one.
    valued: &'static str,
    /// Short options whose value, if any, is the rest of the argument.
    attached: &'static str,
    /// Short options that take the program's text, so that there is no script.
    inline: &'static str,
    /// Short option to read the program from standard input.
    input: Option<char>,
    /// Short option for the script.
    file: Option<char>,
    /// Short option for a module, and its prefix in the caller's name.
    module: Option<(char, &'static str)>,
    /// Long options whose value is the next argument.
    long_valued: &'static [&'static str],
    long_inline: &'static [&'static str],
}

const PLAIN: Syntax = Syntax {
    valued: "",
    attached: "",
    inline: "",
    input: None,
    file: None,
    module: None,
    long_valued: &[],
    long_inline: &[],
};

/// python(1).
const PYTHON: Syntax = Syntax {
    valued: "WX",
    inline: "c",
    module: Some(('m', "python -m")),
    long_valued: &["--check-hash-based-pycs"],
    ..PLAIN
};

/// sh(1p), bash(1), zsh(1).
const SHELL: Syntax = Syntax {
    valued: "oO",
    inline: "c",
    input: Some('s'),
    long_valued: &["--rcfile", "--init-file"],
    ..PLAIN
};

/// node(1).
const NODE: Syntax = Syntax {
    valued: "rC",
    inline: "ep",
    long_valued: &[
        "--require",
        "--import",
        "--loader",
        "--experimental-loader",
        "--conditions",
        "--title",
        "--env-file",
        "--icu-data-dir",
        "--openssl-config",
    ],
    long_inline: &["--eval", "--print"],
    ..PLAIN
};

/// ruby(1).
const RUBY: Syntax = Syntax {
    valued: "IrEC",
    attached: "WFTKx0i",
    inline: "e",
    long_valued: &["--encoding", "--external-encoding", "--internal-encoding"],
    ..PLAIN
};

/// perlrun(1).
const PERL: Syntax = Syntax {
    valued: "I",
    attached: "MmDdxlF0iCV",
    inline: "eE",
    ..PLAIN
};

/// php(1).
const PHP: Syntax = Syntax {
    valued: "cdztT",
    inline: "rRBFES",
    file: Some('f'),
    long_valued: &["--php-ini", "--define", "--docroot"],
    long_inline: &["--run", "--process-code", "--server"],
    ..PLAIN
};

/// `dotnet [exec] [options] app.dll`.
const DOTNET: Syntax = Syntax {
    long_valued: &[
        "--fx-version",
        "--additionalprobingpath",
        "--additional-deps",
        "--depsfile",
        "--runtimeconfig",
        "--roll-forward",
    ],
    ..PLAIN
};

/// True for the name of a shell.
pub(super) fn is_shell(file: &str) -> bool {
    matches!(
        without_version(file),
        "sh" | "bash" | "rbash" | "dash" | "ash" | "zsh" | "ksh" | "mksh"
    )
}

/// Finds the program that the interpreter `file` runs; `None` if `file` is not an interpreter.
pub(super) fn runs<'a>(file: &str, args: &'a [String]) -> Option<Runs<'a>> {
    let mut rest = args.get(1..).unwrap_or_default();
    let syntax = match without_version(file) {
        _ if is_shell(file) => SHELL,
        "python" | "pypy" => PYTHON,
        "node" | "nodejs" => NODE,
        "ruby" => RUBY,
        "perl" => PERL,
        "php" | "php-cgi" => PHP,
        "dotnet" => {
            if rest.first().is_some_and(|first| first == "exec") {
                rest = rest.get(1..).unwrap_or_default();
            }
            // Other commands build and run projects.
            return Some(script(DOTNET, rest))
                .filter(|runs| matches!(runs, Runs::Script(path) if path.ends_with(".dll")));
        }
        "java" => return java(rest),
        "busybox" | "toybox" | "coreutils" => return applet(file, args),
        _ => return None,
    };
    Some(script(syntax, rest))
}

pub(super) fn without_version(file: &str) -> &str {
    file.trim_end_matches(|char: char| char.is_ascii_digit() || matches!(char, '.' | '-'))
}

fn script(syntax: Syntax, args: &[String]) -> Runs<'_> {
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        if arg == "--" {
            return args.next().map_or(Runs::Input, file);
        }
        if arg.starts_with("--") {
            let name = arg.split('=').next().unwrap_or(arg);
            if syntax.long_inline.contains(&name) {
                return Runs::Text;
            }
            if syntax.long_valued.contains(&arg) {
                args.next();
            }
            continue;
        }
        let Some(options) = arg.strip_prefix(['-', '+']).filter(|_| arg.len() > 1) else {
            return file(arg);
        };
        match cluster(syntax, options) {
            Cluster::Flags => {}
            Cluster::TakesNext => {
                args.next();
            }
            Cluster::Inline => return Runs::Text,
            Cluster::Input => return Runs::Input,
            Cluster::File(rest) => return rest.or_else(|| args.next()).map_or(Runs::Input, file),
            Cluster::Module(kind, rest) => {
                let module = rest.or_else(|| args.next());
                return module.map_or(Runs::Input, |module| Runs::Named(kind, module));
            }
        }
    }
    Runs::Input
}

enum Cluster<'a> {
    Flags,
    TakesNext,
    Inline,
    Input,
    File(Option<&'a str>),
    Module(&'static str, Option<&'a str>),
}

/// Short options in one argument: `-u`, `-Wd`, `-um`.
fn cluster(syntax: Syntax, options: &str) -> Cluster<'_> {
    for (at, option) in options.char_indices() {
        let rest = options.get(at + option.len_utf8()..).filter(|rest| !rest.is_empty());
        if syntax.inline.contains(option) {
            return Cluster::Inline;
        }
        if syntax.input == Some(option) {
            return Cluster::Input;
        }
        if syntax.file == Some(option) {
            return Cluster::File(rest);
        }
        if let Some((_, kind)) = syntax.module.filter(|(module, _)| *module == option) {
            return Cluster::Module(kind, rest);
        }
        if syntax.attached.contains(option) {
            return Cluster::Flags;
        }
        if syntax.valued.contains(option) {
            return if rest.is_some() {
                Cluster::Flags
            } else {
                Cluster::TakesNext
            };
        }
    }
    Cluster::Flags
}

/// `-` is standard input. The number of a descriptor does not identify a script.
fn file(path: &str) -> Runs<'_> {
    if path.is_empty() || path == "-" {
        Runs::Input
    } else if path.starts_with("/dev/") || path.starts_with("/proc/") {
        Runs::Text
    } else {
        Runs::Script(path)
    }
}

/// java(1): long options have one dash, and the main class is not a file.
fn java(args: &[String]) -> Option<Runs<'_>> {
    const VALUED: [&str; 15] = [
        "-cp",
        "-classpath",
        "--class-path",
        "-p",
        "--module-path",
        "--upgrade-module-path",
        "--add-modules",
        "--add-exports",
        "--add-opens",
        "--add-reads",
        "--limit-modules",
        "--patch-module",
        "--enable-native-access",
        "--source",
        "--describe-module",
    ];
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "-jar" => return args.next().map(file),
            "-m" | "--module" => return args.next().map(|module| Runs::Named("java -m", module)),
            _ if VALUED.contains(&arg) => {
                args.next();
            }
            // A file with more arguments.
            _ if arg.starts_with(['-', '@']) => {}
            _ if arg.ends_with(".java") => return Some(file(arg)),
            class => return Some(Runs::Named("java", class)),
        }
    }
    None
}

/// Handles `wget` by its own name, `busybox wget`, and a login shell, whose name begins with a dash.
fn applet<'a>(file: &str, args: &'a [String]) -> Option<Runs<'a>> {
    let name = |arg: &'a String| super::base_name(arg.strip_prefix('-').unwrap_or(arg));
    let first = name(args.first()?);
    let at = usize::from(first == file);
    let rest = args.get(at..)?;
    let own = rest.first()?;
    let is_option = at > 0 && own.starts_with('-');
    let name = name(own);
    (!name.is_empty() && !is_option).then_some(Runs::Applet(name, rest))
}
