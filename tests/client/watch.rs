//! Watchers, at a scripted server.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use futures_lite::{Stream, StreamExt as _, future};
use keywire::{Client, Error, Event, Watcher};

use crate::common::{
    events::{delete, put, remove, set, update},
    is_unsent,
    scripted::{self, answering, poll},
};

/// What has come so far.
pub(crate) fn told(watcher: &mut Watcher) -> Vec<Event> {
    let cx = &mut Context::from_waker(Waker::noop());
    let mut events = Vec::new();
    while let Poll::Ready(Some(event)) = Pin::new(&mut *watcher).poll_next(cx) {
        events.push(event.unwrap());
    }
    events
}

#[test]
fn each_watcher_is_told_of_what_it_watches() {
    let (client, server) = answering();
    future::block_on(async {
        let mut user = client.watch("user").await.unwrap();
        let mut again = client.watch("user").await.unwrap();
        let mut prefix = client.watch_prefix("us").await.unwrap();
        let mut all = client.watch_prefix("").await.unwrap();
        assert_eq!(
            server.commands(),
            ["Watch:user", "Watch:user", "WatchPrefix:us", "WatchPrefix:"]
        );
        // One line each, whatever it matches.
        server.send(
            ":put:user:a:b\n:update:use:x:y:z\n:delete:user\n:put:u:\n:missed:7\n:put:user:c\n",
        );
        let of_user = [
            put("user", "a:b"),
            delete("user"),
            Event::Missed(7),
            put("user", "c"),
        ];
        assert_eq!(told(&mut user), of_user);
        assert_eq!(told(&mut again), of_user);
        let of_prefix = [
            put("user", "a:b"),
            update("use", "x", "y:z"),
            delete("user"),
            Event::Missed(7),
            put("user", "c"),
        ];
        assert_eq!(told(&mut prefix), of_prefix);
        assert_eq!(told(&mut all).len(), 6);
        assert_eq!(told(&mut user), []);
    });
}

#[test]
fn events_and_replies_may_come_mixed() {
    let (stream, server) = scripted::pair(|line, out| match line.split_once(':') {
        Some(("Watch", key)) => *out += &format!(":put:k:before\n:watch:{key}\n:put:k:1\n"),
        Some(("Sync", token)) => *out += &format!(":put:k:2\n:sync:0:{token}\n:put:k:3\n"),
        Some(("Get", _)) => *out += "k:v\n:delete:k\nk:w\n",
        _ => {}
    });
    let client = Client::from_stream(stream);
    let mut watcher = future::block_on(client.watch("k")).unwrap();
    assert_eq!(told(&mut watcher), [put("k", 1), put("k", 2), put("k", 3)]);
    assert_eq!(
        future::block_on(client.get("k")).unwrap(),
        [&b"v"[..], b"w"]
    );
    assert_eq!(told(&mut watcher), [delete("k"), put("k", 2), put("k", 3)]);
    drop(server);
}

/// It is told all the same. With others that found no room in the watcher's queue, it stays unknown.
#[test]
fn an_unknown_number_of_changes_may_be_missed() {
    let (client, server) = answering();
    future::block_on(async {
        let mut watcher = client.watch("k").await.unwrap();
        server.send(":missed:0\n:put:k:1\n");
        assert_eq!(told(&mut watcher), [Event::Missed(0), put("k", 1)]);
        for lines in [":missed:0\n:missed:3\n", ":missed:3\n:missed:0\n"] {
            server.send(lines);
            assert_eq!(told(&mut watcher), [Event::Missed(0)]);
        }
    });
    let error = Event::Missed(0).apply_to(&mut keywire::Snapshot::new());
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("changes were missed"), "{error}");
}

