//! What a change costs beyond its events.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
};

use keywire::Server;

use crate::common::local::LocalServer;

#[derive(Default)]
struct Calls(AtomicUsize);

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A worker is called by the number of tasks that have something to do, not of those that had it
/// done by the coordinator.
#[test]
fn many_watchers_of_one_change_call_a_worker() {
    const WATCHERS: usize = 100;
    let mut server = LocalServer::new(Server::new());
    let mut watchers: Vec<_> = (0..WATCHERS).map(|_| server.connect()).collect();
    for watcher in &mut watchers {
        watcher.send("Watch:k\n");
    }
    server.run();
    let calls = Arc::new(Calls::default());
    let waker = Waker::from(calls.clone());
    let mut worker = pin!(server.handle.worker());
    let polled = worker.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    let mut writer = server.connect();
    writer.send("Put:other:v\n");
    server.run();
    assert_eq!(calls.0.load(Ordering::Relaxed), 0);
    writer.send("Put:k:v\n");
    server.run();
    assert_eq!(calls.0.load(Ordering::Relaxed), 1);
}

/// What it costs to write other keys than those watched is the same with and without watchers.
#[test]
fn a_write_that_nobody_watches_is_not_encoded() {
    let allocations = |watches: &str| {
        let mut server = LocalServer::new(Server::new());
        let (mut watcher, mut writer) = (server.connect(), server.connect());
        watcher.send(watches);
        let writes = "Put:k:v\nUpdate:k:v:w\nDelete:k\n".repeat(100);
        // The second round finds every buffer as large as it will be.
        let mut round = || {
            writer.send(&writes);
            server.run();
        };
        round();
        allocation_counter::measure(round).bytes_total
    };
    let (watched, unwatched) = (
        allocations("Watch:other\nWatchPrefix:kk\n"),
        allocations("\n"),
    );
    // The events would take several kilobytes.
    assert!(
        watched < unwatched + 1000,
        "{watched} bytes, and {unwatched}"
    );
}
