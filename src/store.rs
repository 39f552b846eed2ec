//! The store: what keeps a server's values, and how to write one.
//!
//! A server has one store. [`Memory`] is the default: it keeps every value in memory, and its values
//! are gone when the program ends. [`Server::run`](crate::Server::run) gives the store back at the end,
//! so a program can read it then:
//!
//! ```
//! use futures_lite::future;
//! use keywire::{Server, store::Memory};
//! use std::time::Duration;
//!
//! let mut store = Memory::new();
//! store.put(b"user", b"alice"); // the values that clients find at the start
//! let server = Server::builder().store(store).build();
//! let handle = server.handle();
//! let (store, ()) = future::block_on(future::zip(server.run(), handle.shutdown(Duration::ZERO)));
//! assert!(store.get(b"user").eq([b"alice"]));
//! ```
//!
//! # A store of your own
//!
//! Implement [`Store`]. Its one required method, [`submit`](Store::submit), gets a [`Batch`]: commands of
//! one client, in order. A store that knows the answers at once gives them there. This one is complete. It
//! keeps one value for each key:
//!
//! ```
//! use keywire::{protocol::{Operation, Write}, store::{Batch, Order, Store, Submission}};
//! use std::{collections::HashMap, future::Future};
//!
//! #[derive(Default)]
//! struct Registers(HashMap<Vec<u8>, Vec<u8>>);
//!
//! impl Store for Registers {
//!     const ORDER: Order = Order::Immediate;
//!
//!     fn submit(
//!         &mut self,
//!         mut batch: Batch,
//!     ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
//!         batch.each(|operation, answer| match operation {
//!             Operation::Get { key } => answer.values(self.0.get(key).map(Vec::as_slice)),
//!             Operation::Write(Write::Set { key, value }) => {
//!                 self.0.insert(key.to_vec(), value.to_vec());
//!                 answer.done();
//!             }
//!             _ => answer.fail("only Set and Get"),
//!         });
//!         batch.done()
//!     }
//! }
//! # use {futures_lite::future, keywire::Error};
//! # let server = keywire::Server::builder().store(Registers::default()).build();
//! # let handle = server.handle();
//! # let client = async {
//! #     let client = handle.client().await?;
//! #     assert!(client.put("user", "alice").await.is_err());
//! #     assert!(client.get("user").await?.is_empty());
//! #     client.set("user", "alice").await?;
//! #     assert_eq!(client.get("user").await?, [b"alice"]);
//! #     handle.shutdown(std::time::Duration::ZERO).await;
//! #     Ok::<(), Error>(())
//! # };
//! # future::block_on(future::zip(server.run(), client)).1?;
//! # Ok::<(), Error>(())
//! ```
//!
//! # A store that waits
//!
//! A store that has to wait, for a disk or another machine, returns [`Submission::Pending`] with a future
//! that gives the batch back. Meanwhile it gets the batches of other clients, and each client has its
//! replies as soon as its own batch is back. Here `Remote` stands for any such thing: `encode` makes a
//! request of a command, and `call` sends requests and gives an iterator over lists of values, one list for
//! each request:
//!
//! ```
//! use keywire::{protocol::Operation, store::{Batch, Store, Submission}};
//! use std::future::Future;
//! # #[derive(Clone)]
//! # struct Remote;
//! # impl Remote {
//! #     async fn call(&self, requests: Vec<Vec<u8>>) -> std::io::Result<std::vec::IntoIter<Vec<Vec<u8>>>> {
//! #         Ok(requests.into_iter().map(|request| vec![request]).collect::<Vec<_>>().into_iter())
//! #     }
//! # }
//! # fn encode(operation: Operation<'_>) -> Vec<u8> { operation.key().to_vec() }
//!
//! struct Proxy(Remote);
//!
//! impl Store for Proxy {
//!     fn submit(
//!         &mut self,
//!         mut batch: Batch,
//!     ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
//!         let remote = self.0.clone();
//!         Submission::Pending(async move {
//!             let requests = batch.operations().map(encode).collect();
//!             match remote.call(requests).await {
//!                 Err(error) => batch.unconfirmed(error),
//!                 Ok(mut lists) => batch.each(|operation, answer| match (operation, lists.next()) {
//!                     (Operation::Get { .. }, Some(values)) => {
//!                         answer.values(values.iter().map(Vec::as_slice));
//!                     }
//!                     (Operation::Write(_), Some(_)) => answer.done(),
//!                     _ => answer.unconfirmed("no answer"),
//!                 }),
//!             }
//!             batch
//!         })
//!     }
//! }
//! # use {futures_lite::future, keywire::Error};
//! # let server = keywire::Server::builder().store(Proxy(Remote)).build();
//! # let handle = server.handle();
//! # let client = async {
//! #     let client = handle.client().await?;
//! #     client.put("user", "alice").await?;
//! #     assert_eq!(client.get("user").await?, [b"user"]);
//! #     handle.shutdown(std::time::Duration::ZERO).await;
//! #     Ok::<(), Error>(())
//! # };
//! # future::block_on(future::zip(server.run(), client)).1?;
//! # Ok::<(), Error>(())
//! ```
//!
//! # What else a store can do
//!
//! The other methods of [`Store`] have defaults:
//!
//! - [`keys`](Store::keys) lists the keys that begin with a prefix. `GetPrefix` and `Keys` need it; without
//!   it they fail.
//! - [`changes`](Store::changes) brings changes that were made elsewhere to watchers; or all changes, if
//!   [`CHANGES`](Store::CHANGES) says so. By [`watch`](Store::watch) and [`unwatch`](Store::unwatch), the
//!   store learns what is watched.
//! - [`close`](Store::close) ends the store's work when the server ends.
//! - [`size`](Store::size) and the limits: see below.
//!
//! # Sizes and limits
//!
//! [`Store::size`] reports how much the store holds, for the server's counters. The limits
//! [`max_store`](crate::Builder::max_store) and [`max_values`](crate::Builder::max_values) are enforced
//! by the store: it reads them from the [`Batch`], and answers a write that would exceed them with
//! [`store_full`](Answer::store_full) or [`values_full`](Answer::values_full). `Memory` does both. A store that
//! can't keep to one says so by [`check_limits`](Store::check_limits) when the server is built.

