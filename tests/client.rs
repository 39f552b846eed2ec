//! The client's calls, against a real server.

#[macro_use]
mod common;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{DEADLINE, Place, TestServer, wait_until};
use futures_lite::future;
use keywire::{
    Client, Error, Server,
    protocol::{Code, Operation, Write},
    store::{Batch, Store},
};

async fn connect<S: Store>(server: &TestServer<S>) -> Client {
    let client = Client::connect(server.address).await.unwrap();
    client.with_timeout(DEADLINE)
}

on_every_executor! {
    fn every_call_does_what_it_says(place: Place) {
        let server = TestServer::start(place, Server::new());
        place.block_on(async {
            let client = connect(&server).await;
            assert!(client.get("user").await.unwrap().is_empty());
            client.put("user", "alice").await.unwrap();
            client.put("user", "bob").await.unwrap();
            client.put("user", "alice").await.unwrap();
            client.update("user", "alice", "carol").await.unwrap();
            client.update("user", "nobody", "dave").await.unwrap();
            client.sync().await.unwrap();
            let values = client.get("user").await.unwrap();
            assert_eq!(values, [&b"carol"[..], b"bob", b"alice", b"dave"]);
            assert_eq!(client.stats().await.unwrap().active, 1);
            client.delete("user").await.unwrap();
            assert!(client.get("user").await.unwrap().is_empty());
            let outcomes = client.pipeline().put("a", "1").get("a").delete("a").get("a");
            let outcomes = outcomes.send().await.unwrap();
            let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
            assert_eq!(outcomes, [vec![], vec![b"1".to_vec()], vec![], vec![]]);
        });
        server.await_counts(0, 1);
    }

    fn many_tasks_share_a_connection(place: Place) {
        const TASKS: usize = 64;
        const CALLS: usize = 20;
        let server = TestServer::start(place, Server::new());
        let tasks = place.block_on(async {
            let client = connect(&server).await;
            let executor = async_executor::LocalExecutor::new();
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| {
                    let client = client.clone();
                    executor.spawn(async move {
                        let key = format!("key{task}");
                        for call in 0..CALLS {
                            client.put(&key, call.to_string()).await.unwrap();
                            let values = client.get(&key).await.unwrap();
                            let expected: Vec<_> =
                                (0..=call).map(|call| call.to_string().into_bytes()).collect();
                            assert_eq!(values, expected);
                        }
                    })
                })
                .collect();
            executor
                .run(async {
                    let mut count = 0;
                    for task in tasks {
                        task.await;
                        count += 1;
                    }
                    count
                })
                .await
        });
        assert_eq!(tasks, TASKS);
        server.await_counts(0, 1);
    }
}

#[test]
fn threads_share_a_connection() {
    let server = TestServer::start(Place::PLAIN, Server::new());
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
fn whatever_a_line_can_carry_comes_back_as_it_was() {
    let server = TestServer::start(Place::PLAIN, Server::new());
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
    let server = TestServer::start(Place::PLAIN, Server::builder().max_line(100).build());
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
                Ok(values) => values.len().to_string(),
                Err(Error::Refused { code, .. }) => code.to_string(),
                Err(error) => panic!("{error}"),
            });
            let fates: Vec<_> = fates.collect();
            assert_eq!(
                fates,
                [
                    "0", "too-long", "too-long", "1", "too-long", "0", "0", "too-long"
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

/// Fails every command on the key `bad`.
#[derive(Debug)]
struct Picky;

impl Store for Picky {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        while let Some(operation) = batch.take() {
            match operation {
                Operation::Get { key: b"bad" } => batch.fail(&Error::store("no:\nsuch luck")),
                Operation::Write(Write::Put { key: b"bad", .. }) => {
                    batch.fail(&Error::store("read only"))
                }
                Operation::Get { .. } => batch.values([&b"fine"[..]].into_iter()),
                _ => batch.done(),
            }
        }
        Ok(())
    }
}

#[test]
fn a_failing_store_is_told_of_in_its_own_words() {
    let server = Server::builder().store(Picky).build();
    let server = TestServer::start(Place::PLAIN, server);
    future::block_on(async {
        let client = connect(&server).await;
        let outcomes = client
            .pipeline()
            .put("good", "1")
            .put("bad", "1")
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
                "the server refused (store): no: such luck",
                "ok"
            ]
        );
    });
}

