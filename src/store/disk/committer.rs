//! Gathered writes → the engine: commits, snapshots, and the loading of both.

use std::{io, sync::Arc, time::Duration};

use futures_lite::future;

use super::{
    DiskBuilder, Sync,
    engine::{Engine, Row, Space},
    state::{Commit, Shared},
};
use crate::{
    Clock, clock,
    protocol::{Command, Operation, Write},
    store::{DiskStats, Memory, Store},
};

/// The version of the format that is written.
const FORMAT: &[u8] = b"keywire 1";

/// The rows of the space `Meta`.
const FORMAT_ROW: u64 = 0;
const SNAPSHOT_ROW: u64 = 1;

/// Bytes of a snapshot that a commit carries besides twice its own.
const SNAPSHOT_BYTES: usize = 16 * 1024;

/// Writes gathered commits, one after the other.
pub(super) struct Committer<E> {
    engine: E,
    shared: Arc<Shared>,
    sync: Sync,
    min_log: u64,
    /// The log that is being written.
    log: usize,
    logs: [Log; 2],
    /// The snapshot that is complete.
    snapshot: usize,
    /// The one that is being written.
    next: Option<Snapshot>,
}

/// What a log holds.
#[derive(Clone, Copy, Default)]
struct Log {
    bytes: u64,
    commits: u64,
}

/// A snapshot that is not complete.
struct Snapshot {
    /// The number of its next row.
    row: u64,
    /// The hash of the first key of that row.
    from: u64,
}

impl<E: Engine> Committer<E> {
    pub(super) async fn open(
        mut engine: E,
        options: DiskBuilder,
    ) -> io::Result<(Self, Arc<Shared>)> {
        check_format(&mut engine).await?;
        let loaded = load(&mut engine, Memory::new()).await?;
        // What a snapshot that was not completed has left behind, and what the last one has replaced.
        engine.clear(Space::Snapshot(1 - loaded.snapshot)).await?;
        let stats = DiskStats {
            bytes: engine.bytes(),
            log_commits: loaded.logs.iter().map(|log| log.commits).sum(),
            ..DiskStats::default()
        };
        let shared = Arc::new(Shared::new(loaded.memory, options.sync, loaded.last, stats));
        let committer = Self {
            engine,
            shared: shared.clone(),
            sync: options.sync,
            min_log: options.min_log,
            log: loaded.log,
            logs: loaded.logs,
            snapshot: loaded.snapshot,
            // The other log is not empty if a snapshot was not completed. Then one is begun at once.
            next: (loaded.logs[1 - loaded.log].commits > 0).then_some(Snapshot { row: 0, from: 0 }),
        };
        Ok((committer, shared))
    }

    /// Commits until the disk fails.
    pub(super) async fn run(mut self, clock: Arc<dyn Clock>) {
        loop {
            gather(&self.shared, self.sync, &*clock).await;
            if let Err(error) = self.commit(&*clock).await {
                let empty = self.shared.on_fault(&error);
                let memory = load(&mut self.engine, empty)
                    .await
                    .map(|loaded| loaded.memory);
                self.shared.on_values(memory);
                // Nobody else may write there while these values are served.
                return future::pending().await;
            }
        }
    }

    async fn commit(&mut self, clock: &dyn Clock) -> io::Result<()> {
        let began = clock.now();
        let Some((commit, rows, completes)) = self.take() else {
            return Ok(());
        };
        self.engine.write(rows, true).await?;
        let took = clock.now() - began;
        let bytes = self.engine.bytes();
        let log_commits = self.logs.iter().map(|log| log.commits).sum();
        self.shared.on_commit(&commit, |stats| {
            stats.last_commit = micros(took);
            stats.longest_commit = stats.longest_commit.max(stats.last_commit);
            stats.bytes = bytes;
            stats.log_commits = log_commits;
        });
        if completes {
            self.complete_snapshot().await?;
        }
        Ok(())
    }

