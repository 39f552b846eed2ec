//! The client's watchers, on every executor.

use keywire::{Client, Server};

use crate::common::events::{delete, next, put, update};

on_every_executor! {
    fn a_watcher_hears_of_other_clients_changes(executor: Executor) {
        let server = executor.start(Server::new());
    executor.block_on(async {
        let one = Client::connect(server.address).await.unwrap();
        let other = Client::connect(server.address).await.unwrap();
        let mut watcher = one.watch("user").await.unwrap();
        let mut prefix = one.watch_prefix("us").await.unwrap();
        other.put("user", "alice").await.unwrap();
        other.put("nobody", "x").await.unwrap();
        other.update("user", "alice", "b:ob").await.unwrap();
        other.put("use", "1").await.unwrap();
        other.delete("user").await.unwrap();
        let told = [
            put("user", "alice"),
            update("user", "alice", "b:ob"),
            delete("user"),
        ];
        for event in &told {
            assert_eq!(next(&mut watcher).await, *event);
        }
        for event in [&told[0], &told[1], &put("use", 1), &told[2]] {
            assert_eq!(next(&mut prefix).await, *event);
        }
        drop((watcher, prefix));
        one.sync().await.unwrap();
        other.put("user", "again").await.unwrap();
        let mut watcher = one.watch("user").await.unwrap();
        one.put("user", "own").await.unwrap();
        assert_eq!(next(&mut watcher).await, put("user", "own"));
    });
    }
}
