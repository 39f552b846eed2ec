//! The example server, told to stop in the middle of work: for good, or for a while.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::{self, Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

use crate::common::{
    Client, example,
    server_process::{ServerProcess, find_line, is_stopped},
    wait_until,
};

/// Clients that ask without end.
const CLIENTS: usize = 20;

/// The time that the server gives its clients for their last replies.
const GRACE: Duration = Duration::from_secs(5);

/// Lines of a frame. The second and the last have a reply.
const FRAME: usize = 4;

fn frame(client: usize, number: usize) -> String {
    format!("Put:{client}:{number}\nGet:{client}\nDelete:{client}\nSync:{number}\n")
}

/// How many replies so many lines have, from the beginning.
fn replies_to(lines: usize) -> usize {
    lines / FRAME * 2 + usize::from(lines % FRAME >= 2)
}

/// The reply of this number, counted from 0. None has been lost.
fn reply(client: usize, number: usize) -> String {
    let frame = number / 2;
    match number % 2 {
        0 => format!("{client}:{frame}"),
        _ => format!(":sync:0:{frame}"),
    }
}

/// Asks until it is told that this is enough, then ends the input; or until nobody listens.
/// Gives the number of frames that were sent, with the first, which came before.
fn ask(mut stream: TcpStream, client: usize, enough: &AtomicBool) -> usize {
    let mut frames = 1;
    while !enough.load(Ordering::Relaxed) {
        let some: String = (frames..frames + 25).map(|n| frame(client, n)).collect();
        if stream.write_all(some.as_bytes()).is_err() {
            return frames;
        }
        frames += 25;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    frames
}

/// What a client has heard by the end of the stream, with what it heard first.
struct Received {
    replies: usize,
    refused: usize,
}

/// Reads to the end, which is no reset. The replies come in order and without a gap, to some line;
/// the lines from there on are refused, in order and without a gap, up to the end.
fn listen(mut stream: Client, client: usize, heard_by_all: &AtomicUsize) -> Received {
    let (mut replies, mut refused) = (2, 0);
    let mut next_refused = None;
    while let Some(line) = stream.line() {
        let line = String::from_utf8(line).unwrap();
        if line.starts_with(":error:0:closing:") {
            // Where no line is refused, the end has no number.
            assert_eq!((next_refused, stream.line()), (None, None));
            break;
        }
        if let Some(error) = line.strip_prefix(":error:") {
            let (number, words) = error.split_once(':').unwrap();
            let number: usize = number.parse().unwrap();
            assert!(words.starts_with("closing:"), "{line}");
            if let Some(expected) = next_refused {
                assert_eq!(number, expected, "a refusal is missing");
            } else {
                assert_eq!(replies, replies_to(number - 1), "replies before {line}");
            }
            next_refused = Some(number + 1);
            refused += 1;
        } else {
            assert_eq!(line, reply(client, replies));
            assert_eq!(next_refused, None, "{line} after a refusal");
            replies += 1;
            heard_by_all.fetch_add(1, Ordering::Relaxed);
        }
    }
    // Whoever still sends is done, too.
    let _ = stream.stream().shutdown(Shutdown::Both);
    Received { replies, refused }
}

/// Clients at work: each a thread that asks and one that listens.
struct Clients<'scope> {
    asking: Vec<ScopedJoinHandle<'scope, usize>>,
    listening: Vec<ScopedJoinHandle<'scope, Received>>,
}

impl<'scope> Clients<'scope> {
    fn start(
        scope: &'scope Scope<'scope, '_>,
        server: &ServerProcess,
        enough: &'scope AtomicBool,
        heard: &'scope AtomicUsize,
    ) -> Self {
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            // Or the system would take megabytes of commands, which all have to be answered.
            let socket = socket2::SockRef::from(client.stream());
            socket.set_send_buffer_size(64 << 10).unwrap();
            // Who has had an answer is in, and not on the way.
            client.send(frame(number, 0));
            assert_eq!(client.texts(2), [reply(number, 0), reply(number, 1)]);
        }
        let mut threads = Self {
            asking: Vec::new(),
            listening: Vec::new(),
        };
        for (number, client) in clients.into_iter().enumerate() {
            let stream = client.stream().try_clone().unwrap();
            let asking = scope.spawn(move || ask(stream, number, enough));
            threads.asking.push(asking);
            let listening = scope.spawn(move || listen(client, number, heard));
            threads.listening.push(listening);
        }
        threads
    }

    /// Waits for the end of all: the frames that each sent, and what it heard.
    fn join(self) -> impl Iterator<Item = (usize, Received)> {
        let asking = self.asking.into_iter().map(|asking| asking.join().unwrap());
        let listening = self.listening.into_iter();
        asking.zip(listening.map(|listening| listening.join().unwrap()))
    }
}

