//! The last check before anything is reported: watches a connection of this process to itself like one to IMDS, and
//! compares the records with what was sent.

use std::{io, net::Ipv4Addr};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{MapData, perf::PerfEventArrayBuffer};
use imds_analyzer_ebpf::abi::{
    ANCESTORS_MAX,
    legacy::{Phase, Settings},
};

use super::{
    super::stream::{self, Taken},
    connection::{ANSWER_STATUS, PARTS, Place},
};
use crate::{
    decode::{self, Record},
    host::{
        namespace::in_first_pid_namespace,
        proc::{Directory, FILE_MAX},
    },
};

/// The result.
pub struct Verified {
    /// The settings that work.
    pub settings: Settings,
    /// True if answers are seen.
    pub answers: bool,
    /// Descriptions of the reads that do not work.
    pub findings: Vec<String>,
}

/// The content of the records.
#[derive(Default)]
struct Seen {
    /// Phase, number, result and bytes of each piece, with its sender and source port.
    pieces: Vec<Piece>,
    /// Ancestors of the process that was announced, and its arguments.
    announced: Option<(Vec<u32>, Vec<u8>)>,
}

struct Piece {
    phase: u8,
    number: u32,
    result: i32,
    data: Vec<u8>,
    tgid: u32,
    ports: (u16, [u8; 16]),
    cookie: u64,
    seq: u32,
}

/// Sends and compares. A wrong field of a task only drops the reads of tasks; every
/// other error fails. With `answers`, an answer is sent back: if it is not seen, only the answers are given up.
pub fn verify(
    mut settings: Settings,
    mut answers: bool,
    mut write: impl FnMut(&Settings) -> Result<()>,
    buffers: &mut [PerfEventArrayBuffer<MapData>],
) -> Result<Verified> {
    let place = Place::new().context("cannot prepare a connection to this process")?;
    let watched = Settings {
        target_v4: u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets()),
        target_port: place.port()?.to_be().into(),
        ..settings
    };
    drain(buffers);
    write(&watched)?;
    let connection = place.connect()?;
    connection.send_parts()?;
    connection.send_one()?;
    connection.write_one()?;
    if answers {
        connection.answer()?;
    }
    let (source_port, cookie) = (connection.source_port, connection.cookie);
    drop(connection);
    let seen = Seen::read(buffers)?;

    // In a pid namespace, /proc has different process ids.
    let process = if in_first_pid_namespace() {
        std::process::id()
    } else {
        seen.pieces.first().map_or(0, |piece| piece.tgid)
    };
    let [.., last] = PARTS;
    let whole = PARTS.concat();
    let expected: [(Phase, u32, &[u8]); 8] = [
        (Phase::Connect, 0, b""),
        (Phase::Begin, 1, &whole),
        (Phase::End, 1, &whole),
        (Phase::Begin, 2, last),
        (Phase::End, 2, last),
        (Phase::Begin, 3, last),
        (Phase::End, 3, last),
        (Phase::Close, 3, b""),
    ];
    for (phase, number, data) in expected {
        let pieces: Vec<&Piece> = seen
            .pieces
            .iter()
            .filter(|piece| piece.phase == phase as u8 && piece.number == number)
            .collect();
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.data.clone()).collect();
        ensure!(
            !pieces.is_empty() && bytes == data,
            "{phase:?} of send {number} is {} bytes in {} records",
            bytes.len(),
            pieces.len()
        );
        ensure!(
            process != 0 && pieces.iter().all(|piece| piece.tgid == process),
            "the record names the wrong sender"
        );
        if phase == Phase::End {
            let mut localhost = [0; 16];
            localhost[..4].copy_from_slice(&Ipv4Addr::LOCALHOST.octets());
            let whole = |piece: &&&Piece| piece.result == data.len() as i32;
            ensure!(
                pieces.iter().filter(whole).count() == pieces.len(),
                "the record has the wrong result of a send"
            );
            ensure!(
                pieces.iter().all(|piece| piece.ports == (source_port, localhost)),
                "the record has the wrong addresses of a connection"
            );
        }
    }

    let received: Vec<i32> = seen
        .pieces
        .iter()
        .filter(|piece| piece.phase == Phase::Received as u8)
        .map(|piece| piece.result)
        .collect();
    answers &= received == [ANSWER_STATUS];

    // These two fields only serve to join packets, so a wrong one is not fatal.
    let begin = |number: u32| {
        let mut pieces = seen.pieces.iter();
        pieces.find(|piece| piece.phase == Phase::Begin as u8 && piece.number == number)
    };
    let begins = [begin(1), begin(2), begin(3)];
    if !begins.iter().flatten().all(|begin| begin.cookie == cookie) {
        settings.offsets.sock_cookie = 0;
    }
    let seqs = begins.map(|begin| begin.map_or(0, |begin| begin.seq));
    let steps = [seqs[1].wrapping_sub(seqs[0]), seqs[2].wrapping_sub(seqs[1])];
    if steps != [whole.len() as u32, last.len() as u32] {
        settings.offsets.tcp_sock_write_seq = 0;
    }

    let mut findings = Vec::new();
    if let Err(wrong) = check_process(&seen, &settings) {
        findings.push(format!("not reading tasks: {wrong:#}"));
        forget_tasks(&mut settings);
    }
    Ok(Verified {
        settings,
        answers,
        findings,
    })
}

