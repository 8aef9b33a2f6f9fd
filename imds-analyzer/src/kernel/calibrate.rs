//! Learns the offsets of the fields that the send tap reads, on kernels without BTF. It uses a connection of this
//! process to itself, whose values are all known.
//!
//! Fields of sockets and messages must be at the offsets of a kernel from 4.14 to 7.2, or the send tap is not used. The
//! offsets in tasks depend on the kernel's configuration: calibration searches for the fields by their values, and does
//! without a field that it cannot find unambiguously.

mod connection;
mod message;
mod task;
mod verify;

use std::{io, thread, time::Duration};

use anyhow::Context;
use aya::maps::{Array, MapData};
use imds_analyzer_ebpf::abi::legacy::{SLOT, Settings, slot};

pub use self::verify::{drain, verify};
use self::{
    connection::{Connection, Place},
    task::{Task, TaskFacts},
};
use crate::host::namespace::on_own_thread;

/// The offsets that were learnt, and a description of what could not be.
#[derive(Clone, Debug)]
pub struct Learnt {
    pub settings: Settings,
    pub findings: Vec<String>,
}

/// Writes settings, sends, and examines the kernel memory that the kernel side dumps for each send.
pub struct Calibrator<W> {
    write: W,
    dumps: Array<MapData, [u8; SLOT]>,
}

/// A copy of a part of kernel memory.
#[derive(Clone, Copy)]
struct Dump<'a>(&'a [u8]);

impl Dump<'_> {
    fn u8(self, at: u32) -> Option<u8> {
        self.0.get(at as usize).copied()
    }

    fn u16(self, at: u32) -> Option<u16> {
        self.array(at).map(u16::from_ne_bytes)
    }

    fn u32(self, at: u32) -> Option<u32> {
        self.array(at).map(u32::from_ne_bytes)
    }

    fn u64(self, at: u32) -> Option<u64> {
        self.array(at).map(u64::from_ne_bytes)
    }

    fn array<const N: usize>(self, at: u32) -> Option<[u8; N]> {
        self.0.get(at as usize..)?.first_chunk().copied()
    }

    /// Offsets of all places of `size` bytes, aligned to their size.
    fn places(self, size: u32) -> impl Iterator<Item = u32> {
        let len = self.0.len() as u32;
        (0..len.saturating_sub(size - 1)).step_by(size as usize)
    }

    /// The offset of the only place that fits, if there is exactly one.
    fn only(self, size: u32, fits: impl Fn(u32) -> bool) -> Option<u32> {
        let mut places = self.places(size).filter(|&at| fits(at));
        let place = places.next()?;
        places.next().is_none().then_some(place)
    }
}

impl<W: FnMut(&Settings) -> anyhow::Result<()> + Send> Calibrator<W> {
    pub fn new(write: W, dumps: Array<MapData, [u8; SLOT]>) -> Self {
        Self { write, dumps }
    }

    /// Completes `known`. Tries up to three times, because an ambiguous value may become unambiguous with other thread
    /// ids. `packets`: sends must be joinable with packets.
    pub fn run(&mut self, known: Settings, packets: bool) -> anyhow::Result<Learnt> {
        const TRIES: usize = 3;
        let mut learnt = self.try_once(known, packets, 1)?;
        for number in 2..=TRIES {
            let joins = learnt.settings.offsets.tcp_sock_write_seq != 0;
            if learnt.findings.is_empty() && (joins || !packets) {
                break;
            }
            learnt = self.try_once(known, packets, number)?;
        }
        Ok(learnt)
    }

    /// Runs in a thread with a unique name and ids.
    fn try_once(&mut self, known: Settings, packets: bool, number: usize) -> anyhow::Result<Learnt> {
        let name = format!("{:07x}{number}-imds", (std::process::id() ^ 0x5a5_a5a5) & 0xfff_ffff);
        on_own_thread(&name, || self.learn(known, packets, &name))?
    }

