//! A store that makes all changes known, also those of the server's own clients.

use std::future::pending;

use async_channel::{Receiver, Sender};
use futures_lite::{Stream, stream};
use keywire::{
    Server,
    protocol::{Operation, Write},
    store::{Batch, Change, Changes, Order, Store, Submission},
};

use crate::common::{
    late_store::{Keeps, LateStore, Outcome, StoreControl},
    local::LocalServer,
};

struct All;

impl Keeps for All {
    const ORDER: Order = Order::PerKey;
    const CHANGES: Changes = Changes::All;
}

struct AllWithoutOrder;

impl Keeps for AllWithoutOrder {
    const ORDER: Order = Order::None;
    const CHANGES: Changes = Changes::All;
}

fn all<O: Keeps>() -> (LocalServer<LateStore<O>>, StoreControl) {
    let (store, control) = LateStore::new();
    let server = Server::builder().store(store).build();
    (LocalServer::new(server), control)
}

fn put(value: &[u8]) -> Change {
    Change::from(Write::Put { key: b"k", value })
}

#[test]
fn watchers_hear_of_changes_from_the_store_alone() {
    hears_from_the_store::<All>();
    hears_from_the_store::<AllWithoutOrder>();
}

fn hears_from_the_store<O: Keeps>() {
    let (mut server, control) = all::<O>();
    let (mut watcher, mut writer) = (server.connect(), server.connect());
    watcher.send("Watch:k\nPut:k:1\nSync:1\n");
    server.run();
    control.tell(put(b"1"));
    control.end("Put:k:1", Outcome::Apply);
    server.run();
    assert_eq!(watcher.received(), ":watch:k\n:put:k:1\n:sync:0:1\n");
    // Answered, and told later; at once, too.
    writer.send("Put:k:2\nSync\n");
    server.run();
    control.end("Put:k:2", Outcome::Apply);
    server.run();
    control.answer_at_once(true);
    writer.send("Put:k:3\nSync\n");
    server.run();
    assert_eq!(writer.received(), ":sync:0:\n:sync:0:\n");
    assert_eq!(watcher.received(), "");
    control.tell(put(b"2"));
    control.tell(put(b"3"));
    server.run();
    assert_eq!(watcher.received(), ":put:k:2\n:put:k:3\n");
    let stats = server.stats();
    assert_eq!((stats.events, stats.puts), (3, 3));
}

/// Its changes have come before, and those that come later are not in it.
#[test]
fn a_batch_that_is_back_waits_for_no_other() {
    let (mut server, control) = all::<All>();
    let (mut watcher, mut writer) = (server.connect(), server.connect());
    watcher.send("Watch:k\n");
    server.run();
    writer.send("Put:k:1\n");
    server.run();
    control.tell(put(b"1"));
    watcher.send("Get:k\n");
    server.run();
    control.end("Get:k", Outcome::Apply);
    server.run();
    control.tell(put(b"2"));
    server.run();
    assert_eq!(watcher.received(), ":watch:k\n:put:k:1\nk:1\n:put:k:2\n");
    assert_eq!(control.in_flight(), ["Put:k:1"]);
}

/// All its changes come before a batch. So there is none in it behind one of its `Get`s.
#[test]
fn a_write_behind_a_get_is_of_another_batch_of_a_client_that_watches() {
    for watches in [true, false] {
        let (mut server, control) = all::<All>();
        control.answer_at_once(true);
        let mut client = server.connect();
        if watches {
            client.send("Watch:k\n");
            server.run();
        }
        client.send("Put:k:1\nGet:j\nGet:k\nPut:i:1\nPut:k:2\nGet:k\nPut:j:1\n");
        server.run();
        let submitted = control.submitted();
        let submitted: Vec<_> = submitted.iter().map(|lines| lines.join(" ")).collect();
        match watches {
            true => assert_eq!(
                submitted,
                ["Put:k:1 Get:j Get:k", "Put:i:1 Put:k:2 Get:k", "Put:j:1"]
            ),
            false => assert_eq!(submitted.len(), 1),
        }
    }
}

/// Writes what it is given into one log, from which batches come back between changes.
struct Log {
    output: (Sender<Change>, Receiver<Change>),
    value: usize,
}