/// The reply to the last `Get` is what a snapshot contains: what came before it is in it.
#[test]
fn a_snapshot_has_neither_gap_nor_overlap() {
    // What is said before the values, the values, what is said after them; what is told.
    let cases = [
        ("", "k:1\nk:2\n", "", 2, vec![]),
        (":put:k:2\n", "k:1\nk:2\n", "", 2, vec![]),
        ("", "k:1\n", ":put:k:2\n", 1, vec![put("k", 2)]),
        (
            ":delete:k\n:put:k:1\n",
            "k:1\n",
            ":delete:k\n",
            1,
            vec![delete("k")],
        ),
        (
            ":missed:9\n",
            "k:1\n",
            ":missed:2\n",
            1,
            vec![Event::Missed(2)],
        ),
        // Without values it doesn't show where the reply is; but it can only be before these.
        (
            "",
            "",
            ":put:k:1\n:put:k:2\n",
            0,
            vec![put("k", 1), put("k", 2)],
        ),
        (
            "",
            "",
            ":set:k:1\n:update:k:1:2\n",
            0,
            vec![set("k", "1"), update("k", "1", "2")],
        ),
        (
            ":remove:k:1\n",
            "k:1\n",
            ":remove:k:1\n",
            1,
            vec![remove("k", "1")],
        ),
    ];
    for (before, values, after, count, events) in cases {
        let (stream, _server) = scripted::pair(move |line, out| match line.split_once(':') {
            Some(("Watch", key)) => *out += &format!(":watch:{key}\n:put:k:long-ago\n"),
            Some(("Get", _)) => *out += &format!("{before}{values}{after}"),
            Some(("Sync", token)) => *out += &format!(":sync:0:{token}\n"),
            _ => {}
        });
        let client = Client::from_stream(stream);
        let (values, mut watcher) = future::block_on(client.get_and_watch("k")).unwrap();
        assert_eq!(values.len(), count);
        assert_eq!(told(&mut watcher), events, "{before:?} {after:?}");
    }
}

#[test]
fn a_snapshot_that_can_not_be_placed_is_taken_again() {
    for doubtful in [
        ":put:k:1\n:delete:k\n",
        ":delete:k\n",
        ":remove:k:1\n",
        ":set:k:1\n:remove:k:1\n",
        ":missed:1\n",
    ] {
        let mut gets = 0;
        let (stream, server) = scripted::pair(move |line, out| match line.split_once(':') {
            Some(("Watch", key)) => *out += &format!(":watch:{key}\n"),
            Some(("Get", _)) => {
                gets += 1;
                *out += if gets < 3 { doubtful } else { ":put:k:2\n" };
            }
            Some(("Sync", token)) => *out += &format!(":sync:0:{token}\n"),
            _ => {}
        });
        let client = Client::from_stream(stream);
        let (values, mut watcher) = future::block_on(client.get_and_watch("k")).unwrap();
        assert!(values.is_empty());
        assert_eq!(told(&mut watcher), [put("k", 2)]);
        let gets = server
            .commands()
            .iter()
            .filter(|line| *line == "Get:k")
            .count();
        assert_eq!(gets, 3);
        // However often it was asked for, it is one watch.
        server.send(":delete:k\n");
        assert_eq!(told(&mut watcher), [delete("k")]);
        drop(watcher);
        future::block_on(client.sync()).unwrap();
        assert_eq!(server.commands().last().unwrap(), "Unwatch:k");
    }
}

#[test]
fn the_last_watcher_of_a_kind_ends_its_watch() {
    let (client, server) = answering();
    let unwatched = || {
        future::block_on(client.sync()).unwrap();
        let commands = server.commands();
        let commands = commands
            .into_iter()
            .filter(|line| line.starts_with("Unwatch"));
        commands.collect::<Vec<_>>()
    };
    future::block_on(async {
        let one = client.watch("k").await.unwrap();
        let mut two = client.watch("k").await.unwrap();
        let prefix = client.watch_prefix("k").await.unwrap();
        drop(one);
        assert!(unwatched().is_empty());
        server.send(":put:k:1\n");
        assert_eq!(told(&mut two), [put("k", 1)]);
        drop(prefix);
        assert_eq!(unwatched(), ["UnwatchPrefix:k"]);
        drop(two);
        assert_eq!(unwatched(), ["UnwatchPrefix:k", "Unwatch:k"]);
        // What was on its way is for nobody.
        server.send(":put:k:2\n");
        let mut three = client.watch("k").await.unwrap();
        assert_eq!(told(&mut three), []);
    });
}

/// One watcher goes while the watch of another is on its way. To end the first one's now would
/// end the second one's too.
#[test]
fn a_watch_on_its_way_is_not_ended_by_another() {
    let (client, server) = answering();
    let one = future::block_on(client.watch("k")).unwrap();
    server.allow_io(Some(1));
    let mut call = Box::pin(client.watch("k"));
    assert!(poll(call.as_mut()).is_pending());
    assert_eq!(server.commands(), ["Watch:k", "Watch:k"]);
    drop(one);
    server.allow_io(None);
    let mut two = future::block_on(call).unwrap();
    future::block_on(client.sync()).unwrap();
    assert_eq!(server.commands(), ["Watch:k", "Watch:k"]);
    server.send(":put:k:1\n");
    assert_eq!(told(&mut two), [put("k", 1)]);
}

