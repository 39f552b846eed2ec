//! The store is asked before a client watches what nobody has watched, and told when nobody does any more.

use std::time::Duration;

use keywire::{Server, protocol::Write, store::Change};

use crate::common::{
    late_store::{Keeps, LateStore, NoOrder, Outcome, PerKey, StoreControl, Total},
    local::LocalServer,
};

const NONE: [&str; 0] = [];

/// A store whose requests wait.
fn held<O: Keeps>() -> (LocalServer<LateStore<O>>, StoreControl) {
    let (store, control) = LateStore::new();
    control.hold_watches();
    let server = Server::builder().max_watches(2).store(store).build();
    (LocalServer::new(server), control)
}

fn put(key: &[u8]) -> Change {
    Change::from(Write::Put { key, value: b"v" })
}

#[test]
fn the_store_learns_what_is_watched() {
    let (store, control) = LateStore::<NoOrder>::new();
    let mut server = LocalServer::new(Server::builder().store(store).build());
    let (mut one, mut other) = (server.connect(), server.connect());
    one.send("Watch:a\nWatchPrefix:a\nWatch:a\nSync\n");
    other.send("Watch:a\nUnwatch:b\n");
    server.run();
    assert_eq!(
        one.received(),
        ":watch:a\n:watchprefix:a\n:watch:a\n:sync:0:\n"
    );
    assert_eq!(other.received(), ":watch:a\n");
    assert_eq!(control.take_watches(), ["Watch:a", "WatchPrefix:a"]);
    one.send("Unwatch:a\nUnwatchPrefix:a\n");
    server.run();
    assert_eq!(control.take_watches(), ["UnwatchPrefix:a"]);
    // In one turn it has ended, and begins again.
    other.send("Unwatch:a\nWatch:a\n");
    server.run();
    assert_eq!(control.take_watches(), ["Unwatch:a", "Watch:a"]);
    drop(other);
    server.run();
    assert_eq!(control.take_watches(), ["Unwatch:a"]);
}

#[test]
fn a_shutdown_ends_what_is_watched() {
    let (store, control) = LateStore::<NoOrder>::new();
    let mut server = LocalServer::new(Server::builder().store(store).build());
    let mut client = server.connect();
    client.send("Watch:a\n");
    server.run();
    client.half_close();
    server.shut_down();
    assert_eq!(control.take_watches(), ["Watch:a", "Unwatch:a"]);
    assert!(control.is_closed());
}

#[test]
fn a_watch_waits_until_the_store_is_subscribed() {
    waits::<NoOrder>();
    waits::<PerKey>();
    waits::<Total>();
}

fn waits<O: Keeps>() {
    let (mut server, control) = held::<O>();
    control.answer_at_once(true);
    let (mut client, mut other) = (server.connect(), server.connect());
    client.send("Sync:1\nWatch:k\nPut:k:1\nUnwatch:k\nSync:2\nStats\n");
    server.run();
    assert_eq!(client.received(), ":sync:0:1\n");
    other.send("Put:k:0\nPut:j:0\nGet:j\n");
    server.run();
    assert_eq!(other.received(), "j:0\n");
    // Nobody watches yet.
    control.tell(put(b"k"));
    server.run();
    assert_eq!(
        (client.received(), server.stats().watching),
        (String::new(), 0)
    );
    control.end("Watch:k", Outcome::Apply);
    server.run();
    let received = client.received();
    let expected = ":watch:k\n:put:k:1\n:sync:0:2\n:stats:";
    assert!(received.starts_with(expected), "{received}");
    assert_eq!(control.values("k"), ["0", "1"]);
    assert_eq!(control.take_watches(), ["Watch:k", "Unwatch:k"]);
}

#[test]
fn others_who_watch_the_same_wait_too() {
    let (mut server, control) = held::<NoOrder>();
    let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let mut other = server.connect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("Watch:k\nSync:{n}\n"));
        server.run();
    }
    other.send("WatchPrefix:k\nSync\n");
    server.run();
    assert_eq!(control.in_flight(), ["Watch:k", "WatchPrefix:k"]);
    control.end("WatchPrefix:k", Outcome::Apply);
    server.run();
    assert_eq!(other.received(), ":watchprefix:k\n:sync:0:\n");
    assert!(
        clients
            .iter_mut()
            .all(|client| client.received().is_empty())
    );
    control.end("Watch:k", Outcome::Apply);
    server.run();
    control.tell(put(b"k"));
    server.run();
    for (n, client) in clients.iter_mut().enumerate() {
        let expected = format!(":watch:k\n:sync:0:{n}\n:put:k:v\n");
        assert_eq!(client.received(), expected);
    }
    assert_eq!(control.take_watches(), ["Watch:k", "WatchPrefix:k"]);
}

