//! What everyone hears, against the one history that the store has seen.

#[macro_use]
mod common;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use common::{
    Client, TestServer,
    model::{Expected, assert_answers_but_missed},
    stage::{Actor, Stage},
};
use keywire::{
    Error, Server,
    protocol::{Operation, Reply},
    store::{Batch, Memory, Store},
};

/// What happened, as the store sees it.
enum Entry {
    Change { key: Vec<u8>, line: Vec<u8> },
    Get { key: Vec<u8>, values: Vec<Vec<u8>> },
}

type History = Arc<Mutex<Vec<Entry>>>;

/// Writes the history. It takes several commands before it answers, ends before it has taken all,
/// and fails now and then, all at random.
struct Historian {
    memory: Memory,
    history: History,
    random: fastrand::Rng,
}

impl Historian {
    fn new(seed: u64) -> (Self, History) {
        let history = History::default();
        let historian = Self {
            memory: Memory::new(),
            history: history.clone(),
            random: fastrand::Rng::with_seed(seed),
        };
        (historian, history)
    }
}

impl Store for Historian {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        let mut history = self.history.lock().unwrap();
        let before = history.len();
        let mut undo = (self.random.u8(..8) == 0).then(|| {
            let mut copy = Memory::new();
            for (key, values) in self.memory.iter() {
                values.for_each(|value| copy.put(key, value));
            }
            copy
        });
        loop {
            let most = self.random.usize(1..20);
            let taken: Vec<_> = std::iter::from_fn(|| batch.take()).take(most).collect();
            let ended = taken.len() < most || self.random.u8(..4) == 0;
            for operation in taken {
                match operation {
                    Operation::Get { key } => {
                        // Gets mark the places of everything else, so they don't fail.
                        undo = None;
                        let values = self.memory.get(key);
                        batch.values(values.clone());
                        let (key, values) = (key.to_vec(), values.map(<[u8]>::to_vec).collect());
                        history.push(Entry::Get { key, values });
                    }
                    Operation::Write(_) if self.random.u8(..20) == 0 => {
                        batch.fail(&Error::store("by chance"));
                    }
                    Operation::Write(change) => {
                        self.memory.answer(operation, batch);
                        let (key, mut line) = (change.key().to_vec(), Vec::new());
                        Reply::Change(change).encode(&mut line);
                        line.pop();
                        history.push(Entry::Change { key, line });
                    }
                }
            }
            if ended {
                break;
            }
        }
        if let Some(memory) = undo {
            self.memory = memory;
            history.truncate(before);
            return Err(Error::store("all of it, by chance"));
        }
        Ok(())
    }
}

/// What a client asks for besides writes.
#[derive(Clone, Debug)]
enum Ask {
    Watch(bool, String),
    Unwatch(bool, String),
    Get(String),
}

/// What one client has asked for, in order.
struct Script {
    name: usize,
    asked: Vec<Ask>,
    watching: Vec<(bool, String)>,
}

fn word(random: &mut fastrand::Rng, lengths: std::ops::Range<usize>) -> String {
    let length = random.usize(lengths);
    (0..length)
        .map(|_| ["a", "b", "\u{7f}"][random.usize(..3)])
        .collect()
}

fn random_write(random: &mut fastrand::Rng, out: &mut String) {
    let (key, value) = (word(random, 1..4), random.u8(..20));
    *out += &match random.u8(..6) {
        0 => format!("Delete:{key}\n"),
        1..=2 => format!("Update:{key}:{}:{value}\n", random.u8(..20)),
        _ => format!("Put:{key}:{value}\n"),
    };
}

impl Script {
    fn new(name: usize) -> Self {
        Self {
            name,
            asked: Vec::new(),
            watching: Vec::new(),
        }
    }

    /// The keys before and after what it asked. Nothing is ever put there.
    fn marks(&self, number: usize) -> [String; 2] {
        ["<", ">"].map(|side| format!("{}{side}{number}", self.name))
    }

    fn ask(&mut self, ask: Ask, out: &mut String) {
        let [before, after] = self.marks(self.asked.len());
        let line = match &ask {
            Ask::Watch(false, key) => format!("Watch:{key}"),
            Ask::Watch(true, prefix) => format!("WatchPrefix:{prefix}"),
            Ask::Unwatch(false, key) => format!("Unwatch:{key}"),
            Ask::Unwatch(true, prefix) => format!("UnwatchPrefix:{prefix}"),
            Ask::Get(key) => format!("Get:{key}"),
        };
        *out += &format!("Get:{before}\n{line}\nGet:{after}\n");
        self.asked.push(ask);
    }