impl Store for Log {
    const ORDER: Order = Order::Total;
    const CHANGES: Changes = Changes::All;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let log = |change| self.output.0.try_send(change).unwrap();
        let before = self.value.to_string();
        let operations = batch.operations();
        for _ in operations.filter(|it| matches!(it, Operation::Write(_))) {
            self.value += 1;
            log(put(self.value.to_string().as_bytes()));
        }
        batch.each(|operation, answer| match operation {
            Operation::Get { .. } => answer.values([before.as_bytes()]),
            _ => answer.done(),
        });
        log(Change::from(batch));
        Submission::Pending(pending())
    }

    fn changes(&mut self) -> Option<impl Stream<Item = Change> + Send + 'static> {
        Some(self.output.1.clone())
    }
}

#[test]
fn a_batch_may_come_back_in_its_place_among_changes() {
    let store = Log {
        output: async_channel::unbounded(),
        value: 0,
    };
    let mut server = LocalServer::new(Server::builder().store(store).build());
    let (mut watcher, mut writer) = (server.connect(), server.connect());
    watcher.send("Watch:k\n");
    server.run();
    for _ in 0..3 {
        writer.send("Put:k:x\nSync\n");
        watcher.send("Get:k\nSync\n");
    }
    server.run();
    assert_eq!(writer.received(), ":sync:0:\n".repeat(3));
    let received = watcher.received();
    let mut value = "0";
    let mut gets = 0;
    for line in received.lines() {
        if let Some(told) = line.strip_prefix(":put:k:") {
            value = told;
        } else if let Some(read) = line.strip_prefix("k:") {
            assert_eq!(read, value, "{received}");
            gets += 1;
        }
    }
    assert_eq!((gets, value), (3, "3"), "{received}");
}

/// A cluster misses changes of many keys at a time. Whoever watches them all has to look once.
#[test]
fn what_is_missed_several_times_in_a_row_is_told_once_a_round() {
    let (mut server, control) = all::<All>();
    let (mut all, mut one) = (server.connect(), server.connect());
    all.send("WatchPrefix:\n");
    one.send("Watch:7\n");
    server.run();
    assert_eq!(all.received(), ":watchprefix:\n");
    assert_eq!(one.received(), ":watch:7\n");
    let miss = || {
        for number in 0..1000 {
            let name = number.to_string();
            control.tell(Change::missed_of(move |key| key == name.as_bytes()));
        }
    };
    miss();
    control.tell(put(b"1"));
    miss();
    server.run();
    let received = all.received();
    let mut lines: Vec<_> = received.lines().collect();
    assert!(lines.len() < 50, "{} lines", lines.len());
    lines.dedup();
    assert_eq!(lines, [":missed:0", ":put:k:1", ":missed:0"]);
    assert_eq!(one.received(), ":missed:0\n".repeat(2));
    // Later, there is more to look for.
    control.tell(Change::missed());
    server.run();
    assert_eq!(all.received(), ":missed:0\n");
    assert_eq!(one.received(), ":missed:0\n");
}

/// However much there was in all.
#[test]
fn changes_that_were_handled_take_no_room() {
    const CHANGES: usize = 100;
    const BYTES: usize = 1 << 20;
    let (mut server, control) = all::<All>();
    let mut watcher = server.connect();
    watcher.send("Watch:k\n");
    server.run();
    let value = vec![b'v'; BYTES];
    for number in 0..CHANGES {
        let (key, value) = (&b"other"[..], &value[..]);
        control.tell(Change::from(Write::Put { key, value }));
        for _ in 0..BYTES / 65_536 {
            let large = [0; 65_536];
            control.tell(Change::missed_of(move |key| key == large));
        }
        if number % 10 == 0 {
            server.run();
        }
    }
    control.tell(put(b"1"));
    server.run();
    assert_eq!(watcher.received(), ":watch:k\n:put:k:1\n");
}

/// It says that it makes changes known.
struct Silent;

impl Store for Silent {
    const CHANGES: Changes = Changes::All;

    fn submit(
        &mut self,
        batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        batch.done()
    }

    fn changes(&mut self) -> Option<impl Stream<Item = Change> + Send + 'static> {
        None::<stream::Pending<Change>>
    }
}

#[test]
#[should_panic = "a store that makes all changes known has none"]
fn a_store_of_all_changes_has_changes() {
    LocalServer::new(Server::builder().store(Silent).build()).run();
}