mod answer;
mod batch;
mod change;
#[cfg(feature = "cluster")]
mod cluster;
#[cfg(feature = "disk")]
#[cfg_attr(docsrs, doc(cfg(feature = "disk")))]
pub mod disk;
mod lookahead;
pub(crate) mod memory;
mod overflow;
pub(crate) mod rejection;
mod request;
mod size;
pub(crate) mod timer;
pub(crate) mod turn;
pub(crate) mod walk;
mod watch;

use std::{
    future::{self, Future},
    sync::Arc,
};

use futures_lite::{Stream, stream};

pub(crate) use batch::{FromStore, TurnGuard};
#[cfg(feature = "cluster")]
pub(crate) use change::OwnChanges;
pub(crate) use change::{KeyFilter, parse_write};
#[cfg(feature = "cluster")]
#[cfg_attr(docsrs, doc(cfg(feature = "cluster")))]
pub use cluster::{Cluster, ClusterBuilder};
#[cfg(feature = "disk")]
#[cfg_attr(docsrs, doc(cfg(feature = "disk")))]
pub use disk::Disk;
pub use {
    answer::Answer,
    batch::Batch,
    change::{Change, Changes},
    memory::{Memory, MemoryLimits, Values},
    size::{ClusterStats, DiskStats, StoreSize},
    walk::KeyPage,
    watch::WatchRequest,
};

#[cfg(doc)]
use crate::Histograms;
use crate::{Clock, Error, Histogram, StoreKind, protocol::Topic};

/// What a store returns: the answer, or a future of it.
#[derive(Debug)]
pub enum Submission<T, F> {
    /// It is there.
    Done(T),
    /// It comes later. The server polls the future, together with its own tasks. So the future must not
    /// need a runtime: what needs tokio, for example, has to be spawned there, and awaited here by its
    /// handle. If the grace time of a shutdown is over, or the server is dropped, the future is dropped
    /// before it is ready.
    Pending(F),
}

/// What a store promises about the order of commands.
///
/// The commands of one client are always applied in their order, since a client has at most one batch with
/// the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Order {
    /// Each batch is done when [`submit`](Store::submit) returns, so all commands have one history. The
    /// store never returns [`Pending`](Submission::Pending), of batches nor of keys, and has no
    /// [`changes`](Store::changes), which would not be in order with its answers: if it does, the
    /// coordinator panics.
    Immediate,
    /// The store keeps no order. So the server never gives it two batches at a time that share a key.
    None,
    /// The commands of one client on one key take effect in the order of its batches and in them. So do those of
    /// two clients, unless both batches are with the store at the same time: neither is answered then, and any
    /// order of the two is right. There is no common order of several keys. Batches may complete in any order;
    /// the server releases the answers of each key in the order submitted.
    PerKey,
    /// All commands take effect in the order submitted: there is one history. Watchers get the changes in
    /// that order.
    Total,
    /// The same, and batches that wait are done in the order submitted, such as those of a store that writes
    /// a log. The server releases their answers in that order. A batch that is done at once shows nothing of
    /// one that waits.
    Sequential,
}

