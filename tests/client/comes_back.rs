//! A client that makes another connection when one is lost.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use futures_lite::{StreamExt as _, future};
use keywire::{Client, ClientBuilder, Error, Event, Server};

use crate::common::{
    DEADLINE, TestServer,
    proxy::Proxy,
    scripted::{self, answers},
    wait_until,
};

/// With short waits.
pub(crate) fn builder(proxy: &Proxy) -> ClientBuilder {
    Client::builder()
        .address(proxy.address)
        .answer_timeout(Some(DEADLINE))
        .reconnect_delays(Duration::from_millis(1), Duration::from_millis(20))
}

pub(crate) async fn connected(proxy: &Proxy) -> Client {
    builder(proxy).connect().await.unwrap()
}

pub(crate) fn start() -> (TestServer, Proxy) {
    let server = TestServer::start(Server::new());
    let proxy = Proxy::start(server.address);
    (server, proxy)
}

/// A future that is polled until this is so, which it does not end before.
pub(crate) async fn poll_until<T>(
    mut call: Pin<&mut impl Future<Output = T>>,
    so: impl Fn() -> bool,
) {
    while !so() {
        assert!(future::poll_once(call.as_mut()).await.is_none());
        smol::Timer::after(Duration::from_millis(1)).await;
    }
}

/// Lets more time pass than a connection is used again for without a look at it: what was used just now is
/// written to at once.
pub(crate) async fn idle() {
    smol::Timer::after(Duration::from_millis(50)).await;
}

/// Whoever has been idle meanwhile is not told at all: the write goes to the next connection.
#[test]
fn a_connection_that_ended_while_idle_costs_no_call() {
    let (server, proxy) = start();
    future::block_on(async {
        let client = connected(&proxy).await;
        for round in 0..5 {
            client.put("k", round.to_string()).await.unwrap();
            proxy.cut();
            idle().await;
        }
        assert_eq!(client.get("k").await.unwrap().len(), 5);
        assert_eq!(proxy.accepted(), 6);
    });
    drop(server);
}

#[test]
fn a_read_under_way_is_sent_again() {
    let (server, proxy) = start();
    future::block_on(async {
        let client = connected(&proxy).await;
        client.put("k", "v").await.unwrap();
        let commands = server.handle.stats().commands;
        proxy
            .lose_replies_of(async {
                let (values, stats) = future::zip(client.get("k"), client.stats()).await;
                assert_eq!(values.unwrap(), [b"v"]);
                stats.unwrap();
            })
            .await;
        assert!(server.handle.stats().commands > commands + 1);
        assert_eq!(proxy.accepted(), 2);
    });
}

/// The server applies it, and its word is lost on the way.
#[test]
fn a_write_under_way_is_in_doubt_and_applied_once() {
    let (server, proxy) = start();
    future::block_on(async {
        let client = connected(&proxy).await;
        proxy
            .lose_replies_of(async {
                let error = client.put("k", "v").await.unwrap_err();
                assert!(matches!(error, Error::Disconnected(_)), "{error}");
                assert!(error.may_be_applied());
            })
            .await;
        wait_until("it is applied", || server.handle.stats().puts == 1);
        assert_eq!(client.get("k").await.unwrap(), [b"v"]);
        // A fence of the next connection says nothing of the one before.
        proxy
            .lose_replies_of(async {
                client.sync().await.unwrap_err();
            })
            .await;
        client.sync().await.unwrap();
    });
}

#[test]
fn a_write_may_be_repeated_if_its_caller_says_so() {
    let (server, proxy) = start();
    future::block_on(async {
        let client = connected(&proxy).await;
        let repeating = client.with_repeated_writes();
        proxy
            .lose_replies_of(async { repeating.put("k", "v").await.unwrap() })
            .await;
        wait_until("both are applied", || server.handle.stats().puts == 2);
        assert_eq!(client.get("k").await.unwrap(), [b"v", b"v"]);
    });
}

/// Each command of a pipeline has its own outcome, at its own place.
#[test]
fn a_pipeline_under_way_keeps_its_places() {
    let (_server, proxy) = start();
    future::block_on(async {
        let client = connected(&proxy).await;
        client.put("a", "1").await.unwrap();
        proxy
            .lose_replies_of(async {
                let pipeline = client
                    .pipeline()
                    .get("a")
                    .put("b", "2")
                    .get("a")
                    .put("b", "3");
                let outcomes = pipeline.get("a").send().await.unwrap();
                for (place, outcome) in outcomes.into_iter().enumerate() {
                    match place {
                        1 | 3 => assert!(outcome.unwrap_err().may_be_applied()),
                        _ => assert_eq!(outcome.unwrap().values().unwrap(), [b"1"]),
                    }
                }
            })
            .await;
        assert_eq!(client.get("b").await.unwrap(), [b"2", b"3"]);
    });
}

