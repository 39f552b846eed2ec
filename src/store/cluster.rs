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

mod driver;
mod feed;
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
mod watching;

use std::{
    fmt,
    future::{Future, pending, poll_fn},
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use futures_lite::{Stream, future};
use smallvec::SmallVec;

use super::{
    Batch, Change, Changes, ClusterStats, KeyPage, Kind, Order, Store, Submission, WatchRequest,
};
#[cfg(feature = "tls")]
use crate::tls::rustls::{ClientConfig, pki_types::ServerName};
use crate::{
    Clock, Error, Histogram, Secret,
    protocol::{Operation, Topic},
};
use driver::Shared;
use job::{Job, Outcome, Route};
use layout::Layout;
use resp::Reply;
use router::{Config, Router};
use slots::BUCKETS;
use stream::Connector;
use watching::Ticket;

/// Buckets whose keys are asked for together.
const PAGE_BUCKETS: u16 = 16;

/// Keys of a slot that are listed at most. If a slot has more, `Keys` and `GetPrefix` fail.
const MAX_SLOT_KEYS: usize = 1 << 20;

/// Nobody is to believe that the limit is kept to.
const NO_MAX_STORE: &str =
    "max_store is set, and a cluster has no such limit; set maxmemory on its nodes instead";

/// The shortest time that may be set by [`ClusterBuilder::timeout`].
const MIN_TIMEOUT: Duration = Duration::from_millis(10);

/// The longest one: a day.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Sets up a [`Cluster`]. Made by [`Cluster::builder`].
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    prefix: Vec<u8>,
    replicas: usize,
    timeout: Duration,
    secret: Option<Secret>,
    #[cfg(feature = "tls")]
    tls: Option<Arc<ClientConfig>>,
    #[cfg(feature = "tls")]
    tls_name: Option<ServerName<'static>>,
}

impl ClusterBuilder {
    /// How the names of all keys in the cluster begin. Services with different prefixes share a cluster. It
    /// may hold any bytes but `{`. Default: `keywire:`.
    #[must_use]
    pub fn prefix(self, prefix: impl AsRef<[u8]>) -> Self {
        Self {
            prefix: prefix.as_ref().to_vec(),
            ..self
        }
    }

    /// Replicas that have to have a write before it is answered. If fewer have it within a quarter of the
    /// [`timeout`](Self::timeout), it is `unconfirmed`. Default: 0.
    ///
    /// The node is asked by `WAIT`, once for all writes that were sent together. Until it answers, it
    /// answers nothing else of this store. So while replicas are missing, a `Get` of a key on that node may
    /// take a quarter of the timeout longer, and a write half of it. Nodes whose replicas are there are not
    /// concerned.
    ///
    /// A `Get` shows what the master has. Through another server, this may be a write that is not answered
    /// yet, and through any server one that was `unconfirmed`: such a write may be gone after a failover.
    #[must_use]
    pub fn replicas(self, replicas: usize) -> Self {
        Self { replicas, ..self }
    }

