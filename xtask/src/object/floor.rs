//! Checks the object for old kernels against the rules of the oldest one. 4.14 itself would report violations only at
//! load, and in fewer words.
//!
//! Sources: kernel/bpf/verifier.c, kernel/trace/bpf_trace.c and include/uapi/linux/bpf.h of Linux 4.14.

use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Elf, Program, Section, array};

/// `BPF_MAXINSNS`.
const INSTRUCTIONS_MAX: usize = 4096;
/// Bytes of an instruction.
const LEN: usize = 8;

/// Helpers that 4.14 gives programs on kprobes (`kprobe_prog_func_proto`), by number.
const HELPERS: [i32; 19] = [
    1,  // map_lookup_elem
    2,  // map_update_elem
    3,  // map_delete_elem
    4,  // probe_read
    5,  // ktime_get_ns
    7,  // get_prandom_u32
    8,  // get_smp_processor_id
    12, // tail_call
    14, // get_current_pid_tgid
    15, // get_current_uid_gid
    16, // get_current_comm
    22, // perf_event_read
    25, // perf_event_output
    27, // get_stackid
    35, // get_current_task
    42, // get_numa_node_id
    45, // probe_read_str
    // The loader turns these into probe_read where the kernel has only that.
    112, // probe_read_user
    113, // probe_read_kernel
];

/// Helpers for programs on packets of a cgroup. Those of 4.14 cannot send records: these are the helpers of 5.4
/// (`cg_skb_func_proto`), the first kernel that accepts such a program.
const PACKET_HELPERS: [i32; 4] = [
    1,  // map_lookup_elem
    5,  // ktime_get_ns
    25, // perf_event_output
    46, // get_socket_cookie
];
/// The section of programs on packets.
const PACKETS: &str = "cgroup/skb";

/// `enum bpf_map_type` of 4.14, as far as programs on kprobes may use it.
const MAP_TYPES: [(u32, &str); 8] = [
    (1, "hash"),
    (2, "array"),
    (3, "prog_array"),
    (4, "perf_event_array"),
    (5, "percpu_hash"),
    (6, "percpu_array"),
    (9, "lru_hash"),
    (10, "lru_percpu_hash"),
];

/// The section of maps that are not described by BTF (4.18).
const MAPS: &str = "maps";

/// The programs and the maps of an object that keeps the rules.
#[derive(Debug)]
pub(crate) struct Floor {
    programs: Vec<Counts>,
    maps: Vec<(String, &'static str)>,
}

#[derive(Debug)]
struct Counts {
    name: String,
    instructions: usize,
    helpers: Vec<i32>,
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  Linux 4.14 takes it: no data, no calls, no loops")?;
        for Counts {
            name,
            instructions,
            helpers,
        } in &self.programs
        {
            writeln!(
                f,
                "  {name:<24} {instructions:>5} of {INSTRUCTIONS_MAX} instructions, helpers {helpers:?}"
            )?;
        }
        for (name, kind) in &self.maps {
            writeln!(f, "  {name:<24} {kind}")?;
        }
        Ok(())
    }
}

/// Checks every program and every map.
pub(super) fn check(bytes: &[u8], elf: &Elf<'_>, programs: &[Program]) -> Result<Floor> {
    let programs = programs
        .iter()
        .map(|program| {
            let section = elf.section(&program.section).context("a program has no section")?;
            check_program(elf, section, program)
                .with_context(|| format!("{} cannot run on the oldest kernel it is for", program.name))
        })
        .collect::<Result<_>>()?;
    let object = aya_obj::Object::parse(bytes).context("its maps cannot be read")?;
    let mut maps = object
        .maps
        .iter()
        .map(|(name, map)| {
            ensure!(
                matches!(map, aya_obj::Map::Legacy(_)),
                "{name} is described by BTF, which Linux 4.14 has not"
            );
            let (_, kind) = MAP_TYPES
                .iter()
                .find(|(number, _)| *number == map.map_type())
                .with_context(|| format!("{name} is a map of type {}, which Linux 4.14 has not", map.map_type()))?;
            Ok((name.clone(), *kind))
        })
        .collect::<Result<Vec<_>>>()?;
    maps.sort();
    Ok(Floor { programs, maps })
}

fn check_program(elf: &Elf<'_>, section: &Section<'_>, program: &Program) -> Result<Counts> {
    let start = usize::try_from(program.start)?;
    let end = start + usize::try_from(program.instructions)? * LEN;
    let code = section.data.get(start..end).context("it lies outside its section")?;
    ensure!(
        code.len() <= INSTRUCTIONS_MAX * LEN,
        "it has {} instructions",
        code.len() / LEN
    );
    let available: &[i32] = if program.section == PACKETS {
        &PACKET_HELPERS
    } else {
        &HELPERS
    };
    let mut helpers = Vec::new();
    let instructions: Vec<Instruction> = code.chunks_exact(LEN).map(Instruction::read).collect::<Result<_>>()?;
    let mut index = 0;
    while let Some(instruction) = instructions.get(index) {
        instruction
            .check(available)
            .with_context(|| format!("instruction {index} ({:#04x})", instruction.opcode))?;
        if instruction.opcode == CALL && !helpers.contains(&instruction.immediate) {
            helpers.push(instruction.immediate);
        }
        index += instruction.len();
    }
    check_ways(&instructions)?;
    for relocation in elf.relocations(&program.section)? {
        let (offset, target) = relocation?;
        let inside = (start..end).contains(&usize::try_from(offset)?);
        ensure!(
            !inside || target == MAPS,
            "it refers to {target}, and may to maps alone"
        );
    }
    helpers.sort_unstable();
    Ok(Counts {
        name: program.name.clone(),
        instructions: code.len() / LEN,
        helpers,
    })
}

