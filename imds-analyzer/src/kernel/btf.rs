//! A small BTF reader for the offsets of a few struct fields.
//!
//! A kernel's complete BTF takes 20 MB as objects. This reader keeps the file's bytes and one offset per type, and is
//! dropped after the look-ups. Format: Documentation/bpf/btf.rst of the kernel.

use std::{collections::HashMap, fs, io, path::Path};

/// File in which a kernel with `CONFIG_DEBUG_INFO_BTF` exposes its types.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    #[error("cannot read {KERNEL_BTF}: {0}")]
    Io(#[from] io::Error),
    #[error("the kernel's BTF is damaged: {0}")]
    Format(&'static str),
    #[error("the kernel's BTF has no struct {0}")]
    NoStruct(String),
    #[error("the kernel's struct {0} has no field {1}")]
    NoField(String, String),
    #[error("the kernel's enum {0} has no value {1}")]
    NoValue(String, String),
}

/// Type information, indexed.
pub struct Btf {
    data: Vec<u8>,
    /// Offset of each type in `data`; type 0 is void and has none.
    types: Vec<u32>,
    /// Start and end of the strings in `data`.
    strings: (usize, usize),
    /// Structs and unions by name; a nameless one has the name of its typedef.
    structs: HashMap<Vec<u8>, u32>,
    /// Enums by name.
    enums: HashMap<Vec<u8>, u32>,
    /// Names of the typedefs that represent tracepoints (`btf_trace_*`).
    tracepoints: Vec<Vec<u8>>,
}

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const TYPE_LEN: usize = 12;
const MEMBER_LEN: usize = 12;

impl Btf {
    /// Reads the running kernel's BTF.
    pub fn from_kernel() -> Result<Self, BtfError> {
        Self::from_file(Path::new(KERNEL_BTF))
    }

    pub fn from_file(path: &Path) -> Result<Self, BtfError> {
        Self::parse(fs::read(path)?)
    }

    /// Indexes BTF in this machine's byte order.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        const MAGIC: u16 = 0xeb9f;
        let half = |at: usize| {
            data.get(at..at + 2)
                .and_then(|b| b.try_into().ok())
                .map(u16::from_ne_bytes)
        };
        if half(0) != Some(MAGIC) {
            return Err(BtfError::Format("it has no BTF header"));
        }
        let header = |at: usize| word(&data, at).ok_or(BtfError::Format("the header is cut"));
        let header_len = header(4)? as usize;
        let section = |at: usize| -> Result<(usize, usize), BtfError> {
            let start = header_len.saturating_add(header(at)? as usize);
            let end = start.saturating_add(header(at + 4)? as usize);
            if end > data.len() {
                return Err(BtfError::Format("a section is cut"));
            }
            Ok((start, end))
        };
        let (types_start, types_end) = section(8)?;
        let strings = section(16)?;
        let mut btf = Self {
            data,
            types: vec![0],
            strings,
            structs: HashMap::new(),
            enums: HashMap::new(),
            tracepoints: Vec::new(),
        };
        btf.index(types_start, types_end)?;
        Ok(btf)
    }

    fn index(&mut self, start: usize, end: usize) -> Result<(), BtfError> {
        let mut typedefs = Vec::new();
        let mut at = start;
        while at < end {
            let cut = BtfError::Format("a type is cut");
            let (Some(name), Some(info)) = (word(&self.data, at), word(&self.data, at + 4)) else {
                return Err(cut);
            };
            let id = self.types.len() as u32;
            self.types.push(at as u32);
            let kind = info >> 24 & 0x1f;
            let entries = info as usize & 0xffff;
            if matches!(kind, KIND_STRUCT | KIND_UNION) && name != 0 {
                let name = self.string(name).to_vec();
                self.structs.entry(name).or_insert(id);
            } else if kind == KIND_ENUM && name != 0 {
                let name = self.string(name).to_vec();
                self.enums.entry(name).or_insert(id);
            } else if kind == KIND_TYPEDEF && self.string(name).starts_with(b"btf_trace_") {
                let name = self.string(name).to_vec();
                self.tracepoints.push(name);
            } else if kind == KIND_TYPEDEF {
                typedefs.push(at);
            }
            let more = match kind {
                // INT, VAR, DECL_TAG
                1 | 14 | 17 => 4,
                // ARRAY
                3 => 12,
                // STRUCT, UNION, DATASEC, ENUM64
                KIND_STRUCT | KIND_UNION | 15 | 19 => entries * 12,
                // ENUM, FUNC_PROTO
                KIND_ENUM | 13 => entries * 8,
                // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
                2 | 7..=12 | 16 | 18 => 0,
                _ => return Err(BtfError::Format("a type of a kind this version does not know")),
            };
            at += TYPE_LEN + more;
        }
        for at in typedefs {
            self.index_typedef(at);
        }
        Ok(())
    }

    /// Indexes the struct behind the typedef at `at` under the typedef's name, if the struct has no name of its own.
    fn index_typedef(&mut self, at: usize) {
        let Some((name, id)) = word(&self.data, at).zip(word(&self.data, at + 8)) else {
            return;
        };
        let target = self.types.get(id as usize).map_or(0, |&target| target as usize);
        let nameless = word(&self.data, target) == Some(0);
        let kind = word(&self.data, target + 4).map_or(0, |info| info >> 24 & 0x1f);
        if id != 0 && nameless && matches!(kind, KIND_STRUCT | KIND_UNION) {
            let name = self.string(name).to_vec();
            self.structs.entry(name).or_insert(id);
        }
    }

    /// Bytes of a NUL-terminated string.
    fn string(&self, offset: u32) -> &[u8] {
        let (start, end) = self.strings;
        let rest = self.data.get(start + offset as usize..end).unwrap_or_default();
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// True if the kernel has a BTF tracepoint of that name.
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.tracepoints
            .iter()
            .any(|known| known.strip_prefix(b"btf_trace_") == Some(name.as_bytes()))
    }

    /// True if BTF lists a function of that name, which fentry needs.
    pub fn has_function(&self, name: &str) -> bool {
        const KIND_FUNC: u32 = 12;
        self.types.iter().skip(1).any(|&at| {
            let at = at as usize;
            let info = word(&self.data, at + 4).unwrap_or(0);
            info >> 24 & 0x1f == KIND_FUNC
                && word(&self.data, at).is_some_and(|offset| self.string(offset) == name.as_bytes())
        })
    }

    /// Size of a struct in bytes.
    pub fn size_of(&self, name: &str) -> Result<u32, BtfError> {
        let id = self.find(name)?;
        self.types
            .get(id as usize)
            .and_then(|&at| word(&self.data, at as usize + 8))
            .ok_or(BtfError::Format("a type is cut"))
    }

    /// Offset of a field in bytes. Fields of anonymous structs and unions inside count as the struct's own.
    pub fn field(&self, name: &str, field: &str) -> Result<u32, BtfError> {
        let id = self.find(name)?;
        self.member(id, field.as_bytes(), 0)
            .ok_or_else(|| BtfError::NoField(name.to_owned(), field.to_owned()))
    }

    /// A value of a 32-bit enum.
    pub fn enum_value(&self, name: &str, value: &str) -> Result<u32, BtfError> {
        const VALUE_LEN: usize = 8;
        let missing = || BtfError::NoValue(name.to_owned(), value.to_owned());
        let id = *self.enums.get(name.as_bytes()).ok_or_else(missing)?;
        let at = *self.types.get(id as usize).ok_or_else(missing)? as usize;
        let entries = word(&self.data, at + 4).unwrap_or(0) as usize & 0xffff;
        (0..entries)
            .map(|entry| at + TYPE_LEN + entry * VALUE_LEN)
            .find(|&entry| word(&self.data, entry).is_some_and(|offset| self.string(offset) == value.as_bytes()))
            .and_then(|entry| word(&self.data, entry + 4))
            .ok_or_else(missing)
    }

    fn find(&self, name: &str) -> Result<u32, BtfError> {
        self.structs
            .get(name.as_bytes())
            .copied()
            .ok_or_else(|| BtfError::NoStruct(name.to_owned()))
    }

    fn member(&self, id: u32, field: &[u8], depth: u32) -> Option<u32> {
        // The kernel nests anonymous structs a few levels deep; damaged BTF may contain cycles.
        const DEPTH: u32 = 16;
        let at = *self.types.get(id as usize)? as usize;
        let info = word(&self.data, at + 4)?;
        if depth > DEPTH || !matches!(info >> 24 & 0x1f, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        let bitfields = info >> 31 != 0;
        for i in 0..(info as usize & 0xffff) {
            let member = at + TYPE_LEN + i * MEMBER_LEN;
            let name = word(&self.data, member)?;
            let offset = word(&self.data, member + 8)?;
            let bits = if bitfields { offset & 0x00ff_ffff } else { offset };
            if name == 0 {
                let inner = self.member(word(&self.data, member + 4)?, field, depth + 1);
                if let Some(inner) = inner {
                    return Some(bits / 8 + inner);
                }
            } else if self.string(name) == field {
                return (bits % 8 == 0).then_some(bits / 8);
            }
        }
        None
    }
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..at.checked_add(4)?)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a failed assertion is the point of a test"
    )]

    use super::*;

    /// `struct outer { int a; struct { int b; }; }`, a tracepoint and `enum a { b = 7 }`, by hand.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0a\0b\0btf_trace_tcp_x\0";
        let mut types = Vec::new();
        let mut put = |words: &[u32]| {
            words
                .iter()
                .for_each(|word| types.extend_from_slice(&word.to_ne_bytes()))
        };
        put(&[1, 1 << 24, 4, 32]);
        put(&[0, 4 << 24 | 1, 4, 13, 1, 0]);
        put(&[5, 4 << 24 | 2, 8, 11, 1, 0, 0, 2, 32]);
        put(&[15, 8 << 24, 1]);
        put(&[11, 6 << 24 | 1, 4, 13, 7]);
        let mut data = Vec::new();
        data.extend_from_slice(&0xeb9f_u16.to_ne_bytes());
        data.extend_from_slice(&[1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            data.extend_from_slice(&word.to_ne_bytes());
        }
        data.extend_from_slice(&types);
        data.extend_from_slice(strings);
        data
    }

    #[test]
    fn finds_fields_in_anonymous_structs() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.field("outer", "a").unwrap(), 0);
        assert_eq!(btf.field("outer", "b").unwrap(), 4);
        assert_eq!(btf.size_of("outer").unwrap(), 8);
        assert!(btf.has_tracepoint("tcp_x"));
        assert!(!btf.has_tracepoint("tcp_y"));
        assert_eq!(btf.enum_value("a", "b").unwrap(), 7);
        assert_eq!(
            btf.enum_value("a", "c").unwrap_err().to_string(),
            "the kernel's enum a has no value c"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(
            btf.field("outer", "c").unwrap_err().to_string(),
            "the kernel's struct outer has no field c"
        );
        assert_eq!(
            btf.field("inner", "c").unwrap_err().to_string(),
            "the kernel's BTF has no struct inner"
        );
    }

    #[test]
    fn damaged_btf_is_an_error_wherever_it_is_cut() {
        let whole = sample();
        for len in 0..whole.len() {
            assert!(Btf::parse(whole[..len].to_vec()).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn reads_this_kernel() {
        let btf = Btf::from_kernel().unwrap();
        assert_eq!(btf.field("sock_common", "skc_dport").unwrap(), 12);
        assert!(btf.has_tracepoint("sched_process_exec"));
        assert_eq!(btf.enum_value("bpf_prog_type", "BPF_PROG_TYPE_KPROBE").unwrap(), 2);
        btf.enum_value("bpf_prog_type", "no_such_enumerator").unwrap_err();
    }
}
