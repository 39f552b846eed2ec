//! A server, its clients and the network between them, in one thread and under one seed.
//!
//! Every run is another one: clients that read, that don't, that are slow, that watch, that break
//! off, a store with whims, a network that delivers as it likes, and a shutdown at any moment. What
//! every client saw is held against the one history that the store kept.
//!
//! `SEED=n cargo test --test simulation` repeats one run, `RUNS=n` makes so many.

mod common;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    env,
    panic::{self, AssertUnwindSafe},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    history::{History, Log, Sent, Whimsical, check},
    world::{End, World, WorldClock},
};
use fastrand::Rng;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future, io::split};
use keywire::{Handle, Overflow, Server, store::Memory};

/// Runs in a plain `cargo test`.
const RUNS: u64 = 400;

const MAX_LINE: usize = 48;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reading {
    Eager,
    Slow,
    /// Not before everything is sent, and some time has passed.
    Late,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    /// No more input, then all replies.
    Polite,
    /// Within a line.
    Half,
    /// With a reset, at any moment.
    Reset,
    /// Waits for the server to end.
    Stays,
}

/// What a client sends: the lines, and their bytes.
fn script(client: usize, rng: &mut Rng) -> Vec<(Sent, Vec<u8>)> {
    let mut lines = Vec::new();
    for number in 0..rng.usize(..60) {
        let tag = format!("{client}.{number}");
        let key = format!("k{}", rng.u8(..4));
        let old = format!("{client}.{}", rng.usize(..=number));
        let name = ["w", "k0", "k1#", "k", ""][rng.usize(..5)];
        let topic = |sent: fn(Vec<u8>, bool) -> Sent, word: &str, prefix: bool| {
            let prefix = prefix || name.is_empty();
            let word = if prefix {
                format!("{word}Prefix")
            } else {
                word.into()
            };
            (sent(name.into(), prefix), format!("{word}:{name}"))
        };
        let command = Sent::Command(number);
        let (sent, line) = match rng.u8(..22) {
            0..=3 => (command, format!("Put:{key}#{tag}:{tag}")),
            4 => (command, format!("Put:w:{tag}")),
            5..=9 => (command, format!("Get:{key}#{tag}")),
            10 => (command, format!("Update:{key}#{tag}:{old}:{tag}")),
            11 => (command, format!("Update:w:{old}:{tag}")),
            12 => (command, format!("Delete:{key}#{tag}")),
            13..=15 => (Sent::Sync(tag.clone()), format!("Sync:{tag}")),
            16 => (Sent::Stats, "Stats".into()),
            17 => topic(Sent::Watch, "Watch", false),
            18 => topic(Sent::Watch, "Watch", true),
            19 => topic(Sent::Unwatch, "Unwatch", rng.bool()),
            20 => (Sent::Blank, String::new()),
            _ => match rng.u8(..3) {
                0 => (Sent::Wrong("unknown"), "get:k".into()),
                1 => (Sent::Wrong("malformed"), "Put:k".into()),
                _ => (
                    Sent::Wrong("too-long"),
                    "x".repeat(MAX_LINE + rng.usize(1..200)),
                ),
            },
        };
        lines.push((sent, format!("{line}\n").into_bytes()));
    }
    lines
}

/// Sends its script and reads as it likes; what it did and saw is in the log.
async fn client(world: World, end: End, log: Rc<RefCell<Log>>, mut rng: Rng) {
    let number = log.borrow().client;
    let reading = [
        Reading::Eager,
        Reading::Eager,
        Reading::Slow,
        Reading::Late,
        Reading::Never,
    ];
    let reading = reading[rng.usize(..reading.len())];
    let ending = [
        Ending::Polite,
        Ending::Polite,
        Ending::Half,
        Ending::Reset,
        Ending::Stays,
    ];
    let ending = ending[rng.usize(..ending.len())];
    let lines = script(number, &mut rng);
    let wires = end.wires();
    let (mut reader, mut writer) = split(end);
    let served = wires.clone();
    let sent_all = Rc::new(RefCell::new(false));

    let write = async {
        for chunk in lines.chunks(rng.usize(1..20)) {
            let step = world.steps();
            let bytes: Vec<u8> = chunk.iter().flat_map(|(_, line)| line.clone()).collect();
            log.borrow_mut()
                .sent
                .extend(chunk.iter().map(|(sent, _)| (sent.clone(), step)));
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
            if rng.u8(..4) == 0 {
                world.sleep(Duration::from_millis(rng.u64(..900))).await;
            }
            if ending == Ending::Reset && rng.u8(..8) == 0 {
                break;
            }
        }
        match ending {
            Ending::Reset => wires.reset(),
            Ending::Half => {
                let _ = writer.write_all(b"Put:ha").await;
                let _ = writer.close().await;
            }
            Ending::Polite => drop(writer.close().await),
            Ending::Stays => {}
        }
        *sent_all.borrow_mut() = true;
    };
    let read = async {
        let mut rest = Vec::new();
        let mut buffer = [0; 256];
        let mut slow = Rng::with_seed(number as u64);
        if reading == Reading::Late {
            while !*sent_all.borrow() {
                world.sleep(Duration::from_millis(100)).await;
                if slow.u8(..20) == 0 {
                    break;
                }
            }
            world.sleep(Duration::from_millis(slow.u64(..3000))).await;
        }
        if reading == Reading::Never {
            world.sleep(Duration::from_secs(20)).await;
            wires.reset();
            return;
        }
        while let Ok(n) = reader.read(&mut buffer).await {
            if n == 0 {
                log.borrow_mut().ended = rest.is_empty().then(|| world.steps());
                break;
            }
            rest.extend_from_slice(&buffer[..n]);
            let step = world.steps();
            while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                let mut line: Vec<u8> = rest.drain(..=end).collect();
                line.pop();
                log.borrow_mut().received.push((line, step));
            }
            if reading == Reading::Slow {
                world.sleep(Duration::from_millis(slow.u64(..600))).await;
            }
        }
    };
    // The server's end of the stream ends the client, whatever it still has to send.
    future::or(read, async {
        write.await;
        future::pending().await
    })
    .await;
    log.borrow_mut().written = served.written();
    log.borrow_mut().read = served.read();
}

