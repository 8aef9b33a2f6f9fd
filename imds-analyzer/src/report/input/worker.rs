//! Reads the lines of jobs and adds up their records.

use std::{
    fs::File,
    hash::{BuildHasher as _, Hasher as _},
    io::{self, Read},
    mem,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    Counting, Outcome, PROBLEMS_NAMED, Progress,
    job::{Job, Located},
    locked,
};
use crate::{
    host::file,
    logfile::{Format, decoded},
    record::{Brief, LINE_MAX, Memory, Reader, Unreadable},
    report::{filter::Filter, find, fold::Fold},
};

const BLOCK: usize = 256 << 10;
/// Lines among which one that was delivered again is recognized.
const RECENT: usize = 1 << 16;
/// What only our lines have.
const MARK: &[u8] = b"\"action\":\"imds-";
/// What only our entries in an export of the journal have.
const ENTRY: &[u8] = b"\"IMDS_ACTION\"";

pub(super) struct Worker<'a> {
    filter: &'a Filter,
    progress: &'a Progress,
    fold: Fold,
    /// Hashes of recent lines of ours, each at the place that follows from it.
    recent: Box<[u64]>,
    /// What tells the lines of this job from those of others.
    salt: u64,
    counts: Counts,
    problems: Vec<Located>,
    /// The host of the last record.
    host: String,
}

#[derive(Default)]
struct Counts {
    lines: u64,
    foreign: u64,
    unreadable: u64,
    duplicates: u64,
}

/// The lines of a file, or of a part of one.
struct Input<'a> {
    path: &'a Path,
    part: usize,
    reader: &'a mut dyn Read,
    buffer: Vec<u8>,
    /// Bytes at the beginning of `buffer` that are of a line whose end is not read yet.
    filled: usize,
}

/// The hash of a line. Nobody can make lines with the same one: its key is a secret of this process.
pub(super) fn hash(line: &[u8]) -> u64 {
    static KEY: LazyLock<foldhash::quality::RandomState> = LazyLock::new(Default::default);
    let mut hasher = KEY.build_hasher();
    hasher.write(line);
    hasher.finish()
}

impl<'a> Worker<'a> {
    pub(super) fn new(filter: &'a Filter, progress: &'a Progress) -> Self {
        Self {
            filter,
            progress,
            fold: Fold::default(),
            recent: vec![0; RECENT].into(),
            salt: 0,
            counts: Counts::default(),
            problems: Vec::new(),
            host: String::new(),
        }
    }

    /// Does a job, and adds what it gave to `outcome`.
    pub(super) fn run(&mut self, job: Job, outcome: &Mutex<Outcome>) {
        static JOBS: AtomicU64 = AtomicU64::new(1);
        self.salt = JOBS.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.host.clear();
        let mut part = None;
        let mut is_copy = false;
        let (path, result) = match job {
            Job::Stdin => (PathBuf::from("standard input"), self.stdin()),
            Job::Memory(lines) => {
                let path = PathBuf::from("memory");
                let result = self.lines(&path, 0, &mut &*lines);
                (path, result)
            }
            Job::Whole {
                path,
                file,
                format,
                others,
            } => {
                let result = self.whole(&path, file, format, &others);
                is_copy = matches!(result, Ok(true));
                (path, result.map(drop))
            }
            Job::Part {
                path,
                file,
                number,
                from,
                until,
            } => {
                part = Some(number);
                let result = self.part(&path, number, &file, from, until);
                (path, result)
            }
        };
        let mut outcome = locked(outcome);
        if let Err(error) = result {
            outcome.input.failed_files += 1;
            outcome.problem(Located {
                path: path.clone(),
                part: part.unwrap_or(0),
                line: None,
                why: error.to_string(),
            });
        }
        let counts = mem::take(&mut self.counts);
        outcome.input.lines += counts.lines;
        outcome.input.foreign += counts.foreign;
        outcome.input.unreadable += counts.unreadable;
        outcome.input.duplicate_lines += counts.duplicates;
        outcome.input.duplicate_files += u64::from(is_copy);
        if let Some(number) = part {
            outcome.parts.entry(path).or_default().push((number, counts.lines));
        }
        self.problems.drain(..).for_each(|problem| outcome.problem(problem));
        outcome.fold.merge(mem::take(&mut self.fold));
    }

    fn stdin(&mut self) -> io::Result<()> {
        let mut stdin = io::stdin().lock();
        let mut first = vec![0; 8];
        let count = read_full(&mut stdin, &mut first)?;
        first.truncate(count);
        let format = Format::of(&first);
        let reader = Counting {
            reader: io::Cursor::new(first).chain(io::stdin()),
            progress: self.progress,
        };
        drop(stdin);
        self.lines(Path::new("standard input"), 0, &mut decoded(format, reader))
    }

