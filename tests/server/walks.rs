//! GetPrefix and Keys, over the pages of a store.

use keywire::{
    Server,
    store::{Batch, KeyPage, Order, Store, Submission},
};

use crate::common::{
    late_store::{LateStore, NoOrder, Outcome, StoreControl},
    local::LocalServer,
    script::converse,
    stores::ManualClock,
};

/// Its batches are answered at once, its pages too.
fn listing(keys: &[&str]) -> (LocalServer<LateStore<NoOrder>>, StoreControl) {
    let (store, control) = LateStore::new();
    control.answer_at_once(true);
    for key in keys {
        control.put(key, "1");
    }
    let server = Server::builder().store(store).build();
    (LocalServer::new(server), control)
}

#[test]
fn all_keys_come_once_and_whole_however_small_the_pages_are() {
    let names: Vec<_> = (0..50).map(|n| format!("k{n:02}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for page_keys in [1, 2, 7, 50, 1000] {
        let (mut server, control) = listing(&names);
        control.set_page_keys(page_keys);
        control.put("other", "x");
        control.put("k07", "2");
        let mut client = server.connect();
        client
            .send("GetPrefix:k\nSync:1\nKeys:k\nSync:2\nKeys:k07\nGetPrefix:none\nKeys:\nSync:3\n");
        let values: String = names
            .iter()
            .map(|name| match *name {
                "k07" => "k07:1\nk07:2\n".to_owned(),
                name => format!("{name}:1\n"),
            })
            .collect();
        let numbers = values.replace("k07:1\nk07:2\n", "k07:2\n");
        assert_eq!(
            client.receive_all(&mut server),
            format!("{values}:sync:0:1\n{numbers}:sync:0:2\nk07:2\n{numbers}other:1\n:sync:0:3\n"),
            "{page_keys} a page"
        );
        let stats = server.stats();
        assert_eq!((stats.commands, stats.gets, stats.errors), (8, 0, 0));
    }
}

#[test]
fn keys_that_no_line_can_carry_are_left_out() {
    let (mut server, control) = listing(&["a", "b:c", "d\ne", "", "f"]);
    control.set_page_keys(1);
    let mut client = server.connect();
    client.send("Keys:\nGetPrefix:\nSync\n");
    assert_eq!(
        client.receive_all(&mut server),
        "a:1\nf:1\na:1\nf:1\n:sync:0:\n"
    );
}

/// A store of the required method alone.
struct Plain;

impl Store for Plain {
    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        batch.each(|_, answer| answer.done());
        batch.done()
    }
}

#[test]
fn a_store_that_can_not_list_its_keys_says_so() {
    let server = Server::builder().store(Plain).build();
    let (output, _) = converse(server, [&b"Keys:\nSync\nPut:k:1\nGetPrefix:k\nSync\n"[..]]);
    assert_eq!(
        String::from_utf8(output).unwrap(),
        ":error:1:store:this store can't list its keys\n:sync:0:\n\
         :error:4:store:this store can't list its keys\n:sync:0:\n"
    );
}

/// Whatever becomes of a page: one error ends the walk, and what came before stands.
#[test]
fn a_page_that_fails_or_is_lost_ends_the_walk() {
    for (outcome, reason) in [
        (Outcome::Fail, "on purpose"),
        (Outcome::Drop, "the store gave no keys"),
        (Outcome::Panic, "the store gave no keys"),
    ] {
        for pages in 0..3 {
            let (mut server, control) = listing(&["a", "b", "c", "d", "e"]);
            control.hold_pages();
            let (mut client, mut other) = (server.connect(), server.connect());
            client.send("Sync:1\nGetPrefix:\nSync:2\nPut:a:2\nKeys:a\nSync:3\n");
            server.run();
            for _ in 0..pages {
                control.end_all(Outcome::Apply);
                server.run();
            }
            control.end_all(outcome);
            server.run();
            let values = ["", "a:1\nb:1\n", "a:1\nb:1\nc:1\nd:1\n"][pages];
            assert_eq!(
                client.received(),
                format!(":sync:0:1\n{values}:error:2:store:{reason}\n:sync:0:2\n"),
                "{outcome:?}"
            );
            control.end_all(Outcome::Apply);
            server.run();
            assert_eq!(client.received(), "a:2\n:sync:0:3\n");
            other.send("Get:a\n");
            server.run();
            assert_eq!(other.received(), "a:1\na:2\n");
            assert_eq!(server.stats().errors, 1);
        }
    }
}

