//! The values in memory, and the commit that is being gathered.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, MutexGuard},
};

use event_listener::Event as Notify;

use super::Sync;
use crate::{
    Histogram,
    lock::Lock,
    protocol::{Command, Operation, Write},
    store::{
        Batch, DiskStats, KeyPage, Memory,
        memory::{MemoryLimits, durable::SnapshotPart},
    },
};

/// Bytes of writes that wait to be committed, from which on they are answered only when they are, however
/// long that may take by the setting.
const MAX_GATHERED: usize = 16 << 20;

/// What a store and its committer share.
pub(super) struct Shared {
    state: Lock<State>,
    /// Something was gathered.
    pub(super) gathered: Notify,
    /// A commit is on the disk, or has failed, or the values were read anew.
    settled: Notify,
}

pub(super) struct State {
    pub(super) memory: Memory,
    sync: Sync,
    /// The writes of the next commit, as lines, and their number.
    lines: Vec<u8>,
    writes: u64,
    /// The number of the next commit, and of the last one that is on the disk.
    next: u64,
    durable: u64,
    /// Keys that were removed by a commit that is not on the disk yet, with its number.
    removed: HashMap<Vec<u8>, u64>,
    /// Why writes are refused.
    fault: Option<Arc<str>>,
    /// The commit of which nobody knows whether it will be there after a restart.
    unknown: Option<u64>,
    /// Whether the values are those on the disk, or are being read anew, or can't be.
    values: Values,
    /// Somebody waits for all of it to be on the disk.
    pub(super) flushing: bool,
    pub(super) stats: DiskStats,
    pub(super) commit_times: Histogram,
}

#[derive(Clone, PartialEq, Eq)]
enum Values {
    There,
    Awaited,
    Lost(Arc<str>),
}

/// What a batch has to wait for: nothing, or a commit; or, as an error, the values.
pub(super) type Applied = Result<Option<u64>, ValuesAwaited>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValuesAwaited;

/// What the committer takes.
pub(super) struct Commit {
    pub(super) number: u64,
    pub(super) lines: Vec<u8>,
    pub(super) writes: u64,
}

/// Why no more is written.
pub(super) struct Fault {
    pub(super) error: io::Error,
    /// The commit of which nobody knows whether it will be there after a restart.
    pub(super) unknown: Option<u64>,
}

