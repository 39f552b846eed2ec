//! A client that makes its connections itself, and how it does.

use std::{fmt, future::Future, io, sync::Arc, time::Duration};

use futures_lite::{AsyncRead, AsyncWrite};

use super::{
    Client,
    attempts::{Attempts, Jitter},
    call::Request,
    connector::{Connector, Target},
    link::{CallOptions, ServerLink},
    session::{Observer, Reconnection, Retry},
    state::ConnectionState,
};
use crate::{Clock, Error, Secret, clock::SystemClock, transport::Transport};

/// How long an attempt may take, until the server can be spoken to. Longer than a lost packet, or a
/// slow name server, delays one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take to answer. Far longer than any command takes; short enough for whoever
/// waits behind the caller.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The wait before the first attempt. A restart takes about so long, and clients that all come at once
/// are spread a little.
const FIRST_DELAY: Duration = Duration::from_millis(50);

/// The longest wait between two attempts: a server that is back is found in so long.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// Makes a client that comes back: from [`Client::builder`].
///
/// ```
/// # use {futures_lite::future, keywire::Client};
/// # let mut server = keywire::Server::new();
/// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
/// # let address = listener.local_addr()?;
/// # server.listen(listener);
/// # let example = async {
/// use keywire::Secret;
/// use std::time::Duration;
///
/// let client = Client::builder()
///     .address(address)
///     .address("fallback.example:9999") // tried if the first does not answer
///     .secret(Secret::new("correct horse battery staple")?)
///     .connect_timeout(Duration::from_secs(2))
///     .answer_timeout(Some(Duration::from_secs(3)))
///     .reconnect_delays(Duration::from_millis(100), Duration::from_secs(1))
///     .connect()
///     .await?;
/// client.put("user", "alice").await?;
/// # Ok::<(), Box<dyn std::error::Error>>(()) };
/// # let server = async { server.run().await; Ok(()) };
/// # future::block_on(future::or(example, server)).unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # A client that comes back
///
/// When its connection is lost, such a client makes another one, and goes on: unless
/// [`reconnect`](Self::reconnect) says no. As always, nothing moves while nobody waits: it is the tasks
/// that await a call, an event or a key that make the attempts, and no timer runs without them.
///
/// A connection counts as lost if it ends or breaks, if the server says `closing`, if the server breaks
/// the protocol, or if the server owes a reply and sends nothing for the
/// [answer timeout](Self::answer_timeout). If only watchers wait, the client sends a
/// `Sync` after that time, and gives the connection up after as long again.
///
/// **The attempts.** The address of the connection that was lost is tried first, then the others in turn;
/// names are resolved anew each time. Each attempt may take the
/// [connect timeout](Self::connect_timeout). There is a [wait](Self::reconnect_delays) before the first
/// attempt, and after each round of all addresses. It doubles each time, and begins anew after a
/// connection that lasted longer than the last wait. On the new connection, the client authenticates and
/// waits for the server's answer before it sends anything else.
///
/// **Calls.** Those that are made while there is no connection wait for one, as long as the answer timeout
/// lets them. 512 of them are kept; further callers wait for room. What was under way when a connection
/// was lost:
///
/// | | it |
/// |---|---|
/// | a call that was not sent, or not to the end of its line | is sent on the next connection |
/// | `get`, `stats`, `get_and_watch`, `get_and_watch_prefix` | is sent again |
/// | a write that was sent | fails with [`Error::Disconnected`] or [`Error::Unconfirmed`]: it may be applied. With [`with_repeated_writes`](Client::with_repeated_writes) it is sent again. |
/// | a write that a server refused because it shuts down | fails with [`Error::Refused`]: it is not applied. With `with_repeated_writes` it is sent again. |
/// | `sync` | fails: on the next connection it would say nothing of what was sent on this one |
/// | `get_prefix` and `keys`, once they are sent | fail after the keys that came: some would come twice |
///
/// So a write is never applied twice, and [`Error::may_be_applied`] says of each write that failed whether
/// it may be applied. A call is sent again 3 times at most, and not after the server broke the protocol.
/// The commands of one [`Pipeline`](crate::Pipeline) keep their order, but those behind a write that is
/// in doubt may be sent on the next connection.
///
/// **Watchers** survive. Their watches are begun anew, and the stream has one
/// [`Event::Missed(0)`](crate::Event::Missed) at that place: an unknown number of changes was missed. A
/// [`Mirror`](crate::Mirror) reads the values anew by itself. If the server refuses to begin a watch anew,
/// its watcher ends with [`Error::Refused`].
///
/// **The end.** A server that refuses the secret, or wants one and got none, ends the client for good:
/// every call and watcher fails with [`Error::Refused`] and the code `unauthorized`. So does a port that
/// speaks TLS to a client without it (`malformed`). [`Client::close`] ends it too, and so does dropping
/// the last handle, watcher, walk and mirror.
#[must_use = "there is no client before `connect` or `build`"]
pub struct ClientBuilder {
    targets: Vec<Target>,
    secret: Option<Secret>,
    connect_timeout: Duration,
    answer_timeout: Option<Duration>,
    reconnect: bool,
    delays: (Duration, Duration),
    observer: Option<Observer>,
    clock: Arc<dyn Clock>,
    seed: Option<u64>,
    #[cfg(feature = "tls")]
    tls: Option<Arc<futures_rustls::rustls::ClientConfig>>,
    #[cfg(feature = "tls")]
    tls_name: Option<String>,
}

