//! Kills at random moments under load. `SEED=n` repeats the choices of one run, `RUNS=n` makes so many
//! rounds, `BELOW=directory` on another file system. (What is under way at the moment of the kill is up to the system.)

use std::{
    collections::VecDeque,
    env, io,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;

use crate::{
    model::{History, KEYS, MAX_VALUES, SHARED, client_of},
    process::{Connection, Directory, Lists, Process, server, spawn},
};

const CLIENTS: usize = 4;
const RUNS: u64 = 200;

/// Rounds in one directory.
const ROUNDS: usize = 25;

type Histories = Arc<Vec<Mutex<History>>>;

#[test]
fn what_was_acknowledged_survives_kills() {
    let number = |name| env::var(name).ok().map(|text| text.parse().expect(name));
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let runs = number("RUNS").unwrap_or(RUNS);
    eprintln!("SEED={seed} RUNS={runs}");
    let mut rng = Rng::with_seed(seed);
    let (mut writes, mut unacknowledged, mut survived) = (0, 0, 0);
    let began = Instant::now();
    for first in (0..runs).step_by(ROUNDS) {
        let directory = match env::var("BELOW") {
            Ok(parent) => Directory::below(&parent),
            Err(_) => Directory::in_memory(),
        };
        let length = [120, 10_000][rng.usize(..2)];
        let histories = (0..CLIENTS).map(|client| Mutex::new(History::new(client, length)));
        let histories: Histories = Arc::new(histories.collect());
        for _ in first..runs.min(first + ROUNDS as u64) {
            let (lost, kept) = round(&mut rng, &directory, &histories);
            unacknowledged += lost;
            survived += kept;
        }
        let written = histories.iter().map(|each| each.lock().unwrap().next());
        writes += written.sum::<usize>();
    }
    let took = began.elapsed().as_secs_f64();
    eprintln!("{runs} rounds, {writes} writes in {took:.1} s");
    eprintln!("not acknowledged: {unacknowledged}, of these survived: {survived}");
}

/// A start, a check of what is there, and a kill under load.
fn round(rng: &mut Rng, directory: &Directory, histories: &Histories) -> (usize, usize) {
    let max_values = format!("max_values={MAX_VALUES}");
    // Most snapshots begin and end within a round, and some logs last for several.
    let min_log = format!("min_log={}", [1, 5_000, 50_000, 500_000][rng.usize(..4)]);
    let options = [max_values.as_str(), &min_log];
    while rng.u8(..4) == 0 {
        let mut child = spawn(&mut server(directory.path(), &options));
        thread::sleep(Duration::from_micros(rng.u64(..60_000)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let process = Process::start(directory.path(), &options);
    let result = settle(histories, &process.connect().lists());
    let mut threads = Vec::new();
    for client in 0..CLIENTS {
        let (address, histories, rng) =
            (process.address().to_owned(), histories.clone(), rng.fork());
        threads.push(thread::spawn(move || {
            write(&address, &histories[client], rng)
        }));
    }
    let (address, others, seed) = (process.address().to_owned(), histories.clone(), rng.fork());
    threads.push(thread::spawn(move || read(&address, &others, seed)));
    let (address, others) = (process.address().to_owned(), histories.clone());
    threads.push(thread::spawn(move || watch(&address, &others)));
    thread::sleep(Duration::from_micros(rng.u64(..120_000)));
    if rng.u8(..10) == 0 {
        process.stop();
    } else {
        process.kill();
    }
    for thread in threads {
        // They end with the connection.
        thread.join().unwrap().unwrap_err();
    }
    result
}

fn settle(histories: &Histories, found: &Lists) -> (usize, usize) {
    let mut sum = (0, 0);
    for shared in 0..SHARED {
        let Some(list) = found.get(&format!("s{shared}")) else {
            continue;
        };
        let [value] = &list[..] else {
            panic!("s{shared} has {list:?}");
        };
        let writer = &histories[client_of(value)];
        let plausible = writer.lock().unwrap().may_share(shared, value);
        assert!(plausible, "s{shared} has {value}");
    }
    for history in histories.iter() {
        let (lost, kept) = history.lock().unwrap().settle(found);
        sum = (sum.0 + lost, sum.1 + kept);
    }
    let keys = found.keys().filter(|key| key.starts_with('c')).count();
    assert!(keys <= CLIENTS * KEYS, "{:?}", found.keys());
    sum
}

/// Writes, in pipelines of any length, until the connection ends.
fn write(address: &str, history: &Mutex<History>, mut rng: Rng) -> io::Result<()> {
    let mut connection = Connection::to(address)?;
    let mut waiting = VecDeque::new();
    loop {
        let (lines, end, expected) = burst(history, &mut rng);
        waiting.push_back((end, expected));
        connection.send(&lines)?;
        while waiting.len() > rng.usize(..4) {
            let Some((end, expected)) = waiting.pop_front() else {
                break;
            };
            let replies = connection.read_to_sync(end)?;
            let is_refusal = |line: &String| line.starts_with(":error:");
            let (refused, lines): (Vec<_>, Vec<_>) = replies.into_iter().partition(is_refusal);
            for line in &refused {
                assert_eq!(line.split(':').nth(3), Some("full"), "{line}");
            }
            assert_eq!((refused.len(), lines), expected);
            history.lock().unwrap().acknowledge(end);
        }
    }
}

/// Lines, the number behind the last write, and how many are refused and what is read.
fn burst(history: &Mutex<History>, rng: &mut Rng) -> (String, usize, (usize, Vec<String>)) {
    let mut history = history.lock().unwrap();
    let mut lines = String::new();
    let mut expected = (0, Vec::new());
    let length = [1, 3, 20, 100][rng.usize(..4)];
    for _ in 0..rng.usize(1..=length) {
        if rng.u8(..8) == 0 {
            let (line, values) = history.get(rng);
            lines += &line;
            expected.1.extend(values);
        } else {
            let (write, refused) = history.write(rng);
            lines += &history.line(&write);
            expected.0 += usize::from(refused);
        }
    }
    let end = history.next();
    lines += &format!("Sync:{end}\n");
    (lines, end, expected)
}

/// Reads the keys of all clients until the connection ends.
fn read(address: &str, histories: &Histories, mut rng: Rng) -> io::Result<()> {
    let mut connection = Connection::to(address)?;
    loop {
        let client = rng.usize(..CLIENTS);
        if rng.bool() {
            let key = rng.usize(..KEYS);
            let name = History::key(client, key);
            connection.send(&format!("Get:{name}\nSync:0\n"))?;
            let lists = crate::process::to_lists(&connection.read_to_sync(0)?);
            let list = lists.into_values().next().unwrap_or_default();
            histories[client].lock().unwrap().show(key, list);
        } else {
            connection.send(&format!("GetPrefix:c{client}k\nSync:0\n"))?;
            let mut lists = crate::process::to_lists(&connection.read_to_sync(0)?);
            let mut history = histories[client].lock().unwrap();
            for key in 0..KEYS {
                let list = lists.remove(&History::key(client, key));
                history.show(key, list.unwrap_or_default());
            }
        }
    }
}

/// Watches the keys of all clients until the connection ends.
fn watch(address: &str, histories: &Histories) -> io::Result<()> {
    let mut connection = Connection::to(address)?;
    connection.send("WatchPrefix:c\n")?;
    loop {
        let line = connection.line()?;
        let parts: Vec<_> = line.split(':').collect();
        let value = match parts[..] {
            ["", "put" | "set", _, value] => value,
            ["", "update", _, _, new] => new,
            _ => continue,
        };
        histories[client_of(value)].lock().unwrap().tell(value);
    }
}
