//! Walks over a prefix, at a scripted server.

use std::{
    collections::HashSet,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use futures_lite::{Stream, StreamExt as _, future};
use keywire::{Client, Error, Walk, protocol::Code};

use super::with_fences;
use crate::common::{
    DEADLINE, is_unsent,
    scripted::{ScriptedServer, answering, poll, silent},
};

type Entry = (Vec<u8>, Vec<Vec<u8>>);

fn entry(key: &str, values: &[&str]) -> Entry {
    let values = values.iter().map(|value| value.as_bytes().to_vec());
    (key.into(), values.collect())
}

fn next<T>(walk: &mut Walk<T>) -> Poll<Option<Result<T, Error>>> {
    Pin::new(walk).poll_next(&mut Context::from_waker(Waker::noop()))
}

/// The next key, which has come.
#[track_caller]
fn come<T>(walk: &mut Walk<T>) -> T {
    match next(walk) {
        Poll::Ready(Some(Ok(item))) => item,
        Poll::Ready(Some(Err(error))) => panic!("{error}"),
        Poll::Ready(None) => panic!("the end"),
        Poll::Pending => panic!("nothing has come"),
    }
}

/// All keys, and how the walk ended after them.
fn all<T>(mut walk: Walk<T>) -> (Vec<T>, Result<(), Error>) {
    future::block_on(async {
        let mut items = Vec::new();
        while let Some(item) = walk.next().await {
            match item {
                Ok(item) => items.push(item),
                Err(error) => {
                    assert!(walk.next().await.is_none(), "more after {error}");
                    return (items, Err(error));
                }
            }
        }
        (items, Ok(()))
    })
}

#[test]
fn a_prefix_is_read_and_listed() {
    let (client, server) = answering();
    future::block_on(async {
        let writes = client.pipeline().put("user.a", "1").put("user.a", "2");
        let writes = writes.put("user.b", "").put("other", "x");
        writes.send().await.unwrap();
    });
    let users = [entry("user.a", &["1", "2"]), entry("user.b", &[""])];
    assert_eq!(all(client.get_prefix("user.")).0, users);
    assert_eq!(
        all(client.keys("user.")).0,
        [(b"user.a".to_vec(), 2), (b"user.b".to_vec(), 1)]
    );
    assert_eq!(all(client.get_prefix("")).0.len(), 3);
    let (none, end) = all(client.keys("nobody"));
    assert!(none.is_empty() && end.is_ok());
    assert_eq!(
        server.commands()[4..],
        ["GetPrefix:user.", "Keys:user.", "GetPrefix:", "Keys:nobody"]
    );
}

#[test]
fn nothing_is_sent_before_the_first_poll() {
    let (client, server) = answering();
    let mut unpolled = client.keys("");
    let late = client.get_prefix("a");
    drop(client.keys("b"));
    future::block_on(client.sync()).unwrap();
    assert!(server.commands().is_empty());
    assert!(matches!(next(&mut unpolled), Poll::Ready(None)));
    assert_eq!(server.commands(), ["Keys:"]);
    drop(late);
}

#[test]
fn a_key_comes_as_soon_as_its_lines_are_whole() {
    let (client, server) = silent();
    let mut walk = client.get_prefix("");
    assert!(next(&mut walk).is_pending());
    assert_eq!(server.commands(), ["GetPrefix:"]);
    server.send("a:1\na:2\n");
    assert!(next(&mut walk).is_pending());
    // What this client does not know says nothing of the lines around it.
    server.send(":new:kind\na:3\nb:");
    assert!(next(&mut walk).is_pending());
    server.send("1\n");
    assert_eq!(come(&mut walk), entry("a", &["1", "2", "3"]));
    assert!(next(&mut walk).is_pending());
    server.send(":sync:0:2\n");
    assert_eq!(come(&mut walk), entry("b", &["1"]));
    assert!(matches!(next(&mut walk), Poll::Ready(None)));
    assert!(matches!(next(&mut walk), Poll::Ready(None)));

    let mut walk = client.keys("");
    assert!(next(&mut walk).is_pending());
    server.send("a:3\n");
    assert_eq!(come(&mut walk), (b"a".to_vec(), 3));
    assert!(next(&mut walk).is_pending());
}

#[test]
fn how_a_walk_ends_stands_behind_what_came_before() {
    let walk = |lines| all(with_fences(lines).0.get_prefix("k"));
    let keys = [entry("k", &["1", "2"]), entry("kk", &["3"])];
    let (found, end) = walk("k:1\nk:2\nkk:3\n:error:1:too-long:no\n:sync:0:TOKEN\n");
    assert_eq!(found, keys);
    assert!(matches!(end, Err(Error::Refused { code, .. }) if code == Code::TooLong));

    let (found, end) = walk("k:1\nk:2\nkk:3\n:sync:7:TOKEN\n");
    assert_eq!(found, keys);
    assert!(matches!(end, Err(Error::RepliesDropped { lines: 7, .. })));

    for (lines, error) in [
        ("k:1\nother:2\n", "a key without the prefix"),
        ("k:1\n:sync:0:x\n", "out of turn"),
    ] {
        let (found, end) = walk(lines);
        assert!(found.len() <= 1, "{lines}");
        let end = end.unwrap_err().to_string();
        assert!(end.contains(error), "{lines}: {end}");
    }
    for count in ["k:\n", "k:x\n", "k:-1\n", "k:1:2\n"] {
        let (found, end) = all(with_fences(count).0.keys(""));
        assert!(found.is_empty() && matches!(end, Err(Error::Protocol(_))));
    }

    // Nobody knows whether the last key is whole when the connection ends.
    let (client, server) = silent();
    let mut walk = client.get_prefix("");
    assert!(next(&mut walk).is_pending());
    server.send("k:1\nkk:2\n");
    server.close();
    let (found, end) = all(walk);
    assert_eq!(found, [entry("k", &["1"])]);
    assert!(matches!(end, Err(Error::Disconnected(None))));
    let (found, end) = all(client.keys(""));
    assert!(found.is_empty() && end.is_err_and(|error| is_unsent(&error)));
}

#[test]
fn a_walk_has_the_time_limit_of_its_client() {
    let (client, server) = silent();
    let hasty = client.with_timeout(Duration::from_millis(5));
    let mut walk = hasty.keys("");
    assert!(next(&mut walk).is_pending());
    server.send("a:1\nb:1\n");
    let (found, end) = all(walk);
    assert_eq!(found.len(), 2);
    assert!(matches!(end, Err(Error::TimedOut)));
    // The client stays in step.
    server.send("c:1\n:sync:0:2\nk:mine\n:sync:0:4\n");
    assert_eq!(future::block_on(client.get("k")).unwrap(), [b"mine"]);
}

const KEYS: usize = 100_000;

/// A walk that was polled once, and has far more to come than it may hold.
fn long_walk() -> (Client, ScriptedServer, Walk<(Vec<u8>, u64)>) {
    let (client, server) = silent();
    let mut walk = client.keys("");
    assert!(next(&mut walk).is_pending());
    let lines: String = (0..KEYS).map(|key| format!("key{key:05}:1\n")).collect();
    server.send(lines + ":sync:0:2\n");
    assert_eq!(come(&mut walk), (b"key00000".to_vec(), 1));
    (client, server, walk)
}

/// Notes whether it was woken.
#[derive(Default)]
struct Woken(Mutex<HashSet<&'static str>>);

struct Named(&'static str, Arc<Woken>);

impl Wake for Named {
    fn wake(self: Arc<Self>) {
        self.1.0.lock().unwrap().insert(self.0);
    }
}

#[test]
fn a_walk_that_is_not_polled_holds_a_bounded_part_and_others_wait() {
    let (client, server, mut walk) = long_walk();
    let mut call = pin!(client.get("k"));
    for _ in 0..100 {
        assert!(poll(call.as_mut()).is_pending());
    }
    // One read holds 5,000 of these keys.
    assert!(server.unread() > 11 * (KEYS - 10_000));
    server.send("k:v\n:sync:0:4\n");

    // As soon as there is room, the call is woken, and can fill it again.
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::new(Named("call", woken.clone())));
    let cx = &mut Context::from_waker(&waker);
    assert!(call.as_mut().poll(cx).is_pending());
    let unread = server.unread();
    let mut taken = 1;
    while woken.0.lock().unwrap().is_empty() {
        assert_eq!(server.unread(), unread);
        come(&mut walk);
        taken += 1;
    }
    assert!(call.as_mut().poll(cx).is_pending());
    assert!(server.unread() < unread);

    // The rest comes as the walk is polled.
    while let Poll::Ready(Some(found)) = next(&mut walk) {
        assert_eq!(found.unwrap(), (format!("key{taken:05}").into_bytes(), 1));
        taken += 1;
    }
    assert_eq!(taken, KEYS);
    assert!(matches!(poll(call.as_mut()), Poll::Ready(Ok(values)) if values == [b"v"]));
}

#[test]
fn large_values_count_by_their_bytes() {
    let (client, server) = silent();
    let mut walk = client.get_prefix("");
    assert!(next(&mut walk).is_pending());
    let value = "x".repeat(100_000);
    let lines: String = (0..100).map(|key| format!("k{key}:{value}\n")).collect();
    server.send(lines + ":sync:0:2\n");
    let mut call = pin!(client.sync());
    for _ in 0..100 {
        assert!(poll(call.as_mut()).is_pending());
    }
    assert!(server.unread() > 86 * 100_000);
    assert_eq!(all(walk).0.len(), 100);
    server.send(":sync:0:3\n");
    assert!(poll(call.as_mut()).is_ready());
}

#[test]
fn a_walk_that_is_dropped_lets_the_others_go_on() {
    let (client, server, walk) = long_walk();
    let mut call = pin!(client.get("k"));
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::new(Named("call", woken.clone())));
    let cx = &mut Context::from_waker(&waker);
    for _ in 0..100 {
        assert!(call.as_mut().poll(cx).is_pending());
    }
    server.send("k:v\n:sync:0:4\n");
    woken.0.lock().unwrap().clear();
    drop(walk);
    assert!(!woken.0.lock().unwrap().is_empty());
    assert_eq!(future::block_on(call).unwrap(), [b"v"]);
    assert_eq!(server.unread(), 0);
}

/// A task that makes a call between two polls of its walk waits for itself, but not for ever.
#[test]
fn a_walk_that_is_never_polled_is_cut_and_says_so() {
    let (client, server, walk) = long_walk();
    server.send("k:v\n:sync:0:4\n");
    assert_eq!(future::block_on(client.get("k")).unwrap(), [b"v"]);
    let (found, end) = all(walk);
    let Err(Error::RepliesDropped { lines, .. }) = end else {
        panic!("{end:?}");
    };
    assert!(found.len() >= 1024);
    assert_eq!(1 + found.len() + lines as usize, KEYS);
    for (number, found) in found.into_iter().enumerate() {
        assert_eq!(found.0, format!("key{:05}", number + 1).into_bytes());
    }
}

/// What the server said before writing to it failed still comes, however long the walk pauses.
#[test]
fn a_paused_walk_is_read_though_writing_fails() {
    let (client, server, mut walk) = long_walk();
    server.fail_writes();
    let mut call = pin!(client.sync());
    for _ in 0..100 {
        assert!(poll(call.as_mut()).is_pending());
    }
    for _ in 1..KEYS {
        come(&mut walk);
    }
    assert!(matches!(next(&mut walk), Poll::Ready(None)));
    assert!(matches!(
        poll(call.as_mut()),
        Poll::Ready(Err(Error::Disconnected(Some(_))))
    ));
}

/// Nobody waits for a wake-up that does not come, whoever drives, stops and goes on.
#[test]
fn threads_share_a_connection_with_walks() {
    const KEYS: usize = 5_000;
    let (client, _server) = answering();
    future::block_on(async {
        let puts = (0..KEYS).fold(client.pipeline(), |puts, key| {
            puts.put(format!("key{key}"), "1")
        });
        puts.send().await.unwrap();
        client.put("k", "v").await.unwrap();
    });
    let client = client.with_timeout(DEADLINE);
    thread::scope(|scope| {
        for number in 0..2 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..20 {
                    let walk = client.keys("key");
                    if round % 4 == number {
                        // Dropped in the middle, when it is full or not.
                        let some = future::block_on(walk.take(round * 250).count());
                        assert_eq!(some, round * 250);
                        continue;
                    }
                    let slow = walk.then(|found| async {
                        if found.as_ref().is_ok_and(|(key, _)| key.ends_with(b"00")) {
                            thread::yield_now();
                        }
                        found.unwrap()
                    });
                    assert_eq!(future::block_on(slow.count()), KEYS);
                }
            });
            scope.spawn(move || {
                for _ in 0..200 {
                    assert_eq!(future::block_on(client.get("k")).unwrap(), [b"v"]);
                }
            });
        }
    });
}

#[test]
fn debug_shows_no_key() {
    let (client, _server) = answering();
    let shown = format!("{:?}", client.keys("secret"));
    assert!(!shown.contains("secret"), "{shown}");
}
