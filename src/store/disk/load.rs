//! Files → the values in memory, and where to go on writing.

use std::io;

use super::{
    record::{End, Reader, Record},
    storage::{FileName, Storage},
};
use crate::{
    protocol::{Command, Operation, Write},
    store::Memory,
};

/// What was read.
pub(super) struct Loaded {
    pub(super) memory: Memory,
    /// The number of the last commit.
    pub(super) last: u64,
    /// Bytes of the snapshot.
    pub(super) snapshot: u64,
    /// The logs, the oldest first. It has the generation of the snapshot.
    pub(super) logs: Vec<Log>,
    /// Files that are not needed any more.
    pub(super) unneeded: Vec<FileName>,
}

/// A log.
#[derive(Clone, Copy, Default)]
pub(super) struct Log {
    pub(super) generation: u64,
    pub(super) commits: u64,
    /// Where the next record goes.
    pub(super) end: u64,
    /// Bytes of the file. Those behind the end are zeros.
    pub(super) length: u64,
}

/// Reads the newest snapshot, and what the logs say came later, but nothing from the commit `until` on. Nothing
/// may be missing. A torn end is cut off, unless it is behind `until`.
///
/// `progress` gets the bytes that were read, and those of all files that are.
pub(super) async fn load(
    storage: impl Storage,
    memory: Memory,
    until: u64,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> io::Result<Loaded> {
    let mut files = storage.list().await?;
    files.sort_unstable();
    let newest = files.iter().filter_map(|(name, _)| match name {
        FileName::Snapshot(generation) => Some(*generation),
        _ => None,
    });
    let newest = newest.max();
    let oldest_log = newest.unwrap_or(0);
    let (needed, unneeded) = files
        .into_iter()
        .partition::<Vec<_>, _>(|(name, _)| match name {
            FileName::Log(generation) => *generation >= oldest_log,
            FileName::Snapshot(generation) => Some(*generation) == newest,
            FileName::NewSnapshot(_) => false,
        });
    let unneeded: Vec<_> = unneeded.into_iter().map(|(name, _)| name).collect();
    // It was begun after this log.
    let begun = unneeded.iter().filter_map(|name| match name {
        FileName::NewSnapshot(generation) if *generation > oldest_log => {
            Some(FileName::Log(*generation))
        }
        _ => None,
    });
    let is_there = |log: &FileName| needed.iter().any(|(name, _)| name == log);
    if let Some(log) = begun.max().filter(|log| !is_there(log)) {
        return Err(missing(log));
    }
    let is_new = needed.is_empty() && unneeded.is_empty();
    let total = needed.iter().map(|(_, bytes)| bytes).sum();
    let mut loader = Loader {
        storage,
        memory,
        until,
        begin: 1,
        next: None,
        snapshot: 0,
        read: 0,
        total,
        progress,
    };
    let mut snapshot = 0;
    let mut logs = Vec::new();
    for &(name, length) in needed.iter().rev() {
        if let FileName::Snapshot(_) = name {
            loader.read_snapshot(name).await?;
            snapshot = length;
        }
    }
    // What a log changes is not of the snapshot any more, so no later write of that key is left out.
    loader.memory.set_commit(0);
    let names = needed
        .iter()
        .filter(|(name, _)| matches!(name, FileName::Log(_)));
    let newest_log = names.clone().next_back().map(|(name, _)| *name);
    for (generation, &(name, length)) in (oldest_log..).zip(names) {
        if name != FileName::Log(generation) {
            return Err(missing(FileName::Log(generation)));
        }
        let log = Log {
            generation,
            length,
            ..Log::default()
        };
        logs.push(loader.read_log(log, newest_log == Some(name)).await?);
    }
    let last = loader.last();
    // When values are read anew, all commits before `until` were on the disk.
    let is_short = until < u64::MAX && last + 1 < until;
    if (logs.is_empty() && !is_new) || last < loader.snapshot || is_short {
        return Err(missing(newest_log.unwrap_or(FileName::Log(oldest_log))));
    }
    Ok(Loaded {
        memory: loader.memory,
        last,
        snapshot,
        logs,
        unneeded,
    })
}

struct Loader<'a, S> {
    storage: S,
    memory: Memory,
    until: u64,
    /// The first log has all commits from this one on, or from an earlier one.
    begin: u64,
    /// The commit that is next in a log.
    next: Option<u64>,
    /// The last commit in the snapshot.
    snapshot: u64,
    read: u64,
    total: u64,
    progress: &'a mut (dyn FnMut(u64, u64) + Send),
}

