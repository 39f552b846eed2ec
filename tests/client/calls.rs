//! The client's calls, against a real server.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use futures_lite::future;
use keywire::{
    Error, Outcome, Server,
    protocol::{Code, Operation, Write},
    store::{Batch, Order, Store, Submission},
};

use super::connect;
use crate::common::TestServer;

#[test]
fn threads_share_a_connection() {
    let server = TestServer::start(Server::new());
    let client = future::block_on(connect(&server));
    thread::scope(|scope| {
        for thread in 0..4 {
            let client = client.clone();
            scope.spawn(move || {
                future::block_on(async {
                    let key = format!("thread{thread}");
                    for call in 0..500 {
                        client.put(&key, call.to_string()).await.unwrap();
                        assert_eq!(client.get(&key).await.unwrap().len(), call + 1);
                    }
                });
            });
        }
    });
    assert_eq!(server.handle.stats().active, 1);
}

#[test]
fn a_list_is_set_and_its_values_removed() {
    let server = TestServer::start(Server::new());
    future::block_on(async {
        let client = connect(&server).await;
        let outcomes = client
            .pipeline()
            .put("k", "a")
            .put("k", "b")
            .set("k", "c:d");
        let outcomes = outcomes.put("k", "e").get("k").remove("k", "c:d").get("k");
        let outcomes = outcomes.send().await.unwrap();
        assert_eq!(
            outcomes[4].as_ref().unwrap().values().unwrap(),
            [&b"c:d"[..], b"e"]
        );
        assert_eq!(outcomes[6].as_ref().unwrap().values().unwrap(), [b"e"]);
        client.remove("k", "not there").await.unwrap();
        client.remove("k", "e").await.unwrap();
        assert!(client.get("k").await.unwrap().is_empty());
        client.set("k", "").await.unwrap();
        assert_eq!(client.get("k").await.unwrap(), [b""]);
    });
}

#[test]
fn the_first_value_is_the_oldest() {
    let server = TestServer::start(Server::new());
    future::block_on(async {
        let client = connect(&server).await;
        assert_eq!(client.get_first("k").await.unwrap(), None);
        client.put("k", "").await.unwrap();
        client.put("k", "b").await.unwrap();
        assert_eq!(client.get_first("k").await.unwrap(), Some(Vec::new()));
        client.remove("k", "").await.unwrap();
        assert_eq!(client.get_first("k").await.unwrap(), Some(b"b".to_vec()));
        let error = client.get_first("").await.unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
    });
}

#[test]
fn whatever_a_line_can_carry_comes_back_as_it_was() {
    let server = TestServer::start(Server::new());
    future::block_on(async {
        let client = connect(&server).await;
        let all: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
        let values: [&[u8]; 6] = [b"", b":", b"a:b:", b"\rx", b"\0", &all];
        let names: Vec<u8> = all.iter().copied().filter(|byte| *byte != b':').collect();
        let keys: [&[u8]; 3] = [b" ", b"\r\0", &names];
        for key in keys {
            for value in values {
                client.put(key, value).await.unwrap();
            }
            assert_eq!(client.get(key).await.unwrap(), values);
            client.update(key, "", "old").await.unwrap();
            client.update(key, "\0", "x\r").await.unwrap_err();
            client.update(key, "y\r", "z").await.unwrap();
            let read = client.get(key).await.unwrap();
            assert_eq!((&read[0][..], &read[6][..]), (&b"old"[..], &b"z"[..]));
        }
    });
}

#[test]
fn a_refusal_belongs_to_the_command_that_caused_it() {
    let server = TestServer::start(Server::builder().max_line(100).build());
    future::block_on(async {
        let client = connect(&server).await;
        // Not only on the connection's first lines.
        for round in 0..3 {
            let long = "x".repeat(200);
            let outcomes = client
                .pipeline()
                .put("a", "1")
                .put("a", &long)
                .put("b", &long)
                .get("a")
                .get(&long)
                .delete("a")
                .get("a")
                .put("a", &long);
            let outcomes = outcomes.send().await.unwrap();
            let fates = outcomes.iter().map(|outcome| match outcome {
                Ok(Outcome::Done) => "done".to_string(),
                Ok(Outcome::Values(values)) => values.len().to_string(),
                Ok(other) => panic!("{other:?}"),
                Err(Error::Refused { code, .. }) => code.to_string(),
                Err(error) => panic!("{error}"),
            });
            let fates: Vec<_> = fates.collect();
            assert_eq!(
                fates,
                [
                    "done", "too-long", "too-long", "1", "too-long", "done", "0", "too-long"
                ],
                "in round {round}"
            );
            let error = client.put("a", &long).await.unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::Refused {
                        code: Code::TooLong,
                        ..
                    }
                ),
                "{error}"
            );
            client.sync().await.unwrap();
        }
        // Two callers whose writes stand before the same fence.
        let long = "x".repeat(200);
        let both = future::zip(client.put("a", &long), client.put("a", "2"));
        let (first, second) = both.await;
        first.unwrap_err();
        second.unwrap();
        assert_eq!(client.get("a").await.unwrap(), [b"2"]);
    });
}

/// Fails every command on the key `bad`, and can't say what became of one on `gone`.
#[derive(Debug)]
struct Picky;

impl Store for Picky {
    const ORDER: Order = Order::Immediate;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        batch.each(|operation, answer| match operation {
            Operation::Get { key: b"bad" } => answer.fail("no:\nsuch luck"),
            Operation::Write(Write::Put { key: b"bad", .. }) => answer.fail("read only"),
            Operation::Write(Write::Put { key: b"gone", .. }) => {
                answer.unconfirmed("a node is gone")
            }
            Operation::Get { .. } => answer.values([&b"fine"[..]]),
            _ => answer.done(),
        });
        batch.done()
    }
}

