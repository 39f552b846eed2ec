//! Many watchers and many writers.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use keywire::Server;

use crate::{
    common::{Client, wait_until},
    executor::Executor,
};

/// All that comes of one client's writes is heard by all who watch, in the same order.
fn everyone_hears(executor: Executor, watchers: usize, writers: usize) {
    const CHANGES: usize = 300;
    let server = executor.start(Server::new());
    let mut clients: Vec<_> = (0..watchers).map(|_| server.connect()).collect();
    for (number, watcher) in clients.iter_mut().enumerate() {
        watcher.send(["WatchPrefix:\n", "WatchPrefix:k\nWatch:k\n", "Watch:k\n"][number % 3]);
        watcher.sync();
    }
    let all = writers * CHANGES;
    let logs: Vec<Vec<String>> = thread::scope(|scope| {
        let listening = clients.iter_mut();
        let listening: Vec<_> = listening
            .map(|watcher| scope.spawn(move || watcher.texts(all)))
            .collect();
        for writer in 0..writers {
            let mut client = server.connect();
            scope.spawn(move || {
                for change in 0..CHANGES {
                    client.send(format!("Put:k:{writer}.{change}\n"));
                    if change % 7 == 0 {
                        client.sync();
                    }
                }
                client.sync();
            });
        }
        let logs = listening.into_iter();
        logs.map(|watcher| watcher.join().unwrap()).collect()
    });
    assert!(logs.iter().all(|log| *log == logs[0]));
    let mut reader = server.connect();
    reader.send("Get:k\n");
    let (values, _) = reader.sync();
    let told = logs[0]
        .iter()
        .map(|line| line.strip_prefix(":put:").unwrap());
    assert!(values.iter().map(Vec::as_slice).eq(told.map(str::as_bytes)));
    let stats = server.handle.stats();
    assert_eq!((stats.events, stats.missed), ((all * watchers) as u64, 0));
    assert_eq!(stats.lines_dropped, 0);
}

/// Reads what a Watch and a Get behind it bring, up to the reply to a Sync behind those: the list,
/// kept up to date.
struct Mirror {
    client: Client,
    key: &'static str,
    values: Vec<Vec<u8>>,
}

impl Mirror {
    fn begin(mut client: Client, key: &'static str) -> Self {
        client.send(format!("Watch:{key}\nGet:{key}\nSync:begun\n"));
        assert_eq!(client.text(), format!(":watch:{key}"));
        let mut mirror = Self {
            client,
            key,
            values: Vec::new(),
        };
        // What was told before the snapshot is in the snapshot.
        let mut behind = Vec::new();
        loop {
            let line = mirror.client.line().unwrap();
            if line == b":sync:0:begun" {
                break;
            } else if line[0] == b':' {
                behind.push(line);
            } else {
                behind.clear();
                let value = line.strip_prefix(format!("{key}:").as_bytes());
                mirror.values.push(value.unwrap().to_vec());
            }
        }
        behind.iter().for_each(|line| mirror.change(line));
        mirror
    }

    fn change(&mut self, line: &[u8]) {
        let line = String::from_utf8(line.to_vec()).unwrap();
        let fields: Vec<_> = line.splitn(5, ':').collect();
        match fields[1..] {
            ["put", key, value] if key == self.key => self.values.push(value.into()),
            ["delete", key] if key == self.key => self.values.clear(),
            ["update", key, old, new] if key == self.key => {
                let old = self
                    .values
                    .iter_mut()
                    .find(|value| *value == old.as_bytes());
                match old {
                    Some(value) => *value = new.into(),
                    None => self.values.push(new.into()),
                }
            }
            _ => panic!("not a change of {}: {line}", self.key),
        }
    }

    /// The list as it is when everything sent so far is applied.
    fn end(mut self) -> Vec<Vec<u8>> {
        let (lines, _) = self.client.sync();
        lines.iter().for_each(|line| self.change(line));
        self.values
    }
}