/// Discards the records in the buffers.
pub fn drain(buffers: &mut [PerfEventArrayBuffer<MapData>]) {
    for buffer in buffers {
        stream::read(buffer, |_taken| {});
    }
}

impl Seen {
    fn read(buffers: &mut [PerfEventArrayBuffer<MapData>]) -> Result<Self> {
        let mut seen = Self::default();
        let mut wrong = None;
        for buffer in buffers {
            stream::read(buffer, |taken| match taken {
                Taken::Record(bytes) => match decode::decode(bytes) {
                    Ok(Record::Send(send, data)) => seen.pieces.push(Piece {
                        phase: send.phase,
                        number: send.number,
                        result: send.result,
                        data: data.to_vec(),
                        tgid: send.task.tgid,
                        ports: (u16::from_be(send.source_port), send.source),
                        cookie: send.cookie,
                        seq: send.seq,
                    }),
                    Ok(Record::Owner(owner, _names, argv)) => {
                        let ancestors = owner.ancestors.iter().take(owner.ancestors_len as usize);
                        seen.announced = Some((ancestors.map(|ancestor| ancestor.tgid).collect(), argv.to_vec()));
                    }
                    Ok(_) => wrong = Some("received a record of another tap".to_owned()),
                    Err(error) => wrong = Some(error.to_string()),
                },
                Taken::Lost(count, _) => wrong = Some(format!("{count} records did not fit into the buffer")),
            });
        }
        match wrong {
            Some(wrong) => bail!("{wrong}"),
            None => Ok(seen),
        }
    }
}

/// Fails if ancestors or arguments differ from /proc.
fn check_process(seen: &Seen, settings: &Settings) -> Result<()> {
    let (ancestors, arguments) = seen.announced.as_ref().context("this process was not announced")?;
    if settings.offsets.task_real_parent != 0 {
        let good = if in_first_pid_namespace() {
            *ancestors == ancestors_in_proc()?
        } else {
            // The only possible check: the chain ends at the first process, or has the maximum length.
            ancestors.len() == ANCESTORS_MAX || ancestors.last() == Some(&1)
        };
        ensure!(good, "the ancestors of this process differ from /proc");
    }
    if settings.offsets.task_mm != 0 {
        let own = Directory::own().and_then(|own| own.read("cmdline", FILE_MAX));
        let known = own.context("/proc/self/cmdline")?;
        ensure!(
            known.starts_with(arguments) && !arguments.is_empty(),
            "the arguments of this process differ from /proc"
        );
    }
    Ok(())
}

/// From the parent towards the first process, at most as many as the kernel side reads.
fn ancestors_in_proc() -> io::Result<Vec<u32>> {
    let mut ancestors = Vec::new();
    let mut parent = Directory::own()?.stat()?.parent;
    while parent != 0 && ancestors.len() < ANCESTORS_MAX {
        ancestors.push(parent);
        parent = Directory::open(parent)?.stat()?.parent;
    }
    Ok(ancestors)
}

fn forget_tasks(settings: &mut Settings) {
    let offsets = &mut settings.offsets;
    for offset in [
        &mut offsets.task_real_parent,
        &mut offsets.task_group_leader,
        &mut offsets.task_start_boottime,
        &mut offsets.task_comm,
        &mut offsets.task_mm,
        &mut offsets.task_cred,
        &mut offsets.task_self_exec_id,
    ] {
        *offset = 0;
    }
}
