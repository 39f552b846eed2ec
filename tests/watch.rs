//! Who watches hears of changes: all of them, once, in order, and at the right place.

#[macro_use]
mod common;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use common::{
    Client, Place, TestServer,
    script::converse,
    stage::Stage,
    stores::{Failing, HandClock, Remote, Undoing},
    transcript, wait_until,
};
use keywire::{Server, store::Store};

fn plain(commands: &str, replies: &str) {
    transcript(Server::new, commands.as_bytes(), replies);
}

fn with_watches(max: usize, commands: &str, replies: &str) {
    let server = || Server::builder().max_watches(max).build();
    transcript(server, commands.as_bytes(), replies);
}

fn replies<S: Store>(store: S, commands: &str) -> String {
    let server = Server::builder().store(store).build();
    String::from_utf8(converse(server, [commands.as_bytes()]).0).unwrap()
}

#[test]
fn own_changes_stand_between_own_replies() {
    plain(
        "Watch:k\nPut:k:1\nGet:k\nPut:k:2\nGet:k\nUpdate:k:1:a:b\nGet:k\nDelete:k\nGet:k\nSync:end\n",
        ":watch:k\n:put:k:1\nk:1\n:put:k:2\nk:1\nk:2\n:update:k:1:a:b\nk:a:b\nk:2\n:delete:k\n\
         :sync:0:end\n",
    );
}

#[test]
fn changes_come_as_they_were_sent() {
    plain(
        "WatchPrefix:\nPut:k:\nPut:k::\nPut:k: a:b \r\nUpdate:k::\nUpdate:k::x:y\nUpdate:k:no:\nDelete:k\n",
        ":watchprefix:\n:put:k:\n:put:k::\n:put:k: a:b \n:update:k::\n:update:k::x:y\n:update:k:no:\n\
         :delete:k\n",
    );
}

#[test]
fn nothing_from_before_the_watch_is_heard_and_nothing_from_after_its_end() {
    plain(
        "Put:k:0\nSync\nWatch:k\nPut:k:1\nUnwatch:k\nPut:k:2\nSync\nWatch:k\nPut:k:3\n",
        ":sync:0:\n:watch:k\n:put:k:1\n:sync:0:\n:watch:k\n:put:k:3\n",
    );
}

#[test]
fn a_write_that_changes_nothing_is_told() {
    plain(
        "Watch:k\nDelete:k\nPut:k:v\nUpdate:k:v:v\nDelete:k\nDelete:k\n",
        ":watch:k\n:delete:k\n:put:k:v\n:update:k:v:v\n:delete:k\n:delete:k\n",
    );
}

#[test]
fn nothing_but_writes_is_told() {
    plain(
        "Watch:k\nGet:k\nSync\nPut:k\nput:k:v\nDelete:k:x\nUpdate:k:v\n",
        ":watch:k\n:sync:0:\n\
         :error:4:malformed:a field is missing; the forms are Put:key:value, Get:key, Delete:key, \
         Update:key:old:new, Watch:key, WatchPrefix:prefix and Auth:secret\n\
         :error:5:unknown:no such command (case matters); there are Put, Get, Delete, Update, Sync, \
         Stats, Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth\n\
         :error:6:malformed:a colon too many; Get, Delete and Watch take a key, which holds none, and \
         Stats takes nothing\n\
         :error:7:malformed:a field is missing; the forms are Put:key:value, Get:key, Delete:key, \
         Update:key:old:new, Watch:key, WatchPrefix:prefix and Auth:secret\n",
    );
}

#[test]
fn a_watch_is_of_that_key_alone() {
    plain(
        "Watch:ab\nPut:a:1\nPut:abc:1\nPut:b:1\nPut:AB:1\nPut:ab:1\nDelete:abc\n",
        ":watch:ab\n:put:ab:1\n",
    );
}

