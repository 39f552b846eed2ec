//! A store that answers late: who waits for it, and who does not.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use futures_lite::future;
use keywire::{
    Server,
    store::{Batch, Memory, Store, Submission},
};

use crate::common::{
    TestServer,
    late_store::{LateStore, NoOrder, Outcome, StoreControl},
    local::LocalServer,
    script::converse,
    stores::ManualClock,
};

const SECOND: Duration = Duration::from_secs(1);

fn late() -> (LocalServer<LateStore<NoOrder>>, StoreControl) {
    let (store, control) = LateStore::new();
    let server = Server::builder().store(store).build();
    (LocalServer::new(server), control)
}

#[test]
fn many_batches_wait_and_each_client_has_its_replies_when_its_own_is_back() {
    const CLIENTS: usize = 100;
    let (mut server, control) = late();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("Put:{n}:v\nGet:{n}\nSync:{n}\n"));
    }
    server.run();
    assert_eq!(control.in_flight().len(), CLIENTS);
    // Every third from the end, then the next ones.
    let (mut failed, mut unconfirmed) = (0, 0);
    for n in (0..3).flat_map(|third| (0..CLIENTS).rev().filter(move |n| n % 3 == third)) {
        let (outcome, expected) = match n % 4 {
            0 => {
                failed += 1;
                let error = "store:on purpose\n";
                (Outcome::Fail, format!(":error:1:{error}:error:2:{error}"))
            }
            1 => {
                unconfirmed += 1;
                let lines = ":error:1:unconfirmed:on purpose\n:error:2:store:on purpose\n";
                (Outcome::Unconfirmed, lines.to_owned())
            }
            _ => (Outcome::Apply, format!("{n}:v\n")),
        };
        assert_eq!(clients[n].received(), "");
        control.end(&format!("Put:{n}:v"), outcome);
        server.run();
        assert_eq!(clients[n].received(), format!("{expected}:sync:0:{n}\n"));
    }
    assert_eq!(control.in_flight().len(), 0);
    let stats = server.stats();
    assert_eq!(stats.unconfirmed, unconfirmed);
    assert_eq!(stats.errors, 2 * (failed + unconfirmed));
    assert_eq!((stats.puts, stats.gets, stats.syncs), (100, 100, 100));
}

#[test]
fn while_a_batch_waits_all_others_are_served() {
    let (mut server, control) = late();
    let (mut waiting, mut other) = (server.connect(), server.connect());
    waiting.send("Put:stuck:1\nSync\n");
    server.run();
    control.answer_at_once(true);
    for n in 0..100 {
        other.send(format!("Set:k:{n}\nGet:k\nSync:{n}\n"));
        server.run();
        assert_eq!(other.received(), format!("k:{n}\n:sync:0:{n}\n"));
    }
    let mut late = server.connect();
    late.send("Watch:k\nStats\nGet:k\n");
    server.run();
    assert!(late.received().starts_with(":watch:k\n:stats:active=3 "));
    assert_eq!(waiting.received(), "");
    control.end("Put:stuck:1", Outcome::Apply);
    server.run();
    assert_eq!(waiting.received(), ":sync:0:\n");
}

/// What is answered does not wait for what comes behind it.
#[test]
fn lines_that_need_no_store_are_answered_before_those_that_do() {
    let (mut server, control) = late();
    let mut client = server.connect();
    client.send("Sync:1\nwhat\nWatch:k\nPut:k:1\nSync:2\nStats\nSync:3\n");
    server.run();
    let received = client.received();
    assert!(received.starts_with(":sync:0:1\n:error:2:unknown:"));
    assert!(received.ends_with(":watch:k\n"), "{received}");
    control.end("Put:k:1", Outcome::Apply);
    server.run();
    let received = client.received();
    assert!(received.starts_with(":put:k:1\n:sync:0:2\n:stats:"));
    assert!(received.ends_with("\n:sync:0:3\n"), "{received}");
}

/// However long it takes: what the store has answered is not asked for again.
#[test]
fn a_store_is_asked_once() {
    let clock = ManualClock::new();
    let (store, control) = LateStore::<NoOrder>::new();
    let server = Server::builder().clock(clock.clone()).store(store);
    let mut server = LocalServer::new(server.build());
    let mut client = server.connect();
    client.send("Get:k\n".repeat(100) + "Sync:1\n");
    server.run();
    clock.advance(SECOND);
    control.put("k", "v");
    control.end("Get:k", Outcome::Apply);
    server.run();
    assert_eq!(client.received(), "k:v\n".repeat(100) + ":sync:0:1\n");
    assert_eq!(control.submitted().len(), 1);
    // The server has not taken its time for that of the store.
    client.send("Sync:2\nnone\nSync:3\n");
    server.run();
    let received = client.received();
    assert!(received.starts_with(":sync:0:2\n:error:"), "{received}");
    assert!(received.ends_with(":sync:0:3\n"), "{received}");
}

