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

use crate::common::stage::Stage;

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
    let mut stage = Stage::new(Server::new());
    let mut watchers: Vec<_> = (0..WATCHERS).map(|_| stage.join()).collect();
    for watcher in &mut watchers {
        watcher.say("Watch:k\n");
    }
    stage.play();
    let calls = Arc::new(Calls::default());
    let waker = Waker::from(calls.clone());
    let mut worker = pin!(stage.handle.worker());
    let polled = worker.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending());
    let mut writer = stage.join();
    writer.say("Put:other:v\n");
    stage.play();
    assert_eq!(calls.0.load(Ordering::Relaxed), 0);
    writer.say("Put:k:v\n");
    stage.play();
    assert_eq!(calls.0.load(Ordering::Relaxed), 1);
}

/// What it costs to write other keys than those watched is the same with and without watchers.
#[test]
fn a_write_that_nobody_watches_is_not_encoded() {
    let allocations = |watches: &str| {
        let mut stage = Stage::new(Server::new());
        let (mut watcher, mut writer) = (stage.join(), stage.join());
        watcher.say(watches);
        let writes = "Put:k:v\nUpdate:k:v:w\nDelete:k\n".repeat(100);
        // The second round finds every buffer as large as it will be.
        let mut round = || {
            writer.say(&writes);
            stage.play();
        };
        round();
        allocation_counter::measure(round).bytes_total
    };
    assert_eq!(
        allocations("Watch:other\nWatchPrefix:kk\n"),
        allocations("\n")
    );
}
