//! A small key-value server that runs on any async executor, and its client.
//!
//! A key has a **list** of values. Clients send lines of text (`Put:key:value`, `Get:key`, ...) over
//! TCP or anything else that carries bytes, and can watch keys: a watcher receives every change as it
//! is applied. Values are in memory, unless the program takes another [store]: on a disk, on a cluster, or
//! one of its own.
//!
//! # A server
//!
//! ```no_run
//! use futures_lite::future;
//! use std::time::Duration;
//!
//! future::block_on(async {
//!     let listener = keywire::bind("127.0.0.1:9999").await?;
//!     let server = keywire::Server::builder()
//!         .max_values(1_000)
//!         .listen(listener)
//!         .build();
//!     let handle = server.handle();
//!     let stop_after_a_minute = async {
//!         async_io::Timer::after(Duration::from_secs(60)).await;
//!         handle.shutdown(Duration::from_secs(5)).await; // 5 s for the last replies
//!     };
//!     // `run` is one future that holds the whole server. Any executor can poll it.
//!     let (store, ()) = future::zip(server.run(), stop_after_a_minute).await;
//!     for (key, values) in store.iter() {
//!         let values: Vec<_> = values.map(String::from_utf8_lossy).collect();
//!         println!("{} has {values:?}", String::from_utf8_lossy(key));
//!     }
//!     Ok::<(), keywire::Error>(())
//! })?;
//! # Ok::<(), keywire::Error>(())
//! ```
//!
//! # A client
//!
//! ```no_run
//! use futures_lite::{StreamExt, future};
//! use keywire::{Client, Error, Event};
//!
//! future::block_on(async {
//!     let client = Client::connect("127.0.0.1:9999").await?;
//!     client.put("user", "alice").await?; // Ok: the server has applied it
//!     client.put("user", "bob").await?;
//!     for value in client.get("user").await? {
//!         println!("user: {}", String::from_utf8_lossy(&value)); // alice, then bob
//!     }
//!     let mut changes = client.watch("user").await?;
//!     client.update("user", "alice", "charlie").await?;
//!     if let Some(Event::Update { new, .. }) = changes.next().await.transpose()? {
//!         println!("changed to {}", String::from_utf8_lossy(&new)); // charlie
//!     }
//!     Ok::<(), Error>(())
//! })?;
//! # Ok::<(), Error>(())
//! ```
//!
//! The client has no task of its own. Nothing moves while nobody waits: bytes are read and written
//! only while some call, or some [`Watcher`] or [`Walk`], is being awaited. [`Client::builder`] makes a
//! client that comes back when its connection is lost, and [`Client::mirror_prefix`] keeps a copy of keys.
//!
//! The program that runs the server has such a client without a socket: [`Handle::client`].
//!
//! # How it works
//!
//! ```text
//!         accept ──┐                     ┌──> outbox ──> writer ──> socket
//!                  ├──> coordinator ─────┤      (one for each client, bounded)
//!  socket ──> reader ──┘   owns clients, ├──> outbox ──> writer ──> socket
//!  (lines, a batch a read) store, counts └──> ...
//! ```
//!
//! One coordinator owns the store and calls it for every client, so there is no lock on the store. It
//! never waits for a socket: it puts replies into bounded outboxes, so a slow client harms no other
//! client. The coordinator and a connection share only that connection's outbox, behind a lock that is
//! held briefly.
//!
//! # Promises
//!
//! - The commands of a connection are applied, and answered, in the order sent. With the default store,
//!   all clients see one history; with any store, each key has one ([`store::Order`]).
//! - The replies to one command are queued as a whole or dropped as a whole. They are dropped only if
//!   the client's outbox is full *and* its socket has taken no byte for the
//!   [stall timeout](Builder::stall_timeout). Dropped replies are counted, and the client's next `Sync`
//!   reports them.
//! - A watcher receives every change in order, or the number of changes that it missed. No client
//!   waits for a watcher.
//! - [`Handle::shutdown`] returns when every task has ended and every socket is closed. Dropping the
//!   future of [`Server::run`] does the same at once.
//! - No queue, buffer, line or reply grows without a limit. [`Builder`] sets the limits.
//! - The server spawns nothing outside its own future. There is no `unsafe` in this crate.
//!
//! [`guide::promises`] has them in full.
//!
//! # Features
//!
//! - `client` and `server`, both on by default: a program that needs one of them builds that one alone,
//!   by `default-features = false`. The squarer and the stores come with the server. With neither,
//!   [`protocol`] is left. Built from nothing in release mode, the client alone takes 18 seconds of a
//!   processor (29 crates), the server alone 24 (33 crates), and both 27 (33 crates).
//! - `disk`: `store::Disk`, which keeps the values on a disk.
//! - `cluster`: `store::Cluster`, which keeps the values on a Redis or Valkey Cluster.
//! - `metrics`: [`Handle`] gives its counters and histograms as OpenMetrics text, and is a collector for a
//!   registry of the crate `prometheus-client`. See [`guide::metrics`].
//! - `tls`: the module `tls`, with configurations for server and client, and for a server a listener
//!   that speaks TLS around any other listener. It uses rustls and ring.
//! - `tracing`: the server emits events of the crate `tracing`, with the target `keywire`: connections
//!   that came, were refused, failed to authenticate or left, and replies and changes that were
//!   dropped. They hold no key, value or secret. Of each kind that a client can cause at will, at most
//!   20 a second are emitted.
//!
//! # Where to read more
//!
//! - [`Server`], [`Builder`], [`Handle`], [`Listener`]: the server.
//! - [`Client`], [`ClientBuilder`], [`Pipeline`], [`Watcher`], [`Walk`], [`Mirror`]: the client.
//! - [`store`]: what a store has to do, and [`Memory`](store::Memory), the default.
//! - [`protocol`]: the lines of the wire, as pure functions.
//! - [`Squarer`]: the same style of channels in its smallest form, a stage between two of them.
//! - [`guide`]: executors, limits, threats, TLS, the example programs, performance, tests.
//! - [`guide::changes`]: the changelog. [`guide::versions`]: what may change in which version.

