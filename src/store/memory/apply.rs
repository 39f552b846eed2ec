//! The commands of a batch → the store.

use super::{Full, Memory, MemoryLimits};
use crate::{
    protocol::{Operation, Write},
    store::{Answer, lookahead::Apply},
};

/// The store, within the limits of the server.
pub(super) struct Limited<'a> {
    pub(super) memory: &'a mut Memory,
    pub(super) limits: MemoryLimits,
}

impl Apply for Limited<'_> {
    /// The hash of the key.
    type Place = u64;

    fn locate(&self, key: &[u8]) -> u64 {
        self.memory.hash(key)
    }

    fn touch(&self, hash: u64) {
        self.memory.lists.touch(hash);
    }

    fn apply(&mut self, operation: Operation<'_>, hash: u64, answer: Answer<'_>) {
        let Self { memory, limits } = self;
        let bytes = match operation {
            Operation::Get { key } => {
                let values = memory.values(hash, key);
                return answer.values_at_once(values, memory.may_hold_lf);
            }
            Operation::Write(Write::Put { key, value }) => {
                memory.try_put(hash, key, value, *limits).map(|()| 0)
            }
            Operation::Write(Write::Delete { key }) => Ok(memory.remove_key(hash, key)),
            Operation::Write(Write::Update { key, old, new }) => {
                memory.try_update(hash, key, old, new, *limits)
            }
            Operation::Write(Write::Set { key, value }) => {
                memory.try_set(hash, key, value, *limits)
            }
            Operation::Write(Write::Remove { key, value }) => {
                Ok(memory.remove_value(hash, key, value))
            }
        };
        match bytes {
            Ok(bytes) => answer.done_after(bytes),
            Err(Full::Store) => answer.store_full(),
            Err(Full::Values) => answer.values_full(),
        }
    }
}
