//! Clients that break, stall, flood and babble, at the example server as a process: what each of
//! these costs it, and that nothing of it stays.
//!
//! `cargo test --release --test faults -- --nocapture` prints the memory that each one cost.

use std::{
    io::Read as _,
    thread,
    time::{Duration, Instant},
};

use crate::common::{
    Client,
    stress::{CLIENT, KIB, MIB, StressedServer, WORK},
    wait_until,
};

/// The server's `--max-line`, which is the default.
const MAX_LINE: usize = 64 * KIB;

#[test]
fn thousands_of_resets_in_the_middle_of_replies_leave_nothing_behind() {
    const WAVES: usize = 10;
    const WAVE: usize = 200;
    const VALUE: usize = 60_000;
    /// One client in ten asks for far more than the system's buffers take, so the server is in the
    /// middle of writing to it. The others are reset while their replies are on the way.
    const DEEP: usize = WAVE / 10;
    const DEEP_GETS: usize = 100;
    const GETS: usize = 10;
    /// A turn's replies for each client, in a buffer that may be twice as large; and of what the
    /// deep ones of one wave have asked for, the system's buffers take half, and the other half may
    /// have twice its room. The deep ones of all waves ask for 1.2 GB.
    const BOUND: usize = WORK + WAVE * (CLIENT + 2 * VALUE) + DEEP * DEEP_GETS * VALUE;

    let mut stressed = StressedServer::start(2 * WAVE, &[]);
    stressed
        .steady
        .send(format!("Put:k:{}\n", "x".repeat(VALUE)));
    stressed.steady.sync();
    for wave in 0..WAVES {
        // Those of the last wave may still be served, and would count as this one's.
        wait_until("the last wave is gone", || {
            wave % 2 == 0 || stressed.steady.stats().active == 1
        });
        let before = stressed.steady.stats().gets;
        let mut clients: Vec<_> = (0..WAVE).map(|_| stressed.server.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            let deep = number % (WAVE / DEEP) == 0;
            client.send("Get:k\n".repeat(if deep { DEEP_GETS } else { GETS }));
        }
        // Every other wave goes only when all replies are there, in sockets and in outboxes.
        let asked = (DEEP * DEEP_GETS + (WAVE - DEEP) * GETS) as u64;
        wait_until("the replies are there", || {
            wave % 2 == 0 || stressed.steady.stats().gets == before + asked
        });
        for (number, client) in clients.into_iter().enumerate() {
            // Each is at another place of its replies, mostly within one.
            let mut some = vec![0; 1 + number * 97 + wave];
            client.stream().read_exact(&mut some).unwrap();
            client.reset();
        }
        stressed.work();
    }
    let stressed = stressed.over((WAVES * WAVE) as u64);
    stressed.cost("2,000 resets", BOUND);
}

#[test]
fn thousands_of_clients_with_half_a_line_each_keep_no_one_waiting() {
    const SLOW: usize = 5_000;
    /// A round trip of a client that behaves; what it takes is a thousandth of that, where the
    /// machine has nothing else to do.
    const PROMPT: Duration = Duration::from_secs(2);

    // Most have sent little. One in fifty has sent nearly as much as a line may be.
    let half_line = |number: usize| {
        let rest = match number % 50 {
            0 => MAX_LINE - 100,
            _ => number % 1000,
        };
        format!("Put:{number}:{}", "x".repeat(rest))
    };
    // A half line is kept in a buffer that may be twice as large, and one of them is being copied.
    let held: usize = (0..SLOW).map(|number| 2 * half_line(number).len()).sum();
    let bound = WORK + SLOW * CLIENT + held;

    let mut stressed = StressedServer::start(SLOW + 100, &[]);
    let mut worst = Duration::ZERO;
    let mut slow = Vec::new();
    for number in 0..SLOW {
        let mut client = stressed.server.connect();
        // The reply to the Sync shows that the server has come to this client.
        client.send(format!("Sync\n{}", half_line(number)));
        slow.push(client);
        if number % 20 == 0 {
            let start = Instant::now();
            stressed.work();
            worst = worst.max(start.elapsed());
        }
    }
    for client in &mut slow {
        assert_eq!(client.sync_reply(), "0:");
    }
    assert_eq!(stressed.steady.stats().active as usize, SLOW + 1);
    for _ in 0..100 {
        let start = Instant::now();
        stressed.work();
        worst = worst.max(start.elapsed());
    }
    assert!(worst < PROMPT, "a round trip took {worst:?}");
    stressed.cost("5,000 half lines", bound);

    // Every half line was kept: with its other half it is a command.
    for (number, client) in slow.iter_mut().enumerate().step_by(25) {
        client.send(format!("y\nGet:{number}\nDelete:{number}\n"));
        let (lines, dropped) = client.sync();
        let whole = format!("{}y", &half_line(number)["Put:".len()..]);
        assert!(
            lines == [whole.into_bytes()],
            "the line of {number} is torn"
        );
        assert_eq!(dropped, 0);
    }
    drop(slow);
    let stressed = stressed.over(SLOW as u64);
    stressed.cost("5,000 half lines and their other halves", bound);
}