/// More than the store gets in one go, and more replies than the outbox holds.
#[test]
fn a_long_pipeline_is_answered_whole_and_in_order() {
    let (store, control) = LateStore::<NoOrder>::new();
    let server = Server::builder().outbox_lines(20).store(store);
    let mut server = LocalServer::new(server.build());
    let mut client = server.connect_with(100);
    let mut commands = String::new();
    let mut expected = String::new();
    for n in 0..1000 {
        commands += &format!("Set:k:{n}\nGet:k\n");
        expected += &format!("k:{n}\n");
    }
    client.send(commands + "Sync:end\n");
    let mut received = String::new();
    loop {
        received += &client.receive_all(&mut server);
        if control.in_flight().is_empty() {
            break;
        }
        control.end_all(Outcome::Apply);
    }
    assert_eq!(received, expected + ":sync:0:end\n");
}

#[test]
fn an_unconfirmed_write_is_counted_and_not_told() {
    let (mut server, control) = late();
    let (mut writer, mut watcher) = (server.connect(), server.connect());
    watcher.send("WatchPrefix:\n");
    writer.send("Put:a:1\nGet:a\nDelete:a\nSync\n");
    server.run();
    control.end("Put:a:1", Outcome::Unconfirmed);
    server.run();
    assert_eq!(
        writer.received(),
        ":error:1:unconfirmed:on purpose\n:error:2:store:on purpose\n\
         :error:3:unconfirmed:on purpose\n:sync:0:\n"
    );
    let stats = server.stats();
    assert_eq!((stats.unconfirmed, stats.errors, stats.events), (2, 3, 0));
    writer.send("Put:a:2\n");
    server.run();
    control.end("Put:a:2", Outcome::Apply);
    server.run();
    assert_eq!(watcher.received(), ":watchprefix:\n:put:a:2\n");
    writer.send("Stats\n");
    server.run();
    assert!(writer.received().contains(" unconfirmed=2 "));
}

/// Neither a panic, nor a batch that is dropped or comes back without answers, holds up anyone.
#[test]
fn a_batch_that_is_lost_has_its_end() {
    for outcome in [Outcome::Panic, Outcome::Drop, Outcome::NoAnswer] {
        let (mut server, control) = late();
        let (mut client, mut other) = (server.connect(), server.connect());
        let mut watcher = server.connect();
        watcher.send("WatchPrefix:\n");
        for round in 0..3 {
            let line = 5 * round;
            client.send("Get:a\nPut:a:1\nSync\nGet:b\nSet:b:1\n");
            other.send("Put:a:2\nGet:a\n");
            server.run();
            control.end("Put:a:1", outcome);
            server.run();
            let words = "the store gave no answer\n";
            assert_eq!(
                client.received(),
                format!(
                    ":error:{}:store:{words}:error:{}:unconfirmed:{words}:sync:0:\n\
                     :error:{}:store:{words}:error:{}:unconfirmed:{words}",
                    line + 1,
                    line + 2,
                    line + 4,
                    line + 5
                ),
                "{outcome:?}"
            );
            control.end("Put:a:2", Outcome::Apply);
            server.run();
            assert_eq!(other.received(), "a:2\n".repeat(round + 1));
        }
        assert_eq!(
            watcher.received(),
            ":watchprefix:\n".to_owned() + &":put:a:2\n".repeat(3)
        );
        assert_eq!(server.stats().unconfirmed, 6);
        assert_eq!(control.in_flight().len(), 0);
    }
}

/// What was answered before the panic stands, and the command at which it came is not left out.
#[test]
fn a_panic_between_two_answers_leaves_no_command_without_one() {
    for answered in 0..4 {
        let (mut server, control) = late();
        let (mut client, mut watcher) = (server.connect(), server.connect());
        watcher.send("Watch:k\n");
        client.send("Put:k:1\nSync:1\nGet:k\nPut:k:2\nSync:2\nGet:k\n");
        server.run();
        control.end("Put:k:1", Outcome::PanicAt(answered));
        server.run();
        let replies = ["", "k:1\n", "", "k:1\nk:2\n"];
        let codes = ["unconfirmed", "store", "unconfirmed", "store"];
        let mut expected = String::new();
        for (at, line) in [1, 3, 4, 6].into_iter().enumerate() {
            expected += &match at < answered {
                true => replies[at].to_owned(),
                false => format!(":error:{line}:{}:the store gave no answer\n", codes[at]),
            };
            expected += match at {
                0 => ":sync:0:1\n",
                2 => ":sync:0:2\n",
                _ => "",
            };
        }
        assert_eq!(client.received(), expected, "{answered} answered");
        let events = [":put:k:1\n", "", ":put:k:2\n", ""];
        let told = events[..answered].concat();
        assert_eq!(watcher.received(), format!(":watch:k\n{told}"));
    }
}