/// Keeps a list of values for each key.
///
/// The coordinator owns the store and calls it for every client, so a store needs no lock.
///
/// # The contract
///
/// [`submit`](Store::submit) gets the commands of one client as a [`Batch`], and gives it back with an
/// answer to each, at once or by a future. Any number of batches may be with the store, each of another
/// client. They may complete in any order.
///
/// - **Order.** [`ORDER`](Store::ORDER) says what order the store keeps. The server sees to it that a `Get`
///   shows the effect of every earlier write of its key that was answered or told to a watcher.
/// - **Answers are final.** An answer to a client, or an event for a watcher, leaves the server when the
///   batch is back. By then a write that is answered [`done`](Answer::done) can't be taken back, and is
///   durable if the store is. A `Get` shows nothing that could be taken back.
/// - **A failed write** left nothing behind, if it is answered by [`fail`](Answer::fail),
///   [`store_full`](Answer::store_full) or [`values_full`](Answer::values_full). If its fate is unknown, the
///   answer is [`unconfirmed`](Answer::unconfirmed).
/// - **Lost batches.** If a future panics, or the store drops a batch, the server answers the batch: its
///   writes are unconfirmed, and its `Get`s fail. If a method of the store panics, the panic reaches the task
///   that polls the server.
/// - **Limits.** What a store may hold, and how many values a key may have, is set by the program that
///   builds the server: [`Batch::max_store`] and [`Batch::max_values`]. A store that knows its size keeps to
///   them. It refuses a `Set` only if the `Set` would make it larger, and never refuses a `Remove`.
/// - **Values** hold no LF. No command brings one in. A `Get` answered with a value that holds one fails.
/// - **Time.** The coordinator calls `submit`, [`keys`](Store::keys) and
///   [`watch`](Store::watch), and every client waits for it. They
///   must not block.
///
/// What the commands do:
///
/// - `Put` appends the value to the key's list.
/// - `Get` reads the list, oldest first. An absent key is an empty list.
/// - `Delete` removes the key and all its values. It is no failure if there are none.
/// - `Update` replaces the first value equal to `old` by `new`, in place; it appends `new` if there is
///   none.
/// - `Set` makes the value the only one of the list.
/// - `Remove` removes the first value equal to the given one, if there is one. A key without values is gone.
///
/// # Example
///
/// A store that refuses writes to some keys and leaves the rest to [`Memory`]:
///
/// ```
/// use keywire::{
///     protocol::{Operation, Write},
///     store::{Batch, KeyPage, Memory, Order, Store, StoreSize, Submission},
/// };
/// use std::future::Future;
///
/// struct Guarded(Memory);
///
/// impl Store for Guarded {
///     const ORDER: Order = Order::Immediate;
///
///     fn submit(
///         &mut self,
///         mut batch: Batch,
///     ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
///         let limits = self.0.limits(&batch);
///         batch.each(|operation, answer| match operation {
///             Operation::Write(write) if write.key().starts_with(b"sys.") => {
///                 answer.fail("that key is read-only");
///             }
///             operation => self.0.apply(operation, answer, limits),
///         });
///         batch.done()
///     }
///
///     fn keys(
///         &mut self,
///         page: KeyPage,
///     ) -> Submission<KeyPage, impl Future<Output = KeyPage> + Send + 'static> {
///         self.0.keys(page)
///     }
///
///     fn size(&self) -> StoreSize {
///         self.0.size()
///     }
/// }
///
/// let server = keywire::Server::builder().store(Guarded(Memory::new())).build();
/// # drop(server);
/// ```
pub trait Store: Send + 'static {
    /// The order that the store keeps. Default: [`Order::None`].
    const ORDER: Order = Order::None;

    /// Which changes [`changes`](Self::changes) brings. Default: [`Changes::Elsewhere`].
    const CHANGES: Changes = Changes::Elsewhere;

    /// What keeps the values, for the server's counters. Default: [`StoreKind::Other`].
    const KIND: StoreKind = StoreKind::Other;

    /// Takes the commands of a client; see the contract above.
    fn submit(
        &mut self,
        batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static>;

    /// Fills a page of the names of keys that begin with a prefix, for `GetPrefix` and `Keys`; see
    /// [`KeyPage`]. By default it can't: both commands are answered with a store error.
    fn keys(
        &mut self,
        mut page: KeyPage,
    ) -> Submission<KeyPage, impl Future<Output = KeyPage> + Send + 'static> {
        page.fail("this store can't list its keys");
        page.done()
    }

    /// A client asks to watch a key or a prefix that nobody watches here. The client's reply, and all that
    /// it sends later, wait until this is done; so do others that ask to watch the same meanwhile. By
    /// default it is done at once.
    ///
    /// Done means subscribed: every change that takes effect from then on is made known by
    /// [`changes`](Self::changes), or counts as [missed](Change::missed). If the request
    /// [fails](WatchRequest::fail) or is lost, nobody watches, and the store owes no changes.
    ///
    /// For each key or prefix there is at most one request at a time, and none between one that was done and
    /// its [`unwatch`](Self::unwatch).
    fn watch(
        &mut self,
        request: WatchRequest,
    ) -> Submission<WatchRequest, impl Future<Output = WatchRequest> + Send + 'static> {
        request.done()
    }

    /// Nobody watches any more what a [`watch`](Self::watch) was done for. It is called once for each of
    /// these, not for one that failed or was lost. It is not called for what is still watched if the grace
    /// time of a shutdown is over or the server is dropped.
    fn unwatch(&mut self, topic: Topic<'_>) {
        let _ = topic;
    }

    /// Changes for watchers: those that were made elsewhere or, if [`CHANGES`](Self::CHANGES) says so, all.
    /// It is called once, when the server begins to run. By default there are none.
    ///
    /// A store may leave out changes of keys that nobody watches; see [`watch`](Self::watch).
    ///
    /// Changes and the batches that the store gives back have one order, and the store has to keep it. Take a
    /// change, and a command of the same key; if the order is [`Total`](Order::Total) or
    /// [`Sequential`](Order::Sequential), of any key. If the command took effect after the change, such as a
    /// `Get` that shows it, the change comes before the command's batch. If the command took effect before
    /// the change, its batch comes first.
    ///
    /// If these are all changes, what a write changes comes before the batch of the write, and only the
    /// batches of `Get`s have to come before later changes. In a batch of a client that watches, no write
    /// stands behind a `Get`.
    ///
    /// A batch comes behind all changes that are ready when its future is. A store that has batches and
    /// changes in one queue gives back batches [as changes](Change#impl-From<Batch>-for-Change).
    ///
    /// The server takes changes as fast as it sends them to watchers. Each time a batch comes back, it takes
    /// all that are there, until the stream is pending. If 64 MiB of them wait then, watchers are told that they
    /// have missed the next ones. The stream should bound what it holds, too. If it can't hold more, it gives
    /// [`Change::missed`].
    fn changes(&mut self) -> Option<impl Stream<Item = Change> + Send + 'static> {
        None::<stream::Pending<Change>>
    }

    /// Work that goes on beside the server, on its executor, from the start of the run to its end. By
    /// default there is none. A shutdown drops it after [`close`](Store::close).
    fn work(&mut self, clock: Arc<dyn Clock>) -> Option<impl Future<Output = ()> + Send + 'static> {
        let _ = clock;
        None::<future::Ready<()>>
    }

    /// Counters of a store that keeps its values on a disk, for the server's counters. It is asked as
    /// often as [`size`](Store::size).
    fn disk_stats(&self) -> DiskStats {
        DiskStats::default()
    }

    /// How long the commits of a store on a disk took, for [`Histograms::commit`]. It is asked as often as
    /// [`size`](Store::size). By default there are none.
    fn commit_times(&self) -> Option<Histogram> {
        None
    }

    /// How long the nodes of a store on a cluster took to answer, for [`Histograms::node_answer`]. It is asked
    /// as often as [`size`](Store::size). By default there are none.
    fn answer_times(&self) -> Option<Histogram> {
        None
    }

    /// Counters of a store on a cluster, for the server's counters. It is asked as often as
    /// [`size`](Store::size).
    fn cluster_stats(&self) -> ClusterStats {
        ClusterStats::default()
    }

    /// Asks, when the server is built, whether the store keeps to the limits that were set: see
    /// [`Batch::max_store`] and [`Batch::max_values`]. The maximum of the type is no limit. By default it keeps to
    /// both. A store around another one passes the question on.
    ///
    /// # Errors
    ///
    /// The reason why it can't. Then there is no server:
    /// [`Builder::try_build`](crate::Builder::try_build) gives it back.
    fn check_limits(&self, max_store: u64, max_values: usize) -> Result<(), Error> {
        let _ = (max_store, max_values);
        Ok(())
    }

    /// How much the store holds, for the server's counters. It is called after every round, so it should
    /// cost next to nothing. By default all is 0.
    fn size(&self) -> StoreSize {
        StoreSize::default()
    }

    /// Ends the store's work when the server has served its last client, within the grace time of the
    /// shutdown. It is not called if the server is dropped.
    fn close(&mut self) -> impl Future<Output = ()> + Send {
        future::ready(())
    }
}
