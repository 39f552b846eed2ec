//! Watchers that do not read: they miss changes, know how many, and hold nobody up.

use std::time::Duration;

use keywire::{Overflow, Server};

use super::{EVENT, NEVER, put_one_by_one, puts, watch, with_bytes};
use crate::common::{local::LocalServer, numbered::Heard, stores::Gated};

#[test]
fn of_one_round_a_watcher_hears_what_there_is_room_for() {
    for overflow in [Overflow::Drop, Overflow::Wait] {
        for room in 1..=9 * EVENT + 1 {
            let mut server = with_bytes(room, overflow);
            let mut writer = server.connect();
            // It reads, but of one round no more is kept for it than the outbox holds.
            let mut watcher = watch(&mut server, 1 << 20);
            writer.send(puts(0..10));
            let fits = room.div_ceil(EVENT).min(10);
            let expected: String = (0..fits).map(|n| format!(":put:k:{n}\n")).collect();
            let missed = (10 - fits) as u64;
            let expected = match missed {
                0 => expected,
                missed => format!("{expected}:missed:{missed}\n"),
            };
            assert_eq!(
                watcher.receive_all(&mut server),
                expected,
                "room for {room}"
            );
            let stats = server.stats();
            assert_eq!((stats.events, stats.missed), (fits as u64, missed));
            assert_eq!((stats.lines_queued, stats.lines_dropped), (1, 0));
            writer.send(puts(3..4));
            assert_eq!(watcher.receive_all(&mut server), ":put:k:3\n");
        }
    }
}

#[test]
fn who_does_not_read_is_told_once_how_many_it_missed() {
    for overflow in [Overflow::Drop, Overflow::Wait] {
        let mut server = with_bytes(100, overflow);
        let mut writer = server.connect();
        let mut watcher = watch(&mut server, 10);
        put_one_by_one(&mut server, &mut writer, 0..1000);
        let stats = server.stats();
        assert!((5..20).contains(&stats.events), "{stats:?}");
        assert_eq!(stats.events + stats.missed, 1000);
        // No change comes after it, and still it is told.
        let mut heard = Heard::default();
        let text = watcher.receive_all(&mut server);
        assert!(heard.take_all(&text).is_empty());
        assert_eq!((heard.next, heard.events as u64), (1000, stats.events));
        assert!(text.ends_with(&format!(":missed:{}\n", stats.missed)));
        assert_eq!(text.matches(":missed:").count(), 1);
        put_one_by_one(&mut server, &mut writer, 1000..1003);
        let text = watcher.receive_all(&mut server);
        assert!(heard.take_all(&text).is_empty());
        assert_eq!((heard.next, heard.missed as u64), (1003, stats.missed));
    }
}

#[test]
fn a_watcher_that_reads_now_and_then_knows_what_it_missed_each_time() {
    let mut server = with_bytes(200, Overflow::Drop);
    let mut writer = server.connect();
    let mut watcher = watch(&mut server, 30);
    let mut heard = Heard::default();
    let mut random = fastrand::Rng::with_seed(5);
    let mut made = 0;
    let mut gaps = 0;
    for _ in 0..500 {
        let more = random.usize(..30);
        if random.bool() {
            writer.send(puts(made..made + more));
            server.run();
        } else {
            put_one_by_one(&mut server, &mut writer, made..made + more);
        }
        made += more;
        // What is in the pipe, or all there is.
        let text = match random.u8(..3) {
            0 => watcher.received(),
            1 => watcher.receive_all(&mut server),
            _ => continue,
        };
        // A line may be cut where the pipe was full; it goes on next time.
        let mut text = text;
        while !text.is_empty() && !text.ends_with('\n') {
            server.run();
            text += &watcher.received();
        }
        gaps += text.matches(":missed:").count();
        assert!(heard.take_all(&text).is_empty());
    }
    heard.take_all(&watcher.receive_all(&mut server));
    let stats = server.stats();
    assert_eq!(heard.next, made);
    assert_eq!(
        (heard.events as u64, heard.missed as u64),
        (stats.events, stats.missed)
    );
    assert!(gaps > 20 && heard.events > 100, "{gaps} gaps, {heard:?}");
}

#[test]
fn what_was_missed_is_said_before_the_next_event_and_among_own_replies() {
    let mut server = with_bytes(40, Overflow::Drop);
    let mut writer = server.connect();
    let mut watcher = watch(&mut server, 5);
    // Five find room, four of them behind the one that is being written.
    writer.send(puts(0..9));
    server.run();
    assert_eq!((server.stats().events, server.stats().missed), (5, 4));
    // What it asks waits until there is room again; that it missed something does not.
    watcher.send("Get:j\nPut:j:1\nGet:j\nPut:k:9\nGet:j\n");
    server.run();
    let text = watcher.receive_all(&mut server);
    let (events, own) = text.split_at(text.find(":missed:").unwrap());
    assert_eq!(events.lines().count(), 5);
    assert_eq!(own, ":missed:4\nj:1\n:put:k:9\nj:1\n");
}

/// Its socket begins to refuse bytes after it has missed something, which is no room yet.
#[test]
fn a_watcher_that_refuses_bytes_later_is_told_too() {
    let server = Server::builder()
        .outbox_bytes(100)
        .stall_timeout(Duration::from_millis(10));
    let mut server = LocalServer::new(server.build());
    let mut writer = server.connect();
    let mut watcher = watch(&mut server, 10);
    put_one_by_one(&mut server, &mut writer, 0..50);
    // Nothing tells when the server has lost its patience.
    std::thread::sleep(Duration::from_millis(60));
    server.run();
    let mut heard = Heard::default();
    heard.take_all(&watcher.receive_all(&mut server));
    assert_eq!(heard.next, 50);
    assert!(heard.missed > 30);
}

