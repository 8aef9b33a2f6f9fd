//! The prototypes in the kernel side's sources, checked against the types of this kernel.
//!
//! guests: every-kernel

use std::{collections::HashMap, process::Command};

use imds_analyzer_tests::run_to_end;

const SOURCES: [&str; 2] = [
    include_str!("../../imds-analyzer-ebpf/src/bpf/modern.rs"),
    include_str!("../../imds-analyzer-ebpf/src/bpf/legacy.rs"),
];

/// The `match-proto` lines of the sources: a function's name, and the names of its parameters. `...` stands for those that
/// the programs do not use, and that changed from kernel to kernel.
fn prototypes() -> Vec<(String, Vec<String>)> {
    let lines = SOURCES.iter().flat_map(|text| text.lines());
    lines
        .filter_map(|line| line.trim().strip_prefix("/// match-proto (")?.split_once("): "))
        .map(|(_file, prototype)| {
            let (begin, parameters) = prototype.split_once('(').expect("parameters");
            let name = begin.rsplit([' ', '*']).next().expect("a name");
            let parameters = parameters.trim_end_matches(')').split(", ");
            let last = |parameter: &str| parameter.rsplit([' ', '*']).next().expect("a name").to_owned();
            (name.to_owned(), parameters.map(last).collect())
        })
        .collect()
}

/// The same for this kernel: functions with the names of their parameters, and tracepoints (`trace_*`), whose
/// parameters have no names.
fn of_this_kernel() -> HashMap<String, Vec<String>> {
    let dump = run_to_end(Command::new("bpftool").args(["btf", "dump", "file", "/sys/kernel/btf/vmlinux"]));
    assert_eq!(dump.code, Some(0), "{}", dump.stderr);
    let mut functions: HashMap<&str, &str> = HashMap::new();
    let mut pointers: HashMap<&str, &str> = HashMap::new();
    let mut parameters: HashMap<&str, Vec<String>> = HashMap::new();
    let mut current = "";
    for line in dump.stdout.lines() {
        if let Some(parameter) = line.strip_prefix('\t') {
            if let Some(list) = parameters.get_mut(current) {
                list.push(parameter.split('\'').nth(1).unwrap_or_default().to_owned());
            }
            continue;
        }
        let mut words = line.split(' ');
        let (Some(id), Some(kind)) = (words.next(), words.next()) else {
            continue;
        };
        current = id.trim_matches(['[', ']']);
        let name = line.split('\'').nth(1).unwrap_or_default();
        let target = line
            .split_once(" type_id=")
            .map_or("", |(_, rest)| rest.split(' ').next().unwrap_or_default());
        match kind {
            "FUNC_PROTO" => drop(parameters.insert(current, Vec::new())),
            "FUNC" => drop(functions.insert(name, target)),
            "TYPEDEF" if name.starts_with("btf_trace_") => drop(functions.insert(name, target)),
            "PTR" => drop(pointers.insert(current, target)),
            _ => {}
        }
    }
    let of = |target: &str| {
        let target = pointers.get(target).copied().unwrap_or(target);
        parameters.get(target).cloned()
    };
    functions
        .iter()
        .filter_map(|(name, target)| Some((name.replacen("btf_", "", 1), of(target)?)))
        .collect()
}

#[test]
fn hooked_functions_have_the_parameters_that_the_sources_say() {
    let kernel = of_this_kernel();
    let mut checked = 0;
    for (name, parameters) in prototypes() {
        // A function that this kernel lacks is hooked in other kernels, or was inlined.
        let Some(found) = kernel.get(&name) else { continue };
        if name.starts_with("trace_") {
            // The first parameter is the data of the listener; the others have no names.
            assert_eq!(found.len() - 1, parameters.len(), "{name}: {found:?}");
        } else if let Some((_rest, used)) = parameters.split_last().filter(|(last, _)| *last == "...") {
            assert!(found.starts_with(used), "{name}: {found:?}");
        } else {
            assert_eq!(*found, parameters, "{name}");
        }
        checked += 1;
    }
    assert!(checked >= 8, "{checked} of the hooked functions are in this kernel");
}
