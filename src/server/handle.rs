//! What the rest of a program keeps of a server.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use futures_lite::{AsyncRead, AsyncWrite, future};

#[cfg(doc)]
use super::{Builder, Server};
use crate::{
    Error, Histograms, Stats,
    listen::incoming::IncomingSender,
    shared::state::{Phase, ServerState},
};

/// Reads a server's counters, brings clients in, and shuts it down. Cheap to clone.
///
/// A handle may outlive its server: counts stay readable, and [`shutdown`](Self::shutdown) returns
/// at once.
///
/// ```
/// use futures_lite::future;
/// use std::time::Duration;
///
/// let server = keywire::Server::new();
/// let handle = server.handle();
/// assert_eq!(handle.stats().active, 0);
///
/// let stop = handle.clone();
/// future::block_on(future::zip(server.run(), async move {
///     stop.shutdown(Duration::ZERO).await;
///     stop.shutdown(Duration::ZERO).await; // once more does no harm
/// }));
/// assert!(handle.is_closed());
/// assert_eq!(handle.stats().active, 0);
/// ```
#[derive(Clone)]
pub struct Handle {
    state: Arc<ServerState>,
    pub(super) incoming: IncomingSender,
}

impl Handle {
    pub(super) fn new(state: Arc<ServerState>, incoming: IncomingSender) -> Self {
        Self { state, incoming }
    }

    /// The counters. Never waits; works before, during and after the run.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state.stats()
    }

    /// The distributions: how long rounds took, how full outboxes were, and what the store has measured. Never
    /// waits; works before, during and after the run.
    ///
    /// ```
    /// use futures_lite::future;
    ///
    /// let server = keywire::Server::new();
    /// let handle = server.handle();
    /// let work = async {
    ///     let client = handle.client().await?;
    ///     client.put("user", "alice").await?;
    ///     // A round is counted when it has ended, after its replies.
    ///     client.sync().await?;
    ///     let round = handle.histograms().round;
    ///     println!("99 of 100 rounds took {:?} s at most", round.quantile(0.99));
    ///     assert!(round.count() > 0);
    ///     Ok::<(), keywire::Error>(())
    /// };
    /// let serve = async { server.run().await; Ok(()) };
    /// future::block_on(future::or(work, serve)).unwrap();
    /// ```
    #[must_use]
    pub fn histograms(&self) -> Histograms {
        self.state.histograms()
    }

    /// Whether the server ends: a shutdown was asked for, or the server is gone.
    ///
    /// ```
    /// use futures_lite::future;
    /// use std::time::Duration;
    ///
    /// let server = keywire::Server::new();
    /// let handle = server.handle();
    /// assert!(!handle.is_shutting_down());
    /// future::block_on(future::zip(server.run(), handle.shutdown(Duration::ZERO)));
    /// assert!(handle.is_shutting_down());
    /// ```
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        let status = self.state.status();
        status.stop_by.is_some() || status.phase == Phase::Closed
    }

    /// Whether the server is gone: every task ended, every socket closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.status().phase == Phase::Closed
    }

    /// Brings a client in: anything that reads and writes bytes, such as one end of a pipe, or a
    /// TLS stream. One more than [`max_clients`](Builder::max_clients) is rejected like any
    /// other.
    ///
    /// Up to 64 connections wait for the server to take them. With more, and so always with the
    /// 65th before the server runs, `attach` itself waits: do not await it in the task that would
    /// run the server afterwards.
    ///
    /// ```
    /// use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
    /// use keywire::async_net::unix::UnixStream;
    ///
    /// let server = keywire::Server::new();
    /// let handle = server.handle();
    /// let client = async {
    ///     let (ours, mut theirs) = UnixStream::pair()?;
    ///     handle.attach(ours).await?;
    ///     theirs.write_all(b"Sync:hello\n").await?;
    ///     let mut reply = [0; 14];
    ///     theirs.read_exact(&mut reply).await?;
    ///     assert_eq!(&reply, b":sync:0:hello\n");
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// };
    /// // The server is dropped as soon as the client is done.
    /// let server = async { server.run().await; Ok(()) };
    /// future::block_on(future::or(client, server))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Cancel safety: if it is dropped before it is ready, the client was not attached.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] where the server is shutting down or gone.
    pub async fn attach<T>(&self, transport: T) -> Result<(), Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        self.incoming.send(transport, None).await
    }

    /// Shuts the server down and waits until it is gone: every task ended, every socket closed.
    ///
    /// The listeners close at once. Commands that the server has read are applied and answered; what
    /// arrives just then is answered `:error:LINE:closing:...`, and so is what waits for its
    /// [`max_line_rate`](Builder::max_line_rate); what comes later is not answered, and
    /// a line that has only begun is discarded.
    /// Each client gets the replies it has coming, then the end of the stream; before that,
    /// `:error:0:closing:...`, if it has used `Sync`, `Stats`, `Watch` or `Auth` and no line of it
    /// was answered `closing`. When `grace` is over,
    /// what is left is cut off.
    ///
    /// Any number of callers may ask for it, any number of times; the shortest grace counts. A
    /// server that has been shut down before it ran ends as soon as it runs.
    ///
    /// It waits for [`Server::run`] to be polled to its end, or dropped; a server that never runs
    /// is gone when the [`Server`] is dropped. It returns at once if the server is gone already.
    ///
    /// Cancel safety: once polled, the request stands, whether or not the caller waits.
    pub async fn shutdown(&self, grace: Duration) {
        self.state.request_stop(grace);
        self.closed().await;
    }

    /// Waits until the server is gone, without asking for it: until [`run`](Server::run) has ended
    /// or was dropped, or the [`Server`] was dropped before it ran.
    pub async fn closed(&self) {
        self.state
            .wait_until(|state| (state.phase == Phase::Closed).then_some(()))
            .await;
    }

    /// Lends this thread to the server: a future that runs the server's tasks wherever it is
    /// polled, beside [`Server::run`], until the server is gone.
    ///
    /// It helps if there is much to do: each time that 64 clients or more have something to do at once,
    /// a worker is woken, and works until nothing is left. With fewer clients a second thread would
    /// cost more than it gains. Any number of workers may be lent, and dropped at any time.
    ///
    /// ```
    /// use futures_lite::future;
    /// use std::{thread, time::Duration};
    ///
    /// let server = keywire::Server::new();
    /// let handle = server.handle();
    /// let worker = handle.worker();
    /// let second = thread::spawn(|| future::block_on(worker));
    /// future::block_on(future::zip(server.run(), handle.shutdown(Duration::ZERO)));
    /// second.join().unwrap();
    /// ```
    pub fn worker(&self) -> impl Future<Output = ()> + Send + 'static {
        let state = self.state.clone();
        async move {
            let Some(executor) = state.executor.upgrade() else {
                return;
            };
            let closed = state.wait_until(|state| (state.phase == Phase::Closed).then_some(()));
            future::or(closed, state.run_worker(&executor)).await;
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = self.state.status().phase;
        let stats = self.state.stats();
        f.debug_struct("Handle")
            .field("phase", &phase)
            .field("stats", &stats)
            .finish_non_exhaustive()
    }
}
