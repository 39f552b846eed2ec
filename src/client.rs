//! The client: calls that share a connection, pipelines, watches and mirrors.
//!
//! In: the user's calls. Out: lines to one server, and its replies and events as values. There is no
//! task, no thread and no executor here: the user's own tasks drive the connection, and the making of
//! the next one.
//!
//! Each module imports only modules below it:
//!
//! | module | in → out | touches |
//! |---|---|---|
//! | [`mirror`] | events and snapshots → the values of now | the client's own methods |
//! | [`commands`], [`pipeline`], [`watcher`], [`walk`] | the user's calls → outcomes, events, keys | the link |
//! | [`builder`], [`connect`] | addresses, or a stream → a client | the link |
//! | `client` (this file) | what the modules above share: the link, and what a caller wants of its calls | the link |
//! | [`link`] | requests → responses | the session, by channels and by driving it |
//! | [`driver`] | polls of many tasks → polls of one future | nothing else |
//! | [`session`] | connections, one after the other | the connector, the connection |
//! | [`attempts`] | failures → the next address, and how long to wait | nothing |
//! | [`connector`], `tls` | an address → a transport | names, TCP, TLS |
//! | [`connection`], [`silence`] | calls → bytes; bytes → lines; or neither for too long | the transport, the framing |
//! | [`framing`] | requests → lines; lines → responses and events | no I/O |
//! | [`validate`] | arguments → requests | nothing |
//! | [`call`] | what is requested, and the way back to the caller | the caller's channel |
//! | [`watch`] | changes → events, one bounded queue a watcher | the watchers' queues |
//! | [`walk_queue`] | keys → one bounded queue a walk | the walks' queues |
//! | [`snapshot`] | changes → the keys and values that they are applied to | nothing |
//! | [`outcome`] | a response → what it means to the caller | nothing |
//! | [`event`], [`state`] | what the user is told of a change, and of the connection | nothing |

mod attempts;
mod builder;
mod call;
mod commands;
mod connect;
mod connection;
mod connector;
mod driver;
mod event;
mod framing;
mod link;
mod mirror;
mod outcome;
mod pipeline;
mod session;
mod silence;
mod snapshot;
mod state;
#[cfg(feature = "tls")]
mod tls;
mod validate;
mod walk;
mod walk_queue;
mod watch;
mod watcher;

use std::{fmt, future::Future, sync::Arc};

use futures_lite::future;

use crate::Error;
use call::{Request, Response};
use link::{CallOptions, ServerLink};

pub use builder::ClientBuilder;
pub use event::Event;
pub use mirror::Mirror;
pub use outcome::Outcome;
pub use pipeline::Pipeline;
pub use snapshot::Snapshot;
pub use state::ConnectionState;
pub use walk::Walk;
pub use watcher::Watcher;