#[test]
fn a_prefix_is_of_every_key_that_begins_so() {
    plain(
        "WatchPrefix:ab\nPut:a:1\nPut:ab:2\nPut:abc:3\nPut:ac:4\nPut:b:5\nPut:aab:6\nPut:ab\u{7f}:7\n\
         UnwatchPrefix:ab\nPut:ab:8\n",
        ":watchprefix:ab\n:put:ab:2\n:put:abc:3\n:put:ab\u{7f}:7\n",
    );
}

#[test]
fn a_key_and_a_prefix_of_the_same_name_are_two_watches() {
    plain(
        "Watch:k\nWatchPrefix:k\nPut:k:1\nUnwatch:k\nPut:k:2\nPut:kk:3\nWatch:k\nUnwatchPrefix:k\n\
         Put:k:4\nPut:kk:5\n",
        ":watch:k\n:watchprefix:k\n:put:k:1\n:put:k:2\n:put:kk:3\n:watch:k\n:put:k:4\n",
    );
}

#[test]
fn a_change_that_matches_several_watches_comes_once() {
    plain(
        "WatchPrefix:\nWatchPrefix:a\nWatchPrefix:ab\nWatchPrefix:abc\nWatchPrefix:b\nWatch:ab\n\
         Put:ab:1\nPut:ab:1\nPut:abcd:2\nPut:b:3\nPut:c:4\n\
         UnwatchPrefix:\nPut:ab:5\nPut:c:6\nUnwatchPrefix:ab\nPut:ab:7\nPut:aa:8\nUnwatchPrefix:a\n\
         Put:ab:9\nPut:aa:10\n",
        ":watchprefix:\n:watchprefix:a\n:watchprefix:ab\n:watchprefix:abc\n:watchprefix:b\n:watch:ab\n\
         :put:ab:1\n:put:ab:1\n:put:abcd:2\n:put:b:3\n:put:c:4\n\
         :put:ab:5\n:put:ab:7\n:put:aa:8\n:put:ab:9\n",
    );
}

/// Prefixes that a careless search would find or miss: every set of three, over two letters, is
/// asked about every key of up to four.
#[test]
fn any_prefixes_among_any_others_are_found() {
    let words = |longest: usize| -> Vec<String> {
        let mut words = vec![String::new()];
        let mut at = 0;
        while words[at].len() < longest {
            let longer = [words[at].clone() + "a", words[at].clone() + "b"];
            words.extend(longer);
            at += 1;
        }
        words
    };
    let prefixes = words(3);
    let keys = &words(4)[1..];
    for (at, one) in prefixes.iter().enumerate() {
        for two in &prefixes[at..] {
            for three in ["", "ab", "b", "aba"] {
                let watched = [one.as_str(), two, three];
                let mut commands = String::new();
                let mut expected = String::new();
                for prefix in watched {
                    commands += &format!("WatchPrefix:{prefix}\n");
                    expected += &format!(":watchprefix:{prefix}\n");
                }
                for key in keys {
                    commands += &format!("Put:{key}:v\n");
                    if watched.iter().any(|prefix| key.starts_with(prefix)) {
                        expected += &format!(":put:{key}:v\n");
                    }
                }
                let (output, _) = converse(Server::new(), [commands.as_bytes()]);
                let output = String::from_utf8(output).unwrap();
                assert_eq!(output, expected, "{watched:?}");
            }
        }
    }
}

#[test]
fn any_bytes_are_watched() {
    let keys: Vec<Vec<u8>> = (0..=255_u8)
        .filter(|byte| !b":\n".contains(byte))
        .flat_map(|byte| [vec![b'k', byte, b'k'], vec![byte, 0], vec![byte, 255]])
        .collect();
    for prefix in [
        &b""[..],
        b"k",
        b"k\xff",
        b"k\0",
        b"\0",
        b"\xff",
        b"\xff\xff",
        b"\0\0",
    ] {
        let mut commands = [b"WatchPrefix:", prefix, b"\nWatch:\xfe\xff\n"].concat();
        let mut expected = [b":watchprefix:", prefix, b"\n:watch:\xfe\xff\n"].concat();
        for key in &keys {
            commands.extend([b"Delete:", &key[..], b"\n"].concat());
            if key.starts_with(prefix) || key == b"\xfe\xff" {
                expected.extend([b":delete:", &key[..], b"\n"].concat());
            }
        }
        assert_eq!(converse(Server::new(), [&commands[..]]).0, expected);
    }
}

