mod apply;
#[cfg(feature = "disk")]
pub(super) mod durable;
mod list;
mod pages;
mod tables;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    hash::{BuildHasher as _, Hasher as _, RandomState},
};

pub use list::Values;
use memchr::memchr;

use super::{Answer, Batch, KeyPage, Order, Store, StoreSize, Submission, lookahead::Apply as _};
use crate::{
    StoreKind,
    protocol::{Operation, Write},
};
use apply::Limited;
use list::List;
use tables::Tables;

/// The default store: everything in memory, gone at the end.
///
/// It is a plain data structure as well:
///
/// ```
/// use keywire::store::Memory;
///
/// let mut store = Memory::new();
/// store.put(b"user", b"alice");
/// store.put(b"user", b"bob");
/// store.update(b"user", b"alice", b"charlie");
/// assert!(store.get(b"user").eq([b"charlie".as_slice(), b"bob"]));
/// store.delete(b"user");
/// assert_eq!(store.get(b"user").len(), 0);
/// ```
///
/// `put` costs O(1), amortized. `get` costs O(1), and to go through its values costs their number. `update`
/// and `remove` search the key's values. `Debug` shows the number of keys, never keys or values.
#[derive(Default)]
pub struct Memory {
    lists: Tables,
    /// Hashes with a random key, which they do not reveal: clients can't choose keys that collide.
    hasher: RandomState,
    size: StoreSize,
    /// A value may hold a line feed, which no line can carry. Those that lines brought do not.
    may_hold_lf: bool,
    /// The commit that writes belong to, if the store is durable.
    commit: u64,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a value to the key's list.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.check_lf(value);
        let hash = self.hash(key);
        // Without bounds it cannot fail.
        let _ = self.try_put(hash, key, value, MemoryLimits::NONE);
    }

    fn hash(&self, key: &[u8]) -> u64 {
        hash_of(&self.hasher, key)
    }

    /// Looks at a value that may come from elsewhere than a line.
    fn check_lf(&mut self, value: &[u8]) {
        self.may_hold_lf |= memchr(b'\n', value).is_some();
    }

    fn try_put(
        &mut self,
        hash: u64,
        key: &[u8],
        value: &[u8],
        bounds: MemoryLimits,
    ) -> Result<(), Full> {
        let list = self.lists.find_mut(hash, key);
        let mut more = StoreSize {
            keys: u64::from(list.is_none()),
            values: 1,
            bytes: value.len() as u64,
        };
        if more.keys > 0 {
            more.bytes += key.len() as u64;
        }
        let values = list.as_ref().map_or(0, |list| list.len as usize);
        bounds.check(values, self.size, more)?;
        match list {
            Some(list) => {
                list.push(value);
                list.commit = self.commit;
            }
            None => {
                let mut list = List::new(key, value);
                list.commit = self.commit;
                let hasher = &self.hasher;
                self.lists.insert(hash, list, |key| hash_of(hasher, key));
            }
        }
        self.size.keys += more.keys;
        self.size.values += more.values;
        self.size.bytes += more.bytes;
        Ok(())
    }

    /// The key's values, oldest first.
    pub fn get(&self, key: &[u8]) -> Values<'_> {
        self.values(self.hash(key), key)
    }

    fn values(&self, hash: u64, key: &[u8]) -> Values<'_> {
        let list = self.lists.find(hash, key);
        list.map(List::iter).unwrap_or_default()
    }

    /// Removes the key and all its values.
    pub fn delete(&mut self, key: &[u8]) {
        let hash = self.hash(key);
        self.remove_key(hash, key);
    }

    /// Gives the bytes that went.
    fn remove_key(&mut self, hash: u64, key: &[u8]) -> usize {
        let hasher = &self.hasher;
        let Some(list) = self.lists.remove(hash, key, |key| hash_of(hasher, key)) else {
            return 0;
        };
        self.size.keys -= 1;
        self.size.values -= u64::from(list.len);
        self.size.bytes -= list.content_bytes() as u64;
        list.content_bytes()
    }

    /// Replaces the first value equal to `old` by `new`, in place; appends `new` if there is none.
    pub fn update(&mut self, key: &[u8], old: &[u8], new: &[u8]) {
        self.check_lf(new);
        let hash = self.hash(key);
        // Without bounds it cannot fail.
        let _ = self.try_update(hash, key, old, new, MemoryLimits::NONE);
    }

    /// Gives the bytes that it may have gone through.
    fn try_update(
        &mut self,
        hash: u64,
        key: &[u8],
        old: &[u8],
        new: &[u8],
        bounds: MemoryLimits,
    ) -> Result<usize, Full> {
        let list = self.lists.find_mut(hash, key);
        let bytes = list.as_ref().map_or(0, |list| list.bytes.len());
        let Some((list, place)) = list.and_then(|list| list.find(old).map(|place| (list, place)))
        else {
            return self.try_put(hash, key, new, bounds).map(|()| bytes);
        };
        if new.len() > old.len() {
            let more = StoreSize {
                bytes: (new.len() - old.len()) as u64,
                ..StoreSize::default()
            };
            bounds.check(0, self.size, more)?;
        }
        list.replace(place, old.len(), new);
        list.commit = self.commit;
        self.size.bytes = self.size.bytes - old.len() as u64 + new.len() as u64;
        Ok(bytes)
    }

    /// Makes `value` the only one of the key's list.
    pub fn set(&mut self, key: &[u8], value: &[u8]) {
        self.check_lf(value);
        let hash = self.hash(key);
        // Without bounds it cannot fail.
        let _ = self.try_set(hash, key, value, MemoryLimits::NONE);
    }

    /// Gives the bytes that went.
    fn try_set(
        &mut self,
        hash: u64,
        key: &[u8],
        value: &[u8],
        bounds: MemoryLimits,
    ) -> Result<usize, Full> {
        let Some(list) = self.lists.find_mut(hash, key) else {
            return self.try_put(hash, key, value, bounds).map(|()| 0);
        };
        let old = StoreSize {
            keys: 1,
            values: list.len.into(),
            bytes: list.content_bytes() as u64,
        };
        let new = StoreSize {
            keys: 1,
            values: 1,
            bytes: (key.len() + value.len()) as u64,
        };
        let rest = self.size.charged() - old.charged();
        if new.charged() > old.charged() && rest + new.charged() > bounds.size {
            return Err(Full::Store);
        }
        *list = List::new(key, value);
        list.commit = self.commit;
        self.size.values = self.size.values - old.values + 1;
        self.size.bytes = self.size.bytes - old.bytes + new.bytes;
        Ok(old.bytes as usize)
    }

    /// Removes the first value equal to `value`, if there is one. A key without values is gone.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        let hash = self.hash(key);
        self.remove_value(hash, key, value);
    }

    /// Gives the bytes that it may have gone through.
    fn remove_value(&mut self, hash: u64, key: &[u8], value: &[u8]) -> usize {
        let Some(list) = self.lists.find_mut(hash, key) else {
            return 0;
        };
        let bytes = list.bytes.len();
        if let Some(place) = list.find(value) {
            if list.len == 1 {
                self.remove_key(hash, key);
            } else {
                list.remove(place, value.len());
                list.commit = self.commit;
                self.size.values -= 1;
                self.size.bytes -= value.len() as u64;
            }
        }
        bytes
    }

    /// All keys with their values, in no order.
    ///
    /// ```
    /// # use keywire::store::Memory;
    /// let mut store = Memory::new();
    /// store.put(b"a", b"1");
    /// for (key, values) in store.iter() {
    ///     assert_eq!((key, values.len()), (b"a".as_slice(), 1));
    /// }
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Values<'_>)> {
        self.lists.iter().map(|list| (list.key(), list.iter()))
    }

    /// The limits of the server, for [`apply`](Self::apply).
    pub fn limits(&self, batch: &Batch) -> MemoryLimits {
        MemoryLimits {
            size: batch.max_store(),
            values: batch.max_values(),
        }
    }

    /// Applies an operation and answers it. For stores that put something around this one; [`Store`]
    /// shows one.
    pub fn apply(
        &mut self,
        operation: Operation<'_>,
        mut answer: Answer<'_>,
        limits: MemoryLimits,
    ) {
        // The store around it may have taken any time, and may have made the operation itself.
        answer.took_unknown_time();
        match operation {
            Operation::Write(Write::Put { value, .. } | Write::Set { value, .. }) => {
                self.check_lf(value);
            }
            Operation::Write(Write::Update { new, .. }) => self.check_lf(new),
            Operation::Write(Write::Delete { .. } | Write::Remove { .. })
            | Operation::Get { .. } => {}
        }
        let hash = self.hash(operation.key());
        let mut store = Limited {
            memory: self,
            limits,
        };
        store.apply(operation, hash, answer);
    }
}

