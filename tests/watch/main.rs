//! Who watches hears of changes: all of them, once, in order, and at the right place.

#[path = "../common/mod.rs"]
mod common;

mod cost;
mod failures;
mod leaving;
mod limits;
mod order;
mod slow;
mod slow_limits;
mod stats;
mod topics;

use std::{ops::Range, time::Duration};

use common::{
    local::{LocalClient, LocalServer},
    script::converse,
    transcript,
};
use keywire::{
    Overflow, Server,
    store::{Memory, Store},
};

fn plain(commands: &str, replies: &str) {
    transcript(Server::new, commands.as_bytes(), replies);
}

fn replies<S: Store>(store: S, commands: &str) -> String {
    let server = Server::builder().store(store).build();
    String::from_utf8(converse(server, [commands.as_bytes()]).0).unwrap()
}

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);

/// `:put:k:N` and its line feed, where N has one digit.
const EVENT: usize = 9;

/// Room for so many bytes, and any number of lines.
fn with_bytes(bytes: usize, overflow: Overflow) -> LocalServer<Memory> {
    let server = Server::builder()
        .outbox_bytes(bytes)
        .outbox_lines(usize::MAX)
        .overflow(overflow)
        .stall_timeout(NEVER);
    LocalServer::new(server.build())
}

/// Room for so many lines as soon as the client does not read, and any number of bytes.
fn with_lines(lines: usize, overflow: Overflow) -> LocalServer<Memory> {
    let server = Server::builder()
        .outbox_bytes(usize::MAX)
        .outbox_lines(lines)
        .overflow(overflow)
        .stall_timeout(Duration::from_millis(10));
    LocalServer::new(server.build())
}

fn watch(server: &mut LocalServer<Memory>, buffer: usize) -> LocalClient {
    let mut watcher = server.connect_with(buffer);
    watcher.send("Watch:k\n");
    assert_eq!(watcher.receive_all(server), ":watch:k\n");
    watcher
}

fn puts(numbers: Range<usize>) -> String {
    numbers.map(|number| format!("Put:k:{number}\n")).collect()
}

/// Each is a round of its own.
fn put_one_by_one(
    server: &mut LocalServer<Memory>,
    writer: &mut LocalClient,
    numbers: Range<usize>,
) {
    for number in numbers {
        writer.send(format!("Put:k:{number}\nSync:{number}\n"));
        server.run();
        assert_eq!(
            writer.received(),
            format!(":sync:0:{number}\n"),
            "the writer waits"
        );
    }
}