#[test]
fn a_server_that_is_told_to_end_answers_a_part_without_a_gap_and_refuses_the_rest() {
    const ROUNDS: usize = 6;
    const MOST: usize = 60_000;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..ROUNDS {
        let threads = if round % 2 == 0 { "1" } else { "2" };
        let mut command = Command::new(example("server"));
        let command = command.args(["--listen", "127.0.0.1:0", "--threads", threads]);
        let (mut server, mut log) = ServerProcess::with_log("info", command);
        // The first round ends before anything has been heard.
        let moment = random.usize(..=round * MOST / ROUNDS);
        let (enough, heard) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (status, time, heard) = thread::scope(|scope| {
            let clients = Clients::start(scope, &server, &enough, &heard);
            wait_until("enough has been heard", || {
                heard.load(Ordering::Relaxed) >= moment
            });
            server.signal("-TERM");
            let start = Instant::now();
            let (status, _) = server.wait();
            let time = start.elapsed();
            let heard: Vec<_> = clients.join().map(|(_, heard)| heard).collect();
            (status, time, heard)
        });
        assert!(status.success());
        assert!(time < GRACE, "it took {time:?}");
        let last = find_line(&mut log, "shut down");
        assert!(last.contains(&format!(" clients={CLIENTS} ")), "{last}");
        assert!(last.contains(" lines_lost=0 "), "{last}");
        println!(
            "ended in {time:?}: {} replies, {} refused",
            heard.iter().map(|heard| heard.replies).sum::<usize>(),
            heard.iter().map(|heard| heard.refused).sum::<usize>(),
        );
    }
}

#[test]
fn a_server_that_is_stopped_for_a_while_loses_no_reply_of_those_who_read() {
    const STALL: Duration = Duration::from_millis(200);
    let server = ServerProcess::start(&["--listen", "127.0.0.1:0", "--stall-timeout", "0.2"]);
    let (enough, heard) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients = Clients::start(scope, &server, &enough, &heard);
        for pause in [0, 1, 5, 20, 2 * STALL.as_millis() as u64] {
            let before = heard.load(Ordering::Relaxed);
            wait_until("they are at work", || {
                heard.load(Ordering::Relaxed) > before + 1000
            });
            server.signal("-STOP");
            wait_until("it has stopped", || is_stopped(&server.child));
            // How long it lasts is the point here.
            thread::sleep(Duration::from_millis(pause));
            server.signal("-CONT");
        }
        enough.store(true, Ordering::Relaxed);
        for (frames, heard) in clients.join() {
            assert_eq!((heard.replies, heard.refused), (2 * frames, 0));
        }
    });
}

/// The reply to a Get of a key that is long enough for a few of them to fill everything.
pub(crate) fn big() -> String {
    format!("big:{}\n", "x".repeat(60_000))
}

/// Puts that key. Gives the client that did it.
pub(crate) fn put_big(server: &ServerProcess) -> Client {
    let mut client = server.connect();
    client.send(format!("Put:{}", big()));
    client.sync();
    client
}

/// Waits until the outboxes are full and no Get is answered any more.
pub(crate) fn await_full(observer: &mut Client) {
    let (mut gets, mut same) = (0, 0);
    wait_until("the server waits for room", || {
        let before = std::mem::replace(&mut gets, observer.stats().gets);
        same = if gets > 0 && gets == before {
            same + 1
        } else {
            0
        };
        same == 20
    });
}

