//! Records: what the files hold, and how the end of a file is told from damage.
//!
//! A file begins with the line [`FORMAT`]. Records follow, each behind the last one. What is not written yet is zeros.

use std::io;

use super::storage::{FileName, Storage};

/// The first line of every file: the version of the format.
pub(super) const FORMAT: &[u8] = b"keywire 1\n";

/// What the first line of a file begins with, in every version.
const ANY_FORMAT: &[u8] = b"keywire ";

/// A record begins so, with the LF of the line before it. No line of a client holds that: it begins with a command.
const MAGIC: [u8; 4] = *b"\xf7rec";

/// The magic, the checksum of the lines, their length in bytes, the number of the commit, and the checksum of all
/// this. Numbers are little-endian.
const HEADER: usize = 4 + 4 + 8 + 8 + 4;

/// Bytes that are read in one go.
const READ_BYTES: usize = 1 << 20;

/// A disk writes at least so many bytes at a time, and so loses so many at a time.
const SECTOR: usize = 512;

/// Appends a record.
pub(super) fn encode(commit: u64, lines: &[u8], to: &mut Vec<u8>) {
    let begin = to.len();
    to.extend_from_slice(&MAGIC);
    to.extend_from_slice(&crc32fast::hash(lines).to_le_bytes());
    to.extend_from_slice(&(lines.len() as u64).to_le_bytes());
    to.extend_from_slice(&commit.to_le_bytes());
    let checksum = crc32fast::hash(&to[begin..]);
    to.extend_from_slice(&checksum.to_le_bytes());
    to.extend_from_slice(lines);
}

/// The beginning of a record.
#[derive(Clone, Copy)]
struct Header {
    checksum: u32,
    /// Bytes of the whole record.
    length: u64,
    commit: u64,
}

impl Header {
    /// The header at the beginning of these bytes, if a valid one is there.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, checksum) = bytes.first_chunk::<HEADER>()?.split_last_chunk()?;
        let is_valid =
            header.starts_with(&MAGIC) && u32::from_le_bytes(*checksum) == crc32fast::hash(header);
        let lines = u64::from_le_bytes(*header[8..].first_chunk()?);
        let header = Self {
            checksum: u32::from_le_bytes(*header[4..].first_chunk()?),
            length: lines.checked_add(HEADER as u64)?,
            commit: u64::from_le_bytes(*header[16..].first_chunk()?),
        };
        is_valid.then_some(header)
    }
}

/// A record that was read.
pub(super) struct Record<'a> {
    pub(super) commit: u64,
    pub(super) lines: &'a [u8],
    /// Where it begins in the file.
    pub(super) at: u64,
}

/// Reads the records of a file.
pub(super) struct Reader<S> {
    storage: S,
    file: FileName,
    /// What was read and is not used up, from this place of the file on.
    buffer: Vec<u8>,
    at: u64,
    /// Bytes at the beginning of the buffer that are used up.
    used: usize,
    /// The buffer reaches to the end of the file.
    is_all: bool,
    last: u64,
}

/// What stands behind the last record of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing.
    Clean,
    /// A part of a record, as a crash in the middle of its write leaves it.
    Torn,
}

impl<S: Storage> Reader<S> {
    /// `None` if a crash came when the first line and the first record were written.
    pub(super) async fn open(storage: S, file: FileName) -> io::Result<Option<Self>> {
        let mut this = Self {
            storage,
            file,
            buffer: Vec::new(),
            at: 0,
            used: 0,
            is_all: false,
            last: 0,
        };
        this.fill(FORMAT.len() as u64).await?;
        if this.rest().starts_with(FORMAT) {
            this.used = FORMAT.len();
            return Ok(Some(this));
        }
        this.fill(u64::MAX).await?;
        let rest = this.rest();
        let zeros = rest.iter().rev().take_while(|&&byte| byte == 0).count();
        if FORMAT.starts_with(&rest[..rest.len() - zeros]) {
            return Ok(None);
        }
        if rest.starts_with(ANY_FORMAT) {
            let line = rest.split(|&byte| byte == b'\n').next();
            return Err(io::Error::other(format!(
                "{file} was written by a newer version ({}); this one reads {}",
                String::from_utf8_lossy(line.unwrap_or_default()),
                String::from_utf8_lossy(FORMAT.trim_ascii_end()),
            )));
        }
        this.end().await.map(|_| None)
    }

