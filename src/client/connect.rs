//! A client over one connection: made, authenticated, and closed.

use std::{sync::Arc, time::Duration};

use async_net::AsyncToSocketAddrs;
use futures_lite::{AsyncRead, AsyncWrite};

use super::{
    Client,
    link::{CallOptions, ServerLink},
    validate,
};
use crate::{Error, Secret, transport::connect::connect_tcp};

/// The connection.
impl Client {
    /// Connects over TCP. If there are several addresses, they are tried in turn, each for as long as the
    /// system does; there is no time limit here. The client has this one connection. For a time limit,
    /// and for a client that comes back when its connection is lost, see [`builder`](Self::builder).
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// let client = Client::connect(address).await?;
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
        let addresses = async_net::resolve(address).await;
        let addresses = addresses.map_err(Error::Connect)?;
        let transport = connect_tcp(&addresses).await.map_err(Error::Connect)?;
        Ok(Self::over(ServerLink::over(transport)))
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
        Self::over(ServerLink::over(Box::new(stream)))
    }

    pub(super) fn over(link: ServerLink) -> Self {
        Self {
            link: Arc::new(link),
            options: CallOptions::default(),
        }
    }

    /// A handle on the same connection whose calls fail with [`Error::TimedOut`] after this time; or with
    /// [`Error::NotSent`], if they were not sent by then. By default there is no limit, unless a
    /// [builder](crate::ClientBuilder::answer_timeout) made the client. Other clones keep theirs.
    ///
    /// A call that has timed out is like one that was dropped: the client stays usable.
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
        let mut client = self.clone();
        client.options.timeout = Some(timeout);
        client
    }

    /// A handle on the same connection that may send a write **twice**. If the client
    /// [comes back](crate::ClientBuilder#a-client-that-comes-back) and a connection is lost while such a
    /// write is under way, it is sent again, and its caller need not deal with
    /// [writes in doubt](Error::may_be_applied).
    ///
    /// Then a `put` may append its value twice, an `update` may append where it should replace, and a
    /// `remove` may remove two values. A `set` or a `delete` that is applied twice leaves what it leaves
    /// if it is applied once, so they are safe as long as no other client writes to the same key: a
    /// write of theirs in between would be undone.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::builder().address(address).connect().await?;
    /// let repeating = client.with_repeated_writes();
    /// repeating.set("status", "up").await?; // whatever happens to the connection
    /// client.put("log", "started").await?; // never twice
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_repeated_writes(&self) -> Self {
        let mut client = self.clone();
        client.options.repeats_writes = true;
        client
    }

    /// Sends the secret that the server wants before anything else. If the server wants none, it accepts
    /// any. A client that comes back takes its secret from its
    /// [builder](crate::ClientBuilder::secret) instead.
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
    /// fence behind it. Both are failures, of which the third ends the connection: try another secret on
    /// another connection.
    pub async fn authenticate(&self, secret: &Secret) -> Result<(), Error> {
        self.request(validate::auth(secret)).await?;
        Ok(())
    }

    /// Ends the connection now, for all clones, and for good: every call that waits fails with
    /// [`Error::Disconnected`], or with [`Error::NotSent`] if it was not sent; every later call fails
    /// so; watchers end; and no other connection is made.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.close();
    /// let error = client.put("user", "alice").await.unwrap_err();
    /// assert!(error.is_disconnected());
    /// assert!(!error.may_be_applied()); // it was not sent
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self) {
        self.link.end();
    }
}
