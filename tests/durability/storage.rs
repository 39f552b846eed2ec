//! A storage in memory that takes its time, fails, and loses in a crash what was not synced.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use fastrand::Rng;
use keywire::store::disk::{FileName, Storage};

use crate::world::pause;

const SECTOR: usize = 512;

/// What outlives the storage.
#[derive(Clone, Default)]
pub(crate) struct Medium(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: BTreeMap<FileName, File>,
    /// Those that a loss of power may bring back.
    removed: BTreeMap<FileName, File>,
    /// Storages that are open.
    open: usize,
    /// The files that are being changed.
    busy: HashSet<FileName>,
    has_failed: bool,
    /// A log could not be written. It may be cut off then, and not be written again.
    has_failed_log: bool,
    /// What was failed is not repaired by the next call.
    stays_failed: bool,
    /// Writes wait, and the one that waits fails then.
    is_held: bool,
    fails_held: bool,
    /// Calls since the start, and the number of the one that fails.
    calls: u64,
    fails_at: u64,
}

/// A file, as it is read, and as it is after a loss of power.
#[derive(Clone, Default)]
struct File {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// The sectors that were written since, as they were then, in order. They may be lost.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// So many of them, the first ones, were in a sync that has failed. No later one writes them.
    failed: usize,
}

/// What is left after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process ends: everything that was written.
    Process,
    /// The power fails: everything that was synced, and some sectors of what was not.
    Power,
}

fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if file.len() < at + bytes.len() {
        file.resize(at + bytes.len(), 0);
    }
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

impl File {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        put(&mut self.visible, at, bytes);
        for sector in at / SECTOR..(at + bytes.len()).div_ceil(SECTOR) {
            let content = self.visible.chunks(SECTOR).nth(sector).unwrap();
            self.unsynced.push((sector, content.to_vec()));
        }
    }

    fn sync(&mut self, fails: bool) -> io::Result<()> {
        if fails {
            self.failed = self.unsynced.len();
            return Err(io::Error::other("sync"));
        }
        for (sector, content) in self.unsynced.split_off(self.failed) {
            put(&mut self.durable, sector * SECTOR, &content);
            self.unsynced.retain(|(failed, _)| *failed != sector);
        }
        self.failed = self.unsynced.len();
        Ok(())
    }

    fn truncate(&mut self, at: usize) {
        self.visible.truncate(at);
        self.durable.truncate(at);
        let is_kept = |sector: usize| sector * SECTOR < at;
        let failed = self.unsynced[..self.failed].iter();
        self.failed = failed.filter(|(sector, _)| is_kept(*sector)).count();
        self.unsynced.retain(|(sector, _)| is_kept(*sector));
        for (sector, content) in &mut self.unsynced {
            content.truncate(at - *sector * SECTOR);
        }
    }

    /// Each sector is as it was at some time since the last sync.
    fn lose_power(&mut self, rng: &mut Rng) {
        let all = self.unsynced.len();
        let most = [0, all, rng.usize(..=all)][rng.usize(..3)];
        for (sector, content) in self.unsynced.drain(..).take(most) {
            if rng.u8(..4) > 0 {
                put(&mut self.durable, sector * SECTOR, &content);
            }
        }
        self.failed = 0;
        self.visible = self.durable.clone();
    }
}

impl Medium {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Opens it. The call with this number fails.
    pub(crate) fn open(&self, mut rng: Rng, fails_at: u64) -> SimulatedStorage {
        let mut state = self.state();
        assert_eq!(state.open, 0, "it is still open");
        state.open = 1;
        state.busy.clear();
        state.calls = 0;
        state.has_failed = false;
        state.has_failed_log = false;
        state.stays_failed = rng.bool();
        state.fails_at = fails_at;
        drop(state);
        SimulatedStorage {
            medium: self.clone(),
            rng,
        }
    }

    pub(crate) fn crash(&self, kind: Crash, rng: &mut Rng) {
        let mut state = self.state();
        let removed = std::mem::take(&mut state.removed);
        if kind == Crash::Power {
            for (name, file) in removed {
                if rng.bool() {
                    state.files.entry(name).or_insert(file);
                }
            }
            state
                .files
                .values_mut()
                .for_each(|file| file.lose_power(rng));
        }
    }

    /// Lets no write come to an end from here on, or all of them.
    pub(crate) fn hold(&self, held: bool) {
        self.state().is_held = held;
    }

    /// Lets the next call fail. With `stays` what it leaves behind can't be removed.
    pub(crate) fn fail(&self) {
        let mut state = self.state();
        state.fails_at = state.calls + 1;
    }

    /// Lets the write that is held fail. If it `stays`, it can't be taken back either.
    pub(crate) fn fail_held(&self, stays: bool) {
        let mut state = self.state();
        state.fails_held = true;
        state.stays_failed = stays;
    }

    /// Whether a call has failed since it was opened.
    pub(crate) fn has_failed(&self) -> bool {
        self.state().has_failed
    }

    /// The same, and closed.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::default();
        copy.state().files = self.state().files.clone();
        copy
    }

    /// Changes a byte.
    pub(crate) fn flip(&self, file: FileName, at: usize) {
        let mut state = self.state();
        let file = state.files.get_mut(&file).unwrap();
        file.visible[at] ^= 0x55;
    }

    /// Loses a file.
    pub(crate) fn remove(&self, file: FileName) {
        self.state().files.remove(&file).unwrap();
    }

    /// All files, and their lengths.
    pub(crate) fn files(&self) -> Vec<(FileName, usize)> {
        let state = self.state();
        let files = state.files.iter();
        files
            .map(|(name, file)| (*name, file.visible.len()))
            .collect()
    }
}

