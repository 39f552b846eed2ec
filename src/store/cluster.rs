//! A store on a Redis or Valkey Cluster.
//!
//! In: batches. Out: the same batches, when the nodes have answered.
//!
//! ```text
//! submit ──> job: requests of a batch ──> router: which node, in what order ──> driver: connections
//!            (layout.rs names things)     (slots.rs, node.rs; no I/O)           (resp.rs)
//! ```
//!
//! Changes of what is watched, and the batches that touch it:
//!
//! ```text
//! subscriptions: connections ──> feed: messages ──> sequence: one order ──> watching: changes()
//!                                                        ^
//!                                     batches ───────────┘
//! ```

mod builder;
mod driver;
mod feed;
mod input;
mod job;
mod layout;
mod node;
mod resp;
mod router;
mod seed;
mod sequence;
#[cfg(test)]
mod simulation;
mod slots;
mod stream;
mod subscriptions;
mod walk;
mod watching;

use std::{
    fmt,
    future::{Future, pending, poll_fn},
    sync::Arc,
    task::{Poll, Waker},
};

use futures_lite::{Stream, future};
use smallvec::SmallVec;

use super::{
    Batch, Change, Changes, ClusterStats, KeyPage, Order, Store, Submission, WatchRequest,
};
use crate::{
    Clock, Error, Histogram, StoreKind,
    protocol::{Operation, Topic},
};
pub use builder::ClusterBuilder;
use driver::Shared;
use job::Job;
use watching::Ticket;

const NO_MAX_STORE: &str = "max_store can't be kept to on a cluster, since no server knows how much the \
                            others store; set maxmemory on its nodes";

/// A store that keeps its values on a Redis or Valkey Cluster. Any number of servers may use the same one.
///
/// ```no_run
/// use futures_lite::future;
/// use keywire::{Server, store::Cluster};
///
/// # future::block_on(async {
/// let cluster = Cluster::builder().replicas(1).connect(["10.0.0.1:6379", "10.0.0.2:6379"]).await?;
/// let server = Server::builder().store(cluster).build();
/// # drop(server);
/// # Ok::<(), keywire::Error>(())
/// # })?;
/// # Ok::<(), keywire::Error>(())
/// ```
///
/// The list of a key is the Redis list `PREFIX{BUCKET}:KEY`, where BUCKET is the CRC16 of the key modulo
/// 1024. Over several keys there is no common history.
///
/// Watchers are told of every change that is made through any server with the same prefix, in the order of
/// each key, once; not of what other programs write to the lists. The server subscribes to what its clients
/// watch: a key by one shard channel, a prefix by all 1024. What can't be told is
/// [missed](Change::missed_of): if a subscription is lost, if a slot moves, if a replica takes over. The number
/// of changes missed is not known, so it is 0. A command of a client that watches waits up to a second for
/// changes before it; those of others do not.
///
/// The store has one connection to each master, one more for reads if replicas are asked for, and one more for
/// subscriptions while anything is watched. All of them are served by one future, which the server polls. No thread is started, and no runtime is needed.
pub struct Cluster {
    shared: Arc<Shared>,
}

impl Cluster {
    /// Begins to set up a store.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::new()
    }

    /// What the store is doing.
    pub fn stats(&self) -> ClusterStats {
        self.shared.state().router.stats
    }
}

/// A job that waits for its nodes.
struct Pending {
    shared: Arc<Shared>,
    job: Option<usize>,
}

impl Pending {
    fn submit(shared: &Arc<Shared>, job: Job) -> Self {
        let mut state = shared.state();
        let now = state.now();
        let job = state.router.submit(job, now);
        let driver = state.wake_driver();
        drop(state);
        driver.into_iter().for_each(Waker::wake);
        Self {
            shared: shared.clone(),
            job: Some(job),
        }
    }

    async fn finish(mut self) -> Job {
        poll_fn(|cx| {
            let Some(id) = self.job else {
                return Poll::Ready(Job::default());
            };
            let mut state = self.shared.state();
            if let Some(job) = state.router.take(id) {
                drop(state);
                self.job = None;
                return Poll::Ready(job);
            }
            if let Some(job) = state.router.jobs.get_mut(id) {
                job.waker = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(job) = self.job {
            self.shared.state().router.abandon(job);
        }
    }
}

impl Store for Cluster {
    const ORDER: Order = Order::PerKey;
    const KIND: StoreKind = StoreKind::Cluster;
    const CHANGES: Changes = Changes::All;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let max_values = batch.max_values();
        let client = batch.watching_client();
        let operations: SmallVec<[Operation<'_>; 16]> = batch.operations().collect();
        let (job, ticket) = {
            let mut watching = self.shared.watching.lock();
            // Others are told of nothing, so their batches have no order with changes.
            let ticket = client.and_then(|client| {
                let touched = operations.iter().map(|operation| {
                    let is_get = matches!(operation, Operation::Get { .. });
                    (slots::bucket(operation.key()), is_get)
                });
                watching.sequencer.begin(client, touched)
            });
            let is_watched = |bucket| ticket.is_some() && watching.sequencer.is_watched(bucket);
            let job = Job::new(&operations, &self.shared.layout, max_values, is_watched);
            (job, ticket)
        };
        drop(operations);
        let ticket = ticket.map(|number| Ticket::new(&self.shared.watching, number));
        let pending_job = Pending::submit(&self.shared, job);
        let shared = self.shared.clone();
        Submission::Pending(async move {
            let job = pending_job.finish().await;
            job.answer(&mut batch);
            if let Some(ticket) = ticket {
                // It comes back among the changes.
                let now = shared.state().now();
                ticket.answer(batch, |bucket| job.numbers(bucket), now);
                return pending().await;
            }
            batch
        })
    }

    fn watch(
        &mut self,
        request: WatchRequest,
    ) -> Submission<WatchRequest, impl Future<Output = WatchRequest> + Send + 'static> {
        let timeout = self.shared.timeout;
        Submission::Pending(self.shared.watching.watch(request, timeout))
    }

    fn unwatch(&mut self, topic: Topic<'_>) {
        self.shared.watching.unwatch(topic);
    }

    fn changes(&mut self) -> Option<impl Stream<Item = Change> + Send + 'static> {
        Some(watching::Changes(self.shared.watching.clone()))
    }

    fn keys(
        &mut self,
        page: KeyPage,
    ) -> Submission<KeyPage, impl Future<Output = KeyPage> + Send + 'static> {
        Submission::Pending(walk::fill(self.shared.clone(), page))
    }

    fn check_limits(&self, max_store: u64, _: usize) -> Result<(), Error> {
        match max_store {
            u64::MAX => Ok(()),
            _ => Err(Error::store(NO_MAX_STORE)),
        }
    }

    fn work(&mut self, clock: Arc<dyn Clock>) -> Option<impl Future<Output = ()> + Send + 'static> {
        let driver = driver::run(self.shared.clone(), clock.clone());
        let subscriptions = subscriptions::run(self.shared.clone(), clock);
        Some(async {
            future::zip(driver, subscriptions).await;
        })
    }

    fn cluster_stats(&self) -> ClusterStats {
        self.stats()
    }

    fn answer_times(&self) -> Option<Histogram> {
        Some(self.shared.state().router.answer_times)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
