//! What the store, its submissions and the subscriptions share: what is watched, and the changes and batches
//! that are ready for the server.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use async_io::Timer;
use futures_lite::{Stream, future};

use super::{
    sequence::{Numbers, Output, Sequencer},
    slots::{self, BUCKETS},
};
use crate::{
    protocol::Topic,
    store::{Batch, Change, WatchRequest},
};

/// Bytes of changes that wait for the server. If there are more, it is told that some were missed.
const MAX_QUEUE: usize = 64 << 20;

pub(super) struct Watching {
    pub(super) sequencer: Sequencer<Batch>,
    /// How many keys and prefixes are watched of each bucket.
    wanted: Vec<u32>,
    wanted_buckets: usize,
    /// Whether that has changed since it was looked at.
    pub(super) is_changed: bool,
    queue: VecDeque<Change>,
    queue_bytes: usize,
    /// Of the stream of changes.
    reader: Option<Waker>,
    /// Of requests to watch.
    requests: Vec<Waker>,
    /// Of the subscriptions.
    pub(super) subscriber: Option<Waker>,
}

#[derive(Clone)]
pub(super) struct SharedWatching(Arc<Mutex<Watching>>);

/// The buckets that may hold a key of it.
fn buckets(topic: Topic<'_>) -> Range<u16> {
    match topic {
        Topic::Key(key) => {
            let bucket = slots::bucket(key);
            bucket..bucket + 1
        }
        Topic::Prefix(_) => 0..BUCKETS,
    }
}

impl SharedWatching {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Watching {
            sequencer: Sequencer::new(BUCKETS),
            wanted: vec![0; BUCKETS.into()],
            wanted_buckets: 0,
            is_changed: false,
            queue: VecDeque::new(),
            queue_bytes: 0,
            reader: None,
            requests: Vec::new(),
            subscriber: None,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Watching> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends when all that the request needs is subscribed.
    pub(super) fn watch(
        &self,
        mut request: WatchRequest,
        timeout: Duration,
    ) -> impl Future<Output = WatchRequest> + Send + 'static {
        let wanted = Wanted::new(self, buckets(request.topic()));
        async move {
            let subscribed = poll_fn(|cx| {
                let mut watching = wanted.watching.lock();
                let sequencer = &watching.sequencer;
                if wanted.buckets.clone().all(|it| sequencer.is_live(it)) {
                    return Poll::Ready(true);
                }
                watching.requests.push(cx.waker().clone());
                Poll::Pending
            });
            let late = async {
                Timer::after(timeout).await;
                false
            };
            match future::or(subscribed, late).await {
                true => wanted.keep(),
                false => request.fail("the cluster could not be subscribed to in time"),
            }
            request
        }
    }

    #[cfg(test)]
    pub(super) fn wanted(&self, topic: Topic<'_>) -> impl Drop {
        Wanted::new(self, buckets(topic))
    }

    pub(super) fn unwatch(&self, topic: Topic<'_>) {
        self.lock().unwant(buckets(topic));
    }
}

/// Buckets that a request wants, until it is done.
struct Wanted {
    watching: SharedWatching,
    buckets: Range<u16>,
}

impl Wanted {
    fn new(watching: &SharedWatching, buckets: Range<u16>) -> Self {
        watching.lock().want(buckets.clone());
        Self {
            watching: watching.clone(),
            buckets,
        }
    }

    /// The request is done. They are wanted until `unwatch`.
    fn keep(mut self) {
        self.buckets = 0..0;
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.watching.lock().unwant(self.buckets.clone());
    }
}

/// A batch that is with the cluster, and that is to come back in its place among the changes.
pub(super) struct Ticket {
    watching: SharedWatching,
    number: Option<usize>,
}

impl Ticket {
    pub(super) fn new(watching: &SharedWatching, number: usize) -> Self {
        Self {
            watching: watching.clone(),
            number: Some(number),
        }
    }

    pub(super) fn answer(
        mut self,
        batch: Batch,
        numbers: impl Fn(u16) -> Option<Numbers>,
        now: Instant,
    ) {
        if let Some(ticket) = self.number.take() {
            let mut watching = self.watching.lock();
            watching.sequencer.answer(ticket, batch, numbers, now);
            watching.flush();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(ticket) = self.number.take() {
            let mut watching = self.watching.lock();
            watching.sequencer.cancel(ticket);
            watching.flush();
        }
    }
}

impl Watching {
    pub(super) fn is_wanted(&self, bucket: u16) -> bool {
        self.wanted[usize::from(bucket)] > 0
    }

    /// Whether anything is watched.
    pub(super) fn is_used(&self) -> bool {
        self.wanted_buckets > 0
    }

    fn want(&mut self, buckets: Range<u16>) {
        for bucket in buckets {
            let count = &mut self.wanted[usize::from(bucket)];
            *count += 1;
            if *count == 1 {
                self.wanted_buckets += 1;
                self.is_changed = true;
                self.sequencer.watch(bucket);
            }
        }
        self.flush();
    }

