//! One run: a server, its clients, and what is looked at meanwhile.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    env,
    rc::Rc,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use fastrand::Rng;
use keywire::{Handle, Overflow, Secret, Server, Stats, store::Memory};

use crate::{
    bounds,
    callers::{self, Diary},
    check::{self, Check, Quiet},
    counts::{self, Ledger},
    entry,
    history::{History, Whimsical},
    limits,
    listener::{Door, Porch},
    network::{Wires, connect},
    script,
    settings::Settings,
    watched::{self, Watched},
    world::{Moment, Work, World, WorldClock},
};

/// What time may pass by itself while the last tasks end.
const DELAY: Duration = Duration::from_secs(10);

/// The connections on the server's side.
struct Ends {
    /// Each of them holds one.
    all: Arc<()>,
    /// Those that the server does not have yet.
    outside: Cell<usize>,
    /// Those that it ever had.
    handed: Cell<u64>,
}

impl Ends {
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
struct Seat {
    wires: Wires,
    /// When it came to the server.
    knocked: Rc<Cell<Moment>>,
    /// Where it is the library's own.
    diary: Option<Rc<Diary>>,
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
    ends: Ends,
    porch: Arc<Mutex<Porch>>,
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
        let waiting = Porch::waiting(&self.porch) as u64;
        let (handed, inside) = (self.ends.handed.get(), self.ends.inside());
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
        assert_eq!(self.ends.inside(), 0, "connections are left");
    }

    /// Nothing can happen before time passes.
    fn quiet(&self, seats: &mut [Seat]) {
        let record = self.history.record();
        let settings = self.settings.borrow();
        let at = self.world.moment();
        if record.busy || at > settings.stopped {
            return;
        }
        for seat in &mut *seats {
            let standing = seat.wires.standing();
            let written = seat.wires.written();
            let since = match seat.blocked {
                Some((since, before)) if before == written => since,
                _ => at,
            };
            seat.blocked = standing.blocked.then_some((since, written));
            let stalled = standing.blocked && at.now - since.now >= settings.stall;
            seat.quiet.push(Quiet {
                at,
                entries: record.entries.len(),
                drained: standing.drained,
                stalled: stalled && settings.overflow != Overflow::Wait,
            });
            // Where there is a rate, it may be that which they wait for.
            let still = standing.still && !settings.is_paced();
            if let Some(diary) = seat.diary.as_ref().filter(|_| still) {
                assert_eq!(diary.under_way.get(), 0, "a call waits, and for nothing");
            }
        }
        let stats = self.look();
        let waiting = Porch::waiting(&self.porch) as u64;
        let (handed, inside) = (self.ends.handed.get(), self.ends.inside());
        assert!(stats.active <= settings.max_clients as u64, "{stats:?}");
        if settings.started.1 < at {
            // Who is turned away is there until that is told.
            let parting = stats.refused - (handed - inside - stats.dropped);
            assert_eq!(
                (stats.active + waiting + parting, stats.refused),
                (inside, stats.full_clients),
                "{stats:?}: {handed} came, {inside} are there"
            );
            let told = seats.iter().filter(|seat| seat.wires.is_parting()).count() as u64;
            assert!(told <= parting, "{stats:?}: {told} are being turned away");
            assert_eq!(counts::operations(&stats), record.entries.len() as u64);
        }
    }
}