#[test]
fn a_watch_may_begin_and_end_more_often_than_needed() {
    plain(
        "Unwatch:k\nUnwatchPrefix:\nUnwatchPrefix:k\nWatch:k\nWatch:k\nPut:k:1\nUnwatch:k\nPut:k:2\n\
         Unwatch:k\nWatchPrefix:\nWatchPrefix:\nUnwatchPrefix:k\nPut:k:3\nUnwatchPrefix:\nPut:k:4\n",
        ":watch:k\n:watch:k\n:put:k:1\n:watchprefix:\n:watchprefix:\n:put:k:3\n",
    );
}

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
fn a_watch_has_one_field() {
    let missing = "a field is missing; the forms are Put:key:value, Get:key, Delete:key, \
                   Update:key:old:new, Watch:key, WatchPrefix:prefix and Auth:secret";
    let extra = "a colon too many; Get, Delete and Watch take a key, which holds none, and Stats takes \
                 nothing";
    for word in ["Watch", "Unwatch", "WatchPrefix", "UnwatchPrefix"] {
        let empty = match word {
            "Watch" | "Unwatch" => ":error:4:malformed:the key is empty\n",
            "WatchPrefix" => ":watchprefix:\n",
            _ => "",
        };
        plain(
            &format!("{word}\n{word}:a:\n{word}::\n{word}:\nSync\n"),
            &format!(
                ":error:1:malformed:{missing}\n:error:2:malformed:{extra}\n\
                 :error:3:malformed:{extra}\n{empty}:sync:0:\n"
            ),
        );
    }
}

fn full(line: usize, max: usize) -> String {
    format!(
        ":error:{line}:full:this connection may watch {max} keys and prefixes, long names counting more\n"
    )
}

#[test]
fn a_long_name_counts_more() {
    let (long, longer) = ("k".repeat(128), "l".repeat(129));
    transcript(
        || Server::builder().max_watches(3).build(),
        format!(
            "Watch:{long}\nWatchPrefix:{long}\nUnwatch:{long}\nWatchPrefix:{longer}\nWatch:a\n"
        )
        .as_bytes(),
        &format!(
            ":watch:{long}\n{}:watchprefix:{longer}\n{}",
            full(2, 3),
            full(5, 3)
        ),
    );
}

#[test]
fn no_more_is_watched_than_the_limit_allows() {
    with_watches(
        0,
        "Watch:a\nWatchPrefix:\nPut:a:1\nUnwatch:a\nWatch:a\nSync\n",
        &(full(1, 0) + &full(2, 0) + &full(5, 0) + ":sync:0:\n"),
    );
    with_watches(
        1,
        "Watch:a\nWatch:b\nWatch:a\nWatchPrefix:a\nPut:b:1\nPut:a:2\nUnwatch:b\nWatch:b\nUnwatch:a\n\
         WatchPrefix:b\nPut:a:3\nPut:bb:4\n",
        &[
            ":watch:a\n",
            &full(2, 1),
            ":watch:a\n",
            &full(4, 1),
            ":put:a:2\n",
            &full(8, 1),
            ":watchprefix:b\n:put:bb:4\n",
        ]
        .concat(),
    );
    with_watches(
        3,
        "Watch:a\nWatchPrefix:\nWatch:b\nWatch:c\nUnwatchPrefix:\nUnwatchPrefix:\nWatch:c\nWatch:d\n\
         Put:d:1\nPut:c:2\n",
        &[
            ":watch:a\n:watchprefix:\n:watch:b\n",
            &full(4, 3),
            ":watch:c\n",
            &full(8, 3),
            ":put:c:2\n",
        ]
        .concat(),
    );
}