    /// Returns true if all of the file is in one of `others`.
    fn whole(&mut self, path: &Path, file: File, format: Format, others: &[PathBuf]) -> io::Result<bool> {
        let mut common = 0;
        let mut is_copy = false;
        for other in others {
            // One that cannot be read now has nothing in common.
            let (length, all) = in_common(&file, format, other).unwrap_or_default();
            common = length.max(common);
            is_copy |= all;
        }
        if is_copy {
            return Ok(true);
        }
        let reader = Counting {
            reader: At {
                file: Arc::new(file),
                at: 0,
                until: u64::MAX,
            },
            progress: self.progress,
        };
        let mut reader = decoded(format, reader);
        if common > 0 {
            self.counts.duplicates += skip(&mut reader, common)?;
        }
        self.lines(path, 0, &mut reader)?;
        Ok(false)
    }

    /// The lines that begin in `[from, until)`.
    fn part(&mut self, path: &Path, number: usize, file: &Arc<File>, from: u64, until: u64) -> io::Result<()> {
        let start = if from == 0 { 0 } else { next_line(file, from - 1)? };
        // The line that begins before `until` ends after it.
        let end = next_line(file, until - 1)?;
        let mut reader = Counting {
            reader: At {
                file: Arc::clone(file),
                at: start,
                until: end,
            },
            progress: self.progress,
        };
        self.lines(path, number, &mut reader)
    }

    fn lines(&mut self, path: &Path, part: usize, reader: &mut dyn Read) -> io::Result<()> {
        let mut input = Input {
            path,
            part,
            reader,
            buffer: vec![0; BLOCK],
            filled: 0,
        };
        let mut memory = Memory::default();
        loop {
            let mut records = Reader::new(&mut memory);
            while !records.is_full() {
                if !self.block(&mut input, &mut records)? {
                    return Ok(());
                }
            }
        }
    }

    /// Adds the lines of the next block. Returns false at the end.
    fn block(&mut self, input: &mut Input<'_>, records: &mut Reader<'_>) -> io::Result<bool> {
        let Input { buffer, filled, .. } = input;
        let count = input.reader.read(&mut buffer[*filled..])?;
        if count == 0 {
            if *filled > 0 {
                // A line without an end: of a file that is being written, or that was cut off.
                self.line(input.path, input.part, &buffer[..*filled], records, true);
            }
            return Ok(false);
        }
        // What was there before has no line end.
        let end = memchr::memrchr(b'\n', &buffer[*filled..*filled + count]);
        let whole = end.map_or(0, |end| *filled + end + 1);
        *filled += count;
        if whole > 0 {
            let mut start = 0;
            for end in memchr::memchr_iter(b'\n', &buffer[..whole]) {
                self.line(input.path, input.part, &buffer[start..end], records, false);
                start = end + 1;
            }
            buffer.copy_within(whole..*filled, 0);
            *filled -= whole;
        }
        if *filled == buffer.len() {
            if buffer.len() > LINE_MAX {
                self.counts.lines += 1;
                self.unreadable(input.path, input.part, Unreadable::TooLong);
                *filled = skip_line(input.reader, buffer)?;
            } else {
                buffer.resize(buffer.len() * 2, 0);
            }
        }
        Ok(true)
    }

    /// Adds a line. `is_last`: it has no end.
    fn line(&mut self, path: &Path, part: usize, line: &[u8], records: &mut Reader<'_>, is_last: bool) {
        if line.is_empty() {
            return;
        }
        self.counts.lines += 1;
        match record(line, records, &mut |brief| self.record(line, brief)) {
            Ok(()) => {}
            Err(None) => self.counts.foreign += 1,
            Err(Some(Unreadable::Truncated)) if is_last => {}
            Err(Some(error)) => self.unreadable(path, part, error),
        }
    }

    fn record(&mut self, line: &[u8], brief: &Brief<'_>) {
        let hash = hash(line) ^ self.salt;
        if let Some(place) = self.recent.get_mut(hash as usize % RECENT)
            && mem::replace(place, hash) == hash
        {
            self.counts.duplicates += 1;
            return;
        }
        let key = brief.host_key();
        if self.host != key {
            key.clone_into(&mut self.host);
        }
        self.fold.add(brief, self.filter);
    }

