//! A store that answers late: who waits for it, and who does not.

use std::{future::Future, time::Duration};

use keywire::{
    Overflow, Server,
    store::{Batch, Store, Submission},
};

use crate::common::{
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

/// It has sent all that it will. The writes are applied, and the replies go out before the end.
#[test]
fn a_client_that_ends_its_input_has_its_replies() {
    let (mut server, control) = late();
    let mut client = server.connect();
    client.send("Put:k:1\nGet:k\n");
    client.half_close();
    server.run();
    assert_eq!(
        (server.stats().active, client.is_disconnected()),
        (1, false)
    );
    control.end("Put:k:1", Outcome::Apply);
    server.run();
    assert_eq!(client.received(), "k:1\n");
    assert!(client.is_disconnected());
    let stats = server.stats();
    assert_eq!((stats.active, stats.dropped), (0, 1));
}

#[test]
fn what_a_client_has_sent_is_applied_if_it_is_gone() {
    let (mut server, control) = late();
    let (mut client, mut other) = (server.connect(), server.connect());
    // Two batches: the second is submitted when the client is gone.
    client.send("Watch:k\nPut:k:1\nStats\nPut:k:2\n");
    server.run();
    drop(client);
    other.send("Get:x\n");
    server.run();
    assert_eq!(control.in_flight(), ["Put:k:1", "Get:x"]);
    assert_eq!(server.stats().active, 2);
    control.end("Put:k:1", Outcome::Apply);
    server.run();
    control.end("Put:k:2", Outcome::Apply);
    server.run();
    assert_eq!(control.values("k"), ["1", "2"]);
    let stats = server.stats();
    assert_eq!((stats.active, stats.dropped, stats.watching), (1, 1, 0));
    // Its number is free, and nothing of it is left there.
    let mut next = server.connect();
    next.send("Put:k:3\nSync\n");
    server.run();
    control.end("Put:k:3", Outcome::Apply);
    server.run();
    assert_eq!(next.received(), ":sync:0:\n");
}

/// A watcher that waits for the store gets events meanwhile. It does not read them, so it is idle in the
/// end, and its watches end with its input, before its batch is back, or before it is submitted.
#[test]
fn a_watcher_may_end_while_its_batch_waits() {
    for (lines, waits_for_key) in [("Put:mine:1\n", false), ("Put:busy:2\n", true)] {
        let clock = ManualClock::new();
        let (store, control) = LateStore::<NoOrder>::new();
        let server = Server::builder()
            .clock(clock.clone())
            .idle_timeout(10 * SECOND)
            .store(store);
        let mut server = LocalServer::new(server.build());
        let mut busy = server.connect();
        let (mut watcher, mut writer) = (server.connect_with(10), server.connect());
        busy.send("Put:busy:1\n");
        watcher.send("Watch:k\n");
        server.run();
        assert_eq!(watcher.receive_all(&mut server), ":watch:k\n");
        watcher.send(lines);
        server.run();
        assert_eq!(
            control.in_flight().contains(&lines[..10].to_owned()),
            !waits_for_key
        );
        control.answer_at_once(true);
        for _ in 0..3 {
            writer.send("Put:k:1\n".repeat(5));
            server.run();
            clock.advance(6 * SECOND);
            server.run();
        }
        let stats = server.stats();
        assert_eq!((stats.idle, stats.watching), (1, 0));
        control.end("Put:busy:1", Outcome::Apply);
        server.run();
        control.end_all(Outcome::Apply);
        drop(watcher);
        server.run();
        writer.send("Put:k:1\nGet:k\n");
        server.run();
        assert_eq!(writer.received(), "k:1\n".repeat(16));
        let key = lines.split(':').nth(1).unwrap();
        assert!(!control.values(key).is_empty());
        assert_eq!(server.stats().active, 2);
    }
}

#[test]
fn a_line_that_has_begun_has_its_time_when_the_store_is_back() {
    let clock = ManualClock::new();
    let (store, control) = LateStore::<NoOrder>::new();
    let server = Server::builder()
        .clock(clock.clone())
        .line_timeout(10 * SECOND)
        .store(store);
    let mut server = LocalServer::new(server.build());
    let mut client = server.connect();
    client.send("Put:k:1\nSyn");
    for _ in 0..5 {
        server.run();
        clock.advance(6 * SECOND);
    }
    control.end("Put:k:1", Outcome::Apply);
    server.run();
    clock.advance(6 * SECOND);
    server.run();
    client.send("c\n");
    server.run();
    assert_eq!(client.received(), ":sync:0:\n");
    client.send("Syn");
    server.run();
    clock.advance(11 * SECOND);
    server.run();
    assert!(client.received().starts_with(":error:3:too-long:"));
}

/// The outbox is full and the socket has refused bytes for long when the batch comes back.
#[test]
fn the_overflow_policy_is_that_of_the_moment_in_which_the_batch_is_back() {
    for overflow in [Overflow::Drop, Overflow::Disconnect, Overflow::Wait] {
        let clock = ManualClock::new();
        let (store, control) = LateStore::<NoOrder>::new();
        let server = Server::builder()
            .clock(clock.clone())
            .outbox_lines(3)
            .stall_timeout(SECOND)
            .overflow(overflow)
            .store(store);
        let mut server = LocalServer::new(server.build());
        let (mut client, mut writer) = (server.connect_with(1), server.connect());
        client.send("Watch:k\n");
        assert_eq!(client.receive_all(&mut server), ":watch:k\n");
        client.send("Put:mine:1\nGet:mine\nGet:mine\nSync:end\n");
        server.run();
        // While it waits, events fill its outbox.
        control.answer_at_once(true);
        writer.send("Put:k:1\n".repeat(3));
        server.run();
        clock.advance(2 * SECOND);
        server.run();
        control.end("Put:mine:1", Outcome::Apply);
        server.run();
        assert_eq!(control.values("mine"), ["1"]);
        let stats = server.stats();
        let told = ":put:k:1\n".repeat(3);
        match overflow {
            Overflow::Drop => {
                assert_eq!(stats.lines_dropped, 2);
                let received = client.receive_all(&mut server);
                assert_eq!(received, told + ":sync:2:end\n");
            }
            Overflow::Disconnect => assert_eq!((stats.active, stats.dropped), (1, 1)),
            _ => {
                assert_eq!(stats.lines_dropped, 0);
                let mut received = client.receive_all(&mut server);
                control.end_all(Outcome::Apply);
                received += &client.receive_all(&mut server);
                assert_eq!(received, told + "mine:1\nmine:1\n:sync:0:end\n");
            }
        }
    }
}