impl<S: Storage> Loader<'_, S> {
    async fn read_snapshot(&mut self, name: FileName) -> io::Result<()> {
        let Some(mut reader) = Reader::open(self.storage.clone(), name).await? else {
            return Err(missing(name));
        };
        let mut is_first = true;
        while let Some(record) = reader.next().await? {
            let (at, is_last) = (record.at, record.lines.is_empty());
            if is_first {
                self.begin = record.commit;
                is_first = false;
            }
            let is_whole = record.commit >= self.snapshot && self.add_keys(&record);
            if !is_whole {
                return Err(reader.damaged(at));
            }
            if is_last {
                return Ok(());
            }
        }
        Err(reader.damaged(reader.place()))
    }

    fn add_keys(&mut self, record: &Record<'_>) -> bool {
        self.snapshot = record.commit;
        self.memory.set_commit(record.commit);
        self.count(record);
        writes(record.lines, |write| self.memory.load(write))
    }

    async fn read_log(&mut self, mut log: Log, is_newest: bool) -> io::Result<Log> {
        let name = FileName::Log(log.generation);
        let Some(mut reader) = Reader::open(self.storage.clone(), name).await? else {
            if !is_newest {
                return Err(missing(name));
            }
            if self.is_reload() {
                return Ok(log);
            }
            self.check_last(name)?;
            self.storage.truncate(name, 0).await?;
            log.length = 0;
            return Ok(log);
        };
        // Where the last record begins, with the first line if it is the only one.
        let mut last = 0;
        while let Some(record) = reader.next().await? {
            let at = record.at;
            if record.commit >= self.until {
                return Ok(log);
            }
            if !self.add_commit(&record) {
                return Err(reader.damaged(at));
            }
            log.commits += 1;
            if log.commits > 1 {
                last = at;
            }
        }
        log.end = reader.place();
        if self.is_reload() {
            return Ok(log);
        }
        let end = reader.end().await?;
        if is_newest {
            self.check_last(name)?;
            // A commit that has failed may have been cut off, or its sync may have failed, before the process
            // ended. Then the system may show what is not on the disk. So both are done again.
            self.storage.truncate(name, log.end).await?;
            log.length = log.end;
            let bytes = usize::try_from(log.end - last).unwrap_or(usize::MAX);
            let record = self.storage.read(name, last, bytes).await?;
            self.storage.write(name, last, record, true).await?;
        } else if end == End::Torn {
            return Err(reader.damaged(log.end));
        }
        Ok(log)
    }

    /// The number of the last commit.
    fn last(&self) -> u64 {
        self.next.map_or(0, |next| next - 1)
    }

    /// A snapshot is complete only if the log has all commits that are in it. Without them, the log's end is lost
    /// and not torn, and stays as it is.
    fn check_last(&self, log: FileName) -> io::Result<()> {
        match self.last() < self.snapshot {
            true => Err(missing(log)),
            false => Ok(()),
        }
    }

    /// The disk has failed: nothing may be written.
    fn is_reload(&self) -> bool {
        self.until < u64::MAX
    }

    fn add_commit(&mut self, record: &Record<'_>) -> bool {
        let is_next = match self.next {
            Some(next) => record.commit == next,
            None => record.commit <= self.begin,
        };
        self.next = record.commit.checked_add(1);
        self.count(record);
        let memory = &mut self.memory;
        let is_whole = writes(record.lines, |write| {
            if memory.get_with_commit(write.key()).1 < record.commit {
                memory.load(write);
            }
        });
        is_next && is_whole
    }

    fn count(&mut self, record: &Record<'_>) {
        self.read += record.lines.len() as u64;
        (self.progress)(self.read, self.total);
    }
}

fn missing(name: FileName) -> io::Error {
    let message = format!("{name} is missing or damaged, or its end is missing; restore a copy");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Calls `f` with each of these lines. Gives whether all are writes.
fn writes(lines: &[u8], mut f: impl FnMut(Write<'_>)) -> bool {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', lines) {
        match Command::parse(&lines[start..end]) {
            Ok(Command::Operation(Operation::Write(write))) => f(write),
            _ => return false,
        }
        start = end + 1;
    }
    start == lines.len()
}
