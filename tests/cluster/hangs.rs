//! Nodes that hang: they are stopped, keep their connections, and answer nothing.

use std::time::{Duration, Instant};

use crate::{
    common::{Client, wait_until},
    load::{Fate, Load, Record, check, check_order, lists, p99},
    nodes::{Setup, exclusive},
    servers::{keys_by_master, server_with},
};

/// What 99 of 100 calls to other nodes may take at the most while one hangs. They take a few
/// milliseconds; a machine of two cores with other work has a bad moment.
const UNAFFECTED: Duration = Duration::from_millis(100);

const TIMEOUT: Duration = Duration::from_secs(1);

/// How much later than its timeout a call may fail.
const LATE: Duration = Duration::from_millis(1500);

/// No replica takes over, and others do not miss the node within the test.
fn patient() -> Setup {
    Setup::durable().with("cluster-node-timeout", "30000")
}

#[test]
fn a_master_that_hangs_holds_up_only_its_own_keys() {
    let nodes = exclusive(patient());
    let groups = keys_by_master(&nodes, 4);
    let servers = [(); 2].map(|()| server_with(&nodes, "hang:", |store| store.timeout(TIMEOUT)));
    let load = Load::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 10);
    let began = Instant::now();
    load.await_applied(&[0, 1, 2], 200);

    let stopped = Instant::now();
    nodes.stop(1);
    // One call that was sent, and one that finds no connection.
    load.await_failed(1);
    load.await_failed(1);
    load.await_applied(&[0, 2], 200);
    let resumed = Instant::now();
    nodes.resume(1);
    load.await_applied(&[0, 1, 2], 100);

    let records = load.finish();
    let of = |group: usize| records.iter().filter(move |record| record.group == group);
    for group in [0, 2] {
        let failed = of(group).find(|record| record.fate != Fate::Applied);
        assert!(failed.is_none(), "{failed:?}");
        let before = p99(of(group), began, stopped);
        let during = p99(of(group), stopped, resumed);
        eprintln!("p99 of group {group}: {before:?}, and {during:?} while another node hangs");
        assert!(during < UNAFFECTED, "{during:?}");
    }
    let failed: Vec<&Record> = of(1)
        .filter(|record| record.fate != Fate::Applied)
        .collect();
    for record in &failed {
        let took = record.took();
        assert!(took >= TIMEOUT - Duration::from_millis(50), "{record:?}");
        assert!(took <= TIMEOUT + LATE, "{took:?}: {record:?}");
    }
    // A stopped node may apply late what it had been sent: those are unconfirmed, and no more.
    check_order(&records);
    let tally = check(&records, &lists(&servers[0], &groups));
    eprintln!("a node hangs: {tally}");
    assert_eq!(tally.lost, 0, "{tally}");
}

/// Batches that wait for a node that hangs: of a client that only writes and reads, and of one that watches
/// too. Those who watch keys of other nodes are told of their changes at once, and miss none.
#[test]
fn watchers_of_other_nodes_are_told_at_once_while_a_master_hangs() {
    /// A change takes a few milliseconds, or more on a busy machine. Less than what is waited for anything.
    const AT_ONCE: Duration = Duration::from_millis(700);
    const WRITES: usize = 30;
    let nodes = exclusive(patient());
    let groups = keys_by_master(&nodes, 1);
    let [well, hangs] = [0, 1].map(|group| groups[group][0].clone());
    let server = server_with(&nodes, "hangwatch:", |store| store.timeout(4 * TIMEOUT));
    let watching = |lines: &str| {
        let mut client = server.connect();
        client.send(lines);
        client.sync();
        client
    };
    let mut watcher = watching("WatchPrefix:\n");
    let mut reader = watching("WatchPrefix:\n");
    let [mut stuck, mut writer] = [(); 2].map(|()| server.connect());
    let next = |client: &mut Client| loop {
        let line = client.text();
        // The node that hangs has changes of its own when it goes on.
        if !line.contains(&hangs) {
            return line;
        }
    };

    nodes.stop(1);
    stuck.send(format!("Get:{well}\nPut:{hangs}:1\nGet:{well}\n"));
    reader.send(format!("Put:{well}:own\nGet:{well}\nGet:{hangs}\n"));
    let own = format!(":put:{well}:own");
    assert_eq!(next(&mut watcher), own);
    for number in 0..WRITES {
        let sent = Instant::now();
        writer.send(format!("Put:{well}:{number}\n"));
        assert_eq!(next(&mut watcher), format!(":put:{well}:{number}"));
        let took = sent.elapsed();
        assert!(took < AT_ONCE, "{took:?}");
        // For longer than anything is held.
        std::thread::sleep(Duration::from_millis(50));
    }
    // Its Gets are not answered, so it is told of no change that they do not show.
    nodes.resume(1);
    assert_eq!(next(&mut reader), own);
    assert_eq!(next(&mut reader), format!("{well}:own"));
    for number in 0..WRITES {
        assert_eq!(next(&mut reader), format!(":put:{well}:{number}"));
    }
}