pub(crate) struct SimulatedStorage {
    medium: Medium,
    rng: Rng,
}

impl Clone for SimulatedStorage {
    fn clone(&self) -> Self {
        let mut state = self.medium.state();
        state.open += 1;
        // Another one each time.
        let rng = Rng::with_seed(self.rng.clone().u64(..) ^ state.calls);
        drop(state);
        Self {
            medium: self.medium.clone(),
            rng,
        }
    }
}

impl Drop for SimulatedStorage {
    fn drop(&mut self) {
        self.medium.state().open -= 1;
    }
}

/// A call for a file. There is one at a time.
struct Call {
    storage: SimulatedStorage,
    file: FileName,
    fails: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.storage.medium.state().busy.remove(&self.file);
    }
}

impl SimulatedStorage {
    fn call(&self, file: FileName) -> Call {
        let storage = self.clone();
        let mut state = self.medium.state();
        assert!(state.busy.insert(file), "two calls at a time for {file}");
        state.calls += 1;
        let fails = state.calls == state.fails_at || (state.has_failed && state.stays_failed);
        state.has_failed |= fails;
        drop(state);
        Call {
            storage,
            file,
            fails,
        }
    }
}

impl Call {
    async fn pause(&mut self) {
        let most = [1, 4, 40][self.storage.rng.usize(..3)];
        pause(self.storage.rng.u32(..most)).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.storage.medium.state()
    }

    /// It fails, with its work done or not.
    fn fails_before(&mut self) -> bool {
        self.fails && self.storage.rng.bool()
    }

    fn error(&self) -> io::Result<()> {
        match self.fails {
            true => Err(io::Error::other("call")),
            false => Ok(()),
        }
    }

    async fn write(&mut self, at: u64, bytes: &[u8], sync: bool) -> io::Result<()> {
        let file = self.file;
        self.pause().await;
        let all = !self.fails_before();
        // In two parts, of which a crash may leave the first. The system writes whole sectors, but for errors.
        let at = at as usize;
        let mut middle = self.storage.rng.usize(..=bytes.len());
        if all {
            middle = middle.saturating_sub((at + middle) % SECTOR);
        }
        let write = |state: &mut State, at, bytes| {
            state.files.entry(file).or_default().write(at, bytes);
        };
        write(&mut self.state(), at, &bytes[..middle]);
        self.pause().await;
        if !all {
            return Err(io::Error::other("write"));
        }
        write(&mut self.state(), at + middle, &bytes[middle..]);
        if !sync {
            return self.error();
        }
        while self.state().is_held {
            pause(1).await;
        }
        self.pause().await;
        let mut state = self.state();
        let fails = std::mem::take(&mut state.fails_held) || self.fails;
        state.has_failed |= fails;
        let file = state.files.entry(file).or_default();
        file.sync(fails)
    }
}

impl Storage for SimulatedStorage {
    fn list(&self) -> impl Future<Output = io::Result<Vec<(FileName, u64)>>> + Send + 'static {
        let files = self.medium.files();
        async move {
            Ok(files
                .into_iter()
                .map(|(name, length)| (name, length as u64))
                .collect())
        }
    }

    fn read(
        &self,
        file: FileName,
        at: u64,
        bytes: usize,
    ) -> impl Future<Output = io::Result<Vec<u8>>> + Send + 'static {
        let this = self.clone();
        async move {
            pause(this.rng.clone().u32(..4)).await;
            let state = this.medium.state();
            let visible = &state.files[&file].visible;
            let begin = visible.len().min(at as usize);
            let end = visible.len().min(begin + bytes);
            Ok(visible[begin..end].to_vec())
        }
    }

    fn write(
        &self,
        file: FileName,
        at: u64,
        bytes: Vec<u8>,
        sync: bool,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let is_log = matches!(file, FileName::Log(_));
        let has_failed = self.medium.state().has_failed_log;
        assert!(!is_log || !has_failed, "a write after an error");
        let mut call = self.call(file);
        async move {
            let result = call.write(at, &bytes, sync).await;
            call.state().has_failed_log |= is_log && result.is_err();
            result
        }
    }

    fn sync(&self, file: FileName) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let mut call = self.call(file);
        async move {
            call.pause().await;
            let fails = call.fails;
            let mut state = call.state();
            let file = state.files.entry(file).or_default();
            file.sync(fails)
        }
    }

    fn truncate(
        &self,
        file: FileName,
        at: u64,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let mut call = self.call(file);
        async move {
            call.pause().await;
            if !call.fails_before() {
                let mut state = call.state();
                state.files.entry(file).or_default().truncate(at as usize);
            }
            call.pause().await;
            call.error()
        }
    }

    fn rename(
        &self,
        from: FileName,
        to: FileName,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let mut call = self.call(from);
        async move {
            call.pause().await;
            if !call.fails_before() {
                let mut state = call.state();
                let file = state.files.remove(&from).unwrap();
                state.files.insert(to, file);
            }
            call.pause().await;
            call.error()
        }
    }

    fn remove(&self, file: FileName) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let mut call = self.call(file);
        async move {
            call.pause().await;
            if !call.fails_before() {
                let mut state = call.state();
                if let Some(removed) = state.files.remove(&file) {
                    state.removed.insert(file, removed);
                }
            }
            call.pause().await;
            call.error()
        }
    }
}