/// Bytes that are no command, of five kinds.
fn garbage(random: &mut fastrand::Rng) -> Vec<u8> {
    let kind = random.u8(..5);
    let bytes = [32 * KIB, 4 * KIB, 16 * KIB, 4 * KIB, 3 * MAX_LINE][usize::from(kind)];
    let pick = |random: &mut fastrand::Rng, from: &[u8]| from[random.usize(..from.len())];
    let byte = |random: &mut fastrand::Rng| match kind {
        0 => random.u8(..),
        // Blank lines, and short ones: the replies are forty times as long.
        1 => pick(random, b"\n\n\r\0\xff:"),
        2 => random.u8(b' '..=b'~'),
        // Nearly commands.
        3 => pick(random, b"putgesync:::\n"),
        // Long lines, some of them too long.
        _ if random.usize(..MAX_LINE) == 0 => b'\n',
        _ => 0x80,
    };
    (0..random.usize(..bytes)).map(|_| byte(random)).collect()
}

/// The replies to these lines, the last of which has its end: the numbers, counted from 0, and the
/// codes of the errors.
fn refusals(garbage: &[u8]) -> impl Iterator<Item = (usize, &'static str)> {
    let lines = garbage.split(|&byte| byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let numbered = lines.enumerate().filter(|(_, line)| !line.is_empty());
    numbered.map(|(number, line)| match line.len() {
        0..=MAX_LINE => (number, "unknown"),
        _ => (number, "too-long"),
    })
}

/// Sends garbage, and expects each line of it to be refused by its number. Gives the bytes sent.
fn babble(client: &mut Client, line: &mut usize, random: &mut fastrand::Rng) -> usize {
    let mut sent = garbage(random);
    let expected: Vec<_> = refusals(&sent).collect();
    let next = *line + sent.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let token = random.u64(..);
    sent.extend_from_slice(format!("\nSync:{token}\n").as_bytes());
    client.send(&sent);
    for (number, code) in expected {
        let reply = client.text();
        let start = format!(":error:{}:{code}:", *line + number);
        assert!(reply.starts_with(&start), "{reply} instead of {start}");
    }
    assert_eq!(client.sync_reply(), format!("0:{token}"));
    *line = next + 1;
    sent.len()
}

#[test]
fn megabytes_of_garbage_are_refused_line_by_line() {
    const CLIENTS: usize = 200;
    const PIECES: usize = 4;
    const THREADS: usize = 4;
    /// At a time, one client of each thread is at work: it has a line that is too long, in a buffer
    /// that may be twice as large, and it has an outbox-full of refusals and a turn's more, and what
    /// the writer has taken of them.
    const BOUND: usize = WORK + CLIENTS * CLIENT + THREADS * (2 * MAX_LINE + 4 * 128 * KIB);

    let mut stressed = StressedServer::start(2 * CLIENTS, &[]);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let bytes: usize = thread::scope(|scope| {
        let server = &stressed.server;
        let babbling = (0..THREADS).map(|number| {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed + number as u64);
                let clients = (0..CLIENTS / THREADS).map(|_| (server.connect(), 1));
                let mut clients: Vec<_> = clients.collect();
                let mut bytes = 0;
                for _ in 0..PIECES {
                    for (client, line) in &mut clients {
                        bytes += babble(client, line, &mut random);
                    }
                }
                for (client, _) in &mut clients {
                    assert_eq!(client.sync(), (vec![], 0));
                }
                bytes
            })
        });
        let babbling: Vec<_> = babbling.collect();
        let all = babbling.into_iter().map(|thread| thread.join().unwrap());
        all.sum()
    });
    assert!(bytes > 4 * MIB, "only {bytes} bytes");
    stressed.work();
    let stressed = stressed.over(CLIENTS as u64);
    stressed.cost(&format!("{} MiB of garbage", bytes / MIB), BOUND);
}

