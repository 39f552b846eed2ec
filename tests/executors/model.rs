//! Many clients at once, against the model.

use std::{thread, time::Duration};

use keywire::Server;

use crate::common::{
    Client,
    model::{Model, assert_answers},
};

const MAX_LINE: usize = 64;

/// A line that a client might send: mostly right, about few keys, sometimes wrong or too long.
fn random_line(random: &mut fastrand::Rng, prefix: &str) -> Vec<u8> {
    let key = format!("{prefix}{}", random.u8(..8));
    let value = ["", "1", "2", "a:b", ":", "a longer value"][random.usize(..6)];
    let old = ["", "1", "2", "absent"][random.usize(..4)];
    let end = ["\n", "\n", "\n", "\r\n"][random.usize(..4)];
    let watched = &key[..random.usize(prefix.len()..=key.len())];
    let line = match random.u8(..28) {
        0..=5 => format!("Put:{key}:{value}"),
        6..=10 => format!("Get:{key}"),
        11..=15 => format!("Update:{key}:{old}:{value}"),
        16 => format!("Delete:{key}"),
        17 => format!("Sync:{value}"),
        18 => format!("Watch:{key}"),
        19 => format!("WatchPrefix:{watched}"),
        20 => format!("Unwatch:{key}"),
        21 => format!("UnwatchPrefix:{watched}"),
        22 => [
            "",
            "Put:x",
            "get:x",
            "Stats",
            "Get::",
            "Update:x:y",
            "Watch:",
        ][random.usize(..7)]
        .into(),
        23 => format!("Set:{key}:{value}"),
        24 => format!("Remove:{key}:{old}"),
        25 => format!("GetPrefix:{watched}"),
        26 => format!("Keys:{watched}"),
        _ => "x".repeat(random.usize(..2 * MAX_LINE)),
    };
    (line + end).into_bytes()
}

/// Sends lines in pieces of any size, and checks the answers a few hundred lines at a time.
fn mixed_commands(mut client: Client, seed: u64, prefix: &str) -> Model {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut model = Model::new(MAX_LINE);
    let mut input = Vec::new();
    for _ in 0..random.usize(1..=1500) {
        input.extend(random_line(&mut random, prefix));
    }
    let expected = model.converse(&input);
    thread::scope(|scope| {
        let sender = client.stream().try_clone().unwrap();
        scope.spawn(move || {
            let mut rest = &input[..];
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(random.usize(1..=rest.len().min(4000)));
                std::io::Write::write_all(&mut &sender, piece).unwrap();
                rest = later;
            }
            sender.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut output = Vec::new();
        while let Some(line) = client.line() {
            output.extend(line);
            output.push(b'\n');
        }
        assert_answers(&output, &expected);
    });
    model
}

on_every_executor! {
    fn one_to_ten_clients_agree_with_the_model(executor: Executor) {
        for clients in [1, 2, 5, 10] {
            let server = executor.start(Server::builder().max_line(MAX_LINE).build());
            let models: Vec<Model> = thread::scope(|scope| {
                let clients: Vec<_> = (0..clients)
                    .map(|number| {
                        let client = server.connect();
                        scope.spawn(move || {
                            mixed_commands(client, number, &format!("client{number}."))
                        })
                    })
                    .collect();
                clients.into_iter().map(|client| client.join().unwrap()).collect()
            });
            let store = server.stop(Duration::from_secs(10));
            let mut found: Vec<_> = store
                .iter()
                .filter(|(_, values)| values.len() > 0)
                .map(|(key, values)| (key.to_vec(), values.map(<[u8]>::to_vec).collect::<Vec<_>>()))
                .collect();
            found.sort();
            let mut expected: Vec<_> = models
                .into_iter()
                .flat_map(|model| model.lists)
                .filter(|(_, values)| !values.is_empty())
                .collect();
            expected.sort();
            assert_eq!(found, expected);
        }
    }

    /// So many that workers are called, where there are any.
    fn hundreds_of_clients_agree_with_the_model(executor: Executor) {
        const CLIENTS: u64 = 300;
        const ROUNDS: usize = 8;
        crate::common::allow_files(10 * CLIENTS);
        let server = executor.start(Server::builder().max_line(MAX_LINE).build());
        let mut random = fastrand::Rng::with_seed(CLIENTS);
        let mut clients: Vec<_> = (0..CLIENTS)
            .map(|number| (server.connect(), Model::new(MAX_LINE), format!("client{number}.")))
            .collect();
        for _ in 0..ROUNDS {
            let mut expected = Vec::new();
            for (client, model, prefix) in &mut clients {
                let mut input = Vec::new();
                for _ in 0..random.usize(..40) {
                    input.extend(random_line(&mut random, prefix));
                }
                input.extend(b"Sync:fence\n");
                expected.push(model.converse(&input));
                client.send(input);
            }
            for ((client, ..), expected) in clients.iter_mut().zip(expected) {
                let mut output = Vec::new();
                while !output.ends_with(b":sync:0:fence\n") {
                    output.extend(client.line().unwrap());
                    output.push(b'\n');
                }
                assert_answers(&output, &expected);
            }
        }
        assert_eq!(server.handle.stats().active, CLIENTS);
        drop(clients);
        server.await_counts(0, CLIENTS);
    }

    fn all_clients_see_one_history(executor: Executor) {
        const PUTS: usize = 150;
        let server = executor.start(Server::new());
        // Each client writes to one list and looks at it after each of its writes. What it sees
        // must be a beginning of what the list comes to be, with its own write in it.
        let seen: Vec<Vec<Vec<Vec<u8>>>> = thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|number| {
                    let mut client = server.connect();
                    scope.spawn(move || {
                        (0..PUTS)
                            .map(|put| {
                                client.send(format!("Put:log:{number}.{put}\nGet:log\n"));
                                let (log, dropped) = client.sync();
                                assert_eq!(dropped, 0);
                                let own = format!("log:{number}.{put}").into_bytes();
                                assert!(log.contains(&own), "a client did not see its own write");
                                log
                            })
                            .collect()
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        let mut client = server.connect();
        client.send("Get:log\n");
        let (log, _) = client.sync();
        assert_eq!(log.len(), 4 * PUTS);
        for seen in seen.iter().flatten() {
            assert_eq!(seen[..], log[..seen.len()]);
        }
    }
}
