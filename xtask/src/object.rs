//! Checks on the eBPF object as a file. They find errors that a kernel or a loader would report only at run time.

use std::{fmt, fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};

mod floor;

pub(crate) use self::floor::Floor;

/// `e_machine` of eBPF.
const EM_BPF: u16 = 247;
const SHT_NOBITS: u32 = 8;
const SHF_EXECINSTR: u64 = 4;
const STT_FUNC: u8 = 2;
const STB_GLOBAL: u8 = 1;
/// Bytes of an eBPF instruction.
const INSTRUCTION: u64 = 8;

/// The licence of the object; the sources are MIT or Apache-2.0. The kernel refuses GPL-only helpers to programs
/// without it.
const LICENSE: &[u8] = b"Dual MIT/GPL\0";

/// The contents of the object.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) programs: Vec<Program>,
    bytes: usize,
    /// Only for the object for old kernels.
    floor: Option<Floor>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: String,
    section: String,
    /// Bytes before it in its section.
    start: u64,
    instructions: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} bytes, {} programs", self.bytes, self.programs.len())?;
        for program in &self.programs {
            let Program {
                name,
                section,
                instructions,
                ..
            } = program;
            writeln!(f, "  {name:<24} {section:<28} {instructions:>6} instructions")?;
        }
        if let Some(floor) = &self.floor {
            write!(f, "{floor}")?;
        }
        Ok(())
    }
}

/// The rules that an object must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    AnyKernel,
    /// Linux 4.14 and later.
    OldKernels,
}

/// Reads the object at `path` and checks it; `machine_paths` are directories whose names must not occur in it.
pub(crate) fn check(path: &Path, kernels: For, machine_paths: &[&Path]) -> Result<Summary> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    check_bytes(&bytes, kernels, machine_paths)
}

fn check_bytes(bytes: &[u8], kernels: For, machine_paths: &[&Path]) -> Result<Summary> {
    let elf = Elf::parse(bytes)?;
    let license = elf.section("license").context("it has no license section")?;
    ensure!(
        license.data == LICENSE,
        "its license is {:?}",
        String::from_utf8_lossy(license.data)
    );
    for name in [".BTF", ".BTF.ext"] {
        let section = elf.section(name).with_context(|| format!("it has no {name}"))?;
        ensure!(!section.data.is_empty(), "its {name} is empty");
    }
    for path in machine_paths {
        let name = path.as_os_str().as_encoded_bytes();
        let found = bytes.windows(name.len()).any(|window| window == name);
        ensure!(!found, "it names a directory of this machine, {}", path.display());
    }
    let programs = elf.programs()?;
    ensure!(!programs.is_empty(), "it has no programs");
    let floor = match kernels {
        For::AnyKernel => None,
        For::OldKernels => Some(floor::check(bytes, &elf, &programs)?),
    };
    Ok(Summary {
        programs,
        bytes: bytes.len(),
        floor,
    })
}

/// The parts of a 64-bit ELF file in this machine's byte order that the checks need.
struct Elf<'a> {
    sections: Vec<Section<'a>>,
}

struct Section<'a> {
    name: &'a str,
    kind: u32,
    flags: u64,
    link: u32,
    /// For relocations: the section that they apply to.
    info: u32,
    data: &'a [u8],
}