    fn ask_something(&mut self, random: &mut fastrand::Rng, out: &mut String) {
        let prefix = random.bool();
        let ask = match random.u8(..8) {
            0..=2 => Ask::Get(word(random, 1..4)),
            3..=5 => {
                let topic = (prefix, word(random, usize::from(!prefix)..4));
                self.watching.push(topic.clone());
                Ask::Watch(topic.0, topic.1)
            }
            _ if self.watching.is_empty() => Ask::Unwatch(prefix, word(random, 1..3)),
            _ => {
                let (prefix, name) = self
                    .watching
                    .swap_remove(random.usize(..self.watching.len()));
                Ask::Unwatch(prefix, name)
            }
        };
        self.ask(ask, out);
    }

    /// What it has to hear, up to where others come between its marks, so that there is no telling.
    /// Says whether that is all.
    fn expected(&self, history: &[Entry], at: &HashMap<&[u8], usize>) -> (Vec<Expected>, bool) {
        let mut asks: HashMap<usize, &Ask> = HashMap::new();
        let mut until = history.len();
        for (number, ask) in self.asked.iter().enumerate() {
            let [before, after] = self
                .marks(number)
                .map(|mark| at.get(mark.as_bytes()).copied());
            let between = usize::from(matches!(ask, Ask::Get(_)));
            match (before, after) {
                (Some(before), Some(after)) if after == before + between + 1 => {
                    asks.insert(before, ask);
                }
                (None, None) => {}
                (Some(doubt), _) => {
                    until = doubt;
                    break;
                }
                (None, Some(_)) => panic!("commands in the wrong order"),
            }
        }
        let mut expected = Vec::new();
        let mut topics = BTreeSet::new();
        for (place, entry) in history[..until].iter().enumerate() {
            match (entry, asks.get(&place)) {
                (_, Some(Ask::Watch(prefix, name))) => {
                    topics.insert((*prefix, name.as_bytes()));
                    let word = if *prefix { "watchprefix" } else { "watch" };
                    expected.push(Expected::Line(format!(":{word}:{name}").into_bytes()));
                }
                (_, Some(Ask::Unwatch(prefix, name))) => {
                    topics.remove(&(*prefix, name.as_bytes()));
                }
                (_, Some(Ask::Get(asked))) => {
                    let Entry::Get { key, values } = &history[place + 1] else {
                        unreachable!("the marks have its Get between them");
                    };
                    assert_eq!(asked.as_bytes(), key);
                    let line = |value: &Vec<u8>| Expected::Line([&key[..], b":", value].concat());
                    expected.extend(values.iter().map(line));
                }
                (Entry::Change { key, line }, None) => {
                    let matches = |&(prefix, name): &(bool, &[u8])| match prefix {
                        true => key.starts_with(name),
                        false => key == name,
                    };
                    if topics.iter().any(matches) {
                        expected.push(Expected::Event(line.clone()));
                    }
                }
                (Entry::Get { .. }, None) => {}
            }
        }
        (expected, until == history.len())
    }
}

/// What was said and heard at a server, to be checked in the end.
struct Minutes {
    history: History,
    /// Whether clients can miss events, so that not every line has its place.
    may_miss: bool,
    checked: usize,
    doubtful: usize,
    missed: u64,
}

impl Minutes {
    /// Checks what a client heard; all of it, or up to where it left.
    fn check(&mut self, script: &Script, heard: &str, left: bool) {
        let history = self.history.lock().unwrap();
        let marks = history
            .iter()
            .enumerate()
            .filter_map(|(at, entry)| match entry {
                Entry::Get { key, .. } => Some((&key[..], at)),
                Entry::Change { .. } => None,
            });
        let (expected, all) = script.expected(&history, &marks.collect());
        // Writes may fail, and who was cut off may not have heard the end of a line.
        let whole = heard
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let heard: Vec<_> = whole.filter(|line| !line.starts_with(":error:")).collect();
        let lines = match all {
            true => heard.len(),
            false if self.may_miss => {
                self.doubtful += 1;
                return;
            }
            false => heard.len().min(expected.len()),
        };
        let heard = heard[..lines].concat();
        self.missed += assert_answers_but_missed(heard.as_bytes(), &expected, all && !left);
        self.checked += 1;
    }
}

/// A client on the stage.
struct Player {
    actor: Actor,
    script: Script,
    heard: String,
    /// It hears everything at once, always.
    attentive: bool,
}

