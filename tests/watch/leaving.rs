//! Watchers that go, and those that stay.

use std::time::Duration;

use keywire::Server;

use crate::common::{TestServer, local::LocalServer};

/// Whoever stops, in whatever order and way, takes no one else's watch along.
#[test]
fn who_still_watches_hears_it_whoever_has_stopped() {
    const WATCHERS: usize = 4;
    // Each number, read in base 4, is an order; who comes twice in it has stopped already.
    for order in 0..WATCHERS.pow(3) {
        let mut server = LocalServer::new(Server::new());
        let mut watchers: Vec<_> = (0..WATCHERS).map(|_| Some(server.connect())).collect();
        for watcher in watchers.iter_mut().flatten() {
            watcher.send("Watch:k\nWatchPrefix:\n");
        }
        let mut writer = server.connect();
        for step in 0..3 {
            let who = order / WATCHERS.pow(step) % WATCHERS;
            if step == 1 {
                watchers[who] = None;
            } else if let Some(watcher) = &mut watchers[who] {
                watcher.send("Unwatch:k\n");
                watcher.send("UnwatchPrefix:\n");
            }
            server.run();
            watchers
                .iter_mut()
                .flatten()
                .for_each(|w| drop(w.received()));
            writer.send("Put:k:v\n");
            server.run();
            let stopped: Vec<_> = (0..=step)
                .map(|step| order / WATCHERS.pow(step) % WATCHERS)
                .collect();
            for (number, watcher) in watchers.iter_mut().enumerate() {
                let Some(watcher) = watcher else { continue };
                let expected = match stopped.contains(&number) {
                    true => "",
                    false => ":put:k:v\n",
                };
                assert_eq!(watcher.received(), expected, "{number} of {order}");
            }
        }
    }
}

#[test]
fn a_watcher_that_will_say_no_more_watches_no_more() {
    let mut server = LocalServer::new(Server::new());
    let (mut writer, mut watcher) = (server.connect(), server.connect());
    watcher.send("Watch:k\nPut:k:1\nWatch:j");
    watcher.half_close();
    writer.send("Put:k:2\n");
    server.run();
    writer.send("Put:k:3\n");
    let heard = watcher.receive_all(&mut server);
    assert!(
        heard.starts_with(":watch:k\n:put:k:1\n:put:k:2\n:error:3:malformed:"),
        "{heard}"
    );
    assert!(watcher.is_disconnected());
    assert_eq!(server.stats().events, 2);
    assert_eq!(server.stats().watching, 0);
}

#[test]
fn a_half_closed_watcher_that_does_not_read_is_not_told_either() {
    let mut server = LocalServer::new(Server::new());
    let mut writer = server.connect();
    let mut watcher = server.connect_with(8);
    watcher.send("Watch:k\n");
    watcher.half_close();
    server.run();
    for _ in 0..10 {
        writer.send("Put:k:1\n");
        server.run();
    }
    assert_eq!((server.stats().events, server.stats().watching), (0, 0));
    assert_eq!(watcher.receive_all(&mut server), ":watch:k\n");
    assert!(watcher.is_disconnected());
}

#[test]
fn a_client_in_the_place_of_one_that_left_hears_nothing_of_its() {
    let mut server = LocalServer::new(Server::new());
    let mut writer = server.connect();
    for round in 0..3 {
        let mut watcher = server.connect();
        watcher.send("Watch:k\nWatchPrefix:\n");
        server.run();
        drop(watcher);
        writer.send("Put:k:1\n");
        server.run();
        let mut heir = server.connect();
        writer.send("Put:k:2\n");
        assert_eq!(heir.receive_all(&mut server), "", "round {round}");
        heir.send("Watch:j\n");
        server.run();
        writer.send("Put:k:3\nPut:j:4\n");
        assert_eq!(heir.receive_all(&mut server), ":watch:j\n:put:j:4\n");
    }
    assert_eq!(server.stats().watching, 0);
}

#[test]
fn a_watcher_that_leaves_in_the_round_of_a_change_disturbs_no_one() {
    let mut server = LocalServer::new(Server::new());
    let (mut writer, mut steady) = (server.connect(), server.connect());
    steady.send("Watch:k\n");
    server.run();
    let mut expected = ":watch:k\n".to_owned();
    for number in 0..20 {
        let mut leaver = server.connect();
        leaver.send("Watch:k\n");
        server.run();
        // Its own turn is before or after the writer's.
        let words = "Put:j:1\nUnwatch:k\nWatchPrefix:k\n";
        if number % 2 == 0 {
            leaver.send(words);
        }
        writer.send(format!("Put:k:{number}\n"));
        if number % 2 == 1 {
            leaver.send(words);
        }
        drop(leaver);
        expected += &format!(":put:k:{number}\n");
        server.run();
    }
    assert_eq!(steady.received(), expected);
    assert_eq!((server.stats().watching, server.stats().active), (1, 2));
}

#[test]
fn commands_of_a_closing_server_begin_no_watch() {
    let server = TestServer::start(Server::new());
    let mut watcher = server.connect();
    watcher.send("Watch:k\n");
    watcher.sync();
    let handle = server.handle.clone();
    let mut closing = Box::pin(handle.shutdown(Duration::from_secs(30)));
    futures_lite::future::block_on(futures_lite::future::poll_once(closing.as_mut()));
    watcher.send("Put:k:1\nWatch:j\nUnwatch:k\n");
    let rest = String::from_utf8(watcher.end()).unwrap();
    // Whether it came to be read at all is a matter of time.
    assert!(
        rest.lines().all(|line| line.contains(":closing:")),
        "{rest}"
    );
    server.stop(Duration::from_secs(30));
}
