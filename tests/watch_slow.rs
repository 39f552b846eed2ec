//! Watchers that do not read: they miss changes, know how many, and hold nobody up.

#[macro_use]
mod common;

use std::{ops::Range, time::Duration};

use common::{
    Client, Place, TestServer,
    numbered::Heard,
    stage::{Actor, Stage},
    stores::Gated,
    wait_until,
};
use keywire::{Overflow, Server, store::Memory};

/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);

/// `:put:k:N` and its line feed, where N has one digit.
const EVENT: usize = 9;

/// Room for so many bytes, and any number of lines.
fn with_bytes(bytes: usize, overflow: Overflow) -> Stage<Memory> {
    let server = Server::builder()
        .outbox_bytes(bytes)
        .outbox_lines(usize::MAX)
        .overflow(overflow)
        .stall_timeout(NEVER);
    Stage::new(server.build())
}

/// Room for so many lines as soon as the client does not read, and any number of bytes.
fn with_lines(lines: usize, overflow: Overflow) -> Stage<Memory> {
    let server = Server::builder()
        .outbox_bytes(usize::MAX)
        .outbox_lines(lines)
        .overflow(overflow)
        .stall_timeout(Duration::from_millis(10));
    Stage::new(server.build())
}

fn watch(stage: &mut Stage<Memory>, buffer: usize) -> Actor {
    let mut watcher = stage.join_with(buffer);
    watcher.say("Watch:k\n");
    assert_eq!(watcher.hear_all(stage), ":watch:k\n");
    watcher
}

fn puts(numbers: Range<usize>) -> String {
    numbers.map(|number| format!("Put:k:{number}\n")).collect()
}

/// Each is a round of its own.
fn put_one_by_one(stage: &mut Stage<Memory>, writer: &mut Actor, numbers: Range<usize>) {
    for number in numbers {
        writer.say(format!("Put:k:{number}\nSync:{number}\n"));
        stage.play();
        assert_eq!(
            writer.hear(),
            format!(":sync:0:{number}\n"),
            "the writer waits"
        );
    }
}

#[test]
fn of_one_round_a_watcher_hears_what_there_is_room_for() {
    for overflow in [Overflow::Drop, Overflow::Wait] {
        for room in 1..=9 * EVENT + 1 {
            let mut stage = with_bytes(room, overflow);
            let mut writer = stage.join();
            // It reads, but of one round no more is kept for it than the outbox holds.
            let mut watcher = watch(&mut stage, 1 << 20);
            writer.say(puts(0..10));
            let fits = room.div_ceil(EVENT).min(10);
            let expected: String = (0..fits).map(|n| format!(":put:k:{n}\n")).collect();
            let missed = (10 - fits) as u64;
            let expected = match missed {
                0 => expected,
                missed => format!("{expected}:missed:{missed}\n"),
            };
            assert_eq!(watcher.hear_all(&mut stage), expected, "room for {room}");
            let stats = stage.stats();
            assert_eq!((stats.events, stats.missed), (fits as u64, missed));
            assert_eq!((stats.lines_queued, stats.lines_dropped), (1, 0));
            writer.say(puts(3..4));
            assert_eq!(watcher.hear_all(&mut stage), ":put:k:3\n");
        }
    }
}

#[test]
fn who_does_not_read_is_told_once_how_many_it_missed() {
    for overflow in [Overflow::Drop, Overflow::Wait] {
        let mut stage = with_bytes(100, overflow);
        let mut writer = stage.join();
        let mut watcher = watch(&mut stage, 10);
        put_one_by_one(&mut stage, &mut writer, 0..1000);
        let stats = stage.stats();
        assert!((5..20).contains(&stats.events), "{stats:?}");
        assert_eq!(stats.events + stats.missed, 1000);
        // No change comes after it, and still it is told.
        let mut heard = Heard::default();
        let text = watcher.hear_all(&mut stage);
        assert!(heard.take_all(&text).is_empty());
        assert_eq!((heard.next, heard.told as u64), (1000, stats.events));
        assert!(text.ends_with(&format!(":missed:{}\n", stats.missed)));
        assert_eq!(text.matches(":missed:").count(), 1);
        put_one_by_one(&mut stage, &mut writer, 1000..1003);
        let text = watcher.hear_all(&mut stage);
        assert!(heard.take_all(&text).is_empty());
        assert_eq!((heard.next, heard.missed as u64), (1003, stats.missed));
    }
}

