//! The whole cluster is gone, or down, or loading.

use std::time::Duration;

use futures_lite::future;
use keywire::{Server, store::Cluster};

use crate::{
    common::{TestServer, wait_until},
    load::{Fate, Load, check, check_order, lists},
    nodes::{Nodes, Setup, exclusive, shared},
    servers::{client, keys_by_master, server, server_with, within},
};

fn all(nodes: &Nodes) -> std::ops::Range<usize> {
    0..nodes.len()
}

#[test]
fn the_whole_cluster_is_gone_and_comes_back() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let nodes = exclusive(Setup::durable());
    let groups = keys_by_master(&nodes, 4);
    let servers = [(); 2].map(|()| server_with(&nodes, "gone:", |store| store.timeout(TIMEOUT)));
    let load = Load::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 50);
    for index in all(&nodes) {
        nodes.kill(index);
    }
    for group in 0..3 {
        load.await_failed(group);
    }
    // The servers answer, only not for the cluster.
    let stats = future::block_on(client(&servers[0]).stats()).unwrap();
    assert!(stats.active > 0);
    for index in all(&nodes) {
        nodes.restart(index);
    }
    load.await_applied(&[0, 1, 2], 50);
    let records = load.finish();
    let failed = records.iter().filter(|record| record.fate != Fate::Applied);
    let slowest = failed.map(|record| record.took()).max().unwrap();
    assert!(
        slowest < TIMEOUT + Duration::from_millis(1500),
        "{slowest:?}"
    );
    check_order(&records);
    for server in &servers {
        let tally = check(&records, &lists(server, &groups));
        eprintln!("all gone: {tally}");
        assert_eq!(tally.lost, 0, "{tally}");
    }
}

/// With a master missing, the others refuse as well, `CLUSTERDOWN`. Their calls wait. Then it is back,
/// and loads its data for a while, `LOADING`. No call but those that were sent to it fails.
#[test]
fn calls_wait_while_the_cluster_is_down_and_a_node_is_loading() {
    const VALUES: usize = 3000;
    // A node answers between its values while it loads.
    let setup = Setup::durable()
        .with("key-load-delay", "300")
        .with("loading-process-events-interval-bytes", "1024");
    let nodes = exclusive(setup);
    let groups = keys_by_master(&nodes, 4);
    let patient = || {
        server_with(&nodes, "down:", |store| {
            store.timeout(Duration::from_secs(20))
        })
    };
    let servers = [patient(), patient()];
    // Something to load.
    let loaded = &groups[0][0];
    let client = client(&servers[0]);
    let mut pipeline = client.pipeline();
    for number in 0..VALUES {
        pipeline = pipeline.put(loaded, number.to_string());
    }
    let answers = future::block_on(pipeline.send()).unwrap();
    assert!(answers.iter().all(Result::is_ok));

    let kept = vec![
        groups[0][1..].to_vec(),
        groups[1].clone(),
        groups[2].clone(),
    ];
    let load = Load::start(&servers, &kept);
    load.await_applied(&[0, 1, 2], 20);
    nodes.kill(0);
    wait_until("the cluster is down", || {
        nodes
            .ask(1, ["CLUSTER", "INFO"])
            .text()
            .contains("cluster_state:fail")
    });
    nodes.restart(0);
    load.await_applied(&[0, 1, 2], 20);
    let records = load.finish();
    check_order(&records);
    let tally = check(&records, &lists(&servers[1], &kept));
    eprintln!("down and loading: {tally}");
    assert_eq!((tally.lost, tally.refused), (0, 0), "{tally}");
    assert!(tally.unconfirmed <= 2, "{tally}");
    let values = future::block_on(client.get(loaded)).unwrap();
    assert_eq!(values.len(), VALUES);
}

/// A server that starts with one address of many that answers.
#[test]
fn one_address_that_answers_is_enough() {
    let _bound = within(30);
    let nodes = shared();
    // By its name, which may have an address on which nobody listens.
    let addresses = [
        "127.0.0.1:1".to_owned(),
        format!("localhost:{}", nodes.port(2)),
    ];
    let store = Cluster::builder().prefix("one:");
    let store = smol::block_on(store.connect(addresses)).unwrap();
    let server_of_one = TestServer::start(Server::builder().store(store).build());
    let other = server(nodes, "one:");
    let (one, other) = (client(&server_of_one), client(&other));
    future::block_on(async {
        for number in 0..100 {
            let key = format!("k{number}");
            one.put(&key, "v").await.unwrap();
            assert_eq!(other.get(&key).await.unwrap(), [b"v"]);
        }
    });
}

/// All nodes that were known are gone. Those that are there now are found by the names that the server began
/// with.
#[test]
fn nodes_at_other_addresses_are_found() {
    let (nodes, others) = (exclusive(Setup::default()), shared());
    let mut addresses = nodes.addresses();
    addresses.push(format!("localhost:{}", others.port(1)));
    let store = Cluster::builder()
        .prefix("elsewhere:")
        .timeout(Duration::from_secs(1));
    let store = smol::block_on(store.connect(addresses)).unwrap();
    let server = TestServer::start(Server::builder().store(store).build());
    let client = client(&server);
    let keys = keys_by_master(&nodes, 2).concat();
    let put = |key: &String| future::block_on(client.put(key, "v"));
    for key in &keys {
        put(key).unwrap();
    }
    for index in all(&nodes) {
        nodes.kill(index);
    }
    for key in &keys {
        wait_until("the others are found", || put(key).is_ok());
        let values = future::block_on(client.get(key)).unwrap();
        assert_eq!(values, [b"v"]);
    }
}

#[test]
fn no_address_that_answers_is_an_error() {
    let _bound = within(30);
    let store = Cluster::builder().timeout(Duration::from_secs(2));
    let error = smol::block_on(store.connect(["127.0.0.1:1"])).unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

/// The counters show what is missing, and that it is back.
#[test]
fn the_counters_show_a_node_that_is_gone() {
    let nodes = exclusive(Setup::durable());
    let groups = keys_by_master(&nodes, 1);
    let timeout = Duration::from_secs(1);
    let server = server_with(&nodes, "counters:", |store| store.timeout(timeout));
    let client = client(&server);
    let stats = || future::block_on(client.stats()).unwrap();
    let put = |group: usize| future::block_on(client.put(&groups[group][0], "v"));
    for group in 0..3 {
        put(group).unwrap();
    }
    assert_eq!((stats().nodes_up, stats().failures), (3, 0));
    // Each node was asked once, and nothing else was under way there.
    let answers = || server.handle.histograms().node_answer.unwrap();
    let timed = answers().count();
    assert!(timed >= 3, "{:?}", answers());
    nodes.kill(1);
    wait_until("a node is missed", || stats().nodes_up == 2);
    put(1).unwrap_err();
    assert_eq!(stats().failures, 1);
    nodes.restart(1);
    nodes.wait_ok();
    put(1).unwrap();
    assert_eq!((stats().nodes_up, stats().under_way), (3, 0));
    // An answer that did not come has no time.
    let slow = answers().quantile(1.0).unwrap();
    assert!(answers().count() > timed && slow < 4.0, "{:?}", answers());
}
