//! The limits of the example server, as options of a process: who is over one is told so or waits,
//! nobody else notices, and what it costs is bounded.
//!
//! `cargo test --release --test limits_process -- --nocapture` prints the memory that each one cost.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, SockRef, Socket, Type};

use crate::common::{
    Client,
    stress::{CLIENT, KIB, MIB, StressedServer, WORK},
    wait_until,
};

/// The server's `--max-line`, which is the default.
const MAX_LINE: usize = 64 * KIB;

/// The server's `--outbox-bytes`, which is the default.
const OUTBOX: usize = 4 * MIB;

impl Client {
    /// The server says why this connection ends, and ends it.
    #[track_caller]
    fn expect_farewell(&mut self, start: &str) {
        let line = self.text();
        assert!(line.starts_with(start), "{line}");
        assert_eq!(self.line(), None);
    }
}

#[test]
fn thousands_of_half_lines_are_ended_when_their_time_is_over() {
    const SLOW: usize = 5_000;
    const HALF: usize = 2_000;
    /// What a client costs, and its half line in a buffer that may be twice as large.
    const WAVE: usize = SLOW * (CLIENT + 2 * HALF);
    /// A second wave may cost little more, because it finds the memory of the first.
    const BOUND: usize = WORK + WAVE;

    let mut stressed = StressedServer::start(2 * SLOW, &["--line-timeout", "1"]);
    let mut peaks = Vec::new();
    for wave in 1..=2 {
        let mut slow: Vec<_> = (0..SLOW).map(|_| stressed.server.connect()).collect();
        for client in &mut slow {
            client.send(format!("Sync:in\nPut:k:{}", "x".repeat(HALF)));
        }
        stressed.work();
        for client in &mut slow {
            assert_eq!(client.sync_reply(), "0:in");
            client.expect_farewell(":error:2:too-long:the line took longer than 1s");
        }
        // The clients have not hung up, and need not.
        stressed = stressed.over((wave * SLOW) as u64);
        assert_eq!(stressed.steady.stats().slow_lines as usize, wave * SLOW);
        stressed.cost("5,000 half lines, ended", BOUND);
        peaks.push(stressed.server.peak());
        drop(slow);
    }
    assert!(peaks[1] < peaks[0] + WAVE / 5 + WORK, "{peaks:?}");
}

#[test]
fn a_client_that_sends_a_byte_now_and_then_does_not_keep_its_line() {
    const LINE_TIME: Duration = Duration::from_millis(500);
    let mut stressed = StressedServer::start(100, &["--line-timeout", "0.5"]);
    let mut client = stressed.server.connect();
    // How often it sends one is the point here: it waits so long for an answer.
    let pause = Some(LINE_TIME / 20);
    client.stream().set_read_timeout(pause).unwrap();
    client.send("\nPut:k:");
    let start = Instant::now();
    let mut answer = vec![0; 1000];
    let read = loop {
        client.send("x");
        match client.stream().read(&mut answer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => stressed.work(),
            read => break read.unwrap(),
        }
        assert!(
            start.elapsed() < crate::common::DEADLINE,
            "it goes on for ever"
        );
    };
    let time = start.elapsed();
    assert!(time >= LINE_TIME, "ended after {time:?}");
    let answer = std::str::from_utf8(&answer[..read]).unwrap();
    assert!(answer.starts_with(":error:2:too-long:"), "{answer}");
    // It goes on, as one does that does not listen, and the server still gets rid of it.
    let mut stream = client.stream();
    wait_until("the connection is gone", || stream.write_all(b"x").is_err());
    stressed.over(1);
}

#[test]
fn connections_whose_other_end_says_nothing_any_more_are_ended_when_they_are_idle() {
    const SILENT: usize = 200;
    const DEAF: usize = 20;
    const GETS: usize = 200;
    /// The deaf have an outbox-full each, in a buffer that may be twice as large, and a turn's
    /// replies.
    const BOUND: usize = WORK + (SILENT + DEAF) * CLIENT + DEAF * 2 * (OUTBOX + MAX_LINE);

    // Under `wait`, nothing else ends a connection.
    let mut stressed = StressedServer::start(500, &["--idle-timeout", "1", "--overflow", "wait"]);
    stressed
        .steady
        .send(format!("Put:k:{}\n", "x".repeat(60_000)));
    stressed.steady.sync();
    // To the server, a client that is gone without a word is one that says and takes nothing.
    let mut silent: Vec<_> = (0..SILENT).map(|_| stressed.server.connect()).collect();
    let mut deaf: Vec<_> = (0..DEAF).map(|_| stressed.server.connect()).collect();
    for client in &mut silent {
        client.send("Sync:in\n");
    }
    for client in &mut deaf {
        client.send("Get:k\n".repeat(GETS));
    }
    wait_until("they are idle", || {
        stressed.work();
        stressed.steady.stats().idle as usize == SILENT + DEAF
    });
    for client in &mut silent {
        assert_eq!(client.sync_reply(), "0:in");
        client.expect_farewell(":error:0:closing:nothing has moved here for 1s");
    }
    // None of them has hung up.
    let stressed = stressed.over((SILENT + DEAF) as u64);
    stressed.cost("220 idle clients, 20 of them deaf", BOUND);
    drop((silent, deaf));
}