impl<'a> Elf<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let class = if cfg!(target_endian = "big") { 2 } else { 1 };
        if !bytes.starts_with(b"\x7fELF\x02") || bytes.get(5) != Some(&class) {
            bail!("it is no 64-bit ELF file in this machine's byte order");
        }
        let machine = u16::from_ne_bytes(array(bytes, 18)?);
        ensure!(machine == EM_BPF, "it is for machine {machine}, not for BPF");
        let table = usize::try_from(u64::from_ne_bytes(array(bytes, 40)?))?;
        let entry = usize::from(u16::from_ne_bytes(array(bytes, 58)?));
        let count = usize::from(u16::from_ne_bytes(array(bytes, 60)?));
        let names = usize::from(u16::from_ne_bytes(array(bytes, 62)?));
        let header = |index: usize| {
            bytes
                .get(table + index * entry..)
                .context("a section header lies outside")
        };
        let data = |header: &[u8]| -> Result<&'a [u8]> {
            if u32::from_ne_bytes(array(header, 4)?) == SHT_NOBITS {
                return Ok(&[]);
            }
            let start = usize::try_from(u64::from_ne_bytes(array(header, 24)?))?;
            let size = usize::try_from(u64::from_ne_bytes(array(header, 32)?))?;
            let end = start.checked_add(size).context("a section has no end")?;
            bytes.get(start..end).context("a section lies outside")
        };
        let names = data(header(names)?)?;
        let sections = (0..count)
            .map(|index| {
                let header = header(index)?;
                Ok(Section {
                    name: text(names, u32::from_ne_bytes(array(header, 0)?))?,
                    kind: u32::from_ne_bytes(array(header, 4)?),
                    flags: u64::from_ne_bytes(array(header, 8)?),
                    link: u32::from_ne_bytes(array(header, 40)?),
                    info: u32::from_ne_bytes(array(header, 44)?),
                    data: data(header)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { sections })
    }

    fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// The relocations of the section `name`: the offset of each, and the name of the section that its symbol is in.
    fn relocations(&self, name: &str) -> Result<impl Iterator<Item = Result<(u64, &'a str)>>> {
        const REL: u32 = 9;
        const ENTRY: usize = 16;
        const SYMBOL: usize = 24;
        let table = self.sections.iter().find(|section| {
            let target = self.sections.get(section.info as usize);
            section.kind == REL && target.is_some_and(|target| target.name == name)
        });
        let symbols = match table {
            Some(table) => {
                self.sections
                    .get(table.link as usize)
                    .context("relocations without symbols")?
                    .data
            }
            None => &[],
        };
        let entries = table.map_or(&[][..], |table| table.data).chunks_exact(ENTRY);
        Ok(entries.map(move |entry| {
            let symbol = u64::from_ne_bytes(array(entry, 8)?) >> 32;
            let symbol = usize::try_from(symbol)? * SYMBOL;
            let section = u16::from_ne_bytes(array(symbols, symbol + 6)?);
            let section = self
                .sections
                .get(usize::from(section))
                .context("a symbol of no section")?;
            Ok((u64::from_ne_bytes(array(entry, 0)?), section.name))
        }))
    }

    /// Global functions outside `.text`, which holds the functions that they call.
    fn programs(&self) -> Result<Vec<Program>> {
        const SYMTAB: u32 = 2;
        const SYMBOL: usize = 24;
        let Some(symbols) = self.sections.iter().find(|section| section.kind == SYMTAB) else {
            bail!("it has no symbols");
        };
        let names = self
            .sections
            .get(symbols.link as usize)
            .context("its symbols have no names")?
            .data;
        let mut programs = Vec::new();
        for symbol in symbols.data.chunks_exact(SYMBOL) {
            let [info] = array(symbol, 4)?;
            let section = self.sections.get(usize::from(u16::from_ne_bytes(array(symbol, 6)?)));
            let Some(section) = section.filter(|section| section.flags & SHF_EXECINSTR != 0) else {
                continue;
            };
            if info != STB_GLOBAL << 4 | STT_FUNC || section.name == ".text" {
                continue;
            }
            programs.push(Program {
                name: text(names, u32::from_ne_bytes(array(symbol, 0)?))?.to_owned(),
                section: section.name.to_owned(),
                start: u64::from_ne_bytes(array(symbol, 8)?),
                instructions: u64::from_ne_bytes(array(symbol, 16)?) / INSTRUCTION,
            });
        }
        Ok(programs)
    }
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N]> {
    bytes
        .get(offset..)
        .and_then(|bytes| bytes.first_chunk())
        .copied()
        .context("it is cut short")
}

/// The NUL-terminated text at `offset` of a string table.
fn text(table: &[u8], offset: u32) -> Result<&str> {
    let rest = table.get(offset as usize..).context("a name lies outside")?;
    let end = rest.iter().position(|&byte| byte == 0).context("a name has no end")?;
    std::str::from_utf8(&rest[..end]).context("a name is no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_is_refused_with_a_sentence() {
        let own = fs::read("/proc/self/exe").expect("the test itself");
        for (bytes, expected) in [
            (&b""[..], "no 64-bit ELF"),
            (&b"#!/bin/sh\n"[..], "no 64-bit ELF"),
            (&own[..], "not for BPF"),
            (&own[..16], "cut short"),
        ] {
            let error = check_bytes(bytes, For::OldKernels, &[]).expect_err("no object");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
