//! The names of keys, page by page.

use super::Memory;
use crate::store::KeyPage;

/// Keys that are looked at for a page of a walk. Meanwhile all clients wait.
const PAGE_KEYS: usize = 4096;

impl Memory {
    /// Fills a page of keys. They come in the order of their hashes, so tables may be split between two
    /// pages.
    pub(in crate::store) fn fill(&self, page: &mut KeyPage) {
        let mut from = page.cursor().try_into().map_or(0, u64::from_be_bytes);
        let mut visited = 0;
        let mut found = Vec::new();
        loop {
            let (lists, last) = self.lists.part(from);
            visited += 1 + lists.len();
            found.clear();
            for list in lists {
                let key = list.key();
                if key.starts_with(page.prefix()) {
                    let hash = self.hash(key);
                    if hash >= from {
                        found.push((hash, key));
                    }
                }
            }
            found.sort_unstable();
            for &(hash, key) in &found {
                // Keys of the same hash come in the same page.
                if page.is_full() && hash > from {
                    page.set_next(&hash.to_be_bytes());
                    return;
                }
                from = hash;
                page.push(key);
            }
            let Some(next) = last.checked_add(1) else {
                return;
            };
            from = next;
            if page.is_full() || visited >= PAGE_KEYS {
                page.set_next(&from.to_be_bytes());
                return;
            }
        }
    }
}
