//! TLS: a listener around another listener. Needs the feature `tls`.
//!
//! [`TlsListener`] takes connections from any [`Listener`] and makes TLS streams of them.
//! [`server_config`] and [`client_config`] make what rustls needs out of [`Pem`] files. The
//! cryptography is ring's, always: what else the program chose for rustls makes no difference.
//!
//! ```no_run
//! use keywire::tls::{Pem, TlsListener, server_config};
//!
//! # futures_lite::future::block_on(async {
//! let (certificate, key) = (Pem::from_file("cert.pem")?, Pem::from_file("key.pem")?);
//! let config = server_config(&certificate, &key, None)?;
//! let listener = TlsListener::new(keywire::bind("localhost:9999").await?, config);
//! let server = keywire::Server::builder().listen(listener).build();
//! # drop(server);
//! # Ok::<(), keywire::Error>(())
//! # }).unwrap();
//! ```
//!
//! And a client:
//!
//! ```no_run
//! use keywire::{Client, tls};
//!
//! # futures_lite::future::block_on(async {
//! let config = tls::client_config(&tls::Pem::from_file("ca.pem")?, None)?;
//! let client = Client::builder().address("localhost:9999").tls(config).connect().await?;
//! client.put("user", "alice").await?;
//! # Ok::<(), keywire::Error>(())
//! # }).unwrap();
//! ```
//!
//! # The handshake
//!
//! The client's own connection task does the handshake, not the listener, so a slow handshake delays
//! nobody. A client in its handshake is a client like any other: it counts as active, and as dropped
//! when it goes. A handshake that takes longer than the
//! [handshake timeout](TlsListener::handshake_timeout) ends the connection. While
//! [the most that may be](TlsListener::max_handshakes) are under way, the next connections wait in the
//! system's backlog.
//!
//! A client whose first byte is text speaks no TLS. It gets a line that it can read,
//! `:error:0:malformed:this port speaks TLS`, and nothing that it sends is applied.
//!
//! # The end of the input
//!
//! TLS distinguishes the end of a client's input from a connection that broke: the client sends
//! `close_notify` first. This server takes an end of input without it for an end like any other,
//! and still sends all replies. Many clients leave it out, and nothing is won by refusing them:
//! commands are whole lines, and were applied when they came; a line that was cut off is not.
//!
//! In the other direction it matters, so the server always sends `close_notify` behind the last
//! reply. If a client did not get it, replies may be missing: the connection broke, the server cut it
//! off, or [`Server::run`](crate::Server::run) was dropped.
//!
//! # A client that does not read
//!
//! Bytes that TLS has encrypted and the socket has not taken are at most one record, 16 KiB. So
//! a socket counts as refusing bytes here when it has not taken the rest of a record for the
//! [stall time](crate::Builder::stall_timeout).

mod pem;
mod stream;

use std::{fmt, io, net::IpAddr, sync::Arc, time::Duration};

use async_channel::{Receiver, Sender};
use futures_rustls::TlsAcceptor;
use rustls::ServerConfig;

use crate::Listener;

pub use futures_rustls::{self, TlsConnector, rustls};
pub use pem::{Pem, client_config, server_config};
pub use stream::TlsStream;

/// More than a processor can compute within a usual round trip, so honest clients never wait for
/// a permit, only for the processor. The memory of all stays small: a handshake message may have
/// 64 KiB, so it is 16 MiB at most.
const MAX_HANDSHAKES: usize = 256;

/// What [`TlsListener::max_handshakes`] is bounded by. The channel takes 8 bytes for each.
const MOST_HANDSHAKES: usize = 1 << 16;

/// Long enough for a bad mobile connection, short enough that clients that stall give up their
/// permits while others still wait in the backlog.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A [`Listener`] that speaks TLS on the connections of another one.
///
/// ```no_run
/// use keywire::tls::{Pem, TlsListener, server_config};
/// use std::time::Duration;
///
/// # futures_lite::future::block_on(async {
/// let (certificate, key) = (Pem::from_file("cert.pem")?, Pem::from_file("key.pem")?);
/// // Only clients with a certificate that this authority vouches for.
/// let config = server_config(&certificate, &key, Some(&Pem::from_file("clients.pem")?))?;
/// let listener = TlsListener::new(keywire::bind("localhost:9999").await?, config)
///     .max_handshakes(64)
///     .handshake_timeout(Duration::from_secs(5));
/// # drop(listener);
/// # Ok::<(), keywire::Error>(())
/// # }).unwrap();
/// ```
///
/// If [`Listener::accept`] of the other listener fails, this one fails with the same error. A handshake that
/// fails is no failure of the listener: it is the [`TlsStream`] that fails, and its client is gone.
pub struct TlsListener<L> {
    inner: L,
    acceptor: TlsAcceptor,
    /// Holds one message for each handshake under way.
    handshakes: Sender<()>,
    finished: Receiver<()>,
    handshake_timeout: Duration,
}

impl<L: Listener> TlsListener<L> {
    /// Speaks TLS as this configuration says: one of [`server_config`], or one's own.
    pub fn new(listener: L, config: Arc<ServerConfig>) -> Self {
        let (handshakes, finished) = async_channel::bounded(MAX_HANDSHAKES);
        Self {
            inner: listener,
            acceptor: config.into(),
            handshakes,
            finished,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }

    /// Handshakes that may be under way at a time; 256 by default. The bounds are 1 and 65,536.
    ///
    /// While there are so many, this listener accepts no more connections; they wait in the system's
    /// backlog until a handshake is done, fails or times out. It bounds the memory that clients can
    /// hold before they have shown that they speak TLS. It also bounds how long clients wait if very
    /// many connect at once: a handshake takes 0.1 to 1 ms of a processor.
    #[must_use]
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        let handshakes = handshakes.clamp(1, MOST_HANDSHAKES);
        (self.handshakes, self.finished) = async_channel::bounded(handshakes);
        self
    }

    /// How long a handshake may take, from the time the connection is accepted; 10 seconds by
    /// default. A handshake that takes longer ends the connection.
    ///
    /// The time is async-io's, whatever [clock](crate::Builder::clock) the server uses.
    #[must_use]
    pub fn handshake_timeout(mut self, time: Duration) -> Self {
        self.handshake_timeout = time;
        self
    }
}

impl<L: Listener> Listener for TlsListener<L> {
    type Connection = TlsStream<L::Connection>;

    // The other listener is awaited last. It loses no connection if this is dropped.
    async fn accept(&mut self) -> io::Result<(Self::Connection, Option<IpAddr>)> {
        // It does not fail: the other end is here.
        let _ = self.handshakes.send(()).await;
        let permit = HandshakePermit(self.finished.clone());
        let (connection, address) = self.inner.accept().await?;
        let acceptor = self.acceptor.clone();
        let stream = TlsStream::new(connection, acceptor, self.handshake_timeout, permit);
        Ok((stream, address))
    }
}

/// One handshake under way. Dropping it lets the next connection in.
struct HandshakePermit(Receiver<()>);

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        // Its own message is one of those in the channel.
        let _ = self.0.try_recv();
    }
}

impl<L: fmt::Debug> fmt::Debug for TlsListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListener")
            .field("inner", &self.inner)
            .field("handshakes", &self.finished.len())
            .field("handshake_timeout", &self.handshake_timeout)
            .finish_non_exhaustive()
    }
}
