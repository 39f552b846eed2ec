//! What Tab does in the example client's line mode.

use std::{fs, net::TcpListener};

use keywire::{Secret, Server};

use crate::common::{
    TestServer,
    terminal::{Has, Terminal},
    wait_until,
};

fn session(address: &str, options: &[&str]) -> Terminal {
    let arguments = [&["--connect", address], options].concat();
    let client = Terminal::start(Has::All, "client", &arguments);
    client.await_shown("> ");
    client
}

/// A session at a server with these keys.
fn with_keys(keys: impl IntoIterator<Item = String>) -> (TestServer, Terminal) {
    let server = TestServer::start(Server::new());
    let puts = keys.into_iter().map(|key| format!("Put:{key}:value\n"));
    server.connect().end_with(puts.collect::<String>());
    let client = session(&server.address.to_string(), &[]);
    (server, client)
}

#[test]
fn commands_are_completed() {
    let (server, mut client) = with_keys([]);
    client.press("Pu\tk:v\rG\t\tPrefi\tk\r");
    client.await_shown("k:v\r\n");
    // Both fit, so both are shown, and what is typed stays.
    assert!(client.shown().contains("Get:        GetPrefix:"));
    // Case counts.
    client.press("pu\tt:k:v\r");
    client.await_shown(":error:3:unknown");
    // Nothing typed: all.
    client.press("\t");
    client.await_shown("WatchPrefix:");
    client.press("Sync:\x03");
    drop(client);
    assert_eq!(server.handle.stats().values, 1);
}

#[test]
fn keys_are_completed() {
    let (server, mut client) = with_keys(["user", "user2", "täglich"].map(str::to_owned));
    // A colon follows if more has to.
    client.press("Put:t\tv\r");
    wait_until("the value is there", || server.handle.stats().values == 4);
    client.press("Get:u\t2\r");
    client.await_shown("user2:value\r\n");
    client.press("Get:u\t\t");
    client.await_shown("user   user2\r\n> Get:user");
    client.press("\x03Update:t\tv:w\rGet:t\t\r");
    client.await_shown("täglich:w\r\n");
    // In the middle of a line, before a colon that is there.
    client.press("Set:tä:x\x1b[D\x1b[D\t\rGet:täglich\r");
    client.await_shown("täglich:x\r\n");
}

#[test]
fn a_tab_in_a_value_is_a_tab() {
    let (server, mut client) = with_keys([]);
    client.press("Put:k:a\tb\rPut:a\x16\tb:c\rSync:a\tb\r");
    client.await_shown(":sync:0:a");
    let mut other = server.connect();
    other.send("Get:k\nGet:a\tb\n");
    assert_eq!(other.texts(2), ["k:a\tb", "a\tb:c"]);
}

#[test]
fn many_keys_are_shown_in_part_and_complete_nothing() {
    let (_server, mut client) = with_keys((1000..1200).map(|number| format!("item{number}")));
    client.press("Get:it\t");
    client.await_shown("... more than 100 keys\r\n> Get:it");
    assert_eq!(client.shown().matches("item1").count(), 100);
    client.press("em1123\r");
    client.await_shown("item1123:value\r\n");
}

#[test]
fn keys_that_steer_a_terminal_are_not_offered() {
    let (_server, mut client) =
        with_keys(["k\x1b[31m", "k\u{202e}", "k\u{9b}31m", "k1"].map(str::to_owned));
    client.press("Get:k\t\r");
    client.await_shown("k1:value\r\n");
    assert!(!client.shown().contains("\x1b[31m"), "{}", client.shown());
}

#[test]
fn keys_are_asked_for_with_the_secret() {
    let server = TestServer::start(
        Server::builder()
            .secret(Secret::new("hunter2").unwrap())
            .build(),
    );
    let file = std::env::temp_dir().join(format!("keywire-completion-{}", std::process::id()));
    fs::write(&file, "hunter2").unwrap();
    let mut client = session(
        &server.address.to_string(),
        &["--secret-file", file.to_str().unwrap()],
    );
    fs::remove_file(&file).unwrap();
    client.press("Put:apple:v\rGet:ap\t\r");
    client.await_shown("apple:v\r\n");
    // The connection that Tab made is gone again.
    wait_until("one client is left", || server.handle.stats().active == 1);
}

#[test]
fn a_silent_server_does_not_hold_up_the_editor() {
    // It can be connected to, and says nothing.
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut client = session(&listener.local_addr().unwrap().to_string(), &[]);
    let _first = listener.accept().unwrap();
    client.press("Get:k\t");
    client.await_shown("... the server has not sent all keys within 0.3 s\r\n> Get:k");
    client.press("ey");
    client.await_shown("key");
    // One that takes no connection is said to.
    drop(listener);
    client.press("\t");
    client.await_shown("... no keys: ");
}

#[test]
fn a_tab_while_the_server_is_away_changes_nothing() {
    let server = TestServer::start(Server::new());
    let mut client = session(&server.address.to_string(), &[]);
    server.stop(std::time::Duration::ZERO);
    client.await_shown("reconnecting");
    client.press("Get:k\tey");
    client.await_shown("... no keys: ");
    client.await_shown("Get:key");
}

#[test]
fn what_comes_behind_a_list_of_keys_is_shown_at_once() {
    let (server, mut client) = with_keys(["k1", "k2"].map(str::to_owned));
    client.press("Watch:k1\r");
    client.await_shown(":watch:k1");
    client.press("Get:k\t");
    client.await_shown("k1  k2\r\n> Get:k");
    server.connect().end_with("Put:k1:other\n");
    client.await_shown(":put:k1:other\r\n> Get:k");
}
