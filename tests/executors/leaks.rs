//! Nothing stays behind: descriptors and threads are counted.
//!
//! One test alone in its file, because it counts what the whole process has.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, unused_macros)]
#[path = "../common/executor.rs"]
mod executor;

use std::{fs, thread, time::Duration};

use common::{Client, TestServer, loopback, wait_until};
use executor::{Executor, Runtime};
use futures_lite::future;
use keywire::{Overflow, Server};

#[derive(Debug, PartialEq, Eq)]
struct StoreSize {
    descriptors: usize,
    threads: usize,
}

fn size() -> StoreSize {
    let count = |path| fs::read_dir(path).unwrap().count();
    StoreSize {
        descriptors: count("/proc/self/fd"),
        threads: count("/proc/self/task"),
    }
}

/// Clients of every kind: idle, half a line, asking and not reading.
fn clients(server: &TestServer) -> Vec<Client> {
    let clients = (0..60)
        .map(|number| {
            let mut client = server.connect();
            assert_eq!(client.sync().1, 0);
            match number % 3 {
                0 => client.send("Put:k:half"),
                1 => client.send("Get:big\n".repeat(500)),
                _ => {}
            }
            client
        })
        .collect();
    server.await_counts(61, 0);
    clients
}

fn serve_and_stop(executor: Executor) {
    let server = Server::builder().overflow(Overflow::Wait).build();
    let server = executor.start(server);
    let mut client = server.connect();
    client.send(format!("Put:big:{}\n", "x".repeat(60_000)));
    client.sync();
    let clients = clients(&server);
    server.stop(Duration::from_millis(20));
    drop((client, clients));
}

fn serve_and_drop() {
    let (listener, address) = loopback();
    let server = Server::builder().listen(listener).build();
    let handle = server.handle();
    let (drop_it, dropped) = async_channel::bounded::<()>(1);
    let serving = thread::spawn(move || {
        let run = async {
            server.run().await;
        };
        let told = async {
            let _ = dropped.recv().await;
        };
        smol::block_on(future::or(told, run));
    });
    let mut clients: Vec<_> = (0..50).map(|_| Client::connect(address)).collect();
    for client in &mut clients {
        client.sync();
        client.send("Put:half");
    }
    drop_it.close();
    serving.join().unwrap();
    // The clients still hold their ends; the server holds none of its own.
    assert!(handle.is_closed());
    for client in clients {
        client.await_hang_up();
    }
}

#[test]
fn no_descriptor_and_no_thread_stays_behind() {
    let places = [
        Executor(Runtime::Smol, 1),
        Executor(Runtime::Smol, 3),
        Executor(Runtime::Tokio, 1),
        Executor(Runtime::Tokio, 3),
        Executor(Runtime::AsyncStd, 1),
        Executor(Runtime::BlockOn, 1),
        Executor(Runtime::BlockOn, 3),
    ];
    // The first time, async-io and async-std start what they keep for the whole process.
    for executor in places {
        serve_and_stop(executor);
    }
    serve_and_drop();
    let before = size();
    for executor in places {
        serve_and_stop(executor);
        // A thread that has been joined may stand in /proc a moment longer.
        wait_until(&format!("{before:?} under {executor:?}"), || {
            size() == before
        });
    }
    serve_and_drop();
    wait_until(&format!("{before:?} after a drop"), || size() == before);
}