#[test]
fn a_watcher_that_reads_now_and_then_knows_what_it_missed_each_time() {
    let mut stage = with_bytes(200, Overflow::Drop);
    let mut writer = stage.join();
    let mut watcher = watch(&mut stage, 30);
    let mut heard = Heard::default();
    let mut random = fastrand::Rng::with_seed(5);
    let mut made = 0;
    let mut gaps = 0;
    for _ in 0..500 {
        let more = random.usize(..30);
        if random.bool() {
            writer.say(puts(made..made + more));
            stage.play();
        } else {
            put_one_by_one(&mut stage, &mut writer, made..made + more);
        }
        made += more;
        // What is in the pipe, or all there is.
        let text = match random.u8(..3) {
            0 => watcher.hear(),
            1 => watcher.hear_all(&mut stage),
            _ => continue,
        };
        // A line may be cut where the pipe was full; it goes on next time.
        let mut text = text;
        while !text.is_empty() && !text.ends_with('\n') {
            stage.play();
            text += &watcher.hear();
        }
        gaps += text.matches(":missed:").count();
        assert!(heard.take_all(&text).is_empty());
    }
    heard.take_all(&watcher.hear_all(&mut stage));
    let stats = stage.stats();
    assert_eq!(heard.next, made);
    assert_eq!(
        (heard.told as u64, heard.missed as u64),
        (stats.events, stats.missed)
    );
    assert!(gaps > 20 && heard.told > 100, "{gaps} gaps, {heard:?}");
}

#[test]
fn the_number_of_lines_does_not_matter_while_a_client_reads() {
    let server = Server::builder()
        .outbox_lines(3)
        .stall_timeout(NEVER)
        .build();
    let mut stage = Stage::new(server);
    let mut writer = stage.join();
    let mut reading = watch(&mut stage, 1 << 20);
    // It may yet read.
    let mut slow = watch(&mut stage, 10);
    writer.say(puts(0..500));
    stage.play();
    put_one_by_one(&mut stage, &mut writer, 500..1000);
    for watcher in [&mut reading, &mut slow] {
        let mut heard = Heard::default();
        let text = watcher.hear_all(&mut stage);
        assert!(heard.take_all(&text).is_empty());
        assert_eq!((heard.told, heard.missed), (1000, 0));
    }
    assert_eq!(stage.stats().missed, 0);
}

#[test]
fn the_number_of_lines_matters_when_the_socket_refuses_bytes() {
    const LINES: usize = 20;
    let mut stage = with_lines(LINES, Overflow::Drop);
    let mut writer = stage.join();
    let mut watcher = watch(&mut stage, 10);
    let mut made = 0;
    stage.play_until("something is missed", |stats| {
        writer.say(puts(made..made + 1));
        made += 1;
        stats.missed >= 10
    });
    let stats = stage.stats();
    assert_eq!(stats.events + stats.missed, made as u64);
    let mut heard = Heard::default();
    let mut all = String::new();
    wait_until("it is told what it missed", || {
        all += &watcher.hear_all(&mut stage);
        all.contains(":missed:")
    });
    assert!(heard.take_all(&all).is_empty());
    assert_eq!((heard.next, heard.missed as u64), (made, stats.missed));
    assert!(heard.told >= LINES);
    writer.say(puts(made..made + 100));
    heard.take_all(&watcher.hear_all(&mut stage));
    assert_eq!(
        (heard.next, heard.missed as u64),
        (made + 100, stats.missed)
    );
}

#[test]
fn what_was_missed_is_said_before_the_next_event_and_among_own_replies() {
    let mut stage = with_bytes(40, Overflow::Drop);
    let mut writer = stage.join();
    let mut watcher = watch(&mut stage, 5);
    // Five find room, four of them behind the one that is being written.
    writer.say(puts(0..9));
    stage.play();
    assert_eq!((stage.stats().events, stage.stats().missed), (5, 4));
    // What it asks waits until there is room again; that it missed something does not.
    watcher.say("Get:j\nPut:j:1\nGet:j\nPut:k:9\nGet:j\n");
    stage.play();
    let text = watcher.hear_all(&mut stage);
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
    let mut stage = Stage::new(server.build());
    let mut writer = stage.join();
    let mut watcher = watch(&mut stage, 10);
    put_one_by_one(&mut stage, &mut writer, 0..50);
    // Nothing tells when the server has lost its patience.
    std::thread::sleep(Duration::from_millis(60));
    stage.play();
    let mut heard = Heard::default();
    heard.take_all(&watcher.hear_all(&mut stage));
    assert_eq!(heard.next, 50);
    assert!(heard.missed > 30);
}