/// A page without an answer has no keys, and none follows.
#[test]
fn an_empty_page_is_the_last() {
    let (mut server, control) = listing(&["a"]);
    control.hold_pages();
    let mut client = server.connect();
    client.send("Keys:\nSync\n");
    server.run();
    control.end_all(Outcome::NoAnswer);
    server.run();
    assert_eq!(client.received(), ":sync:0:\n");
}

/// A key whose reading fails ends the walk like a page that fails.
#[test]
fn a_key_that_can_not_be_read_ends_the_walk() {
    for (outcome, reason) in [
        (Outcome::Fail, "on purpose"),
        (Outcome::Panic, "the store gave no answer"),
        (Outcome::Drop, "the store gave no answer"),
    ] {
        let (mut server, control) = listing(&["a", "b", "c", "d"]);
        control.answer_at_once(false);
        let mut client = server.connect();
        client.send("GetPrefix:\nSync\n");
        server.run();
        control.end("Get:a", Outcome::Apply);
        server.run();
        control.end("Get:c", outcome);
        server.run();
        assert_eq!(
            client.received(),
            format!("a:1\nb:1\n:error:1:store:{reason}\n:sync:0:\n")
        );
    }
}

#[test]
fn while_pages_wait_later_lines_wait_and_other_clients_do_not() {
    let (mut server, control) = listing(&["a", "b", "c"]);
    control.hold_pages();
    let (mut client, mut other) = (server.connect(), server.connect());
    client.send("WatchPrefix:\nGetPrefix:\nUnwatchPrefix:\nPut:z:1\nSync\nStats\n");
    server.run();
    assert_eq!(client.received(), ":watchprefix:\n");
    other.send("Put:a:2\nPut:b:2\nSync\n");
    server.run();
    assert_eq!(other.received(), ":sync:0:\n");
    assert_eq!(client.received(), ":put:a:2\n:put:b:2\n");
    control.end_all(Outcome::Apply);
    server.run();
    assert_eq!(client.received(), "a:1\na:2\nb:1\nb:2\n");
    // Between two pages, too.
    other.send("Delete:c\nPut:d:1\n");
    server.run();
    assert_eq!(client.received(), ":delete:c\n:put:d:1\n");
    control.end_all(Outcome::Apply);
    server.run();
    let received = client.received();
    assert!(received.starts_with("d:1\n:sync:0:\n:stats:"), "{received}");
    assert_eq!(control.values("z"), ["1"]);
}

/// A key that is being written is read when the write has ended; the keys before it are not held up, and
/// the events stand on the right side of it.
#[test]
fn a_walk_shows_each_key_as_its_events_say() {
    let (mut server, control) = listing(&["a", "b", "c"]);
    control.set_page_keys(10);
    control.answer_at_once(false);
    let (mut writer, mut client) = (server.connect(), server.connect());
    writer.send("Put:b:2\n");
    client.send("WatchPrefix:\nGetPrefix:\nSync\n");
    server.run();
    assert_eq!(control.in_flight(), ["Put:b:2", "Get:a"]);
    control.end("Get:a", Outcome::Apply);
    server.run();
    assert_eq!(client.received(), ":watchprefix:\na:1\n");
    control.end("Put:b:2", Outcome::Apply);
    server.run();
    writer.send("Put:c:2\n");
    for _ in 0..4 {
        server.run();
        control.end_all(Outcome::Apply);
    }
    server.run();
    let received = client.received();
    let before = ":put:b:2\nb:1\nb:2\nc:1\n:sync:0:\n:put:c:2\n";
    let behind = ":put:b:2\nb:1\nb:2\n:put:c:2\nc:1\nc:2\n:sync:0:\n";
    assert!([before, behind].contains(&&*received), "{received}");
}

