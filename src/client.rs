//! The client: calls that share a connection, pipelines, and watches.
//!
//! In: the user's calls. Out: lines to one server, and its replies and events as values. There is no
//! task, no thread and no executor here: the user's own tasks drive the connection.
//!
//! Each module imports only modules below it:
//!
//! | module | in → out | touches |
//! |---|---|---|
//! | [`commands`], [`pipeline`], [`watcher`] | the user's calls → outcomes, events | the link |
//! | `client` (this file) | the user's calls → values | the link, TCP |
//! | [`link`] | requests → responses | the connection, by channels and by driving it |
//! | [`driver`] | polls of many tasks → polls of one future | nothing else |
//! | [`connection`] | calls → bytes; bytes → lines | the transport, the framing |
//! | [`framing`] | requests → lines; lines → responses and events | no I/O |
//! | [`validate`] | arguments → requests | nothing |
//! | [`call`] | what is requested, and the way back to the caller | the caller's channel |
//! | [`watch`], [`event`] | changes → events, one bounded queue a watcher | the watchers' queues |

mod call;
mod commands;
mod connection;
mod driver;
mod event;
mod framing;
mod link;
mod pipeline;
mod validate;
mod watch;
mod watcher;

use std::{fmt, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use async_io::Timer;
use async_net::AsyncToSocketAddrs;
use futures_lite::{AsyncRead, AsyncWrite, future};

use crate::{
    Error, Secret,
    lock::Lock,
    transport::{Transport, connect_tcp},
};
use call::{Request, Response};
use link::ServerLink;

pub use event::Event;
pub use pipeline::Pipeline;
pub use watcher::Watcher;

/// The outcome of one command of a [`Pipeline`]: the values that a `get` read, oldest first; an empty
/// list for a write.
pub type Outcome = Result<Vec<Vec<u8>>, Error>;

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
/// awaits a call, or the next event of a [`Watcher`], moves the bytes for all. So the client makes
/// progress only while some task awaits one of these. Meanwhile nothing is sent or read: events stay
/// with the server, and a connection that has ended is noticed at the next call. A future of a call
/// that is created and not polled sends nothing.
///
/// The connection is closed when the last clone and the last watcher are dropped.
///
/// # What a response guarantees
///
/// Every command is followed by a `Sync`, at the end of each write to the connection or after each
/// read of a key. So:
///
/// - A write that returned `Ok` is applied (and on disk, if the store is durable).
/// - An absent key is an empty list. A reply that the server dropped is [`Error::RepliesDropped`].
/// - An `:error:` of the server is [`Error::Refused`], returned by the very command that was refused.
/// - Keys and values that no line can carry are [`Error::InvalidArgument`], and then nothing was
///   sent. A key is not empty; a key and an `old` hold no colon; nothing holds an LF; nothing but an
///   `old` ends in a CR.
///
/// # Bounds
///
/// Requests are sent in the order in which they were made, a long [`Pipeline`] as one of them. Up to
/// 256 calls wait to be sent, and up to 4,096 commands are in flight on one connection; further
/// callers wait. The reply to one `get` may have 64 MiB, as much as a server sends by default; a
/// longer one ends the connection.
///
/// # Cancel safety
///
/// Any call may be dropped at any time, and the client stays usable and in step. A command whose
/// future is dropped before the command was sent is never sent. After that the command is applied or
/// not, as it would have been, and its reply is read and thrown away.
///
/// # When the connection ends
///
/// Every call that waits fails, and every later one, with the reason: [`Error::Disconnected`],
/// [`Error::Protocol`], or [`Error::Refused`] if the server said why it ended the connection, such as
/// [`Closing`](crate::protocol::Code::Closing) when it shuts down, or the last of several refusals. A
/// write that was sent and not confirmed is [`Error::Unconfirmed`] then. The client does not
/// reconnect by itself: see [`reconnect`](Self::reconnect).
///
/// If the server's machine is gone, a watcher that waits, and any call that waits behind what has
/// arrived, fails after two minutes, by TCP keepalive. ([`connect`](Self::connect) sets it; a stream
/// of your own needs its own.) Bytes that have not arrived at all are sent again by the system for a
/// quarter of an hour: see [`with_timeout`](Self::with_timeout).
#[derive(Clone)]
pub struct Client {
    shared: Arc<SharedClient>,
    timeout: Option<Duration>,
}

struct SharedClient {
    link: Lock<Arc<ServerLink>>,
    /// Where it was connected to; empty if the stream is the user's.
    addresses: Vec<SocketAddr>,
    /// The secret that the server accepted, to be sent again after a reconnect.
    secret: Lock<Option<Secret>>,
}

/// The connection.
impl Client {
    /// Connects over TCP. Names are resolved once. If there are several addresses, they are tried in
    /// turn, each for as long as the system does; there is no time limit here, so race it with a timer
    /// if you need one.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// use std::time::Duration;
    ///
    /// let timeout = async {
    ///     async_io::Timer::after(Duration::from_secs(5)).await;
    ///     Err(keywire::Error::TimedOut)
    /// };
    /// let client = future::or(Client::connect(address), timeout).await?;
    /// client.put("user", "alice").await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Cancel safety: if the call is dropped, no connection is left.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] if the name can't be resolved or no address answers.
    pub async fn connect(address: impl AsyncToSocketAddrs) -> Result<Self, Error> {
        let addresses = address.to_socket_addrs().await.map_err(Error::Connect)?;
        let addresses: Vec<_> = addresses.collect();
        let transport = connect_tcp(&addresses).await.map_err(Error::Connect)?;
        Ok(Self::new(transport, addresses))
    }

    /// A client over anything that carries bytes both ways, such as a Unix socket, a TLS stream or
    /// one end of a pipe. Nothing is sent before the first call.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// let stream = async_net::TcpStream::connect(address).await?;
    /// let client = Client::from_stream(stream);
    /// client.put("user", "alice").await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_stream<T>(stream: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::new(Box::new(stream), Vec::new())
    }

    fn new(transport: Box<dyn Transport>, addresses: Vec<SocketAddr>) -> Self {
        Self {
            shared: Arc::new(SharedClient {
                link: Lock::new(Arc::new(ServerLink::new(transport))),
                addresses,
                secret: Lock::default(),
            }),
            timeout: None,
        }
    }

    /// A handle on the same connection whose calls fail with [`Error::TimedOut`] after this time. By
    /// default there is no limit. Other clones keep theirs.
    ///
    /// A call that has timed out is like one that was dropped: the client stays usable. If the server
    /// has gone silent for good, [`disconnect`](Self::disconnect) and [`reconnect`](Self::reconnect).
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// use std::time::Duration;
    ///
    /// let client = client.with_timeout(Duration::from_secs(5));
    /// client.put("user", "alice").await?; // fails after 5 seconds
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            shared: self.shared.clone(),
            timeout: Some(timeout),
        }
    }

    /// Sends the secret that the server wants before anything else. The client sends it again after
    /// each [`reconnect`](Self::reconnect). If the server wants none, it accepts any.
    ///
    /// The secret goes over the connection as it is: use TLS if others may listen.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// use keywire::Secret;
    ///
    /// client.authenticate(&Secret::new("correct horse battery staple")?).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`Code::Unauthorized`](crate::protocol::Code::Unauthorized) if it is
    /// not the right one. A server takes two seconds to say so, one for this line and one for the
    /// fence behind it. Both are failures, of which the third ends the connection: to try another
    /// secret, [`disconnect`](Self::disconnect) and [`reconnect`](Self::reconnect) first.
    pub async fn authenticate(&self, secret: &Secret) -> Result<(), Error> {
        self.request(validate::auth(secret)).await?;
        *self.shared.secret.lock() = Some(secret.clone());
        Ok(())
    }

    /// Connects anew, for all clones, if the connection does not answer a [`sync`](Self::sync). If it
    /// does, this does nothing. Names are not resolved again. Watchers stay with the old connection.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.disconnect();
    /// client.reconnect().await?;
    /// client.put("user", "alice").await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Several callers may call it at once: one connection is kept. Cancel safety: if the call is
    /// dropped half-way, the client has no new connection.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] if the server can't be reached, or if the client was made of a stream and
    /// has no address. The errors of [`authenticate`](Self::authenticate), if that was called before.
    pub async fn reconnect(&self) -> Result<(), Error> {
        let link = self.link();
        // While nobody waits for anything, a connection may have ended unnoticed.
        if link.error().is_none() && self.sync().await.is_ok() {
            return Ok(());
        }
        link.end();
        let secret = self.shared.secret.lock().clone();
        let connect = async {
            let transport = connect_tcp(&self.shared.addresses).await;
            let link = ServerLink::new(transport.map_err(Error::Connect)?);
            if let Some(secret) = secret {
                link.request(validate::auth(&secret)).await?;
            }
            Ok(Arc::new(link))
        };
        let link = self.with_deadline(connect).await?;
        let mut current = self.shared.link.lock();
        if current.error().is_some() {
            let old = std::mem::replace(&mut *current, link);
            drop(current);
            drop(old);
        }
        Ok(())
    }

    /// Ends the connection now, for all clones: every call that waits fails with
    /// [`Error::Disconnected`].
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.disconnect();
    /// let error = client.put("user", "alice").await.unwrap_err();
    /// assert!(error.is_disconnected());
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disconnect(&self) {
        self.link().end();
    }
}

/// What the modules below send by.
impl Client {
    async fn request(&self, request: Request) -> Result<Response, Error> {
        let link = self.link();
        self.with_deadline(link.request(request)).await
    }

    fn link(&self) -> Arc<ServerLink> {
        self.shared.link.lock().clone()
    }

    async fn with_deadline<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let Some(timeout) = self.timeout else {
            return work.await;
        };
        let late = async {
            Timer::after(timeout).await;
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
        let error = self.link().error();
        f.debug_struct("Client")
            .field("addresses", &self.shared.addresses)
            .field("timeout", &self.timeout)
            .field("error", &error)
            .finish()
    }
}
