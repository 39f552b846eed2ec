//! How much a client may watch, and what is refused.

use keywire::Server;

use super::plain;
use crate::common::{TestServer, local::LocalServer, transcript, wait_until};

fn with_watches(max: usize, commands: &str, replies: &str) {
    let server = || Server::builder().max_watches(max).build();
    transcript(server, commands.as_bytes(), replies);
}

#[test]
fn a_watch_has_one_field() {
    let missing = "a field is missing; the forms are Put:key:value, Get:key, Delete:key, \
                   Update:key:old:new, Set:key:value, Remove:key:value, GetPrefix:prefix, Keys:prefix, Watch:key, WatchPrefix:prefix and Auth:secret";
    let extra = "a colon too many; Get, Delete and Watch take a key and GetPrefix, Keys and WatchPrefix a prefix, which hold none, and Stats takes \
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

pub(crate) fn full(line: usize, max: usize) -> String {
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
    let server = TestServer::start(Server::new());
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
fn a_prefix_that_is_too_long_is_refused() {
    let fits = "p".repeat(1 << 10);
    let commands = format!("WatchPrefix:{fits}\nWatchPrefix:{fits}p\nWatch:{fits}p\n");
    let replies = format!(
        ":watchprefix:{fits}\n:error:2:too-long:the prefix is longer than 1024 bytes\n\
         :watch:{fits}p\n"
    );
    let mut server = LocalServer::new(Server::new());
    let mut client = server.connect();
    client.send(&commands);
    assert_eq!(client.receive_all(&mut server), replies);
    assert_eq!(server.stats().long_prefixes, 1);

    let mut server = LocalServer::new(Server::builder().max_watch_prefix(0).build());
    let mut client = server.connect();
    client.send("WatchPrefix:\nWatchPrefix:a\n");
    let refused = ":error:2:too-long:the prefix is longer than 0 bytes\n";
    assert_eq!(
        client.receive_all(&mut server),
        format!(":watchprefix:\n{refused}")
    );
}