#[test]
fn a_line_of_a_gibibyte_costs_what_the_longest_line_costs() {
    const PIECE: usize = MIB;
    /// The beginning of the line that is kept, in a buffer that may be twice as large, and a copy of
    /// it on the way.
    const BOUND: usize = MIB;

    let mut stressed = StressedServer::start(100, &[]);
    // Each part of it is in use once before memory is measured.
    let mut client = stressed.server.connect();
    client.send(format!("Put:k:v\n{}\n", "x".repeat(2 * MAX_LINE)));
    client.sync();
    stressed.resident = stressed.server.resident();

    let piece = vec![b'x'; PIECE];
    client.send("Put:k:");
    for _ in 0..(1 << 30) / PIECE {
        client.send(&piece);
    }
    client.send("\nGet:k\n");
    let reply = client.text();
    assert!(reply.starts_with(":error:4:too-long:"), "{reply}");
    assert_eq!(client.sync(), (vec![b"k:v".to_vec()], 0));
    drop(client);
    let stressed = stressed.over(1);
    stressed.cost("a line of 1 GiB", BOUND);
}

#[test]
fn without_descriptors_it_waits_at_no_cost_and_accepts_again() {
    const FILES: usize = 40;
    const CLIENTS: usize = 60;
    /// How long the server is watched while it has no descriptor left.
    const WATCHED: Duration = Duration::from_secs(1);
    /// In this time it may try to accept every 50 milliseconds, and use a fifth of a processor
    /// for that. In a loop without a pause it would try thousands of times and use all of it.
    const TRIES: u64 = 20;
    const CPU_TIME: Duration = Duration::from_millis(200);
    /// A few dozen clients and as many errors are nothing but work.
    const BOUND: usize = WORK;

    let mut stressed = StressedServer::start(FILES, &[]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| stressed.server.connect()).collect();
    for client in &mut clients {
        client.send("Sync:first\n");
    }
    wait_until("there is no descriptor left", || {
        stressed.steady.stats().accept_errors > 0
    });

    let (before, cpu_before) = (stressed.steady.stats(), stressed.server.cpu_time());
    let start = Instant::now();
    thread::sleep(WATCHED);
    let cpu = stressed.server.cpu_time() - cpu_before;
    let stats = stressed.steady.stats();
    let time = start.elapsed();
    let tries = stats.accept_errors - before.accept_errors;
    assert!(tries > 0, "it does not try any more");
    let allowed = TRIES * time.as_millis() as u64 / WATCHED.as_millis() as u64 + 1;
    assert!(tries <= allowed, "{tries} tries in {time:?}");
    assert!(cpu < CPU_TIME, "{cpu:?} of work in {time:?} of waiting");
    // Meanwhile it goes on serving those that it has.
    assert_eq!(stats.active, before.active);
    stressed.work();

    // As many as leave are let in, in the order in which they came.
    let inside = stats.active as usize - 1;
    assert!((10..FILES).contains(&inside), "{inside} of the clients");
    let outside = clients.split_off(inside);
    for client in &mut clients {
        assert_eq!(client.sync_reply(), "0:first");
    }
    drop(clients);
    for mut client in outside {
        assert_eq!(client.sync_reply(), "0:first");
    }
    let stressed = stressed.over(CLIENTS as u64);
    stressed.cost("no descriptor left", BOUND);
}
