//! Listeners → connections → coordinator.
//!
//! In: connections, from the accept loop of each listener or from a handle. Out: [`Incoming`], one a
//! connection, to the coordinator, which asks the [admission](admission) rules whether there is room.
//! A listener knows nothing of clients, lines or the store.

pub(crate) mod admission;
pub(crate) mod incoming;
pub(crate) mod tcp;

use std::{future::Future, io, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use futures_lite::{AsyncRead, AsyncWrite};

#[cfg(doc)]
use incoming::Incoming;
use incoming::IncomingSender;

use crate::{
    clock,
    shared::{log::AcceptLog, state::ServerState},
};

/// How long an accept loop waits after an error, such as having no file descriptor left. Long
/// enough to cost nothing, short enough that nobody in the backlog gives up.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Where clients come from.
///
/// [`async_net::TcpListener`] and [`async_net::unix::UnixListener`] are listeners. Anything else
/// that brings connections can be one too; so can something around one of these, to see its errors
/// or to choose which to accept. (The file of a Unix socket stays behind when its listener goes;
/// removing it is the program's.) This one brings pipes:
///
/// ```
/// use futures_lite::{AsyncRead, AsyncWrite};
/// use std::{io, net::IpAddr};
///
/// struct Pipes<T>(async_channel::Receiver<T>);
///
/// impl<T> keywire::Listener for Pipes<T>
/// where
///     T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
/// {
///     type Connection = T;
///
///     async fn accept(&mut self) -> io::Result<(T, Option<IpAddr>)> {
///         let pipe = self.0.recv().await;
///         Ok((pipe.map_err(|_| io::ErrorKind::NotConnected)?, None))
///     }
/// }
/// ```
pub trait Listener: Send + 'static {
    /// A connection: bytes in, bytes out.
    type Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Waits for the next connection, and says which address it comes from, if it has one.
    /// [`max_clients_per_address`](crate::Builder::max_clients_per_address) counts by this address.
    ///
    /// An error is counted in [`Stats::accept_errors`](crate::Stats). The server waits 50
    /// milliseconds and calls again: running out of descriptors passes. The future may be dropped
    /// before it is ready; a connection must not be lost with it.
    fn accept(
        &mut self,
    ) -> impl Future<Output = io::Result<(Self::Connection, Option<IpAddr>)>> + Send;
}

#[cfg(unix)]
impl Listener for async_net::unix::UnixListener {
    type Connection = async_net::unix::UnixStream;

    async fn accept(&mut self) -> io::Result<(Self::Connection, Option<IpAddr>)> {
        let (stream, _) = async_net::unix::UnixListener::accept(self).await?;
        Ok((stream, None))
    }
}

/// Brings the connections of one listener to the coordinator, until the server stops listening.
pub(crate) type AcceptLoop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Makes the accept loop of a listener, once there is a server.
pub(crate) type StartAcceptLoop =
    Box<dyn FnOnce(IncomingSender, Arc<ServerState>) -> AcceptLoop + Send>;

pub(crate) fn start_accept_loop(listener: impl Listener) -> StartAcceptLoop {
    Box::new(|incoming, server| Box::pin(accept_loop(listener, incoming, server)))
}

async fn accept_loop<L: Listener>(
    mut listener: L,
    incoming: IncomingSender,
    server: Arc<ServerState>,
) {
    let mut log = AcceptLog::default();
    loop {
        match listener.accept().await {
            Ok((connection, address)) => {
                if incoming.send(connection, address).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                log.failed(&error, server.clock.now());
                server.count_accept_error();
                clock::sleep(&*server.clock, ACCEPT_RETRY).await;
            }
        }
    }
}