/// The builder.
impl Client {
    /// A client with addresses, a secret, TLS and time limits, that comes back when its connection is
    /// lost. See [`ClientBuilder`].
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            targets: Vec::new(),
            secret: None,
            connect_timeout: CONNECT_TIMEOUT,
            answer_timeout: Some(ANSWER_TIMEOUT),
            reconnect: true,
            delays: (FIRST_DELAY, LONGEST_DELAY),
            observer: None,
            clock: Arc::new(SystemClock),
            seed: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            tls_name: None,
        }
    }
}

impl ClientBuilder {
    /// Adds an address: `HOST:PORT`, or whatever shows itself so, such as a `SocketAddr`. A name is
    /// resolved anew at each attempt, and all that it stands for is tried.
    ///
    /// All addresses have to be those of one server, or of servers with one store: the client takes
    /// whichever answers. Whatever is wrong with an address shows in the first attempt, not here.
    pub fn address(mut self, address: impl fmt::Display) -> Self {
        self.targets.push(Target::Tcp(address.to_string()));
        self
    }

    /// Adds a way to a server that is no TCP address, such as a Unix socket. It is called for each
    /// attempt.
    ///
    /// ```no_run
    /// use keywire::{Client, async_net::unix::UnixStream};
    ///
    /// # futures_lite::future::block_on(async {
    /// let connect = || UnixStream::connect("/run/keywire.sock");
    /// let client = Client::builder().connector(connect).connect().await?;
    /// client.put("user", "alice").await?;
    /// # Ok::<(), keywire::Error>(())
    /// # }).unwrap();
    /// ```
    pub fn connector<F, C, T>(mut self, connect: F) -> Self
    where
        F: Fn() -> C + Send + Sync + 'static,
        C: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.targets.push(Target::Own(Box::new(move || {
            let connecting = connect();
            Box::pin(async move { Ok(Box::new(connecting.await?) as Box<dyn Transport>) })
        })));
        self
    }

    /// Authenticates with this secret, on each connection.
    ///
    /// The secret goes over the connection as it is: use TLS if others may listen.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Speaks TLS over TCP: a configuration of [`client_config`](crate::tls::client_config), or one's own.
    /// The server's certificate has to name the host of the address, unless
    /// [`tls_name`](Self::tls_name) says another name. It is not used for a
    /// [`connector`](Self::connector).
    ///
    /// ```no_run
    /// use keywire::{Client, tls};
    ///
    /// # futures_lite::future::block_on(async {
    /// let config = tls::client_config(&tls::Pem::from_file("ca.pem")?, None)?;
    /// let client = Client::builder().address("localhost:9999").tls(config).connect().await?;
    /// client.put("user", "alice").await?;
    /// # Ok::<(), keywire::Error>(())
    /// # }).unwrap();
    /// ```
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls(mut self, config: Arc<crate::tls::rustls::ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// The name in the server's certificate, if that is not the host of the address.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls_name(mut self, name: impl Into<String>) -> Self {
        self.tls_name = Some(name.into());
        self
    }

    /// How long one attempt may take, with the resolving of the name and the handshake of TLS; 5 seconds
    /// by default. If a name stands for several machines, each has its share of that. Then the server has
    /// as long for its first answer, or the [answer timeout](Self::answer_timeout) if that is shorter; but
    /// at least 2 seconds, since a server takes one to refuse a secret.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_timeout = time;
        self
    }

    /// How long the server may take to answer; 10 seconds by default, `None` is no limit.
    ///
    /// It is two limits in one:
    ///
    /// - A call that has no answer by then fails with [`Error::TimedOut`], or, if it was not sent, with
    ///   [`Error::NotSent`] around what kept the client from a connection. For one call more or less, see
    ///   [`Client::with_timeout`].
    /// - If the server owes a reply and nothing at all comes from it for so long, the connection is given
    ///   up, for all. A reply that is long, and a walk, may take longer, as long as bytes come. (Without a
    ///   limit, a server whose machine is gone is noticed after two minutes at best.)
    pub fn answer_timeout(mut self, time: Option<Duration>) -> Self {
        self.answer_timeout = time;
        self
    }

    /// Whether the client makes another connection when one is lost; yes by default. If not, it ends with
    /// its first connection.
    pub fn reconnect(mut self, yes: bool) -> Self {
        self.reconnect = yes;
        self
    }

    /// The first and the longest wait between two rounds of attempts; 50 ms and 5 s by default. The wait
    /// doubles from the one to the other. Of each, a random part between half and all is waited, so that
    /// many clients do not come at once.
    pub fn reconnect_delays(mut self, first: Duration, longest: Duration) -> Self {
        self.delays = (first, longest);
        self
    }

    /// Calls this with whatever becomes of the connection, for a log or a status line.
    ///
    /// It is called by the task that drives the connection at that time, so it must not block. A
    /// [`Client`] that is kept in it would keep itself for ever.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// use keywire::ConnectionState;
    ///
    /// let client = Client::builder()
    ///     .address(address)
    ///     .on_connection(|state| match state {
    ///         ConnectionState::Connected { address } => println!("connected to {address}"),
    ///         ConnectionState::Lost { error } => println!("connection lost: {error}"),
    ///         other => println!("{other:?}"),
    ///     })
    ///     .connect()
    ///     .await?;
    /// # drop(client);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_connection(mut self, observer: impl FnMut(ConnectionState) + Send + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// The clock of all waits and time limits; async-io's by default. (A [`Walk`](crate::Walk) that nobody
    /// polls is given up by async-io's timers, whatever the clock.)
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    // For the simulation in tests/, which chooses the waits.
    #[doc(hidden)]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Connects, and waits until the server has answered. Each address is tried once.
    ///
    /// Cancel safety: if the call is dropped, no connection is left.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] if there is no address, or none can be reached; [`Error::Refused`] if the server
    /// refuses the secret, or has no place for one more client; [`Error::Disconnected`] or
    /// [`Error::Protocol`] if what answers is no keywire server, or does not answer in time. The last two may
    /// stand in [`Error::NotSent`].
    pub async fn connect(self) -> Result<Client, Error> {
        let retry = match self.reconnect {
            true => Retry::AfterFirst,
            false => Retry::Never,
        };
        let client = self.with(retry);
        // The attempts have time limits of their own.
        let options = CallOptions::default();
        client.link.request(Request::Sync, options).await?;
        Ok(client)
    }

    /// A client without a connection: the first call makes it, and waits for it. With
    /// [`reconnect`](Self::reconnect), which is the default, the server need not be there yet. Without,
    /// the first call fails if no address can be reached, and so does every later one.
    ///
    /// ```
    /// use keywire::{Client, Error};
    /// use std::time::Duration;
    ///
    /// # futures_lite::future::block_on(async {
    /// let client = Client::builder()
    ///     .address("127.0.0.1:1") // nobody is there
    ///     .answer_timeout(Some(Duration::from_millis(100)))
    ///     .build();
    /// let error = client.put("user", "alice").await.unwrap_err();
    /// assert!(matches!(error, Error::NotSent(_)), "{error}");
    /// # });
    /// ```
    pub fn build(self) -> Client {
        let retry = match self.reconnect {
            true => Retry::Always,
            false => Retry::Never,
        };
        self.with(retry)
    }

    fn with(self, retry: Retry) -> Client {
        let jitter = Jitter::new(self.seed);
        let attempts = Attempts::new(self.targets.len(), self.delays, jitter);
        let connector = Connector {
            targets: self.targets,
            timeout: self.connect_timeout,
            clock: self.clock,
            #[cfg(feature = "tls")]
            tls: self.tls.map(|config| super::tls::TlsOptions {
                config,
                name: self.tls_name,
            }),
        };
        let reconnection = Reconnection {
            connector,
            attempts,
            secret: self.secret,
            retry,
            silence: self.answer_timeout,
            observer: self.observer,
            greeted: None,
        };
        let mut client = Client::over(ServerLink::reconnecting(reconnection));
        client.options.timeout = self.answer_timeout;
        client
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("addresses", &self.targets.len())
            .field("connect_timeout", &self.connect_timeout)
            .field("answer_timeout", &self.answer_timeout)
            .field("reconnect", &self.reconnect)
            .finish_non_exhaustive()
    }
}
