//! The contract of a store, from both sides.

use std::time::Duration;

use futures_lite::future;
use keywire::{
    Error, Server,
    store::{Batch, Memory, Store},
};

use crate::common::{
    TestServer,
    script::converse,
    stores::{Failing, Remote},
    wait_until,
};

fn replies<S: Store>(store: S, commands: &str) -> String {
    let server = Server::builder().store(store).build();
    let (output, _) = converse(server, [commands.as_bytes()]);
    String::from_utf8(output).unwrap()
}

#[test]
fn a_command_that_fails_is_named_and_the_others_are_done() {
    assert_eq!(
        replies(
            Failing::default(),
            "Put:a:1\nPut:bad:2\nSync\nGet:bad\nno\nGet:a\nUpdate:bad:x:y\nDelete:bad\nSync\n",
        ),
        ":error:2:store:out of order\n\
         :sync:0:\n\
         :error:4:store:out of order\n\
         :error:5:unknown:no such command (case matters); there are Put, Get, Delete, Update, Sync, Stats, Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth\n\
         a:1\n\
         :error:7:store:out of order\n\
         :error:8:store:out of order\n\
         :sync:0:\n",
    );
}

#[test]
fn a_batch_that_fails_fails_whole_and_in_order() {
    assert_eq!(
        replies(
            Failing::default(),
            "Put:a:1\n\nGet:a\nSync:x\nno\nPut:worse:1\nSync:y\n"
        ),
        ":error:1:store:nothing of this\n\
         :error:3:store:nothing of this\n\
         :sync:0:x\n\
         :error:5:unknown:no such command (case matters); there are Put, Get, Delete, Update, Sync, Stats, Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth\n\
         :error:6:store:nothing of this\n\
         :sync:0:y\n",
    );
}

#[test]
fn the_server_goes_on_after_a_failure() {
    let server = Server::builder().store(Failing::default()).build();
    let server = TestServer::start(server);
    let (mut one, mut other) = (server.connect(), server.connect());
    for _ in 0..100 {
        one.send("Put:worse:1\nPut:k:1\n");
        assert_eq!(one.sync().0.len(), 2);
        other.send("Put:bad:1\nPut:k:1\nGet:k\nDelete:k\n");
        let lines = other.sync().0;
        assert_eq!(lines[1], b"k:1");
    }
    let stats = server.handle.stats();
    assert_eq!(stats.errors, 300);
}

/// Lets the first batch wait at a gate, fails the second, and is well after that.
struct FailsSecond {
    memory: Memory,
    gate: async_channel::Receiver<()>,
    batches: usize,
    most: usize,
}

impl Store for FailsSecond {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        let taken: Vec<_> = std::iter::from_fn(|| batch.take())
            .take(self.most)
            .collect();
        if taken.is_empty() {
            return Ok(());
        }
        self.batches += 1;
        match self.batches {
            1 => self.gate.recv().await.unwrap(),
            2 => return Err(Error::store("the whole batch")),
            _ => {}
        }
        for operation in taken {
            self.memory.answer(operation, batch);
        }
        Ok(())
    }
}

#[test]
fn a_batch_that_fails_fails_what_was_taken_and_nothing_else() {
    // The errors fill the first client's outbox. All the same, they go to the commands that were
    // taken, of both clients, and what was not taken is applied later.
    let (open, gate) = async_channel::bounded(1);
    let store = FailsSecond {
        memory: Memory::new(),
        gate,
        batches: 0,
        most: 60,
    };
    let server = Server::builder().outbox_lines(30).store(store).build();
    let server = TestServer::start(server);
    let (mut first, mut second, mut third) = (server.connect(), server.connect(), server.connect());
    server.await_counts(3, 0);
    third.send("Put:gate:1\n");
    let fifty = |key| {
        (1..=50)
            .map(|n| format!("Put:{key}:{n}\n"))
            .collect::<String>()
    };
    first.send(fifty("first") + "Sync:fence\n");
    second.send(fifty("second") + "Sync:fence\n");
    open.send_blocking(()).unwrap();
    // The number of the line is the number that was to be put.
    let failed = |client: &mut crate::common::Client| -> Vec<String> {
        let (errors, _) = client.read_to_sync();
        let number = |line: &[u8]| {
            String::from_utf8_lossy(line)
                .split(':')
                .nth(2)
                .unwrap()
                .into()
        };
        errors.iter().map(|line| number(line)).collect()
    };
    let failed = [failed(&mut first), failed(&mut second)];
    assert!(failed.iter().any(|numbers| !numbers.is_empty()));
    drop((first, second, third));
    let store = server.stop(Duration::from_secs(10)).memory;
    for (key, failed) in ["first", "second"].into_iter().zip(failed) {
        let numbers = (1..=50).map(|n| n.to_string());
        let applied = numbers
            .filter(|n| !failed.contains(n))
            .map(String::into_bytes);
        assert!(
            store.get(key.as_bytes()).eq(applied),
            "{key}: {failed:?} failed"
        );
    }
}

/// Breaks the contract in the ways that need no malice.
struct Careless {
    answers: bool,
    takes: bool,
}

