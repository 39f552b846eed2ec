//! Nothing stays behind: descriptors and threads are counted.
//!
//! One test alone in its file, because it counts what the whole process has.

#![cfg(target_os = "linux")]

mod common;

use std::{fs, thread, time::Duration};

use common::{Authority, Talk, TlsServer, run, wait_until};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};
use keywire::{Server, tls::TlsListener};
use smol::net::TcpStream;

fn held() -> (usize, usize) {
    let count = |path| fs::read_dir(path).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

/// Clients of every kind: in their handshake, idle, asking and not reading, broken, gone.
async fn clients(address: std::net::SocketAddr, authority: &Authority) -> Vec<Box<dyn Send>> {
    let mut clients: Vec<Box<dyn Send>> = Vec::new();
    for number in 0..50 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        match number % 5 {
            0 => {}
            1 => stream.write_all(&[0x16, 3, 1, 2]).await.unwrap(),
            2 => stream.write_all(b"nonsense").await.unwrap(),
            kind => {
                let talk = Talk::over(stream, authority.client()).await;
                let mut talk = talk.unwrap();
                talk.sync().await;
                if kind == 3 {
                    talk.send(format!("Put:k:{}\n", "x".repeat(60_000))).await;
                    talk.send("Get:k\n".repeat(100)).await;
                }
                clients.push(Box::new(talk));
                continue;
            }
        }
        clients.push(Box::new(stream));
    }
    clients
}

async fn serve_and_stop() {
    let served = TlsServer::with(Server::new(), |tls| tls.max_handshakes(40));
    let clients = clients(served.address, &served.authority).await;
    served.stop(Duration::from_millis(20)).await;
    drop(clients);
}

async fn serve_and_drop() {
    let authority = Authority::new("ours");
    let listener = keywire::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = TlsListener::new(listener, authority.vouch().server());
    let server = Server::builder().listen(listener).build();
    let handle = server.handle();
    let (drop_it, dropped) = smol::channel::bounded::<()>(1);
    let serving = thread::spawn(move || {
        let run = async {
            server.run().await;
        };
        let told = async {
            let _ = dropped.recv().await;
        };
        smol::block_on(future::or(told, run));
    });
    let clients = clients(address, &authority).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    drop_it.close();
    serving.join().unwrap();
    // The clients still hold their ends; the server holds none of its own.
    assert!(handle.is_closed());
    while let Ok(1..) = stream.read(&mut [0; 100]).await {}
    drop(clients);
}

#[test]
fn no_descriptor_and_no_thread_stays_behind() {
    run(async {
        // The first time, async-io starts what it keeps for the whole process.
        serve_and_stop().await;
        serve_and_drop().await;
        let before = held();
        serve_and_stop().await;
        // A thread that has been joined may stand in /proc a moment longer.
        wait_until(&format!("{before:?} after a stop"), || held() == before).await;
        serve_and_drop().await;
        wait_until(&format!("{before:?} after a drop"), || held() == before).await;
    });
}
