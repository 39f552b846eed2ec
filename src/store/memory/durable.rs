//! What a durable store needs of the values in memory: the commit of each list, and snapshots.

use super::{Full, List, Memory, MemoryLimits, Values};
use crate::protocol::{Command, Write};

/// The lists of some keys.
pub(in crate::store) struct SnapshotPart {
    pub(in crate::store) lines: Vec<u8>,
    /// The hash with which the next part begins.
    pub(in crate::store) next: Option<u64>,
}

impl Memory {
    /// An empty store that has keys in the same order.
    pub(in crate::store) fn into_empty(self) -> Self {
        Self {
            hasher: self.hasher,
            ..Self::new()
        }
    }

    /// Writes belong to this commit from here on.
    pub(in crate::store) fn set_commit(&mut self, commit: u64) {
        self.commit = commit;
    }

    /// The values of a key, and the commit that changed it last; 0 if it has none.
    pub(in crate::store) fn get_with_commit(&self, key: &[u8]) -> (Values<'_>, u64) {
        match self.lists.find(self.hash(key), key) {
            Some(list) => (list.iter(), list.commit),
            None => (Values::default(), 0),
        }
    }

    /// Applies a write of a client. Gives the bytes that it may have gone through.
    pub(in crate::store) fn try_write(
        &mut self,
        write: Write<'_>,
        limits: MemoryLimits,
    ) -> Result<usize, Full> {
        self.write(self.hash(write.key()), write, limits)
    }

    /// Applies a write that was in bounds once.
    pub(in crate::store) fn load(&mut self, write: Write<'_>) {
        // Without bounds it cannot fail.
        let _ = self.try_write(write, MemoryLimits::NONE);
    }

    /// The lists of keys as the lines that make them, by the hashes of the keys from this one on. It stops
    /// behind so many bytes, or after a table.
    pub(in crate::store) fn snapshot(&self, from: u64, bytes: usize) -> SnapshotPart {
        let (lists, last) = self.lists.part(from);
        let with_hash = lists.map(|list| (self.hash(list.key()), list));
        let mut lists: Vec<(u64, &List)> = with_hash.filter(|&(hash, _)| hash >= from).collect();
        lists.sort_unstable_by_key(|&(hash, _)| hash);
        let mut lines = Vec::new();
        let mut before = from;
        for (hash, list) in lists {
            // Keys of the same hash belong together.
            if lines.len() >= bytes && hash > before {
                let next = Some(hash);
                return SnapshotPart { lines, next };
            }
            before = hash;
            let key = list.key();
            for (index, value) in list.iter().enumerate() {
                let write = match index {
                    0 => Write::Set { key, value },
                    _ => Write::Put { key, value },
                };
                Command::from(write).encode(&mut lines);
            }
        }
        let next = last.checked_add(1);
        SnapshotPart { lines, next }
    }
}
