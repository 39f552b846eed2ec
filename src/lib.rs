//! A small, sturdy key-value line server that runs on any async executor.
//!
//! Clients send lines (`Put:key:value`, `Get:key`, ...) over TCP or anything else that carries
//! bytes. One coordinator owns all state, and slow clients harm nobody but themselves.
//!
//! ```text
//!         accept ──┐                     ┌──> outbox ──> writer ──> socket
//!                  ├──> coordinator ─────┤      (one a client, bounded, try_send)
//!  socket ──> reader ──┘   owns clients, ├──> outbox ──> writer ──> socket
//!  (lines, a batch a read) store, counts └──> ...
//! ```
//!
//! ```no_run
//! // On smol; the same future runs on async-std, tokio or a bare `block_on`.
//! let mut server = keywire::Server::new();
//! server.listen(keywire::bind(([127, 0, 0, 1], 9999).into())?);
//! smol::block_on(server.run());
//! # Ok::<(), keywire::Error>(())
//! ```
//!
//! # Where things are
//!
//! - [`protocol`]: the wire, as pure functions. Bytes → lines → commands.
//! - [`store`]: what keeps the values. The trait, its contract, and [`Memory`](store::Memory).
//! - [`Server`], [`Builder`], [`Handle`], [`Listener`]: the server. Its insides, in reading order:
//!   `server/accept.rs` brings connections, `server/admission.rs` knows how many may come,
//!   `server/session.rs` is one client's reader and writer, `server/coordinator.rs` is the select
//!   loop in the middle, `server/batch.rs` is what it hands to the store, `server/watch.rs` is who
//!   hears of what was changed, and `server/outbox.rs` is the bounded way back to the writer. On
//!   Linux `server/poller.rs` waits for all sockets at once.
//! - [`Client`], [`Pipeline`], [`Watcher`]: the client. `client/flow.rs` frames commands and reads
//!   their answers, `client/connection.rs` moves the bytes, and `client/crank.rs` lets whoever
//!   waits for an answer do the work for all.
//! - [`Squarer`]: the same style of channels in its smallest form, a stage between two of them.
//!
//! # Features
//!
//! None is on by default.
//!
//! - `tls`: doors that speak TLS, in a module of that name, on rustls and ring.
//! - `tracing`: events of the crate of that name, with the target `keywire`: who came, was refused,
//!   left and why, and what was dropped. They hold no key, value or secret, and a client that causes
//!   many gets few of each kind into the log, with the number of those withheld.
//!
//! # Promises
//!
//! - A connection's commands are applied, and answered, in the order sent. All clients' commands
//!   go through one coordinator, so every client sees one history.
//! - The replies to one command are queued whole or dropped whole. They are dropped only where the
//!   client's outbox is full *and* its socket has been refusing bytes for the
//!   [stall time](Builder::stall_timeout), and then they are counted.
//! - Who watches a key hears of every change, in order, or how many it has missed. Nobody waits for
//!   a watcher.
//! - [`Handle::shutdown`] returns when every task is gone and every socket closed, and dropping the
//!   future of [`Server::run`] does the same at once.
//! - No queue, buffer, line or reply grows without a limit; [`Builder`] names them.
//! - Nothing is spawned outside the server's own future, and there is no `unsafe` here.

mod client;
mod clock;
mod connection;
mod coordinator;
mod error;
mod listen;
pub mod protocol;
mod secret;
mod server;
mod shared;
pub mod squarer;
pub mod store;
#[cfg(feature = "tls")]
pub mod tls;
mod watch;

pub use client::{Client, Event, Outcome, Pipeline, Watcher};
pub use clock::Clock;
pub use error::Error;
pub use listen::{Listener, tcp::bind};
pub use secret::Secret;
pub use server::{Builder, Handle, Server};
pub use shared::{limits::Overflow, stats::Stats};
pub use squarer::Squarer;