    /// How long a command waits for its node. Then a command that was not sent fails, and a write that was
    /// sent is `unconfirmed`. Default: 5 s; minimum: 10 ms; maximum: a day.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self {
            timeout: timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT),
            ..self
        }
    }

    /// The password of the nodes (`requirepass`). Default: none.
    #[must_use]
    pub fn secret(self, secret: Secret) -> Self {
        Self {
            secret: Some(secret),
            ..self
        }
    }

    /// Speaks TLS to all nodes, as this configuration says: one of
    /// [`client_config`](crate::tls::client_config), or one's own. Default: no TLS.
    ///
    /// A node's certificate has to hold its host: the one that was given for the first node, and for the
    /// others the one that the cluster gives, which is an address unless the nodes are set up to give names
    /// (`cluster-preferred-endpoint-type hostname`). If the certificates hold another name, see
    /// [`tls_name`](Self::tls_name).
    ///
    /// ```no_run
    /// use keywire::{store::Cluster, tls};
    ///
    /// # futures_lite::future::block_on(async {
    /// let config = tls::client_config(&tls::Pem::from_file("ca.pem")?, None)?;
    /// let cluster = Cluster::builder().tls(config).connect(["rediss://10.0.0.1:6379"]).await?;
    /// # drop(cluster);
    /// # Ok::<(), keywire::Error>(())
    /// # }).unwrap();
    /// ```
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(self, config: Arc<ClientConfig>) -> Self {
        Self {
            tls: Some(config),
            ..self
        }
    }

    /// The name that the certificates of all nodes have to hold, for [`tls`](Self::tls). Default: each node's
    /// host.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls_name(self, name: ServerName<'static>) -> Self {
        Self {
            tls_name: Some(name),
            ..self
        }
    }

    fn connector(&self) -> Connector {
        Connector {
            #[cfg(feature = "tls")]
            tls: self.tls.as_ref().map(|config| stream::Tls {
                connector: config.clone().into(),
                name: self.tls_name.clone(),
            }),
        }
    }

    /// Asks one of these nodes, `HOST:PORT`, which others there are. The first that answers will do. With
    /// `redis://` in front, it has to be without TLS, and with `rediss://`, it has to be with TLS.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if no node answers, if the secret is wrong, if the cluster is none, if its user may not
    /// publish to the prefix's shard channels (`&keywire:*`), if the prefix holds a `{`, or if a node's
    /// `redis://` or `rediss://` contradicts another's or what was set up.
    pub async fn connect<A: AsRef<str>>(
        self,
        nodes: impl IntoIterator<Item = A>,
    ) -> Result<Cluster, Error> {
        if self.prefix.contains(&b'{') {
            return Err(Error::store("the prefix of a cluster's keys holds a {"));
        }
        let auth = self.secret.as_ref().map(|secret| {
            let mut auth = Vec::new();
            resp::push_command(&mut auth, &[b"AUTH", secret.expose()]);
            auth
        });
        let mut load = Vec::new();
        let command: [&[u8]; 3] = [b"SCRIPT", b"LOAD", layout::SCRIPT.as_bytes()];
        resp::push_command(&mut load, &command);
        let config = Config {
            timeout: self.timeout,
            replicas: self.replicas,
            auth,
            load,
        };
        let mut publish = Vec::new();
        let channel = [&self.prefix[..], b"{0}#check"].concat();
        resp::push_command(&mut publish, &[b"SPUBLISH", &channel, b""]);
        let nodes = nodes.into_iter().map(|node| node.as_ref().to_owned());
        let nodes: Vec<String> = nodes.collect();
        let connector = self.connector();
        seed::check_schemes(&nodes, &connector).map_err(Error::store)?;
        let mut reasons = Vec::new();
        for node in nodes {
            match seed::ask(&node, &config, &connector, &publish).await {
                Ok(seed) => {
                    let now = Instant::now();
                    let layout = Layout::new(&self.prefix, &seed.script);
                    let mut router = Router::new(config, now);
                    router.node(&seed.address, now);
                    router.on_slots(&seed.slots, now);
                    return Ok(Cluster {
                        shared: Arc::new(Shared::new(layout, connector, router)),
                    });
                }
                Err(reason) => reasons.push(format!("{node}: {reason}")),
            }
        }
        match reasons[..] {
            [] => Err(Error::store("no node of the cluster was named")),
            _ => Err(Error::store(reasons.join("; "))),
        }
    }
}

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
/// of changes missed is not known, so it is 0. A command on what is watched here waits up to a second for
/// changes before it.
///
/// The store has one connection to each master, and one more for subscriptions while anything is watched. All
/// of them are served by one future, which the server polls. No thread is started, and no runtime is needed.
pub struct Cluster {
    shared: Arc<Shared>,
}

