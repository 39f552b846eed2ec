//! Gathered writes → the files: commits, and snapshots beside them.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use futures_lite::future;

use super::{
    DiskBuilder, Sync,
    load::{Log, load},
    record::{self, FORMAT},
    state::{Commit, Fault, Shared},
    storage::{FileName, Storage},
};
use crate::{
    Clock, clock,
    shared::log::{self, StoreLog},
    store::{DiskStats, Memory, Store},
};

/// Bytes of a snapshot that are written with each commit, besides twice the commit's own or more.
const SNAPSHOT_BYTES: usize = 16 * 1024;

/// Bytes of zeros that are written behind a log when it has come to the end of its file. To write over zeros and
/// sync them costs half of what it costs to make the file longer each time.
const ZEROS: usize = 1 << 20;

/// Bytes of a snapshot that are written until it is synced, so that the sync at its end is short. If logs are
/// to be short, as many as those have.
const UNSYNCED: u64 = 4 << 20;

/// Work on the files of snapshots that no commit waits for.
enum Background {
    Idle,
    Running(Pin<Box<dyn Future<Output = io::Result<()>> + Send>>),
    Failed(io::Error),
}

/// Writes gathered commits, one after the other.
pub(super) struct Committer<S> {
    storage: S,
    shared: Arc<Shared>,
    sync: Sync,
    /// When the last commit was taken.
    taken: Option<Instant>,
    min_log: u64,
    /// The log that is being written.
    log: Log,
    /// The older ones that a snapshot is to replace: the first one's generation is that of the last snapshot.
    older: Vec<Log>,
    /// Bytes of the snapshot that is complete.
    snapshot: u64,
    /// The one that is being written.
    next: Option<Snapshot>,
    background: Background,
    events: StoreLog,
}

/// A snapshot that is not complete. It has the generation of the log.
struct Snapshot {
    length: u64,
    synced: u64,
    progress: Progress,
}

enum Progress {
    /// The hash of the first key of the next part.
    From(u64),
    /// All keys are in the file.
    Written,
    /// In the background, it replaces what is older.
    Finishing,
}

impl<S: Storage> Committer<S> {
    pub(super) async fn open(
        storage: S,
        options: &mut DiskBuilder,
    ) -> io::Result<(Self, Arc<Shared>)> {
        let progress = &mut *options.progress.0;
        let mut loaded = load(storage.clone(), Memory::new(), u64::MAX, progress).await?;
        for file in loaded.unneeded {
            storage.remove(file).await?;
        }
        let log = match loaded.logs.pop() {
            Some(log) => log,
            None => {
                let first = FileName::Log(0);
                storage.write(first, 0, FORMAT.to_vec(), true).await?;
                let end = FORMAT.len() as u64;
                Log {
                    end,
                    length: end,
                    ..Log::default()
                }
            }
        };
        let mut committer = Self {
            storage,
            shared: Arc::new(Shared::new(loaded.memory, options.sync, loaded.last)),
            sync: options.sync,
            taken: None,
            min_log: options.min_log,
            log,
            // A snapshot was begun and not completed. It is begun again.
            next: (!loaded.logs.is_empty()).then(Snapshot::new),
            older: loaded.logs,
            snapshot: loaded.snapshot,
            background: Background::Idle,
            events: StoreLog::default(),
        };
        committer.count(|_| {});
        let shared = committer.shared.clone();
        Ok((committer, shared))
    }

    /// Commits until the disk fails.
    pub(super) async fn run(mut self, clock: Arc<dyn Clock>) {
        let fault = match self.commit_all(&*clock).await {
            Ok(never) => match never {},
            Err(fault) => fault,
        };
        log::disk_failed(&fault.error);
        let (memory, durable) = self.shared.on_fault(&fault);
        let loaded = load(self.storage.clone(), memory, durable + 1, &mut |_, _| {}).await;
        self.shared.on_values(loaded.map(|loaded| loaded.memory));
        // Nobody else may write there while values are served, so the storage stays open.
        future::pending().await
    }

