//! Keys and their values as they were read, and the changes that keep them up to date.

use std::collections::BTreeMap;

use super::event::Event;
use crate::{Error, protocol::Write};

/// Keys and their values, oldest first. No key is without values.
///
/// [`Client::get_and_watch_prefix`](crate::Client::get_and_watch_prefix) reads one, and
/// [`Event::apply_to`] keeps it up to date.
pub type Snapshot = BTreeMap<Vec<u8>, Vec<Vec<u8>>>;

impl Event {
    /// Applies the change to a snapshot, as the server applied it to its store.
    ///
    /// ```
    /// use keywire::{Event, Snapshot};
    ///
    /// let mut snapshot = Snapshot::new();
    /// let (key, value) = (b"user".to_vec(), b"alice".to_vec());
    /// Event::Put { key: key.clone(), value: value.clone() }.apply_to(&mut snapshot)?;
    /// assert_eq!(snapshot[&key], [b"alice"]);
    ///
    /// Event::Remove { key, value }.apply_to(&mut snapshot)?;
    /// assert!(snapshot.is_empty());
    ///
    /// let error = Event::Missed(3).apply_to(&mut snapshot).unwrap_err();
    /// assert!(matches!(error, keywire::Error::ChangesMissed { changes: 3, .. }));
    /// # Ok::<(), keywire::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ChangesMissed`] for [`Missed`](Self::Missed): the snapshot is not the state of the
    /// store any more, and has to be read again.
    pub fn apply_to(&self, snapshot: &mut Snapshot) -> Result<(), Error> {
        match self.as_write() {
            Ok(change) => apply(change, snapshot),
            Err(changes) => return Err(Error::ChangesMissed { changes }),
        }
        Ok(())
    }
}

pub(super) fn apply(change: Write<'_>, snapshot: &mut Snapshot) {
    match change {
        Write::Put { key, value } => {
            let values = snapshot.entry(key.to_vec()).or_default();
            values.push(value.to_vec());
        }
        Write::Update { key, old, new } => {
            let values = snapshot.entry(key.to_vec()).or_default();
            match values.iter_mut().find(|value| *value == old) {
                Some(value) => *value = new.to_vec(),
                None => values.push(new.to_vec()),
            }
        }
        Write::Set { key, value } => {
            snapshot.insert(key.to_vec(), vec![value.to_vec()]);
        }
        Write::Remove { key, value } => {
            let Some(values) = snapshot.get_mut(key) else {
                return;
            };
            if let Some(at) = values.iter().position(|one| one == value) {
                values.remove(at);
            }
            if values.is_empty() {
                snapshot.remove(key);
            }
        }
        Write::Delete { key } => {
            snapshot.remove(key);
        }
    }
}
