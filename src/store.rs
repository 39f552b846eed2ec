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
//! Implement [`Store`]. Its one required method, [`apply`](Store::apply), gets a [`Batch`]: commands of
//! many clients, in the order in which they take effect. The store takes the commands one by one and
//! gives each its answer.
//!
//! The coordinator owns the store and calls it for all clients, so a store needs no lock, and each
//! command sees the effects of all commands before it. This one is complete:
//!
//! ```
//! use keywire::{Error, protocol::{Operation, Write}, store::{Batch, Store}};
//! use std::collections::HashMap;
//!
//! #[derive(Default)]
//! struct Lists(HashMap<Vec<u8>, Vec<Vec<u8>>>);
//!
//! impl Store for Lists {
//!     async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
//!         while let Some(operation) = batch.take() {
//!             match operation {
//!                 Operation::Get { key } => {
//!                     let values = self.0.get(key).map_or(&[][..], Vec::as_slice);
//!                     batch.values(values.iter().map(Vec::as_slice));
//!                 }
//!                 Operation::Write(Write::Put { key, value }) => {
//!                     self.0.entry(key.to_vec()).or_default().push(value.to_vec());
//!                     batch.done();
//!                 }
//!                 Operation::Write(Write::Delete { key }) => {
//!                     self.0.remove(key);
//!                     batch.done();
//!                 }
//!                 Operation::Write(Write::Update { key, old, new }) => {
//!                     let values = self.0.entry(key.to_vec()).or_default();
//!                     match values.iter_mut().find(|value| *value == old) {
//!                         Some(value) => *value = new.to_vec(),
//!                         None => values.push(new.to_vec()),
//!                     }
//!                     batch.done();
//!                 }
//!             }
//!         }
//!         // A durable store waits here, once for the whole batch.
//!         Ok(())
//!     }
//! }
//! # use futures_lite::future;
//! # let server = keywire::Server::builder().store(Lists::default()).build();
//! # let handle = server.handle();
//! # let client = async {
//! #     let (near, far) = async_net::unix::UnixStream::pair().map_err(Error::Connect)?;
//! #     handle.attach(far).await?;
//! #     let client = keywire::Client::from_stream(near);
//! #     client.put("user", "alice").await?;
//! #     client.put("user", "bob").await?;
//! #     client.update("user", "alice", "charlie").await?;
//! #     client.update("user", "dora", "eve").await?;
//! #     client.put("gone", "1").await?;
//! #     client.delete("gone").await?;
//! #     assert!(client.get("gone").await?.is_empty());
//! #     assert_eq!(client.get("user").await?, [&b"charlie"[..], b"bob", b"eve"]);
//! #     handle.shutdown(std::time::Duration::ZERO).await;
//! #     Ok::<(), Error>(())
//! # };
//! # future::block_on(future::zip(server.run(), client)).1?;
//! # Ok::<(), Error>(())
//! ```
//!
//! Replies leave the server only after `apply` has returned. So a store that writes to a disk or to a
//! network can take a whole batch and wait once. While `apply` waits, every client waits. If `apply`
//! returns an error, it must have undone the whole batch. [`Store`] states the contract in full.
//!
//! # Sizes and limits
//!
//! [`Store::size`] reports how much the store holds, for the server's counters. The limits
//! [`max_store`](crate::Builder::max_store) and [`max_values`](crate::Builder::max_values) are enforced
//! by the store: it reads them from the [`Batch`], and answers a write that would exceed them with
//! [`store_full`](Batch::store_full) or [`values_full`](Batch::values_full). `Memory` does both.

mod memory;

use std::future::Future;

pub use crate::round::batch::Batch;
pub use memory::{Memory, Values};

use crate::Error;

/// How much a store holds. See [`Store::size`].
///
/// ```
/// use keywire::store::{StoreSize, Memory, Store as _};
///
/// let mut store = Memory::new();
/// store.put(b"user", b"alice");
/// store.put(b"user", b"bob");
/// assert_eq!(store.size(), StoreSize { keys: 1, values: 2, bytes: 12 });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreSize {
    /// Keys that have values.
    pub keys: u64,
    /// Values of all keys.
    pub values: u64,
    /// Bytes of all these keys and values, without what it costs to keep them.
    pub bytes: u64,
}

/// What a key costs besides its bytes, for [`StoreSize::charged`].
pub(crate) const KEY_COST: u64 = 64;

/// What a value costs besides its bytes.
pub(crate) const VALUE_COST: u64 = 8;

