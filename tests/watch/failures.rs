//! Watches and a store that fails, or answers late.

use keywire::Server;

use super::{replies, stats::figures};
use crate::common::{
    local::LocalServer,
    stores::{Failing, Remote},
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
    let server = Server::builder().store(Failing::default()).build();
    let mut server = LocalServer::new(server);
    let (mut writer, mut watcher) = (server.connect(), server.connect());
    watcher.send("WatchPrefix:\n");
    writer.send("WatchPrefix:\n");
    server.run();
    for batch in [
        "Put:a:1\nGet:a\nPut:a:2\n",
        "Put:a:3\nGet:a\nSync:x\nPut:worse:1\n",
        "Put:a:4\nGet:a\nDelete:b\n",
    ] {
        writer.send(batch);
        server.run();
    }
    assert_eq!(
        writer.received(),
        ":watchprefix:\n:put:a:1\na:1\n:put:a:2\n\
         :error:5:store:nothing of this\n:error:6:store:nothing of this\n:sync:0:x\n\
         :error:8:store:nothing of this\n\
         :put:a:4\na:1\na:2\na:4\n:delete:b\n"
    );
    assert_eq!(
        watcher.received(),
        ":watchprefix:\n:put:a:1\n:put:a:2\n:put:a:4\n:delete:b\n"
    );
    let stats = server.stats();
    assert_eq!((stats.events, stats.missed, stats.errors), (8, 0, 3));
}

/// A Watch is not the store's, so what comes before it and after it are batches of their own.
#[test]
fn a_watch_stands_between_two_batches() {
    assert_eq!(
        replies(
            Failing::default(),
            "Watch:a\nPut:a:1\nUnwatch:a\nPut:worse:1\nPut:a:2\nWatch:a\nPut:a:3\nGet:a\n",
        ),
        ":watch:a\n:put:a:1\n\
         :error:4:store:nothing of this\n:error:5:store:nothing of this\n\
         :watch:a\n:put:a:3\na:1\na:3\n",
    );
}