fn play(seed: u64) -> Minutes {
    let random = &mut fastrand::Rng::with_seed(seed);
    let (historian, history) = Historian::new(seed);
    let mut minutes = Minutes {
        history,
        may_miss: true,
        checked: 0,
        doubtful: 0,
        missed: 0,
    };
    // A client that does not read may still read later, so no reply is dropped.
    let server = Server::builder()
        .outbox_bytes([50, 200, 1000, 100_000][random.usize(..4)])
        .outbox_lines([3, 20, 500][random.usize(..3)])
        .overflow([keywire::Overflow::Drop, keywire::Overflow::Wait][random.usize(..2)])
        .stall_timeout(Duration::from_secs(3600))
        .store(historian);
    let mut stage = Stage::new(server.build());
    let mut players: Vec<Player> = Vec::new();
    let mut names = 0;
    for _ in 0..random.usize(50..200) {
        if players.len() < 3 || (players.len() < 8 && random.u8(..10) == 0) {
            let attentive = random.bool();
            let buffer = if attentive {
                1 << 20
            } else {
                random.usize(1..100)
            };
            players.push(Player {
                actor: stage.join_with(buffer),
                script: Script::new(names),
                heard: String::new(),
                attentive,
            });
            names += 1;
        }
        for player in &mut players {
            let mut words = String::new();
            for _ in 0..random.usize(..3) {
                match random.u8(..3) {
                    0 => player.script.ask_something(random, &mut words),
                    _ => (0..random.usize(..8)).for_each(|_| random_write(random, &mut words)),
                }
            }
            player.actor.say(words);
        }
        // Or else what they say next is for the same round.
        if random.u8(..3) > 0 {
            stage.play();
        }
        for player in &mut players {
            if player.attentive || random.u8(..6) == 0 {
                player.heard += &player.actor.hear();
            }
        }
        if random.u8(..20) == 0 {
            let mut player = players.swap_remove(random.usize(..players.len()));
            let last = player.actor.hear();
            player.heard += &last;
            drop(player.actor);
            stage.play();
            minutes.check(&player.script, &player.heard, true);
        }
    }
    loop {
        let more = players.iter_mut().map(|player| {
            let more = player.actor.hear_all(&mut stage);
            player.heard += &more;
            more.len()
        });
        if more.sum::<usize>() == 0 {
            break;
        }
    }
    for player in &players {
        minutes.check(&player.script, &player.heard, false);
    }
    let watched = players.len() as u64;
    assert_eq!(stage.stats().active, watched);
    drop(players);
    assert_eq!(stage.stats().watching, 0);
    stage.end();
    minutes
}

#[test]
fn everyone_hears_what_the_history_says() {
    let (mut checked, mut doubtful, mut missed) = (0, 0, 0);
    for seed in 0..150 {
        // Named here, because only a failed test shows it.
        println!("seed {seed}");
        let minutes = play(seed);
        checked += minutes.checked;
        doubtful += minutes.doubtful;
        missed += minutes.missed;
    }
    assert!(
        checked > 5 * doubtful,
        "{checked} checked, {doubtful} doubtful"
    );
    assert!(missed > 1000, "{missed} missed");
}

/// Says its part, piece by piece, and hears everything meanwhile.
fn perform(mut client: Client, name: usize, leaves: bool) -> (Script, String) {
    let random = &mut fastrand::Rng::with_seed(name as u64);
    let mut script = Script::new(name);
    let mut heard = Vec::new();
    thread::scope(|scope| {
        let sender = client.stream().try_clone().unwrap();
        let script = &mut script;
        scope.spawn(move || {
            for _ in 0..random.usize(20..60) {
                let mut words = String::new();
                for _ in 0..random.usize(1..20) {
                    match random.u8(..6) {
                        0 => script.ask_something(random, &mut words),
                        _ => (0..20).for_each(|_| random_write(random, &mut words)),
                    }
                }
                std::io::Write::write_all(&mut &sender, words.as_bytes()).unwrap();
            }
            if leaves {
                sender.shutdown(std::net::Shutdown::Write).unwrap();
            } else {
                std::io::Write::write_all(&mut &sender, b"Sync:said\n").unwrap();
            }
        });
        while let Some(line) = client.line().filter(|line| line != b":sync:0:said") {
            heard.extend(line);
            heard.push(b'\n');
        }
    });
    (script, String::from_utf8(heard).unwrap())
}

on_every_executor! {
    fn on_sockets_everyone_hears_what_the_history_says(place: Place) {
        let (historian, history) = Historian::new(7);
        let server = TestServer::start(place, Server::builder().store(historian).build());
        let mut minutes = Minutes { history, may_miss: false, checked: 0, doubtful: 0, missed: 0 };
        let heard: Vec<_> = thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|name| {
                    let client = server.connect();
                    scope.spawn(move || perform(client, name, name % 2 == 0))
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        for (script, heard) in &heard {
            minutes.check(script, heard, true);
            assert!(heard.lines().count() > 100);
        }
        assert_eq!(minutes.missed, 0, "who reads misses nothing");
        assert_eq!((minutes.checked, minutes.doubtful), (8, 0));
    }
}
