//! One who changes a key, and a thousand who watch it: lines delivered a second. For Redis it is
//! PUBLISH and SUBSCRIBE, with the same name and the same values.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    os::fd::AsRawFd as _,
    thread,
    time::Instant,
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use socket2::Socket;

use crate::{
    compare::{
        Bench,
        finding::{Finding, Goal, Spread, Unit},
        programs::Kind,
        server::Server,
    },
    connect::PATIENCE,
    report::grouped,
};

const WATCHERS: usize = 1_000;
const CHANGES: usize = 1_000;

/// Changes in the other row, where each is acknowledged before the next is made.
const SINGLE_CHANGES: usize = 100;

const READ_BYTES: usize = 128 << 10;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Finding>, String> {
    let keywire = bench.start(Kind::KEYWIRE, WATCHERS)?;
    let redis = bench.start(Kind::Redis, WATCHERS)?;
    let row = |name: &str, changes: usize, deep: usize| {
        let rounds = bench.rounds(|| {
            let rate = |server: &Server| {
                let rate = storm(server, changes, deep);
                rate.map_err(|error| format!("{}: {error}", server.kind.name()))
            };
            Ok((rate(&keywire)?, rate(&redis)?))
        })?;
        let median = |side: fn(&(f64, f64)) -> f64| Spread::of(rounds.iter().map(side)).median;
        Ok::<_, String>(Finding {
            name: name.into(),
            what: format!(
                "{} watchers of one key, {} changes in a write",
                grouped(WATCHERS as u64),
                grouped(deep as u64)
            ),
            unit: Unit::OfRedis,
            spread: Spread::of(rounds.iter().map(|(ours, theirs)| ours / theirs)),
            goal: Goal::AtLeast(1.0),
            figures: vec![
                format!(
                    "keywire delivers {:>9} lines/s",
                    grouped(median(|r| r.0) as u64)
                ),
                format!(
                    "Redis delivers   {:>9} lines/s",
                    grouped(median(|r| r.1) as u64)
                ),
            ],
        })
    };
    Ok(vec![
        row("fan-out", CHANGES, CHANGES)?,
        row("fan-out 1 deep", SINGLE_CHANGES, 1)?,
    ])
}

/// What each side says.
struct Words {
    watch: &'static [u8],
    watching: &'static [u8],
    change: fn(usize) -> String,
    event: fn(usize) -> String,
    /// After each write of changes: what asks for its acknowledgement, and that.
    fence: &'static [u8],
    fenced: fn(usize) -> String,
}

fn words(kind: Kind) -> Words {
    match kind {
        Kind::Redis => Words {
            watch: b"SUBSCRIBE news\r\n",
            watching: b"*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n",
            change: |number| {
                format!("*3\r\n$7\r\nPUBLISH\r\n$4\r\nnews\r\n$16\r\n{number:016}\r\n")
            },
            event: |number| format!("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$16\r\n{number:016}\r\n"),
            fence: b"",
            fenced: |changes| format!(":{WATCHERS}\r\n").repeat(changes),
        },
        _ => Words {
            watch: b"Watch:news\n",
            watching: b":watch:news\n",
            change: |number| format!("Put:news:{number:016}\n"),
            event: |number| format!(":put:news:{number:016}\n"),
            fence: b"Sync\n",
            fenced: |_| ":sync:0:\n".into(),
        },
    }
}

/// Lines delivered a second.
fn storm(server: &Server, changes: usize, deep: usize) -> io::Result<f64> {
    let words = words(server.kind);
    let expected: String = (0..changes).map(words.event).collect();
    let mut poll = Poll::new()?;
    let mut watchers = Vec::new();
    for number in 0..WATCHERS {
        let mut socket = server.target.open()?;
        socket.write_all(words.watch)?;
        expect(&mut socket, words.watching)?;
        socket.set_nonblocking(true)?;
        let mut source = SourceFd(&socket.as_raw_fd());
        let registry = poll.registry();
        registry.register(&mut source, Token(number), Interest::READABLE)?;
        watchers.push((socket, 0));
    }
    let mut publisher = server.target.open()?;
    let start = Instant::now();
    thread::scope(|scope| {
        let publishing = scope.spawn(|| publish(&mut publisher, &words, changes, deep));
        let heard = hear(&mut poll, &mut watchers, expected.as_bytes());
        let published = publishing.join();
        published.unwrap_or_else(|_| Err(io::Error::other("the publisher panicked")))?;
        heard
    })?;
    let time = start.elapsed().as_secs_f64();
    if let Kind::Keywire { .. } = server.kind {
        // The list is not to grow from round to round.
        publisher.write_all(b"Delete:news\nSync\n")?;
        expect(&mut publisher, b":sync:0:\n")?;
    }
    drop(watchers);
    server.settle();
    Ok((WATCHERS * changes) as f64 / time)
}

fn publish(socket: &mut Socket, words: &Words, changes: usize, deep: usize) -> io::Result<()> {
    for first in (0..changes).step_by(deep) {
        let mut batch: Vec<u8> = Vec::new();
        let numbers = first..changes.min(first + deep);
        let count = numbers.len();
        numbers.for_each(|number| batch.extend((words.change)(number).into_bytes()));
        batch.extend(words.fence);
        socket.write_all(&batch)?;
        expect(socket, (words.fenced)(count).as_bytes())?;
    }
    Ok(())
}

/// Reads until each watcher has all of what is expected, and nothing else.
fn hear(poll: &mut Poll, watchers: &mut [(Socket, usize)], expected: &[u8]) -> io::Result<()> {
    let mut events = Events::with_capacity(256);
    let mut buffer = vec![0; READ_BYTES];
    let mut waiting = watchers.len();
    while waiting > 0 {
        poll.poll(&mut events, Some(PATIENCE))?;
        if events.is_empty() {
            return Err(io::Error::new(ErrorKind::TimedOut, "events are missing"));
        }
        for event in &events {
            let (socket, at) = &mut watchers[event.token().0];
            loop {
                match socket.read(&mut buffer) {
                    Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok(n) if expected[*at..].starts_with(&buffer[..n]) => {
                        *at += n;
                        waiting -= usize::from(*at == expected.len());
                    }
                    Ok(_) => return Err(io::Error::other("an event is not as expected")),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(())
}

fn expect(socket: &mut Socket, expected: &[u8]) -> io::Result<()> {
    let mut reply = vec![0; expected.len()];
    socket.read_exact(&mut reply)?;
    match reply == expected {
        true => Ok(()),
        false => Err(io::Error::other(reply.escape_ascii().to_string())),
    }
}