    /// The next commit with its rows, and whether it completes a snapshot.
    fn take(&mut self) -> Option<(Commit, Vec<Row>, bool)> {
        let (mut commit, state) = self.shared.take()?;
        let mut rows = Vec::with_capacity(2);
        let mut completes = false;
        let carries = 2 * commit.lines.len() + SNAPSHOT_BYTES;
        if let Some(next) = &mut self.next {
            let part = state.snapshot(next.from, carries);
            let mut value = commit.number.to_be_bytes().to_vec();
            value.extend_from_slice(&part.lines);
            rows.push(Row {
                space: Space::Snapshot(1 - self.snapshot),
                number: next.row,
                value,
            });
            next.row += 1;
            match part.next {
                Some(from) => next.from = from,
                None => completes = true,
            }
        }
        drop(state);
        if completes {
            rows.push(Row {
                space: Space::Meta,
                number: SNAPSHOT_ROW,
                value: snapshot_row(
                    1 - self.snapshot,
                    self.next.as_ref().map_or(0, |next| next.row),
                ),
            });
        }
        let log = &mut self.logs[self.log];
        log.bytes += commit.lines.len() as u64;
        log.commits += 1;
        rows.push(Row {
            space: Space::Log(self.log),
            number: commit.number,
            value: std::mem::take(&mut commit.lines),
        });
        if self.next.is_none() && self.is_log_long() {
            self.begin_snapshot();
        }
        Some((commit, rows, completes))
    }

    fn is_log_long(&self) -> bool {
        let data = Store::size(&self.shared.state().memory).charged();
        self.logs[self.log].bytes >= self.min_log.max(data)
    }

    /// Commits from the next one on are in the other log.
    fn begin_snapshot(&mut self) {
        self.next = Some(Snapshot { row: 0, from: 0 });
        self.log = 1 - self.log;
    }

    async fn complete_snapshot(&mut self) -> io::Result<()> {
        self.next = None;
        self.logs[1 - self.log] = Log::default();
        self.engine.clear(Space::Snapshot(self.snapshot)).await?;
        self.engine.clear(Space::Log(1 - self.log)).await?;
        self.snapshot = 1 - self.snapshot;
        Ok(())
    }
}

/// Waits for writes, and with [`Sync::Within`] for the time to be over.
async fn gather(shared: &Shared, sync: Sync, clock: &dyn Clock) {
    wait_until(shared, Shared::is_gathered).await;
    if let Sync::Within(time) = sync {
        let urgent = wait_until(shared, Shared::is_urgent);
        future::or(urgent, clock::sleep(clock, time)).await;
    }
}

