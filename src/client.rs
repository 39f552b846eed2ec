//! The client: calls that share a connection, pipelines, and watches.

mod check;
mod connection;
mod crank;
mod flow;
mod pipeline;
mod promise;
mod watch;

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_io::Timer;
use async_net::{AsyncToSocketAddrs, TcpStream};
use futures_lite::{AsyncRead, AsyncWrite, future};
use socket2::SockRef;

use crate::{Error, Secret, Stats, listen::tcp::keepalive, protocol::Command};
use connection::{Link, Transport};
use flow::{Answer, Answers, Ask};
use watch::Subject;

pub use pipeline::Pipeline;
pub use watch::{Event, Watcher};

/// What came of one command of a [`Pipeline`]: the values that a `get` read, in order; an empty
/// list for a write.
pub type Outcome = Result<Vec<Vec<u8>>, Error>;

/// A client. Cheap to clone; all clones share one connection, and so may any number of tasks.
///
/// ```
/// # use futures_lite::future;
/// # use keywire::Client;
/// # let mut server = keywire::Server::new();
/// # let listener = keywire::bind(([127, 0, 0, 1], 0).into())?;
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
/// #     Ok::<(), Box<dyn std::error::Error>>(())
/// # };
/// # let server = async { server.run().await; Ok(()) };
/// # future::block_on(future::or(example, server)).unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # What an answer is worth
///
/// Every command is followed by a `Sync`, at the end of each write or after each read of a key. So
/// a write that returned `Ok` is applied (and on disk, where the store is durable); an absent key is
/// an empty list; a reply that the server dropped is [`Error::RepliesDropped`]; and an `:error:` of the server
/// is [`Error::Refused`], with the very command that it refused. Keys and values that no line can
/// carry are [`Error::InvalidArgument`], and then nothing was sent: a key is not empty, a key and an
/// `old` hold no colon, nothing holds an LF, and nothing but an `old` ends in a CR.
///
/// # Who does the work
///
/// There is no task and no thread behind it, and it needs no particular executor. Whoever waits for
/// an answer, or for the next event of a [`Watcher`], moves the bytes for all. So nothing moves
/// while nobody waits: events stay with the server, and a connection that has ended is noticed at
/// the next call. The connection is closed when the last clone and the last watcher are gone.
///
/// Requests are sent in the order asked, a long [`Pipeline`] as one of them. Each is bounded by what
/// it holds, and up to 256 of them and 4,096 commands in flight are held for one connection; further
/// callers wait. The reply to one `get` may have 64 MiB, as much as a server sends by default; one
/// that is longer ends the connection.
///
/// # Cancel safety
///
/// Any call may be dropped at any time, and the client stays usable and in step. A command whose
/// future is dropped before it was sent is never sent; after that, it is applied or not, as it
/// would have been, and its reply is read and thrown away.
///
/// # When the connection ends
///
/// Every call that waits fails, and every later one, with what ended it:
/// [`Error::Disconnected`], [`Error::Protocol`], or [`Error::Refused`] if the server said why it
/// ended the connection: such as [`Closing`](crate::protocol::Code::Closing) when it shuts down, or
/// the last of several refusals. A write that was sent and not confirmed is
/// [`Error::Unconfirmed`] then. The client does not come back of itself: see
/// [`reconnect`](Self::reconnect).
///
/// If the server's machine is gone, a watcher that waits, and any call that waits behind what has
/// arrived, hears so after two minutes, by TCP keepalive ([`connect`](Self::connect) sets it; a
/// stream of your own needs its own). What has not arrived at all is sent again by the system for a
/// quarter of an hour: see [`with_timeout`](Self::with_timeout).
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    limit: Option<Duration>,
}

struct Shared {
    link: Mutex<Arc<Link>>,
    /// Where it was connected to; empty where it was not by us.
    addresses: Vec<SocketAddr>,
    /// What has let it in, to be said again after a reconnect.
    secret: Mutex<Option<Secret>>,
}

