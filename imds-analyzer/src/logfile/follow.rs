//! Reads a log as it grows.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead, BufReader, ErrorKind, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{BUFFER, Form, Lines, ROOM, compressed, last_number, open, rotated};
use crate::host::file;

/// The lines of a log: those of the live file, and then each one that is written, also after the file is rotated, removed or
/// truncated. Never waits.
pub struct Follow {
    log: PathBuf,
    live: Option<Live>,
    /// The highest number of the rotated files that were read, or need not be.
    number: u64,
    /// Rotated files to be read before the live one, and the one that is being read.
    missed: VecDeque<PathBuf>,
    reading: Option<Lines<Box<dyn BufRead + Send>>>,
    /// A line, or the beginning of one that is not written to its end.
    line: Vec<u8>,
}

/// The live file while it is read.
struct Live {
    reader: BufReader<File>,
    device: u64,
    inode: u64,
    /// Bytes that were read.
    read: u64,
    /// The log goes on in another file.
    is_replaced: bool,
}

impl Follow {
    /// Starts with the first line of the live file. Rotated files that exist by now are not read.
    ///
    /// # Errors
    ///
    /// If the file or its directory cannot be read.
    pub fn open(log: &Path) -> io::Result<Self> {
        let mut follow = Self {
            log: log.to_owned(),
            live: None,
            number: 0,
            missed: VecDeque::new(),
            reading: None,
            line: Vec::new(),
        };
        // A file that is not there may come, but the first time it is more likely that its name is wrong.
        file::regular(log, 0)?;
        follow.open_live()?;
        follow.missed.clear();
        Ok(follow)
    }

    /// The next line with its end; `None` if there is no further one yet.
    ///
    /// # Errors
    ///
    /// If reading fails.
    pub fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        while !self.has_line()? {
            if self.reading.is_none() && self.missed.is_empty() && !self.go_on()? {
                return Ok(None);
            }
        }
        Ok(Some(&self.line))
    }

    /// Reads a line from the file that is due; false at its end.
    fn has_line(&mut self) -> io::Result<bool> {
        if let Some(lines) = &mut self.reading {
            self.line.clear();
            if let Some(line) = lines.next_line()? {
                self.line.extend_from_slice(line);
                return Ok(true);
            }
            self.reading = None;
        }
        if let Some(path) = self.missed.pop_front() {
            self.reading = open_rotated(&path)?;
            return Ok(false);
        }
        match &mut self.live {
            Some(live) => live.append(&mut self.line),
            None => Ok(false),
        }
    }

    /// At the end of the live file: finds out how it goes on. False if there is nothing more yet.
    fn go_on(&mut self) -> io::Result<bool> {
        match &mut self.live {
            Some(live) if !live.is_replaced => {
                // Its writer may have written a last time before it replaced the file, so it is read once more.
                live.is_replaced = !live.is_in_place(&self.log);
                return Ok(live.is_replaced);
            }
            Some(live) => {
                self.number = live.number(&self.log, self.number)?;
                self.live = None;
            }
            None => {}
        }
        self.open_live()
    }

    /// Opens the live file, and lists the files that were rotated since. False if there is no live file at the moment.
    fn open_live(&mut self) -> io::Result<bool> {
        const ATTEMPTS: usize = 100;
        for _ in 0..ATTEMPTS {
            let last = last_number(&self.log)?;
            let (file, data) = match file::regular(&self.log, 0) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                result => result?,
            };
            let live = Live {
                reader: BufReader::with_capacity(BUFFER, file),
                device: data.dev(),
                inode: data.ino(),
                read: 0,
                is_replaced: false,
            };
            let missed = rotated(&self.log)?;
            if !live.is_in_place(&self.log) || last_number(&self.log)? != last {
                continue;
            }
            let mut missed: Vec<_> = missed
                .into_iter()
                .filter(|file| file.number > self.number && file.form != Form::Unfinished)
                .collect();
            // Both forms of a file exist until the plain one is removed.
            missed.dedup_by_key(|file| file.number);
            self.missed = missed.into_iter().map(|file| file.path).collect();
            self.number = last;
            self.live = Some(live);
            self.line.clear();
            return Ok(true);
        }
        Err(io::Error::other("its files are rotated faster than they can be opened"))
    }
}

impl Live {
    /// Appends to `line`, which is begun anew after a whole one; true if it is whole now.
    fn append(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        if is_whole(line) {
            line.clear();
        }
        let room = ROOM.saturating_sub(line.len());
        let count = (&mut self.reader).take(room as u64).read_until(b'\n', line)?;
        self.read += count as u64;
        Ok(is_whole(line))
    }

