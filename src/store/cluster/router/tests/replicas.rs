//! Writes that wait for replicas, and reads that do not.

use super::{super::TICK, Fixture, get, put};
use crate::store::cluster::job::Outcome;

/// Else a read would be behind all of them, each of which may take a quarter of the timeout.
#[test]
fn one_wait_is_under_way_at_a_time() {
    let mut node = Fixture::new(1);
    let one = node.submit(&[put(b"k")]);
    assert_eq!(node.written(), ["EVALSHA", "WAIT"]);
    let other = node.submit(&[put(b"k")]);
    assert_eq!(node.written(), ["EVALSHA"]);
    node.reply(b"*1\r\n:1\r\n");
    assert!(node.router.take(one).is_none());
    node.reply(b":0\r\n");
    assert_eq!(node.outcomes(one), [Outcome::Unreplicated(0..8)]);
    assert_eq!(node.written(), ["WAIT"]);
    node.reply(b"*1\r\n:2\r\n");
    node.reply(b":1\r\n");
    assert_eq!(node.outcomes(other), [Outcome::Reply(0..8)]);
}

/// A node answers nothing on a connection on which it waits for replicas.
#[test]
fn reads_do_not_wait_for_replicas() {
    let mut node = Fixture::new(1);
    let (reader, _) = node.router.next_connect().unwrap();
    node.router.on_connected(reader, node.now);
    let first = node.submit(&[put(b"k")]);
    assert_eq!(node.written(), ["EVALSHA", "WAIT"]);
    // There is no reader yet.
    let second = node.submit(&[get(b"k")]);
    assert_eq!(node.written(), ["LRANGE"]);
    assert_eq!(node.written_to(reader), ["SCRIPT"]);
    let loaded = b"$1\r\nx\r\n";
    node.router.on_reply(reader, loaded, node.now).unwrap();
    assert_eq!(node.router.stats.nodes_up, 1);
    assert_eq!(node.router.masters().collect::<Vec<_>>(), [0]);

    // Neither the write that is not answered nor another client's holds it up.
    let other = node.submit(&[put(b"k")]);
    let third = node.submit(&[get(b"k")]);
    assert_eq!(node.written(), ["EVALSHA"]);
    assert_eq!(node.written_to(reader), ["LRANGE"]);
    node.router.on_reply(reader, b"*0\r\n", node.now).unwrap();
    assert_eq!(node.outcomes(third), [Outcome::Reply(0..4)]);
    // The reader's connection is gone.
    let fourth = node.submit(&[get(b"k")]);
    assert_eq!(node.written_to(reader), ["LRANGE"]);
    node.router.on_closed(reader, node.now);
    node.reply(b"*1\r\n:1\r\n");
    node.reply(b":1\r\n");
    node.reply(b"*0\r\n");
    assert_eq!(node.outcomes(first), [Outcome::Reply(0..8)]);
    assert_eq!(node.outcomes(second), [Outcome::Reply(0..4)]);
    node.reply(b"*1\r\n:2\r\n");
    node.await_written(TICK, &["LRANGE", "CLUSTER", "CLUSTER", "WAIT"]);
    for reply in [b"*0\r\n", b"$-1\r\n", b"*-1\r\n", b":1\r\n"] as [&[u8]; 4] {
        node.reply(reply);
    }
    assert_eq!(node.outcomes(fourth), [Outcome::Reply(0..4)]);
    assert_eq!(node.outcomes(other), [Outcome::Reply(0..8)]);
}

/// Commands of one client have the order in which it sent them.
#[test]
fn a_read_is_behind_its_own_clients_write() {
    let mut node = Fixture::new(1);
    let (reader, _) = node.router.next_connect().unwrap();
    node.router.on_connected(reader, node.now);
    node.written_to(reader);
    let loaded = b"$1\r\nx\r\n";
    node.router.on_reply(reader, loaded, node.now).unwrap();
    // More than one script holds.
    let many: Vec<_> = (0..65).map(|_| put(b"k")).chain([get(b"k")]).collect();
    node.submit(&[&many[..64], &many[65..]].concat());
    assert_eq!(node.written(), ["EVALSHA", "LRANGE", "WAIT"]);
    node.submit(&[&many[65..], &many[65..], &many[..1]].concat());
    assert_eq!(node.written_to(reader), ["LRANGE"]);
    assert!(node.written().is_empty());
    node.reply(b"*1\r\n:1\r\n");
    node.reply(b"*0\r\n");
    assert!(node.written().is_empty());
    node.router.on_reply(reader, b"*0\r\n", node.now).unwrap();
    assert_eq!(node.written(), ["EVALSHA"]);
}

/// Not its `Get`, nor the write that found the key full.
#[test]
fn commands_of_a_script_that_were_answered_are_no_failures() {
    let mut node = Fixture::new(1);
    let job = node.submit(&[put(b"k"), put(b"k"), get(b"k")]);
    assert_eq!(node.written(), ["EVALSHA", "WAIT"]);
    node.reply(b"*3\r\n:1\r\n:0\r\n*2\r\n:1\r\n*0\r\n");
    node.reply(b":0\r\n");
    assert!(matches!(node.outcomes(job)[..], [Outcome::Unreplicated(_)]));
    assert_eq!(node.router.stats.failures, 1);
}

#[test]
fn a_write_that_was_refused_waits_for_no_replica() {
    let mut node = Fixture::new(1);
    let job = node.submit(&[put(b"k")]);
    assert_eq!(node.written(), ["EVALSHA", "WAIT"]);
    node.reply(b"-NOREPLICAS x\r\n");
    assert_eq!(node.outcomes(job), [Outcome::Reply(0..15)]);
}
