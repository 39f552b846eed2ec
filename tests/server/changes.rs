//! Changes that were made elsewhere: the store brings them in, and watchers are told.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_channel::{Receiver, Sender};
use futures_lite::{Stream, StreamExt as _, stream};
use keywire::{
    Server,
    protocol::{Operation, Write},
    store::{Batch, Change, Order, Store, Submission},
};

use crate::common::{
    late_store::{Keeps, LateStore, NoOrder, Outcome, PerKey, StoreControl, Total},
    local::LocalServer,
};

fn late() -> (LocalServer<LateStore<NoOrder>>, StoreControl) {
    let (store, control) = LateStore::new();
    let server = Server::builder().store(store).build();
    (LocalServer::new(server), control)
}

fn put(key: &[u8]) -> Change {
    Change::from(Write::Put { key, value: b"v" })
}

#[test]
fn watchers_are_told_of_changes_made_elsewhere() {
    let (mut server, control) = late();
    let (mut one, mut all) = (server.connect(), server.connect());
    let mut unconcerned = server.connect();
    one.send("Watch:k\n");
    all.send("WatchPrefix:\nWatch:k\n");
    unconcerned.send("Sync\n");
    server.run();
    control.tell(put(b"k"));
    control.tell(Change::from(Write::Delete { key: b"other" }));
    let (key, old, new) = (&b"k"[..], &b""[..], &b"a:b"[..]);
    control.tell(Change::from(Write::Update { key, old, new }));
    control.tell(Change::from(Write::Set { key, value: b"" }));
    control.tell(Change::from(Write::Remove { key, value: b"x" }));
    server.run();
    let events = ":update:k::a:b\n:set:k:\n:remove:k:x\n";
    assert_eq!(one.received(), format!(":watch:k\n:put:k:v\n{events}"));
    assert_eq!(
        all.received(),
        format!(":watchprefix:\n:watch:k\n:put:k:v\n:delete:other\n{events}")
    );
    assert_eq!(unconcerned.received(), ":sync:0:\n");
    let stats = server.stats();
    assert_eq!((stats.events, stats.puts, stats.commands), (9, 0, 4));
}

#[test]
fn a_watcher_whose_batch_is_with_the_store_is_told_at_once() {
    let (mut server, control) = late();
    let mut watcher = server.connect();
    watcher.send("Watch:k\nGet:x\nSync\n");
    server.run();
    control.tell(put(b"k"));
    server.run();
    assert_eq!(watcher.received(), ":watch:k\n:put:k:v\n");
    control.end("Get:x", Outcome::Apply);
    control.tell(put(b"k"));
    server.run();
    let received = watcher.received();
    let either = [":sync:0:\n:put:k:v\n", ":put:k:v\n:sync:0:\n"];
    assert!(either.contains(&&*received), "{received}");
}

/// The store tells of the change before it answers a Get that shows it.
#[test]
fn a_change_is_told_before_the_get_that_shows_it() {
    let (mut server, control) = late();
    let mut watcher = server.connect();
    watcher.send("Watch:k\nGet:k\n");
    server.run();
    control.tell(put(b"k"));
    control.put("k", "v");
    control.end("Get:k", Outcome::Apply);
    server.run();
    assert_eq!(watcher.received(), ":watch:k\n:put:k:v\nk:v\n");
}

/// Many at once, and all the while clients are served.
#[test]
fn many_changes_are_told_in_their_order() {
    let (mut server, control) = late();
    control.answer_at_once(true);
    let (mut watcher, mut writer) = (server.connect(), server.connect());
    watcher.send("WatchPrefix:k\n");
    server.run();
    assert_eq!(watcher.received(), ":watchprefix:k\n");
    let mut expected = String::new();
    for n in 0..1000 {
        let key = format!("k{n}");
        control.tell(put(key.as_bytes()));
        expected += &format!(":put:{key}:v\n");
    }
    writer.send("Put:w:1\nSync\n");
    server.run();
    assert_eq!(watcher.received(), expected);
    assert_eq!(writer.received(), ":sync:0:\n");
}

#[test]
fn changes_that_were_missed_are_said_to_every_watcher() {
    let (mut server, control) = late();
    let (mut one, mut other) = (server.connect(), server.connect());
    let mut unconcerned = server.connect();
    one.send("Watch:a\n");
    other.send("WatchPrefix:b\n");
    unconcerned.send("Sync\n");
    server.run();
    control.tell(Change::missed());
    server.run();
    control.tell(put(b"a"));
    // No line can carry these.
    control.tell(put(b"a:b"));
    server.run();
    let (key, value) = (&b"a"[..], &b"1\n2"[..]);
    control.tell(Change::from(Write::Put { key, value }));
    control.tell(put(b"b"));
    server.run();
    assert_eq!(
        one.received(),
        ":watch:a\n:missed:0\n:put:a:v\n:missed:0\n:missed:0\n"
    );
    assert_eq!(
        other.received(),
        ":watchprefix:b\n:missed:0\n:missed:0\n:missed:0\n:put:b:v\n"
    );
    assert_eq!(unconcerned.received(), ":sync:0:\n");
    assert_eq!(server.stats().missed, 0);
}