/// One run. Gives a digest of it.
pub(crate) fn run(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let world = World::new(rng.u64(..));
    let history = History::default();
    let settings = Settings::choose(&mut rng);
    let mut server = Server::builder();
    if settings.secret {
        server = server.secret(Secret::new(entry::SECRET).expect("a secret"));
    }
    let mut server = server
        .max_line(script::MAX_LINE)
        .outbox_lines(settings.outbox_lines)
        .outbox_bytes(settings.outbox_bytes)
        .max_watches(settings.max_watches)
        .max_clients(settings.max_clients)
        .line_timeout(settings.line_time)
        .idle_timeout(settings.idle)
        .max_line_rate(settings.rate)
        .overflow(settings.overflow)
        .stall_timeout(settings.stall)
        .max_store(settings.whims.max_store)
        .max_values(settings.whims.max_values)
        .clock(WorldClock {
            world: world.clone(),
            start: Instant::now(),
        })
        .store(Whimsical {
            world: world.clone(),
            memory: Memory::new(),
            history: history.clone(),
            whims: settings.whims,
        })
        .build();
    let (door, porch) = Door::new(&world);
    server.listen(door);
    let clients = rng.usize(1..6);
    let (crowded, guarded) = (settings.max_clients < usize::MAX, settings.secret);
    let run = Rc::new(Run {
        settings: RefCell::new(settings),
        world: world.clone(),
        handle: server.handle(),
        history,
        ends: Ends {
            all: Arc::new(()),
            outside: Cell::new(clients),
            handed: Cell::new(0),
        },
        porch,
        last: Cell::default(),
    });
    let mut seats = Vec::new();
    let mut tasks: Vec<Work> = vec![serve(run.clone(), server)];
    let mut tasks_of_callers: Vec<Work> = Vec::new();
    for number in 0..clients {
        let capacity = rng.usize(1..400);
        let (ours, theirs) = connect(&world, capacity, &run.ends.all);
        let wires = ours.wires();
        let knocked = Rc::new(Cell::new(Moment::NEVER));
        let diary = (rng.u8(..4) == 0).then(Rc::<Diary>::default);
        seats.push(Seat {
            wires,
            diary: diary.clone(),
            knocked: knocked.clone(),
            quiet: Vec::new(),
            blocked: None,
        });
        let (by_door, run, mut rng) = (rng.bool(), run.clone(), rng.fork());
        let world = world.clone();
        let (give, callers) = async_channel::bounded(callers::TASKS);
        if diary.is_some() {
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
            knocked.set(world.moment());
            let in_time = match by_door {
                true => Porch::knock(&run.porch, theirs, &world),
                false => run.handle.attach(theirs).await.is_ok(),
            };
            run.ends.hand_over(in_time);
            match diary {
                _ if !in_time => {}
                Some(diary) => {
                    callers::client(world, ours, number, diary, rng, guarded, &give).await;
                }
                None => script::client(world, ours, number, guarded, rng).await,
            }
        }));
    }
    tasks.append(&mut tasks_of_callers);
    let early = Duration::from_millis(rng.u64(..60_000) / rng.u64(1..20));
    let (stop, observe) = (run.clone(), run.clone());
    tasks.push(Box::pin(async move { stop.shut_down(early).await }));
    let observer = rng.fork();
    tasks.push(Box::pin(async move { observe.observe(observer).await }));
    world.run(tasks, || run.quiet(&mut seats));
    check_run(&run, &seats);
    world.trace()
}

/// Notes when the server has begun.
fn serve(run: Rc<Run>, server: Server<Whimsical>) -> Work {
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

/// Holds everything that was seen against the history.
fn check_run(run: &Run, seats: &[Seat]) {
    let settings = run.settings.borrow();
    let record = run.history.record();
    let shows = env::var_os("SHOW").is_some();
    if shows {
        eprintln!("{settings:?}");
        for entry in &record.entries {
            eprintln!("{entry:?}");
        }
    }
    let mut by_tag = HashMap::new();
    for (place, entry) in record.entries.iter().enumerate() {
        let twice = by_tag.insert(entry.tag, place);
        assert!(twice.is_none(), "{:?} was applied twice", entry.tag);
    }
    let ways: Vec<_> = seats.iter().map(|seat| seat.wires.ways()).collect();
    let mut checks = Vec::new();
    for (client, (down, up)) in ways.iter().enumerate() {
        if shows {
            eprintln!("client {client}: {up:?}\nwas told {down:?}");
        }
        let mut check = Check::new(client, &settings, (down, up), &record, &by_tag);
        check.run(&seats[client].quiet);
        checks.push(check);
        down.lines
            .iter()
            .for_each(|line| run.world.note(&line.text));
    }
    let came = seats.iter().zip(&checks);
    let came: Vec<_> = came
        .map(|(seat, check)| (seat.knocked.get(), check.down, check.entry.turned_away))
        .collect();
    entry::check_full(&settings, &came, &seats[0].quiet);
    let watched: Vec<Watched> = checks.iter().map(Watched::of).collect();
    for ((check, watched), seat) in checks.iter().zip(&watched).zip(seats) {
        watched::check_watched(check, watched);
        limits::check_limits(check);
        bounds::check_bounds(check, watched, &record, &seat.quiet);
    }
    let ledger = Ledger {
        settings: &settings,
        checks: &checks,
        watched: &watched,
        record: &record,
        handed: run.ends.handed.get() - Porch::late(&run.porch),
        door_errors: Porch::errors(&run.porch),
    };
    let mut all_seen: Vec<(&Check<'_>, &check::Seen)> = checks
        .iter()
        .flat_map(|check| check.stats.iter().map(move |seen| (check, seen)))
        .collect();
    all_seen.sort_by_key(|(_, seen)| seen.stats.stats);
    for (check, seen) in &all_seen {
        ledger.check_seen(check, seen);
    }
    for pair in all_seen.windows(2) {
        assert!(
            pair[0].1.stats.stats < pair[1].1.stats.stats,
            "the same Stats"
        );
        counts::follow(&pair[0].1.stats, &pair[1].1.stats);
    }
    let last = run.handle.stats();
    if let Some((_, seen)) = all_seen.last() {
        counts::follow(&seen.stats, &last);
    }
    ledger.check_last(&last);
    for (client, seat) in seats.iter().enumerate() {
        if let Some(diary) = &seat.diary {
            let up = &ways[client].1;
            callers::check_calls(client, diary, &record, &by_tag, &settings, up);
        }
    }
}