#[test]
fn a_thousand_watches_a_client_unless_set() {
    let server = TestServer::start(Place::PLAIN, Server::new());
    let (mut one, mut other) = (server.connect(), server.connect());
    for client in [&mut one, &mut other] {
        for number in 0..999 {
            client.send(format!("Watch:{number}\n"));
        }
        client.send("WatchPrefix:x\nWatch:y\n");
        let (lines, _) = client.sync();
        assert_eq!(lines.len(), 1001);
        assert_eq!(lines[1000], full(1001, 1000).trim_end().as_bytes());
        assert!(lines[..1000].iter().all(|line| line.starts_with(b":watch")));
    }
    assert_eq!(server.handle.stats().watching, 2000);
    drop(one);
    wait_until("its watches are gone", || {
        server.handle.stats().watching == 1000
    });
}

#[test]
fn stats_count_watches_events_and_kinds_of_commands() {
    let (output, _) = converse(
        Server::new(),
        [&b"Watch:a\nWatchPrefix:\nWatch:a\nWatch:\nPut:a:12\nPut:b:3\nUpdate:b:3:4567\nGet:a\nDelete:c\n\
            Unwatch:a\nUnwatch:x\nUnwatchPrefix:\nPut:a:9\nSync\nStats\n"[..]],
    );
    let output = String::from_utf8(output).unwrap();
    assert_eq!(
        output.lines().last().unwrap(),
        ":stats:active=1 dropped=0 refused=0 full_clients=0 full_addresses=0 accept_errors=0 commands=14 gets=1 puts=3 updates=1 \
         deletes=1 syncs=1 stats=1 watches=3 unwatches=3 auths=0 unauthorized=0 errors=1 long_lines=0 long_replies=0 long_prefixes=0 full_watches=0 full_store=0 full_values=0 slow_lines=0 idle=0 throttled=0 lines_queued=7 lines_dropped=0 \
         watching=0 events=4 missed=0 keys=2 values=3 bytes=9 size=161 uptime=0",
    );
}

/// The figures of the Stats in what came, of these names.
fn figures<const N: usize>(output: &str, names: [&str; N]) -> Vec<[u64; N]> {
    let stats = output
        .lines()
        .filter_map(|line| line.strip_prefix(":stats:"));
    stats
        .map(|line| {
            names.map(|name| {
                let word = line.split(' ').find_map(|word| {
                    let (other, number) = word.split_once('=')?;
                    (other == name).then_some(number)
                });
                word.unwrap().parse().unwrap()
            })
        })
        .collect()
}

const STATS: &str = "Stats\nWatch:a\nStats\nPut:a:1\nStats\nPut:a:2\nPut:bb:3\nStats\nDelete:a\nStats\n\
                     Update:bb:3:four\nUnwatch:a\nStats\nWatchPrefix:\nStats\n";
const OF_STATS: [[u64; 5]; 7] = [
    [0, 0, 0, 0, 0],
    [0, 0, 0, 1, 0],
    [1, 1, 2, 1, 1],
    [2, 3, 6, 1, 2],
    [1, 1, 3, 1, 3],
    [1, 1, 6, 0, 3],
    [1, 1, 6, 1, 3],
];

