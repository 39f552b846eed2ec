//! Which changes a watch is of.

use keywire::Server;

use super::plain;
use crate::common::script::converse;

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
         Update:key:old:new, Set:key:value, Remove:key:value, GetPrefix:prefix, Keys:prefix, Watch:key, WatchPrefix:prefix and Auth:secret\n\
         :error:5:unknown:no such command (case matters); there are Put, Get, Delete, Update, Set, Remove, \
         GetPrefix, Keys, Sync, Stats, Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth\n\
         :error:6:malformed:a colon too many; Get, Delete and Watch take a key and GetPrefix, Keys and WatchPrefix a prefix, which hold none, and \
         Stats takes nothing\n\
         :error:7:malformed:a field is missing; the forms are Put:key:value, Get:key, Delete:key, \
         Update:key:old:new, Set:key:value, Remove:key:value, GetPrefix:prefix, Keys:prefix, Watch:key, WatchPrefix:prefix and Auth:secret\n",
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
