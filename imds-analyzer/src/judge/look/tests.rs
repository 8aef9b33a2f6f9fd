#![allow(clippy::unwrap_used, reason = "a failed assertion is the point of a test")]

use std::{fs, io::Write as _, os::unix::fs::symlink};

use proptest::prelude::{any, proptest};
use tempfile::TempDir;

use super::*;
use crate::event::{ClientSource, FileState};

struct Root(TempDir);

impl Root {
    fn new(files: &[(&str, &str)]) -> Self {
        let root = Self(TempDir::new().unwrap());
        for (path, text) in files {
            let path = root.0.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn files(&self) -> Files {
        Files::new(fs::File::open(self.0.path()).unwrap())
    }
}

fn process(executable: &str, args: &str) -> Process {
    Process {
        executable: Some(executable.to_owned()),
        args: args.split(' ').map(str::to_owned).collect(),
        working_directory: Some("/srv/app".to_owned()),
        ..Process::default()
    }
}

fn short(client: Option<Client>) -> Option<(String, ClientSource, String)> {
    client.map(|client| {
        let version = client.version.unwrap_or_default();
        (
            format!("{} {version}", client.name),
            client.source,
            client.path.unwrap_or_default(),
        )
    })
}

#[test]
fn python_packages() {
    let root = Root::new(&[
        ("/usr/lib/python3/dist-packages/botocore-1.20.0.egg-info", ""),
        (
            "/opt/venv/lib/python3.8/site-packages/boto3-1.9.0.dist-info/METADATA",
            "",
        ),
        (
            "/opt/venv/lib/python3.8/site-packages/botocore-1.12.253.dist-info/METADATA",
            "",
        ),
        ("/opt/old/lib/python2.7/site-packages/botocore-1.8.1-py2.7.egg-info", ""),
        (
            "/opt/shared/pyvenv.cfg",
            "home = /usr\ninclude-system-site-packages = true\n",
        ),
        (
            "/opt/alone/pyvenv.cfg",
            "home = /usr\ninclude-system-site-packages = false\n",
        ),
        (
            "/opt/none/lib/python3.8/site-packages/botocoreish-9.dist-info/METADATA",
            "",
        ),
    ]);
    for (executable, args, expected) in [
        ("/usr/bin/python3.8", "/opt/venv/bin/python run.py", "botocore 1.12.253"),
        (
            "/usr/bin/python3.8",
            "/usr/bin/python3 /opt/venv/bin/gunicorn app",
            "botocore 1.12.253",
        ),
        ("/opt/old/bin/python2.7", "python run.py", "botocore 1.8.1"),
        ("/usr/bin/python3.8", "python3 run.py", "botocore 1.20.0"),
        ("/opt/none/bin/python", "python", "botocore 1.20.0"),
        ("/usr/bin/python3.8", "/opt/shared/bin/python run.py", "botocore 1.20.0"),
    ] {
        let (found, source, path) = short(python::find(&mut root.files(), &process(executable, args))).unwrap();
        assert_eq!(
            (found.as_str(), source),
            (expected, ClientSource::DistInfo),
            "{args}: {path}"
        );
    }
    // An environment that does not use the packages of the system.
    let alone = process("/usr/bin/python3.8", "/opt/alone/bin/python run.py");
    assert_eq!(python::find(&mut root.files(), &alone), None);
    assert_eq!(
        python::find(&mut Root::new(&[]).files(), &process("/usr/bin/python3", "python3")),
        None
    );
}

#[test]
fn node_packages() {
    let root = Root::new(&[
        (
            "/srv/app/node_modules/aws-sdk/package.json",
            r#"{"name": "aws-sdk", "version": "2.400.0"}"#,
        ),
        (
            "/opt/v3/node_modules/@aws-sdk/credential-provider-node/package.json",
            r#"{"version": "3.1175.0"}"#,
        ),
        (
            "/opt/v3/node_modules/@smithy/credential-provider-imds/package.json",
            r#"{"version": "4.2.1"}"#,
        ),
        ("/opt/bad/node_modules/aws-sdk/package.json", r#"{"version": 3"#),
    ]);
    for (args, expected) in [
        ("node dist/server.js", Some("aws-sdk-js 2.400.0")),
        (
            "node --inspect /opt/v3/lib/deep/er/x.js",
            Some("aws-sdk-js-v3 3.1175.0"),
        ),
        ("node /opt/bad/x.js", None),
        ("node /else/where.js", None),
        // `require` searches from the working directory here.
        ("node -e 1", Some("aws-sdk-js 2.400.0")),
    ] {
        let found = short(node::find(&mut root.files(), &process("/usr/bin/node", args)));
        assert_eq!(found.as_ref().map(|(found, ..)| found.as_str()), expected, "{args}");
    }
}

#[test]
fn gems_and_jars() {
    let root = Root::new(&[("/var/lib/gems/3.1.0/specifications/aws-sdk-core-3.78.0.gemspec", "")]);
    let (found, source, _) = short(ruby::find(&mut root.files())).unwrap();
    assert_eq!((found.as_str(), source), ("aws-sdk-ruby 3.78.0", ClientSource::Gem));
    assert_eq!(ruby::find(&mut Root::new(&[]).files()), None);
    for (paths, expected) in [
        (
            &["/opt/a.jar", "/opt/lib/aws-java-sdk-core-1.11.534.jar"][..],
            Some("aws-sdk-java 1.11.534"),
        ),
        (&["/m2/imds-2.20.1.jar"], Some("aws-sdk-java-v2 2.20.1")),
        (&["/m2/sdk-core-2.10.20.jar"], Some("aws-sdk-java-v2 2.10.20")),
        (&["/m2/bundle-1.0.jar", "/m2/imds-x.jar"], None),
        (&[], None),
    ] {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        let found = short(java::of_paths(&paths));
        assert_eq!(found.as_ref().map(|(found, ..)| found.as_str()), expected, "{paths:?}");
    }
}

const MODULES: &str = "path\texample.com/x\nmod\texample.com/x\t(devel)\n\
    dep\tgithub.com/aws/aws-sdk-go\tv1.25.0\th1:x\ndep\tgithub.com/other\tv9.0.0\th1:y\n=>\t./other\tv1.0.0\t\n";

/// A 64-bit ELF file with build information: inline after its header, like since Go 1.18, or by addresses, like before.
fn elf(inline: bool, modules: &str) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const INFO: usize = 0x100;
    const NAMES: usize = 0x400;
    const TEXT: usize = 0x800;
    let framed = [&[0; 16][..], modules.as_bytes(), &[0; 16]].concat();
    let mut file = vec![0; TEXT];
    file.extend(&framed);
    let sections = file.len();
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(32, &64_u64.to_le_bytes());
    put(40, &(sections as u64).to_le_bytes());
    put(56, &1_u16.to_le_bytes());
    put(60, &3_u16.to_le_bytes());
    put(62, &2_u16.to_le_bytes());
    // One segment: the file, mapped at its base.
    put(64, &1_u32.to_le_bytes());
    put(64 + 16, &BASE.to_le_bytes());
    put(64 + 32, &(1_u64 << 20).to_le_bytes());
    put(INFO, b"\xff Go buildinf:\x08");
    put(NAMES, b"\0.go.buildinfo\0");
    if inline {
        put(INFO + 15, &[2]);
        put(INFO + 32, &[2]);
        put(INFO + 33, b"go");
        put(
            INFO + 35,
            &[(framed.len() & 0x7f) as u8 | 0x80, (framed.len() >> 7) as u8],
        );
        put(INFO + 37, &framed);
    } else {
        put(INFO + 24, &(BASE + 0x200).to_le_bytes());
        put(0x200, &(BASE + TEXT as u64).to_le_bytes());
        put(0x208, &(framed.len() as u64).to_le_bytes());
    }
    let section = |name: u32, at: usize, len: usize| {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(len as u64).to_le_bytes());
        header
    };
    file.extend(section(0, 0, 0));
    file.extend(section(1, INFO, 0x100 + 0x200));
    file.extend(section(0, NAMES, 0x20));
    file
}

fn in_file(bytes: &[u8]) -> fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn go_modules_of_old_and_new_programs() {
    for inline in [true, false] {
        let client = go::find(&in_file(&elf(inline, MODULES)), Some("/opt/x")).unwrap();
        assert_eq!(
            (client.name, client.version.as_deref()),
            ("aws-sdk-go", Some("1.25.0")),
            "{inline}"
        );
    }
    let replaced = "dep\tgithub.com/aws/aws-sdk-go-v2\tv1.0.0\n=>\tgithub.com/us/fork\tv1.2.3\n";
    let client = go::of_modules(replaced, None).unwrap();
    assert_eq!(
        (client.name, client.version.as_deref()),
        ("aws-sdk-go-v2", Some("1.2.3"))
    );
    assert_eq!(go::of_modules("dep\tgithub.com/other\tv1.0.0\n", None), None);
    assert_eq!(go::find(&fs::File::open("/bin/sh").unwrap(), None), None);
}

#[test]
fn nothing_is_followed_and_nothing_is_waited_for() {
    let root = Root::new(&[("/etc/real", "text")]);
    symlink("/etc", root.0.path().join("link")).unwrap();
    symlink("/proc/kcore", root.0.path().join("kcore")).unwrap();
    let fifo = root.0.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    let mut files = root.files();
    assert_eq!(files.read("/etc/real", 10).as_deref(), Some(&b"text"[..]));
    for path in [
        "/link/passwd",
        "/kcore",
        "/fifo",
        "/../etc/passwd",
        "/etc",
        "/none",
        "/etc/real/x",
    ] {
        assert_eq!(files.read(path, 10), None, "{path}");
        assert!(files.names("/link").is_empty());
    }
    assert_eq!(files.read("/etc/real", 3), None, "too long");
}

proptest! {
    #[test]
    fn any_file_is_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), inline: bool, flips in proptest::collection::vec(any::<(u16, u8)>(), 0..20)) {
        let mut file = elf(inline, MODULES);
        for (at, byte) in flips {
            let at = usize::from(at) % file.len();
            file[at] = byte;
        }
        let _ = go::find(&in_file(&file), None);
        bytes.splice(..0, *b"\x7fELF\x02\x01");
        let _ = go::find(&in_file(&bytes), None);
    }
}

