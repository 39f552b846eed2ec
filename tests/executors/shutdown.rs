//! Shutdown while clients are at work.

use std::{thread, time::Duration};

use futures_lite::future;
use keywire::{Overflow, Server};

use crate::common::{Client, wait_until};

const LONG: Duration = Duration::from_secs(60);

on_every_executor! {
    fn everything_that_was_confirmed_is_there_after_a_shutdown(executor: Executor) {
        for puts_before in [0, 1, 5, 40] {
            let server = executor.start(Server::new());
            let clients: Vec<_> = (0..3)
                .map(|number| {
                    let mut client = server.connect();
                    thread::spawn(move || {
                        // Puts, confirmed one by one, until the server refuses or hangs up.
                        let mut confirmed = 0;
                        loop {
                            let put = format!("Put:{number}:{confirmed}\nSync\n");
                            let sent = std::io::Write::write_all(&mut client.stream(), put.as_bytes());
                            match sent.ok().and_then(|()| client.line_or_hang_up()) {
                                Some(line) if line == b":sync:0:" => confirmed += 1,
                                Some(line) => {
                                    let text = String::from_utf8(line).unwrap();
                                    assert!(text.contains(":closing:"), "{text}");
                                    return confirmed;
                                }
                                None => return confirmed,
                            }
                        }
                    })
                })
                .collect();
            wait_until("some Puts are done", || server.handle.stats().commands >= puts_before);
            let handle = server.handle.clone();
            let store = server.stop(LONG);
            assert!(handle.is_closed());
            for (number, client) in clients.into_iter().enumerate() {
                let confirmed = client.join().unwrap();
                let found = store.get(number.to_string().as_bytes());
                // One more may be applied whose Sync came too late.
                assert!((confirmed..=confirmed + 1).contains(&found.len()));
                assert!(found.enumerate().all(|(at, value)| value == at.to_string().as_bytes()));
            }
        }
    }

    fn calls_in_any_order_never_hang(executor: Executor) {
        let server = Server::new();
        let handle = server.handle();
        assert_eq!(handle.stats().active, 0);
        let server = executor.start(server);
        let mut client = server.connect();
        client.sync();
        assert_eq!(handle.stats().active, 1);
        future::block_on(handle.shutdown(Duration::ZERO));
        assert_eq!((handle.stats().active, handle.stats().dropped), (0, 1));
        future::block_on(handle.shutdown(LONG));
        future::block_on(handle.shutdown(Duration::ZERO));
        future::block_on(handle.worker());
        assert_eq!((handle.stats().active, handle.stats().dropped), (0, 1));
        server.stop(LONG);
        assert_eq!((handle.stats().active, handle.stats().dropped), (0, 1));
    }

    fn a_client_that_never_reads_can_not_hold_a_shutdown_up(executor: Executor) {
        let server = Server::builder().overflow(Overflow::Wait).build();
        let server = executor.start(server);
        let mut client = server.connect();
        client.send(format!("Put:k:{}\n", "x".repeat(60_000)));
        client.send("Get:k\n".repeat(1000));
        wait_until("replies wait", || server.handle.stats().lines_queued > 0);
        server.stop(Duration::from_millis(100));
        client.await_hang_up();
    }

    fn replies_on_their_way_arrive_whole(executor: Executor) {
        let server = Server::builder().overflow(Overflow::Wait).build();
        let server = executor.start(server);
        let mut client = server.connect();
        client.send(format!("Put:k:{}\n", "x".repeat(60_000)));
        client.sync();
        // One small write, so that the server has read all of it as soon as it answers any.
        client.send("Get:k\n".repeat(1000) + "Sync\n");
        wait_until("replies wait", || server.handle.stats().lines_queued > 1);
        let stopping = thread::spawn(move || server.stop(LONG));
        let (lines, dropped) = client.read_to_sync();
        assert_eq!((lines.len(), dropped), (1000, 0));
        let last = client.line().expect("a last line");
        assert_eq!(last, b":error:0:closing:the server is shutting down");
        assert_eq!(client.line(), None);
        stopping.join().unwrap();
    }
}

impl Client {
    fn line_or_hang_up(&mut self) -> Option<Vec<u8>> {
        use std::io::BufRead as _;
        let mut line = Vec::new();
        let read = self.reader().read_until(b'\n', &mut line);
        (read.is_ok() && line.pop() == Some(b'\n')).then_some(line)
    }
}
