//! The client, on every executor.

use keywire::{Client, Event, Outcome, Server, store::Store};

use crate::common::{DEADLINE, TestServer, proxy::Proxy};

async fn connect<S: Store>(server: &TestServer<S>) -> Client {
    let client = Client::connect(server.address).await.unwrap();
    client.with_timeout(DEADLINE)
}

on_every_executor! {
    fn every_call_does_what_it_says(executor: Executor) {
        let server = executor.start(Server::new());
        executor.block_on(async {
            let client = connect(&server).await;
            assert!(client.get("user").await.unwrap().is_empty());
            client.put("user", "alice").await.unwrap();
            client.put("user", "bob").await.unwrap();
            client.put("user", "alice").await.unwrap();
            client.update("user", "alice", "carol").await.unwrap();
            client.update("user", "nobody", "dave").await.unwrap();
            client.sync().await.unwrap();
            let values = client.get("user").await.unwrap();
            assert_eq!(values, [&b"carol"[..], b"bob", b"alice", b"dave"]);
            assert_eq!(client.stats().await.unwrap().active, 1);
            client.delete("user").await.unwrap();
            assert!(client.get("user").await.unwrap().is_empty());
            let outcomes = client.pipeline().put("a", "1").get("a").delete("a").get("a");
            let outcomes = outcomes.send().await.unwrap();
            let outcomes: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
            let read = |values: &[&[u8]]| {
                Outcome::Values(values.iter().map(|value| value.to_vec()).collect())
            };
            assert_eq!(
                outcomes,
                [Outcome::Done, read(&[b"1"]), Outcome::Done, read(&[])]
            );
        });
        server.await_counts(0, 1);
    }

    fn it_comes_back_and_its_mirror_with_it(executor: Executor) {
        let server = executor.start(Server::new());
        let proxy = Proxy::start(server.address);
        executor.block_on(async {
            let client = Client::builder()
                .address(proxy.address)
                .answer_timeout(Some(DEADLINE))
                .connect()
                .await
                .unwrap();
            let other = connect(&server).await;
            let mut mirror = client.mirror_prefix("user.").await.unwrap();
            for round in 0..3 {
                other.put("user.a", "seen").await.unwrap();
                assert!(mirror.changed().await.unwrap().key().is_some());
                proxy.cut();
                other.set("user.a", "unseen").await.unwrap();
                other.set(format!("user.{round}"), "more").await.unwrap();
                assert_eq!(mirror.changed().await.unwrap(), Event::Missed(0));
                assert_eq!(mirror.get("user.a"), [b"unseen"]);
                assert_eq!(mirror.len(), round + 2);
            }
            client.put("k", "v").await.unwrap();
        });
        drop(proxy);
        server.await_counts(0, 5);
    }

    fn many_tasks_share_a_connection(executor: Executor) {
        const TASKS: usize = 64;
        const CALLS: usize = 20;
        let server = executor.start(Server::new());
        let tasks = executor.block_on(async {
            let client = connect(&server).await;
            let executor = smol::LocalExecutor::new();
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| {
                    let client = client.clone();
                    executor.spawn(async move {
                        let key = format!("key{task}");
                        for call in 0..CALLS {
                            client.put(&key, call.to_string()).await.unwrap();
                            let values = client.get(&key).await.unwrap();
                            let expected: Vec<_> =
                                (0..=call).map(|call| call.to_string().into_bytes()).collect();
                            assert_eq!(values, expected);
                        }
                    })
                })
                .collect();
            executor
                .run(async {
                    let mut count = 0;
                    for task in tasks {
                        task.await;
                        count += 1;
                    }
                    count
                })
                .await
        });
        assert_eq!(tasks, TASKS);
        server.await_counts(0, 1);
    }
}
