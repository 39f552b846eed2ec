//! Watchers that go, and those that stay.

use std::time::Duration;

use keywire::Server;

use crate::common::{TestServer, stage::Stage};

/// Whoever stops, in whatever order and way, takes no one else's watch along.
#[test]
fn who_still_watches_hears_it_whoever_has_stopped() {
    const WATCHERS: usize = 4;
    // Each number, read in base 4, is an order; who comes twice in it has stopped already.
    for order in 0..WATCHERS.pow(3) {
        let mut stage = Stage::new(Server::new());
        let mut watchers: Vec<_> = (0..WATCHERS).map(|_| Some(stage.join())).collect();
        for watcher in watchers.iter_mut().flatten() {
            watcher.say("Watch:k\nWatchPrefix:\n");
        }
        let mut writer = stage.join();
        for step in 0..3 {
            let who = order / WATCHERS.pow(step) % WATCHERS;
            if step == 1 {
                watchers[who] = None;
            } else if let Some(watcher) = &mut watchers[who] {
                watcher.say("Unwatch:k\n");
                watcher.say("UnwatchPrefix:\n");
            }
            stage.play();
            watchers.iter_mut().flatten().for_each(|w| drop(w.hear()));
            writer.say("Put:k:v\n");
            stage.play();
            let stopped: Vec<_> = (0..=step)
                .map(|step| order / WATCHERS.pow(step) % WATCHERS)
                .collect();
            for (number, watcher) in watchers.iter_mut().enumerate() {
                let Some(watcher) = watcher else { continue };
                let expected = match stopped.contains(&number) {
                    true => "",
                    false => ":put:k:v\n",
                };
                assert_eq!(watcher.hear(), expected, "{number} of {order}");
            }
        }
    }
}

#[test]
fn a_watcher_that_will_say_no_more_watches_no_more() {
    let mut stage = Stage::new(Server::new());
    let (mut writer, mut watcher) = (stage.join(), stage.join());
    watcher.say("Watch:k\nPut:k:1\nWatch:j");
    watcher.fall_silent();
    writer.say("Put:k:2\n");
    stage.play();
    writer.say("Put:k:3\n");
    let heard = watcher.hear_all(&mut stage);
    assert!(
        heard.starts_with(":watch:k\n:put:k:1\n:put:k:2\n:error:3:malformed:"),
        "{heard}"
    );
    assert!(watcher.is_left_alone());
    assert_eq!(stage.stats().events, 2);
    assert_eq!(stage.stats().watching, 0);
}

#[test]
fn a_half_closed_watcher_that_does_not_read_is_not_told_either() {
    let mut stage = Stage::new(Server::new());
    let mut writer = stage.join();
    let mut watcher = stage.join_with(8);
    watcher.say("Watch:k\n");
    watcher.fall_silent();
    stage.play();
    for _ in 0..10 {
        writer.say("Put:k:1\n");
        stage.play();
    }
    assert_eq!((stage.stats().events, stage.stats().watching), (0, 0));
    assert_eq!(watcher.hear_all(&mut stage), ":watch:k\n");
    assert!(watcher.is_left_alone());
}

#[test]
fn a_client_in_the_place_of_one_that_left_hears_nothing_of_its() {
    let mut stage = Stage::new(Server::new());
    let mut writer = stage.join();
    for round in 0..3 {
        let mut watcher = stage.join();
        watcher.say("Watch:k\nWatchPrefix:\n");
        stage.play();
        drop(watcher);
        writer.say("Put:k:1\n");
        stage.play();
        let mut heir = stage.join();
        writer.say("Put:k:2\n");
        assert_eq!(heir.hear_all(&mut stage), "", "round {round}");
        heir.say("Watch:j\n");
        stage.play();
        writer.say("Put:k:3\nPut:j:4\n");
        assert_eq!(heir.hear_all(&mut stage), ":watch:j\n:put:j:4\n");
    }
    assert_eq!(stage.stats().watching, 0);
}

#[test]
fn a_watcher_that_leaves_in_the_round_of_a_change_disturbs_no_one() {
    let mut stage = Stage::new(Server::new());
    let (mut writer, mut steady) = (stage.join(), stage.join());
    steady.say("Watch:k\n");
    stage.play();
    let mut expected = ":watch:k\n".to_owned();
    for number in 0..20 {
        let mut leaver = stage.join();
        leaver.say("Watch:k\n");
        stage.play();
        // Its own turn is before or after the writer's.
        let words = "Put:j:1\nUnwatch:k\nWatchPrefix:k\n";
        if number % 2 == 0 {
            leaver.say(words);
        }
        writer.say(format!("Put:k:{number}\n"));
        if number % 2 == 1 {
            leaver.say(words);
        }
        drop(leaver);
        expected += &format!(":put:k:{number}\n");
        stage.play();
    }
    assert_eq!(steady.hear(), expected);
    assert_eq!((stage.stats().watching, stage.stats().active), (1, 2));
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