/// Its outbox is full: it is told once there is room. An unknown number, and those that found no room
/// before or after, are an unknown number.
#[test]
fn a_watcher_without_room_is_told_later_that_it_missed_something() {
    for (before, after) in [(0, 0), (3, 0), (0, 3), (3, 3)] {
        let (store, control) = LateStore::<NoOrder>::new();
        let server = Server::builder()
            .outbox_bytes(30)
            .stall_timeout(Duration::from_secs(3600))
            .store(store);
        let mut server = LocalServer::new(server.build());
        let mut watcher = server.connect_with(1);
        watcher.send("Watch:k\n");
        server.run();
        // What fills the outbox.
        for _ in 0..4 {
            control.tell(put(b"k"));
            server.run();
        }
        let full = server.stats();
        for missed in (0..before).map(|_| put(b"k")) {
            control.tell(missed);
            server.run();
        }
        control.tell(Change::missed());
        server.run();
        for missed in (0..after).map(|_| put(b"k")) {
            control.tell(missed);
            server.run();
        }
        let stats = server.stats();
        assert_eq!(stats.events, full.events);
        assert_eq!(stats.missed, full.missed + before + after);
        let received = watcher.receive_all(&mut server);
        let events = ":put:k:v\n".repeat(full.events as usize);
        assert_eq!(received, format!(":watch:k\n{events}:missed:0\n"));
    }
}

#[test]
fn changes_do_not_hold_up_a_shutdown() {
    let (mut server, control) = late();
    let mut watcher = server.connect();
    watcher.send("Watch:k\n");
    server.run();
    control.tell(put(b"k"));
    server.run();
    drop(watcher);
    server.run();
    server.shut_down();
    assert!(control.is_closed());
}

/// A store that makes its changes and answers known in one order: each batch tells of a change, in its
/// future or at once, and its Gets show it.
struct Mirror {
    at_once: bool,
    changes: (Sender<Change>, Receiver<Change>),
    version: Arc<Mutex<usize>>,
}

impl Store for Mirror {
    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let (change, version) = (self.changes.0.clone(), self.version.clone());
        let answer = move |batch: &mut Batch| {
            let mut version = version.lock().unwrap();
            *version += 1;
            let value = version.to_string();
            let (key, value) = (&b"k"[..], value.as_bytes());
            let told = change.try_send(Change::from(Write::Set { key, value }));
            told.unwrap();
            batch.each(|_, answer| answer.values([value]));
        };
        if self.at_once {
            answer(&mut batch);
            return Submission::Done(batch);
        }
        Submission::Pending(async move {
            answer(&mut batch);
            batch
        })
    }

    fn changes(&mut self) -> Option<impl Stream<Item = Change> + Send + 'static> {
        Some(self.changes.1.clone())
    }
}

#[test]
fn a_get_shows_what_was_told_before_it_and_no_more() {
    mirror(true);
    mirror(false);
}

fn mirror(at_once: bool) {
    let store = Mirror {
        at_once,
        changes: async_channel::unbounded(),
        version: Arc::default(),
    };
    let server = Server::builder().store(store).build();
    let mut server = LocalServer::new(server);
    let mut clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("Watch:k\n");
    }
    server.run();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(format!("Get:{n}\n"));
    }
    server.run();
    for (n, client) in clients.iter_mut().enumerate() {
        let mut expected = ":watch:k\n".to_owned();
        for version in 1..=5 {
            expected += &format!(":set:k:{version}\n");
            if version == n + 1 {
                expected += &format!("{n}:{version}\n");
            }
        }
        assert_eq!(client.received(), expected, "client {n}");
    }
}

/// Makes a change known before it hands over a batch that has the key `last`.
struct TellsBefore<O>(LateStore<O>, StoreControl);

impl<O: Keeps> Store for TellsBefore<O> {
    const ORDER: Order = O::ORDER;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let tells = batch.operations().any(|it| it.key() == b"last");
        let control = self.1.clone();
        match self.0.submit(batch) {
            Submission::Done(batch) => Submission::Done(batch),
            Submission::Pending(batch) => Submission::Pending(async move {
                let batch = batch.await;
                if tells {
                    control.tell(put(b"k"));
                }
                batch
            }),
        }
    }

    fn changes(&mut self) -> Option<impl Stream<Item = Change> + Send + 'static> {
        self.0.changes()
    }
}

