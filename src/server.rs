//! The server and its handle.
//!
//! In: the builder's settings, listeners, and connections that a handle attaches. Out: the store, when
//! the run has ended. It starts the accept loops and the coordinator, which starts all other tasks, and makes
//! sure that every task has ended.

mod config;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use async_channel::Receiver;
use async_executor::{Executor, Task};
use futures_lite::{AsyncRead, AsyncWrite, future};

pub use config::Builder;

use crate::{
    Clock, Error, Listener, Stats,
    clock::{self, SystemClock},
    connection::epoll::Reactor,
    coordinator::Coordinator,
    listen::{
        self,
        incoming::{Incoming, IncomingSender},
    },
    shared::{
        limits::Limits,
        log,
        state::{Phase, ServerState},
    },
    store::{Memory, Store},
};

/// A key-value line server.
///
/// It needs no particular executor. [`run`](Self::run) is one future that holds all of the server,
/// with an executor of its own inside; poll it wherever you like.
///
/// ```
/// use futures_lite::{AsyncReadExt, AsyncWriteExt, future};
/// use std::time::Duration;
///
/// let listener = keywire::bind(([127, 0, 0, 1], 0).into())?;
/// let address = listener.local_addr()?;
/// let mut server = keywire::Server::new();
/// server.listen(listener);
/// let handle = server.handle();
///
/// let client = async {
///     let mut stream = async_net::TcpStream::connect(address).await?;
///     stream.write_all(b"Put:user:alice\nGet:user\n").await?;
///     stream.close().await?; // no more commands; the replies still come
///     let mut replies = String::new();
///     stream.read_to_string(&mut replies).await?;
///     handle.shutdown(Duration::from_secs(1)).await;
///     std::io::Result::Ok(replies)
/// };
/// let (store, replies) = future::block_on(future::zip(server.run(), client));
/// assert_eq!(replies?, "user:alice\n");
/// assert_eq!(store.get(b"user").len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server<S = Memory> {
    guard: RunGuard<S>,
    store: S,
    accept_loops: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Server {
    /// A server that keeps its values in memory, with every limit at its default.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A server to be set up.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            limits: Limits::default(),
            clock: Arc::new(SystemClock),
            store: Memory::new(),
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Store> Server<S> {
    fn from_parts(limits: Limits, clock: Arc<dyn Clock>, store: S) -> Self {
        let executor = Arc::new(Executor::new());
        let reactor = Arc::new(Reactor::new());
        let (sender, incoming) = IncomingSender::new(reactor.clone());
        let state = ServerState::new(limits, clock, Arc::downgrade(&executor));
        Self {
            guard: RunGuard {
                main: None,
                executor,
                reactor,
                incoming,
                sender,
                state: Arc::new(state),
            },
            store,
            accept_loops: Vec::new(),
        }
    }

    /// Adds a listener. A server may have several, of different kinds, or none: clients can also be
    /// brought in one by one, with [`Handle::attach`].
    pub fn listen(&mut self, listener: impl Listener) -> &mut Self {
        let (sender, state) = (self.guard.sender.clone(), self.guard.state.clone());
        let accept_loop = listen::accept_loop(listener, sender, state);
        self.accept_loops.push(Box::pin(accept_loop));
        self
    }

    /// A handle to watch the server, bring clients in and shut it down.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            state: self.guard.state.clone(),
            incoming: self.guard.sender.clone(),
        }
    }

    /// Serves until it is shut down, then gives back the store.
    ///
    /// All of the server is inside this future: accept loops, coordinator, clients. Any executor
    /// may poll it, and other threads may help through [`Handle::worker`]. It spawns nothing
    /// elsewhere and starts no thread. (async-io, which waits for sockets and timers, keeps one
    /// thread for the whole process.)
    ///
    /// Dropping it, at any time, is the immediate form of shutdown: every task ends and every
    /// socket is closed before the drop returns.
    ///
    /// # Panics
    ///
    /// Where the store panics. A transport that panics takes its own client with it, and a
    /// listener its own accept loop.
    pub async fn run(self) -> S {
        let Server {
            mut guard,
            store,
            accept_loops,
        } = self;
        guard.state.mark_running();
        let executor = guard.executor.clone();
        let accept_loops = accept_loops.into_iter().map(|accept_loop| {
            let state = guard.state.clone();
            executor.spawn(async move { clock::deferrable(&state.clock, accept_loop).await })
        });
        let coordinator = Coordinator::new(
            guard.state.clone(),
            executor.clone(),
            guard.reactor.clone(),
            guard.incoming.clone(),
            accept_loops.collect(),
        );
        let main = guard.main.insert(executor.spawn(coordinator.run(store)));
        // Connections that the coordinator leaves behind are gone when `guard` is dropped.
        executor.run(main).await
    }
}

impl<S> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("limits", &self.guard.state.limits)
            .field("listeners", &self.accept_loops.len())
            .finish_non_exhaustive()
    }
}

/// Owns the tasks. When it is dropped, all of them are gone before the drop returns.
struct RunGuard<S> {
    /// The coordinator. It holds the executor that runs it: a reference cycle, broken by dropping this.
    main: Option<Task<S>>,
    executor: Arc<Executor<'static>>,
    /// Connections on their way in. Handles keep this channel alive, so it is emptied here.
    incoming: Receiver<Incoming>,
    sender: IncomingSender,
    reactor: Arc<Reactor>,
    state: Arc<ServerState>,
}

impl<S> Drop for RunGuard<S> {
    fn drop(&mut self) {
        // The coordinator owns every other task; cancelling it cancels all. A cancelled task is
        // dropped when the executor comes to it, so run the executor until it has. No task waits
        // for anything by now, so this does not block, but for a worker that is inside a task.
        self.main = None;
        future::block_on(self.executor.run(async {
            while !self.executor.is_empty() {
                future::yield_now().await;
            }
        }));
        self.incoming.close();
        let mut refused = 0;
        while self.incoming.try_recv().is_ok() {
            refused += 1;
        }
        self.state.mark_closed(refused);
        log::closed();
    }
}

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
    incoming: IncomingSender,
}

impl Handle {
    /// The counters. Never waits; works before, during and after the run.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state.stats()
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
    ///
    /// let server = keywire::Server::new();
    /// let handle = server.handle();
    /// let client = async {
    ///     let (ours, mut theirs) = async_net::unix::UnixStream::pair()?;
    ///     handle.attach(ours).await?;
    ///     theirs.write_all(b"Sync:hello\n").await?;
    ///     let mut reply = [0; 14];
    ///     theirs.read_exact(&mut reply).await?;
    ///     assert_eq!(&reply, b":sync:0:hello\n");
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// };
    /// // The server is dropped as soon as the client is done.
    /// let server = async { server.run().await; Ok(()) };
    /// future::block_on(future::or(client, server)).unwrap();
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