impl Shared {
    pub(super) fn new(memory: Memory, sync: Sync, last: u64) -> Self {
        let mut state = State {
            memory,
            sync,
            lines: Vec::new(),
            writes: 0,
            next: last,
            durable: last,
            removed: HashMap::new(),
            fault: None,
            unknown: None,
            values: Values::There,
            flushing: false,
            stats: DiskStats::default(),
            commit_times: Histogram::of_times(),
        };
        state.begin_commit();
        Self {
            state: Lock::new(state),
            gathered: Notify::new(),
            settled: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Applies a batch in memory, and answers it.
    pub(super) fn apply(&self, batch: &mut Batch) -> Applied {
        let mut state = self.state();
        let applied = state.apply(batch);
        let is_gathered = state.writes > 0;
        drop(state);
        if is_gathered {
            self.gathered.notify(1);
        }
        applied
    }

    /// Waits for what a batch has to wait for.
    pub(super) async fn settle(&self, batch: &mut Batch, mut applied: Applied) {
        loop {
            let settled = self.settled.listen();
            match applied {
                Ok(None) => return,
                Ok(Some(commit)) => match self.outcome(commit) {
                    None => settled.await,
                    Some(Ok(())) => return,
                    Some(Err(fault)) => {
                        batch.retract();
                        return match self.state().unknown == Some(commit) {
                            true => batch.unconfirmed(fault),
                            false => batch.fail(fault),
                        };
                    }
                },
                Err(ValuesAwaited) if self.has_values() => applied = self.apply(batch),
                Err(ValuesAwaited) => settled.await,
            }
        }
    }

    /// What has become of a commit; `None` if that is open.
    fn outcome(&self, commit: u64) -> Option<Result<(), Arc<str>>> {
        let state = self.state();
        if commit <= state.durable {
            return Some(Ok(()));
        }
        state.fault.clone().map(Err)
    }

    fn has_values(&self) -> bool {
        self.state().values != Values::Awaited
    }

    /// Fills a page. Gives the commit that it has to wait for, since a key is missing that a crash could bring
    /// back. (A key that a crash could take back is waited for when it is read.)
    pub(super) fn keys(&self, page: &mut KeyPage) -> Option<u64> {
        let state = self.state();
        match &state.values {
            Values::There => state.memory.fill(page),
            Values::Awaited => page.fail("the values are being read anew"),
            Values::Lost(reason) => page.fail(reason),
        }
        let removed = state.removed.iter();
        let missing = removed.filter(|(key, _)| key.starts_with(page.prefix()));
        let awaited = missing.map(|(_, commit)| *commit).max()?;
        (state.sync == Sync::Always && awaited > state.durable).then_some(awaited)
    }

    /// Waits for this commit.
    pub(super) async fn settle_keys(&self, page: &mut KeyPage, commit: u64) {
        loop {
            let settled = self.settled.listen();
            match self.outcome(commit) {
                None => settled.await,
                Some(Ok(())) => return,
                Some(Err(fault)) => return page.fail(fault),
            }
        }
    }

    /// Waits until everything is on the disk, or nothing more will be.
    pub(super) async fn flush(&self) {
        loop {
            let settled = self.settled.listen();
            {
                let mut state = self.state();
                if state.fault.is_some() || (state.writes == 0 && state.durable + 1 == state.next) {
                    return;
                }
                state.flushing = true;
            }
            self.gathered.notify(1);
            settled.await;
        }
    }

    /// Takes what is gathered, if anything is.
    pub(super) fn take(&self) -> Option<(Commit, MutexGuard<'_, State>)> {
        let mut state = self.state();
        if state.writes == 0 {
            return None;
        }
        let commit = Commit {
            number: state.next,
            lines: std::mem::take(&mut state.lines),
            writes: std::mem::take(&mut state.writes),
        };
        state.begin_commit();
        Some((commit, state))
    }

    /// Whether there is something to commit.
    pub(super) fn is_gathered(&self) -> bool {
        self.state().writes > 0
    }

    /// Whether it should be committed at once.
    pub(super) fn is_urgent(&self) -> bool {
        let state = self.state();
        state.flushing || state.lines.len() >= MAX_GATHERED
    }

    /// A commit is on the disk.
    pub(super) fn on_commit(&self, durable: u64) {
        let mut state = self.state();
        state.durable = durable;
        if !state.removed.is_empty() {
            state.removed.retain(|_, commit| *commit > durable);
        }
        drop(state);
        self.settled.notify(usize::MAX);
    }

    /// The disk has failed. The values in memory are worth nothing from here on. Gives an empty memory for
    /// those that are read anew, which has the order of keys that walks under way go by, and the last commit that
    /// belongs to them.
    pub(super) fn on_fault(&self, fault: &Fault) -> (Memory, u64) {
        let mut state = self.state();
        state.fault = Some(format!("the disk has failed: {}", fault.error).into());
        state.unknown = fault.unknown;
        state.stats.refusing = 1;
        state.lines = Vec::new();
        state.writes = 0;
        state.removed.clear();
        state.values = Values::Awaited;
        let memory = std::mem::take(&mut state.memory);
        let durable = state.durable;
        drop(state);
        self.settled.notify(usize::MAX);
        (memory.into_empty(), durable)
    }

    /// The values have been read anew.
    pub(super) fn on_values(&self, memory: io::Result<Memory>) {
        let mut state = self.state();
        state.values = match memory {
            Ok(memory) => {
                state.memory = memory;
                Values::There
            }
            Err(error) => Values::Lost(format!("the values can't be read: {error}").into()),
        };
        drop(state);
        self.settled.notify(usize::MAX);
    }
}

impl State {
    fn begin_commit(&mut self) {
        self.next += 1;
        self.memory.set_commit(self.next);
    }

    fn apply(&mut self, batch: &mut Batch) -> Applied {
        match &self.values {
            Values::There => {}
            Values::Awaited => return Err(ValuesAwaited),
            Values::Lost(reason) => {
                batch.fail(reason);
                return Ok(None);
            }
        }
        let limits = self.memory.limits(batch);
        let mut awaited = 0;
        let mut has_written = false;
        batch.each(|operation, answer| match operation {
            Operation::Get { key } => {
                let (values, commit) = self.memory.get_with_commit(key);
                awaited = awaited.max(commit);
                if commit == 0 && !self.removed.is_empty() {
                    awaited = awaited.max(self.removed.get(key).copied().unwrap_or(0));
                }
                answer.values_at_once(values, false);
            }
            Operation::Write(write) => {
                if let Some(fault) = &self.fault {
                    return answer.fail(fault);
                }
                let written = self.write(write, limits);
                has_written |= written.is_ok();
                answer.written(written);
            }
        });
        let may_wait = match self.sync {
            Sync::Always => has_written,
            Sync::Within(_) => has_written && self.lines.len() >= MAX_GATHERED,
        };
        if may_wait {
            awaited = self.next;
        }
        if self.sync != Sync::Always && !may_wait {
            return Ok(None);
        }
        Ok((awaited > self.durable).then_some(awaited))
    }

    fn write(
        &mut self,
        write: Write<'_>,
        limits: MemoryLimits,
    ) -> Result<usize, crate::store::memory::Full> {
        let bytes = self.memory.try_write(write, limits)?;
        Command::from(write).encode(&mut self.lines);
        self.writes += 1;
        if matches!(write, Write::Delete { .. } | Write::Remove { .. })
            && self.memory.get(write.key()).len() == 0
        {
            self.removed.insert(write.key().to_vec(), self.next);
        }
        Ok(bytes)
    }

    /// The part of a snapshot that begins with this hash.
    pub(super) fn snapshot(&self, from: u64, bytes: usize) -> SnapshotPart {
        self.memory.snapshot(from, bytes)
    }
}
