//! Go: the modules that a program was built from, from its build information (`src/debug/buildinfo/buildinfo.go` of
//! Go).
//!
//! Parses ELF itself instead of using a library: anybody may have written the file, and only a header, tables and two
//! sections are needed, each read up to a limit.

use std::{fs::File, os::unix::fs::FileExt as _};

use super::super::client::version_of;
use crate::event::{Client, ClientSource};

const SECTION: &[u8] = b".go.buildinfo";
const MAGIC: &[u8; 14] = b"\xff Go buildinf:";
/// Maximum size of each part that is read, in bytes.
const TABLE_MAX: u64 = 1 << 20;
const INFO_MAX: u64 = 1 << 20;
/// Length of the marker before and after the list of modules.
const FRAME: usize = 16;
/// Sizes of an entry of the section and of the program header table (64-bit ELF).
const SECTION_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// Modules, the likeliest first, and their clients. A program with both SDKs may call IMDS with either.
const MODULES: [(&str, &str); 4] = [
    ("github.com/aws/aws-sdk-go", "aws-sdk-go"),
    ("github.com/aws/aws-sdk-go-v2", "aws-sdk-go-v2"),
    ("github.com/minio/minio-go/v7", "minio-go"),
    ("github.com/minio/minio-go/v6", "minio-go"),
];

pub(super) fn find(executable: &File, path: Option<&str>) -> Option<Client> {
    if !executable.metadata().ok()?.is_file() {
        return None;
    }
    of_modules(&modules(executable)?, path)
}

/// Lines `dep path version sum`; a line `=> path version sum` replaces the one before it.
pub(super) fn of_modules(text: &str, path: Option<&str>) -> Option<Client> {
    let mut modules: Vec<(&str, &str)> = Vec::new();
    for line in text.lines() {
        let mut words = line.split('\t');
        match (words.next(), words.next(), words.next()) {
            (Some("dep"), Some(module), Some(version)) => modules.push((module, version)),
            (Some("=>"), Some(_), Some(version)) => {
                if let Some((_, replaced)) = modules.last_mut() {
                    *replaced = version;
                }
            }
            _ => {}
        }
    }
    MODULES.into_iter().find_map(|(module, name)| {
        let (_, version) = modules.iter().find(|(known, _)| *known == module)?;
        Some(Client {
            name,
            version: version_of(version),
            source: ClientSource::GoBuildInfo,
            path: path.map(str::to_owned),
        })
    })
}

/// The list of modules in a program; `None` if Go did not build it.
fn modules(file: &File) -> Option<String> {
    let elf = Elf::read(file)?;
    let (at, len) = elf.section(file, SECTION)?;
    let info = read(file, at, len, INFO_MAX)?;
    if info.get(..MAGIC.len())? != MAGIC {
        return None;
    }
    let [pointer_size, flags] = *info.get(14..16)? else {
        return None;
    };
    let text = if flags & 2 != 0 {
        // Since Go 1.18: two strings follow the header.
        let (_, rest) = string(info.get(32..)?)?;
        string(rest)?.0.to_vec()
    } else {
        // In a little-endian 64-bit program, the address of a string, which is an address and a length.
        if pointer_size != 8 || flags & 1 != 0 {
            return None;
        }
        let header = elf.at_address(file, word(&info, 24)?, 16)?;
        elf.at_address(file, word(&header, 0)?, word(&header, 8)?)?
    };
    let end = text.len().checked_sub(FRAME)?;
    Some(String::from_utf8_lossy(text.get(FRAME..end)?).into_owned())
}

/// A string after its length (a varint), and the rest.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut len = 0_usize;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        len |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return bytes.get(index + 1..)?.split_at_checked(len);
        }
    }
    None
}

/// The tables of a little-endian 64-bit ELF file.
struct Elf {
    sections: Vec<u8>,
    segments: Vec<u8>,
    /// Index of the section with the section names.
    names: usize,
}

impl Elf {
    fn read(file: &File) -> Option<Self> {
        let header = read(file, 0, 64, 64)?;
        if header.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let half = |at: usize| Some(u64::from(u16::from_le_bytes(*header.get(at..)?.first_chunk()?)));
        let table = |at: usize, size: usize, count: usize| {
            let bytes = half(count)?.checked_mul(size as u64)?;
            read(file, word(&header, at)?, bytes, TABLE_MAX)
        };
        Some(Self {
            segments: table(32, PROGRAM_HEADER, 56)?,
            sections: table(40, SECTION_HEADER, 60)?,
            names: usize::try_from(half(62)?).ok()?,
        })
    }

    /// Offset and length of the section called `name`.
    fn section(&self, file: &File, name: &[u8]) -> Option<(u64, u64)> {
        let place = |section: &[u8]| Some((word(section, 24)?, word(section, 32)?));
        let (at, len) = place(self.sections.chunks_exact(SECTION_HEADER).nth(self.names)?)?;
        let names = read(file, at, len, TABLE_MAX)?;
        let section = self.sections.chunks_exact(SECTION_HEADER).find(|section| {
            let at = section.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize);
            let rest = at.and_then(|at| names.get(at..)).unwrap_or_default();
            rest.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0))
        })?;
        place(section)
    }

    /// Reads `len` bytes at an address of the program.
    fn at_address(&self, file: &File, address: u64, len: u64) -> Option<Vec<u8>> {
        const LOAD: u32 = 1;
        self.segments.chunks_exact(PROGRAM_HEADER).find_map(|segment| {
            let kind = u32::from_le_bytes(*segment.first_chunk()?);
            let [offset, begin, size] = [word(segment, 8)?, word(segment, 16)?, word(segment, 32)?];
            let inside = address.checked_sub(begin)?;
            let is_inside = kind == LOAD && inside.checked_add(len)? <= size;
            if !is_inside {
                return None;
            }
            read(file, offset.checked_add(inside)?, len, INFO_MAX)
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Reads `len` bytes at an offset, if `len` is at most `max` and the file has them all.
fn read(file: &File, at: u64, len: u64, max: u64) -> Option<Vec<u8>> {
    if len > max {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}
