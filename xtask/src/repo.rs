//! `cargo xtask repo`: a signed APT repository and a signed YUM repository of the packages in `target/dist`, to be
//! served as they are. Everything is compressed with gzip and signed with RSA: the rpm of Amazon Linux 2 (4.11)
//! supports nothing newer.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    dist::{self, NAME},
    setup,
    vm::{self, packages::run},
};

const SUITE: &str = "stable";
/// The names of each architecture, in APT and in YUM repositories.
const ARCHES: [(&str, &str); 2] = [("amd64", "x86_64"), ("arm64", "aarch64")];

/// The key that signs.
pub(crate) struct Key {
    /// A name by which gpg finds the key.
    id: String,
    /// gpg's folder; `None` for the user's own.
    home: Option<PathBuf>,
}

impl Key {
    /// A key that the user has.
    pub(crate) fn of_user(id: String) -> Self {
        Self { id, home: None }
    }

    /// Makes a key for tests, which is removed when the value is dropped.
    pub(crate) fn of_tests() -> Result<Self> {
        // Not below `target`: the path of gpg's socket is limited to 108 bytes.
        let home = std::env::temp_dir().join(format!("{NAME}-key-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&home)?;
        let key = Self {
            id: format!("{NAME} test key"),
            home: Some(home),
        };
        let mut make = key.gpg();
        make.args([
            "--passphrase",
            "",
            "--quick-generate-key",
            &key.id,
            "rsa3072",
            "sign",
            "1y",
        ]);
        run(make)?;
        Ok(key)
    }

    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.args([
            "--batch",
            "--yes",
            "--quiet",
            "--pinentry-mode",
            "loopback",
            "--digest-algo",
            "SHA256",
        ]);
        if let Some(home) = &self.home {
            gpg.env("GNUPGHOME", home);
        }
        gpg
    }

    /// Signs `file`; `how` are gpg's options.
    fn sign(&self, how: &[&str], file: &Path, to: &Path) -> Result<()> {
        let mut gpg = self.gpg();
        gpg.args(["--local-user", &self.id])
            .args(how)
            .arg("--output")
            .arg(to)
            .arg(file);
        run(gpg).map(drop)
    }

    fn export(&self, to: &Path) -> Result<()> {
        let mut gpg = self.gpg();
        gpg.args(["--armor", "--output"]).arg(to).args(["--export", &self.id]);
        run(gpg).map(drop)
    }

    fn sign_rpm(&self, package: &Path) -> Result<()> {
        let mut sign = Command::new("rpmsign");
        sign.arg("--addsign")
            .args(["--define", &format!("_gpg_name {}", self.id)])
            .args(["--define", "_gpg_digest_algo sha256"])
            // rpm does not look where Debian has gpg.
            .args(["--define", "__gpg /usr/bin/gpg"])
            .arg(package);
        if let Some(home) = &self.home {
            sign.env("GNUPGHOME", home)
                .args(["--define", &format!("_gpg_path {}", home.display())]);
        }
        run(sign).map(drop)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        // gpg leaves its agent running.
        let mut agent = Command::new("gpgconf");
        let stopped = run({
            agent.args(["--kill", "gpg-agent"]).env("GNUPGHOME", home);
            agent
        });
        if let Err(error) = stopped.and_then(|_| Ok(fs::remove_dir_all(home)?)) {
            eprintln!("repo: {}: {error:#}", home.display());
        }
    }
}

/// `cargo xtask repo`.
pub(crate) fn run_task(key: Option<String>, url: &str) -> Result<()> {
    setup::packaging_tools()?;
    let key = match key {
        Some(id) => Key::of_user(id),
        None => Key::of_tests()?,
    };
    let packages: Vec<PathBuf> = fs::read_dir(dist::folder()?)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    let out = vm::target().join("repo");
    write(&out, &packages, &key, url)?;
    println!("{}", out.display());
    Ok(())
}

/// Writes both repositories into `out`, which is emptied first. `url` is where they will be served.
pub(crate) fn write(out: &Path, packages: &[PathBuf], key: &Key, url: &str) -> Result<()> {
    if out.exists() {
        fs::remove_dir_all(out)?;
    }
    fs::create_dir_all(out)?;
    let out = fs::canonicalize(out)?;
    key.export(&out.join(format!("{NAME}.asc")))?;
    apt(&out.join("apt"), packages, key)?;
    yum(&out.join("yum"), packages, key)?;
    fs::write(
        out.join(format!("{NAME}.list")),
        format!("deb [signed-by=/usr/share/keyrings/{NAME}.asc] {url}/apt {SUITE} main\n"),
    )?;
    fs::write(
        out.join(format!("{NAME}.repo")),
        format!(
            "[{NAME}]\nname={NAME}\nbaseurl={url}/yum/$basearch\nenabled=1\ngpgcheck=1\nrepo_gpgcheck=1\ngpgkey={url}/{NAME}.asc\n"
        ),
    )?;
    Ok(())
}

/// Copies the packages whose names end in `end` to `folder`.
fn collect(packages: &[PathBuf], end: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder)?;
    let mut copies = Vec::new();
    for package in packages {
        let name = package
            .file_name()
            .and_then(OsStr::to_str)
            .context("a package without a name")?;
        if name.ends_with(end) {
            let copy = folder.join(name);
            fs::copy(package, &copy)?;
            copies.push(copy);
        }
    }
    Ok(copies)
}