/// For the store, and for those that keep their values here.
impl Memory {
    /// Gives the bytes that it may have gone through.
    fn write(&mut self, hash: u64, write: Write<'_>, limits: MemoryLimits) -> Result<usize, Full> {
        match write {
            Write::Put { key, value } => self.try_put(hash, key, value, limits).map(|()| 0),
            Write::Delete { key } => Ok(self.remove_key(hash, key)),
            Write::Update { key, old, new } => self.try_update(hash, key, old, new, limits),
            Write::Set { key, value } => self.try_set(hash, key, value, limits),
            Write::Remove { key, value } => Ok(self.remove_value(hash, key, value)),
        }
    }
}

/// What may be held. Made by [`Memory::limits`].
#[derive(Clone, Copy, Debug)]
pub struct MemoryLimits {
    size: u64,
    values: usize,
}

/// The limit that a write would exceed.
pub(super) enum Full {
    Store,
    Values,
}

impl MemoryLimits {
    const NONE: Self = Self {
        size: u64::MAX,
        values: usize::MAX,
    };

    /// Whether so much more may be held, of a key with so many values.
    fn check(self, values: usize, size: StoreSize, more: StoreSize) -> Result<(), Full> {
        if values >= self.values.min(u32::MAX as usize) && more.values > 0 {
            Err(Full::Values)
        } else if size.charged() + more.charged() > self.size {
            Err(Full::Store)
        } else {
            Ok(())
        }
    }
}

impl Store for Memory {
    const ORDER: Order = Order::Immediate;
    const KIND: StoreKind = StoreKind::Memory;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let limits = self.limits(&batch);
        batch.each_by(&mut Limited {
            memory: self,
            limits,
        });
        batch.done()
    }

    fn keys(
        &mut self,
        mut page: KeyPage,
    ) -> Submission<KeyPage, impl Future<Output = KeyPage> + Send + 'static> {
        self.fill(&mut page);
        page.done()
    }

    fn size(&self) -> StoreSize {
        self.size
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("keys", &self.size.keys)
            .finish()
    }
}

/// `hash_one` would hash the length too, which matters only where more fields follow.
fn hash_of(hasher: &RandomState, key: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(key);
    hasher.finish()
}
