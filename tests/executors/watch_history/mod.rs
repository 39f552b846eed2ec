//! What everyone hears, against the one history that the store has seen.

mod script;
mod store;

use std::{thread, time::Duration};

use keywire::Server;
use script::{Script, random_write};
use store::{Entry, History, RecordingStore};

use crate::common::{
    Client,
    local::{LocalClient, LocalServer},
    model::assert_answers_but_missed,
    stores::ManualClock,
};

/// What was said and heard at a server, to be checked in the end.
struct Transcript {
    history: History,
    /// Whether clients can miss events, so that not every line has its place.
    may_miss: bool,
    checked: usize,
    doubtful: usize,
    missed: u64,
}

impl Transcript {
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

/// A client of the local server, and what it was told.
struct ScriptedClient {
    connection: LocalClient,
    script: Script,
    heard: String,
    /// It hears everything at once, always.
    attentive: bool,
}

fn play(seed: u64) -> Transcript {
    let random = &mut fastrand::Rng::with_seed(seed);
    let (store, history) = RecordingStore::new(seed);
    let mut transcript = Transcript {
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
        .clock(ManualClock::new())
        .store(store);
    let mut server = LocalServer::new(server.build());
    let mut clients: Vec<ScriptedClient> = Vec::new();
    let mut names = 0;
    for _ in 0..random.usize(50..200) {
        if clients.len() < 3 || (clients.len() < 8 && random.u8(..10) == 0) {
            let attentive = random.bool();
            let buffer = if attentive {
                1 << 20
            } else {
                random.usize(1..100)
            };
            clients.push(ScriptedClient {
                connection: server.connect_with(buffer),
                script: Script::new(names),
                heard: String::new(),
                attentive,
            });
            names += 1;
        }
        for client in &mut clients {
            let mut words = String::new();
            for _ in 0..random.usize(..3) {
                match random.u8(..3) {
                    0 => client.script.ask_something(random, &mut words),
                    _ => (0..random.usize(..8)).for_each(|_| random_write(random, &mut words)),
                }
            }
            client.connection.send(words);
        }
        // Or else what they say next is for the same round.
        if random.u8(..3) > 0 {
            server.run();
        }
        for client in &mut clients {
            if client.attentive || random.u8(..6) == 0 {
                client.heard += &client.connection.received();
            }
        }
        if random.u8(..20) == 0 {
            let mut client = clients.swap_remove(random.usize(..clients.len()));
            let last = client.connection.received();
            client.heard += &last;
            drop(client.connection);
            server.run();
            transcript.check(&client.script, &client.heard, true);
        }
    }
    loop {
        let more = clients.iter_mut().map(|client| {
            let more = client.connection.receive_all(&mut server);
            client.heard += &more;
            more.len()
        });
        if more.sum::<usize>() == 0 {
            break;
        }
    }
    for client in &clients {
        transcript.check(&client.script, &client.heard, false);
    }
    let watched = clients.len() as u64;
    assert_eq!(server.stats().active, watched);
    drop(clients);
    assert_eq!(server.stats().watching, 0);
    server.shut_down();
    transcript
}

#[test]
fn everyone_hears_what_the_history_says() {
    let (mut checked, mut doubtful, mut missed) = (0, 0, 0);
    for seed in 0..150 {
        // Named here, because only a failed test shows it.
        println!("seed {seed}");
        let transcript = play(seed);
        checked += transcript.checked;
        doubtful += transcript.doubtful;
        missed += transcript.missed;
    }
    // Where an outbox is full between two marks, others come between them.
    assert!(checked > doubtful, "{checked} checked, {doubtful} doubtful");
    assert!(missed > 1000, "{missed} missed");
}

/// Sends its script, piece by piece, and receives everything meanwhile.
fn run_script(mut client: Client, name: usize, leaves: bool) -> (Script, String) {
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
    fn on_sockets_everyone_hears_what_the_history_says(executor: Executor) {
        let (store, history) = RecordingStore::new(7);
        let server = executor.start(Server::builder().store(store).build());
        let mut transcript = Transcript { history, may_miss: false, checked: 0, doubtful: 0, missed: 0 };
        let heard: Vec<_> = thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|name| {
                    let client = server.connect();
                    scope.spawn(move || run_script(client, name, name % 2 == 0))
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        for (script, heard) in &heard {
            transcript.check(script, heard, true);
            assert!(heard.lines().count() > 100);
        }
        assert_eq!(transcript.missed, 0, "who reads misses nothing");
        assert_eq!((transcript.checked, transcript.doubtful), (8, 0));
    }
}