/// Writes the APT repository as apt-ftparchive(1) describes, with Packages plain, as gzip and as xz.
fn apt(out: &Path, packages: &[PathBuf], key: &Key) -> Result<()> {
    let debs = collect(packages, ".deb", &out.join("pool/main"))?;
    ensure!(!debs.is_empty(), "there is no .deb: `cargo xtask dist` makes them");
    let suite = out.join("dists").join(SUITE);
    for (arch, _) in ARCHES {
        let folder = suite.join(format!("main/binary-{arch}"));
        fs::create_dir_all(&folder)?;
        let mut list = Command::new("apt-ftparchive");
        list.args(["--arch", arch, "packages", "pool"]).current_dir(out);
        let list = run(list)?;
        let path = folder.join("Packages");
        fs::write(&path, list)?;
        for (program, options) in [("gzip", &["--keep", "-9", "--no-name"][..]), ("xz", &["--keep"][..])] {
            let mut compress = Command::new(program);
            compress.args(options).arg(&path);
            run(compress)?;
        }
    }
    let mut release = Command::new("apt-ftparchive");
    for (name, value) in [
        ("Origin", NAME),
        ("Label", NAME),
        ("Suite", SUITE),
        ("Codename", SUITE),
        ("Architectures", "amd64 arm64"),
        ("Components", "main"),
    ] {
        release.args(["-o", &format!("APT::FTPArchive::Release::{name}={value}")]);
    }
    release.arg("release").arg(".").current_dir(&suite);
    let text = run(release)?;
    let path = suite.join("Release");
    fs::write(&path, text)?;
    key.sign(&["--clearsign"], &path, &suite.join("InRelease"))?;
    key.sign(&["--armor", "--detach-sign"], &path, &suite.join("Release.gpg"))
}

/// Writes the YUM repositories, one folder for each value of `$basearch`.
fn yum(out: &Path, packages: &[PathBuf], key: &Key) -> Result<()> {
    for (_, arch) in ARCHES {
        let folder = out.join(arch);
        for package in collect(packages, &format!(".{arch}.rpm"), &folder)? {
            key.sign_rpm(&package)?;
        }
        let mut create = Command::new("createrepo_c");
        create
            .args([
                "--quiet",
                "--checksum",
                "sha256",
                "--general-compress-type",
                "gz",
                "--no-database",
            ])
            .arg(&folder);
        run(create)?;
        let index = folder.join("repodata/repomd.xml");
        key.sign(&["--armor", "--detach-sign"], &index, &index.with_extension("xml.asc"))?;
    }
    Ok(())
}
