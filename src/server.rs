//! The server and its handle.
//!
//! In: the builder's settings, listeners, and connections that a handle attaches. Out: the store, when
//! the run has ended. It starts the accept loops and the coordinator, which starts all other tasks, and makes
//! sure that every task has ended.

mod config;
mod handle;
#[cfg(feature = "client")]
mod in_process;

use std::{fmt, sync::Arc};

use async_channel::Receiver;
use async_executor::{Executor, Task};
use futures_lite::future;

pub use config::Builder;
pub use handle::Handle;

use crate::{
    Clock, Listener,
    clock::{self, SystemClock},
    connection::epoll::Reactor,
    coordinator::Coordinator,
    listen::{
        AcceptLoop, StartAcceptLoop,
        incoming::{Incoming, IncomingSender},
        start_accept_loop,
    },
    shared::{limits::Limits, log, state::ServerState},
    store::{Memory, Store},
};

/// A key-value line server.
///
/// It needs no particular executor. [`run`](Self::run) is one future that holds all of the server,
/// with an executor of its own inside; poll it wherever you like.
///
/// ```
/// use futures_lite::future;
/// use keywire::{Client, Server};
/// use std::time::Duration;
///
/// future::block_on(async {
///     let listener = keywire::bind("localhost:0").await?; // port 0: any free port
///     let address = listener.local_addr()?;
///     let server = Server::builder().listen(listener).build();
///     let handle = server.handle();
///
///     let work = async {
///         let client = Client::connect(address).await?;
///         client.put("user", "alice").await?;
///         handle.shutdown(Duration::from_secs(1)).await;
///         Ok::<(), keywire::Error>(())
///     };
///     let (store, worked) = future::zip(server.run(), work).await;
///     worked?;
///     assert_eq!(store.get(b"user").len(), 1);
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })
/// # .unwrap();
/// ```
pub struct Server<S = Memory> {
    guard: RunGuard<S>,
    store: S,
    accept_loops: Vec<AcceptLoop>,
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
            listeners: Vec::new(),
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

    /// Adds a listener to a server that is built already, as [`Builder::listen`] does before that.
    pub fn listen(&mut self, listener: impl Listener) -> &mut Self {
        self.start(start_accept_loop(listener));
        self
    }

    fn start(&mut self, start: StartAcceptLoop) {
        let (sender, state) = (self.guard.sender.clone(), self.guard.state.clone());
        self.accept_loops.push(start(sender, state));
    }

    /// A handle to watch the server, bring clients in and shut it down.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(self.guard.state.clone(), self.guard.sender.clone())
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
