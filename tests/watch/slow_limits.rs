//! Room for events: what takes it, and what gives it back.

use keywire::{Overflow, Server};

use super::{EVENT, NEVER, put_one_by_one, puts, watch, with_bytes, with_lines};
use crate::common::{local::LocalServer, numbered::Heard, wait_until};

#[test]
fn the_number_of_lines_does_not_matter_while_a_client_reads() {
    let server = Server::builder()
        .outbox_lines(3)
        .stall_timeout(NEVER)
        .build();
    let mut server = LocalServer::new(server);
    let mut writer = server.connect();
    let mut reading = watch(&mut server, 1 << 20);
    // It may yet read.
    let mut slow = watch(&mut server, 10);
    writer.send(puts(0..500));
    server.run();
    put_one_by_one(&mut server, &mut writer, 500..1000);
    for watcher in [&mut reading, &mut slow] {
        let mut heard = Heard::default();
        let text = watcher.receive_all(&mut server);
        assert!(heard.take_all(&text).is_empty());
        assert_eq!((heard.events, heard.missed), (1000, 0));
    }
    assert_eq!(server.stats().missed, 0);
}

#[test]
fn the_number_of_lines_matters_when_the_socket_refuses_bytes() {
    const LINES: usize = 20;
    let mut server = with_lines(LINES, Overflow::Drop);
    let mut writer = server.connect();
    let mut watcher = watch(&mut server, 10);
    let mut made = 0;
    server.run_until("something is missed", |stats| {
        writer.send(puts(made..made + 1));
        made += 1;
        stats.missed >= 10
    });
    let stats = server.stats();
    assert_eq!(stats.events + stats.missed, made as u64);
    let mut heard = Heard::default();
    let mut all = String::new();
    wait_until("it is told what it missed", || {
        all += &watcher.receive_all(&mut server);
        all.contains(":missed:")
    });
    assert!(heard.take_all(&all).is_empty());
    assert_eq!((heard.next, heard.missed as u64), (made, stats.missed));
    assert!(heard.events >= LINES);
    writer.send(puts(made..made + 100));
    heard.take_all(&watcher.receive_all(&mut server));
    assert_eq!(
        (heard.next, heard.missed as u64),
        (made + 100, stats.missed)
    );
}

#[test]
fn replies_of_the_same_round_take_room_from_events() {
    let mut server = with_bytes(100, Overflow::Drop);
    let mut writer = server.connect();
    let mut watcher = watch(&mut server, 1 << 20);
    let long = "x".repeat(100);
    writer.send(format!("Put:j:{long}\n"));
    server.run();
    watcher.send("Get:j\n");
    writer.send(puts(0..1));
    assert_eq!(
        watcher.receive_all(&mut server),
        format!("j:{long}\n:missed:1\n")
    );
}

#[test]
fn events_take_room_from_replies() {
    let server = Server::builder()
        .outbox_lines(5)
        .stall_timeout(NEVER)
        .build();
    let mut server = LocalServer::new(server);
    let mut writer = server.connect();
    let mut watcher = watch(&mut server, 10);
    writer.send(puts(0..5));
    server.run();
    let before = server.stats().commands;
    watcher.send("Sync:one\nSync:two\n");
    assert_eq!(server.stats().commands, before, "there is no room");
    let text = watcher.receive_all(&mut server);
    assert!(text.ends_with(":put:k:4\n:sync:0:one\n:sync:0:two\n"));
}

#[test]
fn under_disconnect_a_watcher_goes_whose_event_finds_no_room() {
    for numbers in [0..10, 0..1000] {
        for own_turn in [false, true] {
            let mut server = with_bytes(5 * EVENT, Overflow::Disconnect);
            let mut writer = server.connect();
            let mut reader = watch(&mut server, 1 << 20);
            let mut watcher = watch(&mut server, 1 << 20);
            writer.send(puts(0..5));
            server.run();
            for watcher in [&mut reader, &mut watcher] {
                assert_eq!(watcher.received().len(), 5 * EVENT);
            }
            assert_eq!(server.stats().events, 10);
            reader.send("Unwatch:k\n");
            server.run();
            if own_turn {
                watcher.send("Sync\n");
            }
            writer.send(puts(numbers.clone()) + "Get:j\nSync\n");
            server.run();
            assert_eq!(watcher.received(), "");
            assert!(watcher.is_disconnected());
            assert!(!reader.is_disconnected());
            assert_eq!(writer.received(), ":sync:0:\n");
            let stats = server.stats();
            assert_eq!((stats.active, stats.dropped, stats.watching), (2, 1, 0));
            // Nothing of the round was queued, so it does not count.
            assert_eq!((stats.events, stats.missed), (10, 0));
        }
    }
}

#[test]
fn under_disconnect_a_watcher_that_refuses_bytes_goes() {
    let mut server = with_lines(10, Overflow::Disconnect);
    let mut writer = server.connect();
    let mut steady = watch(&mut server, 1 << 20);
    let _watcher = watch(&mut server, 10);
    let mut made = 0;
    server.run_until("it is cut off", |stats| {
        writer.send(puts(made..made + 1));
        made += 1;
        stats.dropped == 1
    });
    writer.send(puts(made..made + 1));
    let mut heard = Heard::default();
    heard.take_all(&steady.receive_all(&mut server));
    assert_eq!((heard.events, heard.missed), (made + 1, 0));
    assert_eq!((server.stats().missed, server.stats().watching), (0, 1));
}

/// What the system has taken of it does not wait any more, even if the rest of it still does.
#[test]
fn what_a_slow_watcher_has_read_makes_room_at_once() {
    const ROOM: usize = 100 * EVENT;
    for overflow in [Overflow::Drop, Overflow::Disconnect, Overflow::Wait] {
        let mut server = with_bytes(ROOM, overflow);
        let mut writer = server.connect();
        let mut watcher = watch(&mut server, 10 * EVENT);
        // All of it is in one write, of which the system takes a tenth at a time.
        writer.send(puts(0..10).repeat(10));
        server.run();
        let mut heard = String::new();
        for _ in 0..8 {
            heard += &watcher.received();
            server.run();
        }
        assert_eq!(heard.len(), 80 * EVENT);
        // Nine tenths are out of the outbox, so there is room for half of it.
        writer.send(puts(0..10).repeat(5));
        heard += &watcher.receive_all(&mut server);
        let all: String = (0..10).map(|n| format!(":put:k:{n}\n")).collect();
        assert_eq!(heard, all.repeat(15), "{overflow:?}");
        assert_eq!(server.stats().missed, 0);
    }
}
