//! Snapshots of a prefix and what follows them, at a scripted server.

use futures_lite::future;
use keywire::{Client, Error, Event, Snapshot};

use super::watch::told;
use crate::common::{
    events::{delete, put, remove, set, update},
    scripted::{self, ScriptedServer, poll},
};

/// A client whose server answers its `GetPrefix` with these lines, and what follows behind the fence.
fn walking(lines: &'static [&'static str], behind: &'static str) -> (Client, ScriptedServer) {
    let (mut walks, mut walking) = (0, false);
    let (stream, server) = scripted::pair(move |line, out| match line.split_once(':') {
        // What came before the walk is in it, whatever it is.
        Some(("WatchPrefix", prefix)) => *out += &format!(":watchprefix:{prefix}\n:put:k9:old\n"),
        Some(("GetPrefix", _)) => {
            *out += lines[walks.min(lines.len() - 1)];
            (walks, walking) = (walks + 1, true);
        }
        Some(("Sync", token)) => {
            *out += &format!(":sync:0:{token}\n");
            if std::mem::take(&mut walking) && walks >= lines.len() {
                *out += behind;
            }
        }
        _ => {}
    });
    (Client::from_stream(stream), server)
}

fn snapshot(keys: &[(&str, &[&str])]) -> Snapshot {
    let values = |values: &[&str]| values.iter().map(|one| one.as_bytes().to_vec()).collect();
    let keys = keys.iter();
    keys.map(|(key, list)| (key.as_bytes().to_vec(), values(list)))
        .collect()
}