#[test]
fn a_pipeline_may_be_of_any_length() {
    const GETS: usize = 100_000;
    let server = TestServer::start(Place::PLAIN, Server::new());
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
        assert!(outcomes.next().unwrap().unwrap().is_empty());
        for n in 1..=GETS {
            let values = outcomes.next().unwrap().unwrap();
            assert_eq!(values, [((n - 1) / 1000).to_string().into_bytes()]);
            if n % 1000 == 0 {
                assert!(outcomes.next().unwrap().unwrap().is_empty());
            }
        }
        assert!(outcomes.next().is_none());
        assert!(client.pipeline().send().await.unwrap().is_empty());
    });
}

/// Writes and reads alike are far larger than what the sockets hold between them.
#[test]
fn a_pipeline_reads_while_it_writes() {
    let server = TestServer::start(Place::PLAIN, Server::new());
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
            let values = outcome.unwrap();
            assert_eq!(values.len(), usize::from(index % 3 == 1));
            assert!(values.iter().all(|read| *read == value));
        }
    });
}

#[test]
fn nobody_is_left_behind() {
    const TASKS: usize = 500;
    let server = TestServer::start(Place::PLAIN, Server::new());
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
    let server = TestServer::start(Place::PLAIN, Server::new());
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
fn a_server_that_shuts_down_is_a_clear_error_to_all() {
    let server = TestServer::start(Place::PLAIN, Server::new());
    let client = future::block_on(connect(&server));
    let failed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            let (client, failed) = (client.clone(), &failed);
            scope.spawn(move || {
                future::block_on(async {
                    let error = loop {
                        if let Err(error) = client.put("k", "v").await {
                            break error;
                        }
                    };
                    assert!(
                        matches!(
                            error,
                            Error::Disconnected(_)
                                | Error::Refused {
                                    code: Code::Closing,
                                    ..
                                }
                                | Error::Unconfirmed {
                                    code: Code::Closing,
                                    ..
                                }
                        ),
                        "{error}"
                    );
                    failed.fetch_add(1, Ordering::Relaxed);
                });
            });
        }
        wait_until("puts are under way", || {
            server.handle.stats().commands > 100
        });
        server.stop(Duration::ZERO);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 4);
    future::block_on(async {
        let error = client.get("k").await.unwrap_err();
        let closing = Code::Closing;
        assert!(
            matches!(error, Error::Disconnected(_))
                || matches!(error, Error::Refused { code, .. } if code == closing),
            "{error}"
        );
        let error = client.reconnect().await.unwrap_err();
        assert!(matches!(error, Error::Connect(_)), "{error}");
    });
}

/// Whoever waits for an event waits for ever otherwise.
#[cfg(target_os = "linux")]
#[test]
fn the_system_is_to_ask_within_a_minute_whether_a_silent_server_is_still_there() {
    let server = TestServer::start(Place::PLAIN, Server::new());
    let client = future::block_on(connect(&server));
    let _watcher = future::block_on(client.watch("k")).unwrap();
    let port = format!(":{:04X}", server.address.port());
    wait_until("the keepalive timer runs", || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let fields = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut ours = fields.filter(|fields| fields[2].ends_with(&port));
        // The kind of the timer, and hundredths of a second.
        ours.any(|fields| match fields[5].split_once(':') {
            Some(("02", ticks)) => {
                let ticks = u64::from_str_radix(ticks, 16).unwrap();
                (3_000..6_100).contains(&ticks)
            }
            _ => false,
        })
    });
}

#[test]
fn what_a_put_confirmed_is_there() {
    let server = TestServer::start(Place::PLAIN, Server::new());
    future::block_on(async {
        let (one, other) = (connect(&server).await, connect(&server).await);
        for n in 1..=100 {
            one.put("k", "v").await.unwrap();
            assert_eq!(other.get("k").await.unwrap().len(), n);
        }
    });
}