#[test]
fn stats_know_of_everything_that_came_before_them() {
    let names = ["keys", "values", "bytes", "watching", "events"];
    assert_eq!(
        figures(&replies(keywire::store::Memory::new(), STATS), names),
        OF_STATS
    );
    for most in [1, 2, 3, 100] {
        let output = replies(Undoing::new(most), STATS);
        assert_eq!(figures(&output, names), OF_STATS, "{most} at a time");
    }
    let (output, _) = converse(Server::new(), STATS.as_bytes().chunks(1));
    assert_eq!(
        figures(&String::from_utf8(output).unwrap(), names),
        OF_STATS
    );
}

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
    let mut stage = Stage::new(server);
    let (mut writer, mut watcher) = (stage.join(), stage.join());
    watcher.say("WatchPrefix:\n");
    stage.play();
    writer.say(commands);
    assert_eq!(writer.hear_all(&mut stage), expected);
    assert_eq!(
        watcher.hear(),
        ":watchprefix:\n:put:a:1\n:put:a:2\n:put:a:4\n:delete:b\n:put:a:6\n"
    );
    let stats = stage.stats();
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
    let mut stage = Stage::new(server);
    let (mut writer, mut watcher) = (stage.join(), stage.join());
    writer.say("Put:v:1\nPut:v:2\nPut:v:3\nPut:v:4\nPut:v:5\n");
    stage.play();
    // Six lines are an outbox-full, until they turn out to be two errors.
    let words = "Put:worse:1\nGet:v\nGet:v\nPut:k:1\nPut:k:2\n";
    writer.say(words);
    watcher.say("Watch:k\n");
    stage.play();
    assert_eq!(watcher.hear(), ":watch:k\n");
    // And where the Watch is part of the batch that fails, it comes before those.
    writer.say(words);
    watcher.say("Unwatch:k\nWatch:k\nGet:k\n");
    stage.play();
    assert_eq!(
        watcher.hear(),
        ":watch:k\n:error:4:store:undone\n:put:k:1\n:put:k:2\n"
    );
    writer.say(words);
    watcher.say("Unwatch:k\nGet:k\n");
    stage.play();
    assert_eq!(watcher.hear(), ":error:6:store:undone\n");
    // An end that was come to too early has not come either.
    watcher.say("Watch:k\n");
    stage.play();
    writer.say(words);
    watcher.say("Unwatch:k\nWatch:k\n");
    stage.play();
    assert_eq!(watcher.hear(), ":watch:k\n:put:k:1\n:put:k:2\n:watch:k\n");
    writer.say(words);
    watcher.say("Unwatch:k\n");
    stage.play();
    assert_eq!(watcher.hear(), ":put:k:1\n:put:k:2\n");
}

/// As above, but now the round is over before it comes to the Watch again.
#[test]
fn a_watch_that_was_come_to_too_early_ends_with_its_client() {
    let clock = HandClock::new();
    let mut store = Undoing::new(100);
    store.clock = Some(clock.clone());
    let server = Server::builder()
        .outbox_lines(6)
        .clock(clock)
        .store(store)
        .build();
    let mut stage = Stage::new(server);
    let (mut writer, mut watcher) = (stage.join(), stage.join());
    writer.say("Put:v:1\nPut:v:2\nPut:v:3\nPut:v:4\nPut:v:5\n");
    stage.play();
    writer.say("Put:worse:1\nGet:v\nGet:v\n".to_owned() + &"Put:k:early\n".repeat(100));
    watcher.say("Watch:k\n");
    stage.play();
    writer.say("Put:k:late\n");
    assert!(watcher.hear_all(&mut stage).ends_with(":put:k:late\n"));
    writer.say("Put:k:later\n");
    assert_eq!(watcher.hear_all(&mut stage), ":put:k:later\n");
    assert_eq!(stage.stats().watching, 1);
    drop(watcher);
    assert_eq!(stage.stats().watching, 0);
    let events = stage.stats().events;
    writer.say("Put:k:after\n");
    assert_eq!(stage.stats().events, events);
}

#[test]
fn in_one_round_a_watcher_hears_what_comes_after_its_watch() {
    let mut stage = Stage::new(Server::new());
    let (mut before, mut writer, mut after) = (stage.join(), stage.join(), stage.join());
    before.say("Get:k\nWatch:k\nGet:k\nSync:end\n");
    writer.say("Put:k:1\nPut:k:2\n");
    after.say("Get:k\nWatch:k\nGet:k\nPut:k:3\nGet:k\nSync:end\n");
    stage.play();
    assert_eq!(
        before.hear(),
        ":watch:k\n:sync:0:end\n:put:k:1\n:put:k:2\n:put:k:3\n"
    );
    assert_eq!(
        after.hear(),
        "k:1\nk:2\n:watch:k\nk:1\nk:2\n:put:k:3\nk:1\nk:2\nk:3\n:sync:0:end\n"
    );
}

