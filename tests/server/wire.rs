//! Transcripts, byte for byte.

use keywire::Server;

use crate::common::{script::converse, transcript};

fn plain(commands: &str, replies: &str) {
    transcript(Server::new, commands.as_bytes(), replies);
}

#[test]
fn put_appends_and_get_reads_oldest_first() {
    plain(
        "Put:user:alice\nPut:user:bob\nPut:user:alice\nGet:user\n",
        "user:alice\nuser:bob\nuser:alice\n",
    );
}

#[test]
fn update_replaces_the_first_match_in_place() {
    plain(
        "Put:user:alice\nPut:user:bob\nPut:user:alice\nUpdate:user:alice:charlie\nGet:user\n",
        "user:charlie\nuser:bob\nuser:alice\n",
    );
}

#[test]
fn the_table_on_a_real_socket() {
    let server = crate::common::TestServer::start(Server::new());
    let mut client = server.connect();
    client.send(
        "Put:user:alice\nPut:user:bob\r\nUpdate:user:alice:charlie\n\nGet:user\nget:user\n\
         Delete:user\nGet:user\nSync:done\nGet:us",
    );
    assert_eq!(
        String::from_utf8(client.end()).unwrap(),
        "user:charlie\nuser:bob\n\
         :error:6:unknown:no such command (case matters); there are Put, Get, Delete, Update, Set, Remove, \
         GetPrefix, Keys, Sync, Stats, Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth\n\
         :sync:0:done\n\
         :error:10:malformed:the input ended within a line; it was not applied\n",
    );
}

#[test]
fn update_appends_where_the_old_value_is_absent() {
    plain(
        "Update:user:x:alice\nUpdate:user:x:bob\nUpdate:user::carol\nGet:user\n",
        "user:alice\nuser:bob\nuser:carol\n",
    );
}

#[test]
fn update_may_change_the_length_of_a_value() {
    plain(
        "Put:k:a\nPut:k:b\nPut:k:c\nUpdate:k:b:longer\nGet:k\nUpdate:k:longer:\nGet:k\n",
        "k:a\nk:longer\nk:c\nk:a\nk:\nk:c\n",
    );
}

#[test]
fn delete_removes_the_key_and_all_its_values() {
    plain(
        "Put:user:alice\nPut:user:bob\nDelete:user\nGet:user\nDelete:user\nPut:user:c\nGet:user\n",
        "user:c\n",
    );
}

#[test]
fn values_may_be_empty_and_hold_colons() {
    plain(
        "Put:k:\nPut:k::\nPut:k:a:b\nUpdate:k::c:d\nGet:k\n",
        "k:c:d\nk::\nk:a:b\n",
    );
}

#[test]
fn sync_is_a_fence_that_gives_its_token_back() {
    plain(
        "Sync\nSync:\nPut:k:v\nGet:k\nSync:a:b\nGet:absent\nSync:2\n",
        ":sync:0:\n:sync:0:\nk:v\n:sync:0:a:b\n:sync:0:2\n",
    );
}

#[test]
fn stats_begin_with_active_and_dropped() {
    plain(
        "Put:k:v\nGet:k\nnonsense\nStats\n",
        "k:v\n:error:3:unknown:no such command (case matters); there are Put, Get, Delete, Update, Set, Remove, \
         GetPrefix, Keys, Sync, Stats, Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth\n\
         :stats:active=1 dropped=0 refused=0 full_clients=0 full_addresses=0 accept_errors=0 commands=3 gets=1 puts=1 updates=0 \
         deletes=0 sets=0 removes=0 walks=0 syncs=0 stats=1 watches=0 unwatches=0 auths=0 unauthorized=0 errors=1 long_lines=0 long_replies=0 long_prefixes=0 full_watches=0 full_store=0 full_values=0 unconfirmed=0 slow_lines=0 idle=0 throttled=0 lines_queued=3 lines_dropped=0 \
         watching=0 events=0 missed=0 keys=1 values=1 bytes=2 size=74 commits=0 commit_writes=0 commit_last_us=0 commit_longest_us=0 disk_bytes=0 log_commits=0 refusing=0 nodes_up=0 under_way=0 retries=0 failures=0 store=1 uptime=0\n",
    );
}

