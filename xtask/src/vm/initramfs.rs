//! The file system of a guest at its start: our own `/init`, the analyzer, the tests, and the clients that they start.
//! The clients are this machine's, each with its libraries, or Debian's packages for a guest of another architecture.
//! Nothing is compressed: under emulation that costs more than it saves.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufWriter, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    build::Built,
    cpio::Archive,
    kernels::MODULES,
    packages::{self, Unpacked},
};

/// Real programs, as hosts have them; busybox stands in for the rest.
const PROGRAMS: [&str; 15] = [
    "sh", "bash", "curl", "wget", "python3", "ip", "tc", "setpriv", "nsenter", "unshare", "script", "env", "printf",
    "nft", "bpftool",
];
/// Parts of Python's library that no client needs.
const PYTHON_WITHOUT: [&str; 9] = [
    "test",
    "idlelib",
    "lib2to3",
    "ensurepip",
    "distutils",
    "tkinter",
    "pydoc_data",
    "dist-packages",
    "unittest",
];
const ETC: [(&str, &str); 3] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
];

/// Runs the analyzer with `--owner $OWNER` and, if that is set, `--object $OBJECT`, for commands that have these
/// options and where the test gives none. With `NO_BTF` the kernel's type information is hidden from the analyzer.
pub(crate) const WITH_OWNER: &str = "/usr/bin/imds-analyzer-owner";
const WITH_OWNER_SCRIPT: &str = r#"#!/bin/sh
case "$1 $*" in
    *--object*|*"--owner connect"*) ;;
    "watch "*|"check "*) command=$1; shift; set -- "$command" ${OBJECT:+--object "$OBJECT"} "$@" ;;
esac
case "$1 $*" in
    "watch "*--owner*) ;;
    "watch "*) shift; set -- watch --owner "$OWNER" "$@" ;;
esac
[ -z "$NO_BTF" ] || exec unshare --mount sh -c '
    mount --bind /dev/null /sys/kernel/btf/vmlinux
    exec /usr/bin/imds-analyzer "$@"' sh "$@"
exec /usr/bin/imds-analyzer "$@"
"#;

type Out = Archive<BufWriter<File>>;

/// Writes the part that is the same for every kernel of an architecture. `system` holds the clients; `None` takes this
/// machine's.
pub(crate) fn write_base(path: &Path, scratch: &Path, built: &Built, system: Option<&Path>) -> Result<()> {
    let mut archive = create(path)?;
    // The same links as in that system: paths of libraries go through them.
    for link in ["bin", "sbin", "lib", "lib64"] {
        if let Ok(target) = fs::read_link(system.unwrap_or(Path::new("/")).join(link)) {
            archive.symlink(Path::new(link), &target.to_string_lossy())?;
        }
    }
    for directory in ["root", "proc", "sys", "dev", "tmp", "run", "var/log", "etc/vm"] {
        archive.directory(Path::new(directory))?;
    }
    for (path, content) in ETC {
        archive.file(Path::new(path), content.as_bytes(), false)?;
    }

    archive.file(Path::new("init"), &fs::read(&built.init)?, true)?;
    archive.file(Path::new("usr/bin/imds-analyzer"), &fs::read(&built.analyzer)?, true)?;
    archive.file(Path::new(WITH_OWNER), WITH_OWNER_SCRIPT.as_bytes(), true)?;
    let refusals = ("refusals".to_owned(), built.refusals.clone());
    for (name, path) in built.tests.iter().chain([&refusals]) {
        let content = match system {
            // Built without debug information; this machine's strip may not know the architecture.
            Some(_) => fs::read(path)?,
            None => stripped(path, scratch)?,
        };
        archive.file(&Path::new("tests").join(name), &content, true)?;
    }
    match system {
        Some(system) => tree(&mut archive, system)?,
        None => this_machine(&mut archive, built)?,
    }
    busybox(&mut archive)?;
    archive.finish()?;
    Ok(())
}

