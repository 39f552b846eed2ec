//! Many small hash tables: a table that is full is split in two, so no write waits while all keys move.
//!
//! Each table has a range of the hashes, given by their upper bits, and a directory leads to it. So all
//! keys can be gone through in the order of their hashes, however the tables change meanwhile.

use hashbrown::HashTable;

use super::list::List;

/// Keys that a table holds before it is split. This many are moved at once.
const TABLE_KEYS: usize = 1792;

/// Bytes of the keys that a table holds before it is split. They are all hashed when it is split or
/// grows, and for each page of a walk that is in it, so long keys make small tables.
const TABLE_BYTES: usize = 512 * 1024;

/// A table that fills less than this part of its places gives some of them back.
const SPARSE: usize = 8;

/// Bits of a hash that lead to a table, at most. The others are left for the place in it.
const MAX_DEPTH: u32 = 24;

pub(super) struct Tables {
    /// The table of each value of the upper `depth` bits of a hash.
    directory: Vec<u32>,
    depth: u32,
    tables: Vec<Table>,
}

#[derive(Default)]
struct Table {
    lists: HashTable<List>,
    key_bytes: usize,
    /// The upper bits that its hashes have in common.
    depth: u32,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            directory: vec![0],
            depth: 0,
            tables: vec![Table::default()],
        }
    }
}

impl Table {
    fn is_full(&self) -> bool {
        self.lists.len() >= TABLE_KEYS || self.key_bytes >= TABLE_BYTES
    }
}

/// The place in a table is given by bits of the hash that lead to no table.
fn inner(hash: u64) -> u64 {
    hash.rotate_left(u64::BITS / 2)
}

impl Tables {
    /// In two steps, since a shift by 64 bits is none.
    fn slot(&self, hash: u64) -> usize {
        (hash >> 1 >> (u64::BITS - 1 - self.depth)) as usize
    }

    fn table(&self, hash: u64) -> &Table {
        &self.tables[self.directory[self.slot(hash)] as usize]
    }

    fn table_mut(&mut self, hash: u64) -> &mut Table {
        let slot = self.slot(hash);
        &mut self.tables[self.directory[slot] as usize]
    }

    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<&List> {
        let lists = &self.table(hash).lists;
        lists.find(inner(hash), |list| list.key() == key)
    }

    /// Has the list of this hash fetched from memory, if there is one.
    pub(super) fn touch(&self, hash: u64) {
        let lists = &self.table(hash).lists;
        if let Some(list) = lists.iter_hash(inner(hash)).next() {
            list.touch();
        }
    }

    pub(super) fn find_mut(&mut self, hash: u64, key: &[u8]) -> Option<&mut List> {
        let lists = &mut self.table_mut(hash).lists;
        lists.find_mut(inner(hash), |list| list.key() == key)
    }

    /// Adds the list of a key that has none.
    pub(super) fn insert(&mut self, hash: u64, list: List, hash_of: impl Fn(&[u8]) -> u64) {
        let mut table = self.table_mut(hash);
        if table.is_full() && table.depth < MAX_DEPTH {
            self.split(hash, &hash_of);
            table = self.table_mut(hash);
        }
        table.key_bytes += list.key().len();
        let rehash = |list: &List| inner(hash_of(list.key()));
        table.lists.insert_unique(inner(hash), list, rehash);
    }

    pub(super) fn remove(
        &mut self,
        hash: u64,
        key: &[u8],
        hash_of: impl Fn(&[u8]) -> u64,
    ) -> Option<List> {
        let Table {
            lists, key_bytes, ..
        } = self.table_mut(hash);
        let found = lists.find_entry(inner(hash), |list| list.key() == key);
        let (list, _) = found.ok()?.remove();
        *key_bytes -= key.len();
        if lists.capacity() / SPARSE > lists.len() {
            let room = 2 * lists.len();
            lists.shrink_to(room, |list| inner(hash_of(list.key())));
        }
        Some(list)
    }

