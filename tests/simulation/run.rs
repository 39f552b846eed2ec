//! One run: a server, its clients, and what is looked at meanwhile.

mod verify;

use std::{
    cell::{Cell, RefCell},
    marker::PhantomData,
    rc::Rc,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fastrand::Rng;
use keywire::{
    Handle, Overflow, Secret, Server, Stats,
    store::{Memory, Order, Store},
};

use crate::{
    admission,
    callers::{self, CallLog},
    check::Quiet,
    counts,
    history::History,
    late::{AllChanges, KeepsNone, KeepsOrder, KeepsPerKey, KeepsTotal, LateStore},
    listener::{AcceptQueue, FailingListener},
    lists::Lists,
    network::{Connection, connect},
    script,
    settings::Settings,
    store::FaultyStore,
    subscribe::Subscriptions,
    world::{Moment, Work, World, WorldClock},
};

/// What time may pass by itself while the last tasks end.
const DELAY: Duration = Duration::from_secs(10);

/// The connections on the server's side.
struct ServerEndpoints {
    /// Each of them holds one.
    all: Arc<()>,
    /// Those that the server does not have yet.
    outside: Cell<usize>,
    /// Those that it ever had.
    handed: Cell<u64>,
}

impl ServerEndpoints {
    /// Those that the server has.
    fn inside(&self) -> u64 {
        (Arc::strong_count(&self.all) - 1 - self.outside.get()) as u64
    }

    fn hand_over(&self, done: bool) {
        self.outside.set(self.outside.get() - 1);
        self.handed.set(self.handed.get() + u64::from(done));
    }
}

/// One client, as it is looked at from outside.
struct Peer {
    connection: Connection,
    /// When it came to the server.
    arrived: Rc<Cell<Moment>>,
    /// Where it is the library's own.
    log: Option<Rc<CallLog>>,
    quiet: Vec<Quiet>,
    /// Since when the server has been waiting for it to read, and how much it had read by then.
    blocked: Option<(Moment, usize)>,
}

/// One run, being made.
struct Run {
    settings: RefCell<Settings>,
    world: World,
    handle: Handle,
    history: History,
    endpoints: ServerEndpoints,
    queue: Arc<Mutex<AcceptQueue>>,
    /// The server's counters, when they were last looked at.
    last: Cell<Stats>,
}

impl Run {
    /// The counters as they are, which is at any time.
    fn look(&self) -> Stats {
        let stats = self.handle.stats();
        counts::add_up(&stats);
        counts::follow(&self.last.replace(stats), &stats);
        // Nobody counts as gone whose connection is still open.
        let waiting = AcceptQueue::waiting(&self.queue) as u64;
        let (handed, inside) = (self.endpoints.handed.get(), self.endpoints.inside());
        let gone = stats.dropped + stats.refused;
        // Who is turned away is there until that is told.
        let left = gone - stats.full_clients;
        assert!(
            left + inside <= handed && stats.active + gone + waiting <= handed,
            "{stats:?}: {handed} came, {inside} are there"
        );
        stats
    }

    async fn observe(&self, mut rng: Rng) {
        while !self.handle.is_closed() {
            self.look();
            let time = Duration::from_millis(rng.u64(..3000));
            self.world.sleep(time).await;
        }
    }

    /// Shuts the server down at some moment, and looks that nothing is left of it.
    async fn shut_down(&self, early: Duration) {
        self.world.sleep(early).await;
        let grace = self.settings.borrow().grace;
        self.settings.borrow_mut().stopped = self.world.moment();
        // It returns at once where the server has not begun to run.
        while !self.handle.is_closed() {
            self.handle.shutdown(grace).await;
            self.world.give_way().await;
        }
        let closed = self.world.moment();
        let took = closed.now - self.settings.borrow().stopped.now;
        assert!(
            took <= grace.saturating_add(DELAY),
            "a shutdown took {took:?}, not {grace:?}"
        );
        assert_eq!(self.look().active, 0);
        assert_eq!(self.endpoints.inside(), 0, "connections are left");
    }

    /// Nothing can happen before time passes.
    fn quiet(&self, peers: &mut [Peer]) {
        let mut record = self.history.record();
        let settings = self.settings.borrow();
        let at = self.world.moment();
        if at > settings.stopped {
            return;
        }
        let flight = settings.late.map(|_| record.fly());
        for peer in &mut *peers {
            let standing = peer.connection.standing();
            let written = peer.connection.written();
            let since = match peer.blocked {
                Some((since, before)) if before == written => since,
                _ => at,
            };
            peer.blocked = standing.blocked.then_some((since, written));
            let stalled = standing.blocked && at.now - since.now >= settings.stall;
            peer.quiet.push(Quiet {
                at,
                entries: record.entries.len(),
                drained: standing.drained,
                stalled: stalled && settings.overflow != Overflow::Wait,
                flight,
            });
            // Where there is a rate, it may be that which they wait for.
            let still = standing.still && !settings.is_throttled();
            if let Some(log) = peer.log.as_ref().filter(|_| still) {
                assert_eq!(log.in_flight.get(), 0, "a call waits, and for nothing");
            }
        }
        let stats = self.look();
        let waiting = AcceptQueue::waiting(&self.queue) as u64;
        let (handed, inside) = (self.endpoints.handed.get(), self.endpoints.inside());
        assert!(stats.active <= settings.max_clients as u64, "{stats:?}");
        if settings.started.1 < at {
            let counted = stats.active + waiting + stats.refused + stats.dropped;
            assert_eq!(
                (counted, stats.refused),
                (handed, stats.full_clients),
                "{stats:?}: {handed} came, {inside} are there"
            );
            let told = peers
                .iter()
                .filter(|peer| peer.connection.is_rejecting())
                .count() as u64;
            // Who is turned away is there until that is told. (A client that has gone counts until a late
            // store has answered it.)
            let gone = handed - inside;
            assert!(
                settings.late.is_some() || told + gone <= stats.refused + stats.dropped,
                "{stats:?}: {told} are being turned away"
            );
            let counted = counts::operations(&stats);
            match flight {
                // Which of the reads are those of walks is found out later.
                Some(flight) => record.flights[flight].counted = Some(counted),
                None => assert_eq!(counted, record.operations()),
            }
        }
    }
}

/// One run. Gives a digest of it.
pub(crate) fn run(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let world = World::new(rng.u64(..));
    let history = History::default();
    let settings = Settings::choose(&mut rng);
    match settings.late {
        None => {
            let store = FaultyStore {
                world: world.clone(),
                memory: Memory::new(),
                lists: Lists::default(),
                history: history.clone(),
                faults: settings.faults,
            };
            run_with(store, rng, world, history, settings)
        }
        Some(Order::PerKey) => run_late::<KeepsPerKey>(rng, world, history, settings),
        Some(Order::Total) => run_late::<KeepsTotal>(rng, world, history, settings),
        Some(_) => run_late::<KeepsNone>(rng, world, history, settings),
    }
}

fn run_late<O: KeepsOrder>(rng: Rng, world: World, history: History, settings: Settings) -> u64 {
    match settings.all_changes {
        true => run_late_with::<AllChanges<O>>(rng, world, history, settings),
        false => run_late_with::<O>(rng, world, history, settings),
    }
}

fn run_late_with<O: KeepsOrder>(
    rng: Rng,
    world: World,
    history: History,
    settings: Settings,
) -> u64 {
    let subscriptions = Subscriptions::default();
    let store = LateStore::<O> {
        world: world.clone(),
        lists: Arc::default(),
        history: history.clone(),
        faults: settings.faults,
        elsewhere: None,
        subscriptions: subscriptions.clone(),
        misses: settings.misses,
        order: PhantomData,
    };
    let patient = settings.is_patient();
    let trace = run_with(store, rng, world, history, settings);
    assert!(!patient || subscriptions.left() == 0, "it is still watched");
    trace
}

fn run_with<S: Store>(
    store: S,
    mut rng: Rng,
    world: World,
    history: History,
    settings: Settings,
) -> u64 {
    let mut server = Server::builder();
    if settings.secret {
        server = server.secret(Secret::new(admission::SECRET).expect("a secret"));
    }
    let mut server = server
        .max_line(script::MAX_LINE)
        .outbox_lines(settings.outbox_lines)
        .outbox_bytes(settings.outbox_bytes)
        .max_watches(settings.max_watches)
        .max_clients(settings.max_clients)
        .line_timeout(settings.line_timeout)
        .idle_timeout(settings.idle)
        .max_line_rate(settings.rate)
        .overflow(settings.overflow)
        .stall_timeout(settings.stall)
        .max_store(settings.faults.room.max_store)
        .max_values(settings.faults.room.max_values)
        .clock(WorldClock {
            world: world.clone(),
            start: Instant::now(),
        })
        .store(store)
        .build();
    let (listener, queue) = FailingListener::new(&world);
    server.listen(listener);
    let clients = rng.usize(1..6);
    let (crowded, guarded) = (settings.max_clients < usize::MAX, settings.secret);
    let style = settings.style();
    let run = Rc::new(Run {
        settings: RefCell::new(settings),
        world: world.clone(),
        handle: server.handle(),
        history,
        endpoints: ServerEndpoints {
            all: Arc::new(()),
            outside: Cell::new(clients),
            handed: Cell::new(0),
        },
        queue,
        last: Cell::default(),
    });
    let is_late = !style.has_tags;
    let connections: Rc<RefCell<Vec<Connection>>> = Rc::default();
    let mut peers = Vec::new();
    let mut tasks: Vec<Work> = vec![serve(run.clone(), server)];
    let mut tasks_of_callers: Vec<Work> = Vec::new();
    for number in 0..clients {
        let capacity = rng.usize(1..400);
        let (ours, theirs) = connect(&world, capacity, &run.endpoints.all);
        let connection = ours.connection();
        connections.borrow_mut().push(connection.clone());
        let all = connections.clone();
        let arrived = Rc::new(Cell::new(Moment::NEVER));
        let log = (rng.u8(..4) == 0 && !is_late).then(Rc::<CallLog>::default);
        peers.push(Peer {
            connection,
            log: log.clone(),
            arrived: arrived.clone(),
            quiet: Vec::new(),
            blocked: None,
        });
        let (by_listener, run, mut rng) = (rng.bool(), run.clone(), rng.fork());
        let world = world.clone();
        let (give, callers) = async_channel::bounded(callers::TASKS);
        if log.is_some() {
            // Each is a task of its own: to wake one does not wake the others.
            for _ in 0..callers::TASKS {
                tasks_of_callers.push(Box::pin(callers::work(callers.clone())));
            }
        }
        tasks.push(Box::pin(async move {
            if crowded && rng.bool() {
                // A place may be free by then.
                let time = Duration::from_millis(rng.u64(..10_000));
                world.sleep(time).await;
            }
            arrived.set(world.moment());
            let in_time = match by_listener {
                true => AcceptQueue::push(&run.queue, theirs, &world),
                false => run.handle.attach(theirs).await.is_ok(),
            };
            run.endpoints.hand_over(in_time);
            if is_late {
                all_there(&world, &all).await;
            }
            match log {
                _ if !in_time => {}
                Some(log) => {
                    callers::client(world, ours, number, log, rng, guarded, &give).await;
                }
                None => script::client(world, ours, number, guarded, style, rng).await,
            }
        }));
    }
    tasks.append(&mut tasks_of_callers);
    let early = Duration::from_millis(rng.u64(..60_000) / rng.u64(1..20));
    let (stop, observe) = (run.clone(), run.clone());
    tasks.push(Box::pin(async move { stop.shut_down(early).await }));
    let observer = rng.fork();
    tasks.push(Box::pin(async move { observe.observe(observer).await }));
    world.run(tasks, || run.quiet(&mut peers));
    verify::check_run(&run, &peers);
    world.trace()
}

/// Nobody leaves before all have come, so that no connection has the number of another.
async fn all_there(world: &World, connections: &RefCell<Vec<Connection>>) {
    for _ in 0..30 {
        if connections.borrow().iter().all(Connection::is_read) {
            break;
        }
        world.sleep(Duration::from_millis(50)).await;
    }
}

/// Notes when the server has begun.
fn serve<S: Store>(run: Rc<Run>, server: Server<S>) -> Work {
    let mut serving = Box::pin(server.run());
    Box::pin(std::future::poll_fn(move |cx| {
        let before = run.world.moment();
        let poll = serving.as_mut().poll(cx).map(drop);
        let mut settings = run.settings.borrow_mut();
        if settings.started.0 == Moment::NEVER {
            settings.started = (before, run.world.moment());
        }
        poll
    }))
}
