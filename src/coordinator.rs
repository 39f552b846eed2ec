//! The select loop in the middle: it alone owns the store, the client table, and the counters but for
//! those of listeners.
//!
//! | input | it comes from | by | and goes to |
//! |---|---|---|---|
//! | `Input::Stop` | a handle that asks for a shutdown | the server's state | [`Coordinator::shut_down`] |
//! | `Input::Incoming` | an accept loop or a handle | `incoming`, bounded | `clients.rs`: admitted or rejected |
//! | `Input::FromStore` | a store that waits | `store_output` | `submit.rs`: turns that are back are released, in the order of keys; changes are told |
//! | `Input::Message` | the task of a connection | `messages` | `clients.rs`: lines and `OutboxReady` to the queue of turns, the rest to the client table |
//!
//! After the inputs, the clients in the queue have their turns ([`run_ready`](Coordinator::run_ready)).
//! That is a *round*: up to 256 clients have one turn each, in which the lines of one read go to the
//! store as a batch (`submit.rs`). Those that are answered are finished together: replies go to their
//! outboxes, and events to the outboxes of those that watch (`turns.rs`, `send_events.rs`). A turn that
//! the store keeps waiting leaves the round, and joins another when it comes back. Nothing here waits
//! for a socket or for the store: outboxes are only ever sent to with `try_send`.

#![expect(clippy::vec_box, reason = "turns move between queues and the store")]

mod changes;
mod clients;
mod key_order;
mod send_events;
mod submit;
mod subscribe;
mod turn_queue;
mod turns;

use std::{pin::Pin, sync::Arc, time::Instant};

use async_channel::{Receiver, Sender};
use async_executor::{Executor, Task};
use futures_lite::{
    StreamExt as _, future,
    stream::{self, Stream},
};
use slab::Slab;

use crate::{
    Stats, clock,
    connection::{ConnectionContext, epoll::Reactor, message::FromConnection, outbox::Size},
    listen::{admission::ConnectionLimiter, incoming::Incoming},
    shared::{
        histogram::Histograms,
        limits::Limits,
        log::{self, LogLimiter},
        state::ServerState,
    },
    store::{Changes, FromStore, Order, Store, turn::Turn},
    watch::registry::WatchRegistry,
};
use changes::ChangeStream;
use clients::ClientEntry;
use key_order::KeyOrder;
use subscribe::Subscriptions;
use turn_queue::TurnQueue;

/// Clients that have their turns in one round. A smaller one answers the first of them sooner.
const ROUND_CLIENTS: usize = 256;

/// Inputs that are handled before the clients have their turns.
const ROUND_INPUTS: usize = 2 * ROUND_CLIENTS;

pub(crate) struct Coordinator {
    server: Arc<ServerState>,
    executor: Arc<Executor<'static>>,
    reactor: Arc<Reactor>,
    context: Arc<ConnectionContext>,
    /// Yields once, if a shutdown is requested.
    stop: Pin<Box<dyn Stream<Item = ()> + Send>>,
    incoming: Pin<Box<Receiver<Incoming>>>,
    messages: Pin<Box<Receiver<FromConnection>>>,
    /// The accept loops. Dropping one closes its listening socket.
    accept_loops: Vec<Task<()>>,
    _reactor_task: Task<()>,
    clients: Slab<ClientEntry>,
    limiter: ConnectionLimiter,
    queue: TurnQueue,
    watches: WatchRegistry,
    /// What the store is asked to watch.
    subscriptions: Subscriptions,
    stats: Stats,
    /// What stands in the fullest outbox of those that this round has sent to.
    fullest: Size,
    log: LogLimiter,
    /// The number of the client that connected last.
    last_id: u64,
    started: Instant,
    shutting_down: bool,
    limits: Arc<Limits>,
    key_order: KeyOrder,
    /// Where turns come back from the store, and changes come in; and those that have come.
    from_store: Sender<FromStore>,
    store_output: Pin<Box<Receiver<FromStore>>>,
    returned: Vec<FromStore>,
    /// Turns that have waited for their keys: to be submitted, or to be released.
    unblocked: Vec<Box<Turn>>,
    /// What the store brings in from elsewhere, if it does.
    changes: Option<Arc<ChangeStream>>,
    /// What the store does beside. Dropping it ends that.
    _store_work: Option<Task<()>>,
    /// Ended turns and emptied buffers, for the next round.
    turns: Vec<Box<Turn>>,
    reply_buffers: Vec<Vec<u8>>,
}