    /// Splits the table of this hash in two.
    fn split(&mut self, hash: u64, hash_of: impl Fn(&[u8]) -> u64) {
        let index = self.directory[self.slot(hash)];
        let depth = self.tables[index as usize].depth + 1;
        if depth > self.depth {
            self.directory = self
                .directory
                .iter()
                .flat_map(|&table| [table; 2])
                .collect();
            self.depth = depth;
        }
        let lists = std::mem::take(&mut self.tables[index as usize].lists);
        let room = lists.len() / 2;
        let mut halves = [(); 2].map(|()| Table {
            lists: HashTable::with_capacity(room),
            key_bytes: 0,
            depth,
        });
        for list in lists {
            let hash = hash_of(list.key());
            let half = &mut halves[(hash >> (u64::BITS - depth) & 1) as usize];
            half.key_bytes += list.key().len();
            let rehash = |list: &List| inner(hash_of(list.key()));
            half.lists.insert_unique(inner(hash), list, rehash);
        }
        let [lower, upper] = halves;
        self.tables[index as usize] = lower;
        self.tables.push(upper);
        // The upper half of the old table's part of the directory.
        let end = self.slot(last_with(hash, depth - 1)) + 1;
        let slots = 1 << (self.depth - depth);
        let new = (self.tables.len() - 1) as u32;
        self.directory[end - slots..end].fill(new);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &List> {
        self.tables.iter().flat_map(|table| table.lists.iter())
    }

    /// The lists of the table that has this hash, in no order, and the last hash that belongs to it.
    pub(super) fn part(&self, hash: u64) -> (impl ExactSizeIterator<Item = &List>, u64) {
        let table = self.table(hash);
        (table.lists.iter(), last_with(hash, table.depth))
    }
}

/// The greatest hash that has the upper `bits` of this one.
fn last_with(hash: u64, bits: u32) -> u64 {
    hash | u64::MAX.checked_shr(bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn hash_of(key: &[u8]) -> u64 {
        // Spreads the number in the key over all bits.
        let mut bytes = [0; 8];
        bytes[..key.len()].copy_from_slice(key);
        u64::from_le_bytes(bytes).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn key(number: u32) -> [u8; 4] {
        number.to_le_bytes()
    }

    /// However long keys are, few bytes are hashed at a time: for a write, and for a page of a walk.
    #[test]
    fn long_keys_make_small_tables() {
        const KEY: usize = 32 * 1024;
        let mut tables = Tables::default();
        let hashed = Cell::new(0);
        let hash_of = |key: &[u8]| {
            hashed.set(hashed.get() + key.len());
            hash_of(&key[..4])
        };
        let long_key = |number: u32| [&key(number)[..], &[b'k'; KEY - 4]].concat();
        for number in 0..1000 {
            let key = long_key(number);
            let hash = hash_of(&key);
            hashed.set(0);
            tables.insert(hash, List::new(&key, b"v"), hash_of);
            assert!(hashed.get() < 4 * TABLE_BYTES, "{}", hashed.get());
        }
        assert!(
            tables
                .tables
                .iter()
                .all(|table| table.lists.len() * KEY <= TABLE_BYTES + KEY)
        );
        for number in 0..1000 {
            let key = long_key(number);
            assert!(tables.remove(hash_of(&key), &key, hash_of).is_some());
        }
        assert!(tables.tables.iter().all(|table| table.key_bytes == 0));
    }

    #[test]
    fn every_key_is_found_however_often_tables_are_split_and_shrink() {
        let mut tables = Tables::default();
        let count = 40 * TABLE_KEYS as u32;
        for number in 0..count {
            let key = key(number);
            tables.insert(hash_of(&key), List::new(&key, b"v"), hash_of);
        }
        assert!(tables.tables.len() > 20);
        assert!(
            tables
                .tables
                .iter()
                .all(|table| table.lists.len() <= TABLE_KEYS)
        );
        for number in 0..count {
            let key = key(number);
            assert!(tables.find(hash_of(&key), &key).is_some());
        }
        let mut seen = 0;
        let mut hash = 0;
        loop {
            let (lists, last) = tables.part(hash);
            for list in lists {
                assert!((hash..=last).contains(&hash_of(list.key())));
                seen += 1;
            }
            match last.checked_add(1) {
                Some(next) => hash = next,
                None => break,
            }
        }
        assert_eq!(seen, count);
        let places = |tables: &Tables| -> usize {
            tables
                .tables
                .iter()
                .map(|table| table.lists.capacity())
                .sum()
        };
        let peak = places(&tables);
        for number in 0..count {
            let key = key(number);
            assert!(tables.remove(hash_of(&key), &key, hash_of).is_some());
            assert!(tables.find(hash_of(&key), &key).is_none());
        }
        assert!(places(&tables) * 10 < peak);
        assert_eq!(tables.iter().count(), 0);
    }
}
