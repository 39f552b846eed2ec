//! Many clients at once, against the model.

use std::{thread, time::Duration};

use keywire::Server;

use crate::{
    common::model::{Model, assert_answers},
    mixed::{MAX_LINE, Mixed},
};

const MIXED: Mixed = Mixed {
    tags: &[""],
    watches: true,
};

on_every_executor! {
    fn one_to_ten_clients_agree_with_the_model(executor: Executor) {
        for clients in [1, 2, 5, 10] {
            let server = executor.start(Server::builder().max_line(MAX_LINE).build());
            let models: Vec<Model> = thread::scope(|scope| {
                let clients: Vec<_> = (0..clients)
                    .map(|number| {
                        let client = server.connect();
                        scope.spawn(move || {
                            MIXED.converse(client, number, &format!("client{number}."))
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
                    input.extend(MIXED.line(&mut random, prefix));
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