impl StoreSize {
    /// What [`Builder::max_store`](crate::Builder::max_store) bounds: the bytes of keys and values,
    /// and 64 for each key and 8 for each value.
    ///
    /// [`Memory`] takes up to twice as much of the system, since it grows by doubling; and its table,
    /// which is most of it where keys and values are tiny, does not shrink when keys go.
    ///
    /// ```
    /// use keywire::store::StoreSize;
    ///
    /// assert_eq!(StoreSize { keys: 1, values: 2, bytes: 12 }.charged(), 92);
    /// ```
    pub fn charged(&self) -> u64 {
        self.bytes + KEY_COST * self.keys + VALUE_COST * self.values
    }
}

/// Keeps a list of values for each key.
///
/// One coordinator owns the store and calls it for every client, so a store needs no lock and sees
/// one history.
///
/// # The contract
///
/// [`apply`](Store::apply) gets a [`Batch`]: the commands of many clients, in the order in which
/// they take effect. The store [takes](Batch::take) them one by one and gives each its answer
/// *in the order taken*: [`done`](Batch::done), [`values`](Batch::values),
/// [`fail`](Batch::fail), or one that says that a limit is
/// reached. It may take several before it answers the first. It then holds their answers in memory, so
/// it should bound their number.
///
/// - **Order.** A command sees the effects of every command taken before it.
/// - **All of it.** When `apply` returns `Ok`, every command that was taken is applied, and
///   durable where the store is, except those that failed or were refused, which left nothing
///   behind.
///   Replies go out only then. So a store may commit once a batch: one fsync, one round trip.
/// - **Or nothing.** When `apply` returns an error, no command of the batch is applied: what was
///   begun, the store has undone. The answers given so far are taken back and every command that
///   was taken is answered `:error:LINE:store:reason`.
/// - **Not to the end.** A store may return before `take` gave `None`; it is called again for the
///   rest. `take` skips the rest of a client's commands if it has no room for more replies. It gives
///   `None` early if the round has lasted for some milliseconds, or has produced 256 KiB of replies. A
///   store that waits, for a disk or a network, should take first and wait once. A `Stats` among the commands ends a batch too.
/// - **One answer each.** A command that is not answered by the end is answered with a store error,
///   and so is one whose answer does not fit it, such as `values` for a `Put`. If a store takes no command of a batch, the first one is failed for it, so that the
///   server makes progress.
/// - **Limits.** What a store may hold, and how many values a key may have, is set by the
///   program that builds the server: [`Batch::max_store`] and [`Batch::max_values`]. A store that can tell keeps to them,
///   and answers a write that would go over them with [`store_full`](Batch::store_full) or
///   [`values_full`](Batch::values_full).
/// - **Values** hold no LF. No command brings one in; a `Get` that would bring one out fails.
/// - **Waiting.** While `apply` waits, every client waits. A shutdown whose grace time is over
///   drops the future where it stands; so does dropping the server. A durable store must be able
///   to recover from that when it is opened again.
/// - **Panics** reach the task that polls the server.
///
/// The semantics of the commands:
///
/// - `Put` appends the value to the key's list.
/// - `Get` reads the list, oldest first. An absent key is an empty list.
/// - `Delete` removes the key and all its values. It is no failure if there are none.
/// - `Update` replaces the first value equal to `old` by `new`, in place; it appends `new` where
///   there is none.
///
/// # Example
///
/// A store that refuses writes to some keys and leaves the rest to [`Memory`]:
///
/// ```
/// use keywire::{Error, protocol::{Operation, Write}, store::{Batch, Memory, Store}};
///
/// struct Guarded(Memory);
///
/// impl Store for Guarded {
///     async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
///         while let Some(operation) = batch.take() {
///             match operation {
///                 Operation::Write(Write::Put { key, .. }) if key.starts_with(b"sys.") => {
///                     batch.fail(&Error::store("that key is read-only"));
///                 }
///                 operation => self.0.answer(operation, batch),
///             }
///         }
///         Ok(())
///     }
/// }
///
/// let server = keywire::Server::builder().store(Guarded(Memory::new())).build();
/// # drop(server);
/// ```
pub trait Store: Send + 'static {
    /// Applies a batch of commands; see the contract above.
    ///
    /// A store that has nothing to wait for writes an `async fn` without an await, and pays
    /// nothing for it.
    fn apply(&mut self, batch: &mut Batch<'_>) -> impl Future<Output = Result<(), Error>> + Send;

    /// How much the store holds, for the server's counters. It is asked before each
    /// batch and after the last of a round, so it should cost next to nothing. A store that can't say
    /// leaves it at zeros.
    fn size(&self) -> StoreSize {
        StoreSize::default()
    }
}
