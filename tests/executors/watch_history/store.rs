//! A store that writes the history.

use std::sync::{Arc, Mutex};

use keywire::{
    protocol::{Operation, Reply},
    store::{Batch, Memory, Order, Store, Submission},
};

/// What happened, as the store sees it.
pub(crate) enum Entry {
    Change { key: Vec<u8>, line: Vec<u8> },
    Get { key: Vec<u8>, values: Vec<Vec<u8>> },
}

pub(crate) type History = Arc<Mutex<Vec<Entry>>>;

/// Writes the history, and fails now and then, at random: one write, or all of a batch.
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
    const ORDER: Order = Order::Immediate;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let mut history = self.history.lock().unwrap();
        // Gets mark the places of everything else, so they don't fail.
        let all_fail = self.random.u8(..8) == 0;
        let limits = self.memory.limits(&batch);
        batch.each(|operation, answer| match operation {
            Operation::Get { key } => {
                let values = self.memory.get(key);
                answer.values(values.clone());
                let (key, values) = (key.to_vec(), values.map(<[u8]>::to_vec).collect());
                history.push(Entry::Get { key, values });
            }
            Operation::Write(_) if all_fail || self.random.u8(..20) == 0 => {
                match self.random.bool() {
                    true => answer.fail("by chance"),
                    false => answer.unconfirmed("by chance"),
                }
            }
            Operation::Write(change) => {
                self.memory.apply(operation, answer, limits);
                let (key, mut line) = (change.key().to_vec(), Vec::new());
                Reply::Change(change).encode(&mut line);
                line.pop();
                history.push(Entry::Change { key, line });
            }
            _ => panic!("{operation:?} is new"),
        });
        drop(history);
        batch.done()
    }
}
