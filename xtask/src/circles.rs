//! `cargo xtask circles`: no circles among modules.
//!
//! The rule: a module may name a sibling only if that sibling does not name it, neither directly nor through others. A
//! module names another if a path in its files, or in the files below it, leads there: `crate::other`, `super::other`.
//! A module and the modules inside it may name each other. Tests may name any module: files named `tests.rs`, and what
//! follows `#[cfg(test)]` before an inline module, are not read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail};

const CRATES: [&str; 4] = ["imds-analyzer", "imds-analyzer-ebpf", "tests", "xtask"];

/// A module by its path from the crate's root.
type Module = Vec<String>;

/// The siblings that each module names, and the file in which it does.
type Graph = BTreeMap<Module, BTreeMap<Module, String>>;

/// Fails if there are circles, and lists those of all crates.
pub(crate) fn run(workspace: &Path) -> Result<()> {
    let mut modules = 0;
    let mut circles = Vec::new();
    for package in CRATES {
        let mut files = Vec::new();
        read(&workspace.join(package).join("src"), &mut Vec::new(), &mut files)?;
        modules += files.len();
        circles.extend(
            find(&graph(&files))
                .into_iter()
                .map(|circle| format!("{package}: {circle}")),
        );
    }
    if !circles.is_empty() {
        bail!("modules name each other in a circle\n{}", circles.join("\n"));
    }
    println!("no circles among {modules} modules");
    Ok(())
}