/// Its future panics in the middle of the values of a `Get`.
struct HalfAnAnswer;

impl Store for HalfAnAnswer {
    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        Submission::Pending(async move {
            let values = [&b"1"[..], b"2"];
            let panics = values.into_iter().inspect(|value| assert_ne!(*value, b"2"));
            let mut panics = Some(panics);
            batch.each(|_, answer| match panics.take() {
                Some(values) => answer.values(values),
                None => answer.done(),
            });
            batch
        })
    }
}

#[test]
fn half_an_answer_is_none() {
    let server = Server::builder().store(HalfAnAnswer).build();
    let (output, _) = converse(server, [&b"Get:k\nSync\n"[..]]);
    assert_eq!(
        String::from_utf8(output).unwrap(),
        ":error:1:store:the store gave no answer\n:sync:0:\n"
    );
}

#[test]
fn limits_hold_for_a_late_store_and_a_refused_write_leaves_nothing() {
    let (store, control) = LateStore::<NoOrder>::new();
    let server = Server::builder().max_values(2).max_store(300).store(store);
    let mut server = LocalServer::new(server.build());
    let (mut client, mut watcher) = (server.connect(), server.connect());
    watcher.send("WatchPrefix:\n");
    let long = "x".repeat(300);
    client.send(format!(
        "Put:k:1\nPut:k:2\nPut:k:3\nPut:l:{long}\nGet:k\nGet:l\n"
    ));
    server.run();
    control.end("Put:k:1", Outcome::Apply);
    server.run();
    assert_eq!(
        client.received(),
        ":error:3:full:the key has 2 values, as many as it may\n\
         :error:4:full:the store would hold more than 300 bytes\nk:1\nk:2\n"
    );
    assert_eq!(watcher.received(), ":watchprefix:\n:put:k:1\n:put:k:2\n");
    let stats = server.stats();
    assert_eq!(
        (stats.full_values, stats.full_store, stats.values),
        (1, 1, 2)
    );
}

/// Waits for a few turns of the executor. Its future panics, drops the batch or comes back without
/// answers, if the batch has a key of that name.
struct Unreliable(Arc<Mutex<Memory>>);

impl Store for Unreliable {
    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let memory = self.0.clone();
        Submission::Pending(async move {
            let keys: Vec<_> = batch.operations().map(|it| it.key().to_vec()).collect();
            for _ in 0..keys.len() {
                future::yield_now().await;
            }
            for key in &keys {
                match key.as_slice() {
                    b"panic" => panic!("a panic on purpose"),
                    b"drop" => {
                        drop(batch);
                        return future::pending().await;
                    }
                    b"silent" => return batch,
                    _ => {}
                }
            }
            let mut memory = memory.lock().unwrap();
            let limits = memory.limits(&batch);
            batch.each(|operation, answer| memory.apply(operation, answer, limits));
            drop(memory);
            batch
        })
    }
}

/// On several threads: every pipeline comes to its end, and nothing of it is left out.
#[test]
fn no_client_hangs_whatever_the_store_does() {
    const CLIENTS: usize = 8;
    let server = TestServer::start(Server::builder().store(Unreliable(Arc::default())).build());
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let worker = server.handle.worker();
            thread::spawn(|| future::block_on(worker))
        })
        .collect();
    thread::scope(|scope| {
        for n in 0..CLIENTS {
            let mut client = server.connect();
            scope.spawn(move || {
                for round in 0..50 {
                    let bad = ["good", "panic", "drop", "silent"][(n + round) % 4];
                    client.send(format!(
                        "Set:{n}:{round}\nPut:{bad}:1\nSync\nSet:shared:1\nGet:{n}\n"
                    ));
                    let writes = client.read_to_sync().0;
                    let values = client.sync().0;
                    match bad {
                        "good" => {
                            assert!(writes.is_empty());
                            assert_eq!(values, [format!("{n}:{round}").into_bytes()]);
                        }
                        // How many batches it is depends on the keys of the others.
                        _ => assert!(writes.iter().any(|line| line.starts_with(b":error:"))),
                    }
                }
            });
        }
    });
    server.stop(Duration::from_secs(10));
    for worker in workers {
        worker.join().unwrap();
    }
}