impl Store for Careless {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        if self.takes {
            batch.take();
        }
        if self.answers {
            // More often than there are commands.
            batch.done();
            batch.done();
            batch.fail(&Error::store("what?"));
        }
        Ok(())
    }
}

#[test]
fn a_command_without_an_answer_has_failed() {
    for takes in [true, false] {
        let store = Careless {
            answers: false,
            takes,
        };
        assert_eq!(
            replies(store, "Put:a:1\nSync:1\nGet:a\nSync:2\n"),
            ":error:1:store:the store gave no answer\n:sync:0:1\n\
             :error:3:store:the store gave no answer\n:sync:0:2\n",
        );
    }
}

#[test]
fn a_store_may_take_one_command_at_a_time_and_answer_too_often() {
    let store = Careless {
        answers: true,
        takes: true,
    };
    assert_eq!(
        replies(store, "Put:a:1\nSync:1\nDelete:a\nSync:2\n"),
        ":sync:0:1\n:sync:0:2\n"
    );
}

/// Answers every command with the same list.
struct Parrot(&'static [u8]);

impl Store for Parrot {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        while batch.take().is_some() {
            batch.values([&b"first"[..], self.0].into_iter());
        }
        Ok(())
    }
}

#[test]
fn an_answer_that_does_not_fit_is_a_failure_of_the_store() {
    assert_eq!(
        replies(Parrot(b"second"), "Get:a\nPut:a:1\nSync\nGet:a\n"),
        "a:first\na:second\n\
         :error:2:store:the store gave an answer that does not fit the command\n:sync:0:\n\
         a:first\na:second\n",
    );
}

#[test]
fn a_value_can_not_forge_a_line() {
    assert_eq!(
        replies(Parrot(b"x\n:sync:0:"), "Get:a\nSync\n"),
        ":error:1:store:a value holds a line feed, which no line can carry\n:sync:0:\n",
    );
}

struct AlwaysFailing;

impl Store for AlwaysFailing {
    async fn apply(&mut self, _: &mut Batch<'_>) -> Result<(), Error> {
        Err(Error::store("no"))
    }
}

#[test]
fn a_store_that_fails_without_looking_fails_every_command() {
    assert_eq!(
        replies(AlwaysFailing, "Put:a:1\nSync\nGet:a\n"),
        ":error:1:store:no\n:sync:0:\n:error:3:store:no\n",
    );
}

#[test]
fn a_store_may_take_several_commands_before_it_answers() {
    let commands: String = (0..100)
        .map(|n| format!("Put:k:{n}\nGet:k\nSync:{n}\nDelete:k\nwhat\n"))
        .collect();
    let server = Server::builder().store(Remote::default()).build();
    let (output, store) = converse(server, [commands.as_bytes()]);
    let expected: String = (0..100)
        .map(|n| {
            let line = 5 * n + 5;
            format!(
                "k:{n}\n:sync:0:{n}\n:error:{line}:unknown:no such command (case matters); there are \
                 Put, Get, Delete, Update, Sync, Stats, Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth\n"
            )
        })
        .collect();
    assert_eq!(String::from_utf8(output).unwrap(), expected);
    assert!(
        (300 / 7..=300).contains(&store.batches),
        "{} batches",
        store.batches
    );
}

#[test]
fn many_clients_share_a_batch() {
    /// Counts the batches, and holds each until all clients have sent.
    struct Counting {
        batches: usize,
        go: async_channel::Receiver<()>,
    }
    impl Store for Counting {
        async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
            let mut any = false;
            while batch.take().is_some() {
                any = true;
                batch.done();
            }
            if any {
                self.batches += 1;
                let _ = self.go.recv().await;
            }
            Ok(())
        }
    }
    let (sender, go) = async_channel::bounded(1);
    let store = Counting { batches: 0, go };
    let server = TestServer::start(Server::builder().store(store).build());
    let mut first = server.connect();
    first.sync();
    let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
    server.await_counts(51, 0);
    first.send("Put:k:first\n");
    wait_until("the store is busy", || server.handle.stats().commands >= 1);
    for client in &mut clients {
        client.send("Put:k:v\nSync:fence\n");
    }
    // The server has all of it at hand by the time the store is let go on; how much of it comes in
    // one batch is up to the executor, but a batch a client would be no sharing.
    future::block_on(async {
        smol::Timer::after(Duration::from_millis(50)).await;
        sender.send(()).await.unwrap();
    });
    sender.close();
    for client in &mut clients {
        client.read_to_sync();
    }
    drop((first, clients));
    let store = server.stop(Duration::from_secs(10));
    assert!(store.batches < 40, "{} batches", store.batches);
}

/// Its place in the table can't be told from outside, so nobody can send keys that all have the same.
#[test]
fn each_store_hashes_by_a_key_of_its_own() {
    let order = || {
        let mut store = Memory::new();
        for key in 0..1000 {
            store.put(format!("{key}").as_bytes(), b"");
        }
        let keys = store.iter().map(|(key, _)| key.to_vec());
        keys.collect::<Vec<_>>()
    };
    assert_ne!(order(), order());
}
