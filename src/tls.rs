//! TLS: a door around another door. Needs the feature `tls`.
//!
//! [`TlsListener`] takes connections from any [`Listener`] and makes TLS streams of them.
//! [`server_config`] and [`client_config`] make what rustls needs out of [`Pem`] files. The
//! cryptography is ring's, always: what else the program chose for rustls makes no difference.
//!
//! ```no_run
//! use keywire::tls::{Pem, TlsListener, server_config};
//!
//! let (certificate, key) = (Pem::from_file("cert.pem")?, Pem::from_file("key.pem")?);
//! let config = server_config(&certificate, &key, None)?;
//! let mut server = keywire::Server::new();
//! let listener = keywire::bind(([127, 0, 0, 1], 9999).into())?;
//! server.listen(TlsListener::new(listener, config));
//! # Ok::<(), keywire::Error>(())
//! ```
//!
//! And a client:
//!
//! ```no_run
//! use futures_lite::future;
//! use keywire::{Client, Error, tls};
//!
//! # future::block_on(async {
//! let config = tls::client_config(&tls::Pem::from_file("ca.pem")?, None)?;
//! let stream = async_net::TcpStream::connect("localhost:9999").await.map_err(Error::Connect)?;
//! let name = "localhost".try_into().unwrap();
//! let stream = tls::TlsConnector::from(config).connect(name, stream).await;
//! let client = Client::from_stream(stream.map_err(Error::Connect)?);
//! client.put("user", "alice").await?;
//! # Ok::<(), Error>(())
//! # }).unwrap();
//! ```
//!
//! # The handshake
//!
//! It is done by the client's own session, not at the door, so a slow one delays nobody. A client
//! in its handshake is a client like any other: it counts as active, and as dropped when it goes.
//! A handshake that takes longer than the [handshake time](TlsListener::handshake_timeout) ends the
//! connection. While [as many as may be](TlsListener::max_handshakes) are under way, the next
//! connections wait in the system's backlog.
//!
//! A client whose first byte is text, and so speaks no TLS, is told so in a line that it can read,
//! `:error:0:malformed:this port speaks TLS`, and nothing that it sends is applied.
//!
//! # The end of the input
//!
//! TLS can tell the end of what a client has to say from a connection that broke: the client says
//! `close_notify` first. A server here takes an end of input without it for an end like any other,
//! and still sends all replies. Many clients leave it out, and nothing is won by refusing them:
//! commands are whole lines, and were applied when they came; a line that was cut off is not.
//!
//! The other way it matters, so the server always says `close_notify` behind the last reply. A
//! client that did not get it knows that something may be missing, be it that the connection broke,
//! that the server cut it off, or that [`Server::run`](crate::Server::run) was dropped.
//!
//! # A client that does not read
//!
//! Bytes that TLS has encrypted and the socket has not taken are at most one record, 16 KiB. So
//! a socket counts as refusing bytes here when it has not taken the rest of a record for the
//! [stall time](crate::Builder::stall_timeout).

mod pem;
mod slots;
mod stream;

use std::{fmt, io, net::IpAddr, sync::Arc, time::Duration};

pub use futures_rustls::{self, TlsConnector, rustls};
pub use pem::{Pem, client_config, server_config};
pub use stream::TlsStream;

use crate::Listener;
use futures_rustls::TlsAcceptor;
use rustls::ServerConfig;
use slots::Slots;

/// More than a processor can compute within a usual round trip, so honest clients never wait for
/// a place, only for the processor. And what they hold together stays small: a handshake message
/// may have 64 KiB, so it is 16 MiB at most.
const MAX_HANDSHAKES: usize = 256;

/// Long enough for a bad mobile connection, short enough that those who stall give their places
/// up while others still wait in the backlog.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// A [`Listener`] that speaks TLS on the connections of another one.
///
/// ```no_run
/// use keywire::tls::{Pem, TlsListener, server_config};
/// use std::time::Duration;
///
/// let (certificate, key) = (Pem::from_file("cert.pem")?, Pem::from_file("key.pem")?);
/// // Only clients with a certificate that this authority vouches for.
/// let config = server_config(&certificate, &key, Some(&Pem::from_file("clients.pem")?))?;
/// let listener = TlsListener::new(keywire::bind(([127, 0, 0, 1], 9999).into())?, config)
///     .max_handshakes(64)
///     .handshake_timeout(Duration::from_secs(5));
/// # drop(listener);
/// # Ok::<(), keywire::Error>(())
/// ```
///
/// Whatever [`Listener::accept`] of the other one fails with, this one fails with. A handshake that
/// fails is no failure of the door: it is the [`TlsStream`] that fails, and its client is gone.
pub struct TlsListener<L> {
    inner: L,
    acceptor: TlsAcceptor,
    slots: Arc<Slots>,
    handshake_timeout: Duration,
}

impl<L: Listener> TlsListener<L> {
    /// Speaks TLS as this configuration says: one of [`server_config`], or one's own.
    pub fn new(listener: L, config: Arc<ServerConfig>) -> Self {
        Self {
            inner: listener,
            acceptor: config.into(),
            slots: Slots::new(MAX_HANDSHAKES),
            handshake_timeout: HANDSHAKE_TIME,
        }
    }

    /// Handshakes that may be under way at a time; 256 unless set. At least 1.
    ///
    /// While there are so many, this door takes no more connections; they wait in the system's
    /// backlog until a handshake is done, fails or is over its time. It bounds the memory that
    /// clients can hold who have not shown yet that they speak TLS, and for how long the clients of
    /// a server wait where very many come at once: a handshake takes 0.1 to 1 ms of a processor.
    #[must_use]
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.slots = Slots::new(handshakes.max(1));
        self
    }

    /// How long a handshake may take, from the time the connection is accepted; 10 seconds unless
    /// set. One that is late ends the connection.
    ///
    /// The time is async-io's, whatever [clock](crate::Builder::clock) the server goes by.
    #[must_use]
    pub fn handshake_timeout(mut self, time: Duration) -> Self {
        self.handshake_timeout = time;
        self
    }
}

impl<L: Listener> Listener for TlsListener<L> {
    type Connection = TlsStream<L::Connection>;

    // What is awaited last is the other listener, which loses no connection where this is dropped.
    async fn accept(&mut self) -> io::Result<(Self::Connection, Option<IpAddr>)> {
        let slot = self.slots.take().await;
        let (connection, address) = self.inner.accept().await?;
        let acceptor = self.acceptor.clone();
        let stream = TlsStream::new(connection, acceptor, self.handshake_timeout, slot);
        Ok((stream, address))
    }
}

impl<L: fmt::Debug> fmt::Debug for TlsListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListener")
            .field("inner", &self.inner)
            .field("free_handshakes", &self.slots.free())
            .field("handshake_timeout", &self.handshake_timeout)
            .finish_non_exhaustive()
    }
}