#[test]
fn in_one_round_changes_stand_on_the_right_side_of_a_watchers_replies() {
    let mut stage = Stage::new(Server::new());
    let mut actors: Vec<_> = (0..4).map(|_| stage.join()).collect();
    for actor in &mut actors {
        actor.say("WatchPrefix:\nWatch:k\n");
        assert_eq!(actor.hear_all(&mut stage), ":watchprefix:\n:watch:k\n");
    }
    // The last has nothing to say in the second round.
    for round in 1..=2 {
        for (number, actor) in actors[..4 - (round - 1)].iter_mut().enumerate() {
            actor.say(format!("Get:k\nPut:k:{number}\nGet:k\nDelete:k\nSync\n"));
        }
        stage.play();
        for (number, actor) in actors.iter_mut().enumerate() {
            let mut expected = String::new();
            for other in 0..4 - (round - 1) {
                expected += &format!(":put:k:{other}\n");
                if other == number {
                    expected += &format!("k:{number}\n");
                }
                expected += ":delete:k\n";
                if other == number {
                    expected += ":sync:0:\n";
                }
            }
            assert_eq!(actor.hear(), expected, "round {round}, client {number}");
        }
    }
    assert_eq!(stage.stats().events, 4 * 8 + 4 * 6);
}

#[test]
fn an_unwatch_ends_it_at_its_place_in_the_round() {
    let mut stage = Stage::new(Server::new());
    let (mut one, mut watcher, mut other) = (stage.join(), stage.join(), stage.join());
    watcher.say("Watch:k\nWatch:j\n");
    stage.play();
    one.say("Put:k:1\nPut:j:1\n");
    watcher.say("Put:k:2\nUnwatch:k\nPut:k:3\nSync\n");
    other.say("Put:k:4\nPut:j:4\n");
    stage.play();
    assert_eq!(
        watcher.hear(),
        ":watch:k\n:watch:j\n:put:k:1\n:put:j:1\n:put:k:2\n:sync:0:\n:put:j:4\n"
    );
}

/// A pipeline of more lines than one turn takes.
#[test]
fn turns_that_go_on_in_a_later_round_hear_in_order() {
    const PUTS: usize = 20_000;
    let mut stage = Stage::new(Server::new());
    let (mut one, mut other) = (stage.join(), stage.join());
    let commands = |name: &str| -> String {
        let puts = (0..PUTS).map(|n| format!("Delete:{name}\nPut:{name}:{n}\nGet:{name}\n"));
        "WatchPrefix:\n".to_owned() + &puts.collect::<String>()
    };
    one.say(commands("one"));
    other.say(commands("other"));
    let heard = [one.hear_all(&mut stage), other.hear_all(&mut stage)];
    for (heard, name) in heard.iter().zip(["one", "other"]) {
        let own = |line: &&str| line.contains(name);
        let (own, others): (Vec<_>, Vec<_>) = heard.lines().skip(1).partition(own);
        let expected = (0..PUTS).flat_map(|n| {
            [
                format!(":delete:{name}"),
                format!(":put:{name}:{n}"),
                format!("{name}:{n}"),
            ]
        });
        assert!(own.iter().copied().eq(expected));
        assert!(others.len() > PUTS, "both are heard");
    }
}

/// All that comes of one client's writes is heard by all who watch, in the same order.
fn everyone_hears(place: Place, watchers: usize, writers: usize) {
    const CHANGES: usize = 300;
    let server = TestServer::start(place, Server::new());
    let mut crowd: Vec<_> = (0..watchers).map(|_| server.connect()).collect();
    for (number, watcher) in crowd.iter_mut().enumerate() {
        watcher.send(["WatchPrefix:\n", "WatchPrefix:k\nWatch:k\n", "Watch:k\n"][number % 3]);
        watcher.sync();
    }
    let all = writers * CHANGES;
    let logs: Vec<Vec<String>> = thread::scope(|scope| {
        let listening = crowd.iter_mut();
        let listening: Vec<_> = listening
            .map(|watcher| scope.spawn(move || watcher.texts(all)))
            .collect();
        for writer in 0..writers {
            let mut client = server.connect();
            scope.spawn(move || {
                for change in 0..CHANGES {
                    client.send(format!("Put:k:{writer}.{change}\n"));
                    if change % 7 == 0 {
                        client.sync();
                    }
                }
                client.sync();
            });
        }
        let logs = listening.into_iter();
        logs.map(|watcher| watcher.join().unwrap()).collect()
    });
    assert!(logs.iter().all(|log| *log == logs[0]));
    let mut reader = server.connect();
    reader.send("Get:k\n");
    let (values, _) = reader.sync();
    let told = logs[0]
        .iter()
        .map(|line| line.strip_prefix(":put:").unwrap());
    assert!(values.iter().map(Vec::as_slice).eq(told.map(str::as_bytes)));
    let stats = server.handle.stats();
    assert_eq!((stats.events, stats.missed), ((all * watchers) as u64, 0));
    assert_eq!(stats.lines_dropped, 0);
}

