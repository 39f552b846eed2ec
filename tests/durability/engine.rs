//! An engine in memory that takes its time, fails, and loses in a crash what was not synced.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use fastrand::Rng;
use keywire::store::disk::{Engine, Row, Space};

use crate::world::pause;

type Rows = HashMap<Space, BTreeMap<u64, Vec<u8>>>;

/// What outlives the engine.
#[derive(Clone, Default)]
pub(crate) struct Medium(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    durable: Rows,
    /// What was written since, in order.
    unsynced: Vec<Change>,
    /// What an engine reads.
    visible: Rows,
    is_open: bool,
    has_failed: bool,
    /// Writes wait, and the one that waits fails then.
    is_held: bool,
    fails_held: bool,
    /// Calls since the start, and the number of the one that fails.
    calls: u64,
    fails_at: u64,
}

#[derive(Clone)]
enum Change {
    Write(Vec<Row>),
    Clear(Space),
}

/// What is left after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process ends: everything that was written.
    Process,
    /// The power fails: everything that was synced, and maybe what came next.
    Power,
}

impl Medium {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Opens it. The next calls fail from the one with this number on.
    pub(crate) fn open(&self, rng: Rng, fails_at: u64) -> SimulatedEngine {
        let mut state = self.state();
        assert!(!state.is_open, "it is still open");
        state.is_open = true;
        state.calls = 0;
        state.has_failed = false;
        state.fails_at = fails_at;
        drop(state);
        SimulatedEngine {
            medium: self.clone(),
            rng,
        }
    }

    pub(crate) fn crash(&self, kind: Crash, rng: &mut Rng) {
        let mut state = self.state();
        let unsynced = std::mem::take(&mut state.unsynced);
        let kept = match kind {
            Crash::Process => unsynced.len(),
            Crash::Power => rng.usize(..=unsynced.len()),
        };
        for change in unsynced.into_iter().take(kept) {
            change.apply(&mut state.durable);
        }
        state.visible = state.durable.clone();
    }

    /// Lets no write come to an end from here on, or all of them.
    pub(crate) fn hold(&self, held: bool) {
        self.state().is_held = held;
    }

    /// Lets the next call fail.
    pub(crate) fn fail(&self) {
        let mut state = self.state();
        state.fails_at = state.calls + 1;
    }

    /// Lets the write that is held fail.
    pub(crate) fn fail_held(&self) {
        self.state().fails_held = true;
    }

    /// Whether a call has failed since it was opened.
    pub(crate) fn has_failed(&self) -> bool {
        self.state().has_failed
    }

    fn fail_now(&self) -> bool {
        let mut state = self.state();
        let fails = std::mem::take(&mut state.fails_held);
        state.has_failed |= fails;
        fails
    }

    /// The same, and closed.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::default();
        copy.state().durable = self.state().durable.clone();
        copy.state().visible = self.state().durable.clone();
        copy
    }

    pub(crate) fn row_numbers(&self, space: Space) -> Vec<u64> {
        let state = self.state();
        let rows = state.durable.get(&space);
        rows.map_or(Vec::new(), |rows| rows.keys().copied().collect())
    }

    pub(crate) fn row(&self, space: Space, number: u64) -> Vec<u8> {
        self.state().durable[&space][&number].clone()
    }

    pub(crate) fn last_row(&self, space: Space) -> Option<u64> {
        self.row_numbers(space).pop()
    }

    /// Loses a row.
    pub(crate) fn remove(&self, space: Space, row: u64) {
        let mut state = self.state();
        state.visible.get_mut(&space).unwrap().remove(&row);
    }

    /// How many rows there are.
    pub(crate) fn rows(&self, space: Space) -> usize {
        self.state().durable.get(&space).map_or(0, BTreeMap::len)
    }
}

impl Change {
    fn apply(self, rows: &mut Rows) {
        match self {
            Change::Write(written) => {
                for row in written {
                    rows.entry(row.space)
                        .or_default()
                        .insert(row.number, row.value);
                }
            }
            Change::Clear(space) => {
                rows.remove(&space);
            }
        }
    }
}

pub(crate) struct SimulatedEngine {
    medium: Medium,
    rng: Rng,
}

impl SimulatedEngine {
    /// Whether this call fails.
    fn is_faulty(&mut self) -> bool {
        let mut state = self.medium.state();
        state.calls += 1;
        let fails = state.calls == state.fails_at;
        state.has_failed |= fails;
        fails
    }

    fn steps(&mut self) -> u32 {
        let most = [1, 4, 40][self.rng.usize(..3)];
        self.rng.u32(..most)
    }

    /// What was changed is seen from here on.
    fn show(&self, change: Change) {
        change.apply(&mut self.medium.state().visible);
    }
}

impl Drop for SimulatedEngine {
    fn drop(&mut self) {
        self.medium.state().is_open = false;
    }
}

impl Engine for SimulatedEngine {
    async fn write(&mut self, rows: Vec<Row>, sync: bool) -> io::Result<()> {
        assert!(!self.medium.has_failed(), "a write after an error");
        pause(self.steps()).await;
        let fails = self.is_faulty();
        let change = Change::Write(rows);
        if fails && self.rng.bool() {
            return Err(io::Error::other("write"));
        }
        self.medium.state().unsynced.push(change.clone());
        if sync {
            while self.medium.state().is_held {
                pause(1).await;
            }
            let fails = fails || self.medium.fail_now();
            pause(self.steps()).await;
            if fails {
                return Err(io::Error::other("sync"));
            }
            let mut state = self.medium.state();
            for change in std::mem::take(&mut state.unsynced) {
                change.apply(&mut state.durable);
            }
        }
        self.show(change);
        pause(self.steps()).await;
        Ok(())
    }

    async fn clear(&mut self, space: Space) -> io::Result<()> {
        assert!(!self.medium.has_failed(), "a clear after an error");
        pause(self.steps()).await;
        let fails = self.is_faulty();
        if fails && self.rng.bool() {
            return Err(io::Error::other("clear"));
        }
        self.medium.state().unsynced.push(Change::Clear(space));
        pause(self.steps()).await;
        if fails {
            return Err(io::Error::other("clear"));
        }
        self.show(Change::Clear(space));
        Ok(())
    }

    async fn read(&mut self, space: Space, from: u64) -> io::Result<Vec<(u64, Vec<u8>)>> {
        pause(self.steps() / 8).await;
        let state = self.medium.state();
        let Some(rows) = state.visible.get(&space) else {
            return Ok(Vec::new());
        };
        let rows = rows.range(from..).take(self.rng.usize(1..20));
        Ok(rows
            .map(|(number, value)| (*number, value.clone()))
            .collect())
    }

    fn bytes(&self) -> u64 {
        0
    }
}
