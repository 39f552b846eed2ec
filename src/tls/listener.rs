//! Connections of another listener → TLS streams, of which a bounded number is in its handshake.

use std::{fmt, io, net::IpAddr, sync::Arc, time::Duration};

use async_channel::{Receiver, Sender};
use futures_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::TlsStream;
#[cfg(doc)]
use super::server_config;
use crate::Listener;

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
pub(super) struct HandshakePermit(Receiver<()>);

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
