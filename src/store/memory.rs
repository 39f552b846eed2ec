use std::{
    fmt,
    future::Future,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    ops::Range,
};

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::{Answer, Batch, Order, Store, StoreSize, Submission};
use crate::protocol::{Operation, Write};

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
/// `put` costs O(1), amortized; `get` costs O(1), and reading its values their number; `update` looks
/// through the key's values.
/// `Debug` shows the number of keys, never keys or values.
#[derive(Default)]
pub struct Memory {
    lists: HashTable<List>,
    /// Hashes with a random key, which they do not reveal: clients can't choose keys that collide.
    hasher: RandomState,
    size: StoreSize,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a value to the key's list.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        // Without bounds it cannot fail.
        let _ = self.try_put(key, value, MemoryLimits::NONE);
    }

    fn try_put(&mut self, key: &[u8], value: &[u8], bounds: MemoryLimits) -> Result<(), Full> {
        let hash = hash_of(&self.hasher, key);
        let list = self.lists.find_mut(hash, |list| list.key() == key);
        let mut more = StoreSize {
            keys: u64::from(list.is_none()),
            values: 1,
            bytes: value.len() as u64,
        };
        if more.keys > 0 {
            more.bytes += key.len() as u64;
        }
        let values = list.as_ref().map_or(0, |list| list.len);
        bounds.check(values, self.size, more)?;
        match list {
            Some(list) => list.push(value),
            None => {
                let rehash = |list: &List| hash_of(&self.hasher, list.key());
                let list = List::new(key, value);
                self.lists.insert_unique(hash, list, rehash);
            }
        }
        self.size.keys += more.keys;
        self.size.values += more.values;
        self.size.bytes += more.bytes;
        Ok(())
    }

    /// The key's values, oldest first.
    pub fn get(&self, key: &[u8]) -> Values<'_> {
        let hash = hash_of(&self.hasher, key);
        let list = self.lists.find(hash, |list| list.key() == key);
        list.map(List::iter).unwrap_or_default()
    }

    /// Removes the key and all its values.
    pub fn delete(&mut self, key: &[u8]) {
        self.remove_key(key);
    }

    /// Gives the bytes that went.
    fn remove_key(&mut self, key: &[u8]) -> usize {
        let hash = hash_of(&self.hasher, key);
        if let Ok(found) = self.lists.find_entry(hash, |list| list.key() == key) {
            let (list, _) = found.remove();
            self.size.keys -= 1;
            self.size.values -= list.len as u64;
            self.size.bytes -= list.content_bytes as u64;
            return list.content_bytes;
        }
        0
    }

    /// Replaces the first value equal to `old`, in place; appends `new` where there is none.
    pub fn update(&mut self, key: &[u8], old: &[u8], new: &[u8]) {
        // Without bounds it cannot fail.
        let _ = self.try_update(key, old, new, MemoryLimits::NONE);
    }

    /// Gives the bytes that it may have gone through.
    fn try_update(
        &mut self,
        key: &[u8],
        old: &[u8],
        new: &[u8],
        bounds: MemoryLimits,
    ) -> Result<usize, Full> {
        let hash = hash_of(&self.hasher, key);
        let list = self.lists.find_mut(hash, |list| list.key() == key);
        let bytes = list.as_ref().map_or(0, |list| list.bytes.len());
        let Some((list, place)) = list.and_then(|list| list.find(old).map(|place| (list, place)))
        else {
            return self.try_put(key, new, bounds).map(|()| bytes);
        };
        if new.len() > old.len() {
            let more = StoreSize {
                bytes: (new.len() - old.len()) as u64,
                ..StoreSize::default()
            };
            bounds.check(0, self.size, more)?;
        }
        list.replace(place, old.len(), new);
        self.size.bytes = self.size.bytes - old.len() as u64 + new.len() as u64;
        Ok(bytes)
    }

    /// Makes `value` the only one of the key's list.
    pub fn set(&mut self, key: &[u8], value: &[u8]) {
        // Without bounds it cannot fail.
        let _ = self.try_set(key, value, MemoryLimits::NONE);
    }

    /// Gives the bytes that went.
    fn try_set(&mut self, key: &[u8], value: &[u8], bounds: MemoryLimits) -> Result<usize, Full> {
        let hash = hash_of(&self.hasher, key);
        let Some(list) = self.lists.find_mut(hash, |list| list.key() == key) else {
            return self.try_put(key, value, bounds).map(|()| 0);
        };
        let old = StoreSize {
            keys: 1,
            values: list.len as u64,
            bytes: list.content_bytes as u64,
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
        self.size.values = self.size.values - old.values + 1;
        self.size.bytes = self.size.bytes - old.bytes + new.bytes;
        Ok(old.bytes as usize)
    }

    /// Removes the first value equal to `value`, if there is one. A key without values is gone.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.remove_value(key, value);
    }

    /// Gives the bytes that it may have gone through.
    fn remove_value(&mut self, key: &[u8], value: &[u8]) -> usize {
        let hash = hash_of(&self.hasher, key);
        let Ok(mut found) = self.lists.find_entry(hash, |list| list.key() == key) else {
            return 0;
        };
        let list = found.get_mut();
        let bytes = list.bytes.len();
        if let Some(place) = list.find(value) {
            if list.len == 1 {
                self.size.keys -= 1;
                self.size.bytes -= key.len() as u64;
                found.remove();
            } else {
                list.remove(place, value.len());
            }
            self.size.values -= 1;
            self.size.bytes -= value.len() as u64;
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
        // The store around it may have taken any time.
        answer.took_unknown_time();
        self.apply_at_once(operation, answer, limits);
    }

    fn apply_at_once(
        &mut self,
        operation: Operation<'_>,
        answer: Answer<'_>,
        limits: MemoryLimits,
    ) {
        let bytes = match operation {
            Operation::Get { key } => return answer.values_at_once(self.get(key)),
            Operation::Write(Write::Put { key, value }) => {
                self.try_put(key, value, limits).map(|()| 0)
            }
            Operation::Write(Write::Delete { key }) => Ok(self.remove_key(key)),
            Operation::Write(Write::Update { key, old, new }) => {
                self.try_update(key, old, new, limits)
            }
            Operation::Write(Write::Set { key, value }) => self.try_set(key, value, limits),
            Operation::Write(Write::Remove { key, value }) => Ok(self.remove_value(key, value)),
        };
        match bytes {
            Ok(bytes) => answer.done_after(bytes),
            Err(Full::Store) => answer.store_full(),
            Err(Full::Values) => answer.values_full(),
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
enum Full {
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
        if values >= self.values && more.values > 0 {
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

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let limits = self.limits(&batch);
        batch.each(|operation, answer| self.apply_at_once(operation, answer, limits));
        batch.done()
    }

    fn size(&self) -> StoreSize {
        self.size
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("keys", &self.lists.len())
            .finish()
    }
}

/// `hash_one` would hash the length too, which matters only where more fields follow.
fn hash_of(hasher: &RandomState, key: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(key);
    hasher.finish()
}

/// A key and its values, end to end in one run of bytes, each behind its length.
///
/// Finding it, reading its values and removing them all touch one run of memory, however many
/// values there are; and that run is the table's own where the key and its values are short.
struct List {
    /// The number of values.
    len: usize,
    /// Bytes of the key and the values, without the lengths before them.
    content_bytes: usize,
    bytes: SmallVec<[u8; INLINE]>,
}

/// Bytes of a list that need no allocation. Together with the rest of it that makes 56 bytes a
/// place in the table.
const INLINE: usize = 32;

/// A list that fills less than this part of its allocation is moved to a smaller one. By then, the
/// values that went have paid for it.
const SPARSE: usize = 4;

impl List {
    fn new(key: &[u8], value: &[u8]) -> Self {
        let mut bytes = SmallVec::new();
        push_field(&mut bytes, key);
        let mut list = Self {
            len: 0,
            content_bytes: key.len(),
            bytes,
        };
        list.push(value);
        list
    }

    fn key(&self) -> &[u8] {
        split_field(&self.bytes).map_or(b"", |(key, _)| key)
    }

    fn push(&mut self, value: &[u8]) {
        push_field(&mut self.bytes, value);
        self.len += 1;
        self.content_bytes += value.len();
    }

    fn iter(&self) -> Values<'_> {
        Values {
            len: self.len,
            rest: split_field(&self.bytes).map_or(b"", |(_, values)| values),
        }
    }

    /// Where the first such value stands, with its length.
    fn find(&self, wanted: &[u8]) -> Option<Range<usize>> {
        let mut values = self.iter();
        loop {
            let start = self.bytes.len() - values.rest.len();
            if values.next()? == wanted {
                return Some(start..self.bytes.len() - values.rest.len());
            }
        }
    }

    /// Puts a value in the place of one that has so many bytes.
    fn replace(&mut self, place: Range<usize>, old: usize, new: &[u8]) {
        if new.len() == old {
            self.bytes[place.end - old..place.end].copy_from_slice(new);
        } else {
            let mut field = SmallVec::new();
            push_field(&mut field, new);
            let start = place.start;
            self.bytes.drain(place);
            self.bytes.insert_from_slice(start, &field);
            self.shrink();
        }
        self.content_bytes = self.content_bytes - old + new.len();
    }

    /// Removes the value at this place, which has so many bytes. It is not the only one.
    fn remove(&mut self, place: Range<usize>, value: usize) {
        self.bytes.drain(place);
        self.len -= 1;
        self.content_bytes -= value;
        self.shrink();
    }

    /// Else a client could have short values, or few, take up the room of long ones.
    fn shrink(&mut self) {
        if self.bytes.capacity() / SPARSE > self.bytes.len() {
            self.bytes.shrink_to_fit();
        }
    }
}

/// A field is its length, in one byte where it is less than this, and its bytes. This byte says
/// that the length follows whole.
const LONG: u8 = u8::MAX;

fn push_field(bytes: &mut SmallVec<[u8; INLINE]>, field: &[u8]) {
    match u8::try_from(field.len()) {
        Ok(length) if length < LONG => bytes.push(length),
        _ => {
            bytes.push(LONG);
            bytes.extend_from_slice(&field.len().to_ne_bytes());
        }
    }
    bytes.extend_from_slice(field);
}

/// The first field and what stands behind it.
fn split_field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    if length < LONG {
        return rest.split_at_checked(length.into());
    }
    let (length, rest) = rest.split_first_chunk()?;
    rest.split_at_checked(usize::from_ne_bytes(*length))
}

/// The values of one key, oldest first. Made by [`Memory::get`].
///
/// `Debug` shows how many there are, never what they are.
///
/// ```
/// let mut store = keywire::store::Memory::new();
/// store.put(b"k", b"1");
/// let values = store.get(b"k");
/// assert_eq!(values.len(), 1);
/// assert_eq!(values.last(), Some(&b"1"[..]));
/// ```
#[derive(Clone, Default)]
pub struct Values<'a> {
    len: usize,
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (value, rest) = split_field(self.rest)?;
        self.rest = rest;
        self.len -= 1;
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len, Some(self.len))
    }
}

impl ExactSizeIterator for Values<'_> {}

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Values").field("len", &self.len).finish()
    }
}
