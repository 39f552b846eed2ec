//! The commands: each is one request.

use super::{
    Client,
    call::{Request, Response},
    invalid_argument, validate,
};
use crate::{Error, Stats};

/// Commands.
impl Client {
    /// Appends `value` to the key's list. `Ok` means that it is applied.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.put("user", "alice").await?;
    /// client.put("user", "bob").await?;
    /// assert_eq!(client.get("user").await?, [&b"alice"[..], b"bob"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// See [above](Client#what-a-response-guarantees); so for the calls below.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.write(validate::put(key.as_ref(), value.as_ref()))
            .await
    }

    /// Reads the key's list: all values, oldest first; an empty list if the key has none.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// assert!(client.get("user").await?.is_empty());
    /// client.put("user", "alice").await?;
    /// assert_eq!(client.get("user").await?, [b"alice"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Vec<Vec<u8>>, Error> {
        let get = validate::get(key.as_ref()).map_err(invalid_argument)?;
        match self.request(get).await? {
            Response::Values(values) => Ok(values),
            _ => Ok(Vec::new()),
        }
    }

    /// Reads the key's first value, the oldest; `None` if the key has none.
    ///
    /// It is [`get`](Self::get) without the other values: the whole list still goes over the
    /// connection. So it is for keys that have one value, such as those that are only ever
    /// [`set`](Self::set).
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// assert_eq!(client.get_first("user").await?, None);
    /// client.set("user", "alice").await?;
    /// assert_eq!(client.get_first("user").await?, Some(b"alice".to_vec()));
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn get_first(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.get(key).await?.into_iter().next())
    }

    /// Removes the key and all its values. `Ok` means that it is applied, also if the key had none.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.put("user", "alice").await?;
    /// client.delete("user").await?;
    /// assert!(client.get("user").await?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), Error> {
        self.write(validate::delete(key.as_ref())).await
    }

    /// Replaces the first value equal to `old` by `new`, in place; appends `new` if there is none. `Ok`
    /// means that it is applied.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.put("user", "alice").await?;
    /// client.put("user", "bob").await?;
    /// client.update("user", "alice", "carol").await?;
    /// assert_eq!(client.get("user").await?, [&b"carol"[..], b"bob"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn update(
        &self,
        key: impl AsRef<[u8]>,
        old: impl AsRef<[u8]>,
        new: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        let update = validate::update(key.as_ref(), old.as_ref(), new.as_ref());
        self.write(update).await
    }

    /// Makes `value` the key's only one, in one step: no read finds the key without values meanwhile.
    /// `Ok` means that it is applied.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.put("user", "alice").await?;
    /// client.put("user", "bob").await?;
    /// client.set("user", "carol").await?;
    /// assert_eq!(client.get("user").await?, [b"carol"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.write(validate::set(key.as_ref(), value.as_ref()))
            .await
    }

    /// Removes the first value equal to `value`. A key without values is gone. `Ok` means that it is
    /// applied, also if there was no such value.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.put("user", "alice").await?;
    /// client.put("user", "bob").await?;
    /// client.remove("user", "alice").await?;
    /// assert_eq!(client.get("user").await?, [b"bob"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn remove(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        self.write(validate::remove(key.as_ref(), value.as_ref()))
            .await
    }

    /// A fence: when it returns, everything that was sent on this connection before is applied.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.sync().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn sync(&self) -> Result<(), Error> {
        self.write(Ok(Request::Sync)).await
    }

    /// Reads the server's counters.
    ///
    /// ```
    /// # use {futures_lite::future, keywire::Client};
    /// # let mut server = keywire::Server::new();
    /// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
    /// # let address = listener.local_addr()?;
    /// # server.listen(listener);
    /// # let example = async {
    /// # let client = Client::connect(address).await?;
    /// client.put("user", "alice").await?;
    /// let stats = client.stats().await?;
    /// assert_eq!((stats.active, stats.puts), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(()) };
    /// # let server = async { server.run().await; Ok(()) };
    /// # future::block_on(future::or(example, server)).unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn stats(&self) -> Result<Stats, Error> {
        match self.request(Request::Stats).await? {
            Response::Stats(stats) => Ok(*stats),
            _ => Err(Error::Protocol("no counters")),
        }
    }

    async fn write(&self, request: Result<Request, &'static str>) -> Result<(), Error> {
        self.request(request.map_err(invalid_argument)?).await?;
        Ok(())
    }
}