/// A hang shorter than the timeout is a pause.
#[test]
fn a_short_hang_fails_no_call() {
    let nodes = exclusive(patient());
    let groups = keys_by_master(&nodes, 4);
    let servers = [(); 2].map(|()| server_with(&nodes, "pause:", |store| store));
    let load = Load::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 50);
    for index in 0..nodes.masters() {
        nodes.stop(index);
        let others: Vec<_> = (0..nodes.masters())
            .filter(|&other| other != index)
            .collect();
        load.await_applied(&others, 100);
        nodes.resume(index);
        load.await_applied(&[0, 1, 2], 20);
    }
    let records = load.finish();
    check_order(&records);
    let tally = check(&records, &lists(&servers[1], &groups));
    assert_eq!(
        (tally.lost, tally.refused, tally.unconfirmed),
        (0, 0, 0),
        "{tally}"
    );
}

/// A replica takes over from a master that hangs, which then comes back as a replica with writes that
/// nobody has seen.
#[test]
fn a_replica_takes_over_from_a_master_that_hangs() {
    let nodes = exclusive(Setup::default());
    let groups = keys_by_master(&nodes, 8);
    let servers = [(); 2].map(|()| {
        server_with(&nodes, "takeover:", |store| {
            store.replicas(1).timeout(TIMEOUT)
        })
    });
    let load = Load::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 50);
    let heir = nodes.replica_of(2);
    nodes.stop(2);
    wait_until("the replica takes over", || nodes.is_master(heir));
    load.await_applied(&[0, 1], 50);
    nodes.resume(2);
    load.await_applied(&[0, 1, 2], 100);
    nodes.wait_ok();
    let records = load.finish();
    for server in &servers {
        let tally = check(&records, &lists(server, &groups));
        eprintln!("a replica takes over: {tally}");
        assert_eq!(tally.lost, 0, "{tally}");
    }
}

/// Half of the nodes hang, with two of the three masters: those that are left are no majority, and the
/// cluster is down.
#[test]
fn half_of_the_nodes_hang_and_come_back() {
    let nodes = exclusive(Setup::default());
    let groups = keys_by_master(&nodes, 8);
    let servers =
        [(); 2].map(|()| server_with(&nodes, "half:", |store| store.replicas(1).timeout(TIMEOUT)));
    let load = Load::start(&servers, &groups);
    load.await_applied(&[0, 1, 2], 50);
    let half = [0, 1, nodes.replica_of(2)];
    for index in half {
        nodes.stop(index);
    }
    for group in 0..3 {
        load.await_failed(group);
    }
    wait_until("the rest of the cluster is down", || {
        nodes
            .ask(2, ["CLUSTER", "INFO"])
            .text()
            .contains("cluster_state:fail")
    });
    for group in 0..3 {
        load.await_failed(group);
    }
    for index in half {
        nodes.resume(index);
    }
    load.await_applied(&[0, 1, 2], 100);
    nodes.wait_ok();
    let records = load.finish();
    for server in &servers {
        let tally = check(&records, &lists(server, &groups));
        eprintln!("half of the nodes hang: {tally}");
        assert_eq!(tally.lost, 0, "{tally}");
    }
}