    async fn commit_all(&mut self, clock: &dyn Clock) -> Result<Infallible, Fault> {
        loop {
            // What is gathered already came while the last commit was written.
            let gathered = gather(&self.shared, self.sync, self.taken, clock);
            beside(&mut self.background, gathered).await;
            self.taken = Some(clock.now());
            self.commit(clock).await?;
            self.go_on_with_snapshot(clock)?;
        }
    }

    async fn commit(&mut self, clock: &dyn Clock) -> Result<(), Fault> {
        let began = clock.now();
        let Some((commit, part)) = self.take(began) else {
            return Ok(());
        };
        let begin = self.log.end;
        let log = self.next_record(&commit);
        let log = self.storage.write(log.0, log.1, log.2, true);
        let part = self.next_part(part);
        let part = part.map(|part| self.storage.write(part.0, part.1, part.2, false));
        let part = async {
            match part {
                Some(part) => part.await,
                None => Ok(()),
            }
        };
        let (log, part) = beside(&mut self.background, future::zip(log, part)).await;
        if let Err(error) = log {
            // It must not be there after a restart, if its writes are said to have failed.
            let name = FileName::Log(self.log.generation);
            let undone = self.storage.truncate(name, begin).await;
            let unknown = undone.is_err().then_some(commit.number);
            return Err(Fault { error, unknown });
        }
        let time = clock.now() - began;
        let took = micros(time);
        self.log.commits += 1;
        self.shared.state().commit_times.record_time(time);
        self.count(|stats| {
            stats.commits += 1;
            stats.writes += commit.writes;
            stats.last_commit = took;
            stats.longest_commit = stats.longest_commit.max(took);
        });
        self.shared.on_commit(commit.number);
        Ok(part?)
    }

    /// The next commit, and the part of a snapshot that is written with it.
    fn take(&mut self, now: Instant) -> Option<(Commit, Vec<u8>)> {
        let (commit, state) = self.shared.take()?;
        let mut bytes = Vec::new();
        let data = Store::size(&state.memory).charged();
        let due = self.min_log.max(data);
        // While its file is synced, nothing is written to it: a commit would wait for that.
        if matches!(self.background, Background::Idle)
            && let Some(Snapshot {
                length, progress, ..
            }) = &mut self.next
            && let Progress::From(from) = *progress
        {
            if *length == 0 {
                bytes.extend_from_slice(FORMAT);
            }
            // Twice the commit's bytes, and twice that with each time that the log is as long as it should be when
            // the next one is begun: each start begins the snapshot again, and may come before it is complete.
            let pace = 2_usize << (self.log.end / due.max(1)).min(6);
            let bytes_wanted = pace * commit.lines.len() + SNAPSHOT_BYTES;
            let (mut lines, mut next) = (Vec::new(), Some(from));
            // A part ends with its table, however small that is.
            while let Some(from) = next
                && lines.len() < bytes_wanted
            {
                let part = state.snapshot(from, bytes_wanted - lines.len());
                lines.extend_from_slice(&part.lines);
                next = part.next;
            }
            if !lines.is_empty() {
                record::encode(commit.number, &lines, &mut bytes);
            }
            *progress = match next {
                Some(from) => Progress::From(from),
                None => {
                    record::encode(commit.number, b"", &mut bytes);
                    Progress::Written
                }
            };
        }
        // The new log is there before the new snapshot is.
        if self.next.is_none() && self.log.end >= due {
            self.events.snapshot_begun(now);
            self.next = Some(Snapshot::new());
            let generation = self.log.generation + 1;
            let log = Log {
                generation,
                ..Log::default()
            };
            self.older.push(std::mem::replace(&mut self.log, log));
        }
        Some((commit, bytes))
    }

    /// A commit, to be written behind the last one.
    fn next_record(&mut self, commit: &Commit) -> (FileName, u64, Vec<u8>) {
        let log = &mut self.log;
        let at = log.end;
        let mut bytes = Vec::with_capacity(commit.lines.len() + 64);
        if at == 0 {
            bytes.extend_from_slice(FORMAT);
        }
        record::encode(commit.number, &commit.lines, &mut bytes);
        log.end += bytes.len() as u64;
        if log.end > log.length {
            // A log that is to be short has fewer.
            let zeros = ZEROS.min(usize::try_from(self.min_log / 4).unwrap_or(ZEROS));
            bytes.resize(bytes.len() + zeros, 0);
            log.length = at + bytes.len() as u64;
        }
        (FileName::Log(log.generation), at, bytes)
    }