    /// The next record, or `None` at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        self.fill(HEADER as u64).await?;
        let Some(header) = Header::parse(self.rest()) else {
            return Ok(None);
        };
        self.fill(header.length).await?;
        let at = self.place();
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let Some(lines) = self.rest().get(HEADER..length) else {
            return Ok(None);
        };
        if crc32fast::hash(lines) != header.checksum {
            return Ok(None);
        }
        let lines = self.used + HEADER..self.used + length;
        self.used = lines.end;
        self.last = header.commit;
        Ok(Some(Record {
            commit: header.commit,
            lines: &self.buffer[lines],
            at,
        }))
    }

    /// Where the next record is, or would be.
    pub(super) fn place(&self) -> u64 {
        self.at + self.used as u64
    }

    /// What stands where there is no record; an error if it is damage.
    pub(super) async fn end(&mut self) -> io::Result<End> {
        self.fill(u64::MAX).await?;
        end_of(self.rest(), self.place(), self.last).ok_or_else(|| self.damaged(self.place()))
    }

    pub(super) fn damaged(&self, at: u64) -> io::Error {
        let message = format!(
            "{}: the record at byte {at} is damaged, or one before it is missing; restore a copy",
            self.file
        );
        io::Error::new(io::ErrorKind::InvalidData, message)
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    /// Reads until so many bytes are there, or the file ends.
    async fn fill(&mut self, bytes: u64) -> io::Result<()> {
        if self.is_all || self.rest().len() as u64 >= bytes {
            return Ok(());
        }
        self.buffer.drain(..self.used);
        self.at += std::mem::take(&mut self.used) as u64;
        while !self.is_all && (self.buffer.len() as u64) < bytes {
            let from = self.at + self.buffer.len() as u64;
            let read = self.storage.read(self.file, from, READ_BYTES).await?;
            self.is_all = read.len() < READ_BYTES;
            self.buffer.extend_from_slice(&read);
        }
        Ok(())
    }
}

/// What stands in a file from this place on, behind a record of the commit `last`. `None` if it is damage.
///
/// Only the record that was written last can be torn, and then a sector of it, or its end, is not on the disk. So
/// it is damage if a later record follows, or anything else, or if nothing is missing. The last byte of a record is
/// LF, so zeros at the end are none of its.
fn end_of(rest: &[u8], at: u64, last: u64) -> Option<End> {
    let Some(written) = rest.iter().rposition(|&byte| byte != 0) else {
        return Some(End::Clean);
    };
    let written = &rest[..=written];
    let later = |header: Header| header.commit > last.saturating_add(1);
    let mut lines = memchr::memchr_iter(b'\n', written);
    if lines.any(|lf| Header::parse(&written[lf + 1..]).is_some_and(later)) {
        return None;
    }
    let is_short = match Header::parse(written) {
        Some(header) if written.len() as u64 > header.length => return None,
        Some(header) => (written.len() as u64) < header.length,
        None => written.len() < HEADER,
    };
    let first = SECTOR - (at % SECTOR as u64) as usize;
    let (first, others) = written.split_at(first.min(written.len()));
    let mut sectors = std::iter::once(first).chain(others.chunks(SECTOR));
    let is_lost = sectors.any(|sector| sector.iter().all(|&byte| byte == 0));
    (is_short || is_lost).then_some(End::Torn)
}

#[cfg(test)]
mod tests {
    use super::{End, FORMAT, encode, end_of};

    /// Two records, the second of 3,000 bytes.
    fn records() -> (Vec<u8>, usize) {
        let mut bytes = FORMAT.to_vec();
        encode(7, b"Put:a:1\n", &mut bytes);
        let second = bytes.len();
        encode(
            8,
            format!("Put:a:{}\n", "x".repeat(3_000)).as_bytes(),
            &mut bytes,
        );
        (bytes, second)
    }

    #[test]
    fn a_record_that_lacks_sectors_or_its_end_is_torn() {
        let (bytes, second) = records();
        let end = |bytes: &[u8]| end_of(&bytes[second..], second as u64, 7);
        for length in second + 1..bytes.len() {
            assert_eq!(end(&bytes[..length]), Some(End::Torn), "{length}");
        }
        for sector in 0..bytes.len().div_ceil(512) {
            let mut bytes = bytes.clone();
            let range = sector * 512..bytes.len().min(sector * 512 + 512);
            bytes[range.start.max(second)..range.end].fill(0);
            bytes.resize(8_192, 0);
            assert_eq!(end(&bytes), Some(End::Torn), "{sector}");
        }
        assert_eq!(
            end(&[&bytes[..second], &[0; 5_000]].concat()),
            Some(End::Clean)
        );
    }

    #[test]
    fn a_flipped_byte_is_damage() {
        let (bytes, second) = records();
        for at in second..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            bytes.resize(8_192, 0);
            assert_eq!(end_of(&bytes[second..], second as u64, 7), None, "{at}");
        }
    }

    #[test]
    fn what_is_followed_by_a_record_is_damaged_however_it_looks() {
        let (mut bytes, second) = records();
        encode(9, b"Put:a:2\n", &mut bytes);
        bytes[second..second + 1_500].fill(0);
        assert_eq!(end_of(&bytes[second..], second as u64, 7), None);
    }

    /// The lost sector holds the end of a record, and the beginning of the last one.
    #[test]
    fn what_is_followed_by_a_part_of_a_record_is_damaged() {
        let (mut bytes, second) = records();
        let sector = bytes.len() / 512 * 512;
        encode(
            9,
            format!("Put:a:{}\n", "y".repeat(2_000)).as_bytes(),
            &mut bytes,
        );
        bytes[sector..sector + 512].fill(0);
        assert_eq!(end_of(&bytes[second..], second as u64, 7), None);
    }
}