/// A client of one server. It is cheap to clone; all clones share one connection, from any number of
/// tasks.
///
/// ```
/// # use {futures_lite::future, keywire::Client};
/// # let mut server = keywire::Server::new();
/// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
/// # let address = listener.local_addr()?;
/// # server.listen(listener);
/// # let example = async {
/// let client = Client::connect(address).await?;
/// client.put("user", "alice").await?;
/// client.put("user", "bob").await?;
/// assert_eq!(client.get("user").await?, [&b"alice"[..], b"bob"]);
/// assert!(client.get("nobody").await?.is_empty());
///
/// // Calls that are under way at the same time share writes and reads.
/// future::try_zip(client.put("a", "1"), client.clone().delete("user")).await?;
/// # Ok::<(), Box<dyn std::error::Error>>(()) };
/// # let server = async { server.run().await; Ok(()) };
/// # future::block_on(future::or(example, server)).unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Nothing moves while nobody waits
///
/// There is no task and no thread behind a client, and it needs no particular executor. A task that
/// awaits a call, the next event of a [`Watcher`] or the next key of a [`Walk`], moves the bytes for
/// all, and makes the next connection. So the client makes progress only while some task awaits one of
/// these. At all other times nothing is sent or read: events stay with the server, and a connection that
/// has ended is noticed at the next call. A future of a call that is created and not polled sends nothing.
///
/// The connection is closed when the last clone, watcher, walk and mirror are dropped, or by
/// [`close`](Self::close).
///
/// # What a response guarantees
///
/// Every command is followed by a `Sync`, at the end of each write to the connection or after each
/// read of a key. So:
///
/// - A write that returned `Ok` is applied (and on disk, if the store is durable).
/// - An absent key is an empty list, or `None`. A reply that the server dropped is [`Error::RepliesDropped`].
/// - An `:error:` of the server is [`Error::Refused`], returned by the very command that was refused.
///   It is [`Error::Unconfirmed`] if the server does not know whether it applied the command.
/// - Keys and values that no line can carry are [`Error::InvalidArgument`], and then nothing was
///   sent. A key is not empty; a key and an `old` hold no colon; nothing holds an LF; nothing but an
///   `old` ends in a CR.
///
/// # Bounds
///
/// Requests are sent in the order in which they were made, a long [`Pipeline`] as one of them. Up to
/// 256 calls wait to be sent, and up to 4,096 commands are in flight on one connection; further
/// callers wait. The reply to one `get`, and the values of one key of a walk, may have 64 MiB, as much
/// as a server sends by default; more ends the connection. A walk of any length takes bounded memory,
/// and later calls wait for it: see [`Walk`]. A [snapshot](Self::get_and_watch_prefix) has no bound but
/// the data.
///
/// # Cancel safety
///
/// Any call may be dropped at any time, and the client stays usable and in step. A command whose
/// future is dropped before the command was sent is never sent. After that the command is applied or
/// not, as it would have been, and its reply is read and thrown away.
///
/// # When the connection ends
///
/// A client of [`connect`](Self::connect) or [`from_stream`](Self::from_stream) has one connection, and
/// ends with it. Every call that waits fails, and every later one, with the reason:
/// [`Error::Disconnected`], [`Error::Protocol`], or [`Error::Refused`] if the server said why it ended the
/// connection, such as [`Closing`](crate::protocol::Code::Closing) when it shuts down, or the last of
/// several refusals. A write that was sent and not confirmed is [`Error::Unconfirmed`] then. What was
/// never sent fails with the refusal itself, or with [`Error::NotSent`].
///
/// A client of a [`builder`](Self::builder) makes another connection then, and goes on:
/// [`ClientBuilder`] says what becomes of the calls, and watchers survive.
///
/// If the server's machine is gone, a watcher that waits, and any call that waits behind what has
/// arrived, fails after two minutes, by TCP keepalive. ([`connect`](Self::connect) sets it; a stream
/// of your own needs its own.) Bytes that have not arrived at all are sent again by the system for a
/// quarter of an hour. A builder has an [answer timeout](ClientBuilder::answer_timeout) for that;
/// [`with_timeout`](Self::with_timeout) bounds calls.
#[derive(Clone)]
pub struct Client {
    link: Arc<ServerLink>,
    options: CallOptions,
}

/// What the modules below send by.
impl Client {
    async fn request(&self, request: Request) -> Result<Response, Error> {
        self.link.request(request, self.options).await
    }

    fn link(&self) -> Arc<ServerLink> {
        self.link.clone()
    }

    async fn with_deadline<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let late = async {
            self.link.sleep(self.options.timeout).await;
            Err(Error::TimedOut)
        };
        future::or(work, late).await
    }
}

fn invalid_argument(reason: &'static str) -> Error {
    Error::InvalidArgument { command: 0, reason }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("timeout", &self.options.timeout)
            .field("repeats_writes", &self.options.repeats_writes)
            .field("error", &self.link.error())
            .finish_non_exhaustive()
    }
}
