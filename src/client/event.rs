//! What a watcher gets.

use std::fmt;

use crate::protocol::Write;

/// A change of a watched key. `Debug` shows lengths, never keys or values.
///
/// ```
/// use keywire::Event;
///
/// let event = Event::Put { key: b"user".to_vec(), value: b"secret".to_vec() };
/// assert_eq!(format!("{event:?}"), "Put { key: [4 bytes], value: [6 bytes] }");
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// A value was appended.
    Put {
        /// The key written to.
        key: Vec<u8>,
        /// The new value.
        value: Vec<u8>,
    },
    /// The first value equal to `old` was replaced; or, if there was none, `new` was appended.
    Update {
        /// The key written to.
        key: Vec<u8>,
        /// The value looked for.
        old: Vec<u8>,
        /// The new value.
        new: Vec<u8>,
    },
    /// The key's list became this one value.
    Set {
        /// The key written to.
        key: Vec<u8>,
        /// Its only value.
        value: Vec<u8>,
    },
    /// The first value equal to this one was removed, if there was one.
    Remove {
        /// The key written to.
        key: Vec<u8>,
        /// The value looked for.
        value: Vec<u8>,
    },
    /// The key was removed, if it was there.
    Delete {
        /// The key removed.
        key: Vec<u8>,
    },
    /// This many changes are missing at this place, because this watcher, or the whole connection,
    /// did not keep up. If the connection did not, the number counts the changes of everything that
    /// it watches. 0 is an unknown number, as after a connection that was lost.
    Missed(u64),
}

impl Event {
    /// The key that changed; `None` for [`Missed`](Self::Missed).
    ///
    /// ```
    /// use keywire::Event;
    ///
    /// assert_eq!(Event::Delete { key: b"user".to_vec() }.key(), Some(&b"user"[..]));
    /// assert_eq!(Event::Missed(3).key(), None);
    /// ```
    pub fn key(&self) -> Option<&[u8]> {
        self.as_write().ok().map(|write| write.key())
    }

    pub(super) fn of(write: Write<'_>) -> Self {
        let key = write.key().to_vec();
        match write {
            Write::Put { value, .. } => Event::Put {
                key,
                value: value.to_vec(),
            },
            Write::Update { old, new, .. } => Event::Update {
                key,
                old: old.to_vec(),
                new: new.to_vec(),
            },
            Write::Set { value, .. } => Event::Set {
                key,
                value: value.to_vec(),
            },
            Write::Remove { value, .. } => Event::Remove {
                key,
                value: value.to_vec(),
            },
            Write::Delete { .. } => Event::Delete { key },
        }
    }

    /// `Err` is the number of changes missed.
    pub(super) fn as_write(&self) -> Result<Write<'_>, u64> {
        match self {
            Event::Put { key, value } => Ok(Write::Put { key, value }),
            Event::Update { key, old, new } => Ok(Write::Update { key, old, new }),
            Event::Set { key, value } => Ok(Write::Set { key, value }),
            Event::Remove { key, value } => Ok(Write::Remove { key, value }),
            Event::Delete { key } => Ok(Write::Delete { key }),
            Event::Missed(changes) => Err(*changes),
        }
    }

    /// The bytes of its key and values.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Event::Put { key, value }
            | Event::Set { key, value }
            | Event::Remove { key, value } => key.len() + value.len(),
            Event::Update { key, old, new } => key.len() + old.len() + new.len(),
            Event::Delete { key } => key.len(),
            Event::Missed(_) => 0,
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_write() {
            Ok(write) => write.fmt(f),
            Err(missed) => f.debug_tuple("Missed").field(&missed).finish(),
        }
    }
}