/// Copies the clients, and the libraries of everything that was built.
fn this_machine(archive: &mut Out, built: &Built) -> Result<()> {
    let mut objects = vec![built.init.clone(), built.refusals.clone(), built.analyzer.clone()];
    objects.extend(built.tests.iter().map(|(_, path)| path.clone()));
    for program in PROGRAMS {
        // A test that needs a program that is not here says so.
        if let Some(path) = find(program) {
            copy(archive, &path)?;
            objects.push(path);
        }
    }
    objects.extend(python(archive)?);
    for library in libraries(&objects)? {
        copy(archive, &library)?;
    }
    Ok(())
}

/// Copies an unpacked system, without files that only people read.
fn tree(archive: &mut Out, root: &Path) -> Result<()> {
    const UNREAD: [&str; 5] = ["doc", "man", "locale", "info", "i18n"];
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
            let place = path.strip_prefix(root)?;
            if kind.is_symlink() {
                archive.symlink(place, &fs::read_link(&path)?.to_string_lossy())?;
            } else if kind.is_file() {
                let executable = path.metadata()?.permissions().mode() & 0o111 != 0;
                archive.file(place, &fs::read(&path)?, executable)?;
            } else if kind.is_dir()
                && !(folder.ends_with("usr/share") && UNREAD.iter().any(|name| path.ends_with(name)))
            {
                folders.push(path);
            }
        }
    }
    Ok(())
}

/// Writes a guest's whole archive: the base, its kernel's modules, and the commands to run. The kernel unpacks archives
/// that follow one another.
pub(crate) fn write_guest(path: &Path, base: &Path, kernel: &Unpacked, run: &str) -> Result<()> {
    fs::copy(base, path)?;
    let file = File::options().append(true).open(path)?;
    let mut archive = Archive::new(BufWriter::new(file));
    let mut list = String::new();
    for (name, content) in modules(&kernel.modules, &MODULES)? {
        let path = format!("lib-vm/{name}.ko");
        archive.file(Path::new(&path), &content, false)?;
        list.push_str(&format!("/{path}\n"));
    }
    archive.file(Path::new("etc/vm/modules"), list.as_bytes(), false)?;
    archive.file(Path::new("etc/vm/run"), run.as_bytes(), false)?;
    archive.finish()?.flush()?;
    Ok(())
}

fn create(path: &Path) -> Result<Out> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Archive::new(BufWriter::new(file)))
}

/// Looks in this system's own folders, not in those that a user has put before them.
fn find(program: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .into_iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
}

/// Copies a file to where it is on this machine; a link stays one.
fn copy(archive: &mut Out, path: &Path) -> Result<()> {
    let place = place(path)?;
    let real = path.canonicalize()?;
    if place != real {
        archive.symlink(&place, &real.to_string_lossy())?;
    }
    if !archive.has(&real) {
        let content = fs::read(&real).with_context(|| format!("cannot read {}", real.display()))?;
        let metadata = real.metadata()?;
        let executable = metadata.permissions().mode() & 0o111 != 0;
        // Python compares this time to tell whether a compiled file is as old as its source.
        let mtime = u32::try_from(metadata.mtime()).unwrap_or(0);
        archive.file_of(&real, &content, executable, mtime)?;
    }
    Ok(())
}

/// `path` with the links in its folders followed, as `/bin` to `/usr/bin`.
fn place(path: &Path) -> Result<PathBuf> {
    let (folder, name) = (
        path.parent().context("no folder")?,
        path.file_name().context("no name")?,
    );
    Ok(folder.canonicalize()?.join(name))
}

/// The file without symbols and debug information, which are most of a test.
fn stripped(path: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let mut strip = Command::new("strip");
    let output = scratch.join("stripped");
    strip.arg("--strip-all").arg("-o").arg(&output).arg(path);
    packages::run(strip)?;
    let content = fs::read(&output)?;
    fs::remove_file(output)?;
    Ok(content)
}

