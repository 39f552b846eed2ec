//! Limits, secrets, and what a server takes of the cluster.

use std::time::Duration;

use futures_lite::future;
use keywire::{Error, Secret, Server, protocol::Code, store::Cluster};

use crate::{
    common::TestServer,
    nodes::{Nodes, Setup, exclusive, shared},
    servers::{client, store, within},
};

const SECRET: &str = "open-sesame";

fn is_full(result: Result<(), Error>) -> bool {
    matches!(
        result,
        Err(Error::Refused {
            code: Code::Full,
            ..
        })
    )
}

/// It can't be kept to, and is not left out in silence.
#[test]
fn max_store_is_refused() {
    let _bound = within(30);
    let store = store(shared(), "maxstore:", |builder| builder);
    let refused = Server::builder()
        .max_store(1 << 20)
        .store(store)
        .try_build();
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("maxmemory"), "{refused}");
}

/// The limit is kept to by the step that writes, however many servers write.
#[test]
fn max_values_is_kept_to_through_two_servers() {
    let _bound = within(30);
    let servers = [(); 2].map(|()| {
        let store = store(shared(), "maxvalues:", |builder| builder);
        TestServer::start(Server::builder().max_values(3).store(store).build())
    });
    let clients = servers.each_ref().map(client);
    let [one, other] = &clients;
    future::block_on(async {
        for (client, value) in [(one, "a"), (other, "b"), (one, "c")] {
            client.put("k", value).await.unwrap();
        }
        assert!(is_full(one.put("k", "d").await));
        assert!(is_full(other.update("k", "absent", "d").await));
        other.update("k", "b", "B").await.unwrap();
        assert_eq!(one.get("k").await.unwrap(), [b"a", b"B", b"c"]);
        one.remove("k", "a").await.unwrap();
        other.update("k", "absent", "d").await.unwrap();
        assert!(is_full(one.put("k", "e").await));
        one.set("k", "x").await.unwrap();
        one.put("k", "y").await.unwrap();
        assert_eq!(other.get("k").await.unwrap(), [b"x", b"y"]);
        // In one go, up to the limit and no farther.
        let mut pipeline = one.pipeline();
        for number in 0..10 {
            pipeline = pipeline.put("many", number.to_string());
        }
        let outcomes = pipeline.send().await.unwrap();
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3);
        assert_eq!(other.get("many").await.unwrap(), [b"0", b"1", b"2"]);
    });
}

/// Connections to each node, without those of the nodes themselves and the one that asks.
fn connections(nodes: &Nodes) -> Vec<usize> {
    let of_node = |index: usize| {
        let list = nodes.ask(index, ["CLIENT", "LIST"]).text();
        let lines = list.lines();
        lines
            .filter(|line| !line.contains("flags=S") && !line.contains("flags=M"))
            .filter(|line| !line.contains("cmd=client"))
            .count()
    };
    (0..nodes.len()).map(of_node).collect()
}

