//! The fields of `/proc/<pid>/stat` and `/proc/<pid>/status` of a process or thread (proc_pid_stat(5),
//! proc_pid_status(5)).

use imds_analyzer_ebpf::abi::COMM_LEN;

/// Fields of `/proc/<pid>/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: u32,
    pub(crate) comm: [u8; COMM_LEN],
    /// Pid of the parent, 0 if there is none.
    pub(crate) parent: u32,
    /// `PF_*` of include/linux/sched.h.
    pub(crate) flags: u32,
    /// CPU time in ticks, user and system together.
    pub(crate) cpu: u64,
    /// Start time in ticks since boot.
    pub(crate) start: u64,
    /// Resident memory in pages.
    pub(crate) resident: u64,
    /// Start and end address of the arguments; 0 without the right to know them.
    pub(crate) arguments: (u64, u64),
}

/// Lines of `/proc/<pid>/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) tgid: u32,
    /// Real, effective, saved and file system id.
    pub(crate) uids: [u32; 4],
    pub(crate) gids: [u32; 4],
}

impl Stat {
    /// `pid (comm) state ppid ... starttime ...`; the name may contain any character, including `)` and line ends.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let pid = str::from_utf8(text.get(..open)?).ok()?.trim_end().parse().ok()?;
        let mut fields = text.get(close + 2..)?.split(|byte| byte.is_ascii_whitespace());
        // The first field after the name is field 3.
        let mut at = 3;
        let mut number = |field: usize| {
            let skipped = field - std::mem::replace(&mut at, field + 1);
            str::from_utf8(fields.nth(skipped)?).ok()?.parse::<u64>().ok()
        };
        Some(Self {
            pid,
            // Some kernel threads have longer names in this file.
            comm: comm(text.get(open + 1..close)?),
            parent: u32::try_from(number(4)?).ok()?,
            flags: u32::try_from(number(9)?).ok()?,
            cpu: number(14)?.saturating_add(number(15)?),
            start: number(22)?,
            resident: number(24)?,
            arguments: (number(48)?, number(49)?),
        })
    }
}

impl Status {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let numbers = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.split_whitespace().map_while(|number| number.parse().ok()))
        };
        let ids = |key| numbers(key)?.collect::<Vec<u32>>().try_into().ok();
        Some(Self {
            tgid: numbers("Tgid:")?.next()?,
            uids: ids("Uid:")?,
            gids: ids("Gid:")?,
        })
    }
}

/// A name as the kernel stores it: truncated, and padded with NULs, of which there is at least one.
pub(crate) fn comm(name: &[u8]) -> [u8; COMM_LEN] {
    let mut comm = [0; COMM_LEN];
    for (to, from) in comm.iter_mut().take(COMM_LEN - 1).zip(name) {
        *to = *from;
    }
    comm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_the_fields_behind_it() {
        let text = b"42 (a) R 7 8\n(b) S 1 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 161408 2998272 423 \
            18446744073709551615 94 95 140 0 0 0 0 4096 0 0 0 0 17 1 0 0 0 0 0 96 97 98 1000 1020 1021 1022 0\n";
        assert_eq!(
            Stat::parse(text),
            Some(Stat {
                pid: 42,
                comm: *b"a) R 7 8\n(b\0\0\0\0\0",
                parent: 1,
                flags: 4_194_304,
                cpu: 5 + 6,
                start: 161_408,
                resident: 423,
                arguments: (1000, 1020),
            })
        );
    }

    #[test]
    fn cut_text_is_refused() {
        for text in [
            "",
            "42",
            "42 (a",
            "42 (a)",
            "42 (a) S",
            "42 (a) S 1 42 42 0",
            "42 )a( S 1",
        ] {
            assert_eq!(Stat::parse(text.as_bytes()), None, "{text}");
        }
        for text in ["", "Tgid:\t1\n", "Tgid:\t1\nUid:\t1\t2\t3\t4\nGid:\t1\t2\t3\n"] {
            assert_eq!(Status::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_lines_of_a_status() {
        let text = "Name:\tUid: 7\nTgid:\t42\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n";
        assert_eq!(
            Status::parse(text),
            Some(Status {
                tgid: 42,
                uids: [1, 2, 3, 4],
                gids: [5, 6, 7, 8],
            })
        );
    }
}