impl Cluster {
    /// Begins to set up a store.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder {
            prefix: b"keywire:".to_vec(),
            replicas: 0,
            timeout: Duration::from_secs(5),
            secret: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            tls_name: None,
        }
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
    const KIND: Kind = Kind::Cluster;
    const CHANGES: Changes = Changes::All;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        if batch.max_store() < u64::MAX {
            batch.fail(NO_MAX_STORE);
            return Submission::Done(batch);
        }
        let max_values = batch.max_values();
        let operations: SmallVec<[Operation<'_>; 16]> = batch.operations().collect();
        let (job, ticket) = {
            let mut watching = self.shared.watching.lock();
            let ticket = watching.is_used().then(|| {
                let now = self.shared.state().now();
                let touched = operations.iter().map(|operation| {
                    let is_get = matches!(operation, Operation::Get { .. });
                    (slots::bucket(operation.key()), is_get)
                });
                watching.sequencer.begin(touched, now)
            });
            let is_watched = |bucket| watching.sequencer.is_watched(bucket);
            let job = Job::new(&operations, &self.shared.layout, max_values, is_watched);
            (job, ticket.flatten())
        };
        drop(operations);
        let ticket = ticket.map(|number| Ticket::new(&self.shared.watching, number));
        let pending_job = Pending::submit(&self.shared, job);
        Submission::Pending(async move {
            let job = pending_job.finish().await;
            job.answer(&mut batch);
            if let Some(ticket) = ticket {
                // It comes back among the changes.
                ticket.answer(batch, |bucket| job.number(bucket));
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
        mut page: KeyPage,
    ) -> Submission<KeyPage, impl Future<Output = KeyPage> + Send + 'static> {
        let shared = self.shared.clone();
        Submission::Pending(async move {
            let first = page.cursor().try_into().map_or(0, u16::from_be_bytes);
            let mut next = first;
            while next < BUCKETS && !page.is_full() {
                let buckets = next..(next + PAGE_BUCKETS).min(BUCKETS);
                next = buckets.end;
                if let Err(reason) = list_keys(&shared, buckets, &mut page).await {
                    page.fail(reason);
                    return page;
                }
            }
            if next < BUCKETS {
                page.set_next(&next.to_be_bytes());
            }
            page
        })
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

/// Lists the keys of these buckets: first those that the owners have, then what is on other masters. So a key
/// that is moved from its owner meanwhile is found at one of both.
async fn list_keys(
    shared: &Arc<Shared>,
    buckets: std::ops::Range<u16>,
    page: &mut KeyPage,
) -> Result<(), String> {
    let mut names: Vec<Vec<Vec<u8>>> = buckets.clone().map(|_| Vec::new()).collect();
    // As they are at first: the owner may change between the two.
    let owners: Vec<Option<usize>> = {
        let state = shared.state();
        let owners = buckets.clone().map(|bucket| state.router.owner(bucket));
        owners.collect()
    };
    for at_owner in [true, false] {
        let mut requests = Vec::new();
        let mut places = Vec::new();
        {
            let state = shared.state();
            for (place, bucket) in buckets.clone().enumerate() {
                let owner = owners[place];
                let slot = state.router.slot(bucket);
                let masters = state.router.masters();
                for node in masters.filter(|&node| (Some(node) == owner) == at_owner) {
                    requests.push((Route::Node(node), slot));
                    places.push((place, bucket));
                }
            }
        }
        let job = Job::keys(requests.into_iter(), MAX_SLOT_KEYS);
        let job = Pending::submit(shared, job).finish().await;
        for (request, (place, bucket)) in job.requests.iter().zip(places) {
            let reply = match &request.outcome {
                Outcome::Reply(range) => Reply::parse(&job.replies[range.clone()]),
                Outcome::Failed(reason) => return Err(reason.to_string()),
                _ => None,
            };
            let Some(Reply::Array(keys)) = reply else {
                return Err("the cluster did not list its keys".into());
            };
            if keys.len() >= MAX_SLOT_KEYS {
                return Err(format!("a slot has more than {MAX_SLOT_KEYS} keys"));
            }
            let keys = keys.values();
            let keys = keys.filter_map(|name| shared.layout.key(bucket, name));
            names[place].extend(keys.map(<[u8]>::to_vec));
        }
    }
    for mut keys in names {
        keys.sort_unstable();
        keys.dedup();
        keys.iter().for_each(|key| page.push(key));
    }
    Ok(())
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