#[test]
fn many_clients_share_few_connections_and_a_secret() {
    const CLIENTS: usize = 500;
    /// To each node.
    const HANDFUL: usize = 3;
    let nodes = exclusive(Setup {
        secret: Some(SECRET),
        replicas: 0,
        ..Setup::default()
    });
    let before: usize = connections(&nodes).iter().sum();
    assert_eq!(before, 0);

    // Without the secret, or with another one.
    let builder = || Cluster::builder().timeout(Duration::from_secs(3));
    let without = smol::block_on(builder().connect(nodes.addresses())).unwrap_err();
    let wrong = builder().secret(Secret::new("wrong-one").unwrap());
    let wrong = smol::block_on(wrong.connect(nodes.addresses())).unwrap_err();
    for error in [without, wrong] {
        let shown = format!("{error} {error:?}");
        assert!(
            !shown.contains(SECRET) && !shown.contains("wrong-one"),
            "{shown}"
        );
    }

    let with = builder().secret(Secret::new(SECRET).unwrap());
    assert!(!format!("{with:?}").contains(SECRET));
    let store = smol::block_on(with.connect(nodes.addresses())).unwrap();
    assert!(!format!("{store:?}").contains(SECRET));
    let server = TestServer::start(Server::builder().store(store).build());
    let clients: Vec<_> = (0..CLIENTS).map(|_| client(&server)).collect();
    smol::block_on(async {
        let work = clients
            .iter()
            .enumerate()
            .map(|(number, client)| async move {
                for count in 0..5 {
                    let key = format!("{number}.{count}");
                    client.put(&key, "v").await.unwrap();
                    assert_eq!(client.get(&key).await.unwrap(), [b"v"]);
                }
            });
        let executor = smol::LocalExecutor::new();
        let tasks: Vec<_> = work.map(|work| executor.spawn(work)).collect();
        executor
            .run(async {
                for task in tasks {
                    task.await;
                }
            })
            .await;
    });
    for (index, count) in connections(&nodes).into_iter().enumerate() {
        assert!(
            (1..=HANDFUL).contains(&count),
            "node {index}: {count} connections"
        );
    }
    // A node that comes back is told the secret again.
    nodes.kill(0);
    nodes.restart(0);
    nodes.wait_ok();
    let key = &crate::servers::keys_by_master(&nodes, 1)[0][0];
    future::block_on(clients[0].put(key, "back")).unwrap();
    drop(clients);
    drop(server);
    crate::common::wait_until("the connections are closed", || {
        connections(&nodes).iter().sum::<usize>() == 0
    });
}

/// A node without memory refuses what would grow, whole, and serves the rest.
///
/// So does one that allows a user no channels, as is Redis's default for users that are made.
#[test]
fn a_node_refuses_whole_commands() {
    let nodes = exclusive(Setup {
        replicas: 0,
        ..Setup::default()
    });
    let server = TestServer::start(
        Server::builder()
            .store(store(&nodes, "memory:", |builder| builder))
            .build(),
    );
    let client = client(&server);
    let is_store = |result: &Result<(), Error>| {
        matches!(
            result,
            Err(Error::Refused {
                code: Code::Store,
                ..
            })
        )
    };
    future::block_on(async {
        for value in ["a", "b", "c"] {
            client.put("k", value).await.unwrap();
        }
        for index in 0..nodes.len() {
            nodes.ask(index, ["CONFIG", "SET", "maxmemory", "1"]);
        }
        let refused = client.put("k", "d").await;
        assert!(is_store(&refused), "{refused:?}");
        let refused = client.update("k", "absent", "d").await;
        assert!(is_store(&refused), "{refused:?}");
        assert_eq!(client.get("k").await.unwrap(), [b"a", b"b", b"c"]);
        // It does not grow by these: they may be refused, and may not do half of it.
        let mut expected = vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()];
        match client.update("k", "b", "B").await {
            Ok(()) => expected[1] = b"B".to_vec(),
            refused => assert!(is_store(&refused), "{refused:?}"),
        }
        assert_eq!(client.get("k").await.unwrap(), expected);
        match client.set("k", "x").await {
            Ok(()) => expected = vec![b"x".to_vec()],
            refused => assert!(is_store(&refused), "{refused:?}"),
        }
        assert_eq!(client.get("k").await.unwrap(), expected);
        client.delete("k").await.unwrap();
        assert!(client.get("k").await.unwrap().is_empty());
        for index in 0..nodes.len() {
            nodes.ask(index, ["CONFIG", "SET", "maxmemory", "0"]);
        }
        client.put("k", "back").await.unwrap();

        for index in 0..nodes.len() {
            nodes.ask(index, ["ACL", "SETUSER", "default", "resetchannels"]);
        }
        let refused = Cluster::builder().connect(nodes.addresses()).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("channel"), "{refused}");
        let fate = client.put("k", "no-channel").await;
        let values = client.get("k").await.unwrap();
        match fate {
            Ok(()) => assert_eq!(values, [&b"back"[..], b"no-channel"]),
            Err(Error::Unconfirmed { message, .. }) => {
                assert!(message.contains("channel"), "{message}");
            }
            refused => {
                assert!(is_store(&refused), "{refused:?}");
                assert_eq!(values, [b"back"]);
            }
        }
    });
}
