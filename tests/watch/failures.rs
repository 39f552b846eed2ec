//! Watches and a store that fails, or answers late.

use keywire::Server;

use super::{limits::full, replies, stats::figures};
use crate::common::{
    local::LocalServer,
    script::converse,
    stores::{Failing, ManualClock, Remote, Undoing},
};

#[test]
fn a_store_that_answers_late_has_its_changes_told_in_order() {
    let mut commands = "WatchPrefix:k\n".to_owned();
    let mut expected = ":watchprefix:k\n".to_owned();
    for n in 0..50 {
        commands += &format!("Put:k:{n}\nGet:k\nUnwatchPrefix:k\nPut:k:x\nWatch:k\nSync:{n}\n");
        commands += "Delete:k\nUnwatch:k\nWatchPrefix:k\nStats\n";
        expected += &format!(":put:k:{n}\nk:{n}\n:watch:k\n:sync:0:{n}\n:delete:k\n");
        expected += ":watchprefix:k\n";
    }
    let output = replies(Remote::default(), &commands);
    let (stats, rest): (Vec<_>, Vec<_>) =
        output.lines().partition(|line| line.starts_with(":stats:"));
    assert_eq!(rest, expected.lines().collect::<Vec<_>>());
    let events = (1..=50).map(|n| [2 * n, 1]).collect::<Vec<_>>();
    assert_eq!(figures(&stats.join("\n"), ["events", "watching"]), events);
}

#[test]
fn a_write_that_failed_is_not_told() {
    assert_eq!(
        replies(
            Failing::default(),
            "WatchPrefix:\nPut:a:1\nPut:bad:2\nSync\nUpdate:bad:x:y\nPut:b:3\nDelete:bad\nDelete:a\n",
        ),
        ":watchprefix:\n:put:a:1\n:error:3:store:out of order\n:sync:0:\n\
         :error:5:store:out of order\n:put:b:3\n:error:7:store:out of order\n:delete:a\n",
    );
}

#[test]
fn nothing_of_a_batch_that_failed_is_told() {
    // Three a batch; those of the second and the fourth are undone.
    let commands = "WatchPrefix:\nPut:a:1\nGet:a\nPut:a:2\n\
                    Put:a:3\nGet:a\nSync:x\nPut:worse:1\n\
                    Put:a:4\nGet:a\nDelete:b\n\
                    Delete:a\nPut:worse:1\nPut:a:5\n\
                    Get:a\nPut:a:6\n";
    let expected = ":watchprefix:\n:put:a:1\na:1\n:put:a:2\n\
                    :error:5:store:undone\n:error:6:store:undone\n:sync:0:x\n:error:8:store:undone\n\
                    :put:a:4\na:1\na:2\na:4\n:delete:b\n\
                    :error:12:store:undone\n:error:13:store:undone\n:error:14:store:undone\n\
                    a:1\na:2\na:4\n:put:a:6\n";
    let server = Server::builder().store(Undoing::new(3)).build();
    let mut server = LocalServer::new(server);
    let (mut writer, mut watcher) = (server.connect(), server.connect());
    watcher.send("WatchPrefix:\n");
    server.run();
    writer.send(commands);
    assert_eq!(writer.receive_all(&mut server), expected);
    assert_eq!(
        watcher.received(),
        ":watchprefix:\n:put:a:1\n:put:a:2\n:put:a:4\n:delete:b\n:put:a:6\n"
    );
    let stats = server.stats();
    assert_eq!((stats.events, stats.missed, stats.errors), (10, 0, 6));
}