/// Reads what a Watch and a Get behind it bring, up to the reply to a Sync behind those: the list,
/// kept up to date.
struct Mirror {
    client: Client,
    key: &'static str,
    values: Vec<Vec<u8>>,
}

impl Mirror {
    fn begin(mut client: Client, key: &'static str) -> Self {
        client.send(format!("Watch:{key}\nGet:{key}\nSync:begun\n"));
        assert_eq!(client.text(), format!(":watch:{key}"));
        let mut mirror = Self {
            client,
            key,
            values: Vec::new(),
        };
        // What was told before the snapshot is in the snapshot.
        let mut behind = Vec::new();
        loop {
            let line = mirror.client.line().unwrap();
            if line == b":sync:0:begun" {
                break;
            } else if line[0] == b':' {
                behind.push(line);
            } else {
                behind.clear();
                let value = line.strip_prefix(format!("{key}:").as_bytes());
                mirror.values.push(value.unwrap().to_vec());
            }
        }
        behind.iter().for_each(|line| mirror.change(line));
        mirror
    }

    fn change(&mut self, line: &[u8]) {
        let line = String::from_utf8(line.to_vec()).unwrap();
        let fields: Vec<_> = line.splitn(5, ':').collect();
        match fields[1..] {
            ["put", key, value] if key == self.key => self.values.push(value.into()),
            ["delete", key] if key == self.key => self.values.clear(),
            ["update", key, old, new] if key == self.key => {
                let old = self
                    .values
                    .iter_mut()
                    .find(|value| *value == old.as_bytes());
                match old {
                    Some(value) => *value = new.into(),
                    None => self.values.push(new.into()),
                }
            }
            _ => panic!("not a change of {}: {line}", self.key),
        }
    }

    /// The list as it is when everything sent so far is applied.
    fn end(mut self) -> Vec<Vec<u8>> {
        let (lines, _) = self.client.sync();
        lines.iter().for_each(|line| self.change(line));
        self.values
    }
}

