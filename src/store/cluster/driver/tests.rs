#[cfg(feature = "tls")]
mod tls;

use std::{io::Write as _, net::TcpListener, thread};

use futures_lite::future;

use super::*;
use crate::store::cluster::{input::READ_BYTES, router::Config, slots::Address};

/// Of one node, which is known by its address alone.
fn shared() -> Shared {
    let now = Instant::now();
    let config = Config {
        timeout: Duration::from_secs(1),
        replicas: 0,
        auth: None,
        load: Vec::new(),
    };
    let mut router = Router::new(config, now);
    let host = "node".into();
    router.node(&Address { host, port: 1 }, now);
    Shared::new(
        Layout::new(b"k:", &[b'0'; 40]),
        Connector::default(),
        router,
    )
}

impl<T> Open<T> {
    fn new(stream: Stream<T>) -> Self {
        Self {
            stream,
            closed: 0,
            input: Input::new(MAX_REPLY),
            has_more: false,
            output: Vec::new(),
            written: 0,
        }
    }
}

/// A node that sends without end.
#[test]
fn a_node_has_its_turn_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sender = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let _ = stream.write_all(b"$100000000\r\n");
        while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
    });
    future::block_on(async {
        let stream = Async::<TcpStream>::connect(address).await.unwrap();
        let mut open = Open::new(Stream::Plain(stream));
        let now = Instant::now();
        let shared = shared();
        for _ in 0..100 {
            let turn = poll_fn(|cx| {
                let before = open.input.len();
                let is_busy = open.poll_read(0, &shared, now, cx).unwrap();
                assert!(open.input.len() - before <= READS * READ_BYTES);
                match is_busy {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            });
            turn.await;
        }
    });
    sender.join().unwrap();
}