    /// True while `log` is this file, and nobody has truncated it.
    fn is_in_place(&self, log: &Path) -> bool {
        fs::metadata(log)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode) && found.len() >= self.read)
    }

    /// The number of this file, if it was rotated after the one with the number `before`; otherwise `before`.
    fn number(&self, log: &Path, before: u64) -> io::Result<u64> {
        let rotated = rotated(log)?;
        let is_this =
            |path: &Path| fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        let known = rotated.iter().find(|file| is_this(&file.path)).map(|file| file.number);
        // It may have been compressed already, which makes another file of it.
        let next = rotated.iter().map(|file| file.number).find(|number| *number > before);
        Ok(known.or(next).unwrap_or(before))
    }
}

/// A line that is too long for a record is whole, too: the rest of it is another one that is no record.
fn is_whole(line: &[u8]) -> bool {
    line.last() == Some(&b'\n') || line.len() >= ROOM
}

/// `None` if it was removed to free space.
fn open_rotated(path: &Path) -> io::Result<Option<Lines<Box<dyn BufRead + Send>>>> {
    // It may have been compressed after it was listed.
    let opened = open(path).or_else(|error| match error.kind() {
        ErrorKind::NotFound => open(&compressed(path)),
        _ => Err(error),
    });
    match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::logfile::numbered;

    struct Log {
        directory: tempfile::TempDir,
        log: PathBuf,
    }

    impl Log {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let log = directory.path().join("events.jsonl");
            let new = Self { directory, log };
            new.write("1\n2\n");
            new
        }

        fn write(&self, text: &str) {
            let mut file = fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(&self.log)
                .unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn rotate(&self) {
            let number = last_number(&self.log).unwrap() + 1;
            fs::rename(&self.log, numbered(&self.log, number)).unwrap();
        }

        fn compress(&self, number: u64) {
            let path = numbered(&self.log, number);
            let file = File::create(compressed(&path)).unwrap();
            let mut writer = GzEncoder::new(file, Compression::fast());
            writer.write_all(&fs::read(&path).unwrap()).unwrap();
            writer.finish().unwrap();
            fs::remove_file(path).unwrap();
        }

        fn open(&self) -> Follow {
            Follow::open(&self.log).unwrap()
        }
    }

    /// All lines there are, joined.
    fn lines(follow: &mut Follow) -> String {
        let mut all = String::new();
        while let Some(line) = follow.next_line().unwrap() {
            all.push_str(std::str::from_utf8(line).unwrap().trim_end());
            all.push(' ');
        }
        all
    }

    #[test]
    fn lines_come_as_they_are_written() {
        let log = Log::new();
        let mut follow = log.open();
        assert_eq!(lines(&mut follow), "1 2 ");
        log.write("3");
        assert_eq!(lines(&mut follow), "");
        log.write("3\n4\n");
        assert_eq!(lines(&mut follow), "33 4 ");
    }

    #[test]
    fn rotation_loses_and_doubles_nothing() {
        for compress in [false, true] {
            let log = Log::new();
            // From before, which nobody asked for.
            log.rotate();
            log.write("3\n");
            let mut follow = log.open();
            assert_eq!(lines(&mut follow), "3 ");
            // After the last look, one last time.
            log.write("4\n");
            log.rotate();
            assert_eq!(lines(&mut follow), "4 ");
            log.write("5\n");
            // Several times between two looks.
            log.rotate();
            log.write("6\n");
            log.rotate();
            log.write("7\n");
            if compress {
                (1..=4).for_each(|number| log.compress(number));
            }
            assert_eq!(lines(&mut follow), "5 6 7 ", "{compress}");
            log.write("8\n");
            log.rotate();
            if compress {
                log.compress(5);
            }
            log.write("9\n");
            assert_eq!(lines(&mut follow), "8 9 ", "{compress}");
        }
    }

    #[test]
    fn a_log_that_is_removed_or_truncated_goes_on() {
        let log = Log::new();
        let mut follow = log.open();
        assert_eq!(lines(&mut follow), "1 2 ");
        fs::remove_file(&log.log).unwrap();
        assert_eq!(lines(&mut follow), "");
        log.write("3\n");
        assert_eq!(lines(&mut follow), "3 ");
        log.write("4\n");
        assert_eq!(lines(&mut follow), "4 ");
        File::create(&log.log).unwrap();
        log.write("5\n");
        assert_eq!(lines(&mut follow), "5 ");
    }

    #[test]
    fn a_log_that_is_not_there_is_an_error_at_first() {
        let log = Log::new();
        let path = log.directory.path().join("other.jsonl");
        let error = Follow::open(&path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
