//! A key and its values.

use std::{fmt, hint::black_box, ops::Range};

use smallvec::SmallVec;

/// A key and its values, end to end in one run of bytes, each behind its length.
///
/// Finding it, reading its values and removing them all touch one run of memory, however many
/// values there are; and that run is the table's own where the key and its values are short.
pub(super) struct List {
    /// The number of values.
    pub(super) len: u32,
    /// The number of fields whose length takes more than a byte.
    long_fields: u32,
    /// The commit that changed it last, if the store is durable.
    pub(super) commit: u64,
    pub(super) bytes: SmallVec<[u8; INLINE]>,
}

/// Bytes of a list that need no allocation. Together with the rest of it that makes 56 bytes a
/// place in the table.
const INLINE: usize = 32;

/// A list that fills less than this part of its allocation is moved to a smaller one. By then, the
/// values that went have paid for it.
const SPARSE: usize = 4;

impl List {
    pub(super) fn new(key: &[u8], value: &[u8]) -> Self {
        // Many a list has one value for ever.
        let mut bytes = SmallVec::with_capacity(field_bytes(key) + field_bytes(value));
        push_field(&mut bytes, key);
        let mut list = Self {
            len: 0,
            long_fields: is_long(key.len()),
            commit: 0,
            bytes,
        };
        list.push(value);
        list
    }

    pub(super) fn key(&self) -> &[u8] {
        split_field(&self.bytes).map_or(b"", |(key, _)| key)
    }

    /// Reads both ends of it, for nothing but that the processor fetches them.
    pub(super) fn touch(&self) {
        black_box(
            self.bytes
                .first()
                .zip(self.bytes.last())
                .map(|(&first, &last)| first ^ last),
        );
    }

    pub(super) fn push(&mut self, value: &[u8]) {
        push_field(&mut self.bytes, value);
        self.len += 1;
        self.long_fields += is_long(value.len());
    }

    /// Bytes of the key and the values, without the lengths before them.
    pub(super) fn content_bytes(&self) -> usize {
        let long = self.long_fields as usize * size_of::<usize>();
        self.bytes.len() - self.len as usize - 1 - long
    }

    pub(super) fn iter(&self) -> Values<'_> {
        Values {
            len: self.len as usize,
            rest: split_field(&self.bytes).map_or(b"", |(_, values)| values),
        }
    }

    /// Where the first such value stands, with its length.
    pub(super) fn find(&self, wanted: &[u8]) -> Option<Range<usize>> {
        let mut values = self.iter();
        loop {
            let start = self.bytes.len() - values.rest.len();
            if values.next()? == wanted {
                return Some(start..self.bytes.len() - values.rest.len());
            }
        }
    }

    /// Puts a value in the place of one that has so many bytes.
    pub(super) fn replace(&mut self, place: Range<usize>, old: usize, new: &[u8]) {
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
        self.long_fields = self.long_fields - is_long(old) + is_long(new.len());
    }

    /// Removes the value at this place, which has so many bytes. It is not the only one.
    pub(super) fn remove(&mut self, place: Range<usize>, value: usize) {
        self.bytes.drain(place);
        self.len -= 1;
        self.long_fields -= is_long(value);
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

/// 1 if the length of a field of so many bytes follows whole.
fn is_long(bytes: usize) -> u32 {
    u32::from(bytes >= LONG.into())
}

/// What [`push_field`] pushes.
fn field_bytes(field: &[u8]) -> usize {
    1 + size_of::<usize>() * is_long(field.len()) as usize + field.len()
}

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

/// The values of one key, oldest first. Made by [`Memory::get`](super::Memory::get).
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