/// It reads while the store is slow, so that it is the next change that finds room again.
#[test]
fn what_was_missed_is_said_with_the_next_event_and_takes_room_too() {
    let (store, at_gate, go_on) = Gated::new();
    let server = Server::builder()
        .outbox_bytes(100)
        .stall_timeout(NEVER)
        .store(store);
    let mut stage = Stage::new(server.build());
    let mut writer = stage.join();
    let mut watcher = stage.join_with(10);
    watcher.say("Watch:k\n");
    assert_eq!(watcher.hear_all(&mut stage), ":watch:k\n");
    for number in 0..50 {
        writer.say(format!("Put:k:{number}\n"));
        stage.play();
    }
    let missed = stage.stats().missed;
    assert!((10..50).contains(&missed));
    writer.say("Get:gate\n".to_owned() + &puts(50..70));
    stage.play();
    at_gate.try_recv().unwrap();
    let mut heard = Heard::default();
    heard.take_all(&watcher.hear_all(&mut stage));
    assert_eq!((heard.missed, heard.told as u64), (0, 50 - missed));
    go_on.try_send(()).unwrap();
    // Eleven bytes say what was missed, and each of these has ten.
    let told: String = (50..59).map(|n| format!(":put:k:{n}\n")).collect();
    assert_eq!(
        watcher.hear_all(&mut stage),
        format!(":missed:{missed}\n{told}:missed:11\n")
    );
}

#[test]
fn replies_of_the_same_round_take_room_from_events() {
    let mut stage = with_bytes(100, Overflow::Drop);
    let mut writer = stage.join();
    let mut watcher = watch(&mut stage, 1 << 20);
    let long = "x".repeat(100);
    writer.say(format!("Put:j:{long}\n"));
    stage.play();
    watcher.say("Get:j\n");
    writer.say(puts(0..1));
    assert_eq!(
        watcher.hear_all(&mut stage),
        format!("j:{long}\n:missed:1\n")
    );
}

#[test]
fn events_take_room_from_replies() {
    let server = Server::builder()
        .outbox_lines(5)
        .stall_timeout(NEVER)
        .build();
    let mut stage = Stage::new(server);
    let mut writer = stage.join();
    let mut watcher = watch(&mut stage, 10);
    writer.say(puts(0..5));
    stage.play();
    let before = stage.stats().commands;
    watcher.say("Sync:one\nSync:two\n");
    assert_eq!(stage.stats().commands, before, "there is no room");
    let text = watcher.hear_all(&mut stage);
    assert!(text.ends_with(":put:k:4\n:sync:0:one\n:sync:0:two\n"));
}

/// Both the rest of its commands and the count of what it missed wait for room.
#[test]
fn a_watcher_with_more_to_ask_is_told_too() {
    for overflow in [Overflow::Drop, Overflow::Wait, Overflow::Disconnect] {
        let mut stage = with_bytes(100, overflow);
        let mut writer = stage.join();
        let mut watcher = watch(&mut stage, 10);
        watcher.say("Put:j:value\n".to_owned() + &"Get:j\n".repeat(100) + "Sync:end\n");
        stage.play();
        writer.say(puts(0..50));
        stage.play();
        if overflow == Overflow::Disconnect {
            assert_eq!((stage.stats().active, stage.stats().missed), (1, 0));
            continue;
        }
        let mut heard = Heard::default();
        let text = watcher.hear_all(&mut stage);
        let own = heard.take_all(&text);
        // What the system has taken of the replies has made room for one.
        assert_eq!((heard.next, heard.missed), (50, 49));
        assert_eq!(own.len(), 101);
        assert!(own[..100].iter().all(|line| *line == "j:value"));
        assert_eq!(own[100], ":sync:0:end");
    }
}

#[test]
fn under_disconnect_a_watcher_goes_whose_event_finds_no_room() {
    for numbers in [0..10, 0..1000] {
        for own_turn in [false, true] {
            let mut stage = with_bytes(5 * EVENT, Overflow::Disconnect);
            let mut writer = stage.join();
            let mut reader = watch(&mut stage, 1 << 20);
            let mut watcher = watch(&mut stage, 1 << 20);
            writer.say(puts(0..5));
            stage.play();
            for watcher in [&mut reader, &mut watcher] {
                assert_eq!(watcher.hear().len(), 5 * EVENT);
            }
            assert_eq!(stage.stats().events, 10);
            reader.say("Unwatch:k\n");
            stage.play();
            if own_turn {
                watcher.say("Sync\n");
            }
            writer.say(puts(numbers.clone()) + "Get:j\nSync\n");
            stage.play();
            assert_eq!(watcher.hear(), "");
            assert!(watcher.is_left_alone());
            assert!(!reader.is_left_alone());
            assert_eq!(writer.hear(), ":sync:0:\n");
            let stats = stage.stats();
            assert_eq!((stats.active, stats.dropped, stats.watching), (2, 1, 0));
            // Nothing of the round was queued, so it does not count.
            assert_eq!((stats.events, stats.missed), (10, 0));
        }
    }
}