/// It was back before the change was made known.
#[test]
fn a_get_that_waits_for_another_batch_comes_before_a_later_change() {
    waits_before_a_change::<PerKey>();
    waits_before_a_change::<Total>();
}

fn waits_before_a_change<O: Keeps>() {
    let (store, control) = LateStore::<O>::new();
    let store = TellsBefore(store, control.clone());
    let mut server = LocalServer::new(Server::builder().store(store).build());
    let (mut writer, mut watcher) = (server.connect(), server.connect());
    let mut last = server.connect();
    watcher.send("Watch:k\n");
    server.run();
    for (client, line) in [
        (&mut writer, "Put:k:1\n"),
        (&mut watcher, "Get:k\n"),
        (&mut last, "Get:last\n"),
    ] {
        client.send(line);
        server.run();
    }
    control.end("Get:k", Outcome::Apply);
    server.run();
    assert_eq!(watcher.received(), ":watch:k\n");
    control.end("Put:k:1", Outcome::Apply);
    control.end("Get:last", Outcome::Apply);
    server.run();
    assert_eq!(watcher.received(), ":put:k:1\nk:1\n:put:k:v\n");
}

/// Its changes are all there at once, when something comes by the channel.
struct Flood(usize, Receiver<()>);

impl Store for Flood {
    fn submit(
        &mut self,
        batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        batch.done()
    }

    fn changes(&mut self) -> Option<impl Stream<Item = Change> + Send + 'static> {
        let changes = stream::repeat_with(|| put(b"k")).take(self.0);
        let begin = self.1.clone().take(1);
        Some(stream::StreamExt::flat_map(begin, move |()| {
            changes.clone()
        }))
    }
}

#[test]
fn a_flood_of_changes_holds_up_nobody() {
    const CHANGES: usize = 100_000;
    let (begin, begun) = async_channel::bounded(1);
    let store = Flood(CHANGES, begun);
    let mut server = LocalServer::new(Server::builder().store(store).build());
    let mut watcher = server.connect();
    begin.try_send(()).unwrap();
    watcher.send("Watch:k\n");
    server.run();
    let events = watcher.received().matches(":put:k:v\n").count();
    assert!((CHANGES / 2..=CHANGES).contains(&events), "{events}");
}

/// Gives back the batch before the one that it gets.
struct OneBehind(Option<Batch>);

impl Store for OneBehind {
    const ORDER: Order = Order::PerKey;

    fn submit(
        &mut self,
        batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        match self.0.replace(batch) {
            None => Submission::Pending(pending()),
            Some(mut before) => {
                before.each(|operation, answer| match operation {
                    Operation::Get { .. } => answer.values([&b"0"[..]]),
                    _ => answer.done(),
                });
                Submission::Done(before)
            }
        }
    }
}

/// Its client's replies and events have their order all the same.
#[test]
fn a_store_may_give_back_the_batch_of_another_client() {
    let mut server = LocalServer::new(Server::builder().store(OneBehind(None)).build());
    let mut watcher = server.connect();
    watcher.send("Watch:k\n");
    server.run();
    watcher.send("Get:k\n");
    server.run();
    let mut clients = [server.connect(), server.connect()];
    for (client, line) in clients.iter_mut().zip(["Put:k:1\nSync\n", "Put:j:1\n"]) {
        client.send(line);
    }
    server.run();
    assert_eq!(watcher.received(), ":watch:k\nk:0\n:put:k:1\n");
    assert_eq!(clients[0].received(), ":sync:0:\n");
}

/// A store that says of itself what is not so.
struct NotImmediate {
    has_changes: bool,
}

impl Store for NotImmediate {
    const ORDER: Order = Order::Immediate;

    fn submit(
        &mut self,
        _: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        Submission::Pending(pending())
    }

    fn changes(&mut self) -> Option<impl Stream<Item = Change> + Send + 'static> {
        self.has_changes.then(stream::pending)
    }
}

#[test]
#[should_panic = "a store whose order is immediate has changes"]
fn an_immediate_store_has_no_changes() {
    let store = NotImmediate { has_changes: true };
    LocalServer::new(Server::builder().store(store).build()).run();
}

#[test]
#[should_panic = "a store whose order is immediate has returned a pending submission"]
fn an_immediate_store_never_waits() {
    let store = NotImmediate { has_changes: false };
    let mut server = LocalServer::new(Server::builder().store(store).build());
    server.connect().send("Get:k\n");
    server.run();
}