#[test]
fn changes_during_the_walk_are_in_the_snapshot() {
    type Keys<'a> = &'a [(&'a str, &'a [&'a str])];
    let cases: [(&[&str], Keys); 9] = [
        (
            &["ka:1\nka:2\nkb:3\n"],
            &[("ka", &["1", "2"]), ("kb", &["3"])],
        ),
        (&[""], &[]),
        // Of a key that was shown, and right behind its lines.
        (
            &["ka:1\n:put:ka:2\nkb:1\n:delete:kb\n"],
            &[("ka", &["1", "2"])],
        ),
        (
            &["ka:1\nkb:1\n:set:ka:5\n"],
            &[("ka", &["5"]), ("kb", &["1"])],
        ),
        // Of a key that is shown later, with the change.
        (&[":put:ka:2\nka:1\nka:2\n"], &[("ka", &["1", "2"])]),
        (
            &[":delete:kb\nka:1\nkb:new\n"],
            &[("ka", &["1"]), ("kb", &["new"])],
        ),
        // Of a key that is not shown: it was not there, or is not any more.
        (
            &["ka:1\n:put:kz:1\n:put:kz:2\n:remove:kz:1\n"],
            &[("ka", &["1"]), ("kz", &["2"])],
        ),
        (
            &[":put:kb:2\n:remove:kb:1\n:remove:kb:2\nka:1\n:update:kb:no:3\n"],
            &[("ka", &["1"]), ("kb", &["3"])],
        ),
        // Of a key outside the prefix, which another watcher watches.
        (&["ka:1\n:put:other:1\n"], &[("ka", &["1"])]),
    ];
    for (lines, expected) in cases {
        let behind = ":put:ka:behind\n:remove:ka:behind\n:set:kb:9\n";
        let lines: &'static [&'static str] = lines.to_vec().leak();
        let (client, _server) = walking(lines, behind);
        let call = client.get_and_watch_prefix("k");
        let (read, mut watcher) = future::block_on(call).unwrap();
        assert_eq!(read, snapshot(expected), "{lines:?}");
        let events = [put("ka", "behind"), remove("ka", "behind"), set("kb", "9")];
        assert_eq!(told(&mut watcher), events, "{lines:?}");
    }
}

#[test]
fn a_snapshot_that_missed_changes_is_begun_again() {
    let lines: &[&str] = &[
        "ka:1\n:missed:2\n",
        ":missed:1\nka:1\n",
        // An unknown number.
        "ka:1\n:missed:0\n",
        "ka:3\n:put:ka:4\n",
    ];
    let (client, server) = walking(lines, ":missed:5\n:put:ka:6\n");
    let (read, mut watcher) = future::block_on(client.get_and_watch_prefix("k")).unwrap();
    assert_eq!(read, snapshot(&[("ka", &["3", "4"])]));
    assert_eq!(told(&mut watcher), [Event::Missed(5), put("ka", "6")]);
    let walks = |server: &ScriptedServer| {
        let commands = server.commands().into_iter();
        commands
            .filter(|line| line.starts_with("GetPrefix"))
            .count()
    };
    assert_eq!(walks(&server), 4);
    // However often it was asked for, it is one watch.
    server.send(":delete:ka\n");
    assert_eq!(told(&mut watcher), [delete("ka")]);
    drop(watcher);
    future::block_on(client.sync()).unwrap();
    assert_eq!(server.commands().last().unwrap(), "UnwatchPrefix:k");

    // But not for ever.
    let (client, server) = walking(&["ka:1\n:missed:2\n:missed:3\n"], "");
    let error = future::block_on(client.get_and_watch_prefix("k")).unwrap_err();
    assert!(
        matches!(error, Error::ChangesMissed { changes: 5, .. }),
        "{error}"
    );
    assert!(!error.is_disconnected() && !error.may_be_applied());
    assert_eq!(walks(&server), 8);
    future::block_on(client.sync()).unwrap();
    assert_eq!(server.commands().last().unwrap(), "UnwatchPrefix:k");
}

#[test]
fn a_snapshot_with_a_gap_is_an_error() {
    for (reply, refused) in [
        (":sync:3:TOKEN\n", false),
        (":error:3:store:no\n:sync:0:TOKEN\n", true),
    ] {
        let mut fences = 0;
        let (stream, _server) = scripted::pair(move |line, out| match line.split_once(':') {
            Some(("WatchPrefix", prefix)) => *out += &format!(":watchprefix:{prefix}\n"),
            Some(("GetPrefix", _)) => *out += "ka:1\n",
            Some(("Sync", token)) => {
                fences += 1;
                match fences {
                    2 => *out += &reply.replace("TOKEN", token),
                    _ => *out += &format!(":sync:0:{token}\n"),
                }
            }
            _ => {}
        });
        let client = Client::from_stream(stream);
        match future::block_on(client.get_and_watch_prefix("k")) {
            Err(Error::Refused { .. }) if refused => {}
            Err(Error::RepliesDropped { lines: 3, .. }) if !refused => {}
            other => panic!("{other:?}"),
        }
        future::block_on(client.sync()).unwrap();
    }
}

/// Nobody needs the snapshot any more, so it is not kept, and the watch ends.
#[test]
fn a_snapshot_that_is_dropped_half_way_leaves_nothing() {
    let (client, server) = scripted::silent();
    let mut call = Box::pin(client.get_and_watch_prefix("k"));
    assert!(poll(call.as_mut()).is_pending());
    server.send(":watchprefix:k\n:sync:0:2\nka:1\nkb:1\n");
    assert!(poll(call.as_mut()).is_pending());
    drop(call);
    let mut next = Box::pin(client.get("mine"));
    assert!(poll(next.as_mut()).is_pending());
    assert_eq!(
        server.commands(),
        [
            "WatchPrefix:k",
            "GetPrefix:k",
            "UnwatchPrefix:k",
            "Get:mine"
        ]
    );
    server.send("kc:1\n:put:ka:2\n:sync:0:4\nmine:1\n:sync:0:7\n");
    assert_eq!(future::block_on(next).unwrap(), [b"1"]);
}

#[test]
fn events_keep_a_snapshot_as_the_server_keeps_its_store() {
    let mut kept = Snapshot::new();
    for (event, expected) in [
        (put("a", "1"), snapshot(&[("a", &["1"])])),
        (put("a", "2"), snapshot(&[("a", &["1", "2"])])),
        (put("a", "1"), snapshot(&[("a", &["1", "2", "1"])])),
        (update("a", "1", "3"), snapshot(&[("a", &["3", "2", "1"])])),
        (
            update("a", "x", "4"),
            snapshot(&[("a", &["3", "2", "1", "4"])]),
        ),
        (remove("a", "2"), snapshot(&[("a", &["3", "1", "4"])])),
        (remove("a", "x"), snapshot(&[("a", &["3", "1", "4"])])),
        (set("a", "5"), snapshot(&[("a", &["5"])])),
        (remove("a", "5"), Snapshot::new()),
        (remove("a", "5"), Snapshot::new()),
        (delete("a"), Snapshot::new()),
        (update("b", "", "1"), snapshot(&[("b", &["1"])])),
        (set("c", ""), snapshot(&[("b", &["1"]), ("c", &[""])])),
        (delete("b"), snapshot(&[("c", &[""])])),
    ] {
        event.apply_to(&mut kept).unwrap();
        assert_eq!(kept, expected, "{event:?}");
    }
    let error = Event::Missed(2).apply_to(&mut kept).unwrap_err();
    assert!(matches!(error, Error::ChangesMissed { changes: 2, .. }));
}