#[test]
fn under_disconnect_a_watcher_that_refuses_bytes_goes() {
    let mut stage = with_lines(10, Overflow::Disconnect);
    let mut writer = stage.join();
    let mut steady = watch(&mut stage, 1 << 20);
    let _watcher = watch(&mut stage, 10);
    let mut made = 0;
    stage.play_until("it is cut off", |stats| {
        writer.say(puts(made..made + 1));
        made += 1;
        stats.dropped == 1
    });
    writer.say(puts(made..made + 1));
    let mut heard = Heard::default();
    heard.take_all(&steady.hear_all(&mut stage));
    assert_eq!((heard.told, heard.missed), (made + 1, 0));
    assert_eq!((stage.stats().missed, stage.stats().watching), (0, 1));
}

#[test]
fn a_watcher_that_breaks_is_told_nothing_more() {
    let mut stage = with_bytes(1000, Overflow::Drop);
    let mut writer = stage.join();
    let watcher = watch(&mut stage, 10);
    put_one_by_one(&mut stage, &mut writer, 0..300);
    let stats = stage.stats();
    assert_eq!(stats.events + stats.missed, 300);
    drop(watcher);
    put_one_by_one(&mut stage, &mut writer, 300..310);
    let later = stage.stats();
    assert_eq!((later.active, later.watching), (1, 0));
    assert_eq!((later.events, later.missed), (stats.events, stats.missed));
}

#[test]
fn events_for_a_watcher_that_broke_while_the_store_was_slow_do_not_count() {
    let (store, at_gate, go_on) = Gated::new();
    let server = Server::builder().stall_timeout(NEVER).store(store);
    let mut stage = Stage::new(server.build());
    let mut writer = stage.join();
    let mut watcher = stage.join_with(10);
    watcher.say("Watch:k\n");
    assert_eq!(watcher.hear_all(&mut stage), ":watch:k\n");
    writer.say(puts(0..5));
    assert_eq!(stage.stats().events, 5);
    writer.say("Get:gate\n".to_owned() + &puts(5..9));
    stage.play();
    at_gate.try_recv().unwrap();
    // There is more to write to it than it takes, which is how the server finds out.
    drop(watcher);
    stage.play();
    go_on.try_send(()).unwrap();
    let stats = stage.stats();
    assert_eq!((stats.puts, stats.events, stats.missed), (9, 5, 0));
    assert_eq!((stats.active, stats.watching), (1, 0));
}

#[test]
fn the_last_that_is_heard_is_how_many_were_missed() {
    let mut stage = with_bytes(50, Overflow::Drop);
    let mut writer = stage.join();
    let mut watcher = watch(&mut stage, 10);
    put_one_by_one(&mut stage, &mut writer, 0..100);
    watcher.fall_silent();
    stage.play();
    put_one_by_one(&mut stage, &mut writer, 100..110);
    let mut heard = Heard::default();
    let text = watcher.hear_all(&mut stage);
    assert!(heard.take_all(&text).is_empty());
    assert_eq!(heard.next, 100);
    assert!(text.lines().last().unwrap().starts_with(":missed:"));
    assert!(watcher.is_left_alone());
}

#[test]
fn one_who_misses_takes_nothing_from_one_who_reads() {
    let mut stage = with_bytes(500, Overflow::Drop);
    let mut writer = stage.join();
    let mut slow: Vec<_> = (0..3).map(|_| watch(&mut stage, 10)).collect();
    let mut reading: Vec<_> = (0..3).map(|_| watch(&mut stage, 1 << 20)).collect();
    put_one_by_one(&mut stage, &mut writer, 0..500);
    for watcher in &mut reading {
        let mut heard = Heard::default();
        heard.take_all(&watcher.hear());
        assert_eq!((heard.told, heard.missed), (500, 0));
    }
    for watcher in &mut slow {
        let mut heard = Heard::default();
        heard.take_all(&watcher.hear_all(&mut stage));
        assert_eq!(heard.next, 500);
        assert!(heard.missed > 400);
    }
}