/// Watches that begin and end within a batch that fails are answered as if it had not been tried
/// before.
#[test]
fn watches_of_a_batch_that_failed_are_begun_and_ended_once() {
    let server = Server::builder()
        .max_watches(1)
        .store(Undoing::new(100))
        .build();
    let (output, _) = converse(
        server,
        [
            &b"Watch:a\nPut:x:1\nUnwatch:a\nWatch:b\nPut:worse:1\n"[..],
            b"Put:a:1\nPut:b:1\nStats\n",
        ],
    );
    let output = String::from_utf8(output).unwrap();
    assert!(
        output.starts_with(
            ":watch:a\n:error:2:store:undone\n:watch:b\n:error:5:store:undone\n:put:b:1\n:stats:"
        ),
        "{output}"
    );
    assert_eq!(
        figures(&output, ["watching", "errors", "events"]),
        [[1, 2, 1]]
    );

    let server = Server::builder()
        .max_watches(1)
        .store(Undoing::new(100))
        .build();
    let commands = b"Watch:a\nSync\nWatch:b\nPut:x:1\nUnwatch:a\nPut:worse:1\nPut:b:1\n";
    let (output, _) = converse(server, [&commands[..]]);
    assert_eq!(
        String::from_utf8(output).unwrap(),
        [
            ":watch:a\n:sync:0:\n",
            &full(3, 1),
            ":error:4:store:undone\n:error:6:store:undone\n:error:7:store:undone\n",
        ]
        .concat()
    );
}

/// A batch that fails has come to a client's Watch. Then there is room for more commands of the
/// client before it, and the Watch comes after those.
#[test]
fn a_watch_that_was_come_to_too_early_has_not_begun() {
    let server = Server::builder()
        .outbox_lines(6)
        .store(Undoing::new(100))
        .build();
    let mut server = LocalServer::new(server);
    let (mut writer, mut watcher) = (server.connect(), server.connect());
    writer.send("Put:v:1\nPut:v:2\nPut:v:3\nPut:v:4\nPut:v:5\n");
    server.run();
    // Six lines are an outbox-full, until they turn out to be two errors.
    let words = "Put:worse:1\nGet:v\nGet:v\nPut:k:1\nPut:k:2\n";
    writer.send(words);
    watcher.send("Watch:k\n");
    server.run();
    assert_eq!(watcher.received(), ":watch:k\n");
    // And where the Watch is part of the batch that fails, it comes before those.
    writer.send(words);
    watcher.send("Unwatch:k\nWatch:k\nGet:k\n");
    server.run();
    assert_eq!(
        watcher.received(),
        ":watch:k\n:error:4:store:undone\n:put:k:1\n:put:k:2\n"
    );
    writer.send(words);
    watcher.send("Unwatch:k\nGet:k\n");
    server.run();
    assert_eq!(watcher.received(), ":error:6:store:undone\n");
    // An end that was come to too early has not come either.
    watcher.send("Watch:k\n");
    server.run();
    writer.send(words);
    watcher.send("Unwatch:k\nWatch:k\n");
    server.run();
    assert_eq!(
        watcher.received(),
        ":watch:k\n:put:k:1\n:put:k:2\n:watch:k\n"
    );
    writer.send(words);
    watcher.send("Unwatch:k\n");
    server.run();
    assert_eq!(watcher.received(), ":put:k:1\n:put:k:2\n");
}

/// As above, but now the round is over before it comes to the Watch again.
#[test]
fn a_watch_that_was_come_to_too_early_ends_with_its_client() {
    let clock = ManualClock::new();
    let mut store = Undoing::new(100);
    store.clock = Some(clock.clone());
    let server = Server::builder()
        .outbox_lines(6)
        .clock(clock)
        .store(store)
        .build();
    let mut server = LocalServer::new(server);
    let (mut writer, mut watcher) = (server.connect(), server.connect());
    writer.send("Put:v:1\nPut:v:2\nPut:v:3\nPut:v:4\nPut:v:5\n");
    server.run();
    writer.send("Put:worse:1\nGet:v\nGet:v\n".to_owned() + &"Put:k:early\n".repeat(100));
    watcher.send("Watch:k\n");
    server.run();
    writer.send("Put:k:late\n");
    assert!(watcher.receive_all(&mut server).ends_with(":put:k:late\n"));
    writer.send("Put:k:later\n");
    assert_eq!(watcher.receive_all(&mut server), ":put:k:later\n");
    assert_eq!(server.stats().watching, 1);
    drop(watcher);
    assert_eq!(server.stats().watching, 0);
    let events = server.stats().events;
    writer.send("Put:k:after\n");
    assert_eq!(server.stats().events, events);
}