#[test]
fn a_carriage_return_before_the_line_feed_is_stripped_once() {
    plain(
        "Put:k:v\r\nGet:k\r\nPut:k:two\r\r\nGet:k\r\nSync\r\n",
        "k:v\nk:v\nk:two\r\n:sync:0:\n",
    );
}

#[test]
fn blank_lines_are_ignored_and_counted() {
    plain(
        "\n\r\nPut:k:v\n\n\nGet:k\n\nwhat\n",
        "k:v\n:error:8:unknown:no such command (case matters); there are Put, Get, Delete, Update, Set, Remove, \
         GetPrefix, Keys, Sync, Stats, Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth\n",
    );
}

#[test]
fn bad_lines_are_named_and_the_connection_goes_on() {
    plain(
        "Put:k\nGet:\nGet:a:b\nput:k:v\nPut:k:v\nGet:k\n",
        ":error:1:malformed:a field is missing; the forms are Put:key:value, Get:key, Delete:key, \
         Update:key:old:new, Set:key:value, Remove:key:value, GetPrefix:prefix, Keys:prefix, Watch:key, WatchPrefix:prefix and Auth:secret\n\
         :error:2:malformed:the key is empty\n\
         :error:3:malformed:a colon too many; Get, Delete and Watch take a key and GetPrefix, Keys and WatchPrefix a prefix, which hold none, and Stats takes \
         nothing\n\
         :error:4:unknown:no such command (case matters); there are Put, Get, Delete, Update, Set, Remove, \
         GetPrefix, Keys, Sync, Stats, Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth\n\
         k:v\n",
    );
}

#[test]
fn a_line_too_long_is_skipped_and_nothing_after_it_is_lost() {
    let server = || Server::builder().max_line(10).build();
    transcript(
        server,
        b"Put:k:1234\nPut:k:12345\nPut:k:1234\r\nPut:k:more and more and more\r\nGet:k\nSync\n",
        ":error:2:too-long:the line is longer than 10 bytes\n\
         :error:4:too-long:the line is longer than 10 bytes\n\
         k:1234\nk:1234\n:sync:0:\n",
    );
}

#[test]
fn a_reply_too_long_is_refused_whole() {
    let server = || Server::builder().max_reply(12).build();
    transcript(
        server,
        b"Put:k:123\nPut:k:456\nGet:k\nPut:k:\nGet:k\nSync\n",
        "k:123\nk:456\n:error:5:too-long:the reply is longer than 12 bytes\n:sync:0:\n",
    );
}

#[test]
fn a_last_line_without_its_end_is_not_applied() {
    plain(
        "Put:k:whole\nGet:k\nDelete:k",
        "k:whole\n:error:3:malformed:the input ended within a line; it was not applied\n",
    );
}

#[test]
fn any_bytes_are_keys_and_values() {
    let mut key: Vec<u8> = (0..=255).filter(|byte| !b":\n\r".contains(byte)).collect();
    key.extend_from_slice(b"\r\xff");
    let value: Vec<u8> = (0..=255).filter(|&byte| byte != b'\n').collect();
    let put = [b"Put:", &key[..], b":", &value, b"\n"].concat();
    let get = [b"Get:", &key[..], b"\n"].concat();
    let reply = [&key[..], b":", &value, b"\n"].concat();
    let commands = [put, get].concat();
    for cut in 0..commands.len() {
        let (first, second) = commands.split_at(cut);
        assert_eq!(converse(Server::new(), [first, second]).0, reply);
    }
}