#[test]
fn the_package_of_a_program() {
    let root = Root::new(&[
        ("/usr/bin/aws", ""),
        ("/usr/bin/perl", ""),
        ("/opt/own/tool", ""),
        ("/var/lib/dpkg/info/awscli.list", "/.\n/usr/bin/aws\n"),
        ("/var/lib/dpkg/info/perl-base:amd64.list", "/.\n/bin/perl\n"),
        ("/var/lib/dpkg/info/awscli.md5sums", "/opt/own/tool\n"),
        (
            "/var/lib/dpkg/status",
            "Package: aws\nVersion: 0\n\nPackage: awscli\nStatus: ok\nVersion: 2.9.19-1\n\nPackage: perl-base\n",
        ),
    ]);
    let of = |executable: &str, args: &str| {
        let program = program::of(fs::File::open(root.0.path()).unwrap(), &process(executable, args)).unwrap();
        let package = program.package.map(|package| (package.name, package.version));
        (program.path, package)
    };
    let awscli = Some(("awscli".to_owned(), Some("2.9.19-1".to_owned())));
    // The interpreter's script; without one, the executable itself.
    assert_eq!(
        of("/usr/bin/python3.11", "python3 /usr/bin/aws s3 ls"),
        ("/usr/bin/aws".into(), awscli)
    );
    let perl = Some(("perl-base".to_owned(), None));
    assert_eq!(of("/usr/bin/perl", "perl -e 1"), ("/usr/bin/perl".into(), perl));
    assert_eq!(of("/opt/own/tool", "tool"), ("/opt/own/tool".into(), None));
}