async fn wait_until(shared: &Shared, condition: fn(&Shared) -> bool) {
    loop {
        let gathered = shared.gathered.listen();
        if condition(shared) {
            return;
        }
        gathered.await;
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros().try_into().unwrap_or(u64::MAX)
}

/// Sees to it that the rows are those of this store, or that there are none.
async fn check_format(engine: &mut impl Engine) -> io::Result<()> {
    let rows = engine.read(Space::Meta, FORMAT_ROW).await?;
    match rows.first() {
        Some((FORMAT_ROW, format)) if format == FORMAT => Ok(()),
        Some((FORMAT_ROW, format)) if format.starts_with(b"keywire ") => {
            Err(io::Error::other(format!(
                "it was written by a newer version ({}); this one reads {}",
                String::from_utf8_lossy(format),
                String::from_utf8_lossy(FORMAT),
            )))
        }
        Some(_) => Err(io::Error::other("it holds no store of keywire")),
        None => {
            let row = Row {
                space: Space::Meta,
                number: FORMAT_ROW,
                value: FORMAT.to_vec(),
            };
            engine.write(vec![row], true).await
        }
    }
}

/// What was read at the start.
struct Loaded {
    memory: Memory,
    /// The number of the last commit.
    last: u64,
    /// The snapshot that is complete, and the log to go on with.
    snapshot: usize,
    log: usize,
    logs: [Log; 2],
}

/// The row that says which snapshot is complete, and how many rows it has.
fn snapshot_row(snapshot: usize, rows: u64) -> Vec<u8> {
    let mut value = vec![snapshot as u8];
    value.extend_from_slice(&rows.to_be_bytes());
    value
}

fn parse_snapshot_row(value: &[u8]) -> Option<(usize, u64)> {
    let (&snapshot, rows) = value.split_first()?;
    let rows = u64::from_be_bytes(rows.try_into().ok()?);
    (snapshot <= 1).then_some((snapshot.into(), rows))
}

/// Reads the snapshot that is complete, and what the logs say came later. No row may be missing.
async fn load(engine: &mut impl Engine, memory: Memory) -> io::Result<Loaded> {
    let meta = engine.read(Space::Meta, SNAPSHOT_ROW).await?;
    let (snapshot, snapshot_rows) = match meta.first() {
        Some((SNAPSHOT_ROW, value)) => {
            parse_snapshot_row(value).ok_or_else(|| damaged(SNAPSHOT_ROW, Space::Meta))?
        }
        _ => (0, 0),
    };
    let mut loaded = Loaded {
        memory,
        last: 0,
        snapshot,
        log: 0,
        logs: [Log::default(); 2],
    };
    let mut rows = 0;
    // The logs have all commits from this one on.
    let mut begin = 1;
    if snapshot_rows > 0 {
        each_row(engine, Space::Snapshot(snapshot), |row, value| {
            let (commit, lines) = value.split_first_chunk()?;
            let commit = u64::from_be_bytes(*commit);
            if row == 0 {
                begin = commit;
            }
            if row != rows || commit < loaded.last {
                return None;
            }
            rows += 1;
            loaded.last = commit;
            loaded.memory.set_commit(commit);
            writes(lines, |write| loaded.memory.load(write))
        })
        .await?;
    }
    if rows != snapshot_rows {
        return Err(damaged(rows, Space::Snapshot(snapshot)));
    }
    let mut first = [None; 2];
    for (log, first) in first.iter_mut().enumerate() {
        let rows = engine.read(Space::Log(log), 0).await?;
        *first = rows.first().map(|(number, _)| *number);
    }
    // What a log changes is not of the snapshot any more, so no later write of that key is left out.
    loaded.memory.set_commit(0);
    // The older one first. An empty one is older than any.
    let order = if first[0] <= first[1] { [0, 1] } else { [1, 0] };
    let oldest = first[order[0]].or(first[order[1]]);
    if oldest.is_some_and(|oldest| oldest > begin) || (oldest.is_none() && rows > 0) {
        return Err(damaged(begin, Space::Log(order[0])));
    }
    let mut next = oldest;
    for log in order {
        each_row(engine, Space::Log(log), |commit, lines| {
            if next != Some(commit) {
                return None;
            }
            next = Some(commit.checked_add(1)?);
            loaded.last = loaded.last.max(commit);
            loaded.logs[log].bytes += lines.len() as u64;
            loaded.logs[log].commits += 1;
            writes(lines, |write| {
                if loaded.memory.get_with_commit(write.key()).1 < commit {
                    loaded.memory.load(write);
                }
            })
        })
        .await?;
    }
    loaded.log = order[1];
    Ok(loaded)
}

fn damaged(row: u64, space: Space) -> io::Error {
    let message = format!("row {row} of {space:?} is missing or damaged; restore a copy");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Calls `f` with each row of a space. It gives `None` for one that is damaged.
async fn each_row(
    engine: &mut impl Engine,
    space: Space,
    mut f: impl FnMut(u64, &[u8]) -> Option<()>,
) -> io::Result<()> {
    let mut from = 0;
    loop {
        let rows = engine.read(space, from).await?;
        let Some(&(last, _)) = rows.last() else {
            return Ok(());
        };
        for (number, value) in rows {
            f(number, &value).ok_or_else(|| damaged(number, space))?;
        }
        from = last.saturating_add(1);
        future::yield_now().await;
    }
}

/// Calls `f` with each of these lines. `None` if one is no write.
fn writes(lines: &[u8], mut f: impl FnMut(Write<'_>)) -> Option<()> {
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', lines) {
        match Command::parse(&lines[start..end]) {
            Ok(Command::Operation(Operation::Write(write))) => f(write),
            _ => return None,
        }
        start = end + 1;
    }
    (start == lines.len()).then_some(())
}
