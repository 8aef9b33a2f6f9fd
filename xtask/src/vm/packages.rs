//! Packages of Debian and Ubuntu, fetched and unpacked, never installed. apt works in a root of its own below `target`:
//! this system's package lists stay as they are, while its mirror and keyring are used.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    arch::Arch,
    kernels::{Distribution, Kernel, Pattern, SECURITY_SUITES, SUITES, UBUNTU, UBUNTU_KEYS, UBUNTU_SUITES},
};

/// The keyring of the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const UBUNTU_KEYRING: &str = "usr/share/keyrings/ubuntu-archive-keyring.gpg";
/// The file that names the packages in a folder. It is written last, so a folder that has it is complete.
const COMPLETE: &str = "packages";
/// Links into usr, as current systems have them.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// A kernel, unpacked.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) image: PathBuf,
    /// The folder of its modules.
    pub(crate) modules: PathBuf,
    /// The output of `uname -r`.
    pub(crate) release: String,
}

/// An archive, for mmdebstrap.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) keyring: PathBuf,
    /// Lines of sources.list(5).
    pub(crate) sources: [String; 2],
}

/// The packages of one architecture: apt's state below `target/vm`, and what was unpacked.
#[derive(Debug)]
pub(crate) struct Packages {
    arch: Arch,
    /// Has one folder for each.
    unpacked: PathBuf,
    apt: PathBuf,
    /// Ubuntu's keyring, if these are its packages.
    ubuntu: Option<PathBuf>,
    updated: bool,
}

impl Packages {
    /// With `update`, looks for newer packages even if there are some already.
    pub(crate) fn new(root: &Path, arch: Arch, update: bool) -> Result<Self> {
        let folder = root.join(arch.name());
        let unpacked = folder.join("packages");
        if update && unpacked.is_dir() {
            fs::remove_dir_all(&unpacked).context("old packages cannot be removed")?;
        }
        fs::create_dir_all(&unpacked)?;
        Ok(Self {
            arch,
            unpacked,
            apt: folder.join("apt"),
            ubuntu: None,
            updated: false,
        })
    }

    /// The mirror for a whole system of `suite`; `None` if mmdebstrap finds one itself.
    pub(crate) fn mirror(&mut self, distribution: Distribution, suite: &str) -> Result<Option<Mirror>> {
        let keyring = match distribution {
            Distribution::Debian => return Ok(None),
            Distribution::Ubuntu => self.of_ubuntu()?.ubuntu.context("Ubuntu's packages have a keyring")?,
        };
        let sources = ["", "-updates"].map(|pocket| format!("deb {UBUNTU} {suite}{pocket} main universe"));
        Ok(Some(Mirror { keyring, sources }))
    }

    /// The same for Ubuntu's packages.
    fn of_ubuntu(&mut self) -> Result<Self> {
        let keys = self.named(UBUNTU_KEYS, &[UBUNTU_KEYS.to_owned()])?;
        Ok(Self {
            arch: self.arch,
            unpacked: self.unpacked.clone(),
            apt: self.apt.with_file_name("apt-ubuntu"),
            ubuntu: Some(keys.canonicalize()?.join(UBUNTU_KEYRING)),
            updated: false,
        })
    }

    /// The kernel from `target`, or from the mirror if it is not there yet.
    pub(crate) fn kernel(&mut self, kernel: &Kernel) -> Result<Unpacked> {
        let newest = |packages: &Self| kernel.packages.iter().map(|pattern| packages.newest(pattern)).collect();
        let folder = match kernel.distribution {
            Distribution::Debian => self.unpack(kernel.folder(), newest)?,
            Distribution::Ubuntu => self.of_ubuntu()?.unpack(kernel.folder(), newest)?,
        };
        find(&folder).with_context(|| format!("{} holds no kernel", folder.display()))
    }

    /// A folder with the packages of these names; a name may be `name=version`.
    pub(crate) fn named(&mut self, folder: &str, names: &[String]) -> Result<PathBuf> {
        self.unpack(folder, |_| Ok(names.to_vec()))
    }

    /// A folder with `packages` of Debian's `suite` and all their dependencies.
    pub(crate) fn system(&mut self, suite: &str, packages: &[&str]) -> Result<PathBuf> {
        self.unpack(&format!("system-{suite}"), |this| {
            let mut simulation = this.apt("apt-get");
            simulation
                .args(["-qq", "--simulate", "--no-install-recommends", "-o"])
                .arg(format!("APT::Default-Release={suite}"))
                .arg("install")
                .args(packages);
            // Inst <package> (<version> <origin> [<architecture>])
            Ok(run(simulation)?
                .lines()
                .filter_map(|line| line.strip_prefix("Inst ")?.split_once(" ("))
                .filter_map(|(name, rest)| Some(format!("{name}={}", rest.split(' ').next()?)))
                .collect())
        })
    }

    /// The folder `name`, filled unless it is there already.
    fn unpack(&mut self, name: &str, packages: impl FnOnce(&Self) -> Result<Vec<String>>) -> Result<PathBuf> {
        let folder = self.unpacked.join(name);
        if !folder.join(COMPLETE).is_file() {
            self.update_once()?;
            packages(self)
                .and_then(|names| self.fetch(&names, &folder))
                .with_context(|| format!("cannot get the packages of {name}"))?;
        }
        Ok(folder)
    }