#![cfg_attr(docsrs, feature(doc_cfg))]
// With one side alone, some links go to items of the other.
#![cfg_attr(
    not(all(feature = "client", feature = "server")),
    allow(rustdoc::broken_intra_doc_links)
)]

// Both sides of a connection. Each side uses a part of `protocol`.
#[cfg(any(feature = "client", feature = "server"))]
mod clock;
mod error;
pub mod guide;
#[cfg(any(feature = "client", feature = "server"))]
mod lock;
#[cfg_attr(
    not(all(feature = "client", feature = "server")),
    allow(dead_code, unused_imports)
)]
pub mod protocol;
mod secret;
mod stats;
#[cfg(any(feature = "client", feature = "server"))]
mod timer;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(any(feature = "client", feature = "server"))]
mod transport;

#[cfg(feature = "client")]
mod client;

// A line comes in by `listen` and a `connection`, goes to the `coordinator`, which hands it to the
// `store`, and its reply returns by the outbox of the connection. `watch` adds events. Of these, each
// imports only from those on its right:
// server, coordinator, listen, store, watch, connection, shared, protocol.
#[cfg(feature = "server")]
mod connection;
#[cfg(feature = "server")]
mod coordinator;
#[cfg(feature = "server")]
mod listen;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub mod metrics;
#[cfg(feature = "server")]
mod server;
#[cfg(feature = "server")]
mod shared;
#[cfg(feature = "server")]
pub mod squarer;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
mod watch;

/// The crate of the sockets that [`bind`], [`Listener`] and [`Client::connect`] use, so that a program
/// can name their types without a dependency of its own.
///
/// ```
/// use keywire::async_net::{TcpListener, unix::UnixStream};
///
/// # futures_lite::future::block_on(async {
/// let listener: TcpListener = keywire::bind("127.0.0.1:0").await?;
/// let server = keywire::Server::builder().listen(listener).build();
/// let (ours, theirs) = UnixStream::pair().map_err(keywire::Error::Connect)?;
/// server.handle().attach(ours).await?;
/// # drop(theirs);
/// # Ok::<(), keywire::Error>(()) }).unwrap();
/// ```
#[cfg(any(feature = "client", feature = "server"))]
pub use async_net;
#[cfg(feature = "client")]
pub use client::{
    Client, ClientBuilder, ConnectionState, Event, Mirror, Outcome, Pipeline, Snapshot, Walk,
    Watcher,
};
#[cfg(any(feature = "client", feature = "server"))]
pub use clock::Clock;
pub use error::Error;
pub use secret::Secret;
pub use stats::{Stats, StoreKind};
#[cfg(feature = "server")]
pub use {
    listen::{Listener, tcp::bind},
    server::{Builder, Handle, Server},
    shared::{
        histogram::{Histogram, Histograms},
        limits::Overflow,
    },
    squarer::Squarer,
};
