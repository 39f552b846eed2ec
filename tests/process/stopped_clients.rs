//! The example client, stopped for a while by a signal.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    thread::{self},
    time::Duration,
};

use super::stops::{await_full, big, put_big};
use crate::common::{
    Client, example,
    server_process::{ServerProcess, is_stopped, signal_to},
    wait_until,
};

/// A client process is stopped in the middle of its replies, until the server is `stuck` with it,
/// and goes on. Gives the number of replies that came, and the number of lines lost.
fn stop_a_client(overflow: &str, stuck: impl Fn(&mut Client)) -> (usize, usize) {
    const GETS: usize = 500;
    const STALL: Duration = Duration::from_millis(100);
    let arguments = [
        "--listen",
        "127.0.0.1:0",
        "--stall-timeout",
        "0.1",
        "--overflow",
        overflow,
    ];
    let server = ServerProcess::start(&arguments);
    let mut steady = put_big(&server);
    let mut child = Command::new(example("client"))
        .args(["--connect", &server.address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    input
        .write_all("Get:big\n".repeat(GETS).as_bytes())
        .unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line == big(), "a torn reply");

    signal_to(&child, "-STOP");
    wait_until("it has stopped", || is_stopped(&child));
    stuck(&mut steady);
    // The server has had time to lose its patience, where it has any.
    thread::sleep(2 * STALL);
    // Others are served meanwhile.
    for _ in 0..100 {
        steady.send("Put:steady:1\nGet:steady\nDelete:steady\n");
        assert_eq!(steady.sync(), (vec![b"steady:1".to_vec()], 0));
    }
    signal_to(&child, "-CONT");

    input.write_all(b"Sync:fence\n").unwrap();
    drop(input);
    let mut came = 1;
    let dropped = loop {
        line.clear();
        output.read_line(&mut line).unwrap();
        match line.strip_prefix(":sync:") {
            Some(sync) => break sync.strip_suffix(":fence\n").unwrap().parse().unwrap(),
            None => assert!(line == big(), "a torn reply"),
        }
        came += 1;
    };
    assert_eq!(output.read_line(&mut line).unwrap(), 0, "{line}");
    let code = if dropped > 0 { 2 } else { 0 };
    assert_eq!(child.wait().unwrap().code(), Some(code));
    assert_eq!(came + dropped, GETS);
    (came, dropped)
}

#[test]
fn a_client_that_is_stopped_for_a_while_is_told_how_many_replies_it_has_lost() {
    let (_, dropped) = stop_a_client("drop", |steady| {
        wait_until("replies are dropped", || steady.stats().lines_dropped > 0);
    });
    assert!(dropped > 0);
}

#[test]
fn a_client_that_is_stopped_for_a_while_loses_nothing_where_the_server_waits() {
    let (_, dropped) = stop_a_client("wait", await_full);
    assert_eq!(dropped, 0);
}
