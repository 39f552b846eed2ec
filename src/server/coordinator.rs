//! The select loop that owns the store, the client table and the counters.

mod clients;

use std::{collections::VecDeque, net::IpAddr, pin::pin, sync::Arc, time::Instant};

use async_channel::{Receiver, Sender};
use async_executor::{Executor, Task};
use futures_lite::{
    StreamExt as _, future,
    stream::{self, Stream},
};
use slab::Slab;

use super::{
    Control, Stats,
    admission::{Admission, Newcomer},
    batch::{Batch, RoundTimer},
    event::Event,
    journal::{self, Journal},
    outbox::{Chunk, Chunks, Content, Load, Outbox, Then, push_chunk},
    session::Surroundings,
    turn::{Progress, Turn, TurnState},
    watch::{Log, Missed, Watches},
};
use crate::{clock, protocol::LineBlock, store::Store};

/// Clients whose commands go to the store as one batch. A larger round shares an fsync among more
/// clients; a smaller one answers the first of them sooner.
const ROUND_CLIENTS: usize = 256;

/// Emptied buffers kept for the replies of the next round, so that most rounds allocate none.
const SPARE_BUFFERS: usize = ROUND_CLIENTS;

/// A spare buffer larger than this is given back to the allocator.
const SPARE_BYTES: usize = 16 * 1024;

pub(super) struct Coordinator {
    control: Arc<Control>,
    executor: Arc<Executor<'static>>,
    surroundings: Arc<Surroundings>,
    /// The accept loops. Dropping one closes its listening socket.
    doors: Vec<Task<()>>,
    #[cfg(target_os = "linux")]
    _poller: Task<()>,
    clients: Slab<Client>,
    admission: Admission,
    queue: TurnQueue,
    watches: Watches,
    stats: Stats,
    journal: Journal,
    /// Clients that have come so far.
    came: u64,
    started: Instant,
    closing: bool,
    spare: Vec<Vec<u8>>,
}

struct Client {
    /// Its name in the journal.
    number: u64,
    outbox: Arc<Outbox>,
    /// Its number among the watchers, if it is one.
    watcher: Option<usize>,
    /// How far its commands have been handled; `at` is into `block`.
    progress: Progress,
    /// Lines that have not been handled, waiting for a turn or for room.
    pending: Option<Pending>,
    /// Its last turn had a command that took long.
    long: bool,
    /// The session has ended; only pending commands keep the client here.
    gone: bool,
    place: Place,
    _session: Task<()>,
}

/// Clients whose commands wait for their turn, in the order of their turns. One that stands here
/// twice has nothing left the second time.
///
/// Clients with long commands stand apart. A round comes to them last, so that nobody with short
/// ones has to wait for several of the others; but if it did not come to them, the next round
/// begins with one.
#[derive(Default)]
struct TurnQueue {
    short: VecDeque<usize>,
    long: VecDeque<usize>,
    /// The next one is a client with long commands, if there is one.
    long_first: bool,
}

impl TurnQueue {
    fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }

    fn side(&mut self, long: bool) -> &mut VecDeque<usize> {
        match long {
            true => &mut self.long,
            false => &mut self.short,
        }
    }

    fn pop_front(&mut self) -> Option<usize> {
        let long = if std::mem::take(&mut self.long_first) {
            self.long.pop_front()
        } else {
            None
        };
        long.or_else(|| self.short.pop_front())
            .or_else(|| self.long.pop_front())
    }
}

/// What a connection takes up.
enum Place {
    /// One of those for clients, and one of its address where these are limited.
    Client { address: Option<IpAddr> },
    /// There was none for it; it is being told so.
    None,
}

struct Pending {
    block: LineBlock,
    refuse: bool,
}

/// What a round consists of: the turns, and beside each the block it works through.
#[derive(Default)]
struct Round {
    turns: Vec<Turn>,
    blocks: Vec<LineBlock>,
}

enum Input {
    Stop,
    Join(Newcomer),
    Event(Event),
}

impl Coordinator {
    pub(super) fn new(
        control: Arc<Control>,
        executor: Arc<Executor<'static>>,
        events: Sender<Event>,
        doors: Vec<Task<()>>,
    ) -> Self {
        let started = control.clock.now();
        Self {
            journal: Journal::new(&control.clock),
            came: 0,
            surroundings: Arc::new(Surroundings::new(events, &control)),
            #[cfg(target_os = "linux")]
            _poller: {
                let control = control.clone();
                executor.spawn(async move {
                    clock::deferrable(&control.clock, pin!(control.poller.run())).await;
                })
            },
            control,
            executor,
            doors,
            clients: Slab::new(),
            admission: Admission::default(),
            queue: TurnQueue::default(),
            watches: Watches::default(),
            stats: Stats::default(),
            started,
            closing: false,
            spare: Vec::new(),
        }
    }