#[test]
fn lists_of_a_container_are_not_believed() {
    let name = format!("/var/lib/dpkg/info/{}.list", "a".repeat(200));
    let root = Root::new(&[
        ("/usr/bin/x", ""),
        ("/usr/bin/y", ""),
        ("/var/lib/dpkg/info/x\u{1b}[2J.list", "/usr/bin/x\n"),
        (&name, "/usr/bin/y\n"),
    ]);
    for path in ["/usr/bin/x", "/usr/bin/y"] {
        let program = program::of(fs::File::open(root.0.path()).unwrap(), &process(path, "x")).unwrap();
        assert_eq!(program.package, None, "{path}");
    }
}

#[test]
fn a_program_that_others_can_write_or_that_is_gone() {
    use std::os::unix::fs::PermissionsExt as _;

    let root = Root::new(&[("/usr/bin/x", "")]);
    let path = root.0.path().join("usr/bin/x");
    let states = |executable: &str| {
        let root = fs::File::open(root.0.path()).unwrap();
        program::of(root, &process(executable, "x")).unwrap().states
    };
    for (mode, expected) in [
        (0o755, vec![]),
        (0o757, vec![FileState::WritableByOthers]),
        (0o4777, vec![FileState::WritableByOthers]),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(states("/usr/bin/x"), expected, "{mode:o}");
    }
    assert_eq!(states("/usr/bin/x (deleted)"), [FileState::Deleted]);
    assert_eq!(states("/memfd:x (deleted)"), [FileState::InMemory]);
    assert_eq!(states("/not/there"), []);
}

