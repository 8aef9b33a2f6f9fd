use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::*;

const TARGET: &str = "bpfel-unknown-none";

/// One machine at a time: the kernel refuses to run a script that another thread, which is just starting a program,
/// still has open for writing.
static ALONE: Mutex<()> = Mutex::new(());

/// A directory that stands for a machine's root; removed when dropped.
struct Machine {
    root: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Machine {
    fn new(name: &str) -> Self {
        let root = env::temp_dir().join(format!("imds-xtask-{}-{name}", std::process::id()));
        fs::create_dir_all(&root).expect("a directory below the temporary one");
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self { root, _alone }
    }

    fn with(self, path: &str, content: &str) -> Self {
        let file = self.root.join(path);
        let directory = file.parent().expect("a path inside the root");
        fs::create_dir_all(directory).expect("directories inside the root");
        fs::write(&file, content).expect("a file inside the root");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("own file");
        self
    }

    /// A rustc that knows its sysroot, `/usr`, and its LLVM.
    fn with_debian_rustc(self) -> Self {
        let script = format!(
            "#!/bin/sh\ncase $1 in --print) echo '{}/usr' ;; *) echo 'LLVM version: 22.1.8' ;; esac\n",
            self.root.display()
        );
        self.with("usr/bin/rustc", &script)
    }

    fn with_core(self) -> Self {
        self.with("usr/lib/rustlib/bpfel-unknown-none/lib/libcore.rlib", "")
    }

    fn with_nightly(self, name: &str) -> Self {
        let core = format!("rustup/toolchains/{name}/lib/rustlib/src/rust/library/core/Cargo.toml");
        self.with(&core, "")
    }

    fn host(&self) -> Host {
        Host {
            root: self.root.clone(),
            path: vec![self.root.join("usr/bin")],
            cargo_home: Some(self.root.join("cargo")),
            rustup_home: Some(self.root.join("rustup")),
            apt: self.root.join("usr/bin/apt-get").is_file(),
        }
    }

    fn find(&self) -> Result<Toolchain, Missing> {
        Toolchain::find(&self.host(), TARGET)
    }

    fn commands(&self) -> Vec<String> {
        let missing = self.find().expect_err("something is missing");
        missing.remedies.iter().map(Remedy::to_string).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // What is left in the temporary directory does no harm.
        let _ = fs::remove_dir_all(&self.root);
    }
}

#[test]
fn debian_compiler_is_used_with_linker_in_cargo_home() {
    let machine = Machine::new("debian")
        .with_debian_rustc()
        .with_core()
        .with("cargo/bin/bpf-linker", "");
    assert_eq!(
        machine.find(),
        Ok(Toolchain {
            rustc: machine.root.join("usr/bin/rustc"),
            linker: machine.root.join("cargo/bin/bpf-linker"),
            core: Core::Precompiled,
        })
    );
}

#[test]
fn system_compiler_without_bpf_core_gives_way_to_newest_nightly() {
    let machine = Machine::new("nightly")
        .with_debian_rustc()
        .with_nightly("nightly-2026-01-01-x86_64-unknown-linux-gnu")
        .with_nightly("nightly-x86_64-unknown-linux-gnu")
        .with("usr/bin/bpf-linker", "");
    let nightly = machine.root.join("rustup/toolchains/nightly-x86_64-unknown-linux-gnu");
    assert_eq!(
        machine.find(),
        Ok(Toolchain {
            rustc: nightly.join("bin/rustc"),
            linker: machine.root.join("usr/bin/bpf-linker"),
            core: Core::BuildStd {
                cargo: nightly.join("bin/cargo")
            },
        })
    );
}

#[test]
fn bare_debian_names_every_package_and_reads_llvm_from_the_compiler_to_come() {
    let machine = Machine::new("bare").with("usr/bin/apt-get", "");
    assert_eq!(
        machine.commands(),
        [
            "apt-get install --no-install-recommends rustc-web libstd-rust-web-dev-bpf",
            "apt-get install --no-install-recommends llvm-$llvm-dev libzstd-dev zlib1g-dev g++",
            "LLVM_PREFIX=/usr/lib/llvm-$llvm cargo install bpf-linker --version 0.13.0 --no-default-features \
             --features llvm-$llvm",
        ]
    );
    let text = machine.find().expect_err("nothing is there").to_string();
    assert!(
        text.starts_with("a Rust compiler for bpfel-unknown-none and bpf-linker missing"),
        "{text}"
    );
    let position = |part: &str| text.find(part).expect(part);
    assert!(position("rustc-web") < position("llvm=$("), "{text}");
    assert!(position("llvm=$(") < position("llvm-$llvm-dev"), "{text}");
}

#[test]
fn debian_with_compiler_and_llvm_needs_only_the_linker() {
    let machine = Machine::new("linker")
        .with("usr/bin/apt-get", "")
        .with_debian_rustc()
        .with_core()
        .with("usr/lib/llvm-22/bin/llvm-config", "")
        .with("usr/include/zstd.h", "");
    assert_eq!(
        machine.commands(),
        [
            "LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --no-default-features \
             --features llvm-22"
        ]
    );
}

#[test]
fn other_systems_are_sent_to_rustup() {
    assert_eq!(
        Machine::new("other").commands(),
        [
            "rustup toolchain install nightly --component rust-src",
            "cargo binstall bpf-linker --version 0.13.0",
        ]
    );
    let machine = Machine::new("other-nightly").with_nightly("nightly-x86_64-unknown-linux-gnu");
    assert_eq!(machine.commands(), ["cargo binstall bpf-linker --version 0.13.0"]);
}

#[test]
fn build_does_not_inherit_the_outer_builds_settings() {
    let machine = Machine::new("command")
        .with_debian_rustc()
        .with_core()
        .with("usr/bin/bpf-linker", "");
    let toolchain = machine.find().expect("everything is there");
    let command = toolchain.cargo("build", &machine.host(), Path::new("/src"), TARGET, "x86_64");
    let value = |name: &str| {
        command
            .get_envs()
            .find(|(variable, _)| *variable == name)
            .map(|(_, value)| value.map(|value| value.to_string_lossy().into_owned()))
    };
    for removed in [
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
        "CARGO_MAKEFLAGS",
    ] {
        assert_eq!(value(removed), Some(None), "{removed}");
    }
    let rustc = machine.root.join("usr/bin/rustc");
    assert_eq!(value("RUSTC"), Some(Some(rustc.display().to_string())));
    let linker = machine.root.join("usr/bin/bpf-linker");
    assert_eq!(
        value("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER"),
        Some(Some(linker.display().to_string()))
    );
}