/// What the system's table of TCP sockets says of the server's end of a connection: which timer
/// runs, and when it is due.
fn timer(client: &Client) -> Option<(u8, Duration)> {
    let end = |address: SocketAddr| match address {
        SocketAddr::V4(address) => {
            let host = u32::from_ne_bytes(address.ip().octets());
            format!("{host:08X}:{:04X}", address.port())
        }
        SocketAddr::V6(_) => unreachable!("the server listens on 127.0.0.1"),
    };
    let server = end(client.stream().peer_addr().unwrap());
    let client = end(client.stream().local_addr().unwrap());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut sockets = table.lines().map(|line| line.split_whitespace());
    let mut socket = sockets.find(|fields| {
        let mut fields = fields.clone().skip(1);
        fields.next() == Some(&server) && fields.next() == Some(&client)
    })?;
    let (kind, ticks) = socket.nth(5)?.split_once(':')?;
    let ticks = u64::from_str_radix(ticks, 16).ok()?;
    let time = Duration::from_millis(10 * ticks);
    Some((kind.parse().ok()?, time))
}

#[test]
fn the_system_is_to_ask_within_a_minute_whether_a_silent_client_is_still_there() {
    const KEEPALIVE: u8 = 2;
    let stressed = StressedServer::start(100, &[]);
    let mut client = stressed.server.connect();
    client.sync();
    wait_until("the keepalive timer runs", || {
        timer(&client).is_some_and(|(kind, time)| {
            kind == KEEPALIVE && (Duration::from_secs(30)..Duration::from_secs(61)).contains(&time)
        })
    });
}

#[test]
fn thousands_that_connect_to_a_full_server_are_told_and_those_inside_notice_nothing() {
    const INSIDE: usize = 100;
    const OUTSIDE: usize = 3_000;
    const THREADS: usize = 4;
    /// Those inside; of those outside, a few at a time.
    const BOUND: usize = WORK + 2 * INSIDE * CLIENT;
    const FULL: &str = ":error:0:full:the server has as many clients as it may";

    let said = "Put:k:v\nGet:k\nSync\n".repeat(1000);
    let limit = INSIDE.to_string();
    let mut stressed = StressedServer::start(500, &["--max-clients", &limit]);
    let mut inside: Vec<_> = (1..INSIDE).map(|_| stressed.server.connect()).collect();
    for client in &mut inside {
        assert_eq!(client.sync(), (vec![], 0));
    }
    thread::scope(|scope| {
        let (server, said) = (&stressed.server, said.as_bytes());
        let connecting = (0..THREADS).map(|_| {
            scope.spawn(move || {
                for _ in 0..OUTSIDE / THREADS {
                    let mut client = server.connect();
                    // Whatever it says is not heard, and does not cost it the answer.
                    let _ = client.stream().write_all(said);
                    client.expect_farewell(FULL);
                }
            })
        });
        let connecting: Vec<_> = connecting.collect();
        while connecting.iter().any(|thread| !thread.is_finished()) {
            stressed.steady.send("Get:k\n");
            assert_eq!(stressed.steady.sync(), (vec![], 0));
        }
    });
    let stats = stressed.steady.stats();
    assert_eq!((stats.active as usize, stats.dropped), (INSIDE, 0));
    let refused = (stats.refused as usize, stats.full_clients as usize);
    assert_eq!(refused, (OUTSIDE, OUTSIDE));
    for client in &mut inside {
        assert_eq!(client.sync(), (vec![], 0));
    }
    // Who leaves makes room.
    let left = inside.pop().unwrap();
    drop(left);
    wait_until("one has left", || stressed.steady.stats().dropped == 1);
    inside.push(stressed.server.connect());
    assert_eq!(inside[INSIDE - 2].sync(), (vec![], 0));
    drop(inside);
    let stressed = stressed.over(INSIDE as u64);
    stressed.cost("3,000 at a full server", BOUND);
}