    /// Serves until it is told to stop and every client has left, or the grace time is over.
    pub(super) async fn run<S: Store>(
        mut self,
        mut store: S,
        joins: Receiver<Newcomer>,
        events: Receiver<Event>,
    ) -> S {
        let control = self.control.clone();
        {
            let serve = self.serve(&mut store, joins, events);
            let serve = pin!(future::or(serve, control.out_of_time()));
            clock::deferrable(&control.clock, serve).await;
        }
        store
    }

    async fn serve<S: Store>(
        &mut self,
        store: &mut S,
        joins: Receiver<Newcomer>,
        events: Receiver<Event>,
    ) {
        let control = self.control.clone();
        let mut inputs = Box::pin(inputs(&control, joins.clone(), events.clone()));
        let mut round = Round::default();
        while !(self.closing && self.clients.is_empty()) {
            let input = if self.queue.is_empty() {
                inputs.next().await
            } else {
                // Work is left over. Sessions get their turn, then it goes on.
                future::yield_now().await;
                future::poll_once(inputs.next()).await.flatten()
            };
            match input {
                Some(Input::Stop) => {
                    // What has been read by now is still applied.
                    while let Ok(event) = events.try_recv() {
                        self.note(event);
                    }
                    self.stop(&joins);
                }
                Some(Input::Join(newcomer)) => self.join(newcomer),
                Some(Input::Event(event)) => self.note(event),
                None => {}
            }
            for _ in 0..ROUND_CLIENTS {
                let Ok(newcomer) = joins.try_recv() else {
                    break;
                };
                self.join(newcomer);
            }
            for _ in 0..ROUND_CLIENTS {
                let Ok(event) = events.try_recv() else { break };
                self.note(event);
            }
            self.play(store, &mut round).await;
        }
    }

    fn stop(&mut self, joins: &Receiver<Newcomer>) {
        self.closing = true;
        journal::closing(self.stats.active);
        self.doors.clear();
        // Connections that were accepted by now have their lines refused like all others.
        joins.close();
        while let Ok(newcomer) = joins.try_recv() {
            self.join(newcomer);
        }
        self.publish();
        // What stands in the sockets by now is read, and refused line by line.
        #[cfg(target_os = "linux")]
        self.control.poller.look_at_all();
        for (_, client) in &self.clients {
            client.outbox.close();
        }
    }

    /// Gives the clients at the head of the queue their turns: the store applies their commands,
    /// then the replies are sent.
    async fn play<S: Store>(&mut self, store: &mut S, round: &mut Round) {
        while round.turns.len() < ROUND_CLIENTS {
            let Some(key) = self.queue.pop_front() else {
                break;
            };
            self.begin_turn(key, round);
        }
        if round.turns.is_empty() {
            return;
        }
        let control = self.control.clone();
        let clock = &*control.clock;
        let began = clock.now();
        let mut timer = RoundTimer::start(began);
        self.stats.uptime = began - self.started;
        // Who asks for the counters gets those of now, not those of the last round.
        self.stats.accept_errors = control.accept_errors();
        let limits = &control.limits;
        loop {
            let Round { turns, blocks } = &mut *round;
            self.stats.set_store_size(store.size());
            self.stats.watching = self.watches.watching();
            let (watches, stats) = (&mut self.watches, &mut self.stats);
            let time = (clock, &mut timer);
            let mut batch = Batch::new(limits, blocks, turns, watches, stats, time);
            let result = store.apply(&mut batch).await;
            if !batch.conclude(result) {
                break;
            }
        }
        self.stats.set_store_size(store.size());
        let (log, told) = self.watches.end_round();
        // The counters first: who has a reply finds it counted.
        self.publish();
        let mut begun = 0;
        let mut long_begun = false;
        let mut later = Vec::new();
        for (turn, block) in round.turns.drain(..).zip(round.blocks.drain(..)) {
            if turn.has_begun() {
                begun += 1;
                long_begun |= self.is_long(turn.client);
                self.end_turn(turn, block, &log);
            } else {
                later.push((turn, block));
            }
        }
        // Turns that the round had no time for come first in the next, in their order.
        for (turn, block) in later.into_iter().rev() {
            let long = self.is_long(turn.client);
            self.queue.side(long).push_front(turn.client);
            self.put_back(turn, block);
        }
        self.queue.long_first = !long_begun;
        for &watcher in &told {
            self.tell_watcher(watcher, &log);
        }
        if !told.is_empty() {
            self.publish();
        }
        self.control.call_workers(begun + told.len());
    }

    fn is_long(&self, key: usize) -> bool {
        self.clients.get(key).is_some_and(|client| client.long)
    }

    fn enqueue(&mut self, key: usize) {
        let long = self.is_long(key);
        self.queue.side(long).push_back(key);
    }

