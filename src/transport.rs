//! What carries the bytes of servers and clients, and the options of their TCP sockets.

pub(crate) mod pipe;

use std::{io, net::SocketAddr, time::Duration};

use async_net::TcpStream;
use futures_lite::{AsyncRead, AsyncWrite};
use socket2::{SockRef, TcpKeepalive};

/// Anything that carries bytes both ways.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// How long a TCP peer may be silent before the system asks for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Of the sockets of servers and clients.
pub(crate) fn keepalive() -> TcpKeepalive {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    // With Linux's defaults, a dead peer would be found only after 12 minutes.
    #[cfg(target_os = "linux")]
    let keepalive = keepalive
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    keepalive
}

/// Connects a client.
pub(crate) async fn connect_tcp(addresses: &[SocketAddr]) -> io::Result<Box<dyn Transport>> {
    if addresses.is_empty() {
        let message = "there is no address to connect to";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let stream = TcpStream::connect(addresses).await?;
    // A command is written whole; holding it back would only delay it.
    stream.set_nodelay(true)?;
    // Nothing else shows a client that waits that the server's machine is gone.
    SockRef::from(&stream).set_tcp_keepalive(&keepalive())?;
    Ok(Box::new(stream))
}
