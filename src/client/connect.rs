//! A client's connection: made, authenticated, made anew, and ended.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_net::AsyncToSocketAddrs;
use futures_lite::{AsyncRead, AsyncWrite};

use super::{Client, SharedClient, link::ServerLink, validate};
use crate::{
    Error, Secret,
    lock::Lock,
    transport::{Transport, connect::connect_tcp},
};

/// The connection.
impl Client {
    /// Connects over TCP. Names are resolved once. If there are several addresses, they are tried in
    /// turn, each for as long as the system does; there is no time limit here, so race it with a timer
    /// if you need one.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// use std::time::Duration;
    ///
    /// let timeout = async {
    ///     async_io::Timer::after(Duration::from_secs(5)).await;
    ///     Err(keywire::Error::TimedOut)
    /// };
    /// let client = future::or(Client::connect(address), timeout).await?;
    /// client.put("user", "alice").await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Cancel safety: if the call is dropped, no connection is left.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] if the name can't be resolved or no address answers.
    pub async fn connect(address: impl AsyncToSocketAddrs) -> Result<Self, Error> {
        let addresses = address.to_socket_addrs().await.map_err(Error::Connect)?;
        let addresses: Vec<_> = addresses.collect();
        let transport = connect_tcp(&addresses).await.map_err(Error::Connect)?;
        Ok(Self::new(transport, addresses))
    }

    /// A client over anything that carries bytes both ways, such as a Unix socket, a TLS stream or
    /// one end of a pipe. Nothing is sent before the first call.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// let stream = async_net::TcpStream::connect(address).await?;
    /// let client = Client::from_stream(stream);
    /// client.put("user", "alice").await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_stream<T>(stream: T) -> Self
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::new(Box::new(stream), Vec::new())
    }

    fn new(transport: Box<dyn Transport>, addresses: Vec<SocketAddr>) -> Self {
        Self {
            shared: Arc::new(SharedClient {
                link: Lock::new(Arc::new(ServerLink::new(transport))),
                addresses,
                secret: Lock::default(),
            }),
            timeout: None,
        }
    }

    /// A handle on the same connection whose calls fail with [`Error::TimedOut`] after this time. By
    /// default there is no limit. Other clones keep theirs.
    ///
    /// A call that has timed out is like one that was dropped: the client stays usable. If the server
    /// has gone silent for good, [`disconnect`](Self::disconnect) and [`reconnect`](Self::reconnect).
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// use std::time::Duration;
    ///
    /// let client = client.with_timeout(Duration::from_secs(5));
    /// client.put("user", "alice").await?; // fails after 5 seconds
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            shared: self.shared.clone(),
            timeout: Some(timeout),
        }
    }

    /// Sends the secret that the server wants before anything else. The client sends it again after
    /// each [`reconnect`](Self::reconnect). If the server wants none, it accepts any.
    ///
    /// The secret goes over the connection as it is: use TLS if others may listen.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// use keywire::Secret;
    ///
    /// client.authenticate(&Secret::new("correct horse battery staple")?).await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with [`Code::Unauthorized`](crate::protocol::Code::Unauthorized) if it is
    /// not the right one. A server takes two seconds to say so, one for this line and one for the
    /// fence behind it. Both are failures, of which the third ends the connection: to try another
    /// secret, [`disconnect`](Self::disconnect) and [`reconnect`](Self::reconnect) first.
    pub async fn authenticate(&self, secret: &Secret) -> Result<(), Error> {
        self.request(validate::auth(secret)).await?;
        *self.shared.secret.lock() = Some(secret.clone());
        Ok(())
    }

    /// Connects anew, for all clones, if the connection does not answer a [`sync`](Self::sync). If it
    /// does, this does nothing. Names are not resolved again. Watchers stay with the old connection.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.disconnect();
    /// client.reconnect().await?;
    /// client.put("user", "alice").await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Several callers may call it at once: one connection is kept. Cancel safety: if the call is
    /// dropped half-way, the client has no new connection.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] if the server can't be reached, or if the client was made of a stream and
    /// has no address. The errors of [`authenticate`](Self::authenticate), if that was called before.
    pub async fn reconnect(&self) -> Result<(), Error> {
        let link = self.link();
        // While nobody waits for anything, a connection may have ended unnoticed.
        if link.error().is_none() && self.sync().await.is_ok() {
            return Ok(());
        }
        link.end();
        let secret = self.shared.secret.lock().clone();
        let connect = async {
            let transport = connect_tcp(&self.shared.addresses).await;
            let link = ServerLink::new(transport.map_err(Error::Connect)?);
            if let Some(secret) = secret {
                link.request(validate::auth(&secret)).await?;
            }
            Ok(Arc::new(link))
        };
        let link = self.with_deadline(connect).await?;
        let mut current = self.shared.link.lock();
        if current.error().is_some() {
            let old = std::mem::replace(&mut *current, link);
            drop(current);
            drop(old);
        }
        Ok(())
    }

    /// Ends the connection now, for all clones: every call that waits fails with
    /// [`Error::Disconnected`].
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.disconnect();
    /// let error = client.put("user", "alice").await.unwrap_err();
    /// assert!(error.is_disconnected());
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disconnect(&self) {
        self.link().end();
    }
}