#[test]
fn a_client_that_leaves_ends_its_walk() {
    let (mut server, control) = listing(&["a", "b", "c", "d", "e"]);
    control.hold_pages();
    let mut client = server.connect();
    client.send("WatchPrefix:\nGetPrefix:\nPut:z:1\n");
    server.run();
    drop(client);
    // What shows that it is gone is a write to it.
    control.end_all(Outcome::Apply);
    server.run();
    control.end_all(Outcome::Apply);
    server.run();
    let stats = server.stats();
    assert_eq!((stats.active, stats.dropped, stats.watching), (0, 1, 0));
    assert_eq!(control.in_flight().len(), 0);
    assert_eq!(control.values("z"), ["1"]);
}

#[test]
fn a_walk_ends_with_the_server() {
    let (mut server, control) = listing(&["a", "b", "c", "d", "e"]);
    control.hold_pages();
    let mut client = server.connect();
    client.send("GetPrefix:\nPut:z:1\nSync\n");
    server.run();
    control.end_all(Outcome::Apply);
    server.run();
    server.begin_shutdown(std::time::Duration::from_secs(60));
    server.run();
    control.end_all(Outcome::Apply);
    client.half_close();
    assert!(server.ended().is_some());
    // What was read before the shutdown is applied.
    let closing = "closing:the server is shutting down\n";
    let received = client.received();
    assert!(
        received.starts_with(&format!("a:1\nb:1\n:error:1:{closing}:sync:0:\n")),
        "{received}"
    );
    assert_eq!(control.values("z"), ["1"]);
}

/// Far more than the outbox holds, for a client that reads little by little.
#[test]
fn a_walk_waits_for_room() {
    let names: Vec<_> = (0..200).map(|n| format!("k{n:03}")).collect();
    let (store, control) = LateStore::<NoOrder>::new();
    control.answer_at_once(true);
    names.iter().for_each(|name| control.put(name, "1"));
    let server = Server::builder().outbox_lines(5).store(store);
    let mut server = LocalServer::new(server.build());
    let mut client = server.connect_with(20);
    client.send("GetPrefix:\nSync\n");
    server.run();
    assert!(server.stats().lines_queued < 50);
    let expected: String = names.iter().map(|name| format!("{name}:1\n")).collect();
    assert_eq!(client.receive_all(&mut server), expected + ":sync:0:\n");
}

/// Gives pages without keys, and counts them. A `Get` shows how many there were so far.
struct EmptyPages(usize);

impl Store for EmptyPages {
    const ORDER: Order = Order::Immediate;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let pages = self.0.to_string();
        batch.each(|_, answer| answer.values([pages.as_bytes()]));
        batch.done()
    }

    fn keys(
        &mut self,
        mut page: KeyPage,
    ) -> Submission<KeyPage, impl Future<Output = KeyPage> + Send + 'static> {
        self.0 += 1;
        if self.0 < 1000 {
            page.set_next(b"more");
        }
        page.done()
    }
}

/// However little time they take.
#[test]
fn others_are_served_between_two_pages_without_keys() {
    let server = Server::builder().clock(ManualClock::new());
    let mut server = LocalServer::new(server.store(EmptyPages(0)).build());
    let (mut walking, mut other) = (server.connect(), server.connect());
    walking.send("Keys:k\nSync\n");
    other.send("Get:pages\n");
    server.run();
    assert_eq!(walking.received(), ":sync:0:\n");
    let received = other.received();
    let pages = received.strip_prefix("pages:").unwrap().trim_end();
    assert!(pages.parse::<usize>().unwrap() < 10, "{pages}");
}