#[test]
fn reconnecting_is_one_call() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = TestServer::start(Place::PLAIN, Server::new());
    let upstream = server.address;
    let relay = relay(listener, upstream, 1);
    future::block_on(async {
        let client = Client::connect(address).await.unwrap();
        let clone = client.with_timeout(DEADLINE);
        let error = client.put("k", "v").await.unwrap_err();
        assert!(matches!(error, Error::Disconnected(_)), "{error}");
        clone.put("k", "v").await.unwrap_err();
        client.reconnect().await.unwrap();
        clone.put("k", "v").await.unwrap();
        assert_eq!(client.get("k").await.unwrap(), [b"v"]);
        clone.reconnect().await.unwrap(); // nothing to do
        assert_eq!(clone.get("k").await.unwrap(), [b"v"]);
    });
    relay.join().unwrap();
    server.await_counts(0, 1);
}

/// The first connection is cut when so many bytes have come; the next one reaches the server.
fn relay(listener: TcpListener, upstream: SocketAddr, bytes: usize) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        io::Read::read_exact(&mut first, &mut vec![0; bytes]).unwrap();
        drop(first);
        let (near, _) = listener.accept().unwrap();
        let far = std::net::TcpStream::connect(upstream).unwrap();
        let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
        let back = thread::spawn(move || io::copy(&mut &back.0, &mut &back.1));
        let _ = io::copy(&mut &near, &mut &far);
        let _ = far.shutdown(std::net::Shutdown::Both);
        let _ = back.join();
    })
}

#[test]
fn a_connection_that_ended_while_idle_is_replaced_by_one_call_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = TestServer::start(Place::PLAIN, Server::new());
    let relay = relay(listener, server.address, 0);
    future::block_on(async {
        let client = Client::connect(address).await.unwrap();
        client.reconnect().await.unwrap();
        client.put("k", "v").await.unwrap();
    });
    relay.join().unwrap();
}

#[test]
fn values_that_end_in_a_carriage_return_come_whole() {
    let server = TestServer::start(Place::PLAIN, Server::new());
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

#[test]
fn several_may_reconnect_at_once() {
    let server = TestServer::start(Place::PLAIN, Server::new());
    future::block_on(async {
        let client = connect(&server).await;
        client.disconnect();
        let error = client.get("k").await.unwrap_err();
        assert!(matches!(error, Error::Disconnected(None)), "{error}");
        let (one, other) = future::zip(client.reconnect(), client.reconnect()).await;
        one.unwrap();
        other.unwrap();
        client.put("k", "v").await.unwrap();
        wait_until("one of the two is gone", || {
            server.handle.stats().active == 1
        });
        // It has not ended, so there is nothing to do.
        let dropped = server.handle.stats().dropped;
        client.reconnect().await.unwrap();
        assert_eq!(client.get("k").await.unwrap(), [b"v"]);
        let stats = client.stats().await.unwrap();
        assert_eq!((stats.active, stats.dropped), (1, dropped));
    });
    wait_until("both are gone", || server.handle.stats().active == 0);
}

#[test]
fn a_silent_server_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    future::block_on(async {
        let client = Client::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let hasty = client.with_timeout(Duration::from_millis(20));
        let start = Instant::now();
        let error = hasty.get("k").await.unwrap_err();
        assert!(matches!(error, Error::TimedOut), "{error}");
        let error = hasty.pipeline().put("k", "v").send().await.unwrap_err();
        assert!(matches!(error, Error::TimedOut), "{error}");
        assert!(start.elapsed() >= Duration::from_millis(40));
        // The original has no limit: this would wait for ever.
        let waiting = client.get("k");
        let end = async {
            hasty.sync().await.unwrap_err();
            client.disconnect();
            std::future::pending().await
        };
        let error = future::or(waiting, end).await.unwrap_err();
        assert!(matches!(error, Error::Disconnected(None)), "{error}");
    });
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    future::block_on(async {
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let error = Client::connect(address).await.unwrap_err();
        let Error::Connect(source) = &error else {
            panic!("{error}");
        };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
    });
}