impl Shared {
    fn link(&self) -> MutexGuard<'_, Arc<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn secret(&self) -> MutexGuard<'_, Option<Secret>> {
        self.secret.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// Connects over TCP. Names are resolved once; where there are several addresses, they are
    /// tried in turn, each for as long as the system does: race it with a timer where that is too
    /// long.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`].
    pub async fn connect(address: impl AsyncToSocketAddrs) -> Result<Self, Error> {
        let addresses = address.to_socket_addrs().await.map_err(Error::Connect)?;
        let addresses: Vec<_> = addresses.collect();
        let transport = dial(&addresses).await.map_err(Error::Connect)?;
        Ok(Self::with(transport, addresses))
    }

    /// A client over anything that carries bytes both ways, such as a Unix socket, a TLS stream or
    /// one end of a pipe.
    pub fn from_stream<T>(stream: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::with(Box::new(stream), Vec::new())
    }

    fn with(transport: Box<dyn Transport>, addresses: Vec<SocketAddr>) -> Self {
        Self {
            shared: Arc::new(Shared {
                link: Mutex::new(Arc::new(Link::new(transport))),
                addresses,
                secret: Mutex::default(),
            }),
            limit: None,
        }
    }

    /// A handle on the same connection whose calls fail with [`Error::TimedOut`] after this time.
    /// There is no limit otherwise.
    ///
    /// A call that has timed out is like one that was dropped: the client stays usable. Where the
    /// server has gone silent for good, [`disconnect`](Self::disconnect) and
    /// [`reconnect`](Self::reconnect).
    #[must_use]
    pub fn with_timeout(&self, limit: Duration) -> Self {
        Self {
            shared: self.shared.clone(),
            limit: Some(limit),
        }
    }

    /// Says the secret that the server wants before anything else. It is said again after each
    /// [`reconnect`](Self::reconnect). Where the server wants none, any will do.
    ///
    /// The secret goes over the connection as it is: use TLS where others may listen.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), keywire::Error> {
    /// use keywire::{Client, Secret};
    ///
    /// let client = Client::connect("127.0.0.1:9999").await?;
    /// client.authenticate(&Secret::new("correct horse battery staple")?).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`Code::Unauthorized`](crate::protocol::Code::Unauthorized) where
    /// it is not the right one. A server takes two seconds to say so, one for this line and one for
    /// the fence behind it. Both are failures, of which the third ends the connection: to try
    /// another secret, [`disconnect`](Self::disconnect) and [`reconnect`](Self::reconnect) first.
    pub async fn authenticate(&self, secret: &Secret) -> Result<(), Error> {
        self.ask_one(auth(secret)).await?;
        *self.shared.secret() = Some(secret.clone());
        Ok(())
    }

    /// Appends value to the key's list. `Ok` means that it is applied.
    ///
    /// # Errors
    ///
    /// See [above](Client#what-an-answer-is-worth); so for the calls below.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.write(check::put(key.as_ref(), value.as_ref())).await
    }