    fn fetch(&self, names: &[String], folder: &Path) -> Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        for link in MERGED {
            fs::create_dir_all(folder.join("usr").join(link))?;
            symlink(Path::new("usr").join(link), folder.join(link))?;
        }
        eprintln!("vm: fetching {}", names.join(" "));
        let mut download = self.apt("apt-get");
        download.args(["-qq", "download"]).args(names).current_dir(folder);
        run(download)?;
        for entry in fs::read_dir(folder)?.filter_map(Result::ok) {
            let archive = entry.path();
            if archive.extension().is_some_and(|extension| extension == "deb") {
                let mut contents = Command::new("dpkg-deb");
                contents.arg("--fsys-tarfile").arg(&archive).stdout(Stdio::piped());
                let mut contents = contents.spawn().context("cannot run dpkg-deb")?;
                let mut unpack = Command::new("tar");
                // tar extracts through the links of a merged system, which dpkg-deb would replace.
                unpack
                    .args(["--extract", "--keep-directory-symlink", "--directory"])
                    .arg(folder);
                unpack.stdin(contents.stdout.take().context("stdout is piped")?);
                run(unpack)?;
                ensure!(contents.wait()?.success(), "{} cannot be unpacked", archive.display());
                fs::remove_file(archive)?;
            }
        }
        fs::write(folder.join(COMPLETE), names.join("\n") + "\n")?;
        Ok(())
    }

    fn newest(&self, pattern: &Pattern) -> Result<String> {
        let mut list = self.apt("apt-cache");
        list.args(["pkgnames", pattern.before]);
        let output = run(list)?;
        let name = pattern.newest(output.lines());
        name.map(str::to_owned)
            .with_context(|| format!("no package {}*{} on the mirror", pattern.before, pattern.after))
    }

    /// Reads the package lists of every suite.
    fn update_once(&mut self) -> Result<()> {
        if self.updated {
            return Ok(());
        }
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.apt.join(folder))?;
        }
        fs::write(self.apt.join("status"), "")?;
        let sources = match &self.ubuntu {
            Some(keyring) => stanza(UBUNTU, &UBUNTU_SUITES, keyring),
            None => sources(&mirrors()?),
        };
        fs::write(self.apt.join("kernels.sources"), sources)?;
        eprintln!("vm: reading the package lists");
        let mut update = self.apt("apt-get");
        update.args(["-qq", "update"]);
        // A suite may have left the mirror. If its packages are needed, the search for them fails.
        if let Err(error) = run(update) {
            eprintln!("vm: {error:#}");
        }
        self.updated = true;
        Ok(())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut option = |name: &str, path: &Path| {
            command.arg("-o").arg(format!("{name}={}", path.display()));
        };
        option("Dir::Etc::sourcelist", &self.apt.join("kernels.sources"));
        option("Dir::Etc::sourceparts", Path::new("/dev/null"));
        option("Dir::State", &self.apt.join("state"));
        option("Dir::State::status", &self.apt.join("status"));
        option("Dir::Cache", &self.apt.join("cache"));
        let architecture = self.arch.debian();
        command
            .args(["-o", &format!("APT::Architecture={architecture}")])
            .args(["-o", &format!("APT::Architectures::={architecture}")]);
        // apt's own user cannot enter every folder of ours.
        command.args(["-o", "APT::Sandbox::User=root"]);
        command
    }
}

/// This system's Debian mirrors: the one of releases, and the one of security updates if there is one.
fn mirrors() -> Result<(String, Option<String>)> {
    let mut targets = Command::new("apt-get");
    targets.args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(LABEL) $(REPO_URI)",
        "Identifier: Packages",
    ]);
    let output = run(targets)?;
    let mirror = |label: &str| {
        output.lines().find_map(|line| {
            let uri = line.strip_prefix("Debian ")?.strip_prefix(label)?.strip_prefix(' ')?;
            Some(uri.to_owned())
        })
    };
    let Some(releases) = mirror("Debian") else {
        bail!("apt knows no Debian mirror here; the kernels are Debian's (is `apt-get update` due?)");
    };
    Ok((releases, mirror("Debian-Security")))
}

fn sources((releases, security): &(String, Option<String>)) -> String {
    let keyring = Path::new(KEYRING);
    let mut text = stanza(releases, &SUITES, keyring);
    if let Some(security) = security {
        text.push_str(&stanza(security, &SECURITY_SUITES, keyring));
    }
    text
}

/// A source in the deb822 format, see sources.list(5). Only the package lists of a suite are read. Without the keyring,
/// apt uses its own keys.
fn stanza(uri: &str, suites: &[&str], keyring: &Path) -> String {
    let keyring = if keyring.is_file() {
        format!("Signed-By: {}\n", keyring.display())
    } else {
        String::new()
    };
    format!(
        "Types: deb\nURIs: {uri}\nSuites: {}\nComponents: main\nTargets: Packages\n{keyring}\n",
        suites.join(" ")
    )
}

/// Finds the kernel: its image is in `boot` or, in newer packages, beside the modules.
fn find(folder: &Path) -> Result<Unpacked> {
    let modules = ["lib/modules", "usr/lib/modules"]
        .into_iter()
        .map(|path| folder.join(path))
        .find(|path| path.is_dir())
        .context("no modules")?;
    let release = fs::read_dir(&modules)?
        .filter_map(Result::ok)
        .find_map(|entry| entry.file_name().into_string().ok())
        .context("no release below the modules")?;
    let modules = modules.join(&release);
    let image = [
        folder.join("boot").join(format!("vmlinuz-{release}")),
        modules.join("vmlinuz"),
    ]
    .into_iter()
    .find(|path| path.is_file())
    .context("no vmlinuz")?;
    Ok(Unpacked {
        image,
        modules,
        release,
    })
}

/// Runs a command to its end. Returns its output, or an error with its stderr.
pub(crate) fn run(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