    /// A part of a snapshot, to be written behind the last one.
    fn next_part(&mut self, bytes: Vec<u8>) -> Option<(FileName, u64, Vec<u8>)> {
        let next = self.next.as_mut().filter(|_| !bytes.is_empty())?;
        let at = next.length;
        next.length += bytes.len() as u64;
        Some((FileName::NewSnapshot(self.log.generation), at, bytes))
    }

    /// All commits that are in the snapshot are on the disk.
    fn go_on_with_snapshot(&mut self, clock: &dyn Clock) -> io::Result<()> {
        match std::mem::replace(&mut self.background, Background::Idle) {
            Background::Idle => {}
            Background::Failed(error) => return Err(error),
            running => {
                self.background = running;
                return Ok(());
            }
        }
        let Some(next) = &mut self.next else {
            return Ok(());
        };
        let generation = self.log.generation;
        let new = FileName::NewSnapshot(generation);
        let storage = self.storage.clone();
        match next.progress {
            Progress::From(_) if next.length - next.synced < UNSYNCED.min(self.min_log) => {}
            Progress::From(_) => {
                next.synced = next.length;
                self.background = Background::Running(Box::pin(storage.sync(new)));
            }
            Progress::Written => {
                next.progress = Progress::Finishing;
                let logs = self.older.iter().map(|log| log.generation);
                let logs: Vec<_> = logs.collect();
                self.background = Background::Running(Box::pin(async move {
                    storage.sync(new).await?;
                    storage.rename(new, FileName::Snapshot(generation)).await?;
                    for log in logs {
                        storage.remove(FileName::Snapshot(log)).await?;
                        storage.remove(FileName::Log(log)).await?;
                    }
                    Ok(())
                }));
            }
            Progress::Finishing => {
                self.snapshot = next.length;
                self.events.snapshot_complete(self.snapshot, clock.now());
                self.older.clear();
                self.next = None;
                self.count(|_| {});
            }
        }
        Ok(())
    }

    fn count(&mut self, change: impl FnOnce(&mut DiskStats)) {
        let logs = || self.older.iter().chain([&self.log]);
        let next = self.next.as_ref().map_or(0, |next| next.length);
        let stats = &mut self.shared.state().stats;
        stats.bytes = self.snapshot + next + logs().map(|log| log.length).sum::<u64>();
        stats.log_commits = logs().map(|log| log.commits).sum();
        change(stats);
    }
}

impl Snapshot {
    fn new() -> Self {
        Self {
            length: 0,
            synced: 0,
            progress: Progress::From(0),
        }
    }
}

/// Of something else than a commit.
impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        let unknown = None;
        Self { error, unknown }
    }
}

/// Runs `main` to its end, and the background beside it as far as it gets.
async fn beside<T>(background: &mut Background, main: impl Future<Output = T>) -> T {
    let mut main = pin!(main);
    poll_fn(|cx| {
        if let Background::Running(work) = background
            && let Poll::Ready(done) = work.as_mut().poll(cx)
        {
            *background = done.map_or_else(Background::Failed, |()| Background::Idle);
        }
        main.as_mut().poll(cx)
    })
    .await
}

/// Waits for writes, and with [`Sync::Within`] until the time of the first one is over. Those that are there
/// already came after the last commit was `taken`.
async fn gather(shared: &Shared, sync: Sync, taken: Option<Instant>, clock: &dyn Clock) {
    let first = taken.filter(|_| shared.is_gathered());
    wait_until(shared, Shared::is_gathered).await;
    if let Sync::Within(time) = sync {
        let due = clock::later(first.unwrap_or_else(|| clock.now()), time);
        let urgent = wait_until(shared, Shared::is_urgent);
        future::or(urgent, clock.sleep(due)).await;
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