enum Input {
    Stop,
    Incoming(Incoming),
    FromStore(FromStore),
    Message(FromConnection),
}

impl Coordinator {
    pub(crate) fn new(
        server: Arc<ServerState>,
        executor: Arc<Executor<'static>>,
        reactor: Arc<Reactor>,
        incoming: Receiver<Incoming>,
        accept_loops: Vec<Task<()>>,
    ) -> Self {
        // Not bounded by itself: a connection has at most one message of each kind under way.
        let (sender, messages): (Sender<FromConnection>, _) = async_channel::unbounded();
        // Nor is this: a client has at most one turn with the store, and the bytes of changes are bounded
        // where they are passed on.
        let (from_store, store_output) = async_channel::unbounded();
        let stop_requested = {
            let server = server.clone();
            async move { server.stop_requested().await }
        };
        let reactor_task = {
            let (server, reactor) = (server.clone(), reactor.clone());
            async move {
                let run = std::pin::pin!(reactor.run());
                clock::deferrable(&server.clock, run).await;
            }
        };
        Self {
            context: Arc::new(ConnectionContext::new(sender, &server)),
            stop: Box::pin(stream::once_future(stop_requested)),
            incoming: Box::pin(incoming),
            messages: Box::pin(messages),
            accept_loops,
            _reactor_task: executor.spawn(reactor_task),
            clients: Slab::new(),
            limiter: ConnectionLimiter::default(),
            queue: TurnQueue::default(),
            watches: WatchRegistry::default(),
            subscriptions: Subscriptions::default(),
            stats: Stats::default(),
            fullest: Size::default(),
            log: LogLimiter::new(&server.clock),
            last_id: 0,
            started: server.clock.now(),
            shutting_down: false,
            limits: Arc::new(server.limits.clone()),
            key_order: KeyOrder::default(),
            from_store,
            store_output: Box::pin(store_output),
            returned: Vec::new(),
            unblocked: Vec::new(),
            changes: None,
            _store_work: None,
            turns: Vec::new(),
            reply_buffers: Vec::new(),
            server,
            executor,
            reactor,
        }
    }

    /// Serves until a shutdown is requested and every client is gone, or the grace time is over.
    pub(crate) async fn run<S: Store>(mut self, mut store: S) -> S {
        let server = self.server.clone();
        {
            let run = async {
                self.run_loop(&mut store).await;
                store.close().await;
            };
            let run = future::or(run, server.deadline_passed());
            clock::deferrable(&server.clock, std::pin::pin!(run)).await;
        }
        store
    }

    async fn run_loop<S: Store>(&mut self, store: &mut S) {
        let work = store.work(self.server.clock.clone()).map(|work| {
            let clock = self.server.clock.clone();
            self.executor.spawn(async move {
                let work = std::pin::pin!(work);
                clock::deferrable(&clock, work).await;
            })
        });
        self._store_work = work;
        self.changes = store.changes().map(|it| Arc::new(ChangeStream::new(it)));
        assert!(
            S::ORDER != Order::Immediate || self.changes.is_none(),
            "a store whose order is immediate has changes"
        );
        assert!(
            S::CHANGES == Changes::Elsewhere || self.changes.is_some(),
            "a store that makes all changes known has none"
        );
        self.count_store(store);
        self.server
            .publish_round(&mut self.stats, |histograms| take_times(store, histograms));
        let mut turns = Vec::new();
        while !(self.shutting_down && self.clients.is_empty()) {
            if let Some(input) = self.next_input().await {
                self.handle(input);
            }
            for _ in 0..ROUND_INPUTS {
                let Some(input) = self.try_next_input() else {
                    break;
                };
                self.handle(input);
            }
            self.run_ready(store, &mut turns);
            self.notify_unwatched(store);
        }
    }

