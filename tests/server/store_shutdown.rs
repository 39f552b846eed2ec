//! Shutdown while batches are with the store.

use std::time::Duration;

use futures_lite::future;
use keywire::Server;

use crate::common::{
    TestServer,
    late_store::{LateStore, NoOrder, Outcome, StoreControl},
    local::LocalServer,
    stores::ManualClock,
    wait_until,
};

const SECOND: Duration = Duration::from_secs(1);

fn timed() -> (LocalServer<LateStore<NoOrder>>, StoreControl, ManualClock) {
    let clock = ManualClock::new();
    let (store, control) = LateStore::new();
    let server = Server::builder().clock(clock.clone()).store(store);
    (LocalServer::new(server.build()), control, clock)
}

/// Also what waits for its key, or for the batch before it.
#[test]
fn what_is_in_flight_is_delivered_within_the_grace() {
    let (mut server, control, _) = timed();
    let (mut first, mut second) = (server.connect(), server.connect());
    first.send("Put:k:1\nStats\nPut:k:2\nSync:1\n");
    second.send("Put:k:3\nGet:k\n");
    server.run();
    server.begin_shutdown(60 * SECOND);
    server.run();
    // This was not read before.
    second.send("Put:k:4\n");
    for _ in 0..3 {
        server.run();
        control.end_all(Outcome::Apply);
    }
    server.run();
    let closing = "closing:the server is shutting down\n";
    let received = first.received();
    assert!(received.starts_with(":stats:"), "{received}");
    assert!(received.ends_with(&format!("\n:sync:0:1\n:error:0:{closing}")));
    assert_eq!(second.received(), format!("k:1\nk:3\n:error:3:{closing}"));
    first.half_close();
    second.half_close();
    assert!(!control.is_closed());
    assert!(server.ended().is_some());
    assert!(control.is_closed());
    assert_eq!(control.values("k"), ["1", "3", "2"]);
}

#[test]
fn a_stuck_store_does_not_hold_a_shutdown_beyond_its_grace() {
    let (mut server, control, clock) = timed();
    let (mut client, mut behind) = (server.connect(), server.connect());
    client.send("Put:k:1\nGet:k\nSync\n");
    behind.send("Get:k\n");
    server.run();
    server.begin_shutdown(10 * SECOND);
    server.run();
    clock.advance(9 * SECOND);
    server.run();
    assert!(!client.is_disconnected());
    clock.advance(2 * SECOND);
    assert!(server.ended().is_some());
    assert!(client.is_disconnected() && behind.is_disconnected());
    assert_eq!(control.in_flight().len(), 0);
    assert!(control.values("k").is_empty());
    assert!(!control.is_closed());
}

/// The same with sockets and the system's clock.
#[test]
fn a_stuck_store_does_not_hold_a_shutdown_on_sockets() {
    let (store, control) = LateStore::<NoOrder>::new();
    let server = TestServer::start(Server::builder().store(store).build());
    let mut client = server.connect();
    client.send("Get:k\n");
    wait_until("it is with the store", || !control.in_flight().is_empty());
    server.stop(Duration::from_millis(50));
    client.await_hang_up();
    assert!(control.in_flight().is_empty());
}

#[test]
fn to_drop_the_run_future_drops_what_the_store_does() {
    let (store, control) = LateStore::<NoOrder>::new();
    control.hold_pages();
    let server = Server::builder().store(store).build();
    let handle = server.handle();
    let mut server = LocalServer::new(server);
    let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(match n {
            0 => "Keys:\n".to_owned(),
            _ => format!("Put:{}:v\n", n / 2),
        });
    }
    server.run();
    assert_eq!(control.in_flight().len(), 6);
    drop(server);
    assert!(handle.is_closed());
    assert!(control.in_flight().is_empty());
    assert!(!control.is_closed());
    assert!(clients.iter().all(|client| client.is_disconnected()));
    future::block_on(handle.shutdown(SECOND));
}

#[test]
fn close_is_awaited_within_the_grace() {
    let (mut server, control, _) = timed();
    let go_on = control.hold_close();
    let mut client = server.connect();
    client.send("Put:k:1\nSync\n");
    server.run();
    server.begin_shutdown(10 * SECOND);
    control.end_all(Outcome::Apply);
    client.half_close();
    server.run();
    assert!(client.received().starts_with(":sync:0:\n"));
    assert!(client.is_disconnected());
    // All clients are gone, but not the server.
    assert!(!server.handle.is_closed() && !control.is_closed());
    go_on.send_blocking(()).unwrap();
    assert!(server.ended().is_some());
    assert!(control.is_closed());
}

#[test]
fn a_store_that_does_not_close_does_not_hold_a_shutdown_beyond_its_grace() {
    let (mut server, control, clock) = timed();
    let _go_on = control.hold_close();
    server.begin_shutdown(10 * SECOND);
    server.run();
    clock.advance(11 * SECOND);
    assert!(server.ended().is_some());
    assert!(!control.is_closed());
}