#[test]
fn a_watcher_survives_and_hears_once_of_the_gap() {
    let (server, proxy) = start();
    future::block_on(async {
        let client = connected(&proxy).await;
        let other = Client::connect(server.address).await.unwrap();
        let mut key = client.watch("k").await.unwrap();
        let mut prefix = client.watch_prefix("").await.unwrap();
        let put = |value: &[u8]| Event::Put {
            key: b"k".to_vec(),
            value: value.to_vec(),
        };
        for round in 0..3 {
            other.put("k", "seen").await.unwrap();
            assert_eq!(key.next().await.unwrap().unwrap(), put(b"seen"));
            proxy.refuse(true);
            proxy.cut();
            other.put("k", "unseen").await.unwrap();
            let accepted = proxy.accepted();
            let next = pin!(key.next());
            // Some attempts fail on the way.
            poll_until(next, || proxy.accepted() > accepted + 3).await;
            proxy.refuse(false);
            assert_eq!(
                key.next().await.unwrap().unwrap(),
                Event::Missed(0),
                "{round}"
            );
            other.put("k", "seen").await.unwrap();
            assert_eq!(key.next().await.unwrap().unwrap(), put(b"seen"));
        }
        // The same for one that nobody looked at meanwhile.
        client.sync().await.unwrap();
        let mut events = Vec::new();
        while events.len() < 9 {
            events.push(prefix.next().await.unwrap().unwrap());
        }
        let missed = events.iter().filter(|event| **event == Event::Missed(0));
        assert_eq!(missed.count(), 3, "{events:?}");
    });
}

#[test]
fn a_watch_of_a_watcher_that_was_dropped_meanwhile_is_not_begun_anew() {
    let (server, proxy) = start();
    future::block_on(async {
        let client = connected(&proxy).await;
        let watcher = client.watch("k").await.unwrap();
        let mut kept = client.watch("l").await.unwrap();
        proxy.cut();
        drop(watcher);
        assert_eq!(kept.next().await.unwrap().unwrap(), Event::Missed(0));
        client.sync().await.unwrap();
        // Those of before, and one more.
        assert_eq!(server.handle.stats().watches, 3);
    });
}

/// The snapshot begins anew with its watch.
#[test]
fn a_snapshot_under_way_is_read_again() {
    let (server, proxy) = start();
    future::block_on(async {
        let client = connected(&proxy).await;
        client.put("k.1", "v").await.unwrap();
        let (read, mut watcher) = proxy
            .lose_replies_of(client.get_and_watch_prefix("k."))
            .await
            .unwrap();
        assert_eq!(read[&b"k.1"[..]], [b"v"]);
        let (values, mut single) = proxy
            .lose_replies_of(client.get_and_watch("k.1"))
            .await
            .unwrap();
        assert_eq!(values, [b"v"]);
        let other = Client::connect(server.address).await.unwrap();
        other.delete("k.1").await.unwrap();
        let key = b"k.1".to_vec();
        // The first watch was begun before the second connection was lost.
        assert_eq!(watcher.next().await.unwrap().unwrap(), Event::Missed(0));
        for watcher in [&mut watcher, &mut single] {
            let event = watcher.next().await.unwrap().unwrap();
            assert_eq!(event, Event::Delete { key: key.clone() });
        }
    });
}

/// What came before its watch was confirmed to the end is not told: a gap would follow, and no word of it.
#[test]
fn events_of_a_watch_that_was_not_confirmed_are_not_told() {
    let (first, broken) = scripted::pair(|line, out| match line {
        "Watch:k" => *out += ":watch:k\n:put:k:1\n",
        "Sync:1" => *out += ":sync:0:1\n",
        // The fence of the watch has no answer.
        _ => {}
    });
    let (second, server) = scripted::pair(answers());
    let streams = Arc::new(Mutex::new(vec![second, first]));
    let connect = move || future::ready(Ok(streams.lock().unwrap().pop().unwrap()));
    let client = Client::builder()
        .connector(connect)
        .reconnect_delays(Duration::ZERO, Duration::ZERO)
        .build();
    future::block_on(async {
        let mut watch = Box::pin(client.watch("k"));
        poll_until(watch.as_mut(), || {
            broken.commands() == ["Watch:k"] && broken.unread() == 0
        })
        .await;
        broken.close();
        let mut watcher = watch.await.unwrap();
        server.send(":put:k:2\n");
        let put = Event::Put {
            key: b"k".to_vec(),
            value: b"2".to_vec(),
        };
        assert_eq!(watcher.next().await.unwrap().unwrap(), put);
    });
}

