//! The same directory again in the same process, and files that are missing.

use std::time::Duration;

use fastrand::Rng;
use futures_lite::future;
use keywire::{
    Server,
    store::{Disk, disk::FileName},
};

use crate::{
    process::Directory,
    storage::{Crash, Medium},
};

/// A server that is dropped in the middle of a commit lets go of its directory.
#[test]
fn a_server_that_was_dropped_leaves_its_directory_open_to_the_next() {
    let directory = Directory::new();
    let mut rng = Rng::with_seed(1);
    let mut values = 0;
    for _ in 0..40 {
        let store = future::block_on(Disk::open(directory.path())).unwrap();
        let server = Server::builder().store(store).build();
        let handle = server.handle();
        let (mut acknowledged, mut found) = (0, None);
        let write = async {
            let client = handle.client().await.unwrap();
            found = Some(client.get("key").await.unwrap().len());
            loop {
                client.put("key", "value").await.unwrap();
                acknowledged += 1;
            }
        };
        let serve = async {
            server.run().await;
        };
        let end = async {
            smol::Timer::after(Duration::from_micros(rng.u64(..20_000))).await;
        };
        smol::block_on(future::or(end, future::or(write, serve)));
        if let Some(found) = found {
            // One may have been under way.
            assert!(found == values || found == values + 1, "{found} {values}");
            values = found + acknowledged;
        }
    }
    assert!(values > 0);
}

/// Any file may be missing, and the start says so.
#[test]
fn missing_files_are_found() {
    let mut rng = Rng::with_seed(1);
    let medium = Medium::default();
    let disk = || Disk::builder().min_log(300_000);
    // Until there is a snapshot, and the next one is begun.
    let store = future::block_on(disk().open_storage(medium.open(rng.fork(), u64::MAX))).unwrap();
    let server = Server::builder().store(store).build();
    let handle = server.handle();
    let fill = async {
        let client = handle.client().await.unwrap();
        let is_filled = || {
            let files = medium.files();
            let has = |name| files.iter().any(|(file, _)| *file == name);
            has(FileName::Snapshot(1)) && has(FileName::NewSnapshot(2))
        };
        let mut key = 0;
        while !is_filled() {
            let value = "x".repeat(3_000);
            client.set(format!("{}", key % 200), value).await.unwrap();
            key += 1;
        }
    };
    future::block_on(future::or(fill, async { _ = server.run().await }));
    medium.crash(Crash::Process, &mut rng);
    let mut open = |medium: &Medium| {
        future::block_on(disk().open_storage(medium.open(rng.fork(), u64::MAX))).map(|_| ())
    };
    open(&medium.copy()).unwrap();
    for file in [FileName::Log(1), FileName::Log(2), FileName::Snapshot(1)] {
        let damaged = medium.copy();
        damaged.remove(file);
        let error = open(&damaged).expect_err(&format!("{file}")).to_string();
        assert!(error.contains("is missing"), "{error}");
    }
}

/// Starts that come before a snapshot is complete do not let the log grow without a bound.
#[test]
fn frequent_starts_take_bounded_space() {
    const DATA: usize = 300_000;
    let mut rng = Rng::with_seed(1);
    let medium = Medium::default();
    let mut most = 0;
    for life in 0..80 {
        let disk = Disk::builder().min_log(DATA as u64);
        let storage = medium.open(rng.fork(), u64::MAX);
        let store = future::block_on(disk.open_storage(storage)).unwrap();
        let server = Server::builder().store(store).build();
        let handle = server.handle();
        let fill = async {
            let client = handle.client().await.unwrap();
            // All keys at first. Later a part of them, in few commits.
            let (bursts, keys) = if life == 0 { (1, 100) } else { (3, 6) };
            for burst in 0..bursts {
                let mut pipeline = client.pipeline();
                for key in 0..keys {
                    let key = (life * 20 + burst * 6 + key) % 100;
                    pipeline = pipeline.set(format!("{key}"), "x".repeat(DATA / 100));
                }
                pipeline.send().await.unwrap();
            }
        };
        future::block_on(future::or(fill, async { _ = server.run().await }));
        medium.crash(Crash::Process, &mut rng);
        let lengths = medium.files().into_iter().map(|(_, length)| length);
        most = most.max(lengths.sum());
    }
    assert!(most < 8 * DATA, "{most} bytes");
}