/// A jar with these entries, which are empty.
fn jar(names: &[&str]) -> fs::File {
    let mut bytes = Vec::new();
    let mut archive = rawzip::ZipArchiveWriter::new(&mut bytes);
    for name in names {
        let (mut entry, config) = archive.new_file(name).start().unwrap();
        let (_, descriptor) = config.wrap(&mut entry).finish().unwrap();
        entry.finish(descriptor).unwrap();
    }
    archive.finish().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    file
}

#[test]
fn jars_inside_of_a_jar() {
    for (entries, expected) in [
        (
            &[
                "BOOT-INF/classes/A.class",
                "BOOT-INF/lib/aws-java-sdk-core-1.11.534.jar",
            ][..],
            Some((
                "aws-sdk-java 1.11.534",
                "/app.jar!/BOOT-INF/lib/aws-java-sdk-core-1.11.534.jar",
            )),
        ),
        (
            &["META-INF/maven/software.amazon.awssdk/imds/pom.properties"],
            Some((
                "aws-sdk-java-v2 ",
                "/app.jar!/META-INF/maven/software.amazon.awssdk/imds/pom.properties",
            )),
        ),
        (&["A.class", "lib/other-1.0.jar"], None),
        (&[], None),
    ] {
        let found = short(java::of_jar(jar(entries), "/app.jar"));
        let expected = expected.map(|(client, path)| (client.to_owned(), ClientSource::Jar, path.to_owned()));
        assert_eq!(found, expected);
    }
}

#[test]
fn crates_inside_of_a_program() {
    let of = |text: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        short(rust::find(&file, Some("/usr/bin/app")))
    };
    let found = Some((
        "aws-sdk-rust 1.5.0".to_owned(),
        ClientSource::Strings,
        "/usr/bin/app".to_owned(),
    ));
    let text = b"/root/.cargo/registry/src/index-1/aws-config-1.5.0/src/imds/client.rs";
    assert_eq!(of(text), found);
    // Wherever it lies between two reads.
    for before in (1 << 20) - 100..(1 << 20) + 10 {
        let mut file = vec![0; before];
        file.extend(text);
        file.extend([0; 64]);
        assert_eq!(of(&file), found, "{before}");
    }
    for other in [
        &b""[..],
        b"/aws-config-",
        b"/aws-config-x/",
        b"/aws-config-1.5.0 and no slash",
    ] {
        assert_eq!(of(other), None, "{}", other.escape_ascii());
    }
}

proptest! {
    #[test]
    fn hostile_jars_and_programs_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), from in 0_usize..200) {
        let mut file = jar(&["lib/aws-java-sdk-core-1.0.jar", "b"]);
        use std::os::unix::fs::FileExt as _;
        file.write_all_at(&bytes, from as u64).unwrap();
        file.flush().unwrap();
        let _ = java::of_jar(file.try_clone().unwrap(), "/app.jar");
        let _ = rust::find(&file, None);
    }
}