/// Follows every path through the program, like `check_cfg`: no path may lead back to an instruction that it has
/// passed.
fn check_ways(instructions: &[Instruction]) -> Result<()> {
    /// Not visited, on the path being followed, or with everything after it checked.
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        OnTheWay,
        Done,
    }
    let mut seen = vec![Seen::No; instructions.len()];
    let mut way = vec![0];
    while let Some(&index) = way.last() {
        seen[index] = Seen::OnTheWay;
        let mut next = None;
        for following in instructions[index].following(index).into_iter().flatten() {
            match seen.get(following).context("a way leaves the program")? {
                Seen::OnTheWay => bail!("a loop: instruction {index} leads back to {following}"),
                Seen::No => next = Some(following),
                Seen::Done => {}
            }
        }
        match next {
            Some(next) => way.push(next),
            None => {
                seen[index] = Seen::Done;
                way.pop();
            }
        }
    }
    Ok(())
}

const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LD_IMM64: u8 = 0x18;

struct Instruction {
    opcode: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn read(bytes: &[u8]) -> Result<Self> {
        let [opcode, registers] = array(bytes, 0)?;
        Ok(Self {
            opcode,
            source: if cfg!(target_endian = "big") {
                registers & 0x0f
            } else {
                registers >> 4
            },
            offset: i16::from_ne_bytes(array(bytes, 2)?),
            immediate: i32::from_ne_bytes(array(bytes, 4)?),
        })
    }

    /// The number of slots that the instruction takes.
    fn len(&self) -> usize {
        if self.opcode == LD_IMM64 { 2 } else { 1 }
    }

    /// The instructions that may run after this one, which is at `index`: the next one, and the target of its jump.
    fn following(&self, index: usize) -> [Option<usize>; 2] {
        const JUMP: u8 = 5;
        const ALWAYS: u8 = 0x05;
        let next = index + self.len();
        if self.opcode == EXIT {
            return [None; 2];
        }
        if self.opcode & 7 != JUMP || self.opcode == CALL {
            return [Some(next), None];
        }
        let target = next.checked_add_signed(self.offset.into());
        [Some(next).filter(|_| self.opcode != ALWAYS), target]
    }

    /// `helpers` are those that the program may call.
    fn check(&self, helpers: &[i32]) -> Result<()> {
        const ALU: [u8; 2] = [4, 7];
        const JUMP32: u8 = 6;
        const STORE: u8 = 3;
        const XADD: u8 = 0xc0;
        let class = self.opcode & 7;
        ensure!(class != JUMP32, "a jump by 32 bits is of 5.1");
        if self.opcode == CALL {
            ensure!(self.source == 0, "a call of another function");
            ensure!(
                helpers.contains(&self.immediate),
                "helper {}, which this kernel has not",
                self.immediate
            );
        } else if class == STORE && self.opcode & 0xe0 == XADD {
            ensure!(
                self.immediate == 0,
                "an atomic operation of 5.12, other than an addition"
            );
        } else if ALU.contains(&class) {
            ensure!(self.offset == 0, "an operation of 6.6, with a sign");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opcode, registers, offset, immediate.
    fn check(opcode: u8, registers: u8, offset: i16, immediate: i32) -> String {
        let mut bytes = vec![opcode, registers];
        bytes.extend_from_slice(&offset.to_ne_bytes());
        bytes.extend_from_slice(&immediate.to_ne_bytes());
        let instruction = Instruction::read(&bytes).expect("eight bytes");
        instruction
            .check(&HELPERS)
            .map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn instructions_are_held_against_the_floor() {
        for (opcode, registers, offset, immediate, expected) in [
            (CALL, 0, 0, 25, ""),
            (CALL, 0, 0, 130, "helper 130"),
            (CALL, 0x10, 0, 3, "another function"),
            (0x16, 1, 2, 0, "32 bits"),
            (0xdb, 0x12, 0, 0, ""),
            (0xdb, 0x12, 0, 1, "atomic"),
            (0xbf, 0x12, 8, 0, "sign"),
            (EXIT, 0, 0, 0, ""),
        ] {
            let found = check(opcode, registers, offset, immediate);
            assert!(
                found.contains(expected) && found.is_empty() == expected.is_empty(),
                "{opcode:#x} {registers:#x} {offset} {immediate}: {found}"
            );
        }
    }

    #[test]
    fn a_jump_back_is_fine_and_a_loop_is_not() {
        let program = |offsets: &[(u8, i16)]| -> Vec<Instruction> {
            let instruction = |&(opcode, offset)| Instruction {
                opcode,
                source: 0,
                offset,
                immediate: 0,
            };
            offsets.iter().map(instruction).collect()
        };
        // Instruction 2 ends the program. One jump leads over it, and another one back to it.
        let back = program(&[(0x05, 2), (0xb7, 0), (EXIT, 0), (0x15, -3), (EXIT, 0)]);
        assert!(check_ways(&back).is_ok());
        let around = program(&[(0xb7, 0), (0x15, -2), (EXIT, 0)]);
        let error = check_ways(&around).expect_err("a loop").to_string();
        assert_eq!(error, "a loop: instruction 1 leads back to 0");
        assert!(check_ways(&program(&[(0xb7, 0)])).is_err());
    }
}
