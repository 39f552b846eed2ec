//! What a store holds, kept the plain way: one map, by keys without their tags.

use std::collections::BTreeMap;

use keywire::{
    protocol::{Operation, Write},
    store::StoreSize,
};

use crate::history::{Limit, base};

/// What a store may hold, and how many values a key may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) max_store: u64,
    pub(crate) max_values: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lists(BTreeMap<Vec<u8>, Vec<Vec<u8>>>);

impl Lists {
    /// The values of a key, whose tag does not matter.
    pub(crate) fn get(&self, key: &[u8]) -> &[Vec<u8>] {
        self.0.get(base(key)).map_or(&[], Vec::as_slice)
    }

    /// A page of so many keys that begin so, and where the next begins: behind the last one, as a
    /// `>` and that key. Nothing, if there is no more.
    pub(crate) fn page(
        &self,
        prefix: &[u8],
        cursor: &[u8],
        most: usize,
    ) -> (Vec<Vec<u8>>, Vec<u8>) {
        let behind = cursor.strip_prefix(b">").unwrap_or_default();
        let keys = self.0.keys().filter(|key| key.starts_with(prefix));
        let mut keys = keys.filter(|key| behind < &key[..]);
        let page: Vec<_> = keys.by_ref().take(most).cloned().collect();
        let last = page.last().map_or(behind, Vec::as_slice);
        let next = keys.next().map(|_| [b">", last].concat());
        (page, next.unwrap_or_default())
    }

    pub(crate) fn write(&mut self, write: Write<'_>) {
        let key = base(write.key());
        let mut values = self.0.remove(key).unwrap_or_default();
        let place = |values: &[Vec<u8>], sought: &[u8]| values.iter().position(|v| v == sought);
        match write {
            Write::Put { value, .. } => values.push(value.to_vec()),
            Write::Update { old, new, .. } => match place(&values, old) {
                Some(place) => values[place] = new.to_vec(),
                None => values.push(new.to_vec()),
            },
            Write::Set { value, .. } => values = vec![value.to_vec()],
            Write::Remove { value, .. } => {
                // Behind it, the command may have its tag.
                let value = value.split(|&byte| byte == b'~').next();
                let place = place(&values, value.unwrap_or_default());
                place.map(|place| values.remove(place));
            }
            Write::Delete { .. } => values.clear(),
            _ => panic!("{write:?} is new"),
        }
        if !values.is_empty() {
            self.0.insert(key.to_vec(), values);
        }
    }

    pub(crate) fn size(&self) -> StoreSize {
        let bytes = |values: &[Vec<u8>]| values.iter().map(Vec::len).sum::<usize>() as u64;
        let lists = self.0.iter();
        let bytes = lists.map(|(key, values)| key.len() as u64 + bytes(values));
        StoreSize {
            keys: self.0.len() as u64,
            values: self.0.values().map(Vec::len).sum::<usize>() as u64,
            bytes: bytes.sum(),
        }
    }

    /// What stands in the way of a command.
    pub(crate) fn full(&self, operation: Operation<'_>, room: Room) -> Option<Limit> {
        let Operation::Write(write) = operation else {
            return None;
        };
        let mut after = self.clone();
        after.write(write);
        let more_values = after.get(write.key()).len() > self.get(write.key()).len();
        let (before, after) = (charged(self.size()), charged(after.size()));
        if more_values && self.get(write.key()).len() >= room.max_values {
            Some(Limit::Values)
        } else if after > before && after > room.max_store {
            Some(Limit::Store)
        } else {
            None
        }
    }
}

/// What the limit of a store is compared with.
pub(crate) fn charged(size: StoreSize) -> u64 {
    size.bytes + 64 * size.keys + 8 * size.values
}