/// Adds the modules below a directory to `files`, with their text.
fn read(directory: &Path, parents: &mut Module, files: &mut Vec<(Module, String)>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if name == "tests" {
            continue;
        }
        if path.is_dir() {
            parents.push(name);
            read(&path, parents, files)?;
            parents.pop();
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let mut module = parents.clone();
            if !(parents.is_empty() && ["lib", "main"].contains(&name.as_str())) {
                module.push(name);
            }
            files.push((module, fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

fn graph(files: &[(Module, String)]) -> Graph {
    let modules: BTreeSet<_> = files.iter().map(|(module, _)| module.clone()).collect();
    let mut graph = Graph::new();
    for (module, text) in files {
        for path in paths(text, module) {
            let common = module.iter().zip(&path).take_while(|(a, b)| a == b).count();
            let (Some(from), Some(to)) = (module.get(..=common), path.get(..=common)) else {
                continue;
            };
            if modules.contains(to) {
                let named = graph.entry(from.to_vec()).or_default();
                named.entry(to.to_vec()).or_insert_with(|| module.join("::"));
            }
        }
    }
    graph
}

/// The modules that the paths in `text` lead to, from the crate's root. Such paths begin with `crate`, `super` or
/// `self`.
fn paths(text: &str, module: &[String]) -> Vec<Module> {
    let words = words(text);
    let mut words = words.as_slice();
    let mut found = Vec::new();
    while let [word, rest @ ..] = words {
        if ["crate", "super", "self"].contains(word) && rest.first() == Some(&"::") {
            tree(&mut words, module.to_vec(), &mut found);
        } else {
            words = rest;
        }
    }
    found
}

/// Takes one tree of a `use`, or one path: `a::b`, `a::{b, c::d}`.
fn tree(words: &mut &[&str], mut path: Module, found: &mut Vec<Module>) {
    while let [word, rest @ ..] = *words {
        *words = rest;
        match *word {
            "crate" => path.clear(),
            "super" => drop(path.pop()),
            "self" => {}
            "{" => {
                while !take(words, "}") && !words.is_empty() {
                    tree(words, path.clone(), found);
                    take(words, ",");
                }
                return;
            }
            name => path.push(name.to_owned()),
        }
        if !take(words, "::") {
            break;
        }
    }
    if take(words, "as") {
        *words = words.get(1..).unwrap_or_default();
    }
    found.push(path);
}

fn take(words: &mut &[&str], word: &str) -> bool {
    match *words {
        [first, rest @ ..] if *first == word => {
            *words = rest;
            true
        }
        _ => false,
    }
}

/// Splits `text` into names, `::` and single characters, without comments and tests.
fn words(text: &str) -> Vec<&str> {
    let end = text.find("#[cfg(test)]\nmod ").filter(|at| {
        let declaration = text[*at..].lines().nth(1).unwrap_or_default();
        declaration.ends_with('{')
    });
    let mut words = Vec::new();
    for line in text[..end.unwrap_or(text.len())].lines() {
        let mut line = line.split("//").next().unwrap_or_default().trim_start();
        while let Some(first) = line.chars().next() {
            let is_name = |c: char| c.is_alphanumeric() || c == '_';
            let length = match line.find(|c| !is_name(c)).unwrap_or(line.len()) {
                0 if line.starts_with("::") => 2,
                0 => first.len_utf8(),
                length => length,
            };
            let (word, rest) = line.split_at(length);
            words.push(word);
            line = rest.trim_start();
        }
    }
    words
}

/// One circle for each module that is in a circle, in words.
fn find(graph: &Graph) -> Vec<String> {
    let mut reported = BTreeSet::new();
    let mut circles = Vec::new();
    for start in graph.keys() {
        if let Some(circle) = shortest(graph, start)
            && reported.insert(circle.iter().copied().collect::<BTreeSet<_>>())
        {
            let steps = circle.iter().zip(circle.iter().skip(1).chain(circle.first()));
            let steps = steps.map(|(from, to)| {
                let file = graph.get(*from).and_then(|named| named.get(*to));
                format!(
                    "{} -> {} (in {})",
                    from.join("::"),
                    to.join("::"),
                    file.map_or("", String::as_str)
                )
            });
            circles.push(steps.collect::<Vec<_>>().join(", "));
        }
    }
    circles
}

/// The shortest way from a module back to it.
fn shortest<'a>(graph: &'a Graph, start: &'a Module) -> Option<Vec<&'a Module>> {
    let mut ways = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for next in way.last().and_then(|last| graph.get(*last)).into_iter().flatten() {
                if next.0 == start {
                    return Some(way);
                }
                if seen.insert(next.0) {
                    longer.push(way.iter().copied().chain([next.0]).collect());
                }
            }
        }
        ways = longer;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_none() {
        let circles = run(&crate::workspace());
        assert!(circles.is_ok(), "{circles:?}\n`cargo xtask circles` shows them too");
    }

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = files
            .iter()
            .map(|(module, text)| {
                let module = module.split("::").filter(|it| !it.is_empty()).map(str::to_owned);
                (module.collect(), (*text).to_owned())
            })
            .collect();
        find(&graph(&files))
    }

    #[test]
    fn a_circle_is_named_with_its_files() {
        let a = "use std::io;\nuse crate::{\n    c,\n    b::{self, Thing as Other},\n};";
        let found = circles(&[
            ("a", ""),
            ("a::inner", a),
            ("b", "fn f() { crate::c::g() }"),
            ("c", "use super::a;"),
        ]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], "a -> c (in a::inner), c -> a (in c)");
        assert_eq!(found[1], "b -> c (in b), c -> a (in c), a -> b (in a::inner)");
    }

    #[test]
    fn a_circle_below_a_module_is_one_too() {
        let found = circles(&[
            ("a", "mod x; mod y;"),
            ("a::x", "use super::{super::b, y};"),
            ("a::y", "use super::x;"),
            ("b", ""),
        ]);
        assert_eq!(found, ["a::x -> a::y (in a::x), a::y -> a::x (in a::y)"]);
    }

    #[test]
    fn parents_children_comments_and_tests_make_none() {
        let tests = "#[cfg(test)]\nmod tests {\n    use crate::b;\n}";
        let found = circles(&[
            ("", "use self::a::A; mod a; mod b;"),
            ("a", &format!("use self::x::X;\n// crate::b\n{tests}")),
            ("a::x", "use super::A;\nuse crate::a::B;"),
            ("b", "use crate::a;"),
        ]);
        assert_eq!(found, [""; 0]);
    }
}
