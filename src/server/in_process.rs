//! A client in the process of its server.

use super::Handle;
#[cfg(doc)]
use super::{Builder, Server};
#[cfg(doc)]
use crate::Stats;
use crate::{Client, Error, listen::incoming::Incoming, transport::pipe::Pipe};

/// A client without a socket.
impl Handle {
    /// A client of this server, in the same process, without a socket: the program that embeds the
    /// server reads, writes and watches by the API that every client has.
    ///
    /// ```
    /// use futures_lite::{StreamExt, future};
    /// use keywire::{Error, Event, Server};
    ///
    /// let server = Server::new();
    /// let handle = server.handle();
    /// let work = async {
    ///     let client = handle.client().await?;
    ///     let mut changes = client.watch("user").await?;
    ///     client.put("user", "alice").await?;
    ///     assert_eq!(client.get("user").await?, [b"alice"]);
    ///     let event = changes.next().await.transpose()?;
    ///     assert!(matches!(event, Some(Event::Put { value, .. }) if value == b"alice"));
    ///     Ok::<(), Error>(())
    /// };
    /// // The server is dropped as soon as the work is done.
    /// let serve = async { server.run().await; Ok(()) };
    /// future::block_on(future::or(work, serve))?;
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// It is a client like any other. It sees the same history, counts in [`Stats`], and is under the
    /// same limits, the [idle timeout](Builder::idle_timeout), the
    /// [line timeout](Builder::line_timeout) and the [line rate](Builder::max_line_rate) among them. One
    /// more than [`max_clients`](Builder::max_clients) is rejected: its first call fails with
    /// [`Error::Refused`] and the code `full`. If the program does not read its events and replies, it
    /// is a slow client. Two things are different: it needs no [secret](Builder::secret), and it has
    /// no address, so [`max_clients_per_address`](Builder::max_clients_per_address) does not count it.
    ///
    /// The bytes go through memory, at most 64 KiB at a time in each direction. Only the tasks that
    /// await the client's calls and [`Server::run`] move them: there is no timer, no thread and no
    /// system call.
    ///
    /// - Before the run, the client can be made already, and its calls wait until the server runs. It
    ///   takes a place in the queue of [`attach`](Self::attach), which holds 64: do not await the 65th in
    ///   the task that would run the server afterwards. Clones of a client share its connection, and so
    ///   its place.
    /// - At shutdown, calls under way are answered, or fail with [`Error::Refused`] or
    ///   [`Error::Unconfirmed`] and the code `closing`, as for every client.
    /// - When the server is gone, or its run is dropped, calls and watchers fail with
    ///   [`Error::Disconnected`], unless the server said `closing` before.
    /// - It has this one connection. When that has ended, ask the handle for a new client.
    ///
    /// Dropping the last clone of the client, and its last watcher, ends its connection. What it had sent
    /// is still applied.
    ///
    /// Cancel safety: if it is dropped before it is ready, there is no client.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] if the server is shutting down or gone.
    pub async fn client(&self) -> Result<Client, Error> {
        let (near, far) = Pipe::pair();
        let incoming = Incoming {
            transport: Box::new(far),
            peer: None,
            address: None,
            authenticated: true,
        };
        self.incoming.enqueue(incoming).await?;
        Ok(Client::from_stream(near))
    }
}
