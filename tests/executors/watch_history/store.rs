//! A store that writes the history.

use std::sync::{Arc, Mutex};

use keywire::{
    Error,
    protocol::{Operation, Reply},
    store::{Batch, Memory, Store},
};

/// What happened, as the store sees it.
pub(crate) enum Entry {
    Change { key: Vec<u8>, line: Vec<u8> },
    Get { key: Vec<u8>, values: Vec<Vec<u8>> },
}

pub(crate) type History = Arc<Mutex<Vec<Entry>>>;

/// Writes the history. It takes several commands before it answers, ends before it has taken all,
/// and fails now and then, all at random.
pub(crate) struct RecordingStore {
    pub(crate) memory: Memory,
    pub(crate) history: History,
    pub(crate) random: fastrand::Rng,
}

impl RecordingStore {
    pub(crate) fn new(seed: u64) -> (Self, History) {
        let history = History::default();
        let store = Self {
            memory: Memory::new(),
            history: history.clone(),
            random: fastrand::Rng::with_seed(seed),
        };
        (store, history)
    }
}

impl Store for RecordingStore {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        let mut history = self.history.lock().unwrap();
        let before = history.len();
        let mut undo = (self.random.u8(..8) == 0).then(|| {
            let mut copy = Memory::new();
            for (key, values) in self.memory.iter() {
                values.for_each(|value| copy.put(key, value));
            }
            copy
        });
        loop {
            let most = self.random.usize(1..20);
            let taken: Vec<_> = std::iter::from_fn(|| batch.take()).take(most).collect();
            let ended = taken.len() < most || self.random.u8(..4) == 0;
            for operation in taken {
                match operation {
                    Operation::Get { key } => {
                        // Gets mark the places of everything else, so they don't fail.
                        undo = None;
                        let values = self.memory.get(key);
                        batch.values(values.clone());
                        let (key, values) = (key.to_vec(), values.map(<[u8]>::to_vec).collect());
                        history.push(Entry::Get { key, values });
                    }
                    Operation::Write(_) if self.random.u8(..20) == 0 => {
                        batch.fail(&Error::store("by chance"));
                    }
                    Operation::Write(change) => {
                        self.memory.answer(operation, batch);
                        let (key, mut line) = (change.key().to_vec(), Vec::new());
                        Reply::Change(change).encode(&mut line);
                        line.pop();
                        history.push(Entry::Change { key, line });
                    }
                }
            }
            if ended {
                break;
            }
        }
        if let Some(memory) = undo {
            self.memory = memory;
            history.truncate(before);
            return Err(Error::store("all of it, by chance"));
        }
        Ok(())
    }
}
