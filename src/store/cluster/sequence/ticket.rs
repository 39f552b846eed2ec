//! A batch of a client that watches, from when it is sent until it comes back.

use std::{sync::Arc, time::Instant};

use smallvec::SmallVec;

use crate::store::OwnChanges;

/// Bytes of changes that are kept for a client until its batch comes back. If there are more, they count as
/// missed by that client.
pub(super) const MAX_KEPT: usize = 1 << 20;

/// What a change takes that is kept, beside its line, which those for whom it is kept share.
const KEPT_BYTES: usize = 64;

/// Where a batch took effect in a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Numbers {
    /// The number of its last command.
    pub(in super::super) last: u64,
    /// What its `Get`s show is what was at this number.
    pub(in super::super) shown: u64,
}

/// What a batch has to do with a bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) bucket: u16,
    pub(super) has_get: bool,
    /// There when it is answered, if it is known.
    pub(super) numbers: Option<Numbers>,
    /// Changes were missed since it was submitted, or too many were kept for it.
    pub(super) is_stale: bool,
}

pub(super) struct Ticket<B> {
    pub(super) client: usize,
    /// There when it is answered.
    pub(super) batch: Option<B>,
    pub(super) parts: SmallVec<[Part; 2]>,
    /// Parts that wait for changes.
    pub(super) unready: usize,
    /// Changes of buckets of which it is a reader, with their numbers.
    pub(super) kept: Vec<(u16, u64, Arc<[u8]>)>,
    pub(super) kept_bytes: usize,
    pub(super) answered_at: Option<Instant>,
}

impl<B> Ticket<B> {
    fn part(&mut self, bucket: u16) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.bucket == bucket)
    }

    pub(super) fn keep(&mut self, bucket: u16, number: u64, line: &Arc<[u8]>) {
        let is_full = self.kept_bytes + KEPT_BYTES + line.len() > MAX_KEPT;
        match self.part(bucket) {
            Some(part) if !part.is_stale && !is_full => {
                self.kept.push((bucket, number, line.clone()));
                self.kept_bytes += KEPT_BYTES + line.len();
            }
            Some(_) => self.miss(bucket),
            None => {}
        }
    }

    /// Its client has to be told behind it that it missed changes of the bucket.
    pub(super) fn miss(&mut self, bucket: u16) {
        if let Some(part) = self.part(bucket) {
            part.is_stale = true;
        }
        self.forget(bucket);
    }

    pub(super) fn forget(&mut self, bucket: u16) {
        self.kept.retain(|&(other, ..)| other != bucket);
        let bytes = self.kept.iter().map(|(.., line)| KEPT_BYTES + line.len());
        self.kept_bytes = bytes.sum();
    }

    /// What its client is told around it.
    pub(super) fn take_changes(&mut self) -> OwnChanges {
        let mut changes = OwnChanges::default();
        for (bucket, number, line) in std::mem::take(&mut self.kept) {
            let numbers = self.part(bucket).and_then(|part| part.numbers);
            match numbers.is_none_or(|numbers| number <= numbers.shown) {
                true => changes.before.push(line),
                false => changes.behind.push(line),
            }
        }
        changes.has_missed = self.parts.iter().any(|part| part.has_get && part.is_stale);
        changes
    }
}
