//! Doors: where clients come in.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_io::Async;
use futures_lite::{AsyncRead, AsyncWrite};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::{control::Control, journal};
use crate::{Error, clock};

/// How long an accept loop waits after an error, such as having no file descriptor left. Long
/// enough to cost nothing, short enough that nobody in the backlog gives up.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// How long a TCP peer may be silent before the system asks for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Of the sockets of servers and clients.
pub(crate) fn keepalive() -> TcpKeepalive {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    // With what Linux takes by itself, a dead peer would be found out after 11 minutes.
    #[cfg(target_os = "linux")]
    let keepalive = keepalive
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    keepalive
}

/// Where clients come from.
///
/// [`async_net::TcpListener`] and [`async_net::unix::UnixListener`] are listeners. Anything else
/// that brings connections can be one too; so can something around one of these, to see its errors
/// or to choose whom to let in. (The file of a Unix socket stays behind when its listener goes;
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

    /// Waits for the next connection, and says which address it comes from, if it has one. The
    /// limit of clients an address goes by it.
    ///
    /// An error is counted in [`Stats::accept_errors`](crate::Stats). The server waits 50
    /// milliseconds and calls again: running out of descriptors passes. The future may be dropped
    /// before it is ready; a connection must not be lost with it.
    fn accept(
        &mut self,
    ) -> impl Future<Output = io::Result<(Self::Connection, Option<IpAddr>)>> + Send;
}

impl Listener for async_net::TcpListener {
    type Connection = async_net::TcpStream;

    async fn accept(&mut self) -> io::Result<(Self::Connection, Option<IpAddr>)> {
        let (stream, address) = async_net::TcpListener::accept(self).await?;
        // Replies are sent whole, so there is nothing for Nagle's algorithm to wait for. A
        // connection that is already dead refuses; its session will find out.
        let _ = stream.set_nodelay(true);
        Ok((stream, Some(address.ip())))
    }
}

#[cfg(unix)]
impl Listener for async_net::unix::UnixListener {
    type Connection = async_net::unix::UnixStream;

    async fn accept(&mut self) -> io::Result<(Self::Connection, Option<IpAddr>)> {
        let (stream, _) = async_net::unix::UnixListener::accept(self).await?;
        Ok((stream, None))
    }
}

/// Listens on a TCP address, with a backlog as large as the system allows.
///
/// The backlog is what this function is for: std's listener takes 128 connections that nobody has
/// accepted yet, and in a burst the next ones wait a second for their SYN to be sent again. Any
/// other [`async_net::TcpListener`] will do as well. Port 0 is any free port. The address `[::]`
/// is all interfaces, for IPv4 too if the system can.
///
/// ```
/// let listener = keywire::bind(([127, 0, 0, 1], 0).into())?;
/// assert_ne!(listener.local_addr().unwrap().port(), 0);
/// # Ok::<(), keywire::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Listen`] with the system's reason, such as an address in use.
pub fn bind(address: SocketAddr) -> Result<async_net::TcpListener, Error> {
    let listen = || {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        // Windows would let two servers share the port.
        #[cfg(not(windows))]
        socket.set_reuse_address(true)?;
        // Connections have it from their listener, so it costs no call for each.
        socket.set_tcp_keepalive(&keepalive())?;
        if address.ip() == Ipv6Addr::UNSPECIFIED {
            // Systems differ in what they take by themselves. One that can't has no such option.
            let _ = socket.set_only_v6(false);
        }
        socket.bind(&address.into())?;
        // The system cuts it to its own maximum.
        socket.listen(i32::MAX)?;
        Async::new(std::net::TcpListener::from(socket))
    };
    listen().map(Into::into).map_err(Error::Listen)
}

/// Brings connections to the coordinator until the server stops listening.
pub(super) async fn accept_loop<L: Listener>(mut listener: L, control: Arc<Control>) {
    loop {
        match listener.accept().await {
            Ok((connection, address)) => {
                if control.take_in(connection, address).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                journal::door_failed(&error);
                control.count_accept_error();
                clock::sleep(&*control.clock, ACCEPT_RETRY).await;
            }
        }
    }
}