    /// Reads the key's list: all values, oldest first; none where the key has none.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Outcome {
        let ask = check::get(key.as_ref());
        match self.ask_one(ask.map_err(unsendable)?).await? {
            Answer::Values(values) => Ok(values),
            _ => Ok(Vec::new()),
        }
    }

    /// Removes the key and all its values. `Ok` means that it is applied.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), Error> {
        self.write(check::delete(key.as_ref())).await
    }

    /// Replaces the first value equal to old by new, in place; where there is none, appends new.
    /// `Ok` means that it is applied.
    pub async fn update(
        &self,
        key: impl AsRef<[u8]>,
        old: impl AsRef<[u8]>,
        new: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        self.write(check::update(key.as_ref(), old.as_ref(), new.as_ref()))
            .await
    }

    /// A fence: when it returns, everything that was asked of this connection before is applied.
    pub async fn sync(&self) -> Result<(), Error> {
        self.write(Ok(Ask::Sync)).await
    }

    /// Reads the server's counters.
    pub async fn stats(&self) -> Result<Stats, Error> {
        match self.ask_one(Ask::Stats).await? {
            Answer::Stats(stats) => Ok(*stats),
            _ => Err(Error::Protocol("no counters")),
        }
    }

    /// Commands to be sent in one go.
    pub fn pipeline(&self) -> Pipeline<'_> {
        Pipeline::new(self)
    }

    /// Watches a key: every change from here on is an event, whoever makes it.
    ///
    /// ```
    /// # use futures_lite::future;
    /// use futures_lite::StreamExt;
    /// use keywire::{Client, Event};
    ///
    /// # async fn example(client: Client) -> Result<(), keywire::Error> {
    /// let mut watcher = client.watch("user").await?;
    /// client.put("user", "alice").await?;
    /// let event = watcher.next().await.unwrap()?;
    /// assert_eq!(event, Event::Put { key: b"user".to_vec(), value: b"alice".to_vec() });
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Cancel safety: dropped half-way, it has begun no watch that lasts.
    pub async fn watch(&self, key: impl AsRef<[u8]>) -> Result<Watcher, Error> {
        self.begin_watch(check::watch(key.as_ref())).await
    }

    /// Watches every key that begins so; all keys where the prefix is empty.
    pub async fn watch_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Watcher, Error> {
        self.begin_watch(check::watch_prefix(prefix.as_ref())).await
    }

    /// Reads a key and watches it, with no gap and no overlap: the values contain every change
    /// before the first event, and none from there on.
    pub async fn get_and_watch(
        &self,
        key: impl AsRef<[u8]>,
    ) -> Result<(Vec<Vec<u8>>, Watcher), Error> {
        let key = key.as_ref();
        let subject = check::watch(key).map_err(unsendable)?;
        let link = self.shared.link().clone();
        let watcher = Watcher::new(link.clone(), subject.clone());
        self.limited(async {
            loop {
                let asks = vec![
                    Ask::Watch {
                        subject: subject.clone(),
                        mailbox: watcher.mailbox().clone(),
                    },
                    Ask::Get {
                        key: key.to_vec(),
                        snapshot: Some(watcher.mailbox().clone()),
                    },
                ];
                let mut answers = link.call(asks).await?.into_iter();
                only(answers.next())?;
                match only(answers.next())? {
                    Answer::Values(values) => break Ok(values),
                    // The key was deleted just then, before the read or after it.
                    _ => continue,
                }
            }
        })
        .await
        .map(|values| (values, watcher))
    }

    /// Connects anew, for all clones, where the connection does not answer a [`sync`](Self::sync);
    /// where it does, this does nothing. Names are not resolved again. Watchers do not come along.
    ///
    /// Several callers may do it at once: one connection is kept. Cancel safety: dropped half-way,
    /// it has done nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`]: the server can't be reached, or the client was made of a stream and has
    /// no address to go to. What [`authenticate`](Self::authenticate) may fail with, where it was
    /// called before.
    pub async fn reconnect(&self) -> Result<(), Error> {
        let link = self.shared.link().clone();
        // While nobody asks anything of it, a connection may have ended unnoticed.
        if link.fault().is_none() && self.sync().await.is_ok() {
            return Ok(());
        }
        link.end();
        let secret = self.shared.secret().clone();
        let dial = async {
            let transport = dial(&self.shared.addresses).await;
            let link = Link::new(transport.map_err(Error::Connect)?);
            if let Some(secret) = secret {
                only(link.call(vec![auth(&secret)]).await?.into_iter().next())?;
            }
            Ok(Arc::new(link))
        };
        let link = self.limited(dial).await?;
        let mut current = self.shared.link();
        if current.fault().is_some() {
            let old = std::mem::replace(&mut *current, link);
            drop(current);
            drop(old);
        }
        Ok(())
    }

    /// Ends the connection now, for all clones: what waits fails with [`Error::Disconnected`].
    pub fn disconnect(&self) {
        let link = self.shared.link().clone();
        link.end();
    }

    async fn write(&self, ask: Result<Ask, &'static str>) -> Result<(), Error> {
        self.ask_one(ask.map_err(unsendable)?).await.map(|_| ())
    }

    async fn begin_watch(&self, subject: Result<Subject, &'static str>) -> Result<Watcher, Error> {
        let subject = subject.map_err(unsendable)?;
        let link = self.shared.link().clone();
        // Dropped after the call, so that its leaving finds a call that was sent or never will be.
        let watcher = Watcher::new(link.clone(), subject.clone());
        let mailbox = watcher.mailbox().clone();
        let asks = vec![Ask::Watch { subject, mailbox }];
        only(self.limited(link.call(asks)).await?.into_iter().next())?;
        Ok(watcher)
    }

    async fn ask_one(&self, ask: Ask) -> Result<Answer, Error> {
        only(self.ask(vec![ask]).await?.into_iter().next())
    }

    async fn ask(&self, asks: Vec<Ask>) -> Result<Answers, Error> {
        let link = self.shared.link().clone();
        self.limited(link.call(asks)).await
    }

    async fn limited<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let Some(limit) = self.limit else {
            return work.await;
        };
        let over = async {
            Timer::after(limit).await;
            Err(Error::TimedOut)
        };
        future::or(work, over).await
    }
}

fn auth(secret: &Secret) -> Ask {
    let mut line = Vec::new();
    let secret = secret.expose();
    Command::Auth { secret }.encode(&mut line);
    Ask::Write(line)
}

fn unsendable(reason: &'static str) -> Error {
    Error::InvalidArgument { command: 0, reason }
}

/// There is an answer to each ask.
fn only(answer: Option<Result<Answer, Error>>) -> Result<Answer, Error> {
    answer.unwrap_or(Err(Error::Disconnected(None)))
}

async fn dial(addresses: &[SocketAddr]) -> io::Result<Box<dyn Transport>> {
    if addresses.is_empty() {
        let message = "there is no address to connect to";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let stream = TcpStream::connect(addresses).await?;
    // A command is written whole; holding it back would only delay it.
    stream.set_nodelay(true)?;
    // Nobody else tells whoever waits that the server's machine is gone.
    SockRef::from(&stream).set_tcp_keepalive(&keepalive())?;
    Ok(Box::new(stream))
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = self.shared.link().fault();
        f.debug_struct("Client")
            .field("addresses", &self.shared.addresses)
            .field("time_limit", &self.limit)
            .field("fault", &fault)
            .finish()
    }
}