/// Shuts the server down at some moment, and looks that nothing is left of it.
async fn shut_down(
    world: World,
    handle: Handle,
    ends: Arc<()>,
    (early, grace): (Duration, Duration),
    stopped: Rc<RefCell<u64>>,
    outside: Rc<Cell<usize>>,
) {
    world.sleep(early).await;
    *stopped.borrow_mut() = world.steps();
    // It returns at once where the server has not begun to run.
    while !handle.is_closed() {
        handle.shutdown(grace).await;
        world.give_way().await;
    }
    assert_eq!(handle.stats().active, 0);
    // Those that had not come in by then are the clients' own.
    assert_eq!(
        Arc::strong_count(&ends) - 1,
        outside.get(),
        "connections are left"
    );
}

/// One run. Gives a digest of it.
fn run(seed: u64) -> u64 {
    let mut rng = Rng::with_seed(seed);
    let world = World::new(rng.u64(..));
    let history = History::default();
    let policy = [
        Overflow::Drop,
        Overflow::Drop,
        Overflow::Disconnect,
        Overflow::Wait,
    ];
    let policy = policy[rng.usize(..policy.len())];
    let stall = [Duration::from_millis(rng.u64(..1000)), Duration::MAX][rng.usize(..2)];
    let outbox_lines = rng.usize(1..30);
    let server = Server::builder()
        .max_line(MAX_LINE)
        .outbox_lines(outbox_lines)
        .outbox_bytes(rng.usize(1..2000))
        .overflow(policy)
        .stall(stall)
        .clock(WorldClock {
            world: world.clone(),
            start: Instant::now(),
        })
        .store(Whimsical {
            world: world.clone(),
            memory: Memory::new(),
            history: history.clone(),
        })
        .build();
    let handle = server.handle();
    let ends = Arc::new(());
    let clients = rng.usize(1..6);
    let early = Duration::from_millis(rng.u64(..60_000) / rng.u64(1..20));
    let grace = [
        Duration::ZERO,
        Duration::from_millis(rng.u64(..2000)),
        Duration::MAX,
    ];
    let grace = grace[rng.usize(..3)];

    let logs: Vec<Rc<RefCell<Log>>> = (0..clients)
        .map(|client| {
            Rc::new(RefCell::new(Log {
                client,
                ..Log::default()
            }))
        })
        .collect();
    let mut tasks: Vec<std::pin::Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    tasks.push(Box::pin(async move { drop(server.run().await) }));
    let stopped = Rc::new(RefCell::new(u64::MAX));
    let outside = Rc::new(Cell::new(clients));
    let stop = shut_down(
        world.clone(),
        handle.clone(),
        ends.clone(),
        (early, grace),
        stopped.clone(),
        outside.clone(),
    );
    for log in &logs {
        let (ours, theirs) = world.connect(rng.usize(1..400), &ends);
        let (world, handle, log, rng) = (world.clone(), handle.clone(), log.clone(), rng.fork());
        let outside = outside.clone();
        tasks.push(Box::pin(async move {
            let attached = handle.attach(theirs).await;
            outside.set(outside.get() - 1);
            if attached.is_ok() {
                client(world, ours, log, rng).await;
            }
        }));
    }
    drop(ends);
    tasks.push(Box::pin(stop));
    world.run(tasks);

    let entries = history.entries();
    let mut by_tag = HashMap::new();
    for (place, entry) in entries.iter().enumerate() {
        let twice = by_tag.insert(entry.tag, place);
        assert!(twice.is_none(), "{:?} was applied twice", entry.tag);
    }
    for log in &logs {
        let mut log = log.borrow_mut();
        // A shutdown whose time is over may cut off anything, and so may a server that counts a
        // client as one that does not read.
        let patient =
            policy == Overflow::Wait || policy == Overflow::Drop && stall == Duration::MAX;
        if grace < Duration::MAX || !patient {
            log.ended = None;
        }
        log.complete = log.ended.is_some_and(|end| end < *stopped.borrow());
        if env::var_os("SHOW").is_some() {
            eprintln!("{policy:?} stall {stall:?} grace {grace:?}: {log:?}");
        }
        // What was read before that is applied.
        let stopped = match patient && grace == Duration::MAX {
            true => *stopped.borrow(),
            false => 0,
        };
        check(&log, &entries, &by_tag, outbox_lines, stopped);
        for (line, _) in &log.received {
            world.note(line);
        }
    }
    let stats = handle.stats();
    assert!(stats.dropped <= clients as u64);
    world.trace()
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().expect(name))
}

#[test]
fn every_run_agrees_with_its_history() {
    if let Some(seed) = number("SEED") {
        run(seed);
        return;
    }
    let runs = number("RUNS").unwrap_or(RUNS);
    let first = number("FIRST").unwrap_or(0);
    for seed in first..first + runs {
        if let Err(panic) = panic::catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("SEED={seed} cargo test --test simulation repeats it");
            panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_seed_is_a_run_to_the_last_byte() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