/// Python's own library; returns the extension modules in it.
fn python(archive: &mut Out) -> Result<Vec<PathBuf>> {
    let Some(python) = find("python3") else {
        return Ok(Vec::new());
    };
    let mut command = Command::new(python);
    command.args(["-I", "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"]);
    let root = PathBuf::from(packages::run(command)?.trim());
    let mut folders = vec![root.clone()];
    let mut extensions = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)?.filter_map(Result::ok) {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                let build_only = folder == root && name.starts_with("config-");
                if !build_only && !PYTHON_WITHOUT.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if path.is_file() {
                copy(archive, &path)?;
                if path.extension().is_some_and(|extension| extension == "so") {
                    extensions.push(path);
                }
            }
        }
    }
    Ok(extensions)
}

/// All libraries that `objects` load, and the loader, as ldd(1) finds them. Static programs have none.
fn libraries(objects: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd")
        .args(objects)
        // Cargo's library path is for its own programs.
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .context("cannot run ldd")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(library)
        .collect())
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, or the loader: `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn library(line: &str) -> Option<PathBuf> {
    let path = line.trim_start().rsplit_once(" (0x")?.0;
    let path = path.split_once(" => ").map_or(path, |(_, path)| path);
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// Links every applet that has no real program. busybox itself comes with the system, if that is not this machine's.
fn busybox(archive: &mut Out) -> Result<()> {
    let binary = find("busybox").context("busybox is not here")?;
    if !archive.has(&binary) {
        copy(archive, &binary)?;
    }
    let mut list = Command::new(&binary);
    list.arg("--list");
    let folders = [place(Path::new("/bin/x"))?, place(Path::new("/sbin/x"))?];
    for applet in packages::run(list)?.lines() {
        let mut places = folders.iter().map(|path| path.with_file_name(applet));
        if !places.any(|place| archive.has(&place)) {
            archive.symlink(&folders[0].with_file_name(applet), &binary.to_string_lossy())?;
        }
    }
    Ok(())
}

/// The modules of these names and those they need, in the order in which they can be loaded.
pub(crate) fn modules(root: &Path, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)?.filter_map(Result::ok) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Some(name) = path.file_name().and_then(|name| name.to_str()?.split_once(".ko")) {
                files.push((name.0.replace('-', "_"), path));
            }
        }
    }
    let mut loaded = Vec::new();
    for name in names {
        load(name, &files, &mut loaded)?;
    }
    Ok(loaded)
}

/// Adds `name` after the modules that it needs. A module that is not among the files is part of the kernel, or the
/// kernel works without it.
fn load(name: &str, files: &[(String, PathBuf)], loaded: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    if loaded.iter().any(|(other, _)| other == name) {
        return Ok(());
    }
    let Some((_, path)) = files.iter().find(|(other, _)| other == name) else {
        return Ok(());
    };
    let content = if path.extension().is_some_and(|extension| extension == "xz") {
        let mut xz = Command::new("xz");
        let output = xz.args(["--decompress", "--stdout"]).arg(path).output()?;
        output.stdout
    } else {
        fs::read(path)?
    };
    for needed in needed(&content) {
        load(&needed.replace('-', "_"), files, loaded)?;
    }
    loaded.push((name.to_owned(), content));
    Ok(())
}

/// The modules that a module's `.modinfo` says it needs.
fn needed(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(place) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let value = module[place + KEY.len()..]
        .split(|&byte| byte == 0)
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ldd() {
        assert_eq!(
            library("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)"),
            Some("/lib/x86_64-linux-gnu/libc.so.6".into())
        );
        assert_eq!(
            library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"),
            Some("/lib64/ld-linux-x86-64.so.2".into())
        );
        for none in [
            "\tlinux-vdso.so.1 (0x7f)",
            "/bin/sh:",
            "\tnot a dynamic executable",
            "\tlibx.so => not found",
        ] {
            assert_eq!(library(none), None, "{none}");
        }
    }

    #[test]
    fn what_a_module_needs() {
        assert_eq!(needed(b"license=GPL\0depends=a,b-c\0name=x\0"), ["a", "b-c"]);
        assert!(needed(b"license=GPL\0depends=\0name=x\0").is_empty());
        assert!(needed(b"").is_empty());
    }
}