#[test]
fn replies_on_their_way_at_the_end_reach_those_who_read_late_and_go_on_asking() {
    const CLIENTS: usize = 8;
    /// More than the system's buffers take, so that the server has a part of them.
    const GETS: usize = 100;
    /// The server takes a connection that is silent for so long to be done with.
    const SILENCE: Duration = Duration::from_millis(250);
    let mut command = Command::new(example("server"));
    let command = command.args(["--listen", "127.0.0.1:0", "--overflow", "wait"]);
    let (mut server, mut log) = ServerProcess::with_log("info", command);
    let mut observer = put_big(&server);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("Get:big\n".repeat(GETS));
    }
    await_full(&mut observer);
    drop(observer);
    thread::scope(|scope| {
        for client in &clients {
            let mut stream = client.stream().try_clone().unwrap();
            // It asks until the server has hung up, and is never silent for long.
            scope.spawn(move || {
                while stream.write_all(b"Get:big\n").is_ok() {
                    thread::sleep(SILENCE / 25);
                }
            });
        }
        server.signal("-TERM");
        let start = Instant::now();
        find_line(&mut log, "signal=");
        thread::sleep(2 * SILENCE);
        for client in clients {
            scope.spawn(move || {
                let replies = read_late(client);
                assert!(replies >= GETS, "{replies} replies");
            });
        }
        let (status, _) = server.wait();
        assert!(status.success());
        assert!(start.elapsed() < GRACE, "it took {:?}", start.elapsed());
    });
}

/// Reads to the end: big replies, then refusals by their number, then no reset. Gives the number
/// of replies.
fn read_late(mut client: Client) -> usize {
    let (mut replies, mut refused) = (0, 0);
    while let Some(line) = client.line() {
        if line.starts_with(b":") {
            refused += 1;
            let start = format!(":error:{}:closing:", replies + refused);
            assert!(line.starts_with(start.as_bytes()), "no {start}");
        } else {
            assert!(line == big().trim_end().as_bytes(), "a torn reply");
            assert_eq!(refused, 0, "a reply after a refusal");
            replies += 1;
        }
    }
    let _ = client.stream().shutdown(Shutdown::Both);
    replies
}

#[test]
fn the_time_that_a_server_is_stopped_is_not_held_against_a_client_that_reads() {
    const STALL: Duration = Duration::from_secs(1);
    const GETS: usize = 200;
    let arguments = [
        "--listen",
        "127.0.0.1:0",
        "--stall-timeout",
        "1",
        "--outbox-lines",
        "5",
    ];
    let server = ServerProcess::start(&arguments);
    let mut observer = put_big(&server);
    // On a machine that is busy elsewhere, the server may not be stopped before it has lost its
    // patience, and rightly so. That is not what this is about.
    let client = loop {
        let mut client = server.connect();
        client.send("Get:big\n".repeat(GETS) + "Sync:fence\n");
        let asked = Instant::now();
        await_full(&mut observer);
        server.signal("-STOP");
        wait_until("it has stopped", || is_stopped(&server.child));
        if asked.elapsed() < STALL {
            break client;
        }
        server.signal("-CONT");
    };
    let stopped = Instant::now();
    // The client reads what there is.
    let mut read = Vec::new();
    let pause = Some(Duration::from_millis(50));
    client.stream().set_read_timeout(pause).unwrap();
    let error = client.stream().read_to_end(&mut read).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    client
        .stream()
        .set_read_timeout(Some(crate::common::DEADLINE))
        .unwrap();
    thread::sleep((STALL + STALL / 5).saturating_sub(stopped.elapsed()));
    server.signal("-CONT");
    read.extend_from_slice(&client.end());
    let expected = big().repeat(GETS) + ":sync:0:fence\n";
    assert!(
        read == expected.as_bytes(),
        "{} bytes of {}",
        read.len(),
        expected.len()
    );
}

/// Far more clients than one poll of the sockets shows, all with lines that the server has not read.
#[test]
fn every_line_that_stood_in_a_socket_at_the_end_is_answered_or_refused() {
    const CLIENTS: usize = 4000;
    let mut server = ServerProcess::with_files(CLIENTS + 100, &[]);
    crate::common::allow_files(CLIENTS as u64 + 100);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    for client in &mut clients {
        // Who has had an answer is in, and not on the way.
        client.send("Sync\n");
        assert_eq!(client.sync_reply(), "0:");
    }
    server.signal("-STOP");
    wait_until("it has stopped", || is_stopped(&server.child));
    for client in &mut clients {
        client.send("Put:a:1\nSync:fence\n");
    }
    server.signal("-TERM");
    server.signal("-CONT");
    let mut refused = 0;
    for client in clients {
        match &*client.end() {
            applied if applied.starts_with(b":sync:0:fence\n") => {}
            lines => {
                let text = String::from_utf8_lossy(lines);
                let mut lines = text.lines();
                let mut next = || lines.next().unwrap_or_default();
                assert!(next().starts_with(":error:2:closing:"), "{text:?}");
                assert!(next().starts_with(":error:3:closing:"), "{text:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "the signal came too late");
    let (status, _) = server.wait();
    assert!(status.success());
}
