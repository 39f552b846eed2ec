//! TCP: the listener, and the options of its sockets.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use async_io::Async;
use async_net::AsyncToSocketAddrs;
use socket2::{Domain, Protocol, Socket, Type};

use super::Listener;
use crate::{Error, transport::keepalive};

impl Listener for async_net::TcpListener {
    type Connection = async_net::TcpStream;

    async fn accept(&mut self) -> io::Result<(Self::Connection, Option<IpAddr>)> {
        let (stream, address) = async_net::TcpListener::accept(self).await?;
        // Replies are sent whole, so there is nothing for Nagle's algorithm to wait for. A
        // connection that is already dead refuses; its task will find out.
        let _ = stream.set_nodelay(true);
        Ok((stream, Some(address.ip())))
    }
}

/// Listens on a TCP address, with a backlog as large as the system allows.
///
/// The backlog is what this function is for: std's listener takes 128 connections that nobody has
/// accepted yet, and in a burst the next ones wait a second for their SYN to be sent again. Any
/// other [`async_net::TcpListener`] will do as well.
///
/// The address is whatever [`AsyncToSocketAddrs`] takes, such as `"localhost:9999"`, `("::1", 9999)` or
/// a [`SocketAddr`]. Port 0 is any free port. `[::]` is all interfaces, for IPv4 too if the system can.
/// If a name has several addresses, they are tried in turn, and the first that can be had is the one.
///
/// ```
/// # futures_lite::future::block_on(async {
/// let listener = keywire::bind("127.0.0.1:0").await?;
/// assert_ne!(listener.local_addr()?.port(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
///
/// It is ready at once, but for a name that has to be resolved: a thread of the crate `blocking` does
/// that. So it needs no particular executor, and a program that has none yet may block on it, as
/// with `futures_lite::future::block_on`.
///
/// Cancel safety: if it is dropped before it is ready, nothing is bound.
///
/// # Errors
///
/// [`Error::Listen`] with the system's reason, such as a name that is unknown, or an address in use. If
/// there are several addresses, it is the reason of the last.
pub async fn bind(address: impl AsyncToSocketAddrs) -> Result<async_net::TcpListener, Error> {
    let addresses = async_net::resolve(address).await.map_err(Error::Listen)?;
    let message = "there is no address to listen on";
    let mut reason = io::Error::new(io::ErrorKind::InvalidInput, message);
    for address in addresses {
        match listen(address) {
            Ok(listener) => return Ok(listener.into()),
            Err(error) => reason = error,
        }
    }
    Err(Error::Listen(reason))
}

fn listen(address: SocketAddr) -> io::Result<Async<std::net::TcpListener>> {
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
}