#[test]
fn a_watch_that_is_dropped_half_way_does_not_last() {
    let (client, server) = answering();
    server.allow_io(Some(1));
    let mut call = Box::pin(client.watch("k"));
    assert!(poll(call.as_mut()).is_pending());
    assert_eq!(server.commands(), ["Watch:k"]);
    drop(call);
    server.allow_io(None);
    future::block_on(client.sync()).unwrap();
    assert_eq!(server.commands(), ["Watch:k", "Unwatch:k"]);
    // Nothing is left that waits for events.
    drop(client);
    assert!(server.is_released());
}

#[test]
fn a_watcher_that_falls_behind_is_told_how_far_and_holds_nobody_up() {
    let (client, server) = answering();
    future::block_on(async {
        let mut slow = client.watch("k").await.unwrap();
        for reads in [0..1024, 1024..3000] {
            for n in reads {
                server.send(format!(":put:k:{n}\n"));
            }
            client.sync().await.unwrap();
        }
        let events = told(&mut slow);
        assert_eq!(events.len(), 1025);
        assert_eq!(
            events[..1024],
            (0..1024).map(|n| put("k", n)).collect::<Vec<_>>()
        );
        assert_eq!(events[1024], Event::Missed(3000 - 1024));

        // What is missed has its place among the events, and the server's count is added.
        for reads in [0..1024, 1024..1030] {
            for n in reads {
                server.send(format!(":put:k:{n}\n"));
            }
            client.sync().await.unwrap();
        }
        server.send(":missed:10\n");
        client.sync().await.unwrap();
        assert_eq!(slow.next().await.unwrap().unwrap(), put("k", 0));
        assert_eq!(slow.next().await.unwrap().unwrap(), put("k", 1));
        server.send(":put:k:after\n");
        client.sync().await.unwrap();
        let events = told(&mut slow);
        assert_eq!(events.len(), 1022 + 2);
        assert_eq!(events[1022..], [Event::Missed(16), put("k", "after")]);

        // Large ones are bounded by their bytes.
        let large = "x".repeat(1 << 20);
        for _ in 0..10 {
            server.send(format!(":put:k:{large}\n"));
        }
        client.sync().await.unwrap();
        let events = told(&mut slow);
        assert_eq!((events.len(), &events[4]), (5, &Event::Missed(6)));
        assert_eq!(told(&mut slow), []);
    });
}

#[test]
fn a_watcher_ends_with_its_connection_after_what_has_come() {
    let (client, server) = answering();
    future::block_on(async {
        let mut watcher = client.watch("k").await.unwrap();
        let mut slow = client.watch("k").await.unwrap();
        server.send(":put:k:1\n:put:k:2\n");
        server.close();
        for watcher in [&mut watcher, &mut slow] {
            assert_eq!(watcher.next().await.unwrap().unwrap(), put("k", 1));
            assert_eq!(watcher.next().await.unwrap().unwrap(), put("k", 2));
            let error = watcher.next().await.unwrap().unwrap_err();
            assert!(matches!(error, Error::Disconnected(None)), "{error}");
            assert!(watcher.next().await.is_none());
            assert!(watcher.next().await.is_none());
        }
        let error = client.watch("k").await.unwrap_err();
        assert!(is_unsent(&error), "{error}");
        drop(watcher);
    });
}

#[test]
fn a_refused_watch_is_an_error_and_no_watch() {
    let (stream, _server) = scripted::pair(|line, out| {
        if let Some(token) = line.strip_prefix("Sync:") {
            let line: u64 = token.parse().unwrap();
            *out += &format!(
                ":error:{}:full:too many watches\n:sync:0:{token}\n",
                line - 1
            );
        }
    });
    let client = Client::from_stream(stream);
    let error = future::block_on(client.watch("k")).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let error = future::block_on(client.get_and_watch("k")).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

/// A watcher that was polled and is then let be, in a select, say, holds nobody up.
#[test]
fn a_watcher_that_is_not_polled_any_more_holds_nobody_up() {
    let (client, _server) = answering();
    future::block_on(async {
        let mut watcher = client.watch("k").await.unwrap();
        assert!(future::poll_once(watcher.next()).await.is_none());
        for _ in 0..10 {
            client.put("a", "1").await.unwrap();
        }
        let mut next = pin!(watcher.next());
        assert!(future::poll_once(&mut next).await.is_none());
        client.sync().await.unwrap();
    });
}

#[test]
fn debug_tells_no_secrets() {
    let (client, _server) = answering();
    let watcher = future::block_on(client.watch("secret")).unwrap();
    let shown = format!(
        "{watcher:?} {:?}",
        [put("secret", "secret"), delete("secret")]
    );
    let pipeline = client.pipeline().put("secret", "secret");
    let shown = format!("{shown} {client:?} {pipeline:?}");
    assert!(!shown.contains("secret"), "{shown}");
    assert!(!shown.contains("115"), "{shown}");
}
