//! The same directory again in the same process, and rows that are missing.

use std::time::Duration;

use fastrand::Rng;
use futures_lite::future;
use keywire::{
    Server,
    store::{Disk, disk::Space},
};

use crate::{
    engine::{Crash, Medium},
    process::Directory,
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

/// Any row but the last may be missing, and the start says so.
#[test]
fn missing_rows_are_found() {
    let mut rng = Rng::with_seed(1);
    let medium = Medium::default();
    let logs = [Space::Log(0), Space::Log(1)];
    let snapshots = [Space::Snapshot(0), Space::Snapshot(1)];
    let disk = || Disk::builder().min_log(300_000);
    // Until there is a snapshot of several rows, with a log.
    let store = future::block_on(disk().open_engine(medium.open(rng.fork(), u64::MAX))).unwrap();
    let server = Server::builder().store(store).build();
    let handle = server.handle();
    let fill = async {
        let client = handle.client().await.unwrap();
        let is_filled = || medium.last_row(Space::Meta) == Some(1) && medium.rows(logs[0]) > 9;
        let mut key = 0;
        while key < 200 || !is_filled() {
            client
                .set(format!("{}", key % 200), "x".repeat(3_000))
                .await
                .unwrap();
            key += 1;
        }
    };
    future::block_on(future::or(fill, async { _ = server.run().await }));
    medium.crash(Crash::Process, &mut rng);
    let mut opens = |medium: &Medium| {
        future::block_on(disk().open_engine(medium.open(rng.fork(), u64::MAX))).map(|_| ())
    };
    opens(&medium.copy()).unwrap();
    let current = (0..2)
        .max_by_key(|&log| medium.last_row(logs[log]))
        .unwrap();
    let complete = snapshots[usize::from(medium.row(Space::Meta, 1)[0])];
    for space in [logs[0], logs[1], complete, Space::Meta] {
        for row in medium.row_numbers(space) {
            if space == logs[current] && Some(row) == medium.last_row(space) {
                continue;
            }
            let damaged = medium.copy();
            damaged.remove(space, row);
            // Without its first row it is a store of nobody's.
            let error = opens(&damaged)
                .expect_err(&format!("row {row} of {space:?}"))
                .to_string();
            let says =
                ["missing or damaged", "no store of keywire"].map(|words| error.contains(words));
            assert!(
                says[usize::from((space, row) == (Space::Meta, 0))],
                "{error}"
            );
        }
    }
}