#[test]
fn a_flood_at_a_full_server_is_turned_away_and_leaves_nothing_behind() {
    const FLOOD: usize = 3_000;
    /// What a connection costs that is closed at once, and what those cost that are told why.
    const BOUND: usize = WORK + FLOOD * CLIENT;

    let stressed = StressedServer::start(FLOOD + 100, &["--max-clients", "1"]);
    let mut told = 0;
    let mut flood: Vec<_> = (0..FLOOD).map(|_| stressed.server.connect()).collect();
    for client in &mut flood {
        // In a flood, most are just closed, and some of these find a reset.
        let mut line = String::new();
        match client.reader().read_to_string(&mut line) {
            Ok(_) if line.is_empty() => {}
            Ok(_) => {
                assert!(line.starts_with(":error:0:full:"), "{line}");
                told += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    assert!(told > 0);
    let mut stressed = stressed.over(0);
    assert_eq!(stressed.steady.stats().full_clients as usize, FLOOD);
    println!("{told} of {FLOOD} were told");
    stressed.cost("a flood of 3,000 at a full server", BOUND);
}

/// Every address of 127.0.0.0/8 is this machine's.
fn connect_from(stressed: &StressedServer, host: u8) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let ours: SocketAddr = ([127, 0, 0, host], 0).into();
    socket.bind(&ours.into()).unwrap();
    let server: SocketAddr = stressed.server.address.parse().unwrap();
    socket.connect(&server.into()).unwrap();
    Client::of(socket.into())
}

#[test]
fn one_address_can_not_take_all_the_room() {
    const EACH: usize = 10;
    const FULL: &str = ":error:0:full:this address has as many connections as it may";
    let limit = EACH.to_string();
    let mut stressed = StressedServer::start(500, &["--max-clients-per-address", &limit]);
    let mut greedy = Vec::new();
    for number in 0..100 {
        let mut client = connect_from(&stressed, 2);
        if number < EACH {
            client.sync();
            greedy.push(client);
        } else {
            client.expect_farewell(FULL);
        }
    }
    let mut others: Vec<_> = (3..20).map(|host| connect_from(&stressed, host)).collect();
    for client in &mut others {
        assert_eq!(client.sync(), (vec![], 0));
    }
    assert_eq!(stressed.steady.stats().full_addresses as usize, 100 - EACH);
    let gone = greedy.len() + others.len();
    drop((greedy, others));
    stressed.over(gone as u64);
}

#[test]
fn clients_that_push_all_they_can_against_their_rate_cost_a_read_each() {
    const GREEDY: usize = 20;
    /// Of each, the lines of one read wait for their time, and a part of them is copied; the
    /// beginning of the next line has a buffer that may be twice as large.
    const BOUND: usize = WORK + GREEDY * (CLIENT + 4 * MAX_LINE);

    let mut stressed = StressedServer::start(200, &["--max-line-rate", "200"]);
    let mut greedy: Vec<_> = (0..GREEDY).map(|_| stressed.server.connect()).collect();
    let lines: String = (1..=500).map(|number| format!("Sync:{number}\n")).collect();
    let filler = format!("Delete:{}\n", "x".repeat(60_000)).into_bytes();
    let start = Instant::now();
    for client in &mut greedy {
        client.send(&lines);
        // And then whatever the system takes, in lines so long that few of them are left to wait
        // for their time when the client has gone.
        let socket = SockRef::from(client.stream());
        socket.set_nonblocking(true).unwrap();
        while client.stream().write(&filler).is_ok() {}
        socket.set_nonblocking(false).unwrap();
    }
    // Who keeps to the rate does not wait.
    for _ in 0..20 {
        stressed.work();
    }
    for client in &mut greedy {
        for number in 1..=500 {
            assert_eq!(client.sync_reply(), format!("0:{number}"));
        }
    }
    // A second's lines go at once.
    let time = start.elapsed();
    assert!(
        time > Duration::from_millis(1000 * 300 / 200 - 50),
        "{time:?}"
    );
    assert!(stressed.steady.stats().throttled > 0);
    drop(greedy);
    let stressed = stressed.over(GREEDY as u64);
    stressed.cost("20 clients over their rate", BOUND);
}