#[test]
fn a_request_that_fails_or_is_lost_is_an_error_to_all_that_wait() {
    for (outcome, reason) in [
        (Outcome::Fail, "on purpose"),
        (Outcome::Drop, "the store has lost the request"),
        (Outcome::Panic, "the store has lost the request"),
    ] {
        let (mut server, control) = held::<NoOrder>();
        let (mut one, mut other) = (server.connect(), server.connect());
        one.send("\nWatch:k\nSync\n");
        other.send("Watch:k\nSync\n");
        server.run();
        control.end("Watch:k", outcome);
        server.run();
        assert_eq!(
            one.received(),
            format!(":error:2:store:{reason}\n:sync:0:\n")
        );
        assert_eq!(
            other.received(),
            format!(":error:1:store:{reason}\n:sync:0:\n")
        );
        control.tell(put(b"k"));
        server.run();
        assert_eq!(one.received() + &other.received(), "");
        assert_eq!(server.stats().watching, 0);
        // It may be asked for again.
        other.send("Watch:k\n");
        server.run();
        control.end("Watch:k", Outcome::Apply);
        server.run();
        assert_eq!(other.received(), ":watch:k\n");
        assert_eq!(control.take_watches(), ["Watch:k", "Watch:k"]);
    }
}

#[test]
fn a_client_may_leave_while_its_watch_waits() {
    let (mut server, control) = held::<NoOrder>();
    let mut client = server.connect();
    client.send("Watch:k\n");
    server.run();
    drop(client);
    server.run();
    assert_eq!(control.take_watches(), ["Watch:k"]);
    control.end("Watch:k", Outcome::Apply);
    server.run();
    assert_eq!(control.take_watches(), ["Unwatch:k"]);
    let stats = server.stats();
    assert_eq!((stats.watching, stats.active), (0, 0));
}

/// The subscription is the other's.
#[test]
fn the_first_of_two_may_leave() {
    let (mut server, control) = held::<NoOrder>();
    let (mut first, mut second) = (server.connect(), server.connect());
    first.send("Watch:k\n");
    server.run();
    second.send("Watch:k\n");
    server.run();
    drop(first);
    server.run();
    control.end("Watch:k", Outcome::Apply);
    server.run();
    control.tell(put(b"k"));
    server.run();
    assert_eq!(second.received(), ":watch:k\n:put:k:v\n");
    assert_eq!(control.take_watches(), ["Watch:k"]);
    drop(second);
    server.run();
    assert_eq!(control.take_watches(), ["Unwatch:k"]);
}

#[test]
fn the_store_is_not_asked_for_what_is_refused() {
    let (mut server, control) = held::<NoOrder>();
    let mut client = server.connect();
    for key in ["a", "b"] {
        client.send(format!("Watch:{key}\n"));
        server.run();
        control.end_all(Outcome::Apply);
        server.run();
    }
    assert_eq!(client.received(), ":watch:a\n:watch:b\n");
    client.send("Watch:c\nWatch:a\nSync\n");
    server.run();
    let received = client.received();
    assert!(received.starts_with(":error:3:full:"), "{received}");
    assert!(received.ends_with(":watch:a\n:sync:0:\n"), "{received}");
    client.send(format!("WatchPrefix:{}\n", "x".repeat(10_000)));
    server.run();
    assert!(client.received().starts_with(":error:6:too-long:"));
    assert_eq!(control.take_watches(), ["Watch:a", "Watch:b"]);
}

/// Within the grace time it is answered; after that the server ends all the same.
#[test]
fn a_shutdown_meanwhile() {
    let (mut server, control) = held::<NoOrder>();
    let mut client = server.connect();
    client.send("Watch:k\nSync\n");
    server.run();
    server.begin_shutdown(Duration::from_secs(60));
    server.run();
    assert_eq!(client.received(), "");
    control.end("Watch:k", Outcome::Apply);
    server.run();
    assert!(client.received().starts_with(":watch:k\n:sync:0:\n"));
    client.half_close();
    server.ended().expect("it has ended");
    assert_eq!(control.take_watches(), ["Watch:k", "Unwatch:k"]);

    let (mut server, control) = held::<NoOrder>();
    let (mut client, mut other) = (server.connect(), server.connect());
    client.send("Watch:k\n");
    other.send("Watch:k\n");
    server.run();
    server.begin_shutdown(Duration::ZERO);
    server.ended().expect("it has ended");
    assert_eq!(control.in_flight(), NONE);
    assert_eq!(client.received() + &other.received(), "");
}

#[test]
fn changes_of_some_keys_are_missed_by_those_who_watch_them_and_by_prefixes() {
    let (store, control) = LateStore::<NoOrder>::new();
    let mut server = LocalServer::new(Server::builder().store(store).build());
    let (mut a, mut b, mut prefix) = (server.connect(), server.connect(), server.connect());
    a.send("Watch:a\nWatch:aa\n");
    b.send("Watch:b\n");
    prefix.send("WatchPrefix:c\n");
    server.run();
    control.tell(put(b"a"));
    control.tell(Change::missed_of(|key| key.starts_with(b"a")));
    control.tell(put(b"a"));
    control.tell(put(b"b"));
    server.run();
    let events = ":put:a:v\n:missed:0\n:put:a:v\n";
    assert_eq!(a.received(), format!(":watch:a\n:watch:aa\n{events}"));
    assert_eq!(b.received(), ":watch:b\n:put:b:v\n");
    assert_eq!(prefix.received(), ":watchprefix:c\n:missed:0\n");
}