#[test]
fn a_failing_store_is_told_of_in_its_own_words() {
    let server = Server::builder().store(Picky).build();
    let server = TestServer::start(server);
    future::block_on(async {
        let client = connect(&server).await;
        let outcomes = client
            .pipeline()
            .put("good", "1")
            .put("bad", "1")
            .put("gone", "1")
            .get("bad")
            .get("good");
        let outcomes = outcomes.send().await.unwrap();
        let said: Vec<_> = outcomes
            .into_iter()
            .map(|outcome| outcome.map_or_else(|error| error.to_string(), |_| "ok".into()))
            .collect();
        assert_eq!(
            said,
            [
                "ok",
                "the server refused (store): read only",
                "the server did not confirm it (unconfirmed): a node is gone; it may or may not be \
                 applied",
                "the server refused (store): no: such luck",
                "ok"
            ]
        );
    });
}

#[test]
fn a_pipeline_may_be_of_any_length() {
    const GETS: usize = 100_000;
    let server = TestServer::start(Server::new());
    future::block_on(async {
        let client = connect(&server).await;
        let mut pipeline = client.pipeline().put("k", "0");
        for n in 1..=GETS {
            pipeline = pipeline.get("k");
            if n % 1000 == 0 {
                pipeline = pipeline.update("k", (n / 1000 - 1).to_string(), (n / 1000).to_string());
            }
        }
        assert_eq!(pipeline.len(), 1 + GETS + GETS / 1000);
        let mut outcomes = pipeline.send().await.unwrap().into_iter();
        assert_eq!(outcomes.next().unwrap().unwrap(), Outcome::Done);
        for n in 1..=GETS {
            let values = outcomes.next().unwrap().unwrap().into_values();
            assert_eq!(values.unwrap(), [((n - 1) / 1000).to_string().into_bytes()]);
            if n % 1000 == 0 {
                assert_eq!(outcomes.next().unwrap().unwrap(), Outcome::Done);
            }
        }
        assert!(outcomes.next().is_none());
        assert!(client.pipeline().send().await.unwrap().is_empty());
    });
}

/// Writes and reads alike are far larger than what the sockets hold between them.
#[test]
fn a_pipeline_reads_while_it_writes() {
    let server = TestServer::start(Server::new());
    future::block_on(async {
        let client = connect(&server).await;
        let value = vec![b'x'; 50_000];
        let mut pipeline = client.pipeline();
        for _ in 0..300 {
            pipeline = pipeline.put("k", &value).get("k").delete("k");
        }
        let outcomes = pipeline.send().await.unwrap();
        assert_eq!(outcomes.len(), 900);
        for (index, outcome) in outcomes.into_iter().enumerate() {
            let expected = match index % 3 {
                1 => Outcome::Values(vec![value.clone()]),
                _ => Outcome::Done,
            };
            assert_eq!(outcome.unwrap(), expected);
        }
    });
}

#[test]
fn nobody_is_left_behind() {
    const TASKS: usize = 500;
    let server = TestServer::start(Server::new());
    let calls: Vec<_> = (0..TASKS).map(|_| AtomicUsize::new(0)).collect();
    future::block_on(async {
        let client = connect(&server).await;
        let executor = async_executor::LocalExecutor::new();
        for count in &calls {
            let client = client.clone();
            let task = async move {
                loop {
                    client.get("k").await.unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            };
            executor.spawn(task).detach();
        }
        // More tasks than there is room for requests, and each gets its turn: by the time that one
        // has made its hundredth call, all have made some.
        let done = async {
            while calls
                .iter()
                .all(|count| count.load(Ordering::Relaxed) < 100)
            {
                future::yield_now().await;
            }
        };
        executor.run(done).await;
    });
    let least = calls
        .iter()
        .map(|count| count.load(Ordering::Relaxed))
        .min();
    assert!(least > Some(50), "{least:?}");
}

/// The classical trap of shared connections: whoever was woken to do the work doesn't come.
#[test]
fn a_call_that_is_kept_and_not_polled_holds_nobody_up() {
    let server = TestServer::start(Server::new());
    future::block_on(async {
        let client = connect(&server).await;
        client.put("k", "v").await.unwrap();
        let mut kept = Vec::new();
        for polls in 0..4 {
            for _ in 0..polls {
                let mut call = Box::pin(client.get("k"));
                match future::poll_once(&mut call).await {
                    Some(answer) => assert_eq!(answer.unwrap(), [b"v"]),
                    None => kept.push(call),
                }
            }
            for _ in 0..20 {
                assert_eq!(client.get("k").await.unwrap(), [b"v"]);
            }
        }
        for call in kept {
            assert_eq!(call.await.unwrap(), [b"v"]);
        }
    });
}

#[test]
fn what_a_put_confirmed_is_there() {
    let server = TestServer::start(Server::new());
    future::block_on(async {
        let (one, other) = (connect(&server).await, connect(&server).await);
        for n in 1..=100 {
            one.put("k", "v").await.unwrap();
            assert_eq!(other.get("k").await.unwrap().len(), n);
        }
    });
}

#[test]
fn values_that_end_in_a_carriage_return_come_whole() {
    let server = TestServer::start(Server::new());
    let mut raw = server.connect();
    raw.send("Put:k:v\r\r\nPut:k:v\n");
    raw.sync();
    future::block_on(async {
        let client = connect(&server).await;
        assert_eq!(client.get("k").await.unwrap(), [&b"v\r"[..], b"v"]);
        client.update("k", "v\r", "w").await.unwrap();
        assert_eq!(client.get("k").await.unwrap(), [b"w", b"v"]);
    });
}
