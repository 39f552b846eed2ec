//! The commands of a batch → the store.

use super::{Memory, MemoryLimits};
use crate::{
    protocol::Operation,
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
        match operation {
            Operation::Get { key } => {
                let values = memory.values(hash, key);
                answer.values_at_once(values, memory.may_hold_lf);
            }
            Operation::Write(write) => answer.written(memory.write(hash, write, *limits)),
        }
    }
}