    /// The next input, the rarest kind first. It returns at once if clients are in the queue.
    async fn next_input(&mut self) -> Option<Input> {
        let idle = self.is_idle() && self.watches.is_quiet();
        if !idle || self.changes.is_some() {
            // The tasks of connections run before the next round, also if changes are always there.
            future::yield_now().await;
        }
        let stop = self.stop.as_mut().map(|()| Input::Stop);
        let incoming = self.incoming.as_mut().map(Input::Incoming);
        let from_store = stream::poll_fn(|cx| {
            // Not while others wait to be told.
            if let Some(changes) = self.changes.as_ref().filter(|_| self.returned.is_empty()) {
                changes.poll(cx, &self.from_store);
            }
            self.store_output.as_mut().poll_next(cx)
        });
        let from_store = from_store.map(Input::FromStore);
        let messages = self.messages.as_mut().map(Input::Message);
        let mut inputs = stream::or(stop, stream::or(incoming, stream::or(from_store, messages)));
        match idle {
            true => inputs.next().await,
            false => future::poll_once(inputs.next()).await.flatten(),
        }
    }

    /// One more input, if it is there.
    fn try_next_input(&self) -> Option<Input> {
        let incoming = self.incoming.try_recv().map(Input::Incoming);
        let from_store = || self.store_output.try_recv().map(Input::FromStore);
        let message = || self.messages.try_recv().map(Input::Message);
        let input = incoming.or_else(|_| from_store()).or_else(|_| message());
        input.ok()
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Stop => self.shut_down(),
            Input::Incoming(incoming) => self.add_client(incoming),
            Input::FromStore(it) => self.returned.push(it),
            Input::Message(message) => self.on_message(message),
        }
    }

    /// Begins the shutdown: lines that have arrived here by now are still applied. Those that arrive
    /// later are refused, also those that a rate limiter has held back.
    fn shut_down(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            self.on_message(message);
        }
        self.shutting_down = true;
        log::shutting_down(self.stats.active);
        self.accept_loops.clear();
        // Connections that were accepted by now become clients, too, but all their lines are refused.
        self.incoming.close();
        while let Ok(incoming) = self.incoming.try_recv() {
            self.add_client(incoming);
        }
        self.publish();
        // Learns which sockets have bytes now, so that their lines are read, and refused one by one.
        self.reactor.poll_all_events();
        for (_, client) in &self.clients {
            client.outbox.announce_shutdown();
        }
    }

    fn count_store<S: Store>(&mut self, store: &S) {
        let (size, disk) = (store.size(), store.disk_stats());
        let stats = &mut self.stats;
        (stats.keys, stats.values, stats.bytes) = (size.keys, size.values, size.bytes);
        stats.size = size.charged();
        stats.commits = disk.commits;
        stats.commit_writes = disk.writes;
        stats.commit_last_us = disk.last_commit;
        stats.commit_longest_us = disk.longest_commit;
        stats.disk_bytes = disk.bytes;
        stats.log_commits = disk.log_commits;
        stats.refusing = disk.refusing;
        stats.store = S::KIND as u64;
        let cluster = store.cluster_stats();
        stats.nodes_up = cluster.nodes_up;
        stats.under_way = cluster.under_way;
        stats.retries = cluster.retries;
        stats.failures = cluster.failures;
    }

    /// Publishes what a round has counted, and what is sampled of it.
    fn publish_round<S: Store>(&mut self, store: &S, began: Instant) {
        self.stats.watching = self.watches.watching();
        let time = self.server.clock.now() - began;
        let fill = std::mem::take(&mut self.fullest).fill(&self.limits);
        self.server.publish_round(&mut self.stats, |histograms| {
            histograms.round.record_time(time);
            histograms.outbox_fill.record(fill);
            take_times(store, histograms);
        });
    }

    fn publish(&mut self) {
        self.stats.watching = self.watches.watching();
        self.server.publish(&mut self.stats);
    }
}

/// What the store has measured. A store in memory measures nothing, and nothing is copied for it.
fn take_times<S: Store>(store: &S, histograms: &mut Histograms) {
    if let Some(commits) = store.commit_times() {
        histograms.commit = Some(commits);
    }
    if let Some(answers) = store.answer_times() {
        histograms.node_answer = Some(answers);
    }
}