    fn learn(&mut self, mut settings: Settings, packets: bool, name: &str) -> anyhow::Result<Learnt> {
        // The thread's start time and its run times should not fall into the same tick.
        thread::sleep(Duration::from_millis(30));
        let mut facts = TaskFacts::of_this_thread(name).context("/proc/thread-self")?;
        let place = Place::new().context("cannot prepare a connection to this process")?;
        let net_ns = place.inode().context("cannot identify the network namespace")?;
        let connection = place.connect().context("cannot connect to this process")?;
        settings.calibrate = name.bytes().take(8).rfold(0, |rest, byte| rest << 8 | u64::from(byte));

        // A slot that was never written holds zeroes, in which no check succeeds.
        (self.write)(&settings)?;
        let sent = connection.send_parts()?;
        message::check_sock(Dump(&self.slot(slot::SOCK)?), &settings, &connection)?;
        facts.set_numbers(Dump(&self.slot(slot::NUMBERS)?).u64(0).unwrap_or(0));
        message::learn(Dump(&self.slot(slot::MSGHDR)?), &mut settings, &sent)?;
        (self.write)(&settings)?;
        let sent = connection.send_parts()?;
        message::check_segments(Dump(&self.slot(slot::IOVEC)?), &sent)?;
        let sent = connection.send_one()?;
        let message = self.slot(slot::MSGHDR)?;
        message::learn_flags(Dump(&message), &mut settings)?;
        message::learn_buffer(Dump(&message), &mut settings, &sent)?;
        let sent = connection.write_one()?;
        message::learn_buffer(Dump(&self.slot(slot::MSGHDR)?), &mut settings, &sent)?;

        if packets {
            settings.offsets.tcp_sock_write_seq = self.learn_next_seq(&mut settings, &connection)?.unwrap_or(0);
        }

        let mut findings = Vec::new();
        let net = self.slot(slot::NET)?;
        match Dump(&net).only(4, |at| at > 0 && Dump(&net).u32(at) == u32::try_from(net_ns).ok()) {
            Some(offset) => settings.offsets.net_inum = offset,
            None => findings.push("cannot tell network namespaces apart".to_owned()),
        }
        match self.learn_task(&mut settings, &facts, &connection) {
            Ok(()) => {}
            Err(missing) => findings.push(format!("cannot read tasks: {missing:#}")),
        }
        settings.calibrate = 0;
        settings.dump = [0; slot::DUMP_LEN as usize];
        Ok(Learnt { settings, findings })
    }

    fn learn_next_seq(&mut self, settings: &mut Settings, connection: &Connection) -> anyhow::Result<Option<u32>> {
        let sock = Dump(&self.slot(slot::NUMBERS)?).u64(8).unwrap_or(0);
        settings.dump = std::array::from_fn(|index| sock + (index * SLOT) as u64);
        (self.write)(settings)?;
        let waiting = connection.leave_waiting()?;
        let before = self.dumped()?;
        connection.send_waiting(waiting)?;
        let after = self.dumped()?;
        Ok(message::find_next_seq(Dump(&before), Dump(&after), waiting))
    }

    /// All parts of the memory requested in `dump`.
    fn dumped(&self) -> io::Result<Vec<u8>> {
        let mut dump = Vec::new();
        for index in 0..slot::DUMP_LEN {
            dump.extend_from_slice(&self.slot(slot::DUMP + index)?);
        }
        Ok(dump)
    }

    fn learn_task(
        &mut self,
        settings: &mut Settings,
        facts: &TaskFacts,
        connection: &Connection,
    ) -> anyhow::Result<()> {
        let mut dump = Vec::new();
        for index in 0..slot::TASK_LEN {
            dump.extend_from_slice(&self.slot(slot::TASK + index)?);
        }
        let task = Task::find(Dump(&dump), facts)?;
        // The leader and the parent, from their thread ids on, and the probable credentials.
        settings.dump = [
            task.leader + u64::from(task.pid),
            task.parent + u64::from(task.pid),
            task.cred,
            0,
        ];
        (self.write)(settings)?;
        connection.send_one()?;
        task.check(facts, Dump(&self.slot(slot::DUMP)?), Dump(&self.slot(slot::DUMP + 1)?))?;
        let cred = task::find_ids(Dump(&self.slot(slot::DUMP + 2)?), facts);
        // Find the memory map: of the pointers that occur twice in a row, the first that leads to the argument
        // addresses.
        let mut arguments = None;
        for candidates in task.doubles.chunks(slot::DUMP_LEN as usize) {
            settings.dump = std::array::from_fn(|index| candidates.get(index).map_or(0, |(_, pointer)| *pointer));
            (self.write)(settings)?;
            connection.send_one()?;
            for (index, (offset, _)) in candidates.iter().enumerate() {
                let dump = self.slot(slot::DUMP + index as u32)?;
                if arguments.is_none() {
                    arguments = task::find_arguments(Dump(&dump), facts).map(|at| (*offset, at));
                }
            }
        }
        task.write_into(&mut settings.offsets, cred, arguments);
        Ok(())
    }

    fn slot(&self, index: u32) -> io::Result<[u8; SLOT]> {
        self.dumps.get(&index, 0).map_err(io::Error::other)
    }
}
