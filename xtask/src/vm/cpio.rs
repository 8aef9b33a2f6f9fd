//! A cpio archive in the "newc" format, as the kernel unpacks it into its first file system (initramfs): see
//! Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    path::{Component, Path},
};

const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const FILE: u32 = 0o100_000;

/// Writes an archive, with folders before their contents.
#[derive(Debug)]
pub(crate) struct Archive<W: Write> {
    out: W,
    written: BTreeSet<String>,
    inode: u32,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            written: BTreeSet::new(),
            inode: 1,
        }
    }

    /// True if the archive has an entry at `path`.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.written.contains(&name(path))
    }

    pub(crate) fn file(&mut self, path: &Path, content: &[u8], executable: bool) -> io::Result<()> {
        self.file_of(path, content, executable, 0)
    }

    /// A file with its time of modification, in seconds since 1970.
    pub(crate) fn file_of(&mut self, path: &Path, content: &[u8], executable: bool, mtime: u32) -> io::Result<()> {
        self.entry(path, FILE | if executable { 0o755 } else { 0o644 }, content, mtime)
    }

    pub(crate) fn symlink(&mut self, path: &Path, target: &str) -> io::Result<()> {
        self.entry(path, SYMLINK, target.as_bytes(), 0)
    }

    pub(crate) fn directory(&mut self, path: &Path) -> io::Result<()> {
        self.entry(path, DIRECTORY, &[], 0)
    }

    /// The first entry of a name counts; later ones are left out.
    fn entry(&mut self, path: &Path, mode: u32, content: &[u8], mtime: u32) -> io::Result<()> {
        if self.has(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent()
            && !name(parent).is_empty()
        {
            self.directory(parent)?;
        }
        let name = name(path);
        self.record(&name, mode, content, mtime)?;
        self.written.insert(name);
        Ok(())
    }

    fn record(&mut self, name: &str, mode: u32, content: &[u8], mtime: u32) -> io::Result<()> {
        let length = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
        let (size, name_size) = (length(content.len())?, length(name.len() + 1)?);
        // inode, mode, uid, gid, links, mtime, size, device (two), special device (two), length of the name, check
        let fields = [self.inode, mode, 0, 0, 1, mtime, size, 0, 0, 0, 0, name_size, 0];
        self.inode += 1;
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        header.push_str(name);
        header.push('\0');
        self.out.write_all(header.as_bytes())?;
        self.pad(header.len())?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    /// Pads to a multiple of four bytes, where every part of an entry starts.
    fn pad(&mut self, len: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..len.wrapping_neg() % 4])
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.record("TRAILER!!!", 0, &[], 0)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Names in an archive have no leading slash.
fn name(path: &Path) -> String {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_string_lossy()),
            _ => None,
        })
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_folders_come_first() {
        let mut archive = Archive::new(Vec::new());
        archive.file(Path::new("/a/b"), b"12345", true).expect("a vector");
        archive.file(Path::new("/a/b"), b"second", true).expect("a vector");
        archive.symlink(Path::new("a/c"), "b").expect("a vector");
        let bytes = archive.finish().expect("a vector");
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).expect("ASCII");
        let places: Vec<_> = text.match_indices("070701").map(|(place, _)| place).collect();
        assert_eq!(places.len(), 4);
        assert!(places.iter().all(|place| place % 4 == 0), "{places:?}");
        let names: Vec<_> = places
            .iter()
            .map(|place| text[place + 110..].split('\0').next().expect("a name"))
            .collect();
        assert_eq!(names, ["a", "a/b", "a/c", "TRAILER!!!"]);
        assert!(text.contains("12345") && !text.contains("second"));
        assert_eq!(&text[places[1] + 14..places[1] + 22], "000081ed");
    }
}