/// It reads while the store is slow: it is told what it missed, and there is room for the changes that the
/// store then has made.
#[test]
fn what_was_missed_is_said_while_the_store_is_slow() {
    let (store, at_gate, go_on) = Gated::new();
    let server = Server::builder()
        .outbox_bytes(100)
        .stall_timeout(NEVER)
        .store(store);
    let mut server = LocalServer::new(server.build());
    let mut writer = server.connect();
    let mut watcher = server.connect_with(10);
    watcher.send("Watch:k\n");
    assert_eq!(watcher.receive_all(&mut server), ":watch:k\n");
    for number in 0..50 {
        writer.send(format!("Put:k:{number}\n"));
        server.run();
    }
    let missed = server.stats().missed;
    assert!((10..50).contains(&missed));
    writer.send("Get:gate\n".to_owned() + &puts(50..70));
    server.run();
    at_gate.try_recv().unwrap();
    let mut heard = Heard::default();
    heard.take_all(&watcher.receive_all(&mut server));
    assert_eq!(
        (heard.missed as u64, heard.events as u64),
        (missed, 50 - missed)
    );
    go_on.try_send(()).unwrap();
    // Each of these has ten bytes.
    let told: String = (50..60).map(|n| format!(":put:k:{n}\n")).collect();
    assert_eq!(watcher.receive_all(&mut server), told + ":missed:10\n");
}

/// Both the rest of its commands and the count of what it missed wait for room.
#[test]
fn a_watcher_with_more_to_ask_is_told_too() {
    for overflow in [Overflow::Drop, Overflow::Wait, Overflow::Disconnect] {
        let mut server = with_bytes(100, overflow);
        let mut writer = server.connect();
        let mut watcher = watch(&mut server, 10);
        watcher.send("Put:j:value\n".to_owned() + &"Get:j\n".repeat(100) + "Sync:end\n");
        server.run();
        writer.send(puts(0..50));
        server.run();
        if overflow == Overflow::Disconnect {
            assert_eq!((server.stats().active, server.stats().missed), (1, 0));
            continue;
        }
        let mut heard = Heard::default();
        let text = watcher.receive_all(&mut server);
        let own = heard.take_all(&text);
        // What the system has taken of the replies has made room for one.
        assert_eq!((heard.next, heard.missed), (50, 49));
        assert_eq!(own.len(), 101);
        assert!(own[..100].iter().all(|line| *line == "j:value"));
        assert_eq!(own[100], ":sync:0:end");
    }
}

#[test]
fn a_watcher_that_breaks_is_told_nothing_more() {
    let mut server = with_bytes(1000, Overflow::Drop);
    let mut writer = server.connect();
    let watcher = watch(&mut server, 10);
    put_one_by_one(&mut server, &mut writer, 0..300);
    let stats = server.stats();
    assert_eq!(stats.events + stats.missed, 300);
    drop(watcher);
    put_one_by_one(&mut server, &mut writer, 300..310);
    let later = server.stats();
    assert_eq!((later.active, later.watching), (1, 0));
    assert_eq!((later.events, later.missed), (stats.events, stats.missed));
}

#[test]
fn events_for_a_watcher_that_broke_while_the_store_was_slow_do_not_count() {
    let (store, at_gate, go_on) = Gated::new();
    let server = Server::builder().stall_timeout(NEVER).store(store);
    let mut server = LocalServer::new(server.build());
    let mut writer = server.connect();
    let mut watcher = server.connect_with(10);
    watcher.send("Watch:k\n");
    assert_eq!(watcher.receive_all(&mut server), ":watch:k\n");
    writer.send(puts(0..5));
    assert_eq!(server.stats().events, 5);
    writer.send("Get:gate\n".to_owned() + &puts(5..9));
    server.run();
    at_gate.try_recv().unwrap();
    // There is more to write to it than it takes, which is how the server finds out.
    drop(watcher);
    server.run();
    go_on.try_send(()).unwrap();
    let stats = server.stats();
    assert_eq!((stats.puts, stats.events, stats.missed), (9, 5, 0));
    assert_eq!((stats.active, stats.watching), (1, 0));
}

#[test]
fn the_last_that_is_heard_is_how_many_were_missed() {
    let mut server = with_bytes(50, Overflow::Drop);
    let mut writer = server.connect();
    let mut watcher = watch(&mut server, 10);
    put_one_by_one(&mut server, &mut writer, 0..100);
    watcher.half_close();
    server.run();
    put_one_by_one(&mut server, &mut writer, 100..110);
    let mut heard = Heard::default();
    let text = watcher.receive_all(&mut server);
    assert!(heard.take_all(&text).is_empty());
    assert_eq!(heard.next, 100);
    assert!(text.lines().last().unwrap().starts_with(":missed:"));
    assert!(watcher.is_disconnected());
}

#[test]
fn one_who_misses_takes_nothing_from_one_who_reads() {
    let mut server = with_bytes(500, Overflow::Drop);
    let mut writer = server.connect();
    let mut slow: Vec<_> = (0..3).map(|_| watch(&mut server, 10)).collect();
    let mut reading: Vec<_> = (0..3).map(|_| watch(&mut server, 1 << 20)).collect();
    put_one_by_one(&mut server, &mut writer, 0..500);
    for watcher in &mut reading {
        let mut heard = Heard::default();
        heard.take_all(&watcher.received());
        assert_eq!((heard.events, heard.missed), (500, 0));
    }
    for watcher in &mut slow {
        let mut heard = Heard::default();
        heard.take_all(&watcher.receive_all(&mut server));
        assert_eq!(heard.next, 500);
        assert!(heard.missed > 400);
    }
}