/// What a web page can send to a port of the machine that it is read on.
const POST: &str =
    "POST / HTTP/1.1\r\nHost: 127.0.0.1:9999\r\nContent-Length: 14\r\n\r\nPut:user:evil\n";

const NO_HTTP: &str = "this is no HTTP server; nothing behind this line is looked at";

/// Gives all that came back, and that nothing is in the store.
fn applies_nothing(server: Server, input: &[u8], size: usize) -> String {
    let (output, store) = converse(server, input.chunks(size));
    assert_eq!(store.iter().count(), 0, "{input:?} was applied");
    String::from_utf8(output).unwrap()
}

#[test]
fn http_is_refused_once_and_nothing_behind_it_is_applied() {
    let answer = |line: u64| format!(":error:{line}:malformed:{NO_HTTP}\n");
    for size in [1, 7, POST.len()] {
        let said = applies_nothing(Server::new(), POST.as_bytes(), size);
        assert_eq!(said, answer(1), "in pieces of {size}");
        // Blank lines are no commands.
        let said = applies_nothing(Server::new(), format!("\n\r\n{POST}").as_bytes(), size);
        assert_eq!(said, answer(3));
        let said = applies_nothing(
            Server::builder().max_line_rate(1000).build(),
            format!("\n{POST}").as_bytes(),
            size,
        );
        assert_eq!(said, answer(2));
        for host in ["Host: x", "host:", "HOST:x:1"] {
            let said =
                applies_nothing(Server::new(), format!("{host}\nPut:a:1\n").as_bytes(), size);
            assert_eq!(said, answer(1));
        }
    }
}

#[test]
fn a_request_line_too_long_to_look_at_does_not_hide_http() {
    let input = POST.replacen('/', &format!("/{}", "x".repeat(100)), 1);
    for max_line in [3, 64] {
        for size in [1, 40, input.len()] {
            let server = Server::builder().max_line(max_line).build();
            let said = applies_nothing(server, input.as_bytes(), size);
            let (first, rest) = said.split_once('\n').unwrap();
            assert_eq!(
                first,
                format!(":error:1:too-long:the line is longer than {max_line} bytes")
            );
            assert_eq!(rest, format!(":error:2:malformed:{NO_HTTP}\n"));
        }
    }
}

/// From the first command on, only what is a command matters.
#[test]
fn what_looks_like_http_behind_a_command_is_a_mistake_like_any() {
    let unknown = "unknown:no such command (case matters); there are Put, Get, Delete, Update, Set, Remove, \
                   GetPrefix, Keys, Sync, Stats, Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth";
    plain(
        "Get:k\nGET / HTTP/1.1\nHost: x\nPut:k:v\nGet:k\n",
        &format!(":error:2:{unknown}\n:error:3:{unknown}\nk:v\n"),
    );
    // Nor is every line with such words a request.
    let lines = [
        "GET /",
        "GET / HTTP",
        " / HTTP/1.1",
        "HTTP/1.1 200 OK",
        "ghost: x",
        "x:y / HTTP/1.1",
    ];
    let mut replies = String::new();
    for line in 1..=lines.len() {
        replies += &format!(":error:{line}:{unknown}\n");
    }
    plain(
        &format!("{}\nPut:k:v\nGet:k\n", lines.join("\n")),
        &(replies + "k:v\n"),
    );
    plain("Put:k:a HTTP/1.1\nGet:k\n", "k:a HTTP/1.1\n");
}

#[test]
fn a_client_that_speaks_tls_hears_that_this_port_does_not() {
    let words = "the client seems to speak TLS, and this port does not";
    for hello in [
        &b"\x16\x03\x01\x02\x00no end"[..],
        b"\x16\x03\n\nPut:k:v\n",
        b"\x16\x03",
    ] {
        for size in [1, 2, 100] {
            let said = applies_nothing(Server::new(), hello, size);
            assert_eq!(said, format!(":error:1:malformed:{words}\n"));
        }
    }
}