on_every_executor! {
    fn every_watcher_hears_every_change_in_the_order_applied(place: Place) {
        everyone_hears(place, 6, 3);
    }

    fn a_snapshot_and_the_changes_behind_it_have_no_gap_and_no_duplicate(place: Place) {
        let server = TestServer::start(place, Server::new());
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for writer in 0..2 {
                let mut client = server.connect();
                let done = &done;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(writer);
                    while !done.load(Ordering::SeqCst) {
                        for number in 0..20 {
                            let mark = format!("{writer}.{number}");
                            client.send(match random.u8(..10) {
                                0 => "Delete:k\n".to_owned(),
                                1..=3 => format!("Update:k:{mark}:{mark}.\n"),
                                _ => format!("Put:k:{mark}\n"),
                            });
                        }
                        client.sync();
                    }
                });
            }
            let mut mirrors = Vec::new();
            for _ in 0..40 {
                mirrors.push(Mirror::begin(server.connect(), "k"));
            }
            done.store(true, Ordering::SeqCst);
            wait_until("the writers have left", || server.handle.stats().active == 40);
            let mut reader = server.connect();
            reader.send("Get:k\n");
            let (values, _) = reader.sync();
            let values: Vec<_> = values.iter().map(|line| line[2..].to_vec()).collect();
            for mirror in mirrors {
                assert_eq!(mirror.end(), values);
            }
        });
    }

    fn watchers_may_leave_at_any_time(place: Place) {
        const LEAVERS: usize = 60;
        let server = TestServer::start(place, Server::new());
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let mut writer = server.connect();
            let mut watcher = server.connect();
            watcher.send("WatchPrefix:k\n");
            watcher.sync();
            let (done, server) = (&done, &server);
            let writing = scope.spawn(move || {
                let mut puts = 0;
                while !done.load(Ordering::SeqCst) {
                    for _ in 0..20 {
                        writer.send(format!("Put:k{}:{puts}\n", puts % 3));
                        puts += 1;
                    }
                    writer.sync();
                }
                puts
            });
            let watching = scope.spawn(move || {
                let mut told = Vec::new();
                loop {
                    let line = watcher.text();
                    match line.split(':').next_back().unwrap().parse::<usize>() {
                        Ok(number) => told.push(number),
                        Err(_) => return told,
                    }
                }
            });
            for number in 0..LEAVERS {
                let mut leaver = server.connect();
                leaver.send("WatchPrefix:\nWatch:k1\nWatchPrefix:k1\n");
                assert_eq!(leaver.text(), ":watchprefix:");
                match number % 3 {
                    0 => leaver.reset(),
                    1 => drop(leaver),
                    _ => drop(leaver.end()),
                }
            }
            wait_until("those who left are gone", || {
                server.handle.stats().dropped == LEAVERS as u64
            });
            assert_eq!(server.handle.stats().watching, 1);
            done.store(true, Ordering::SeqCst);
            let puts = writing.join().unwrap();
            server.connect().end_with("Put:k:end\n");
            assert!(watching.join().unwrap().into_iter().eq(0..puts));
        });
    }

    fn a_shutdown_ends_watches_too(place: Place) {
        let server = TestServer::start(place, Server::new());
        let mut writer = server.connect();
        let mut watchers: Vec<_> = (0..5).map(|_| server.connect()).collect();
        for watcher in &mut watchers {
            watcher.send("WatchPrefix:\n");
            watcher.sync();
        }
        writer.send("Put:k:1\n".repeat(400));
        writer.sync();
        let handle = server.handle.clone();
        server.stop(Duration::from_secs(10));
        for mut watcher in watchers {
            assert!(watcher.texts(400).iter().all(|line| line == ":put:k:1"));
            let last = watcher.line().expect("a last line");
            assert_eq!(last, b":error:0:closing:the server is shutting down");
            assert_eq!(watcher.line(), None);
        }
        let stats = handle.stats();
        assert_eq!((stats.active, stats.watching, stats.events), (0, 0, 2000));
    }
}

#[test]
fn a_crowd_of_watchers_hears_the_same() {
    common::allow_files(2000);
    everyone_hears(Place::PLAIN, 400, 2);
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
    let server = TestServer::start(Place::PLAIN, Server::new());
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

#[test]
fn a_prefix_that_is_too_long_is_refused() {
    let fits = "p".repeat(1 << 10);
    let commands = format!("WatchPrefix:{fits}\nWatchPrefix:{fits}p\nWatch:{fits}p\n");
    let replies = format!(
        ":watchprefix:{fits}\n:error:2:too-long:the prefix is longer than 1024 bytes\n\
         :watch:{fits}p\n"
    );
    let mut stage = Stage::new(Server::new());
    let mut client = stage.join();
    client.say(&commands);
    assert_eq!(client.hear_all(&mut stage), replies);
    assert_eq!(stage.stats().long_prefixes, 1);

    let mut stage = Stage::new(Server::builder().max_watch_prefix(0).build());
    let mut client = stage.join();
    client.say("WatchPrefix:\nWatchPrefix:a\n");
    let refused = ":error:2:too-long:the prefix is longer than 0 bytes\n";
    assert_eq!(
        client.hear_all(&mut stage),
        format!(":watchprefix:\n{refused}")
    );
}

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