    fn unreadable(&mut self, path: &Path, part: usize, why: Unreadable) {
        self.counts.unreadable += 1;
        self.fold.unreadable(&self.host);
        if self.problems.len() < PROBLEMS_NAMED {
            self.problems.push(Located {
                path: path.to_owned(),
                part,
                line: Some(self.counts.lines),
                why: why.to_string(),
            });
        }
    }
}

/// Passes the record in `line` to `take`.
///
/// # Errors
///
/// `None` if the line is not ours.
fn record(line: &[u8], records: &mut Reader<'_>, take: &mut dyn FnMut(&Brief<'_>)) -> Result<(), Option<Unreadable>> {
    let is_marked = || memchr::memmem::find(line, MARK).is_some();
    let Ok(text) = std::str::from_utf8(line) else {
        return Err(is_marked().then_some(Unreadable::NotJson(0)));
    };
    let Some(ours) = find::record(text) else {
        let is_entry = || memchr::memmem::find(line, ENTRY).is_some();
        let why = is_marked().then_some(Unreadable::Truncated);
        return Err(why.or_else(|| is_entry().then_some(Unreadable::NoRecord)));
    };
    match records.read(&ours) {
        Ok(brief) => {
            take(&brief);
            Ok(())
        }
        Err(Unreadable::Foreign) => Err(None),
        Err(error @ Unreadable::Schema(_)) => Err(Some(error)),
        // Another program's line may begin like ours, and be torn. Half a line of ours may lack the mark.
        Err(Unreadable::Truncated) => Err(Some(Unreadable::Truncated)),
        Err(error) => Err(is_marked().then_some(error)),
    }
}

/// A part of a file, as long as it was when it was opened or longer.
struct At {
    file: Arc<File>,
    at: u64,
    until: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.until - self.at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.file.read_at(&mut buffer[..room], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// Where the first line after the byte at `from` begins; the end of the file, if there is none.
fn next_line(file: &File, from: u64) -> io::Result<u64> {
    let mut block = vec![0; 64 << 10];
    let mut at = from;
    loop {
        let count = file.read_at(&mut block, at)?;
        if count == 0 {
            return Ok(at);
        }
        match memchr::memchr(b'\n', &block[..count]) {
            Some(end) => return Ok(at + end as u64 + 1),
            None => at += count as u64,
        }
    }
}

/// The length of what `file` and the file at `other` have in common, in whole lines from their beginnings; and true if that is
/// all of `file`.
fn in_common(file: &File, format: Format, other: &Path) -> io::Result<(u64, bool)> {
    let (other, _) = file::regular(other, 0)?;
    let mut magic = [0; 8];
    let count = other.read_at(&mut magic, 0)?;
    let other_format = Format::of(&magic[..count]);
    let mut ours = decoded(
        format,
        At {
            file: Arc::new(file.try_clone()?),
            at: 0,
            until: u64::MAX,
        },
    );
    let mut theirs = decoded(other_format, other);
    let (mut a, mut b) = (vec![0; BLOCK], vec![0; BLOCK]);
    let (mut equal, mut last_line) = (0, 0);
    loop {
        let count = read_full(&mut ours, &mut a)?;
        let count_other = read_full(&mut theirs, &mut b)?;
        let same = a[..count]
            .iter()
            .zip(&b[..count_other])
            .take_while(|(a, b)| a == b)
            .count();
        if let Some(end) = memchr::memrchr(b'\n', &a[..same]) {
            last_line = equal + end as u64 + 1;
        }
        equal += same as u64;
        if same < count || count < BLOCK {
            return Ok((last_line, same == count && count < BLOCK));
        }
    }
}

/// Fills `buffer`, unless the end comes first.
fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// Leaves out `length` bytes, and returns how many lines these were.
fn skip(reader: &mut dyn Read, length: u64) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut left = length;
    let mut lines = 0;
    while left > 0 {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK);
        let count = reader.read(&mut block[..room])?;
        if count == 0 {
            break;
        }
        lines += memchr::memchr_iter(b'\n', &block[..count]).count() as u64;
        left -= count as u64;
    }
    Ok(lines)
}

/// Leaves out the rest of a line, and returns how many bytes after it are in `buffer`.
fn skip_line(reader: &mut dyn Read, buffer: &mut Vec<u8>) -> io::Result<usize> {
    buffer.truncate(BLOCK);
    loop {
        let count = reader.read(buffer)?;
        if count == 0 {
            return Ok(0);
        }
        if let Some(end) = memchr::memchr(b'\n', &buffer[..count]) {
            buffer.copy_within(end + 1..count, 0);
            return Ok(count - end - 1);
        }
    }
}