#[test]
fn a_connection_that_is_silent_is_given_up() {
    let (_server, proxy) = start();
    future::block_on(async {
        let limit = Some(Duration::from_millis(100));
        let client = builder(&proxy)
            .answer_timeout(limit)
            .connect()
            .await
            .unwrap();
        let patient = client.with_timeout(DEADLINE);
        let mut watcher = client.watch("k").await.unwrap();
        proxy.stall();
        // Only a watcher waits, so the server is asked for a sign of life.
        assert_eq!(watcher.next().await.unwrap().unwrap(), Event::Missed(0));
        proxy.stall();
        assert!(patient.get("k").await.unwrap().is_empty());
        patient.sync().await.unwrap();
        proxy.stall();
        let error = patient.put("k", "v").await.unwrap_err();
        assert!(error.may_be_applied(), "{error}");
        patient.sync().await.unwrap();
        proxy.stall();
        // A call that is not as patient leaves a connection that the next call gives up.
        let error = client.with_timeout(Duration::from_millis(5)).get("k").await;
        assert!(matches!(error, Err(Error::TimedOut)), "{error:?}");
        smol::Timer::after(Duration::from_millis(120)).await;
        patient.put("k", "w").await.unwrap();
        assert_eq!(patient.get("k").await.unwrap(), [b"w"]);
        assert_eq!(proxy.accepted(), 5);
    });
}

#[test]
fn calls_made_while_there_is_no_server_wait_for_it() {
    let (server, proxy) = start();
    proxy.refuse(true);
    future::block_on(async {
        let client = builder(&proxy).build();
        let hasty = client.with_timeout(Duration::from_millis(30));
        let error = hasty.put("k", "never").await.unwrap_err();
        assert!(matches!(error, Error::NotSent(_)), "{error}");
        // More than are kept. Those that are dropped make room for those that are not.
        for _ in 0..3 {
            let mut dropped: Vec<_> = (0..1000)
                .map(|_| Box::pin(client.put("k", "never")))
                .collect();
            for call in &mut dropped {
                assert!(future::poll_once(call).await.is_none());
            }
        }
        let executor = smol::LocalExecutor::new();
        let calls = (0..1000).map(|_| executor.spawn(client.put("k", "v")));
        let calls: Vec<_> = calls.collect();
        let accepted = proxy.accepted();
        let opening = async {
            wait_until("it tries", || {
                executor.try_tick();
                proxy.accepted() > accepted + 2
            });
            proxy.refuse(false);
            for call in calls {
                call.await.unwrap();
            }
        };
        executor.run(opening).await;
        assert_eq!(client.get("k").await.unwrap(), vec![b"v"; 1000]);
    });
    assert_eq!(server.handle.stats().puts, 1000);
}

/// A server that hangs up on each `Get`, and how many there were.
fn falls_by_gets() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let gets = Arc::new(AtomicUsize::new(0));
    let seen = gets.clone();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                if line.starts_with("Get") {
                    seen.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                if let Some(token) = line.strip_prefix("Sync:") {
                    let reply = format!(":sync:0:{token}\n");
                    (&stream).write_all(reply.as_bytes()).unwrap();
                }
            }
        }
    });
    (address, gets)
}

/// A request that fells its server, whichever it is, does not do so for ever.
#[test]
fn a_read_is_sent_again_three_times_at_most() {
    let (address, gets) = falls_by_gets();
    let client = Client::builder()
        .address(address)
        .reconnect_delays(Duration::from_millis(1), Duration::from_millis(2))
        .build();
    future::block_on(async {
        let error = client.get("k").await.unwrap_err();
        assert!(error.is_disconnected(), "{error}");
        assert_eq!(gets.load(Ordering::SeqCst), 4);
        client.put("k", "v").await.unwrap();
    });
}