    fn unwant(&mut self, buckets: Range<u16>) {
        for bucket in buckets {
            let count = &mut self.wanted[usize::from(bucket)];
            if *count == 0 {
                continue;
            }
            *count -= 1;
            if *count == 0 {
                self.wanted_buckets -= 1;
                self.is_changed = true;
                self.sequencer.unwatch(bucket);
            }
        }
        self.flush();
    }

    /// Hands on what has become ready, and wakes who waits for it.
    pub(super) fn flush(&mut self) {
        while let Some(output) = self.sequencer.out.pop_front() {
            let change = match output {
                Output::Change { line, except } => Change::published(&line, except),
                Output::Missed(first) => {
                    // Those in a row are one change, so that what is watched is gone through once.
                    let mut missed = [false; BUCKETS as usize];
                    missed[usize::from(first)] = true;
                    while let Some(&Output::Missed(next)) = self.sequencer.out.front() {
                        missed[usize::from(next)] = true;
                        self.sequencer.out.pop_front();
                    }
                    Change::missed_of(move |key| missed[usize::from(slots::bucket(key))])
                }
                Output::Batch(mut batch, changes) => {
                    batch.set_own_changes(changes);
                    Change::from(batch)
                }
            };
            self.queue_bytes += change.bytes();
            self.queue.push_back(change);
        }
        if self.queue_bytes > MAX_QUEUE {
            self.drop_changes();
        }
        if !self.queue.is_empty() {
            self.reader.take().into_iter().for_each(Waker::wake);
        }
        if self.is_changed {
            self.subscriber.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Wakes the requests, to look whether they are done.
    pub(super) fn wake_requests(&mut self) {
        self.requests.drain(..).for_each(Waker::wake);
    }

    /// There are too many changes. Only the batches stay: what they show is behind what was missed, or
    /// between.
    fn drop_changes(&mut self) {
        let mut queue = VecDeque::from([Change::missed()]);
        queue.extend(self.queue.drain(..).filter(Change::is_batch));
        if queue.len() > 1 {
            // A batch may show what was before some of them.
            queue.push_back(Change::missed());
        }
        self.queue = queue;
        self.queue_bytes = 0;
    }
}

/// The changes, for the server.
pub(super) struct Changes(pub(super) SharedWatching);

impl Stream for Changes {
    type Item = Change;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Change>> {
        let mut watching = self.0.lock();
        let Some(change) = watching.queue.pop_front() else {
            watching.queue_bytes = 0;
            watching.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        watching.queue_bytes = watching.queue_bytes.saturating_sub(change.bytes());
        Poll::Ready(Some(change))
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::StreamExt as _;

    use super::*;
    use crate::protocol::Write;

    /// A server that takes no changes misses some, and is told so once, before those that come later.
    #[test]
    fn a_full_queue_of_changes_is_missed() {
        let shared = SharedWatching::new();
        let mut changes = Changes(shared.clone());
        let change = |number: u64, line: &[u8]| {
            let mut watching = shared.lock();
            watching.sequencer.on_change(0, number, line);
            watching.flush();
        };
        shared.lock().want(0..1);
        shared.lock().sequencer.on_number(0, 0, false);
        let long = [b"Put:k:", &[b'x'; 1 << 20][..]].concat();
        for number in 1..=100 {
            change(number, &long);
            let watching = shared.lock();
            assert!(watching.queue_bytes <= MAX_QUEUE && watching.queue.len() <= 64);
        }
        change(101, b"Put:k:last");
        let mut next = || future::block_on(future::poll_once(changes.next())).flatten();
        assert!(next().unwrap().write().is_none(), "some were missed");
        let last = Write::Put {
            key: b"k",
            value: b"last",
        };
        let mut told = 0;
        while let Some(change) = next() {
            assert!(change.write().is_some(), "it is told once");
            told += 1;
            if change.write() == Some(last) {
                assert!(next().is_none() && told < 65);
                assert_eq!(shared.lock().queue_bytes, 0);
                return;
            }
        }
        panic!("the last change is not told");
    }

    /// A node that fails has many buckets, and whoever is concerned is asked once.
    #[test]
    fn what_is_missed_in_a_row_is_one_change() {
        let shared = SharedWatching::new();
        let mut watching = shared.lock();
        watching.want(0..BUCKETS);
        let miss = |watching: &mut Watching, buckets: Range<u16>| {
            for bucket in buckets {
                watching.sequencer.on_number(bucket, 0, false);
                watching.sequencer.on_number(bucket, 1, false);
            }
        };
        miss(&mut watching, 0..300);
        watching.sequencer.on_change(0, 2, b"Put:k:v");
        miss(&mut watching, 300..301);
        watching.flush();
        let mut changes = watching.queue.iter();
        let mut next = || changes.next().unwrap();
        let concerned = |change: &Change, buckets: Range<u16>| {
            let is_missed = change.missed_keys().unwrap();
            for number in 0..10_000 {
                let key = format!("k{number}");
                let bucket = slots::bucket(key.as_bytes());
                assert_eq!(is_missed(key.as_bytes()), buckets.contains(&bucket));
            }
        };
        concerned(next(), 0..300);
        assert!(next().write().is_some());
        concerned(next(), 300..301);
        assert!(changes.next().is_none());
    }
}
