//! A client's TCP connection.

use std::{io, net::SocketAddr};

use async_net::TcpStream;
use socket2::SockRef;

use super::{Transport, keepalive};

/// Tries the addresses in turn.
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