    fn begin_turn(&mut self, key: usize, round: &mut Round) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let Some(Pending { block, refuse }) = client.pending.take() else {
            return;
        };
        let outbox = client.outbox.clone();
        if let Some(watcher) = client.watcher {
            self.watches.set_turn(watcher, round.turns.len());
        }
        let replies = self.spare.pop().unwrap_or_default();
        round.turns.push(Turn::new(
            key,
            outbox,
            client.watcher,
            client.progress,
            refuse,
            replies,
        ));
        round.blocks.push(block);
    }

    fn end_turn(&mut self, mut turn: Turn, block: LineBlock, log: &Log<Arc<Vec<u8>>>) {
        let mut then = match turn.state {
            _ if turn.cut => Then::Cut,
            TurnState::Done => Then::NextBatch,
            TurnState::Full => Then::WaitForRoom,
            TurnState::Going | TurnState::Spent => Then::GoOn,
        };
        let key = turn.client;
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        client.progress = turn.progress;
        client.watcher = turn.watcher;
        client.long = turn.long;
        self.journal.lost(client.number, turn.dropped);
        let limits = &self.control.limits;
        let replies = std::mem::take(&mut turn.replies);
        let mut content = turn.content;
        let chunks = match turn.watcher {
            None => {
                let mut chunks = Chunks::new();
                push_chunk(&mut chunks, Chunk::Own(replies));
                chunks
            }
            Some(watcher) => {
                let room = (client.outbox.room(), limits);
                let stats = &mut self.stats;
                let missed = stats.missed;
                let woven = self
                    .watches
                    .weave(watcher, log, replies, &mut content, room, stats);
                self.journal
                    .missed(client.number, self.stats.missed - missed);
                woven.unwrap_or_else(|Missed| {
                    then = Then::Cut;
                    Chunks::new()
                })
            }
        };
        let waits = client.outbox.try_send(chunks, content, then, limits);
        if turn.watcher.is_some_and(|id| self.watches.has_missed(id)) {
            client.outbox.want_room();
        }
        if turn.state != TurnState::Done {
            if !waits {
                self.enqueue(key);
            }
            return self.put_back(turn, block);
        }
        client.progress.at = 0;
        let gone = client.gone;
        self.keep_spare(block.into_buffer());
        if gone {
            self.remove(key);
        }
    }

    /// Sends a watcher what it hears of a round in which it had no turn.
    fn tell_watcher(&mut self, watcher: usize, log: &Log<Arc<Vec<u8>>>) {
        let client = self.watches.hears(watcher);
        let Some(client) = client.and_then(|key| self.clients.get(key)) else {
            return;
        };
        let limits = &self.control.limits;
        let room = (client.outbox.room(), limits);
        let mut content = Content::default();
        let stats = &mut self.stats;
        let missed = stats.missed;
        let woven = self
            .watches
            .weave(watcher, log, Vec::new(), &mut content, room, stats);
        self.journal
            .missed(client.number, self.stats.missed - missed);
        let (chunks, then) = match woven {
            Ok(chunks) => (chunks, Then::GoOn),
            Err(Missed) => (Chunks::new(), Then::Cut),
        };
        client.outbox.try_send(chunks, content, then, limits);
        if self.watches.has_missed(watcher) {
            client.outbox.want_room();
        }
    }

    /// Tells a watcher that it has missed something, as soon as it has read the rest.
    fn tell_missed(&mut self, key: usize) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let Some(watcher) = client.watcher.filter(|&id| self.watches.has_missed(id)) else {
            return;
        };
        let limits = &self.control.limits;
        if !client.outbox.room().lets_events_in(limits) {
            return client.outbox.want_room();
        }
        let outbox = client.outbox.clone();
        if let Some(line) = self.watches.take_missed(watcher) {
            self.send_missed(&outbox, line);
        }
    }

    fn send_missed(&self, outbox: &Outbox, line: Vec<u8>) {
        let load = Load {
            lines: 1,
            bytes: line.len(),
        };
        let content = Content {
            all: load,
            ..Content::default()
        };
        let chunks = Chunks::from_iter([Chunk::Own(line)]);
        outbox.try_send(chunks, content, Then::GoOn, &self.control.limits);
    }

    /// Keeps the lines that a turn has not come to.
    fn put_back(&mut self, turn: Turn, block: LineBlock) {
        if let Some(client) = self.clients.get_mut(turn.client) {
            let refuse = turn.refuse;
            client.pending = Some(Pending { block, refuse });
            // A batch that failed may have made it one.
            client.watcher = turn.watcher;
        }
        self.keep_spare(turn.replies);
    }

    fn keep_spare(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS && (1..=SPARE_BYTES).contains(&buffer.capacity()) {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    fn publish(&mut self) {
        self.stats.watching = self.watches.watching();
        self.control.publish(&mut self.stats);
    }
}

/// Everything the coordinator waits for, the rarest first.
fn inputs(
    control: &Control,
    joins: Receiver<Newcomer>,
    events: Receiver<Event>,
) -> impl Stream<Item = Input> {
    let stop = stream::once_future(control.stop_requested()).map(|()| Input::Stop);
    let joins = joins.map(Input::Join);
    let events = events.map(Input::Event);
    stream::or(stop, stream::or(joins, events))
}