/// Makes changes that are long on the wire and short in the store, and is answered at once.
fn change(client: &mut Client, numbers: Range<usize>) {
    let long = "x".repeat(4000);
    let commands: String = numbers
        .map(|number| format!("Update:k:{number}.{long}:v\n"))
        .collect();
    client.send(commands + "Delete:j\n");
    let (replies, dropped) = client.sync();
    assert_eq!((replies.len(), dropped), (0, 0));
}

/// Reads until all these changes are told or missed.
fn listen(watcher: &mut Client, changes: usize) -> Heard {
    let mut heard = Heard::default();
    while heard.next < changes {
        assert!(heard.take(&watcher.text()));
    }
    heard
}

fn watchers_that_do_not_read(place: Place, overflow: Overflow, watchers: usize) {
    let server = Server::builder()
        .overflow(overflow)
        .stall_timeout(Duration::from_millis(100))
        .outbox_bytes(if overflow == Overflow::Wait {
            1 << 18
        } else {
            4 << 20
        });
    let server = TestServer::start(place, server.build());
    let mut crowd: Vec<_> = (0..watchers).map(|_| server.connect()).collect();
    for watcher in &mut crowd {
        watcher.send("WatchPrefix:k\nWatch:k\n");
        watcher.sync();
    }
    let mut writer = server.connect();
    let mut changes = 0;
    wait_until("everyone has missed a good deal", || {
        change(&mut writer, changes..changes + 100);
        changes += 100;
        server.handle.stats().missed > 100 * watchers as u64
    });
    let stats = server.handle.stats();
    assert_eq!(stats.events + stats.missed, (changes * watchers) as u64);
    for watcher in &mut crowd {
        let heard = listen(watcher, changes);
        assert!(heard.missed > 0 && heard.told > 10, "{heard:?}");
        // From here on it reads, and misses nothing.
        assert_eq!(watcher.sync(), (vec![], 0));
    }
    let before = server.handle.stats().missed;
    assert_eq!(before, stats.missed);
    writer.send("Put:k:0\n");
    for watcher in &mut crowd {
        assert_eq!(watcher.text(), ":put:k:0");
    }
}

on_every_executor! {
    fn watchers_that_do_not_read_hold_nobody_up_and_know_what_they_missed(place: Place) {
        watchers_that_do_not_read(place, Overflow::Drop, 2);
    }
}

#[test]
fn under_wait_events_are_bounded_by_their_bytes() {
    watchers_that_do_not_read(Place::PLAIN, Overflow::Wait, 2);
}

#[test]
fn under_disconnect_a_watcher_that_does_not_read_is_cut_off() {
    let server = Server::builder()
        .overflow(Overflow::Disconnect)
        .stall_timeout(Duration::from_millis(100));
    let server = TestServer::start(Place::PLAIN, server.build());
    let mut watcher = server.connect();
    watcher.send("WatchPrefix:\n");
    watcher.sync();
    let mut writer = server.connect();
    let mut changes = 0;
    wait_until("it is gone", || {
        change(&mut writer, changes..changes + 100);
        changes += 100;
        server.handle.stats().dropped == 1
    });
    assert_eq!(server.handle.stats().watching, 0);
    watcher.await_hang_up();
}

/// What the system has taken of it does not wait any more, even if the rest of it still does.
#[test]
fn what_a_slow_watcher_has_read_makes_room_at_once() {
    const ROOM: usize = 100 * EVENT;
    for overflow in [Overflow::Drop, Overflow::Disconnect, Overflow::Wait] {
        let mut stage = with_bytes(ROOM, overflow);
        let mut writer = stage.join();
        let mut watcher = watch(&mut stage, 10 * EVENT);
        // All of it is in one write, of which the system takes a tenth at a time.
        writer.say(puts(0..10).repeat(10));
        stage.play();
        let mut heard = String::new();
        for _ in 0..8 {
            heard += &watcher.hear();
            stage.play();
        }
        assert_eq!(heard.len(), 80 * EVENT);
        // Nine tenths are out of the outbox, so there is room for half of it.
        writer.say(puts(0..10).repeat(5));
        heard += &watcher.hear_all(&mut stage);
        let all: String = (0..10).map(|n| format!(":put:k:{n}\n")).collect();
        assert_eq!(heard, all.repeat(15), "{overflow:?}");
        assert_eq!(stage.stats().missed, 0);
    }
}