on_every_executor! {
    fn every_watcher_hears_every_change_in_the_order_applied(executor: Executor) {
        everyone_hears(executor, 6, 3);
    }

    fn a_snapshot_and_the_changes_behind_it_have_no_gap_and_no_duplicate(executor: Executor) {
        let server = executor.start(Server::new());
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for writer in 0..2 {
                let mut client = server.connect();
                let done = &done;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(writer);
                    while !done.load(Ordering::SeqCst) {
                        for number in 0..20 {
                            let mark = format!("{writer}.{number}");
                            client.send(match random.u8(..10) {
                                0 => "Delete:k\n".to_owned(),
                                1..=3 => format!("Update:k:{mark}:{mark}.\n"),
                                _ => format!("Put:k:{mark}\n"),
                            });
                        }
                        client.sync();
                    }
                });
            }
            let mut mirrors = Vec::new();
            for _ in 0..40 {
                mirrors.push(Mirror::begin(server.connect(), "k"));
            }
            done.store(true, Ordering::SeqCst);
            wait_until("the writers have left", || server.handle.stats().active == 40);
            let mut reader = server.connect();
            reader.send("Get:k\n");
            let (values, _) = reader.sync();
            let values: Vec<_> = values.iter().map(|line| line[2..].to_vec()).collect();
            for mirror in mirrors {
                assert_eq!(mirror.end(), values);
            }
        });
    }

    fn watchers_may_leave_at_any_time(executor: Executor) {
        const LEAVERS: usize = 60;
        let server = executor.start(Server::new());
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let mut writer = server.connect();
            let mut watcher = server.connect();
            watcher.send("WatchPrefix:k\n");
            watcher.sync();
            let (done, server) = (&done, &server);
            let writing = scope.spawn(move || {
                let mut puts = 0;
                while !done.load(Ordering::SeqCst) {
                    for _ in 0..20 {
                        writer.send(format!("Put:k{}:{puts}\n", puts % 3));
                        puts += 1;
                    }
                    writer.sync();
                }
                puts
            });
            let watching = scope.spawn(move || {
                let mut told = Vec::new();
                loop {
                    let line = watcher.text();
                    match line.split(':').next_back().unwrap().parse::<usize>() {
                        Ok(number) => told.push(number),
                        Err(_) => return told,
                    }
                }
            });
            for number in 0..LEAVERS {
                let mut leaver = server.connect();
                leaver.send("WatchPrefix:\nWatch:k1\nWatchPrefix:k1\n");
                assert_eq!(leaver.text(), ":watchprefix:");
                match number % 3 {
                    0 => leaver.reset(),
                    1 => drop(leaver),
                    _ => drop(leaver.end()),
                }
            }
            wait_until("those who left are gone", || {
                server.handle.stats().dropped == LEAVERS as u64
            });
            assert_eq!(server.handle.stats().watching, 1);
            done.store(true, Ordering::SeqCst);
            let puts = writing.join().unwrap();
            server.connect().end_with("Put:k:end\n");
            assert!(watching.join().unwrap().into_iter().eq(0..puts));
        });
    }

    fn a_shutdown_ends_watches_too(executor: Executor) {
        let server = executor.start(Server::new());
        let mut writer = server.connect();
        let mut watchers: Vec<_> = (0..5).map(|_| server.connect()).collect();
        for watcher in &mut watchers {
            watcher.send("WatchPrefix:\n");
            watcher.sync();
        }
        writer.send("Put:k:1\n".repeat(400));
        writer.sync();
        let handle = server.handle.clone();
        server.stop(Duration::from_secs(10));
        for mut watcher in watchers {
            assert!(watcher.texts(400).iter().all(|line| line == ":put:k:1"));
            let last = watcher.line().expect("a last line");
            assert_eq!(last, b":error:0:closing:the server is shutting down");
            assert_eq!(watcher.line(), None);
        }
        let stats = handle.stats();
        assert_eq!((stats.active, stats.watching, stats.events), (0, 0, 2000));
    }
}

#[test]
fn hundreds_of_watchers_hears_the_same() {
    crate::common::allow_files(2000);
    everyone_hears(Executor::PLAIN, 400, 2);
}
