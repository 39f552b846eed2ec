//! The store on each executor: it spawns nothing, and needs none in particular.

use std::time::Duration;

use futures_lite::StreamExt as _;
use keywire::{Server, store::Cluster};

use crate::{
    common::events::{delete, next, put, set},
    nodes::shared,
    servers::{STORE_TIMEOUT, within},
};

on_every_executor! {
    fn two_servers_share_a_cluster(executor: Executor) {
        let _bound = within(60);
        let nodes = shared();
        let prefix = format!("{executor:?}:");
        let servers = [(); 2].map(|()| {
            let builder = Cluster::builder().prefix(&prefix).timeout(STORE_TIMEOUT);
            let store = executor.block_on(builder.connect(nodes.addresses())).unwrap();
            executor.start(Server::builder().store(store).build())
        });
        executor.block_on(async {
            let one = servers[0].handle.client().await.unwrap();
            let other = servers[1].handle.client().await.unwrap();
            let mut watcher = other.watch("user").await.unwrap();
            let mut prefix = one.watch_prefix("u").await.unwrap();
            one.put("user", "alice").await.unwrap();
            other.put("user", "bob").await.unwrap();
            assert_eq!(one.get("user").await.unwrap(), [b"alice", &b"bob"[..]]);
            one.set("user", "carol").await.unwrap();
            assert_eq!(other.get("user").await.unwrap(), [b"carol"]);
            let listed: Vec<_> = other.keys("").try_collect().await.unwrap();
            assert_eq!(listed, [(b"user".to_vec(), 1)]);
            other.delete("user").await.unwrap();
            assert!(one.get("user").await.unwrap().is_empty());
            let told = [
                put("user", "alice"),
                put("user", "bob"),
                set("user", "carol"),
                delete("user"),
            ];
            for event in told {
                assert_eq!(next(&mut watcher).await, event);
                assert_eq!(next(&mut prefix).await, event);
            }
        });
        for server in servers {
            server.stop(Duration::from_secs(10));
        }
    }
}
