//! The replies to walks over a prefix: lines → whole keys, for a queue or for a snapshot.
//!
//! A key is whole when the next one begins, when a change comes, or at the end: the server sends
//! nothing between the lines of one key that could say otherwise.

use std::sync::Arc;

use super::{Framing, MAX_REPLY, PartialResponse};
use crate::{
    client::{
        call::{Destination, Request},
        snapshot::apply,
        walk_queue::{Found, WalkQueue},
    },
    error::ConnectionError,
    protocol::Write,
};

impl Framing {
    /// The queue for what comes next, if that is a walk's.
    pub(in crate::client) fn walk_queue(&self) -> Option<&Arc<WalkQueue>> {
        self.query()?.walk_queue()
    }

    /// A change comes. A snapshot contains it from here on. If its key comes later in the walk, the
    /// lines of the key replace what the change made of the key. If it does not, then the key was
    /// absent at some moment during the walk, and from that moment on its changes are all of it.
    pub(super) fn change(&mut self, change: Write<'_>) {
        let query = self.exchanges.front().and_then(|one| one.query.as_ref());
        if let Some(Request::GetPrefix { prefix, to }) = query {
            let snapshot = matches!(to, Destination::Snapshot(_));
            if snapshot && change.key().starts_with(prefix) {
                self.partial.finish_key(to);
                apply(change, &mut self.partial.snapshot);
            }
        }
        self.watches.notify(change);
    }

    /// Whether the line is that of the walk which is answered now.
    pub(super) fn is_walk(&self, line: u64) -> bool {
        let first = self
            .exchanges
            .front()
            .filter(|one| one.fence.checked_sub(1) == Some(line));
        let query = first.and_then(|one| one.query.as_ref());
        matches!(
            query,
            Some(Request::GetPrefix { .. } | Request::Keys { .. })
        )
    }

    /// The last key of a walk is whole.
    pub(super) fn finish_walk(&mut self) {
        let query = self.exchanges.front().and_then(|one| one.query.as_ref());
        if let Some(Request::GetPrefix { to, .. }) = query {
            self.partial.finish_key(to);
        }
    }
}

impl Request {
    pub(super) fn walk_queue(&self) -> Option<&Arc<WalkQueue>> {
        match self {
            Request::Keys { queue, .. } => Some(queue),
            Request::GetPrefix {
                to: Destination::Walk(queue),
                ..
            } => Some(queue),
            _ => None,
        }
    }
}

impl PartialResponse {
    /// A line of the reply to `GetPrefix`.
    pub(super) fn entry(
        &mut self,
        (key, value): (&[u8], &[u8]),
        prefix: &[u8],
        to: &Destination,
    ) -> Result<(), ConnectionError> {
        check_prefix(key, prefix)?;
        if self.key != key {
            self.finish_key(to);
            self.key = key.to_vec();
            self.bytes = 0;
        }
        self.bytes += key.len() + value.len() + 2;
        if self.bytes > MAX_REPLY {
            return Err(ConnectionError::Protocol("a key without end"));
        }
        self.values.push(value.to_vec());
        Ok(())
    }

    fn finish_key(&mut self, to: &Destination) {
        let key = std::mem::take(&mut self.key);
        let values = std::mem::take(&mut self.values);
        match to {
            _ if values.is_empty() => {}
            Destination::Walk(queue) => queue.push(Found {
                key,
                count: values.len() as u64,
                values,
            }),
            Destination::Snapshot(queue) => match queue.count_key() {
                true => drop(self.snapshot.insert(key, values)),
                false => self.snapshot.clear(),
            },
        }
    }
}

/// A line of the reply to `Keys`.
pub(super) fn count(
    (key, value): (&[u8], &[u8]),
    prefix: &[u8],
    queue: &WalkQueue,
) -> Result<(), ConnectionError> {
    check_prefix(key, prefix)?;
    let count = std::str::from_utf8(value).ok();
    let count = count.and_then(|count| count.parse().ok());
    queue.push(Found {
        key: key.to_vec(),
        values: Vec::new(),
        count: count.ok_or(ConnectionError::Protocol("a number of values that is none"))?,
    });
    Ok(())
}

fn check_prefix(key: &[u8], prefix: &[u8]) -> Result<(), ConnectionError> {
    match key.starts_with(prefix) {
        true => Ok(()),
        false => Err(ConnectionError::Protocol("a key without the prefix")),
    }
}
